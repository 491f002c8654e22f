//! kube-proxy's chains, with `--expand-kube`: a service for each service chain, with the backends of its endpoint chains.
//!
//! ```text
//! KUBE-SERVICES  -d VIP -p tcp --dport 80          ─▶ KUBE-SVC-x
//! KUBE-SVC-x     ! -s PODS …                       ─▶ KUBE-MARK-MASQ
//!                --probability 0.5 / nothing       ─▶ KUBE-SEP-a / KUBE-SEP-b
//! KUBE-SEP-a     -s 10.244.1.7                     ─▶ KUBE-MARK-MASQ
//!                -j DNAT --to-destination 10.244.1.7:8080
//! ```

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use super::super::emit::Table;
use super::super::host;
use super::conditions::Operand;
use super::rule::{Place, Refusal, Rule};
use super::source::endpoint;
use super::values::port;
use super::{Importer, save};

/// Where services are looked up, and the chains of the machinery behind them.
const SERVICES: &str = "KUBE-SERVICES";
const MARK: &str = "KUBE-MARK-MASQ";
const MASQUERADE: &str = "KUBE-POSTROUTING";

/// How far a probability may be from its fraction: kube-proxy writes ten digits.
const TOLERANCE: f64 = 1e-6;

/// What is known of all services of a table.
#[derive(Default)]
struct Known {
    /// What clients call them by.
    addresses: HashSet<IpAddr>,
    services: HashSet<(IpAddr, &'static str, u16)>,
}

/// What a service chain comes to.
struct Service {
    backends: Vec<SocketAddr>,
    /// Seconds a client comes back to its backend.
    affinity: Option<u64>,
    /// Sources that keep their address.
    pods: BTreeSet<String>,
    /// The chains it is made of.
    chains: Vec<String>,
}

impl Importer<'_> {
    /// Writes the services of a table; says which chains they are made of.
    pub(super) fn expand_kube(&mut self, table: &save::Table, v6: bool) -> HashSet<String> {
        let mut expanded = HashSet::new();
        let Some(services) = table.chain(SERVICES).filter(|_| self.options.expand_kube) else {
            return expanded;
        };
        let chains: HashMap<&str, &save::Chain> = (table.chains.iter())
            .map(|chain| (chain.name.as_str(), chain))
            .collect();
        let mut pods = BTreeSet::new();
        let mut known = Known::default();
        for statement in &services.rules {
            let rule = Rule::read(statement, v6, Place::Nat);
            if let Some(Operand::Net(net)) = &rule.when.dst.only {
                known.addresses.insert(net.addr());
            }
        }
        for statement in &services.rules {
            let rule = Rule::read(statement, v6, Place::Nat);
            let name = rule.target.name.clone();
            let done = match name.as_str() {
                MARK => {
                    // Older versions mark here.
                    pods.extend(left_out(&rule));
                    self.ok(rule.line, "source = \"auto\" of the services");
                    continue;
                }
                name if name.starts_with("KUBE-SVC-") => {
                    self.service(&rule, &chains, &mut known, v6)
                }
                name => Err((
                    "E-GENERATED",
                    format!(
                        "{name}: only kube-proxy's cluster addresses (KUBE-SVC-…) are expanded"
                    ),
                )),
            };
            match done {
                Ok(service) => {
                    pods.extend(service.pods);
                    expanded.extend(service.chains);
                }
                Err((code, why)) => self.reject(rule.line, code, why),
            }
        }
        if !expanded.is_empty() {
            let text = match pods.is_empty() {
                true => "kube-proxy's services get source = \"auto\"".to_owned(),
                false => {
                    let pods: Vec<String> = pods.into_iter().collect();
                    format!(
                        "kube-proxy masquerades clients outside of the pod network {}; source = \"auto\" does so only where client and backend lie behind the same interface",
                        pods.join(", ")
                    )
                }
            };
            self.warn(services.line, "", text);
        }
        expanded.insert(SERVICES.to_owned());
        for name in [MARK, MASQUERADE]
            .into_iter()
            .filter(|name| chains.contains_key(name))
        {
            expanded.insert(name.to_owned());
        }
        for name in &expanded {
            let of_services = name == SERVICES;
            let rules = chains
                .get(name.as_str())
                .into_iter()
                .flat_map(|chain| &chain.rules);
            for statement in rules.filter(|_| !of_services) {
                self.ok(statement.line, format!("{name}: part of the services"));
            }
        }
        expanded
    }

