//! RTSP: ports that streams are to come to become outside ones, and inside ones again for the client that named them.

use std::net::IpAddr;

use crate::base::DropReason;
use crate::dataplane::buffer::Buffer;
use crate::dataplane::family::Ip;
use crate::dataplane::help::Helped;
use crate::dataplane::help::payload::{believable, push, replace};
use crate::dataplane::shard::Shard;
use crate::flow::session::Direction;
use crate::nat::helpers::edit::{self, Edits, Text, text};
use crate::nat::helpers::rtsp::{Named, What, scan, write_ports};
use crate::nat::helpers::shift::Shift;
use crate::nat::open::{Ends, Wanted};
use crate::wire::{UDP, tcp};

impl<B: Buffer> Shard<B> {
    /// A segment of a connection that streams are set up in, in either direction.
    pub(super) fn rtsp<A: Ip>(&mut self, mut helped: Helped<'_, A, B>) -> Result<(), DropReason> {
        let bytes = helped.buffer.bytes();
        let (l4, end) = (usize::from(helped.packet.l4), helped.packet.end());
        let start = l4 + tcp::header_length(bytes, l4);
        let whole = !helped.packet.fragment.is_fragment();
        let payload = bytes.get(start..end).filter(|_| whole).unwrap_or_default();
        let Ok(places) = scan(payload) else {
            return Err(DropReason::HelperUnfit);
        };
        if !places.is_empty() {
            self.streams(&mut helped, start, &places)?;
        }
        self.move_numbers(&mut helped);
        Ok(())
    }

    /// Writes what the places of a segment become.
    fn streams<A: Ip>(
        &mut self,
        helped: &mut Helped<'_, A, B>,
        start: usize,
        places: &[Named],
    ) -> Result<(), DropReason> {
        believable(helped)?;
        let ends = Ends::of(helped.session);
        let from_inside = helped.session.from_inside(helped.direction);
        let mut edits = Edits::new();
        for named in places {
            let text = match from_inside {
                true => self.stream_from_inside(helped, &ends, named.what),
                false => self.stream_from_outside(helped, &ends, named.what),
            };
            push(&mut edits, named.range.clone(), text)?;
        }
        let (Some(first), more) = (edits.first(), edit::growth(&edits) as u32) else {
            return Ok(());
        };
        let l4 = usize::from(helped.packet.l4);
        let position = tcp::sequence(helped.buffer.bytes(), l4);
        let position = position.wrapping_add(first.range.start as u32);
        let controls = &mut self.nat_of::<A>().controls;
        let sent = controls.get(helped.index).map(|c| *c.sent(from_inside));
        match sent.filter(|shift| *shift != Shift::default()) {
            // Sent again: what it became is found anew, and no longer or shorter than it was.
            Some(shift) if shift.position == position => {
                if shift.after.wrapping_sub(shift.before) != more {
                    return Err(DropReason::HelperUnfit);
                }
            }
            Some(shift) if position.wrapping_sub(shift.position) as i32 <= 0 => {
                return Err(DropReason::HelperUnfit);
            }
            _ if more == 0 => {}
            _ => {
                if !controls.changed(helped.index, from_inside, position, more, Text::new()) {
                    return Err(DropReason::HelperUnfit);
                }
            }
        }
        replace(helped, start, &edits)
    }

    /// What the inside host names of its own: it is expected to be called there.
    fn stream_from_inside<A: Ip>(
        &mut self,
        helped: &Helped<'_, A, B>,
        ends: &Ends<A>,
        what: What,
    ) -> Option<Text> {
        let (first, second) = match (what, helped.direction) {
            (What::Address(address), _) => return other(address, ends.inside, ends.outside),
            (What::ClientPorts(first, second), Direction::Forward) => (first, second),
            (What::ServerPorts(first, second), Direction::Reverse) => (first, second),
            _ => return None,
        };
        let first = Wanted::from_remote(UDP, first);
        let Some(second) = second else {
            return write_ports(self.expect(helped, &first).ok()?, None);
        };
        let both = [first, Wanted::from_remote(UDP, second)];
        let [first, second] = self.expect_pair(helped, both).ok()?;
        write_ports(first, Some(second))
    }

    /// What the remote repeats of the inside host's.
    fn stream_from_outside<A: Ip>(
        &mut self,
        helped: &Helped<'_, A, B>,
        ends: &Ends<A>,
        what: What,
    ) -> Option<Text> {
        match (what, helped.direction) {
            (What::Address(address), _) => other(address, ends.outside, ends.inside),
            (What::ClientPorts(first, second), Direction::Reverse) => {
                let first = self.inside_port(helped, ends, first)?;
                let second = match second {
                    Some(second) => Some(self.inside_port(helped, ends, second)?),
                    None => None,
                };
                write_ports(first, second)
            }
            _ => None,
        }
    }
}

/// The other address of the inside host, if `address` is its `own`.
fn other<A: Ip>(address: IpAddr, own: A, other: A) -> Option<Text> {
    let other = other.to_ip();
    (address == own.to_ip()).then(|| text(format_args!("{other}")))?
}
