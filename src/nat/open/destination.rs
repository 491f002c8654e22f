//! The destination half of a new flow: what its destination becomes.

use super::NewFlow;
use super::expected::expected;
use super::service::{Balanced, balance};
use crate::base::time::Now;
use crate::base::{DropReason, RealmId, RuleId};
use crate::flow::session::{Session, SessionIndex};
use crate::nat::behaviour::{Behaviour, Remote};
use crate::nat::destination::{PolicyDestination, by_policy};
use crate::nat::family::Family;
use crate::nat::mapping::{Mapping, OutsideEndpoint};
use crate::nat::policy::Policy;
use crate::nat::ports::PortSpace;
use crate::nat::state::Nat;
use crate::nat::trace::DestinationStep;

/// How the destination came out.
pub(super) struct Destination<A> {
    pub(super) address: A,
    pub(super) port: u16,
    /// The realm it is in: that of the sender, unless the address stands for a host of another.
    pub(super) realm: RealmId,
    pub(super) rule: Option<RuleId>,
    pub(super) source: Option<A>,
    /// First session of the mapping that an outside host reaches the inside through.
    pub(super) mapping: Option<SessionIndex>,
    /// The expectation it meets.
    pub(super) expected: Option<SessionIndex>,
    pub(super) hairpin: bool,
    pub(super) allowed: bool,
    /// The backend of a service.
    pub(super) balanced: Option<Balanced<A>>,
}

impl<A: Family> Destination<A> {
    /// Where the packet goes.
    pub(super) fn towards(&self) -> A {
        let direct = self.balanced.and_then(|balanced| balanced.direct);
        direct.unwrap_or(self.address)
    }

    /// What the flow is counted on if a source rule has its say: flows of a service on their backend all the same.
    pub(super) fn counted(&self, source_rule: RuleId) -> RuleId {
        self.balanced.and(self.rule).unwrap_or(source_rule)
    }

    pub(super) fn step(&self) -> DestinationStep {
        match (self.rule, self.mapping) {
            (Some(rule), _) => DestinationStep::Translated {
                address: self.address.to_ip(),
                port: self.port,
                rule,
                allowed: self.allowed,
            },
            (None, Some(_)) => DestinationStep::Mapped,
            (None, None) if self.hairpin => DestinationStep::Hairpin,
            (None, None) => DestinationStep::Kept,
        }
    }
}

/// The destination half. `None`: an external or own address with nothing behind this port.
// Implements: U8a, U9, T8, U11.
pub(super) fn destination<A: Family>(
    nat: &Nat<A>,
    policy: &Policy,
    flow: &NewFlow<A>,
    now: Now,
) -> Result<Option<Destination<A>>, DropReason> {
    let tuple = flow.facts.tuple;
    let keep = Destination {
        address: tuple.destination,
        port: tuple.destination_port,
        realm: flow.realm,
        rule: None,
        source: None,
        mapping: None,
        expected: None,
        hairpin: false,
        allowed: false,
        balanced: None,
    };
    match by_policy(policy, &flow.facts, flow.looped) {
        PolicyDestination::Translate {
            address,
            port,
            realm,
            rule,
            source,
            allowed,
        } => {
            return Ok(Some(Destination {
                address,
                port,
                realm,
                rule: Some(rule),
                source,
                allowed,
                ..keep
            }));
        }
        PolicyDestination::Hairpin => {
            return Ok(Some(Destination {
                hairpin: true,
                ..keep
            }));
        }
        PolicyDestination::Service(found) => return balance(nat, policy, flow, found, now),
        PolicyDestination::Keep => {}
    }
    let own = A::local(&policy.routes, flow.realm, tuple.destination).is_some();
    let Some((index, external)) = policy.nat.external_of(tuple.destination) else {
        return Ok((!own).then_some(keep));
    };
    let Some(space) = PortSpace::from_protocol(flow.facts.protocol) else {
        return Ok(None);
    };
    let taken = external.owner(space, tuple.destination_port).is_some();
    if !taken
        || A::translation(&policy.nat)
            .quarantined
            .contains(&{ tuple.destination })
    {
        return Ok(None);
    }
    if !flow.looped && policy.is_inside(flow.facts.ingress, tuple.source) {
        return Ok(Some(Destination {
            hairpin: true,
            ..keep
        }));
    }
    let endpoint = OutsideEndpoint {
        address: tuple.destination,
        port: tuple.destination_port,
        space,
    };
    let remote = Remote {
        address: tuple.source,
        port: tuple.source_port,
    };
    let found = nat.mappings.find_outside(&nat.sessions, endpoint, remote);
    let Some(first) = found else {
        if nat
            .allocator
            .shared()
            .is_in_use(index, space, endpoint.port)
        {
            return Err(DropReason::Filtered);
        }
        // The port rests after use (RFC 6888 REQ-8), or belongs to a worker that is about to let it go.
        return Ok(None);
    };
    let lives = |s: &Session<A>| !policy.timeouts.expired(s.state, s.seen(), now.tick);
    if !nat.mappings.any(&nat.sessions, first, lives) {
        return Ok(None);
    }
    let filtering = policy
        .nat
        .pool_of(index)
        .map(|pool| pool.behaviours(space).filtering);
    let expected = expected(nat, policy, flow, now);
    let admitted = match filtering {
        _ if expected.is_some() => true,
        Some(Behaviour::Endpoint) => true,
        Some(Behaviour::Address) => nat.contacts.knows(endpoint, tuple.source),
        Some(Behaviour::AddressPort) | None => false,
    };
    if !admitted {
        return Err(DropReason::Filtered);
    }
    let mapping = nat.session(first).and_then(Mapping::of);
    let inside = mapping.ok_or(DropReason::Internal)?.inside;
    Ok(Some(Destination {
        address: inside.address,
        port: inside.port,
        realm: inside.realm,
        mapping: Some(first),
        expected,
        allowed: expected.is_some(),
        ..keep
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Destination<u32> {
        Destination {
            address: 0x0a00_0002,
            port: 53,
            realm: RealmId(0),
            rule: None,
            source: None,
            mapping: None,
            expected: None,
            hairpin: false,
            allowed: true,
            balanced: None,
        }
    }

    #[test]
    fn a_trace_is_told_how_a_destination_came_out() {
        let by_rule = Destination {
            rule: Some(RuleId(3)),
            ..kept()
        };
        let translated = DestinationStep::Translated {
            address: [10, 0, 0, 2].into(),
            port: 53,
            rule: RuleId(3),
            allowed: true,
        };
        let mapped = Destination {
            mapping: Some(SessionIndex(1)),
            ..kept()
        };
        let hairpin = Destination {
            hairpin: true,
            ..kept()
        };
        for (destination, step) in [
            (&by_rule, translated),
            (&mapped, DestinationStep::Mapped),
            (&hairpin, DestinationStep::Hairpin),
            (&kept(), DestinationStep::Kept),
        ] {
            assert_eq!(destination.step(), step);
        }
        assert_eq!(by_rule.counted(RuleId(9)), RuleId(9), "no service");
        assert_eq!(
            (by_rule.towards(), kept().counted(RuleId(9))),
            (0x0a00_0002, RuleId(9))
        );
    }
}