    /// The service that a rule of `KUBE-SERVICES` leads to.
    fn service(
        &mut self,
        rule: &Rule,
        chains: &HashMap<&str, &save::Chain>,
        known: &mut Known,
        v6: bool,
    ) -> Result<Service, Refusal> {
        let when = &rule.when;
        let unlike = || {
            (
                "E-GENERATED",
                "not as kube-proxy writes a service".to_owned(),
            )
        };
        let (Some(Operand::Net(net)), Some([(low, high)])) =
            (&when.dst.only, when.dport.as_deref())
        else {
            return Err(unlike());
        };
        let proto = match when.proto.only {
            Some(6) => "tcp",
            Some(17) => "udp",
            Some(132) => "sctp",
            _ => return Err(unlike()),
        };
        if net.prefix_len() != net.max_prefix_len() || low != high || !rule.refused.is_empty() {
            return Err(unlike());
        }
        let chain = chains.get(rule.target.name.as_str()).ok_or_else(unlike)?;
        let service = read_service(chain, chains, v6)?;
        let leads_on = |to: &SocketAddr| known.addresses.contains(&to.ip());
        let fresh = host(&net.addr().to_string()).is_some()
            && *low > 0
            && !service.backends.iter().any(leads_on)
            && known.services.insert((net.addr(), proto, *low));
        if !fresh {
            return Err(unlike());
        }
        let (address, count) = (net.addr(), service.backends.len());
        self.ok(
            rule.line,
            format!("service {address} port {low}/{proto}, {count} backends"),
        );
        let backends: Vec<String> = service
            .backends
            .iter()
            .map(|to| format!("{{ to = \"{to}\" }}"))
            .collect();
        let mut table = Table::new("[[service]]")
            .maybe("comment", rule.comment.as_deref())
            .text("address", &address.to_string())
            .text("proto", proto)
            .raw("port", &low.to_string())
            .text("source", "auto");
        if let Some(seconds) = service.affinity {
            table = table
                .text("affinity", "client")
                .text("affinity_timeout", &format!("{seconds}s"));
        }
        let origin = self.origin(rule.line);
        self.tables.push(
            table
                .raw("backends", &format!("[{}]", backends.join(", ")))
                .text("origin", &origin),
        );
        Ok(service)
    }
}

/// The sources a rule that marks leaves out.
fn left_out(rule: &Rule) -> Vec<String> {
    let nets = rule
        .when
        .src
        .not
        .iter()
        .filter_map(|operand| match operand {
            Operand::Net(net) => Some(net.to_string()),
            _ => None,
        });
    nets.collect()
}

fn read_service(
    chain: &save::Chain,
    chains: &HashMap<&str, &save::Chain>,
    v6: bool,
) -> Result<Service, Refusal> {
    let mut service = Service {
        backends: Vec::new(),
        affinity: None,
        pods: BTreeSet::new(),
        chains: vec![chain.name.clone()],
    };
    let mut lots = Vec::new();
    for statement in &chain.rules {
        let rule = Rule::read(statement, v6, Place::Filter);
        let name = rule.target.name.as_str();
        let remembers = statement.words.iter().position(|word| word == "--seconds");
        match (name, remembers) {
            (MARK, _) => service.pods.extend(left_out(&rule)),
            (_, Some(at)) if name.starts_with("KUBE-SEP-") => {
                let seconds = statement
                    .words
                    .get(at + 1)
                    .and_then(|text| text.parse().ok());
                service.affinity = seconds.filter(|seconds| *seconds > 0);
            }
            (_, None) if name.starts_with("KUBE-SEP-") => {
                lots.push(rule.lot);
                let endpoint = chains.get(name).copied();
                let backend = endpoint.and_then(|chain| backend(chain, v6));
                let known = backend.filter(|to| !service.backends.contains(to));
                let known = known.ok_or_else(|| {
                    let text = format!(
                        "line {}: {name} is not as kube-proxy writes an endpoint",
                        rule.line
                    );
                    ("E-GENERATED", text)
                })?;
                service.backends.push(known);
                service.chains.push(name.to_owned());
            }
            _ => {
                let text = format!("line {}: not as kube-proxy writes a service", rule.line);
                return Err(("E-GENERATED", text));
            }
        }
    }
    let count = lots.len();
    let fair = |at: usize, lot: &Option<f64>| {
        let share = 1.0 / (count - at) as f64;
        match lot {
            Some(lot) => (lot - share).abs() < TOLERANCE,
            None => at + 1 == count,
        }
    };
    if count == 0 || !lots.iter().enumerate().all(|(at, lot)| fair(at, lot)) {
        let text = format!("{}: the endpoints are not drawn alike", chain.name);
        return Err(("E-MATCH", text));
    }
    Ok(service)
}

/// The server of an endpoint chain.
fn backend(chain: &save::Chain, v6: bool) -> Option<SocketAddr> {
    let rules = chain.rules.iter().map(|s| Rule::read(s, v6, Place::Filter));
    let mut translating: Vec<Rule> = rules.filter(|rule| rule.target.name != MARK).collect();
    let rule = translating
        .pop()
        .filter(|rule| rule.target.name == "DNAT")?;
    let (first, last, ports) = endpoint(rule.target.to.as_deref()?, v6).ok()?;
    if !translating.is_empty() || first != last {
        return None;
    }
    let port = port(ports?).ok().filter(|port| *port > 0)?;
    let address = host(&first.to_string())?;
    Some(SocketAddr::new(address, port))
}
