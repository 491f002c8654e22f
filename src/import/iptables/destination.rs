//! nat/PREROUTING: port forwards; and NETMAP, which stands in both chains.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::super::emit::Table;
use super::conditions::{Conditions, Operand, Ports, port_text};
use super::flatten::Flat;
use super::rule::Refusal;
use super::source::{distance, endpoint};
use super::values::port;
use super::{Importer, everything};

/// Servers a range of addresses may name.
const MOST_SERVERS: u128 = 256;

/// The port forwards that were written.
#[derive(Default)]
pub(super) struct Forwards {
    list: Vec<Forward>,
    /// Those with one address, one protocol and one port; only the others can meet them and each other.
    narrow: HashMap<(IpNet, u8, u16), Vec<usize>>,
    wide: Vec<usize>,
}

/// A forward that was written.
struct Forward {
    line: usize,
    when: Conditions,
    /// Its first server, and the ports there.
    server: IpAddr,
    ports: Ports,
}

impl Forwards {
    /// What tells a forward from every other narrow one.
    fn key(when: &Conditions) -> Option<(IpNet, u8, u16)> {
        let (Some(Operand::Net(net)), Some(proto), Some([(low, high)])) =
            (&when.dst.only, when.proto.only, when.dport.as_deref())
        else {
            return None;
        };
        let host = net.prefix_len() == net.max_prefix_len();
        (host && low == high).then_some((*net, proto, *low))
    }

    /// The first one that some packet of `when` may meet.
    fn met(&self, when: &Conditions) -> Option<&Forward> {
        let meets = |at: &&usize| self.list.get(**at).is_some_and(|f| meets(&f.when, when));
        match Forwards::key(when) {
            Some(key) => {
                let same = self.narrow.get(&key).into_iter().flatten().find(meets);
                let wide = self.wide.iter().find(meets);
                same.into_iter()
                    .chain(wide)
                    .min()
                    .and_then(|at| self.list.get(*at))
            }
            None => self.list.iter().find(|f| self::meets(&f.when, when)),
        }
    }

    fn add(&mut self, forward: Forward) {
        let at = self.list.len();
        match Forwards::key(&forward.when) {
            Some(key) => self.narrow.entry(key).or_default().push(at),
            None => self.wide.push(at),
        }
        self.list.push(forward);
    }
}

