//! FTP: control connections from the inside, to the outside or from it.

use crate::base::DropReason;
use crate::dataplane::buffer::Buffer;
use crate::dataplane::family::Ip;
use crate::dataplane::help::Helped;
use crate::dataplane::help::payload::{believable, replace};
use crate::dataplane::shard::Shard;
use crate::flow::session::Direction;
use crate::nat::helpers::control::Control;
use crate::nat::helpers::edit::Edit;
use crate::nat::helpers::ftp::{self, Named, Scan, Speaker};
use crate::nat::open::{Ends, Wanted};
use crate::wire::{TCP, tcp};

impl<B: Buffer> Shard<B> {
    /// A segment of an FTP control connection that the inside sends.
    pub(super) fn ftp<A: Ip>(&mut self, mut helped: Helped<'_, A, B>) -> Result<(), DropReason> {
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
        self.move_numbers(&mut helped);
        Ok(())
    }

    /// A line that names an endpoint of the inside host, in a payload that starts at `start`.
    fn ftp_named<A: Ip>(
        &mut self,
        helped: &mut Helped<'_, A, B>,
        start: usize,
        named: &Named,
    ) -> Result<(), DropReason> {
        believable::<A, B>(helped)?;
        let (bytes, l4) = (helped.buffer.bytes(), usize::from(helped.packet.l4));
        let ends = Ends::of(helped.session);
        // A third host's address is none of ours (RFC 2577 section 3: bounce attacks).
        let own = |address| [ends.inside.to_ip(), ends.outside.to_ip()].contains(&address);
        if named.address.is_some_and(|address| !own(address)) {
            return Ok(());
        }
        let range = named.range.clone();
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
                let wanted = Wanted::from_remote(TCP, named.port);
                let Ok(port) = self.expect(helped, &wanted) else {
                    return Ok(());
                };
                let text = ftp::write(named.form, ends.outside.to_ip(), port);
                let text = text.ok_or(DropReason::HelperUnfit)?;
                let more = (text.len() as u32).wrapping_sub(range.len() as u32);
                let controls = &mut self.nat_of::<A>().controls;
                if !controls.changed(helped.index, true, position, more, text.clone()) {
                    return Err(DropReason::HelperUnfit);
                }
                text
            }
        };
        replace(helped, start, &[Edit { range, text }])
    }
}
