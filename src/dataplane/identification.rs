//! IPv4 identifications of packets that are fragmented here, or may be further on (RFC 6864).
//!
//! An identification tells the fragments of one datagram from those of another with the same addresses and protocol. Behind
//! a translator several hosts share a source address and know nothing of each other, so two of them may send the same
//! number to the same remote at the same time (RFC 6864 section 5.3.1, RFC 3022 section 6.3). Where natgate cuts a
//! translated datagram, or answers with a packet that may be cut, it is the source, and numbers it itself. Packets that
//! must not be fragmented need no number that means anything (section 4.1): those made here carry 0. A datagram that comes
//! in pieces gets a number, too, when its first one shows where it goes; all its pieces leave with it. Whole datagrams that
//! nobody cuts here keep their sender's.

use crate::base::{Random, WorkerId};
use crate::dataplane::buffer::{Buffer, Incoming};
use crate::nat::policy::Policy;
use crate::wire::checksum::Delta;
use crate::wire::ipv4;
use crate::wire::parse::{Network, Parsed};

/// The numbers of one worker: every n-th for one of n workers, from an unpredictable start.
pub(super) struct Identification {
    worker: u16,
    turn: u16,
}

impl Identification {
    pub(super) fn new(worker: WorkerId, random: &mut Random) -> Identification {
        Identification {
            worker: u16::from(worker.0),
            turn: random.next_u64() as u16,
        }
    }

    /// Numbers the packet at `l3` anew, unless it must not be fragmented or is a piece already.
    // Implements: P10, F9.
    pub(super) fn renew(&mut self, policy: &Policy, frame: &mut [u8], l3: usize) {
        const WHOLE: u16 = ipv4::DONT_FRAGMENT | ipv4::MORE_FRAGMENTS | ipv4::OFFSET_MASK;
        if ipv4::flags_offset(frame, l3) & WHOLE == 0 {
            set(frame, l3, self.next(policy));
        }
    }

    /// The next number.
    pub(super) fn next(&mut self, policy: &Policy) -> u16 {
        // Each worker goes once through its share before a number comes again.
        let workers = u16::from(policy.workers.max(1));
        let share = u16::MAX / workers;
        self.turn = (self.turn % share + 1) % share;
        self.turn * workers + self.worker
    }
}

/// Gives a piece that was just translated the number of its datagram, if its source is now one that several hosts share.
// Implements: P10, F9, F10.
#[cold]
pub(super) fn number_piece<B: Buffer>(
    policy: &Policy,
    incoming: &mut Incoming<B>,
    packet: &Parsed,
) {
    let (Some(shown), Network::Ipv4) = (incoming.shown, packet.network) else {
        return;
    };
    let l3 = usize::from(packet.l3);
    let frame = incoming.buffer.bytes_mut();
    let source = ipv4::source(frame, l3);
    if policy.is_translated_address(source) {
        set(frame, l3, shown.number);
    }
}

fn set(frame: &mut [u8], l3: usize, number: u16) {
    let change = Delta::u16(ipv4::id(frame, l3), number);
    ipv4::set_id(frame, l3, number);
    ipv4::apply_checksum(frame, l3, change);
}
