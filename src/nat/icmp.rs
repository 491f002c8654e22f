//! ICMP errors about translated flows (RFC 5508 §4 to §7).
//!
//! An error quotes the packet it is about, as that packet looked where it was dropped. The quoted tuple, reversed, is the
//! tuple of an answer, so the flow is found in the same table as every other packet's. The quote is un-translated for
//! its receiver, the outer destination becomes the embedded source, and the outer source is changed only when it would
//! show an inside address (REQ-5c). No ICMP error ends, refreshes or shortens a session (RFC 4787 REQ-12, RFC 5382 REQ-10,
//! RFC 5508 REQ-6), so none has to be believed here: its receiver judges it by the quoted sequence number (RFC 5927).

use crate::base::{DropReason, RealmId};
use crate::flow::key::{FlowKey, Tuple};
use crate::flow::session::{Direction, Session};
use crate::nat::rewrite;
use crate::wire::checksum;
use crate::wire::parse::{Parsed, Quoted, parse_quoted};
use crate::wire::{ICMP, read_u8, read_u16, write_u16};

/// An ICMP error's view of the flow it is about.
#[derive(Clone, Copy, Debug)]
pub struct Complaint {
    /// The tuple that an answer to the quoted packet has: the key to look up.
    pub answer: Tuple<u32>,
    /// Protocol of the quoted packet.
    pub protocol: u8,
    /// Offset of the quoted transport header, from the quoted IP header.
    pub l4: u16,
    /// Bytes of the quoted packet that are there: what follows is padding and extensions (RFC 4884), and stays as it is.
    pub length: u16,
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
    let quote = original_datagram(message).ok_or(DropReason::IcmpInnerShort)?;
    let Quoted {
        source,
        destination,
        source_port,
        destination_port,
        protocol,
        l4,
        available,
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
        length: l4 + without_padding(quote.get(usize::from(l4)..), available),
    })
}

/// Where an error's original datagram ends when extensions follow: the length in 32-bit words that types 3, 11 and 12 carry
/// in their sixth byte, at least 128 bytes (RFC 4884 sections 4 and 5). Other values are those of senders who left the
/// byte unused.
fn original_datagram(message: &[u8]) -> Option<&[u8]> {
    const LEAST: usize = 128;
    let quote = message.get(ERROR_HEADER..)?;
    let length = usize::from(read_u8(message, 5)) * 4;
    let extended = matches!(read_u8(message, 0), 3 | 11 | 12) && length >= LEAST;
    Some(quote.get(..length).filter(|_| extended).unwrap_or(quote))
}

/// The bytes of a quoted segment, of which `available` may be there, without zeros that pad it to the length extensions
/// need: behind the first eight bytes no header is all zeros.
fn without_padding(segment: Option<&[u8]>, available: u16) -> u16 {
    const LEAST: usize = 8;
    let rest = segment.and_then(|s| s.get(LEAST..usize::from(available)));
    let padding = rest.is_some_and(|rest| rest.iter().all(|byte| *byte == 0));
    if padding { LEAST as u16 } else { available }
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
    let start = l4 + ERROR_HEADER;
    let quote = frame
        .get_mut(start..start + usize::from(complaint.length))
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
