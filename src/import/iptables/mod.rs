//! `iptables-save` and `ip6tables-save`: source NAT, masquerade, port forwards, NETMAP, the filter and MSS clamping.
//!
//! ```text
//! text ──save──> tables, chains, statements ──rule──> conditions, target ──flatten──> one list ──> natgate's tables
//! ```

mod clamp;
mod conditions;
mod destination;
mod filter;
mod flatten;
mod kube;
mod lots;
mod matches;
mod options;
mod rule;
mod save;
mod source;
mod values;

use std::collections::{BTreeSet, HashMap, HashSet};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::emit::Table;
use super::{Input, Level, Options, Report};
use conditions::{Conditions, Operand, port_text};
use flatten::flatten;
use rule::{Place, Rule};
use save::{Save, unknown};

/// Chains of other programs.
const GENERATED: &[&str] = &[
    "KUBE-",
    "CILIUM",
    "OLD_CILIUM",
    "cali-",
    "DOCKER",
    "LIBVIRT_",
];

/// Targets without an equivalent.
const NO_EQUIVALENT: &[&str] = &[
    "LOG",
    "NFLOG",
    "ULOG",
    "TEE",
    "NFQUEUE",
    "MARK",
    "CONNMARK",
    "CT",
    "NOTRACK",
    "TPROXY",
    "CLUSTERIP",
    "SET",
    "CLASSIFY",
    "DSCP",
    "TOS",
    "TTL",
    "HL",
    "SAME",
    "MIRROR",
    "QUEUE",
    "CHECKSUM",
    "AUDIT",
    "SECMARK",
];

/// Targets that are understood.
const TARGETS: &[&str] = &[
    "MASQUERADE",
    "SNAT",
    "DNAT",
    "REDIRECT",
    "NETMAP",
    "ACCEPT",
    "RETURN",
    "DROP",
    "REJECT",
    "TCPMSS",
];

struct Netmap {
    key: (IpNet, IpNet, Option<String>),
    direction: &'static str,
    line: usize,
}

struct Importer<'a> {
    file: &'a str,
    /// Of ip6tables.
    v6: bool,
    options: &'a Options,
    report: &'a mut Report,
    tables: Vec<Table>,
    netmaps: Vec<Netmap>,
    /// Port forwards that were written, and the filter that stands before them.
    forwards: destination::Forwards,
    filter: Option<filter::Written>,
    /// Interfaces that are used, as they are called here.
    interfaces: BTreeSet<String>,
    /// Chains of another program that became services.
    expanded: HashSet<String>,
}

/// Imports files; `v6`: of ip6tables.
pub(super) fn import(
    inputs: &[Input],
    v6: bool,
    options: &Options,
    report: &mut Report,
) -> Vec<Table> {
    let mut tables = Vec::new();
    for input in inputs {
        let before = report.lines.len();
        let save = save::read(&input.name, &input.text, report);
        if report.invalid {
            continue;
        }
        let mut importer = Importer {
            file: &input.name,
            v6,
            options,
            report,
            tables: Vec::new(),
            netmaps: Vec::new(),
            forwards: destination::Forwards::default(),
            filter: None,
            interfaces: BTreeSet::new(),
            expanded: HashSet::new(),
        };
        importer.all(&save, v6);
        tables.append(&mut importer.tables);
        report.sort_from(before, &input.name);
    }
    tables
}