impl Importer<'_> {
    pub(super) fn prerouting(&mut self, list: &[Flat<'_>]) {
        let mut forwards = Forwards::default();
        for flat in list {
            if let Err((code, why)) = self.forward(flat, &mut forwards) {
                self.reject(flat.rule.line, code, why);
            }
        }
        self.forwards = forwards;
    }

    /// Says which forwards the filter refuses: a rule of nat opens nothing (E17).
    pub(super) fn closed_forwards(&mut self) {
        let Some(filter) = self.filter.take() else {
            return;
        };
        let forwards = std::mem::take(&mut self.forwards);
        // Most rules of a long filter are about one host each.
        let (mut hosts, mut wide) = (HashMap::<IpAddr, Vec<usize>>::new(), Vec::new());
        for (at, verdict) in filter.verdicts.iter().enumerate() {
            match &verdict.when.dst.only {
                Some(Operand::Net(net)) if net.prefix_len() == net.max_prefix_len() => {
                    hosts.entry(net.addr()).or_default().push(at);
                }
                _ if verdict.accepts || verdict.when.src.only.is_none() => wide.push(at),
                // It refuses some clients alone.
                _ => {}
            }
        }
        for forward in &forwards.list {
            let decides = |at: &&usize| {
                let verdict = filter.verdicts.get(**at);
                verdict.is_some_and(|v| forward.comes_to(&v.when, v.accepts))
            };
            let of_host = hosts
                .get(&forward.server)
                .into_iter()
                .flatten()
                .find(decides);
            let first = of_host.into_iter().chain(wide.iter().find(decides)).min();
            let first = first.and_then(|at| filter.verdicts.get(*at));
            let (open, target, line) = match first {
                Some(verdict) => (verdict.accepts, verdict.target.as_str(), verdict.line),
                None => (filter.default_accepts, "policy", filter.line),
            };
            if !open {
                let text = format!(
                    "no filter accept precedes the {target} at :{line} for this forward; it will be refused, as on Linux. Add allow=true to open it."
                );
                self.warn(forward.line, "", text);
            }
        }
    }

    fn forward(&mut self, flat: &Flat<'_>, before: &mut Forwards) -> Result<(), Refusal> {
        let (rule, when) = (flat.rule, &flat.when);
        if !when.egress.values().is_empty() {
            return Err(("E-SYNTAX", "-o is not possible in PREROUTING".to_owned()));
        }
        let to = match rule.target.name.as_str() {
            _ if flat.keeps() => return Err(("E-MATCH", "an exclusion from port forwards has no equivalent: forwards behind it take its packets, too".to_owned())),
            "DNAT" => rule.target.to.as_deref().ok_or(("E-SYNTAX", "DNAT needs --to-destination".to_owned()))?,
            "NETMAP" => return self.static_nat(flat, true),
            "REDIRECT" => {
                for part in rule.target.to.iter().flat_map(|text| text.split('-')) {
                    port(part)?;
                }
                return Err(("E-LOCAL", "REDIRECT leads to a program on the gateway itself (forward to a proxy host)".to_owned()));
            }
            name => return Err(self.no_target(name)),
        };
        if rule.either.is_some() || when.sport.is_some() {
            return Err((
                "E-MATCH",
                "a port forward asks for destination ports only".to_owned(),
            ));
        }
        if !when.dst.not.is_empty() {
            return Err((
                "E-MATCH",
                "a port forward names the addresses it answers for, not others".to_owned(),
            ));
        }
        let (server, ports, targets) = targets(to, &when.dport, self.v6)?;
        if let Some(earlier) = before.met(when) {
            let line = earlier.line;
            if !covers(&earlier.when, when) {
                let text = format!(
                    "takes in part what the forward of line {line} takes: write them apart"
                );
                return Err(("E-MATCH", text));
            }
            self.warn(rule.line, "W-SHADOWED", format!("can never match: the forward of line {line} takes everything it asks for; left out"));
            return Ok(());
        }
        if when.ingress.values().is_empty() {
            self.warn(
                rule.line,
                "",
                "without -i the forward applies to every interface",
            );
        }
        self.ok(
            rule.line,
            format!(
                "port-forward{} to={}",
                self.describe(when),
                targets.join(",")
            ),
        );
        let mut table = Table::new("[[port-forward]]").maybe("comment", rule.comment.as_deref());
        let mut conditions = when.clone();
        let anywhere = conditions.dst.only.is_none();
        if anywhere {
            // As on Linux: whatever address the packet was for.
            conditions.dst.only = Some(Operand::Net(everything(self.v6)));
        }
        let any_proto = conditions.proto.values().is_empty();
        table = self.conditions(table, &conditions);
        if any_proto {
            table = table.text("proto", "any");
        }
        let origin = self.origin(rule.line);
        let table = table
            .values("to", &targets)
            .raw("allow", "false")
            .raw("hairpin", "false");
        self.tables.push(table.text("origin", &origin));
        let ports = ports.or_else(|| when.dport.clone());
        self.helper(rule.line, when.proto.only, &ports);
        before.add(Forward {
            line: rule.line,
            when: when.clone(),
            server,
            ports,
        });
        Ok(())
    }

    /// Protocols whose further connections the gateway would have to read out of them.
    fn helper(&mut self, line: usize, proto: Option<u8>, ports: &Ports) {
        let known = [
            (
                6,
                21,
                "ftp",
                "the helper \"ftp\" is on unless helpers of the [[interface]] says otherwise",
            ),
            (
                17,
                69,
                "tftp",
                "none is active (write it into helpers of the [[interface]])",
            ),
            (
                17,
                5060,
                "sip",
                "none is active (write it into helpers of the [[interface]])",
            ),
            (6, 5060, "sip", "none is active"),
        ];
        let to = |port: u16| {
            ports
                .iter()
                .flatten()
                .any(|(low, high)| (*low, *high) == (port, port))
        };
        let found = known
            .iter()
            .find(|(p, port, ..)| proto == Some(*p) && to(*port));
        if let Some((_, _, name, helper)) = found {
            let place = self.place(line);
            let text = format!("{name} data connections need an ALG, {helper}");
            self.report.note(&place, "", text);
        }
    }

    /// NETMAP: a network for another of the same size, hosts keep their numbers.
    pub(super) fn static_nat(&mut self, flat: &Flat<'_>, inbound: bool) -> Result<(), Refusal> {
        let rule = flat.rule;
        let text = rule
            .target
            .to
            .as_deref()
            .ok_or(("E-SYNTAX", "NETMAP needs --to".to_owned()))?;
        let to: IpNet = match text.contains('/') {
            true => text.parse().ok(),
            false => text.parse::<IpAddr>().ok().map(IpNet::from),
        }
        .filter(|net: &IpNet| net.addr().is_ipv6() == self.v6)
        .ok_or_else(|| ("E-SYNTAX", format!("{text:?} is no network")))?;
        let mut rest = flat.when.clone();
        let (side, interface) = match inbound {
            true => (rest.dst.only.take(), rest.ingress.only.take()),
            false => (rest.src.only.take(), rest.egress.only.take()),
        };
        let Some(Operand::Net(from)) = side else {
            return Err(("E-MATCH", "NETMAP without the network it maps".to_owned()));
        };
        if !rest.is_any()
            || rule.either.is_some()
            || from.prefix_len() != to.prefix_len()
            || interface.as_ref().is_some_and(|i| i.ends_with('*'))
        {
            return Err(("E-MATCH", "NETMAP with conditions beside its network and interface, or between networks of different size".to_owned()));
        }
        let (external, internal) = if inbound {
            (from, to.trunc())
        } else {
            (to.trunc(), from)
        };
        let interface = interface.map(|name| self.interface(&name));
        let key = (external, internal, interface);
        let (line, direction) = (rule.line, if inbound { "in" } else { "out" });
        let known = self.netmaps.iter().position(|n| n.key == key);
        let clash = self.netmaps.iter().find(|n| {
            let meet = |a: IpNet, b: IpNet| a.contains(&b) || b.contains(&a);
            n.key != key && (meet(n.key.0, external) || meet(n.key.1, internal))
        });
        if let Some(other) = clash {
            let text = format!(
                "maps in part what line {} maps: write them apart",
                other.line
            );
            return Err(("E-MATCH", text));
        }
        match known {
            Some(at) => {
                let other = &mut self.netmaps[at];
                if other.direction != direction {
                    other.direction = "both";
                }
                let with = other.line;
                self.ok(
                    line,
                    format!("static-nat {external} <-> {internal}, with line {with}"),
                );
            }
            None => {
                self.ok(line, format!("static-nat {external} <-> {internal}"));
                self.netmaps.push(super::Netmap {
                    key,
                    direction,
                    line,
                });
            }
        }
        if self.v6 && to.prefix_len() <= 64 {
            self.warn(line, "", "IPv6 prefixes correspond as RFC 6296 says: 16 bits behind the prefix differ from Linux's NETMAP");
        }
        if !self.tables.is_empty() {
            self.warn(line, "", "static-nat is asked before all other translation rules, also those that stand before it here");
        }
        Ok(())
    }
}

