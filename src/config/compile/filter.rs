//! The filter: rules become conditions of each family they can match in, with their sets of addresses shared.

use std::sync::Arc;

use hashbrown::HashMap;
use ipnet::IpNet;

use super::rules::MAX_RULES;
use super::{Compiler, error_at};
use crate::base::RuleId;
use crate::config::filtering::{FilterRule, SharedSet, action_name};
use crate::config::validated::{self, AddressList, PrefixSet};
use crate::nat::filter::conditions::Conditions;
use crate::nat::filter::{Filter, KIND, Rule, Verdict};
use crate::nat::matcher::RangeSet;
use crate::nat::policy::{Policy, RuleInfo};
use crate::wire::{ICMP, ICMPV6};

/// The kind under which the default is counted.
pub const DEFAULT_KIND: &str = "filter-default";

/// A set of addresses, by family.
#[derive(Clone)]
struct Addresses {
    v4: Arc<RangeSet<u32>>,
    v6: Arc<RangeSet<u128>>,
}

/// Sets that were compiled already, by where they are in memory: rules share them.
type Compiled = HashMap<*const PrefixSet, Addresses>;

/// Numbers of counted rules: the one a rule had under the previous policy, or one not used before.
pub(super) struct Numbers<'a> {
    before: HashMap<(&'a str, &'a str), RuleId>,
    next: usize,
}

impl Compiler<'_> {
    /// Compiles the filter. Its rules are numbered behind those of the translation.
    pub(super) fn filter(&mut self) -> Filter {
        let config = &self.config.filter;
        let mut numbers = Numbers::new(self.previous, &self.rules, KIND);
        let mut compiled = Compiled::new();
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        let mut infos = Vec::new();
        for rule in &config.rules {
            let id = numbers.number(KIND, &rule.label.name);
            if id.index() == MAX_RULES {
                let text =
                    format!("more than {MAX_RULES} rules since the start (restart to count anew)");
                self.errors
                    .push(error_at(&rule.label.origin, "filter.rule", &text));
            }
            infos.push(info(id, KIND, &rule.label.name, describe(rule)));
            let verdict = Verdict {
                action: rule.action,
                rule: id,
            };
            let (for_v4, for_v6) = self.conditions_of(rule, &mut compiled);
            v4.extend(possible(for_v4).map(|conditions| Rule {
                conditions,
                verdict,
            }));
            v6.extend(possible(for_v6).map(|conditions| Rule {
                conditions,
                verdict,
            }));
        }
        let id = numbers.number(DEFAULT_KIND, "default");
        infos.push(info(
            id,
            DEFAULT_KIND,
            "default",
            action_name(config.default),
        ));
        self.rules.extend(infos);
        let default = Verdict {
            action: config.default,
            rule: id,
        };
        Filter::new(v4, v6, default, config.established)
    }

    fn conditions_of(
        &self,
        rule: &FilterRule,
        compiled: &mut Compiled,
    ) -> (Conditions<u32>, Conditions<u128>) {
        let mut set = |set: &SharedSet| {
            let known = compiled.entry(Arc::as_ptr(&set.0));
            known.or_insert_with(|| self.both_families(set)).clone()
        };
        let (source, destination, original) = (set(&rule.src), set(&rule.dst), set(&rule.orig_dst));
        let icmp = match &rule.icmp.ranges {
            Some(ranges) => RangeSet::of(ranges.iter().copied()),
            None => RangeSet::any(),
        };
        let mut v4 = Conditions {
            ingress: self.numbers_of(&rule.in_),
            egress: self.numbers_of(&rule.out),
            source: source.v4,
            destination: destination.v4,
            original: original.v4,
            protocol: protocols(&rule.proto),
            source_port: ports(&rule.sport),
            destination_port: ports(&rule.dport),
            original_port: ports(&rule.orig_dport),
            icmp: Arc::new(icmp),
            states: Arc::new(rule.state.include.matching(rule.state.exclude)),
        };
        // All but the addresses is the same, and shared.
        let mut v6 = Conditions {
            ingress: v4.ingress.clone(),
            egress: v4.egress.clone(),
            source: source.v6,
            destination: destination.v6,
            original: original.v6,
            protocol: v4.protocol.clone(),
            source_port: v4.source_port.clone(),
            destination_port: v4.destination_port.clone(),
            original_port: v4.original_port.clone(),
            icmp: v4.icmp.clone(),
            states: v4.states.clone(),
        };
        // An ICMP type belongs to one family's ICMP.
        if rule.icmp.ranges.is_some() {
            v4.protocol = only_if(&v4.protocol, rule.proto.contains(ICMP));
            v6.protocol = only_if(&v6.protocol, rule.proto.contains(ICMPV6));
        }
        (v4, v6)
    }

    fn numbers_of(&self, of: &validated::InterfaceMatch) -> Arc<RangeSet<u16>> {
        Arc::new(match of {
            validated::InterfaceMatch::Any => RangeSet::any(),
            validated::InterfaceMatch::Only { ids, .. } => {
                RangeSet::of(ids.iter().map(|id| (self.id(*id).0, self.id(*id).0)))
            }
        })
    }

    fn both_families(&self, set: &PrefixSet) -> Addresses {
        if set.is_any() {
            return Addresses {
                v4: Arc::new(RangeSet::any()),
                v6: Arc::new(RangeSet::any()),
            };
        }
        let (v4, v6) = match &set.include {
            Some(list) => self.of_list(list),
            None => (RangeSet::any(), RangeSet::any()),
        };
        let (out_v4, out_v6) = self.of_list(&set.exclude);
        Addresses {
            v4: Arc::new(v4.without(&out_v4)),
            v6: Arc::new(v6.without(&out_v6)),
        }
    }

    fn of_list(&self, list: &AddressList) -> (RangeSet<u32>, RangeSet<u128>) {
        let nets = list.resolve(&self.config.interfaces);
        let v4 = nets.iter().filter_map(|net| match net {
            IpNet::V4(net) => Some((net.network().into(), net.broadcast().into())),
            IpNet::V6(_) => None,
        });
        let v6 = nets.iter().filter_map(|net| match net {
            IpNet::V6(net) => Some((net.network().into(), net.broadcast().into())),
            IpNet::V4(_) => None,
        });
        (RangeSet::of(v4), RangeSet::of(v6))
    }
}

