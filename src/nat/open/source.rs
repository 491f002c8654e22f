//! The source half of a new flow: what its source becomes, and what an outside port is taken from.

use super::destination::Destination;
use super::service;
use super::{NewFlow, flow_hash};
use crate::base::{DropReason, InterfaceId, PoolId, RealmId, RuleId};
use crate::flow::key::Tuple;
use crate::nat::family::Family;
use crate::nat::policy::Policy;
use crate::nat::ports::{PortRanges, Select};
use crate::nat::rules::{Exemption, Facts, SourceRule, StaticRule, Via};
use crate::nat::trace::SourceStep;

/// How the source comes out.
pub(super) enum Source<'a, A> {
    /// By the rule that says so, if one does.
    Keep(Option<RuleId>),
    Static {
        address: A,
        rule: RuleId,
    },
    Allocate {
        pool: PoolId,
        rule: RuleId,
        ports: Option<&'a PortRanges>,
        select: Option<Select>,
        masquerade: bool,
    },
}

impl<A> Source<'_, A> {
    pub(super) fn step(&self) -> SourceStep {
        match self {
            Source::Keep(rule) => SourceStep::Kept(*rule),
            Source::Static { rule, .. } => SourceStep::Static(*rule),
            Source::Allocate { pool, rule, .. } => SourceStep::Pool {
                pool: *pool,
                rule: (*rule != RuleId::NONE).then_some(*rule),
            },
        }
    }
}

/// The source half. `after` has the translated destination already.
// Implements: G6.
pub(super) fn source<'a, A: Family>(
    policy: &'a Policy,
    flow: &NewFlow<A>,
    after: &Tuple<A>,
    egress: InterfaceId,
    destination: &Destination<A>,
) -> Result<Source<'a, A>, DropReason> {
    let rules = A::translation(&policy.nat);
    if let Some(source) = service::source(policy, flow, after, egress, destination)? {
        return Ok(source);
    }
    if let Some(address) = destination.source {
        let pool = rules
            .masquerade
            .get(&address)
            .copied()
            .ok_or(DropReason::NoAddress)?;
        let rule = destination.rule.unwrap_or(RuleId::NONE);
        return Ok(Source::Allocate {
            pool,
            rule,
            ports: None,
            select: None,
            masquerade: true,
        });
    }
    // The packet was source-translated in the first half of its hairpin.
    if flow.looped {
        return Ok(Source::Keep(None));
    }
    let facts = Facts {
        tuple: *after,
        ..flow.facts
    };
    match by_rules(policy, &facts, (flow.realm, egress), destination.hairpin) {
        ByRules::Static(rule) => {
            let address = rule.to_external(after.source);
            return Ok(Source::Static {
                address: address.ok_or(DropReason::NoAddress)?,
                rule: rule.id,
            });
        }
        ByRules::Keep(rule) => return Ok(Source::Keep(Some(rule))),
        ByRules::Lease(rule) => {
            let (pool, masquerade) = match rule.via {
                Via::Pool(pool) => (pool, false),
                Via::Interface | Via::Nothing => (
                    masquerade_pool(policy, flow, egress, after.destination)?,
                    true,
                ),
            };
            // Without a protocol of its own a port range does not bind query ids (E6).
            let binding = facts.protocol != A::ICMP || rule.binds_ids;
            let ports = rule.ports.as_ref().filter(|_| binding);
            return Ok(Source::Allocate {
                pool,
                rule: rule.id,
                ports,
                select: rule.select,
                masquerade,
            });
        }
        ByRules::Nothing => {}
    }
    if destination.hairpin {
        // No rule: the gateway still has to stand between the two, or the answer would bypass it.
        let pool = rules.masquerade.get(&destination.address).copied();
        let pool = pool.map_or_else(
            || masquerade_pool(policy, flow, egress, after.destination),
            Ok,
        )?;
        return Ok(Source::Allocate {
            pool,
            rule: RuleId::NONE,
            ports: None,
            select: None,
            masquerade: true,
        });
    }
    Ok(Source::Keep(None))
}

