//! Translation rules, in order, with their counters; and where subscribers are.

use std::net::SocketAddr;

use hashbrown::HashMap;

use super::pools::select;
use super::sets::{port_ranges, port_set, protocols};
use super::{Compiler, error_at, exempt};
use crate::base::{InterfaceId, PoolId, RuleId};
use crate::config::validated::{self, ForwardSource, Validated};
use crate::nat::destination::Inside;
use crate::nat::family::Family;
use crate::nat::matcher::RangeSet;
use crate::nat::policy::{RuleInfo, Translation};
use crate::nat::ports::Externals;
use crate::nat::prefix::{self, Neutral};
use crate::nat::rules::{Conditions, ForwardTarget, PortForward, SourceRule, StaticRule, Via};
use crate::nat::services::Services;

use crate::wire::ICMPV6;

/// Counted rules there can be; see [`crate::dataplane::accounts::MAX_RULES`].
pub(super) const MAX_RULES: usize = crate::dataplane::accounts::MAX_RULES;

/// Numbers of the translation rules, in order.
pub(super) struct Numbers {
    source: Vec<RuleId>,
    exempt: Vec<exempt::Numbered>,
    forwards: Vec<RuleId>,
    statics: Vec<RuleId>,
}

impl Compiler<'_> {
    /// The number of a counted rule: the one it had under the previous policy, or one not used before.
    pub(super) fn rule(
        &mut self,
        kind: &'static str,
        label: &validated::Label,
        text: String,
    ) -> RuleId {
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

    /// Numbers the translation rules, which both families share.
    pub(super) fn numbers(&mut self) -> Numbers {
        let config = self.config;
        let source = config.source_nat.iter().map(|rule| {
            let text = describe_source(rule, config);
            self.rule("source-nat", &rule.label, text)
        });
        let source = source.collect();
        let exempt = config.exempts.iter().map(|rule| self.number_exempt(rule));
        let exempt = exempt.collect();
        let forwards = config.port_forwards.iter().map(|rule| {
            let targets: Vec<String> = rule.to.iter().map(describe_target).collect();
            let text = format!(
                "in={} proto={} dport={} to={}",
                rule.in_,
                rule.proto,
                rule.dport,
                targets.join(",")
            );
            self.rule("port-forward", &rule.label, text)
        });
        let forwards = forwards.collect();
        let statics = config.static_nat.iter().map(|rule| {
            let text = format!("{} <-> {}", rule.external, rule.internal);
            self.rule("static-nat", &rule.label, text)
        });
        Numbers {
            statics: statics.collect(),
            source,
            exempt,
            forwards,
        }
    }

    /// The rules of one address family: those that some flow of it can match. Services come later.
    pub(super) fn translation<A: Family>(
        &self,
        numbers: &Numbers,
        masquerade: HashMap<A, PoolId>,
        externals: &Externals,
    ) -> Translation<A> {
        let source = self.source_rules(&numbers.source);
        let statics = self.statics(&numbers.statics);
        let inside = self.inside(&source, &statics);
        let by_address = externals
            .iter()
            .filter_map(|(index, e)| Some((A::from_ip(e.address())?, index)));
        Translation {
            exempt: self.exempts(&numbers.exempt),
            forwards: self.forwards(&numbers.forwards),
            masquerade,
            by_address: by_address.collect(),
            ever_inside: self.ever_inside(&inside),
            inside,
            source,
            statics,
            services: Services::default(),
            quarantined: self.quarantined(),
        }
    }

    fn conditions<A: Family>(&self, m: &validated::Match) -> Conditions<A> {
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

    fn source_rules<A: Family>(&self, numbers: &[RuleId]) -> Vec<SourceRule<A>> {
        let mut rules = Vec::new();
        for (rule, &id) in self.config.source_nat.iter().zip(numbers) {
            let via = match rule.via {
                validated::Via::Interface => Some(Via::Interface),
                validated::Via::Pool(pool) => self.half_of::<A>(pool).map(Via::Pool),
                validated::Via::None => Some(Via::Nothing),
            };
            let conditions = self.conditions(&rule.matching);
            // A rule about the other family, or to a pool of the other family alone, is none of this one.
            let Some(via) = via.filter(|_| possible(&conditions)) else {
                continue;
            };
            // A port range binds query ids only when the rule is about ICMP alone (E6).
            let binds_ids = rule.matching.proto.iter().eq([A::ICMP]);
            rules.push(SourceRule {
                id,
                conditions,
                via,
                ports: rule.ports.as_ref().map(port_ranges),
                binds_ids,
                select: rule.select.map(select),
            });
        }
        rules
    }

    fn statics<A: Family>(&self, numbers: &[RuleId]) -> Vec<StaticRule<A>> {
        let mut rules = Vec::new();
        for (rule, &id) in self.config.static_nat.iter().zip(numbers) {
            let ends = (rule.external.network(), rule.internal.network());
            let ends = (A::from_ip(ends.0), A::from_ip(ends.1));
            let (Some(external), Some(internal)) = ends else {
                continue;
            };
            let Some(host_mask) = A::from_ip(rule.external.hostmask()) else {
                continue;
            };
            let length = rule.external.prefix_len();
            let neutral = (A::ICMP == ICMPV6 && length <= prefix::LONGEST)
                .then(|| Neutral::new(internal.into(), external.into(), length));
            rules.push(StaticRule {
                id,
                external,
                internal,
                host_mask,
                neutral,
                interface: rule.interface.map(|i| self.id(i)),
                realm: self.realm(rule.realm),
                inbound: rule.direction != validated::Direction::Out,
                outbound: rule.direction != validated::Direction::In,
            });
        }
        rules
    }

    fn forwards<A: Family>(&self, numbers: &[RuleId]) -> Vec<PortForward<A>> {
        let mut rules = Vec::new();
        for (rule, &id) in self.config.port_forwards.iter().zip(numbers) {
            let target = |t: &validated::Target| {
                Some(ForwardTarget {
                    address: A::from_ip(t.address)?,
                    first_port: t.first_port,
                })
            };
            let targets: Vec<ForwardTarget<A>> = rule.to.iter().filter_map(target).collect();
            if targets.is_empty() {
                continue;
            }
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
                targets,
                hairpin: rule.hairpin,
                realm: self.realm(rule.realm),
                allow: rule.allow,
                source: match rule.source {
                    ForwardSource::Address(address) => A::from_ip(address),
                    ForwardSource::Auto | ForwardSource::Keep => None,
                },
            });
        }
        rules
    }

    fn arrival_addresses<A: Family>(&self, arriving: &validated::InterfaceMatch) -> Vec<(A, A)> {
        let matching = self
            .config
            .interfaces
            .iter()
            .enumerate()
            .filter(|(i, _)| arriving.contains(InterfaceId(*i as u16)));
        matching
            .flat_map(|(_, interface)| interface.addresses())
            .filter_map(A::from_ip)
            .map(|address| (address, address))
            .collect()
    }

    /// Where subscribers are or were, by receiving interface.
    fn ever_inside<A: Family>(&self, inside: &[Inside<A>]) -> Vec<Inside<A>> {
        let before = self.previous.map(|p| A::translation(&p.nat));
        let before = before.map_or(&[][..], |before| &before.ever_inside);
        let slots = inside.len().max(before.len());
        let at = |list: &[Inside<A>], slot: usize| list.get(slot).cloned().unwrap_or_default();
        (0..slots)
            .map(|slot| at(inside, slot).union(&at(before, slot)))
            .collect()
    }

    /// Where subscribers are: whose packets some rule may source-translate, by receiving interface.
    fn inside<A: Family>(
        &self,
        source: &[SourceRule<A>],
        statics: &[StaticRule<A>],
    ) -> Vec<Inside<A>> {
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
                // Every address of a family is no more of a condition than none.
                let everybody = c.source.ranges() == [(A::FIRST, A::LAST)];
                if c.source.is_constrained() && !everybody {
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

/// Whether some flow of the family can meet the conditions.
fn possible<A>(conditions: &Conditions<A>) -> bool {
    let empty = |set: &RangeSet<A>| set.is_constrained() && set.ranges().is_empty();
    !empty(&conditions.source) && !empty(&conditions.destination)
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
        Some(port) => SocketAddr::new(target.address, port).to_string(),
        None => target.address.to_string(),
    }
}