impl<'a> Numbers<'a> {
    /// Numbers for rules of the kinds that start with `kind`; `now` has its numbers already.
    pub(super) fn new(previous: Option<&'a Policy>, now: &[RuleInfo], kind: &str) -> Numbers<'a> {
        let before = previous.map_or(&[][..], |p| &p.rules);
        let highest = before
            .iter()
            .chain(now)
            .map(|info| info.id.index() + 1)
            .max();
        let before = before.iter().filter(|info| info.kind.starts_with(kind));
        Numbers {
            before: before
                .map(|info| ((info.kind, info.name.as_str()), info.id))
                .collect(),
            next: highest.unwrap_or(0),
        }
    }

    pub(super) fn number(&mut self, kind: &str, name: &str) -> RuleId {
        let known = self.before.get(&(kind, name)).copied();
        known.unwrap_or_else(|| {
            // Beyond the last number everything is reported and refused.
            let id = RuleId(self.next.min(MAX_RULES) as u16);
            self.next += 1;
            id
        })
    }
}

/// Conditions that some packet of the family can meet; a rule about the other family costs this one nothing.
fn possible<A>(conditions: Conditions<A>) -> Option<Conditions<A>> {
    let empty = |set: &RangeSet<A>| set.is_constrained() && set.ranges().is_empty();
    let never = empty(&conditions.source)
        || empty(&conditions.destination)
        || empty(&conditions.original)
        || conditions.protocol.is_constrained() && conditions.protocol.ranges().is_empty();
    (!never).then_some(conditions)
}

fn only_if(set: &Arc<RangeSet<u16>>, possible: bool) -> Arc<RangeSet<u16>> {
    if possible {
        set.clone()
    } else {
        Arc::new(RangeSet::of([]))
    }
}

fn ports(set: &validated::PortSet) -> Arc<RangeSet<u16>> {
    Arc::new(super::sets::port_set(set))
}

fn protocols(set: &validated::ProtocolSet) -> Arc<RangeSet<u16>> {
    Arc::new(if set.is_any() {
        RangeSet::any()
    } else {
        RangeSet::of(set.iter().map(|p| (u16::from(p), u16::from(p))))
    })
}

fn info(id: RuleId, kind: &'static str, name: &str, text: String) -> RuleInfo {
    RuleInfo {
        id,
        kind,
        name: name.to_owned(),
        text,
    }
}

/// What a rule asks, as far as it asks anything, and what it does.
pub fn describe(rule: &FilterRule) -> String {
    let conditions = [
        ("in", rule.in_.to_string()),
        ("out", rule.out.to_string()),
        ("src", rule.src.to_string()),
        ("dst", rule.dst.to_string()),
        ("proto", rule.proto.to_string()),
        ("sport", rule.sport.to_string()),
        ("dport", rule.dport.to_string()),
        ("orig_dst", rule.orig_dst.to_string()),
        ("orig_dport", rule.orig_dport.to_string()),
        ("icmp_type", rule.icmp.to_string()),
        ("state", rule.state.to_string()),
    ];
    let mut text: String = conditions
        .iter()
        .filter(|(_, value)| value != "any")
        .map(|(key, value)| format!("{key}={value} "))
        .collect();
    text.push_str(&format!("action={}", action_name(rule.action)));
    text
}
