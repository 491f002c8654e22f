//! Sessions made under an older policy: which of them go on.

use crate::base::time::Now;
use crate::flow::session::{
    Direction, Egress, FLAG_MASQUERADE, FLAG_STATIC, Session, SessionIndex,
};
use crate::nat::family::Family;
use crate::nat::filter::flows;
use crate::nat::mapping::Mapping;
use crate::nat::open::flow_hash;
use crate::nat::policy::Policy;
use crate::nat::state::{EndCause, Nat};

/// Whether a session made under an older policy may go on under `policy`. A session keeps its treatment until it ends
/// (E15); it ends early only when its outside address is gone or under quarantine, or when it masquerades and the address or the route it
/// was made for changed (E11, E13b), when the backend of its service went away and takes its sessions along, or when what
/// it leads to has become an address of the gateway's own, which answers for itself from then on.
pub fn still_valid<A: Family>(policy: &Policy, session: &Session<A>) -> bool {
    let quarantined = &A::translation(&policy.nat).quarantined;
    if !quarantined.is_empty()
        && Mapping::of(session).is_some_and(|m| quarantined.contains(&m.outside.address))
    {
        return false;
    }
    if A::translation(&policy.nat).services.has_ended(session) {
        return false;
    }
    if leads_here(policy, session) {
        return false;
    }
    let (own, source) = (session.before.source, session.after.source);
    if own == source || session.flags & FLAG_STATIC != 0 {
        return true;
    }
    if policy.nat.external_of(source).is_none() {
        return false;
    }
    if session.flags & FLAG_MASQUERADE == 0 || session.egress[0] == Egress::LOOP {
        return true;
    }
    let (to, hash) = (session.after.destination, flow_hash(&session.before));
    let hop = A::route(&policy.routes, session.realm, to, hash);
    let owner = A::local(&policy.routes, session.far_realm, source);
    match (hop, owner) {
        (Some(hop), Some(owner)) => {
            hop.interface == owner.interface
                && policy.interfaces.get(owner.interface).is_some_and(|i| i.up)
        }
        _ => false,
    }
}

/// Whether sessions stand under `after` as they stood under `before`, so that none has to be looked at again: everything
/// that [`still_valid`], the way out and the filter's word on answers depend on is the same. Rules, limits, pools' ways of
/// giving out ports and the like decide new flows only. Answers "no" where comparing would cost more than it saves.
pub fn stands_alike(before: &Policy, after: &Policy) -> bool {
    !before.filter.judges_answers()
        && !after.filter.judges_answers()
        && before.interfaces == after.interfaces
        && before.routes.entries() == after.routes.entries()
        && translation_alike::<u32>(before, after)
        && translation_alike::<u128>(before, after)
}

fn translation_alike<A: Family>(before: &Policy, after: &Policy) -> bool {
    let (before, after) = (A::translation(&before.nat), A::translation(&after.nat));
    before.by_address == after.by_address
        && before.quarantined == after.quarantined
        && before.services.keep_sessions_as(&after.services)
}

/// Whether the gateway itself has the address a session leads to. A hairpin leads to an external one of its own.
fn leads_here<A: Family>(policy: &Policy, session: &Session<A>) -> bool {
    let direct = A::translation(&policy.nat).services.towards(session);
    let to = direct.unwrap_or(session.after.destination);
    let own = |realm| A::local(&policy.routes, realm, to).is_some();
    session.egress[Direction::Forward.index()] != Egress::LOOP
        && (own(session.routed_in(Direction::Forward)) || own(session.far_realm))
}

/// Ends a session whose policy is gone, or stamps it as valid under the new one. Returns whether it lives.
pub fn revalidate<A: Family>(
    nat: &mut Nat<A>,
    policy: &Policy,
    index: SessionIndex,
    now: Now,
) -> bool {
    let Some(session) = nat.sessions.get(index.0) else {
        return false;
    };
    if !still_valid(policy, session) {
        nat.end(policy, index, EndCause::ConfigChanged, now);
        return false;
    }
    if let Some(session) = nat.sessions.get_mut(index.0) {
        session.generation = policy.epoch;
        for egress in &mut session.egress {
            if *egress != Egress::LOOP {
                *egress = Egress::UNKNOWN;
            }
        }
        flows::bar_answers(policy, session, None);
    }
    true
}
