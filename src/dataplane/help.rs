//! Packets of sessions with a helper: texts are changed, flows expected, sequence numbers moved.

use arrayvec::ArrayVec;

use crate::base::DropReason;
use crate::base::time::Now;
use crate::dataplane::buffer::Buffer;
use crate::dataplane::family::Ip;
use crate::dataplane::shard::Shard;
use crate::flow::session::{Direction, Session, SessionIndex};
use crate::nat::helpers::Helper;
use crate::nat::helpers::control::{Control, TEXT};
use crate::nat::helpers::ftp::{self, Named, Scan, Speaker};
use crate::nat::open::{Ends, expect};
use crate::nat::policy::Policy;
use crate::nat::state::Nat;
use crate::wire::parse::{Parsed, Transport};
use crate::wire::{TCP, UDP, tcp};

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
                let _ = self.expect(&helped, UDP, client);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The state of a family's flows.
    fn nat_of<A: Ip>(&mut self) -> &mut Nat<A> {
        A::nat_mut(&mut self.nat, &mut self.nat_v6)
    }

    fn expect<A: Ip>(
        &mut self,
        helped: &Helped<'_, A, B>,
        protocol: u8,
        port: u16,
    ) -> Result<u16, DropReason> {
        let random = &mut self.random;
        let nat = A::nat_mut(&mut self.nat, &mut self.nat_v6);
        let outside = expect(
            nat,
            helped.policy,
            helped.session,
            protocol,
            port,
            helped.now,
            random,
        );
        if outside.is_err() {
            nat.counts.expectations_refused += 1;
        }
        outside
    }

    /// A segment of an FTP control connection that the inside sends.
    fn ftp<A: Ip>(&mut self, mut helped: Helped<'_, A, B>) -> Result<(), DropReason> {
        let (l4, end) = (usize::from(helped.packet.l4), helped.packet.end());
        let bytes = helped.buffer.bytes();
        let start = l4 + tcp::header_length(bytes, l4);
        let speaker = match helped.direction {
            Direction::Forward => Speaker::Client,
            Direction::Reverse => Speaker::Server,
        };
        let whole = !helped.packet.fragment.is_fragment();
        let payload = bytes.get(start..end).filter(|_| whole).unwrap_or_default();
        match ftp::scan(payload, speaker) {
            Scan::Nothing => {}
            Scan::Partial => return Err(DropReason::HelperUnfit),
            Scan::Named(named) => self.ftp_named(&mut helped, start, &named)?,
        }
        if let Some(control) = self.nat_of::<A>().controls.get(helped.index) {
            control.shift.move_sequence(helped.buffer.bytes_mut(), l4);
        }
        Ok(())
    }

    /// A line that names an endpoint of the inside host, in a payload that starts at `start`.
    fn ftp_named<A: Ip>(
        &mut self,
        helped: &mut Helped<'_, A, B>,
        start: usize,
        named: &Named,
    ) -> Result<(), DropReason> {
        let bytes = helped.buffer.bytes();
        let (l4, end) = (usize::from(helped.packet.l4), helped.packet.end());
        let (source, destination) = A::ends(bytes, helped.packet);
        let segment = bytes.get(l4..end).unwrap_or_default();
        if A::transport_checksum(source, destination, TCP, segment) != 0 {
            // The receiver would have to trust a checksum made here.
            return Err(DropReason::L4Checksum);
        }
        let ends = Ends::of(helped.session);
        // A third host's address is none of ours (RFC 2577 section 3: bounce attacks).
        let own = |address| [ends.inside.to_ip(), ends.outside.to_ip()].contains(&address);
        if named.address.is_some_and(|address| !own(address)) {
            return Ok(());
        }
        let range = start + named.range.start..start + named.range.end;
        let position = tcp::sequence(bytes, l4).wrapping_add(named.range.start as u32);
        let control = self.nat_of::<A>().controls.get(helped.index);
        let behind = |c: &&Control| position.wrapping_sub(c.shift.position) as i32 <= 0;
        let again = match control.filter(behind) {
            Some(control) if control.shift.position == position => Some(control.text.clone()),
            // Older than the latest: what it became is not remembered.
            Some(_) => return Err(DropReason::HelperUnfit),
            None => None,
        };
        let text = match again {
            Some(text) => text,
            None => {
                let Ok(port) = self.expect(helped, TCP, named.port) else {
                    return Ok(());
                };
                let text = ftp::write(named.form, ends.outside.to_ip(), port);
                let text = text.ok_or(DropReason::HelperUnfit)?;
                let more = (text.len() as u32).wrapping_sub(range.len() as u32);
                let controls = &mut self.nat_of::<A>().controls;
                if !controls.changed(helped.index, position, more, text.clone()) {
                    return Err(DropReason::HelperUnfit);
                }
                text
            }
        };
        splice(helped, range, &text)
    }
}

/// Puts `text` in the place of `range` in the payload, and repairs lengths and checksums.
fn splice<A: Ip, B: Buffer>(
    helped: &mut Helped<'_, A, B>,
    range: core::ops::Range<usize>,
    text: &ArrayVec<u8, TEXT>,
) -> Result<(), DropReason> {
    let (l3, l4, end) = (
        usize::from(helped.packet.l3),
        usize::from(helped.packet.l4),
        helped.packet.end(),
    );
    let new_end = end - range.len() + text.len();
    let buffer = &mut *helped.buffer;
    if !buffer.set_len(end.max(new_end)) {
        return Err(DropReason::MbufExhausted);
    }
    let bytes = buffer.bytes_mut();
    bytes.copy_within(range.end..end, range.start + text.len());
    for (to, from) in bytes.iter_mut().skip(range.start).zip(text) {
        *to = *from;
    }
    let (old, new) = (helped.packet.ip_length, (new_end - l3) as u16);
    A::set_ip_length(bytes, l3, old, new);
    tcp::set_checksum(bytes, l4, 0);
    let (source, destination) = A::ends(bytes, helped.packet);
    let segment = bytes.get(l4..new_end).unwrap_or_default();
    let field = A::transport_checksum(source, destination, TCP, segment);
    tcp::set_checksum(bytes, l4, field);
    helped.packet.ip_length = new;
    if !buffer.set_len(new_end) {
        return Err(DropReason::Internal);
    }
    Ok(())
}
