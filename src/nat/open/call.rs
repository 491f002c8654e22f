//! PPTP's calls: flows of GRE that are told apart by call ids as others are by ports.
//!
//! A packet carries the id its receiver gave the call (RFC 2637 section 4.1), and shows nothing of the other one. So a call is
//! two flows, one each way, in which the id stands for the destination port and nothing for the source port:
//!
//! ```text
//!   10.0.0.2 → 203.0.113.9, call 7        ⇒   203.0.113.1 → 203.0.113.9, call 7
//!   203.0.113.9 → 203.0.113.1, call 9     ⇒   203.0.113.9 → 10.0.0.2, call 3
//! ```
//!
//! The outside id of an inside call names the worker whose flow it is, by its remainder, so that packets find the
//! subscriber's worker, where the control connection lies. ICMP errors about a call's packets show the other id: with more
//! workers than one they reach their sender by chance alone.

use super::enter::enter_alone;
use super::expected::Ends;
use crate::base::time::Now;
use crate::base::{DropReason, Random, WorkerId};
use crate::flow::key::{FlowKey, Tuple};
use crate::flow::session::{
    FLAG_ALLOWED, FLAG_INBOUND, FLAG_MASQUERADE, Session, SessionIndex, State,
};
use crate::nat::family::Family;
use crate::nat::policy::Policy;
use crate::nat::state::{EndCause, Nat, blank_session};
use crate::wire::GRE;

/// Outside ids that are tried for a call before it is refused.
const TRIES: u32 = 64;

/// The worker that has the calls with an outside id.
pub fn worker_of(call: u16, workers: u8) -> WorkerId {
    WorkerId((call % u16::from(workers.max(1))) as u8)
}

/// Lets the remote of `control` send to a call of the inside host, and returns the call's outside id: the same, if it is
/// free.
///
/// # Errors
/// What refuses a new flow of the host; [`DropReason::NoPort`] where no id is free.
// Implements: OT3.
pub fn begin_call<A: Family>(
    nat: &mut Nat<A>,
    policy: &Policy,
    control: &Session<A>,
    call: u16,
    now: Now,
    random: &mut Random,
) -> Result<u16, DropReason> {
    if let Some((known, outside)) = known_call(nat, control, call) {
        refresh(nat, known, now);
        return Ok(outside);
    }
    let ends = Ends::of(control);
    let mut candidate = call;
    for _ in 0..TRIES {
        let own = worker_of(candidate, policy.workers) == nat.worker;
        if candidate != 0 && own && called(nat, control, candidate).is_none() {
            let mut session = flow(policy, control, now);
            session.flags |= FLAG_INBOUND;
            (session.realm, session.far_realm) = (ends.outside_realm, ends.inside_realm);
            session.before = to(ends.remote, ends.outside, candidate);
            session.after = to(ends.remote, ends.inside, call);
            return enter_alone(nat, policy, session, now).map(|_| candidate);
        }
        let classes = u32::from(u16::MAX) / u32::from(policy.workers.max(1));
        let nth = random.below(classes) as u16;
        candidate = nth * u16::from(policy.workers.max(1)) + u16::from(nat.worker.0);
    }
    Err(DropReason::NoPort)
}

/// Lets the inside host of `control` send to a call of the remote.
///
/// # Errors
/// What refuses a new flow of the host; [`DropReason::NoPortConflict`] where another inside host with the same outside address
/// has a call of that id at the remote.
pub fn join_call<A: Family>(
    nat: &mut Nat<A>,
    policy: &Policy,
    control: &Session<A>,
    call: u16,
    now: Now,
) -> Result<(), DropReason> {
    if let Some(known) = joined(nat, control, call) {
        refresh(nat, known, now);
        return Ok(());
    }
    let ends = Ends::of(control);
    let mut session = flow(policy, control, now);
    (session.realm, session.far_realm) = (ends.inside_realm, ends.outside_realm);
    session.before = to(ends.inside, ends.remote, call);
    session.after = to(ends.outside, ends.remote, call);
    enter_alone(nat, policy, session, now).map(|_| ())
}

/// The inside id of the call that the remote of `control` knows by `outside`.
pub fn inside_call<A: Family>(nat: &Nat<A>, control: &Session<A>, outside: u16) -> Option<u16> {
    let ends = Ends::of(control);
    let session = nat.session(called(nat, control, outside)?)?;
    ({ session.after.destination } == ends.inside).then_some(session.after.destination_port)
}

/// The id by which the remote of `control` knows the inside host's call.
pub fn outside_call<A: Family>(nat: &Nat<A>, control: &Session<A>, call: u16) -> Option<u16> {
    known_call(nat, control, call).map(|(_, outside)| outside)
}

/// The flow to a call of the inside host, and the id the remote knows it by.
fn known_call<A: Family>(
    nat: &Nat<A>,
    control: &Session<A>,
    call: u16,
) -> Option<(SessionIndex, u16)> {
    let ends = Ends::of(control);
    let tuple = to(ends.remote, ends.inside, call).reversed();
    let entry = nat.lookup(&FlowKey::new(tuple, GRE, ends.inside_realm))?;
    let session = nat.session(entry.session())?;
    Some((entry.session(), session.before.destination_port))
}

/// The remote's call is over, and with it the flow to it. That to the inside host ends when it is idle: what says that it is
/// over may have to be said again, with the same id.
pub fn leave_call<A: Family>(
    nat: &mut Nat<A>,
    policy: &Policy,
    control: &Session<A>,
    call: u16,
    now: Now,
) {
    if let Some(index) = joined(nat, control, call) {
        nat.end(policy, index, EndCause::Met, now);
    }
}

/// The flow to a call of the inside host that the remote knows by `outside`.
fn called<A: Family>(nat: &Nat<A>, control: &Session<A>, outside: u16) -> Option<SessionIndex> {
    let ends = Ends::of(control);
    let tuple = to(ends.remote, ends.outside, outside);
    let entry = nat.lookup(&FlowKey::new(tuple, GRE, ends.outside_realm))?;
    Some(entry.session())
}

/// The flow to a call of the remote.
fn joined<A: Family>(nat: &Nat<A>, control: &Session<A>, call: u16) -> Option<SessionIndex> {
    let ends = Ends::of(control);
    let tuple = to(ends.inside, ends.remote, call);
    let entry = nat.lookup(&FlowKey::new(tuple, GRE, ends.inside_realm))?;
    Some(entry.session())
}

fn refresh<A: Family>(nat: &mut Nat<A>, index: SessionIndex, now: Now) {
    if let Some(session) = nat.sessions.get_mut(index.0) {
        session.last_seen = now.tick.0;
    }
}

fn to<A: Family>(source: A, destination: A, call: u16) -> Tuple<A> {
    Tuple {
        source,
        destination,
        source_port: 0,
        destination_port: call,
    }
}

/// What both flows have in common. The filter let the control connection pass, and its calls with it.
fn flow<A: Family>(policy: &Policy, control: &Session<A>, now: Now) -> Session<A> {
    let mut session = blank_session(control.realm, policy.epoch, now);
    session.protocol = GRE;
    session.ingress = control.ingress;
    session.state = State::Other;
    session.rule = control.rule;
    session.flags = control.flags & FLAG_MASQUERADE | FLAG_ALLOWED;
    session
}