/// The servers of `--to-destination`: the first, the ports they get if those change, and all as natgate writes them.
fn targets(to: &str, dport: &Ports, v6: bool) -> Result<(IpAddr, Ports, Vec<String>), Refusal> {
    if to.starts_with(':') && !to.starts_with("::") {
        return Err((
            "E-MATCH",
            format!(
                "{to}: changes the port and keeps the address, which a forward to a server does not"
            ),
        ));
    }
    let (first, last, ports) = endpoint(to, v6)?;
    let count = distance(first, last).saturating_add(1);
    if count > MOST_SERVERS {
        return Err(("E-MATCH", format!("{to}: more than {MOST_SERVERS} servers")));
    }
    let ports = ports
        .map(|text| shifted(text, dport))
        .transpose()?
        .flatten();
    let servers = std::iter::successors(Some(first), |server| next(*server)).take(count as usize);
    let text = ports.map(|range| port_text(&[range]));
    let all = servers.map(|server| match (&text, server) {
        (Some(ports), IpAddr::V4(_)) => format!("{server}:{ports}"),
        (Some(ports), IpAddr::V6(_)) => format!("[{server}]:{ports}"),
        (None, _) => server.to_string(),
    });
    Ok((first, ports.map(|range| vec![range]), all.collect()))
}

