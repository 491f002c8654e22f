//! Packets of sessions with a helper: texts are changed, flows expected, sequence numbers moved.

mod ftp;
mod payload;
mod pptp;
mod sip;

use crate::base::DropReason;
use crate::base::time::Now;
use crate::dataplane::buffer::Buffer;
use crate::dataplane::family::Ip;
use crate::dataplane::shard::Shard;
use crate::flow::session::{Direction, Session, SessionIndex};
use crate::nat::helpers::Helper;
use crate::nat::open::{Wanted, expect};
use crate::nat::policy::Policy;
use crate::nat::state::Nat;
use crate::wire::parse::{Parsed, Transport};
use crate::wire::{UDP, tcp};

/// A packet of a session with a helper, before its translation.
pub(super) struct Helped<'a, A, B> {
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
    pub(super) fn help<A: Ip>(&mut self, helped: Helped<'_, A, B>) -> Result<(), DropReason> {
        let from_inside = helped.session.from_inside(helped.direction);
        if helped.packet.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN {
            // A new connection on the old one's ports.
            self.nat_of::<A>().controls.forget(helped.index);
        }
        match (Helper::of(helped.session), helped.packet.transport) {
            (Some(Helper::Ftp), Transport::Tcp) if from_inside => self.ftp(helped),
            (Some(Helper::Ftp), Transport::Tcp) => {
                if let Some(control) = self.nat_of::<A>().controls.get(helped.index) {
                    let (l4, end) = (usize::from(helped.packet.l4), helped.packet.end());
                    if let Some(frame) = helped.buffer.bytes_mut().get_mut(..end) {
                        control.shift.move_acknowledgment(frame, l4);
                    }
                }
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
}
