//! Services at work: packets nobody serves, and those that reach their backend as they are.

use crate::base::DropReason;
use crate::base::time::Now;
use crate::dataplane::buffer::{Buffer, Incoming, Sink};
use crate::dataplane::family::Ip;
use crate::dataplane::shard::Shard;
use crate::flow::session::{Direction, Session};
use crate::gateway::errors::ErrorKind;
use crate::nat::filter::Answer;
use crate::nat::policy::Policy;
use crate::nat::services::Refusal;
use crate::wire::parse::{Parsed, Transport};

impl<B: Buffer> Shard<B> {
    /// Drops a packet that no service or no backend can have, and tells its sender if the service says so.
    pub(super) fn refuse_service<A: Ip>(
        &mut self,
        policy: &Policy,
        now: Now,
        incoming: Incoming<B>,
        packet: &Parsed,
        reason: DropReason,
        sink: &mut impl Sink<B>,
    ) {
        let tuple = A::tuple(incoming.buffer.bytes(), packet);
        let services = &A::translation(&policy.nat).services;
        let refusal = services.refusal(&tuple, packet.protocol);
        if refusal == Refusal::Reject {
            let answer = match packet.transport {
                Transport::Tcp => Answer::Reset,
                _ => Answer::Error(ErrorKind::PortUnreachable),
            };
            self.tell(policy, now, answer, &incoming, packet, sink);
        }
        self.discard(incoming.buffer, reason, sink);
    }
}

/// The address whose next hop carries a session's packets of one direction.
pub(super) fn towards<A: Ip>(policy: &Policy, session: &Session<A>, direction: Direction) -> A {
    let direct = match direction {
        Direction::Forward => A::translation(&policy.nat).services.towards(session),
        Direction::Reverse => None,
    };
    direct.unwrap_or_else(|| session.leaving(direction).destination)
}
