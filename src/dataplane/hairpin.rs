//! Hairpins: packets whose translated destination is an external address of ours.

use crate::base::DropReason;
use crate::base::time::Now;
use crate::dataplane::buffer::{Buffer, Incoming, Sink};
use crate::dataplane::egress::{arrival, clamp_mss, is_syn};
use crate::dataplane::family::Ip;
use crate::dataplane::help::Helped;
use crate::dataplane::shard::Shard;
use crate::flow::session::{Direction, FLAG_HELPED, SessionIndex};
use crate::nat::policy::Policy;
use crate::nat::rewrite;
use crate::wire::parse::Parsed;

impl<B: Buffer> Shard<B> {
    /// The translated destination is one of our external addresses: on to the second half of the hairpin. It counts as
    /// one hop, so the TTL stays as it is here.
    // Implements: U9, U9a, T8, T8a.
    #[cold]
    #[allow(clippy::too_many_arguments)]
    pub(super) fn hit_loop<A: Ip>(
        &mut self,
        policy: &Policy,
        now: Now,
        index: SessionIndex,
        direction: Direction,
        mut incoming: Incoming<B>,
        packet: &Parsed,
        sink: &mut impl Sink<B>,
    ) {
        let nat = A::nat(&self.nat, &self.nat_v6);
        let Some(session) = nat.session(index).copied() else {
            return self.discard(incoming.buffer, DropReason::Internal, sink);
        };
        let Some(home) = policy.home_of(
            session.routed_in(direction),
            session.leaving(direction).destination,
        ) else {
            return self.discard(incoming.buffer, DropReason::ConfigChanged, sink);
        };
        let mut packet = *packet;
        if session.flags & FLAG_HELPED != 0 {
            let helped = Helped {
                policy,
                now,
                index,
                session: &session,
                direction,
                buffer: &mut incoming.buffer,
                packet: &mut packet,
            };
            if let Err(reason) = self.help(helped) {
                return self.discard(incoming.buffer, reason, sink);
            }
        }
        let packet = &packet;
        let (mut addresses, mut transport) = (
            crate::wire::checksum::Delta::from_raw(session.address_delta),
            crate::wire::checksum::Delta::from_raw(session.transport_delta),
        );
        if direction == Direction::Reverse {
            (addresses, transport) = (addresses.inverse(), transport.inverse());
        }
        if is_syn(packet) {
            let crossed = [arrival(&incoming), None];
            clamp_mss(policy, incoming.buffer.bytes_mut(), packet, crossed);
        }
        rewrite::translate(
            incoming.buffer.bytes_mut(),
            packet,
            &session.leaving(direction),
            addresses,
            transport,
        );
        let bytes = incoming.buffer.bytes();
        A::nat_mut(&mut self.nat, &mut self.nat_v6).saw(index, direction, packet, bytes, now.tick);
        self.accounts.packet(session.rule, packet.ip_length);
        if let Some(shown) = &mut incoming.shown {
            let to = session.leaving(direction);
            shown.upper.ports = (to.source_port, to.destination_port);
        }
        self.loop_back(policy, incoming, home, sink);
    }
}
