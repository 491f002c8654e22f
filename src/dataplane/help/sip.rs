//! SIP over UDP: an inside host that names itself is known outside by what it looks like there, and the other way round.

use std::net::IpAddr;

use crate::base::DropReason;
use crate::dataplane::buffer::Buffer;
use crate::dataplane::family::Ip;
use crate::dataplane::help::Helped;
use crate::dataplane::help::payload::{believable, push, replace};
use crate::dataplane::shard::Shard;
use crate::nat::helpers::edit::{self, Edits, text};
use crate::nat::helpers::sdp::{self, Medium, Rtcp};
use crate::nat::helpers::sip::{self, Form, Named, PORT, Unread};
use crate::nat::open::{Ends, Wanted};
use crate::wire::{UDP, udp};

impl<B: Buffer> Shard<B> {
    /// A message between the inside host of a session and its remote, in either direction.
    pub(super) fn sip<A: Ip>(&mut self, mut helped: Helped<'_, A, B>) -> Result<(), DropReason> {
        if helped.packet.fragment.is_fragment() {
            return Err(DropReason::HelperUnfit);
        }
        let start = usize::from(helped.packet.l4) + udp::HEADER;
        let bytes = helped.buffer.bytes();
        let payload = bytes.get(start..helped.packet.end()).unwrap_or_default();
        let message = match sip::read(payload) {
            Ok(message) => message,
            Err(Unread::Foreign) => return Ok(()),
            Err(Unread::TooMuch) => return Err(DropReason::HelperUnfit),
        };
        let from_inside = helped.session.from_inside(helped.direction);
        let description = message.description.clone().filter(|_| from_inside);
        let described = description.clone().map(|range| sdp::read(payload, range));
        let described = described.transpose().map_err(|_| DropReason::HelperUnfit)?;
        believable(&helped)?;
        let ends = Ends::of(helped.session);
        let mut edits = Edits::new();
        for named in &message.named {
            let other = match from_inside {
                true => self.outside_of(&helped, &ends, named),
                false => self.inside_of(&helped, &ends, named),
            };
            let text = other.and_then(|(address, port)| sip::write(named, address, port));
            push(&mut edits, named.start..named.end, text)?;
        }
        if let (Some(description), Some(range)) = (described, description) {
            let headers = edits.len();
            if self
                .media(&helped, &ends, &description, &mut edits)?
                .is_none()
            {
                edits.truncate(headers);
            }
            let growth = edit::growth(edits.get(headers..).unwrap_or_default());
            if let Some(digits) = message.length {
                let length = range.len().saturating_add_signed(growth);
                push(&mut edits, digits, text(format_args!("{length}")))?;
            }
        }
        edits.sort_unstable_by_key(|edit| (edit.range.start, edit.range.end));
        match edits.is_empty() {
            true => Ok(()),
            false => replace(&mut helped, start, &edits),
        }
    }

    /// What an endpoint of the inside host is outside. One it does not send this from is expected to be called by the remote.
    fn outside_of<A: Ip>(
        &mut self,
        helped: &Helped<'_, A, B>,
        ends: &Ends<A>,
        named: &Named,
    ) -> Option<(IpAddr, u16)> {
        if named.address != ends.inside.to_ip() {
            return None;
        }
        let port = named.port.unwrap_or(PORT);
        let outside = match named.form {
            _ if port == ends.inside_port => Some(ends.outside_port),
            Form::HostPort => self.expect(helped, &Wanted::from_remote(UDP, port)).ok(),
            // What the remote has seen it can still see.
            Form::Host { .. } | Form::Port => None,
        };
        outside.map(|port| (ends.outside.to_ip(), port))
    }

    /// Which endpoint of the inside host an outside one is.
    fn inside_of<A: Ip>(
        &self,
        helped: &Helped<'_, A, B>,
        ends: &Ends<A>,
        named: &Named,
    ) -> Option<(IpAddr, u16)> {
        if named.address != ends.outside.to_ip() {
            return None;
        }
        let port = named.port.unwrap_or(PORT);
        if port == ends.outside_port {
            return Some((ends.inside.to_ip(), ends.inside_port));
        }
        let port = self.inside_port(helped, ends, port)?;
        Some((ends.inside.to_ip(), port))
    }

    /// Expects the media that a description of the inside host names, and says so in `edits`. `None` if one is refused:
    /// the description stays as it is then.
    fn media<A: Ip>(
        &mut self,
        helped: &Helped<'_, A, B>,
        ends: &Ends<A>,
        description: &sdp::Description,
        edits: &mut Edits,
    ) -> Result<Option<()>, DropReason> {
        let (inside, outside) = (ends.inside.to_ip(), ends.outside.to_ip());
        let address = || text(format_args!("{outside}"));
        for named in &description.addresses {
            if named.address == inside {
                push(edits, named.range.clone(), address())?;
            }
        }
        for medium in &description.media {
            if medium.address != inside {
                continue;
            }
            let Some((port, control)) = self.expect_medium(helped, inside, medium) else {
                return Ok(None);
            };
            push(edits, medium.range.clone(), text(format_args!("{port}")))?;
            match (&medium.rtcp, control) {
                (Some(rtcp), Some(control)) => {
                    push(edits, rtcp.range.clone(), text(format_args!("{control}")))?;
                    if let Some(named) = &rtcp.address {
                        push(edits, named.range.clone(), address())?;
                    }
                }
                (None, Some(control)) if port.checked_add(1) != Some(control) => {
                    let line = match helped_ends_line(helped, medium.end) {
                        true => text(format_args!("a=rtcp:{control}\r\n")),
                        false => text(format_args!("\r\na=rtcp:{control}")),
                    };
                    push(edits, medium.end..medium.end, line)?;
                }
                _ => {}
            }
        }
        Ok(Some(()))
    }

    /// Expects a medium, and RTCP if there is any at the inside host. Their outside ports.
    fn expect_medium<A: Ip>(
        &mut self,
        helped: &Helped<'_, A, B>,
        inside: IpAddr,
        medium: &Medium,
    ) -> Option<(u16, Option<u16>)> {
        let here = |rtcp: &Rtcp| rtcp.address.as_ref().is_none_or(|a| a.address == inside);
        let control = match &medium.rtcp {
            _ if !medium.is_rtp => None,
            Some(rtcp) => here(rtcp).then_some(rtcp.port),
            None => medium.port.checked_add(1),
        };
        let first = Wanted::from_anyone(UDP, medium.port);
        // RTP and RTCP through one port (RFC 5761) need no second.
        let Some(control) = control.filter(|control| *control != medium.port) else {
            let port = self.expect(helped, &first).ok()?;
            return Some((port, control.map(|_| port)));
        };
        let both = [first, Wanted::from_anyone(UDP, control)];
        let [port, control] = self.expect_pair(helped, both).ok()?;
        Some((port, Some(control)))
    }
}

/// Whether the payload has a line break before `at`.
fn helped_ends_line<A: Ip, B: Buffer>(helped: &Helped<'_, A, B>, at: usize) -> bool {
    let start = usize::from(helped.packet.l4) + udp::HEADER;
    helped.buffer.bytes().get(start + at - 1) == Some(&b'\n')
}
