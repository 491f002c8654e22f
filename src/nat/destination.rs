//! Where a new flow is really going: the destination half of the policy, asked before the route is known.
//!
//! Steering asks the same function, because the worker that owns a flow follows from its *translated* destination; it
//! therefore depends on the policy alone, never on a worker's state.

use crate::base::{InterfaceId, RealmId, RuleId};
use crate::nat::family::Family;
use crate::nat::matcher::RangeSet;
use crate::nat::policy::Policy;
use crate::nat::rules::{Facts, PortForward, StaticRule};
use crate::nat::services::ServiceMatch;

/// Whether packets that arrive on an interface come from subscribers, that is from sources which source NAT applies to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Inside<A> {
    /// No rule translates what arrives here.
    #[default]
    Never,
    /// Some rule translates whatever arrives here.
    Always,
    /// Rules translate these sources.
    Sources(RangeSet<A>),
}

impl<A: Family> Inside<A> {
    /// Whatever either says is inside.
    pub fn union(&self, other: &Inside<A>) -> Inside<A> {
        match (self, other) {
            (Inside::Always, _) | (_, Inside::Always) => Inside::Always,
            (Inside::Never, one) | (one, Inside::Never) => one.clone(),
            (Inside::Sources(a), Inside::Sources(b)) => {
                let ranges = a.ranges().iter().chain(b.ranges());
                Inside::Sources(RangeSet::of(ranges.copied()))
            }
        }
    }

    /// Whether `source` is a subscriber's address.
    pub fn contains(&self, source: A) -> bool {
        match self {
            Inside::Never => false,
            Inside::Always => true,
            Inside::Sources(set) => set.contains(source),
        }
    }
}

/// What static rules say about a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyDestination<A> {
    /// Nothing.
    Keep,
    /// Translate it.
    Translate {
        /// New address.
        address: A,
        /// New port.
        port: u16,
        /// Realm of the new address.
        realm: RealmId,
        /// The rule to count it on.
        rule: RuleId,
        /// Source the target is to see.
        source: Option<A>,
        /// The filter is not asked: a port forward with `allow`.
        allowed: bool,
    },
    /// It belongs to a service, or to an address that has nothing but services.
    Service(ServiceMatch),
    /// An inside host calls a public address whose target lies inside: the packet goes out and comes back, translated at
    /// the source first and at the destination then (RFC 4787 REQ-9, "external source address and port").
    Hairpin,
}

/// Applies static NAT, port forwards and services to a new flow. `looped` marks the second half of a hairpin, whose `ingress` is
/// the interface that the public address belongs to.
pub fn by_policy<A: Family>(
    policy: &Policy,
    facts: &Facts<A>,
    looped: bool,
) -> PolicyDestination<A> {
    let rules = A::translation(&policy.nat);
    let inside = !looped && policy.is_inside(facts.ingress, facts.tuple.source);
    for rule in rules.statics.iter().filter(|r| r.inbound) {
        if let Some(answer) = by_static(policy, facts, inside, looped, rule) {
            return answer;
        }
    }
    for rule in &rules.forwards {
        if let Some(answer) = by_forward(policy, facts, inside, looped, rule) {
            return answer;
        }
    }
    let service = rules.services.find(&facts.tuple, facts.protocol);
    service.map_or(PolicyDestination::Keep, PolicyDestination::Service)
}

fn by_static<A: Family>(
    policy: &Policy,
    facts: &Facts<A>,
    inside: bool,
    looped: bool,
    rule: &StaticRule<A>,
) -> Option<PolicyDestination<A>> {
    let address = rule.to_internal(facts.tuple.destination)?;
    let direct = looped || rule.interface.is_none_or(|i| i == facts.ingress);
    if inside && (!direct || leads_back(policy, rule.realm, address, facts.ingress)) {
        return Some(PolicyDestination::Hairpin);
    }
    direct.then_some(PolicyDestination::Translate {
        address,
        port: facts.tuple.destination_port,
        realm: rule.realm,
        rule: rule.id,
        source: None,
        allowed: false,
    })
}

fn by_forward<A: Family>(
    policy: &Policy,
    facts: &Facts<A>,
    inside: bool,
    looped: bool,
    rule: &PortForward<A>,
) -> Option<PolicyDestination<A>> {
    let c = &rule.conditions;
    let public = c.destination.contains(facts.tuple.destination)
        && c.destination_port.contains(facts.tuple.destination_port)
        && c.protocol.contains(facts.protocol)
        && c.source_port.contains(facts.tuple.source_port);
    if !public || (!looped && !c.source.contains(facts.tuple.source)) {
        return None;
    }
    let (address, port) = rule.target(facts.tuple.source, facts.tuple.destination_port)?;
    let named = c.ingress.contains(facts.ingress);
    if looped {
        return (rule.hairpin || named).then_some(translate(rule, address, port));
    }
    if rule.hairpin && leads_back(policy, rule.realm, address, facts.ingress) {
        return Some(PolicyDestination::Hairpin);
    }
    if named {
        return Some(translate(rule, address, port));
    }
    (rule.hairpin && inside).then_some(PolicyDestination::Hairpin)
}

fn translate<A: Family>(rule: &PortForward<A>, address: A, port: u16) -> PolicyDestination<A> {
    PolicyDestination::Translate {
        address,
        port,
        realm: rule.realm,
        rule: rule.id,
        source: rule.source,
        allowed: rule.allow,
    }
}

/// Whether the target lies behind the interface the client's packet came from, so that its answers would bypass us.
fn leads_back<A: Family>(policy: &Policy, realm: RealmId, target: A, ingress: InterfaceId) -> bool {
    A::route(&policy.routes, realm, target, 0).is_some_and(|hop| hop.interface == ingress)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inside_is_what_either_says() {
        let sources = |low: u32, high: u32| Inside::Sources(RangeSet::of([(low, high)]));
        for (one, other, inside) in [
            (Inside::Never, Inside::Never, [false, false, false]),
            (Inside::Never, Inside::Always, [true, true, true]),
            (Inside::Always, sources(1, 1), [true, true, true]),
            (Inside::Never, sources(1, 1), [true, false, false]),
            (sources(1, 1), sources(2, 2), [true, true, false]),
        ] {
            for union in [one.union(&other), other.union(&one)] {
                let contained = [1, 2, 3].map(|source| union.contains(source));
                assert_eq!(contained, inside, "{union:?}");
            }
        }
    }
}
