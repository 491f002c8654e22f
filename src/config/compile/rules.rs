//! Translation rules, in order, with their counters; and where subscribers are.

use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};

use super::pools::select;
use super::sets::{port_ranges, port_set, protocols, v4_net};
use super::{Compiler, error_at};
use crate::base::{InterfaceId, RuleId};
use crate::config::validated::{self, AddressList, ForwardSource, PrefixSet, Validated};
use crate::gateway::lpm::Lpm;
use crate::nat::destination::Inside;
use crate::nat::matcher::RangeSet;
use crate::nat::policy::RuleInfo;
use crate::nat::rules::{
    Conditions, Exempt, Exemption, ForwardTarget, PortForward, SourceRule, StaticRule, Via,
};
use crate::wire::ICMP;

/// Counted rules there can be; see [`crate::dataplane::accounts::MAX_RULES`].
pub(super) const MAX_RULES: usize = crate::dataplane::accounts::MAX_RULES;

impl Compiler<'_> {
    /// The number of a counted rule: the one it had under the previous policy, or one not used before.
    fn rule(&mut self, kind: &'static str, label: &validated::Label, text: String) -> RuleId {
        let before = self.previous.map_or(&[][..], |p| &p.rules);
        let known = before
            .iter()
            .find(|r| r.kind == kind && r.name == label.name);
        let highest = before
            .iter()
            .chain(&self.rules)
            .map(|r| r.id.index() + 1)
            .max()
            .unwrap_or(0);
        let id = known.map_or(RuleId(highest as u16), |r| r.id);
        if id.index() >= MAX_RULES {
            let text =
                format!("more than {MAX_RULES} rules since the start (restart to count anew)");
            self.errors.push(error_at(&label.origin, kind, &text));
        }
        self.rules.push(RuleInfo {
            id,
            kind,
            name: label.name.clone(),
            text,
        });
        id
    }

    fn conditions(&self, m: &validated::Match) -> Conditions<u32> {
        Conditions {
            ingress: self.interfaces_of(&m.in_),
            egress: self.interfaces_of(&m.out),
            source: self.addresses_of(&m.src),
            destination: self.addresses_of(&m.dst),
            protocol: protocols(&m.proto),
            source_port: port_set(&m.sport),
            destination_port: port_set(&m.dport),
        }
    }

    pub(super) fn source_rules(&mut self) -> Vec<SourceRule<u32>> {
        let config = self.config;
        let mut rules = Vec::new();
        for rule in &config.source_nat {
            let text = describe_source(rule, config);
            let id = self.rule("source-nat", &rule.label, text);
            let via = match rule.via {
                validated::Via::Interface => Via::Interface,
                validated::Via::Pool(pool) => Via::Pool(self.pool_id(pool)),
                validated::Via::None => Via::Nothing,
            };
            // A port range binds query ids only when the rule is about ICMP alone (E6).
            let binds_ids = rule.matching.proto.iter().eq([ICMP]);
            rules.push(SourceRule {
                id,
                conditions: self.conditions(&rule.matching),
                via,
                ports: rule.ports.as_ref().map(port_ranges),
                binds_ids,
                select: rule.select.map(select),
            });
        }
        rules
    }

    pub(super) fn exempts(&mut self) -> Vec<Exempt<u32>> {
        let config = self.config;
        let mut rules = Vec::new();
        for rule in &config.exempts {
            let text = format!("in={} src={} dst={}", rule.in_, rule.src, rule.dst);
            let id = self.rule("exempt", &rule.label, text);
            let leave = self
                .prefixes(&rule.dst)
                .into_iter()
                .map(|net| (net, Exemption::Leave));
            let force = rule
                .force
                .iter()
                .filter_map(v4_net)
                .map(|net| (net, Exemption::Force));
            let entries = leave
                .chain(force)
                .map(|(net, what)| (u32::from(net.network()), net.prefix_len(), what));
            rules.push(Exempt {
                id,
                ingress: self.interfaces_of(&rule.in_),
                source: self.addresses_of(&rule.src),
                destinations: Lpm::build(entries),
            });
        }
        rules
    }

    /// A destination list as prefixes, whose lengths matter; what it excludes is cut out of them.
    fn prefixes(&self, set: &PrefixSet) -> Vec<Ipv4Net> {
        if set.exclude.is_empty() {
            let list = set.include.as_ref().map_or_else(
                || vec![IpNet::V4(Ipv4Net::default())],
                |l| l.prefixes.clone(),
            );
            let own = set.include.as_ref().map(|l| {
                self.ranges(&AddressList {
                    prefixes: Vec::new(),
                    ..l.clone()
                })
            });
            let own = own
                .into_iter()
                .flatten()
                .map(|(a, _)| Ipv4Net::from(Ipv4Addr::from(a)));
            return list.iter().filter_map(v4_net).chain(own).collect();
        }
        let ranges = self.addresses_of(set);
        let subnets =
            |&(a, b): &(u32, u32)| ipnet::Ipv4Subnets::new(Ipv4Addr::from(a), Ipv4Addr::from(b), 0);
        ranges.ranges().iter().flat_map(subnets).collect()
    }

    pub(super) fn statics(&mut self) -> Vec<StaticRule<u32>> {
        let config = self.config;
        let mut rules = Vec::new();
        for rule in &config.static_nat {
            let id = self.rule(
                "static-nat",
                &rule.label,
                format!("{} <-> {}", rule.external, rule.internal),
            );
            rules.push(StaticRule {
                id,
                external: u32::from(rule.external.network()),
                internal: u32::from(rule.internal.network()),
                host_mask: u32::from(rule.external.hostmask()),
                interface: rule.interface.map(|i| self.id(i)),
                realm: self.realm(rule.realm),
                inbound: rule.direction != validated::Direction::Out,
                outbound: rule.direction != validated::Direction::In,
            });
        }
        rules
    }

    pub(super) fn forwards(&mut self) -> Vec<PortForward<u32>> {
        let config = self.config;
        let mut rules = Vec::new();
        for rule in &config.port_forwards {
            let targets: Vec<String> = rule.to.iter().map(describe_target).collect();
            let text = format!(
                "in={} proto={} dport={} to={}",
                rule.in_,
                rule.proto,
                rule.dport,
                targets.join(",")
            );
            let id = self.rule("port-forward", &rule.label, text);
            let destination = if rule.dst.is_empty() {
                self.arrival_addresses(&rule.in_)
            } else {
                self.ranges(&rule.dst)
            };
            rules.push(PortForward {
                id,
                conditions: Conditions {
                    ingress: self.interfaces_of(&rule.in_),
                    source: self.addresses_of(&rule.src),
                    destination: RangeSet::of(destination),
                    protocol: protocols(&rule.proto),
                    destination_port: port_set(&rule.dport),
                    ..Conditions::default()
                },
                targets: rule
                    .to
                    .iter()
                    .map(|t| ForwardTarget {
                        address: u32::from(t.address),
                        first_port: t.first_port,
                    })
                    .collect(),
                hairpin: rule.hairpin,
                realm: self.realm(rule.realm),
                allow: rule.allow,
                source: match rule.source {
                    ForwardSource::Address(address) => Some(u32::from(address)),
                    ForwardSource::Auto | ForwardSource::Keep => None,
                },
            });
        }
        rules
    }

    fn arrival_addresses(&self, arriving: &validated::InterfaceMatch) -> Vec<(u32, u32)> {
        let matching = self
            .config
            .interfaces
            .iter()
            .enumerate()
            .filter(|(i, _)| arriving.contains(InterfaceId(*i as u16)));
        matching
            .flat_map(|(_, interface)| &interface.v4)
            .map(|net| (u32::from(net.addr()), u32::from(net.addr())))
            .collect()
    }

    /// Where subscribers are or were, by receiving interface.
    pub(super) fn ever_inside(&self, inside: &[Inside<u32>]) -> Vec<Inside<u32>> {
        let before = self.previous.map_or(&[][..], |p| &p.nat.v4.ever_inside);
        let slots = inside.len().max(before.len());
        let at = |list: &[Inside<u32>], slot: usize| list.get(slot).cloned().unwrap_or_default();
        (0..slots)
            .map(|slot| at(inside, slot).union(&at(before, slot)))
            .collect()
    }

    /// Where subscribers are: whose packets some rule may source-translate, by receiving interface.
    pub(super) fn inside(
        &self,
        source: &[SourceRule<u32>],
        statics: &[StaticRule<u32>],
    ) -> Vec<Inside<u32>> {
        let slots = self.ids.iter().map(|id| id.index() + 1).max().unwrap_or(0);
        let mut inside = vec![Inside::Never; slots];
        for id in &self.ids {
            let (mut ranges, mut always) = (Vec::new(), false);
            let realm = self.realm_of(*id);
            for rule in source.iter().filter(|r| !matches!(r.via, Via::Nothing)) {
                let c = &rule.conditions;
                if !c.ingress.contains(*id) {
                    continue;
                }
                let leaves_here = c.egress.is_constrained() && c.egress.contains(*id);
                if c.source.is_constrained() {
                    ranges.extend_from_slice(c.source.ranges());
                } else if c.ingress.is_constrained() || !leaves_here {
                    always = true;
                }
            }
            for rule in statics
                .iter()
                .filter(|r| r.outbound && r.interface != Some(*id) && r.realm == realm)
            {
                ranges.push((rule.internal, rule.internal | rule.host_mask));
            }
            inside[id.index()] = match (always, ranges.is_empty()) {
                (true, _) => Inside::Always,
                (false, true) => Inside::Never,
                (false, false) => Inside::Sources(RangeSet::of(ranges)),
            };
        }
        inside
    }
}

fn describe_source(rule: &validated::SourceNat, config: &Validated) -> String {
    let m = &rule.matching;
    let via = match rule.via {
        validated::Via::Interface => "interface".to_owned(),
        validated::Via::Pool(id) => config
            .pools
            .get(id.index())
            .map_or_else(String::new, |p| format!("pool:{}", p.label.name)),
        validated::Via::None => "none".to_owned(),
    };
    let ports = rule
        .ports
        .as_ref()
        .map_or_else(|| "-".to_owned(), ToString::to_string);
    format!(
        "in={} out={} src={} dst={} proto={} sport={} dport={} via={via} ports={ports}",
        m.in_, m.out, m.src, m.dst, m.proto, m.sport, m.dport
    )
}

fn describe_target(target: &validated::Target) -> String {
    match target.first_port {
        Some(port) => format!("{}:{port}", target.address),
        None => target.address.to_string(),
    }
}