impl Importer<'_> {
    fn place(&self, line: usize) -> String {
        format!("{}:{line}", self.file)
    }

    fn origin(&self, line: usize) -> String {
        format!("import:{}:{line}", self.file)
    }

    fn ok(&mut self, line: usize, text: impl Into<String>) {
        let place = self.place(line);
        self.report.ok(&place, text);
    }

    fn warn(&mut self, line: usize, code: &'static str, text: impl Into<String>) {
        let place = self.place(line);
        self.report.warn(&place, code, text);
    }

    fn reject(&mut self, line: usize, code: &'static str, text: impl Into<String>) {
        let place = self.place(line);
        self.report.reject(&place, code, text);
    }

    fn all(&mut self, save: &Save, v6: bool) {
        for table in &save.tables {
            match table.name.as_str() {
                "nat" => self.nat(table, v6),
                "mangle" => self.mangle(table, v6),
                "filter" => self.filter(table, v6),
                name => {
                    self.refuse_table(table, v6, &format!("the table {name} has no equivalent"))
                }
            }
        }
        self.closed_forwards();
        if save.counted {
            self.report
                .note("", "W-COUNTERS", "counters not carried over");
        }
        let base = self.options.base.as_ref();
        let unknown = |name: &&String| {
            base.is_none_or(|base| base.interface(name.trim_end_matches('*')).is_none())
        };
        let missing: Vec<&str> = self
            .interfaces
            .iter()
            .filter(unknown)
            .map(String::as_str)
            .collect();
        if !missing.is_empty() {
            self.report.note(
                "",
                "W-IFMAP",
                format!("{} must exist as [[interface]]", missing.join(", ")),
            );
        }
    }

    /// Says what was found about a rule while it was read.
    fn tell(&mut self, rule: &Rule) {
        let place = self.place(rule.line);
        for (level, code, text) in &rule.remarks {
            match level {
                Level::Warn => self.report.warn(&place, code, text.clone()),
                _ => self.report.note(&place, code, text.clone()),
            }
        }
        for (code, why) in &rule.refused {
            self.report.reject(&place, code, why.clone());
        }
        if rule.never && rule.refused.is_empty() {
            self.report
                .warn(&place, "W-SHADOWED", "can never match; left out");
        }
    }

    fn nat(&mut self, table: &save::Table, v6: bool) {
        self.expanded = self.expand_kube(table, v6);
        let chains = self.read_chains(table, v6, Place::Nat);
        self.expanded.clear();
        for chain in &table.chains {
            if chain
                .policy
                .as_deref()
                .is_some_and(|policy| policy != "ACCEPT")
            {
                self.reject(
                    chain.line,
                    "E-TARGET",
                    format!("the policy of {} in nat can only be ACCEPT", chain.name),
                );
            }
        }
        for chain in &table.chains {
            let local = matches!(chain.name.as_str(), "OUTPUT" | "INPUT");
            for rule in chains.get(&chain.name).into_iter().flatten() {
                self.tell(rule);
                if local {
                    self.reject(
                        rule.line,
                        "E-LOCAL",
                        format!(
                            "nat/{} translates packets made by the gateway itself, or for it",
                            chain.name
                        ),
                    );
                }
            }
        }
        let mut met = HashSet::new();
        let list = flatten(self.file, &chains, "PREROUTING", &mut met, self.report);
        self.prerouting(&list);
        self.widened(&chains);
        let list = flatten(self.file, &chains, "POSTROUTING", &mut met, self.report);
        self.postrouting(&list);
        let local = |importer: &mut Self, line| {
            let why = "only packets made by the gateway itself, or for it, come to this chain";
            importer.reject(line, "E-LOCAL", why);
        };
        self.unreached(&chains, &met, local);
        for netmap in std::mem::take(&mut self.netmaps) {
            let (external, internal, interface) = &netmap.key;
            let mut map = Table::new("[[static-nat]]")
                .text("external", &external.to_string())
                .text("internal", &internal.to_string());
            map = map.maybe("interface", interface.as_deref());
            if netmap.direction != "both" {
                map = map.text("direction", netmap.direction);
            }
            let origin = self.origin(netmap.line);
            self.tables.push(map.text("origin", &origin));
        }
    }

    /// An exclusion that is rejected lets rules behind it take its packets: says which.
    fn widened(&mut self, chains: &HashMap<String, Vec<Rule>>) {
        let Some(rules) = chains.get("POSTROUTING") else {
            return;
        };
        // The next rules behind the one that is looked at, nearest last.
        let mut behind: Vec<usize> = Vec::new();
        let mut widened = Vec::new();
        for rule in rules.iter().rev() {
            let excludes = matches!(rule.target.name.as_str(), "ACCEPT" | "RETURN");
            if rule.refused.is_empty() {
                behind.push(rule.line);
            } else if excludes && !behind.is_empty() {
                let named: Vec<String> = behind
                    .iter()
                    .rev()
                    .take(8)
                    .map(|l| format!(":{l}"))
                    .collect();
                let text = format!(
                    "dropping this exclusion widens {}: they translate what it left alone",
                    named.join(", ")
                );
                widened.push((rule.line, text));
            }
        }
        for (line, text) in widened.into_iter().rev() {
            self.warn(line, "", text);
        }
    }

    /// Rules that no forwarded packet comes to; those behind INPUT or OUTPUT are for `elsewhere`.
    fn unreached(
        &mut self,
        chains: &HashMap<String, Vec<Rule>>,
        met: &HashSet<usize>,
        elsewhere: impl Fn(&mut Self, usize),
    ) {
        let local = ["INPUT", "OUTPUT"];
        let mut behind: HashSet<&str> = HashSet::from(local);
        let mut next = local.to_vec();
        while let Some(name) = next.pop() {
            for rule in chains.get(name).into_iter().flatten() {
                if let Some((target, _)) = chains.get_key_value(&rule.target.name)
                    && behind.insert(target)
                {
                    next.push(target);
                }
            }
        }
        for (name, rules) in chains {
            let left = |r: &&Rule| r.refused.is_empty() && !r.never && !met.contains(&r.line);
            for rule in rules.iter().filter(left) {
                match (
                    local.contains(&name.as_str()),
                    behind.contains(name.as_str()),
                ) {
                    // What stands in the built-in chain itself was dealt with rule by rule.
                    (true, _) => {}
                    (false, true) => elsewhere(self, rule.line),
                    (false, false) => {
                        let place = self.place(rule.line);
                        let text = format!("no rule in use leads to the chain {name}");
                        self.report.note(&place, "", text);
                    }
                }
            }
        }
    }

    /// The rules of a table by chain. Chains of other programs, and rules that lead there, are rejected.
    fn read_chains(
        &mut self,
        table: &save::Table,
        v6: bool,
        place: Place,
    ) -> HashMap<String, Vec<Rule>> {
        let generated = |name: &str| GENERATED.iter().any(|start| name.starts_with(start));
        let mut chains = read_rules(table, v6, place, |name| !generated(name));
        let left =
            |chain: &&save::Chain| generated(&chain.name) && !self.expanded.contains(&chain.name);
        let left: Vec<&save::Chain> = table.chains.iter().filter(left).collect();
        for chain in left {
            for rule in &chain.rules {
                let text = format!("the chain {} is written by another program", chain.name);
                self.reject(rule.line, "E-GENERATED", text);
            }
        }
        for list in chains.values_mut() {
            let leads = |rule: &Rule| self.expanded.contains(&rule.target.name);
            let lines: Vec<usize> = list.iter().filter(|r| leads(r)).map(|r| r.line).collect();
            list.retain(|rule| !leads(rule));
            for line in lines {
                self.ok(line, "leads to what became services");
            }
        }
        for rule in chains.values_mut().flatten() {
            if generated(&rule.target.name) {
                let text = format!(
                    "leads to the chain {}, which another program writes",
                    rule.target.name
                );
                rule.refused.push(("E-GENERATED", text));
            }
        }
        chains
    }

    fn refuse_table(&mut self, table: &save::Table, v6: bool, why: &str) {
        let chains = read_rules(table, v6, Place::Filter, |_| true);
        for rule in table
            .chains
            .iter()
            .flat_map(|chain| chains.get(&chain.name))
            .flatten()
        {
            self.tell(rule);
            self.reject(rule.line, "E-TABLE", why);
        }
    }

    /// A target that is none here.
    fn no_target(&self, name: &str) -> (&'static str, String) {
        match NO_EQUIVALENT.contains(&name) || TARGETS.contains(&name) {
            true => (
                "E-TARGET",
                format!("-j {name} has no equivalent in this chain"),
            ),
            false => (
                "E-UNKNOWN",
                unknown("chain or target", name, TARGETS.iter().copied()),
            ),
        }
    }

    /// An interface as it is called here, wildcard included.
    fn interface(&mut self, name: &str) -> String {
        let (here, _) = self.options.interface(name);
        self.interfaces.insert(here.clone());
        here
    }

    /// A value of `in` or `out`.
    fn patterns(&mut self, values: Vec<String>) -> Vec<String> {
        let here = |value: String| match value.strip_prefix('!') {
            Some(name) => format!("!{}", self.interface(name)),
            None => self.interface(&value),
        };
        values.into_iter().map(here).collect()
    }

    /// Writes conditions into a table.
    fn conditions(&mut self, table: Table, when: &Conditions) -> Table {
        let ingress = self.patterns(when.ingress.values());
        let egress = self.patterns(when.egress.values());
        table
            .values("in", &ingress)
            .values("out", &egress)
            .values("src", &when.src.values())
            .values("dst", &when.dst.values())
            .values("proto", &when.proto.values())
            .maybe("sport", when.sport.as_deref().map(port_text).as_deref())
            .maybe("dport", when.dport.as_deref().map(port_text).as_deref())
            .values("orig_dst", &when.orig_dst.values())
            .maybe(
                "orig_dport",
                when.orig_dport.as_deref().map(port_text).as_deref(),
            )
            .values("icmp_type", &when.icmp.values())
            .values("state", &when.state.values())
    }

    /// A rule of one family's tables, without addresses, holds for that family alone: here it has to say so, where the
    /// gateway has both.
    fn of_family(&self, mut when: Conditions, v6: bool) -> Conditions {
        let base = self.options.base.as_ref();
        let both = v6 || base.is_some_and(|base| base.has_ipv6());
        if both && when.src.only.is_none() && when.dst.only.is_none() {
            when.src.only = Some(Operand::Net(everything(v6)));
        }
        when
    }

    /// Conditions for the report.
    fn describe(&self, when: &Conditions) -> String {
        let mut text = String::new();
        let here = |values: Vec<String>| {
            let one = |value: &String| match value.strip_prefix('!') {
                Some(name) => format!("!{}", self.options.interface(name).0),
                None => self.options.interface(value).0,
            };
            values.iter().map(one).collect::<Vec<_>>()
        };
        let ports = |ports: &conditions::Ports| {
            ports
                .as_deref()
                .map(port_text)
                .into_iter()
                .collect::<Vec<_>>()
        };
        for (key, values) in [
            ("in", here(when.ingress.values())),
            ("out", here(when.egress.values())),
            ("src", when.src.values()),
            ("dst", when.dst.values()),
            ("proto", when.proto.values()),
            ("sport", ports(&when.sport)),
            ("dport", ports(&when.dport)),
            ("orig_dst", when.orig_dst.values()),
            ("orig_dport", ports(&when.orig_dport)),
            ("icmp_type", when.icmp.values()),
            ("state", when.state.values()),
        ] {
            if !values.is_empty() {
                text.push_str(&format!(" {key}={}", values.join(",")));
            }
        }
        text
    }
}

/// All addresses of a family.
fn everything(v6: bool) -> IpNet {
    match v6 {
        true => IpNet::V6(Ipv6Net::default()),
        false => IpNet::V4(Ipv4Net::default()),
    }
}

/// The rules of some chains.
fn read_rules(
    table: &save::Table,
    v6: bool,
    place: Place,
    of: impl Fn(&str) -> bool,
) -> HashMap<String, Vec<Rule>> {
    let chains = table.chains.iter().filter(|chain| of(&chain.name));
    let read = |chain: &save::Chain| {
        let rules = chain
            .rules
            .iter()
            .map(|statement| Rule::read(statement, v6, place));
        (chain.name.clone(), rules.collect())
    };
    chains.map(read).collect()
}
