//! The source half of a new flow: what its source becomes, and what an outside port is taken from.

use super::destination::Destination;
use super::service;
use super::{NewFlow, flow_hash};
use crate::base::{DropReason, InterfaceId, PoolId, RuleId};
use crate::flow::key::Tuple;
use crate::nat::family::Family;
use crate::nat::policy::Policy;
use crate::nat::ports::{PortRanges, Select};
use crate::nat::rules::{Exemption, Facts, StaticRule, Via};
use crate::nat::trace::SourceStep;

/// How the source comes out.
pub(super) enum Source<A> {
    /// By the rule that says so, if one does.
    Keep(Option<RuleId>),
    Static {
        address: A,
        rule: RuleId,
    },
    Allocate {
        pool: PoolId,
        rule: RuleId,
        ports: Option<PortRanges>,
        select: Option<Select>,
        masquerade: bool,
    },
}

impl<A> Source<A> {
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
pub(super) fn source<A: Family>(
    policy: &Policy,
    flow: &NewFlow<A>,
    after: &Tuple<A>,
    egress: InterfaceId,
    destination: &Destination<A>,
) -> Result<Source<A>, DropReason> {
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
    let own = |r: &&StaticRule<A>| r.outbound && r.realm == flow.realm;
    for rule in rules.statics.iter().filter(own) {
        let leaves_there = rule.interface.is_none_or(|i| i == egress);
        if leaves_there && rule.holds_internal(after.source) {
            return Ok(Source::Static {
                address: rule
                    .to_external(after.source)
                    .ok_or(DropReason::NoAddress)?,
                rule: rule.id,
            });
        }
    }
    let exempt = exemption(policy, &facts).filter(|_| !destination.hairpin);
    if exempt.is_some() {
        return Ok(Source::Keep(exempt));
    }
    for rule in &rules.source {
        if !rule.conditions.match_flow(&facts, Some(egress)) {
            continue;
        }
        let (pool, masquerade) = match rule.via {
            Via::Nothing if destination.hairpin => continue,
            Via::Nothing => return Ok(Source::Keep(Some(rule.id))),
            Via::Pool(pool) => (pool, false),
            Via::Interface => (
                masquerade_pool(policy, flow, egress, after.destination)?,
                true,
            ),
        };
        // Without a protocol of its own a port range does not bind query ids (E6).
        let binding = facts.protocol != A::ICMP || rule.binds_ids;
        let ports = rule.ports.clone().filter(|_| binding);
        return Ok(Source::Allocate {
            pool,
            rule: rule.id,
            ports,
            select: rule.select,
            masquerade,
        });
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

/// What counts the longest prefix that matches, if it says "leave alone".
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
