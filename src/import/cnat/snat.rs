//! The tables that say what cnat's SNAT was told.

use super::super::emit::Table;
use super::Importer;
use super::policy::{Group, Kind, Source};

/// The name of the pool, and of the exemption.
const POOL: &str = "snat";
const EXEMPT: &str = "cnat";

/// One family's rule.
struct Rule {
    v6: bool,
    /// Where packets come in; `None`: anywhere.
    ingress: Option<Vec<String>>,
}

impl Importer<'_> {
    pub(super) fn rules(&mut self, tables: &mut Vec<Table>) {
        self.tell_groups();
        self.tell_features();
        if !self.policy.is_used() {
            return;
        }
        tables.extend(self.sets());
        let source = self.policy.source.clone();
        if let Some(source) = &source {
            let shown = source.addresses.join(", ");
            self.report
                .ok(&source.place, format!("pool {POOL:?} = {shown}"));
            tables.push(
                Table::new("[[pool]]")
                    .text("name", POOL)
                    .list("addresses", &source.addresses)
                    .text("origin", &format!("import:{}", source.place)),
            );
        }
        let rules = self.wanted(source.as_ref());
        self.prefixes(&rules, tables);
        self.mappings(source.as_ref(), tables);
        self.translate(source.as_ref(), &rules, tables);
    }

    /// The sets `pod` and `host`.
    fn sets(&mut self) -> Option<Table> {
        let mut table = Table::new("[sets]");
        let mut any = false;
        for (group, name) in [(Group::Pods, "pod"), (Group::Hosts, "host")] {
            let interfaces = self.policy.group(group);
            if !interfaces.is_empty() {
                table = table.list(name, &interfaces);
                any = true;
            }
        }
        any.then_some(table)
    }

    fn tell_groups(&mut self) {
        let kind = self.policy.kind();
        for (group, interface, place) in &self.policy.groups {
            let text = match group {
                Group::IncludedV4 => format!("source-nat in=[{interface:?}] (IPv4)"),
                Group::IncludedV6 => format!("source-nat in=[{interface:?}] (IPv6)"),
                Group::Pods => format!("set pod = [{interface:?}]"),
                Group::Hosts => format!("set host = [{interface:?}]"),
            };
            let is_set = matches!(group, Group::Pods | Group::Hosts);
            if is_set || kind.asks_interfaces() {
                self.report.ok(place, text);
            }
            if !kind.asks_interfaces() && !is_set || kind != Kind::Kubernetes && is_set {
                let text = format!("the policy {} does not ask this table", kind.name());
                self.report.note(place, "", text);
            }
        }
    }

    fn tell_features(&mut self) {
        let kind = self.policy.kind();
        let used = self.policy.is_used();
        for feature in &self.policy.features {
            let family = match (feature.v4, feature.v6) {
                (true, false) => " (IPv4)",
                (false, true) => " (IPv6)",
                _ => "",
            };
            let text = format!("scope in={}{family}", feature.interface);
            self.report.ok(&feature.place, text);
            if !used {
                let text = "services are asked on every interface here, and there is no SNAT";
                self.report.note(&feature.place, "", text);
            } else if feature.output && !kind.asks_interfaces() {
                let text = "VPP translates what leaves by an interface with this feature; here what comes in on one is translated";
                self.report.warn(&feature.place, "", text);
            }
        }
    }

    /// The rules of the families the source has an address of.
    fn wanted(&mut self, source: Option<&Source>) -> Vec<Rule> {
        let Some(source) = source else {
            return Vec::new();
        };
        let kind = self.policy.kind();
        let mut rules = Vec::new();
        for v6 in [false, true] {
            let on = self.policy.switched_on(v6);
            let included = self.policy.group(if v6 {
                Group::IncludedV6
            } else {
                Group::IncludedV4
            });
            let has_address = if v6 { source.v6 } else { source.v4 };
            let family = if v6 { "IPv6" } else { "IPv4" };
            if !has_address {
                let asked = if kind.asks_interfaces() {
                    !included.is_empty()
                } else {
                    !on.is_empty()
                };
                // Features are switched on for both families where only one is translated.
                if asked
                    && (kind.asks_interfaces()
                        || self
                            .policy
                            .features
                            .iter()
                            .any(|f| f.v4 != f.v6 && f.v6 == v6))
                {
                    let text = format!(
                        "has no address for {family}: VPP drops what it would translate, here it passes as it is"
                    );
                    self.report.warn(&source.place, "", text);
                }
                continue;
            }
            let ingress = match kind.asks_interfaces() {
                true => self.seen(included, &on),
                false if !on.is_empty() => Some(on),
                // The feature of the other family alone is switched on.
                false if !self.policy.features.is_empty() => Some(Vec::new()),
                false => self.options.inside().ok(),
            };
            rules.push(Rule { v6, ingress });
        }
        if self.policy.features.is_empty() && !kind.asks_interfaces() {
            let shown = match rules.first().and_then(|rule| rule.ingress.as_ref()) {
                Some(ingress) => format!("in={}", ingress.join(",")),
                None => "every interface".to_owned(),
            };
            let text = format!(
                "no interface has cnat's feature in this file, so that VPP would translate nothing; the rule is written for {shown}"
            );
            self.report.warn(&source.place, "", text);
        }
        rules
    }

    /// Included interfaces whose packets VPP's SNAT sees: where it is switched on for what leaves, all of them.
    fn seen(&mut self, included: Vec<String>, on: &[String]) -> Option<Vec<String>> {
        let features = &self.policy.features;
        if features.is_empty() || features.iter().any(|feature| feature.output) {
            return Some(included);
        }
        let (seen, unseen): (Vec<String>, Vec<String>) =
            included.into_iter().partition(|name| on.contains(name));
        for (group, name, place) in &self.policy.groups {
            let of = matches!(group, Group::IncludedV4 | Group::IncludedV6);
            if of && unseen.contains(name) {
                let text = format!(
                    "{name} has no cnat feature: VPP does not see its packets, and neither does the rule"
                );
                self.report.warn(place, "", text);
            }
        }
        Some(seen)
    }

    /// Excluded prefixes.
    fn prefixes(&mut self, rules: &[Rule], tables: &mut Vec<Table>) {
        let asks = self.policy.is_old || self.policy.kind() != Kind::All;
        let mut ingress: Vec<String> = Vec::new();
        let anywhere = rules.is_empty() || rules.iter().any(|rule| rule.ingress.is_none());
        for name in rules.iter().flat_map(|rule| rule.ingress.iter().flatten()) {
            if !ingress.contains(name) {
                ingress.push(name.clone());
            }
        }
        let scope = if anywhere { Vec::new() } else { ingress };
        let mut by_destination = Vec::new();
        let mut sources = Vec::new();
        for prefix in self
            .policy
            .prefixes
            .iter()
            .filter(|p| p.rewritten.is_none())
        {
            let net = prefix.net.to_string();
            let what = if prefix.by_source {
                "exempt sources "
            } else {
                "exempt "
            };
            match &prefix.written {
                Some(written) => {
                    let text = format!("{what}{net} (given {written})");
                    self.report.warn(&prefix.place, "W-HOSTBITS", text);
                }
                None => self.report.ok(&prefix.place, format!("{what}{net}")),
            }
            if !asks {
                let text = "the policy none does not ask prefixes, so that VPP translates this one, too; here it is left alone";
                self.report.warn(&prefix.place, "", text);
            }
            if prefix.by_source {
                let all = if prefix.net.addr().is_ipv4() {
                    "0.0.0.0/0"
                } else {
                    "::/0"
                };
                let origin = format!("import:{}", prefix.place);
                let table = Table::new("[[exempt]]").values("in", &scope);
                sources.push(
                    table
                        .text("src", &net)
                        .list("dst", &[all])
                        .text("origin", &origin),
                );
            } else {
                by_destination.push((net, prefix.place.clone()));
            }
        }
        if let Some((_, place)) = by_destination.first() {
            let nets: Vec<&str> = by_destination.iter().map(|(net, _)| net.as_str()).collect();
            tables.push(
                Table::new("[[exempt]]")
                    .text("name", EXEMPT)
                    .values("in", &scope)
                    .list("dst", &nets)
                    .text("origin", &format!("import:{place}")),
            );
        }
        tables.extend(sources);
    }

    /// Rewritten prefixes.
    fn mappings(&mut self, source: Option<&Source>, tables: &mut Vec<Table>) {
        let rewrites = matches!(self.policy.kind(), Kind::Rewritten { .. });
        let mappings = self.policy.mappings();
        let mut written: Vec<&super::policy::Mapping> = Vec::new();
        for mapping in &mappings {
            let place = &mapping.place;
            let pool = source.into_iter().flat_map(|source| &source.addresses);
            let in_pool = pool
                .filter_map(|text| text.parse::<std::net::IpAddr>().ok())
                .find(|address| mapping.external.contains(address));
            if let Some(address) = in_pool {
                let text = format!(
                    "{} holds {address}, the address of the pool",
                    mapping.external
                );
                self.report.reject(place, "E-MATCH", text);
                continue;
            }
            if let Some(other) = written.iter().find(|other| mapping.overlaps(other)) {
                let text = format!(
                    "overlaps the rewrite of {}: an address has one static partner here",
                    other.place
                );
                self.report.reject(place, "E-MATCH", text);
                continue;
            }
            written.push(mapping);
            let text = format!(
                "static-nat {} <-> {} direction={}",
                mapping.external, mapping.internal, mapping.direction
            );
            self.report.ok(place, text);
            if !rewrites {
                let text = "only the policies dnat and dnat-only rewrite prefixes in VPP; here it is rewritten";
                self.report.warn(place, "", text);
            }
            if mapping.external.addr().is_ipv6() && mapping.external.prefix_len() <= 64 {
                let text = "IPv6 prefixes are translated as RFC 6296 says: 16 bits behind the prefix differ from VPP's";
                self.report.warn(place, "", text);
            }
            tables.push(mapping.table());
        }
        // The other halves of mappings that became one.
        for prefix in self
            .policy
            .prefixes
            .iter()
            .filter(|p| p.rewritten.is_some())
        {
            if !mappings.iter().any(|mapping| mapping.place == prefix.place) {
                self.report
                    .ok(&prefix.place, "the other direction of the same static-nat");
            }
            if let Some(written) = &prefix.written {
                let text = format!("{} (given {written})", prefix.net);
                self.report.warn(&prefix.place, "W-HOSTBITS", text);
            }
        }
    }

    /// The rules that translate.
    fn translate(&mut self, source: Option<&Source>, rules: &[Rule], tables: &mut Vec<Table>) {
        let kind = self.policy.kind();
        let place = match (&self.policy.kind, source) {
            (Some((_, place)), _) => place.clone(),
            (None, Some(source)) => source.place.clone(),
            (None, None) => return,
        };
        let hosts = kind == Kind::Kubernetes && !self.policy.group(Group::Hosts).is_empty();
        if let Some((_, place)) = &self.policy.kind {
            let text = match kind {
                Kind::All => format!("source-nat via=pool:{POOL}"),
                Kind::Included => format!("source-nat via=pool:{POOL} from included interfaces"),
                Kind::Kubernetes => {
                    let out = if hosts { "; out=\"!@host\"" } else { "" };
                    format!(
                        "source-nat via=pool:{POOL}, k8s policy; service.source=\"auto\" for outside->outside{out}"
                    )
                }
                Kind::Rewritten { allocate: true } => {
                    format!("static-nat, and source-nat via=pool:{POOL} for what is rewritten")
                }
                Kind::Rewritten { allocate: false } => "static-nat alone".to_owned(),
            };
            self.report.ok(place, text);
            if kind == Kind::Kubernetes {
                let text = "VPP also gives its own source to what passes between two interfaces outside of k8s, where no service is called; here that passes as it is";
                self.report.warn(place, "", text);
            }
        }
        let allocates = kind != Kind::Rewritten { allocate: false };
        if source.is_none() && allocates {
            let text = "no address is given (set cnat snat-policy addr): VPP drops what it would translate; no source-nat is written";
            self.report.warn(&place, "", text);
        }
        let empty = |rule: &Rule| rule.ingress.as_ref().is_some_and(Vec::is_empty);
        if source.is_some() && allocates && rules.iter().all(empty) {
            let text = "no interface is included, so that nothing is translated";
            self.report.warn(&place, "", text);
        }
        let targets = self.policy.mappings();
        let alike = matches!(rules, [v4, v6] if v4.ingress == v6.ingress);
        for rule in rules.iter().filter(|rule| allocates && !empty(rule)) {
            if alike && rule.v6 && !matches!(kind, Kind::Rewritten { .. }) {
                continue;
            }
            let mut table = Table::new("[[source-nat]]");
            if let Some(ingress) = &rule.ingress {
                table = table.values("in", ingress);
            }
            if hosts {
                table = table.text("out", "!@host");
            }
            if !alike || matches!(kind, Kind::Rewritten { .. }) {
                table = table.text("src", if rule.v6 { "::/0" } else { "0.0.0.0/0" });
            }
            if matches!(kind, Kind::Rewritten { .. }) {
                let inward = targets
                    .iter()
                    .filter(|m| m.direction != "out" && m.internal.addr().is_ipv6() == rule.v6);
                let nets: Vec<String> = inward.map(|m| m.internal.to_string()).collect();
                if nets.is_empty() {
                    continue;
                }
                table = table.values("dst", &nets);
            }
            tables.push(
                table
                    .text("via", &format!("pool:{POOL}"))
                    .text("origin", &format!("import:{place}")),
            );
        }
    }
}
