//! Flows that a control flow announced: expected from its remote or from anybody, from any port, to an endpoint of its
//! inside host.

use super::NewFlow;
use super::enter::{Allocation, allocate};
use crate::base::time::Now;
use crate::base::{DropReason, Random, RealmId};
use crate::flow::key::{FlowKey, Tuple};
use crate::flow::session::{
    Direction, FLAG_INBOUND, FLAG_MASQUERADE, Session, SessionIndex, State,
};
use crate::nat::ahead::Hashes;
use crate::nat::family::Family;
use crate::nat::policy::Policy;
use crate::nat::rules::StaticRule;
use crate::nat::state::{EndCause, Nat, blank_session};

/// How often another pair of ports is tried before any two have to do.
const PAIRS: u32 = 8;

/// The endpoints of a translated flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends<A> {
    /// The inside host.
    pub inside: A,
    /// What it looks like from outside.
    pub outside: A,
    /// The other host, as the inside sees it.
    pub remote: A,
    /// The port of the inside host.
    pub inside_port: u16,
    /// What that looks like from outside.
    pub outside_port: u16,
    /// The realm of the inside host.
    pub inside_realm: RealmId,
    /// The realm it is seen from.
    pub outside_realm: RealmId,
}

impl<A: Family> Ends<A> {
    /// Those of a session.
    pub fn of(session: &Session<A>) -> Ends<A> {
        let (before, after) = (&session.before, &session.after);
        if session.from_inside(Direction::Forward) {
            Ends {
                inside: before.source,
                outside: after.source,
                remote: after.destination,
                inside_port: before.source_port,
                outside_port: after.source_port,
                inside_realm: session.realm,
                outside_realm: session.far_realm,
            }
        } else {
            Ends {
                inside: after.destination,
                outside: before.destination,
                remote: after.source,
                inside_port: after.destination_port,
                outside_port: before.destination_port,
                inside_realm: session.far_realm,
                outside_realm: session.realm,
            }
        }
    }
}

/// Who opens an expected flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The remote of the control flow. The flow ends the expectation.
    Remote,
    /// Whoever comes first, and whoever comes after, until the expectation has lived its time.
    Anyone,
}

/// A flow to expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// IP protocol: TCP or UDP.
    pub protocol: u8,
    /// Port of the inside host.
    pub port: u16,
    /// From whom.
    pub caller: Caller,
}

impl Wanted {
    /// A flow from the remote of the control flow.
    pub fn from_remote(protocol: u8, port: u16) -> Wanted {
        Wanted {
            protocol,
            port,
            caller: Caller::Remote,
        }
    }

    /// A flow from anybody.
    pub fn from_anyone(protocol: u8, port: u16) -> Wanted {
        Wanted {
            caller: Caller::Anyone,
            ..Wanted::from_remote(protocol, port)
        }
    }
}

/// The outside port of an expected flow.
struct Outside {
    port: u16,
    /// The expectation, if it is new.
    new: Option<SessionIndex>,
}

/// Expects a flow to an endpoint of the inside host of `control`, and returns the outside port it comes to. The same
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
    wanted: &Wanted,
    now: Now,
    random: &mut Random,
) -> Result<u16, DropReason> {
    expect_at(nat, policy, control, wanted, None, now, random).map(|outside| outside.port)
}

/// Expects two flows, and returns their outside ports: an even one and the one after it (RFC 3550 section 11), if the inside
/// ports are such a pair and the pool has one to give.
///
/// # Errors
/// As of [`expect`]; then neither is expected.
pub fn expect_pair<A: Family>(
    nat: &mut Nat<A>,
    policy: &Policy,
    control: &Session<A>,
    wanted: [Wanted; 2],
    now: Now,
    random: &mut Random,
) -> Result<[u16; 2], DropReason> {
    let [first, second] = wanted;
    let paired = first.port.is_multiple_of(2) && second.port == first.port + 1;
    let tries = if paired { PAIRS } else { 0 };
    for _ in 0..tries {
        let mut lower = expect_at(nat, policy, control, &first, None, now, random)?;
        if let Some(new) = lower.new.filter(|_| !lower.port.is_multiple_of(2)) {
            nat.withdraw(policy, new, now);
            let even = Some(lower.port - 1);
            lower = match expect_at(nat, policy, control, &first, even, now, random) {
                Ok(lower) => lower,
                Err(_) => continue,
            };
        }
        let upper = lower.port.checked_add(1);
        match expect_at(nat, policy, control, &second, upper, now, random) {
            Ok(second) if Some(second.port) == upper || lower.new.is_none() => {
                return Ok([lower.port, second.port]);
            }
            // The second had its port already: there is no choice.
            Ok(second) if second.new.is_none() => return Ok([lower.port, second.port]),
            Ok(other) => take_back(nat, policy, &other, now),
            // The first keeps the port it had, and any has to do for the second.
            Err(_) if lower.new.is_none() => break,
            Err(_) => {}
        }
        take_back(nat, policy, &lower, now);
    }
    let lower = expect_at(nat, policy, control, &first, None, now, random)?;
    match expect_at(nat, policy, control, &second, None, now, random) {
        Ok(upper) => Ok([lower.port, upper.port]),
        Err(reason) => {
            take_back(nat, policy, &lower, now);
            Err(reason)
        }
    }
}