/// What the rules have to say of a flow's source.
enum ByRules<'a, A> {
    Nothing,
    Static(&'a StaticRule<A>),
    Keep(RuleId),
    /// It gets an outside port.
    Lease(&'a SourceRule<A>),
}

/// `facts` have the translated destination already; `egress` is where it leaves.
fn by_rules<'a, A: Family>(
    policy: &'a Policy,
    facts: &Facts<A>,
    (realm, egress): (RealmId, InterfaceId),
    hairpin: bool,
) -> ByRules<'a, A> {
    let rules = A::translation(&policy.nat);
    let own = |r: &&StaticRule<A>| {
        let leaves_there = r.interface.is_none_or(|i| i == egress);
        r.outbound && r.realm == realm && leaves_there && r.holds_internal(facts.tuple.source)
    };
    if let Some(rule) = rules.statics.iter().find(own) {
        return ByRules::Static(rule);
    }
    if let Some(rule) = exemption(policy, facts).filter(|_| !hairpin) {
        return ByRules::Keep(rule);
    }
    let leaves = |r: &SourceRule<A>| matches!(r.via, Via::Nothing);
    let says = |r: &&SourceRule<A>| {
        r.conditions.match_flow(facts, Some(egress)) && !(hairpin && leaves(r))
    };
    match rules.source.iter().find(says) {
        Some(rule) if leaves(rule) => ByRules::Keep(rule.id),
        Some(rule) => ByRules::Lease(rule),
        None => ByRules::Nothing,
    }
}

/// Whether a flow that nothing else is known of gets an outside port when it is opened. `realm` is where its destination
/// lies.
pub fn is_leased<A: Family>(policy: &Policy, facts: &Facts<A>, realm: RealmId, hash: u32) -> bool {
    let to = facts.tuple.destination;
    A::route(&policy.routes, realm, to, hash).is_some_and(|hop| {
        let there = (policy.realm_of(facts.ingress), hop.interface);
        matches!(by_rules(policy, facts, there, false), ByRules::Lease(_))
    })
}

/// What counts the longest prefix that matches, if it says "leave alone".
// Implements: G6.
fn exemption<A: Family>(policy: &Policy, facts: &Facts<A>) -> Option<RuleId> {
    let longest = A::translation(&policy.nat)
        .exempt
        .iter()
        .filter(|e| e.ingress.contains(facts.ingress) && e.source.contains(facts.tuple.source))
        .filter_map(|e| e.destinations.lookup_prefix(facts.tuple.destination))
        .max_by_key(|(_, length)| *length);
    match longest {
        Some((Exemption::Leave(rule), _)) => Some(rule),
        Some((Exemption::Force, _)) | None => None,
    }
}

/// The unnamed pool that stands for the outgoing interface's address. Never another interface's (E13).
pub(super) fn masquerade_pool<A: Family>(
    policy: &Policy,
    flow: &NewFlow<A>,
    egress: InterfaceId,
    towards: A,
) -> Result<PoolId, DropReason> {
    let hash = flow_hash(&flow.facts.tuple);
    let next_hop = A::route(&policy.routes, flow.realm, towards, hash)
        .filter(|hop| hop.interface == egress)
        .map_or(towards, |hop| hop.next_hop);
    let address = policy
        .interfaces
        .get(egress)
        .and_then(|i| A::source(i, next_hop))
        .ok_or(DropReason::NoAddress)?;
    A::translation(&policy.nat)
        .masquerade
        .get(&address)
        .copied()
        .ok_or(DropReason::NoAddress)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_told_how_a_source_came_out() {
        let lease = |rule| Source::Allocate::<u32> {
            pool: PoolId(2),
            rule,
            ports: None,
            select: None,
            masquerade: false,
        };
        let pool = |rule| SourceStep::Pool {
            pool: PoolId(2),
            rule,
        };
        let fixed = Source::Static {
            address: 7u32,
            rule: RuleId(3),
        };
        for (source, step) in [
            (Source::Keep(None), SourceStep::Kept(None)),
            (
                Source::Keep(Some(RuleId(3))),
                SourceStep::Kept(Some(RuleId(3))),
            ),
            (fixed, SourceStep::Static(RuleId(3))),
            (lease(RuleId(3)), pool(Some(RuleId(3)))),
            (lease(RuleId::NONE), pool(None)),
        ] {
            assert_eq!(source.step(), step);
        }
    }
}