/// The address behind this one.
fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => u32::from(v4).checked_add(1).map(|n| IpAddr::V4(n.into())),
        IpAddr::V6(v6) => u128::from(v6).checked_add(1).map(|n| IpAddr::V6(n.into())),
    }
}

/// `P`, `P-Q` or `P-Q/BASE` as the ports of a target; `None` where they stay what they are.
fn shifted(text: &str, dport: &Ports) -> Result<Option<(u16, u16)>, Refusal> {
    let (range, base) = match text.split_once('/') {
        Some((range, base)) => (range, Some(port(base)?)),
        None => (text, None),
    };
    // A service's name may have a dash of its own.
    let single = port(range).is_ok();
    let (low, high) = match range.split_once('-') {
        Some(both) if !single => both,
        _ => (range, range),
    };
    let (low, high) = (port(low)?, port(high)?);
    if low > high || base == Some(0) || low == 0 {
        return Err(("E-PORTS", format!("{text} is no range of ports")));
    }
    let Some([(from, until)]) = dport.as_deref() else {
        return Err((
            "E-MATCH",
            format!("{text}: several ranges, or no port at all, become one"),
        ));
    };
    if (low, high) == (*from, *until) && base.is_none_or(|base| base == low) {
        return Ok(None);
    }
    let same = until - from == high - low;
    let shifts = base == Some(*from) || low == high && base.is_none();
    match same && shifts {
        true => Ok(Some((low, high))),
        false => Err((
            "E-MATCH",
            format!(
                "{text}: ports {from}-{until} do not become these one by one (without a base they are drawn)"
            ),
        )),
    }
}

impl Forward {
    /// Whether its clients' first packets, once translated, may satisfy a rule of the filter; of one that refuses,
    /// whether those of all clients do.
    fn comes_to(&self, rule: &Conditions, accepts: bool) -> bool {
        let server = IpNet::from(self.server);
        let names = |operand: &Operand| match operand {
            Operand::Net(net) => net.contains(&server),
            Operand::Range(_) => true,
            // The sets of the importer are no servers.
            Operand::Set(_) => false,
        };
        let there = rule.dst.only.as_ref().is_none_or(names)
            && !rule
                .dst
                .not
                .iter()
                .any(|o| matches!(o, Operand::Net(net) if net.contains(&server)));
        let proto = match (self.when.proto.only, &rule.proto) {
            (Some(ours), theirs) => {
                theirs.only.is_none_or(|p| p == ours) && !theirs.not.contains(&ours)
            }
            (None, _) => true,
        };
        let ports = match (&self.ports, &rule.dport) {
            (Some(ours), Some(theirs)) => ours.iter().any(|(low, high)| {
                theirs
                    .iter()
                    .any(|(from, until)| low <= until && from <= high)
            }),
            _ => true,
        };
        let fresh = rule.state.allows("new") && rule.sport.is_none();
        let all = accepts
            || rule.src.not.is_empty() && (rule.src.only.is_none() || rule.src == self.when.src);
        // The way in and the sender are those of the forward; the way out is not known.
        let from = |c: &Conditions| Conditions {
            src: c.src.clone(),
            ingress: c.ingress.clone(),
            ..Conditions::default()
        };
        there
            && all
            && proto
            && ports
            && fresh
            && from(&self.when).and(&from(rule)) != Err(super::conditions::Clash::Never)
    }
}

/// Whether some packet may satisfy both.
fn meets(a: &Conditions, b: &Conditions) -> bool {
    // For clients apart by source the order decides, as on Linux.
    a.src == b.src && a.and(b) != Err(super::conditions::Clash::Never)
}

/// Whether everything that satisfies `b` satisfies `a`.
fn covers(a: &Conditions, b: &Conditions) -> bool {
    a.and(b).as_ref() == Ok(b)
}
