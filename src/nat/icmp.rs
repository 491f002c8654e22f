//! ICMP errors about translated flows (RFC 5508 §4 to §7).
//!
//! An error quotes the packet it is about, as that packet looked where it was dropped. The quoted tuple, reversed, is the
//! tuple of an answer, so the flow is found in the same table as every other packet's. The quote is un-translated for
//! its receiver, the outer destination becomes the embedded source, and the outer source is changed only when it would
//! show an inside address (REQ-5c). No ICMP error ends, refreshes or shortens a session (RFC 4787 REQ-12).

use crate::base::{DropReason, RealmId};
use crate::flow::key::{FlowKey, Tuple};
use crate::flow::session::{Direction, Session};
use crate::nat::rewrite;
use crate::wire::checksum;
use crate::wire::parse::{Parsed, Quoted, parse_quoted};
use crate::wire::{ICMP, read_u16, write_u16};

/// An ICMP error's view of the flow it is about.
#[derive(Clone, Copy, Debug)]
pub struct Complaint {
    /// The tuple that an answer to the quoted packet has: the key to look up.
    pub answer: Tuple<u32>,
    /// Protocol of the quoted packet.
    pub protocol: u8,
    /// Offset of the quoted transport header, from the quoted IP header.
    pub l4: u16,
}

impl Complaint {
    /// The flow-table key of the flow complained about.
    pub fn key(&self, realm: RealmId) -> FlowKey<u32> {
        FlowKey::new(self.answer, self.protocol, realm)
    }
}

/// Bytes of an ICMP error before the quote.
const ERROR_HEADER: usize = 8;

/// Checks an ICMPv4 error and reads what it is about.
///
/// # Errors
/// A wrong ICMP checksum, a quote that is too short, broken, or an ICMP error itself.
pub fn complaint(frame: &[u8], packet: &Parsed) -> Result<Complaint, DropReason> {
    let end = usize::from(packet.l3) + usize::from(packet.ip_length);
    let message = frame
        .get(usize::from(packet.l4)..end)
        .ok_or(DropReason::L4Truncated)?;
    if !checksum::verify(message) {
        return Err(DropReason::IcmpChecksum);
    }
    let quote = message
        .get(ERROR_HEADER..)
        .ok_or(DropReason::IcmpInnerShort)?;
    let Quoted {
        source,
        destination,
        source_port,
        destination_port,
        protocol,
        l4,
        ..
    } = parse_quoted(quote)?;
    let sent = Tuple {
        source,
        destination,
        source_port,
        destination_port,
    };
    Ok(Complaint {
        answer: sent.reversed(),
        protocol,
        l4,
    })
}

/// Translates an ICMP error that travels in `direction` through `session`, and takes one hop off its TTL.
///
/// # Errors
/// [`DropReason::IcmpNoSession`] when the error is not addressed to the sender of the quoted packet.
pub fn translate(
    frame: &mut [u8],
    packet: &Parsed,
    complaint: &Complaint,
    session: &Session<u32>,
    direction: Direction,
) -> Result<(), DropReason> {
    let (arriving, leaving) = (session.arriving(direction), session.leaving(direction));
    if packet.destination != arriving.destination {
        return Err(DropReason::IcmpNoSession);
    }
    let (l3, l4) = (usize::from(packet.l3), usize::from(packet.l4));
    let end = l3 + usize::from(packet.ip_length);
    let quote = frame
        .get_mut(l4 + ERROR_HEADER..end)
        .ok_or(DropReason::IcmpInnerShort)?;
    let change = rewrite::quoted(
        quote,
        usize::from(complaint.l4),
        complaint.protocol,
        &arriving.reversed(),
        &leaving.reversed(),
    );
    let sum = change.apply(read_u16(frame, l4 + 2));
    write_u16(frame, l4 + 2, sum);
    // The sender's side is translated in this direction: its own address must not show (RFC 5508 REQ-5c).
    let source = if arriving.source == leaving.source {
        packet.source
    } else {
        leaving.source
    };
    let from = Tuple {
        source: packet.source,
        destination: packet.destination,
        ..Tuple::default()
    };
    let to = Tuple {
        source,
        destination: leaving.destination,
        ..Tuple::default()
    };
    let (addresses, none) = rewrite::deltas(&from, &to, ICMP);
    rewrite::translate(frame, packet, &to, addresses, none);
    rewrite::decrement_ttl(frame, l3);
    Ok(())
}
