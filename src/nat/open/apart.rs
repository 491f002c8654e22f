//! Flows that would look like a living one once they are translated.
//!
//! ```text
//!   client 203.0.113.9:5555 ──▶ 198.51.100.1:80 ──▶ 10.0.0.2:8080     seen from 203.0.113.9:5555
//!   client 203.0.113.9:5555 ──▶ 198.51.100.2:80 ──▶ 10.0.0.2:8080     seen from 203.0.113.9:49163
//! ```
//!
//! Two services with the same server behind them, two public ports of one server, or a server that is called by its own
//! address, too: the answers to both flows would be the same packets. Whoever comes second gets another source port, as on
//! Linux, and is counted.

use super::enter::{Allocation, allocate, enter};
use super::source::masquerade_pool;
use super::{NewFlow, mid_stream_refused};
use crate::base::time::Now;
use crate::base::{DropReason, InterfaceId, Random};
use crate::flow::session::{FLAG_MASQUERADE, Session, SessionIndex};
use crate::nat::ahead::Hashes;
use crate::nat::family::Family;
use crate::nat::policy::Policy;
use crate::nat::state::Nat;

/// Other source ports that are tried, each chosen at random.
const TRIES: u32 = 32;

/// Enters a session whose source is no lease of its own. It keeps its source port, or gets another one where a living flow
/// is in its way.
///
/// # Errors
/// As of [`enter`]; [`DropReason::MappingConflict`] if the source port has to stay or no other was free.
pub(super) fn enter_apart<A: Family>(
    nat: &mut Nat<A>,
    policy: &Policy,
    flow: &NewFlow<A>,
    (session, egress): (&mut Session<A>, InterfaceId),
    now: Now,
    random: &mut Random,
) -> Result<SessionIndex, DropReason> {
    let entered = enter(nat, session, &flow.hashes);
    if entered != Err(DropReason::MappingConflict) || !may_change(policy, session) {
        return entered;
    }
    mid_stream_refused(policy, flow)?;
    let apart = if flow.looped {
        from_gateway(nat, policy, flow, (session, egress), now, random)
    } else {
        from_another_port(nat, session, &flow.hashes, random)
    };
    nat.counts.told_apart += u64::from(apart.is_ok());
    apart
}

/// Whether the source port is free to change.
fn may_change<A: Family>(policy: &Policy, session: &Session<A>) -> bool {
    let (before, after) = (&session.before, &session.after);
    // A packet from itself to itself is no flow. And a direct backend answers by itself, to the port it sees.
    let (from, to) = (
        (before.source, before.source_port),
        (after.destination, after.destination_port),
    );
    let services = &A::translation(&policy.nat).services;
    from != to && services.towards(session).is_none()
}

fn from_another_port<A: Family>(
    nat: &mut Nat<A>,
    session: &mut Session<A>,
    hashes: &Hashes,
    random: &mut Random,
) -> Result<SessionIndex, DropReason> {
    let (first, last) = alike(session.after.source_port);
    for _ in 0..TRIES {
        let further = random.below(u32::from(last - first) + 1);
        session.after.source_port = first + further as u16;
        let entered = enter(nat, session, hashes);
        if entered != Err(DropReason::MappingConflict) {
            return entered;
        }
    }
    Err(DropReason::MappingConflict)
}

/// First and last of the ports a source port may be changed to. Privileged ones stay so: servers may ask for one.
fn alike(port: u16) -> (u16, u16) {
    if port < 1024 {
        (512, 1023)
    } else {
        (1024, u16::MAX)
    }
}

/// The second half of a hairpin comes from a port that is leased already, and its answers go by it: it gets an endpoint of
/// the gateway's on the server's side instead.
fn from_gateway<A: Family>(
    nat: &mut Nat<A>,
    policy: &Policy,
    flow: &NewFlow<A>,
    (session, egress): (&mut Session<A>, InterfaceId),
    now: Now,
    random: &mut Random,
) -> Result<SessionIndex, DropReason> {
    let pool = masquerade_pool(policy, flow, egress, session.after.destination)?;
    let from = Allocation {
        pool: policy.nat.pool(pool).ok_or(DropReason::Internal)?,
        ports: None,
        select: None,
        exactly: None,
        hashes: flow.hashes,
    };
    session.flags |= FLAG_MASQUERADE;
    allocate(nat, policy, session, &from, now, random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileged_ports_stay_so() {
        for (port, range) in [
            (0, (512, 1023)),
            (1023, (512, 1023)),
            (1024, (1024, u16::MAX)),
            (u16::MAX, (1024, u16::MAX)),
        ] {
            assert_eq!(alike(port), range, "{port}");
        }
    }
}
