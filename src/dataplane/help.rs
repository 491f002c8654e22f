//! Packets of sessions with a helper: texts are changed, flows expected, sequence numbers moved.

mod ftp;
mod payload;
mod pptp;
mod rtsp;
mod sip;

use crate::base::DropReason;
use crate::base::time::Now;
use crate::dataplane::buffer::Buffer;
use crate::dataplane::family::Ip;
use crate::dataplane::shard::Shard;
use crate::flow::session::{Direction, Session, SessionIndex};
use crate::nat::behaviour::Remote;
use crate::nat::helpers::Helper;
use crate::nat::mapping::{Mapping, OutsideEndpoint};
use crate::nat::open::{Ends, Wanted, expect, expect_pair};
use crate::nat::policy::Policy;
use crate::nat::ports::PortSpace;
use crate::nat::state::Nat;
use crate::wire::parse::{Parsed, Transport};
use crate::wire::{UDP, tcp};

/// A packet of a session with a helper, before its translation.
pub(super) struct Helped<'a, A: Copy, B> {
    pub policy: &'a Policy,
    pub now: Now,
    pub index: SessionIndex,
    pub session: &'a Session<A>,
    pub direction: Direction,
    pub buffer: &'a mut B,
    pub packet: &'a mut Parsed,
}

impl<B: Buffer> Shard<B> {
    /// Does what the session's helper does with a packet, whose length may change.
    ///
    /// # Errors
    /// The reason to drop the packet: it would pass unhelped.
    #[cold]
    pub(super) fn help<A: Ip>(&mut self, mut helped: Helped<'_, A, B>) -> Result<(), DropReason> {
        let from_inside = helped.session.from_inside(helped.direction);
        if helped.packet.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN {
            // A new connection on the old one's ports.
            self.nat_of::<A>().controls.forget(helped.index);
        }
        match (Helper::of(helped.session), helped.packet.transport) {
            (Some(Helper::Ftp), Transport::Tcp) if from_inside => self.ftp(helped),
            (Some(Helper::Ftp), Transport::Tcp) => {
                self.move_numbers(&mut helped);
                Ok(())
            }
            (Some(Helper::Tftp), Transport::Udp) if from_inside => {
                // The server answers from a port of its choice. If it cannot be expected, it is refused like anyone.
                let client = helped.session.arriving(helped.direction).source_port;
                let _ = self.expect(&helped, &Wanted::from_remote(UDP, client));
                Ok(())
            }
            (Some(Helper::Sip), Transport::Udp | Transport::LaterFragment) => self.sip(helped),
            (Some(Helper::Pptp), Transport::Tcp) => self.pptp(helped),
            (Some(Helper::Rtsp), Transport::Tcp) => self.rtsp(helped),
            _ => Ok(()),
        }
    }

    /// The state of a family's flows.
    fn nat_of<A: Ip>(&mut self) -> &mut Nat<A> {
        A::nat_mut(&mut self.nat, &mut self.nat_v6)
    }

    /// Expects a flow for the inside host, and counts it when it is refused.
    fn expect<A: Ip>(
        &mut self,
        helped: &Helped<'_, A, B>,
        wanted: &Wanted,
    ) -> Result<u16, DropReason> {
        let nat = A::nat_mut(&mut self.nat, &mut self.nat_v6);
        let (policy, control) = (helped.policy, helped.session);
        let outside = expect(nat, policy, control, wanted, helped.now, &mut self.random);
        nat.counts.expectations_refused += u64::from(outside.is_err());
        outside
    }

    /// Expects two flows, on a pair of ports if that can be, and counts it when they are refused.
    fn expect_pair<A: Ip>(
        &mut self,
        helped: &Helped<'_, A, B>,
        wanted: [Wanted; 2],
    ) -> Result<[u16; 2], DropReason> {
        let nat = A::nat_mut(&mut self.nat, &mut self.nat_v6);
        let (policy, control) = (helped.policy, helped.session);
        let outside = expect_pair(nat, policy, control, wanted, helped.now, &mut self.random);
        nat.counts.expectations_refused += u64::from(outside.is_err());
        outside
    }

    /// The port of the inside host whose mapping has a UDP port of its outside address.
    fn inside_port<A: Ip>(
        &self,
        helped: &Helped<'_, A, B>,
        ends: &Ends<A>,
        port: u16,
    ) -> Option<u16> {
        let nat = A::nat(&self.nat, &self.nat_v6);
        let outside = OutsideEndpoint {
            address: ends.outside,
            port,
            space: PortSpace::Udp,
        };
        let remote = Remote {
            address: ends.remote,
            port: helped.packet.source_port,
        };
        let first = nat.mappings.find_outside(&nat.sessions, outside, remote)?;
        let inside = nat.session(first).and_then(Mapping::of)?.inside;
        let own = inside.address == ends.inside && inside.realm == ends.inside_realm;
        own.then_some(inside.port)
    }

    /// Moves the numbers of a segment that lies behind texts whose length changed.
    fn move_numbers<A: Ip>(&mut self, helped: &mut Helped<'_, A, B>) {
        let from_inside = helped.session.from_inside(helped.direction);
        let (l4, end) = (usize::from(helped.packet.l4), helped.packet.end());
        let control = self.nat_of::<A>().controls.get(helped.index);
        if let (Some(control), Some(frame)) = (control, helped.buffer.bytes_mut().get_mut(..end)) {
            control.sent(from_inside).move_sequence(frame, l4);
            control.sent(!from_inside).move_acknowledgment(frame, l4);
        }
    }
}