/// As if it had not been expected, if nothing else had done so.
fn take_back<A: Family>(nat: &mut Nat<A>, policy: &Policy, outside: &Outside, now: Now) {
    if let Some(new) = outside.new {
        nat.withdraw(policy, new, now);
    }
}

/// [`expect`], at an outside port of the caller's choice unless the inside endpoint has one already.
fn expect_at<A: Family>(
    nat: &mut Nat<A>,
    policy: &Policy,
    control: &Session<A>,
    wanted: &Wanted,
    at: Option<u16>,
    now: Now,
    random: &mut Random,
) -> Result<Outside, DropReason> {
    let ends = Ends::of(control);
    let one_to_one = |rule: &StaticRule<A>| rule.to_internal(ends.outside) == Some(ends.inside);
    let statics = &A::translation(&policy.nat).statics;
    if statics.iter().any(one_to_one) {
        return Ok(Outside {
            port: wanted.port,
            new: None,
        });
    }
    let external = policy.nat.external_of(ends.outside);
    let pool = external
        .and_then(|(index, _)| policy.nat.pool_of(index))
        .ok_or(DropReason::NoAddress)?;
    let before = Tuple {
        source: ends.inside,
        destination: match wanted.caller {
            Caller::Remote => ends.remote,
            Caller::Anyone => A::default(),
        },
        source_port: wanted.port,
        destination_port: 0,
    };
    let known = nat.lookup(&FlowKey::new(before, wanted.protocol, ends.inside_realm));
    if let Some(known) = known.and_then(|entry| nat.sessions.get_mut(entry.session().0)) {
        known.last_seen = now.tick.0;
        return Ok(Outside {
            port: known.after.source_port,
            new: None,
        });
    }
    let mut session = blank_session(ends.inside_realm, policy.epoch, now);
    session.far_realm = ends.outside_realm;
    session.before = before;
    session.after = before;
    session.protocol = wanted.protocol;
    session.ingress = control.ingress;
    session.state = State::Expected;
    session.rule = control.rule;
    session.flags = control.flags & FLAG_MASQUERADE;
    let from = Allocation {
        pool,
        ports: None,
        select: None,
        exactly: at,
        hashes: Hashes::default(),
    };
    let index = allocate(nat, policy, &mut session, &from, now, random)?;
    let outside = nat.session(index).map(|s| s.after).unwrap_or_default();
    if { outside.source } != ends.outside {
        // The remote will not look for the host at another address.
        nat.withdraw(policy, index, now);
        return Err(DropReason::NoAddress);
    }
    Ok(Outside {
        port: outside.source_port,
        new: Some(index),
    })
}

/// The expectation that a packet from outside meets: the session it would belong to if it came from port 0, of its own
/// address or of none.
pub(super) fn expected<A: Family>(
    nat: &Nat<A>,
    policy: &Policy,
    flow: &NewFlow<A>,
    now: Now,
) -> Option<SessionIndex> {
    let from = |source| {
        let tuple = Tuple {
            source,
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
    };
    from(flow.facts.tuple.source).or_else(|| from(A::default()))
}

/// The flow came that was expected: the expectation ends, unless it is one of more than one flow.
pub(super) fn met<A: Family>(nat: &mut Nat<A>, policy: &Policy, index: SessionIndex, now: Now) {
    let of_one = |session: &Session<A>| { session.before.destination } != A::default();
    if nat.session(index).is_some_and(of_one) {
        nat.end(policy, index, EndCause::Met, now);
    }
}
