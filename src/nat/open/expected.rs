//! Flows that a control flow announced: expected from its remote, from any port, to an endpoint of its inside host.

use super::NewFlow;
use super::enter::{Allocation, allocate};
use crate::base::time::Now;
use crate::base::{DropReason, Random};
use crate::flow::key::{FlowKey, Tuple};
use crate::flow::session::{
    Direction, FLAG_INBOUND, FLAG_MASQUERADE, Session, SessionIndex, State,
};
use crate::nat::family::Family;
use crate::nat::policy::Policy;
use crate::nat::rules::StaticRule;
use crate::nat::state::{EndCause, Nat, blank_session};

/// The three addresses of a translated flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends<A> {
    /// The inside host.
    pub inside: A,
    /// What it looks like from outside.
    pub outside: A,
    /// The other host, as the inside sees it.
    pub remote: A,
}

impl<A: Family> Ends<A> {
    /// Those of a session.
    pub fn of(session: &Session<A>) -> Ends<A> {
        if session.from_inside(Direction::Forward) {
            Ends {
                inside: session.before.source,
                outside: session.after.source,
                remote: session.after.destination,
            }
        } else {
            Ends {
                inside: session.after.destination,
                outside: session.before.destination,
                remote: session.after.source,
            }
        }
    }
}

/// Expects a flow of `protocol` to `port` of the inside host of `control`, and returns the outside port it comes to. The same
/// expectation once more only lives longer. Where the host's address is translated one to one, nothing need be expected:
/// the port is the same, and open.
///
/// # Errors
/// What refuses a new flow of the host refuses an expected one; [`DropReason::NoAddress`] where the outside address gives out
/// no ports.
pub fn expect<A: Family>(
    nat: &mut Nat<A>,
    policy: &Policy,
    control: &Session<A>,
    protocol: u8,
    port: u16,
    now: Now,
    random: &mut Random,
) -> Result<u16, DropReason> {
    let ends = Ends::of(control);
    let one_to_one = |rule: &StaticRule<A>| rule.to_internal(ends.outside) == Some(ends.inside);
    let statics = &A::translation(&policy.nat).statics;
    if statics.iter().any(one_to_one) {
        return Ok(port);
    }
    let external = policy.nat.external_of(ends.outside);
    let pool = external
        .and_then(|(index, _)| policy.nat.pool_of(index))
        .ok_or(DropReason::NoAddress)?;
    let before = Tuple {
        source: ends.inside,
        destination: ends.remote,
        source_port: port,
        destination_port: 0,
    };
    let known = nat.lookup(&FlowKey::new(before, protocol, control.realm));
    if let Some(known) = known.and_then(|entry| nat.sessions.get_mut(entry.session().0)) {
        known.last_seen = now.tick.0;
        return Ok(known.after.source_port);
    }
    let mut session = blank_session(control.realm, policy.epoch, now);
    session.before = before;
    session.after = before;
    session.protocol = protocol;
    session.ingress = control.ingress;
    session.state = State::Expected;
    session.rule = control.rule;
    session.flags = control.flags & FLAG_MASQUERADE;
    let from = Allocation {
        pool,
        ports: None,
        select: None,
    };
    let index = allocate(nat, policy, session, &from, now, random)?;
    let outside = nat.session(index).map(|s| s.after).unwrap_or_default();
    if outside.source != ends.outside {
        // The remote will not look for the host at another address.
        nat.end(policy, index, EndCause::Expired, now);
        return Err(DropReason::NoAddress);
    }
    Ok(outside.source_port)
}

/// The expectation that a packet from outside meets: the session it would belong to if it came from port 0.
pub(super) fn expected<A: Family>(
    nat: &Nat<A>,
    policy: &Policy,
    flow: &NewFlow<A>,
    now: Now,
) -> Option<SessionIndex> {
    let tuple = Tuple {
        source_port: 0,
        ..flow.facts.tuple
    };
    let entry = nat.lookup(&FlowKey::new(tuple, flow.facts.protocol, flow.realm))?;
    let session = nat.session(entry.session())?;
    let waits = session.state == State::Expected
        && session.flags & FLAG_INBOUND == 0
        && !policy
            .timeouts
            .expired(session.state, session.seen(), now.tick);
    waits.then_some(entry.session())
}
