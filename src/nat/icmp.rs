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
use crate::nat::family::Family;
use crate::nat::rewrite;
use crate::wire::checksum;
use crate::wire::parse::{Parsed, Quoted, parse_quoted, parse_quoted_v6};
use crate::wire::{ICMPV6, ipv6, read_u8, read_u16, write_u16};

/// An ICMP error's view of the flow it is about.
#[derive(Clone, Copy, Debug)]
pub struct Complaint<A: Copy> {
    /// The tuple that an answer to the quoted packet has: the key to look up.
    pub answer: Tuple<A>,
    /// Protocol of the quoted packet.
    pub protocol: u8,
    /// Offset of the quoted transport header, from the quoted IP header.
    pub l4: u16,
    /// Bytes of the quoted packet that are there: what follows is padding and extensions (RFC 4884), and stays as it is.
    pub length: u16,
    /// Bytes the quoted packet had from its transport header on, whatever part of them is there; nothing of a fragment.
    pub segment: Option<u16>,
}

impl<A: Family> Complaint<A> {
    /// The flow-table key of the flow complained about.
    pub fn key(&self, realm: RealmId) -> FlowKey<A> {
        FlowKey::new(self.answer, self.protocol, realm)
    }
}

/// Bytes of an ICMP error before the quote.
const ERROR_HEADER: usize = 8;

impl Complaint<u32> {
    /// Checks an ICMPv4 error and reads what it is about.
    ///
    /// # Errors
    /// A wrong ICMP checksum, a quote that is too short, broken, or an ICMP error itself.
    // Implements: I3.
    pub fn read_v4(frame: &[u8], packet: &Parsed) -> Result<Complaint<u32>, DropReason> {
        let message = message(frame, packet)?;
        if !checksum::verify(message) {
            return Err(DropReason::IcmpChecksum);
        }
        let quote = original_datagram(message).ok_or(DropReason::IcmpInnerShort)?;
        let quoted = parse_quoted(quote)?;
        Ok(about(quote, &quoted, (quoted.source, quoted.destination)))
    }
}

impl Complaint<u128> {
    /// The counterpart of [`Complaint::read_v4`] for ICMPv6, whose checksum covers the pseudo header.
    ///
    /// # Errors
    /// As there.
    pub fn read_v6(frame: &[u8], packet: &Parsed) -> Result<Complaint<u128>, DropReason> {
        let message = message(frame, packet)?;
        let l3 = usize::from(packet.l3);
        let (source, destination) = (ipv6::source(frame, l3), ipv6::destination(frame, l3));
        if checksum::transport_v6(source, destination, ICMPV6, message) != 0 {
            return Err(DropReason::IcmpChecksum);
        }
        let quote = original_datagram_v6(message).ok_or(DropReason::IcmpInnerShort)?;
        let ends = (ipv6::source(quote, 0), ipv6::destination(quote, 0));
        Ok(about(quote, &parse_quoted_v6(quote)?, ends))
    }
}

fn message<'a>(frame: &'a [u8], packet: &Parsed) -> Result<&'a [u8], DropReason> {
    let message = frame.get(usize::from(packet.l4)..packet.end());
    message.ok_or(DropReason::L4Truncated)
}

fn about<A: Family>(quote: &[u8], quoted: &Quoted, (source, destination): (A, A)) -> Complaint<A> {
    let segment = quote.get(usize::from(quoted.l4)..);
    let sent = Tuple {
        source,
        destination,
        source_port: quoted.source_port,
        destination_port: quoted.destination_port,
    };
    Complaint {
        answer: sent.reversed(),
        protocol: quoted.protocol,
        l4: quoted.l4,
        length: quoted.l4 + without_padding(segment, quoted.available),
        segment: (!quoted.more).then(|| quoted.ip_length.saturating_sub(quoted.l4)),
    }
}

/// Where an error's original datagram ends when extensions follow: the length in 32-bit words that types 3, 11 and 12 carry
/// in their sixth byte, at least 128 bytes (RFC 4884 sections 4 and 5). Other values are those of senders who left the
/// byte unused.
// Implements: I3d.
fn original_datagram(message: &[u8]) -> Option<&[u8]> {
    let length = usize::from(read_u8(message, 5)) * 4;
    datagram(message, length, &[3, 11, 12])
}

/// The same of ICMPv6: 64-bit words in the fifth byte of types 1 and 3.
fn original_datagram_v6(message: &[u8]) -> Option<&[u8]> {
    let length = usize::from(read_u8(message, 4)) * 8;
    datagram(message, length, &[1, 3])
}

fn datagram<'a>(message: &'a [u8], length: usize, extensible: &[u8]) -> Option<&'a [u8]> {
    const LEAST: usize = 128;
    let quote = message.get(ERROR_HEADER..)?;
    let extended = extensible.contains(&read_u8(message, 0)) && length >= LEAST;
    Some(quote.get(..length).filter(|_| extended).unwrap_or(quote))
}

/// The bytes of a quoted segment, of which `available` may be there, without zeros that pad it to the length extensions
/// need: behind the first eight bytes no header is all zeros.
// Implements: I3d.
fn without_padding(segment: Option<&[u8]>, available: u16) -> u16 {
    const LEAST: usize = 8;
    let rest = segment.and_then(|s| s.get(LEAST..usize::from(available)));
    let padding = rest.is_some_and(|rest| rest.iter().all(|byte| *byte == 0));
    if padding { LEAST as u16 } else { available }
}

/// Translates an ICMP error between `ends` that travels in `direction` through `session`, and takes one hop off. Returns the
/// source it has now.
///
/// # Errors
/// [`DropReason::IcmpNoSession`] when the error is not addressed to the sender of the quoted packet.
// Implements: U12, U12a, U12b, T9, T10, I4, I4a, I4b, I4c, I5, I5a, I5b, I5c, I6, I7, I7a, P12.
pub fn translate<A: Family>(
    frame: &mut [u8],
    packet: &Parsed,
    ends: (A, A),
    complaint: &Complaint<A>,
    session: &Session<A>,
    direction: Direction,
) -> Result<A, DropReason> {
    let (arriving, leaving) = (session.arriving(direction), session.leaving(direction));
    if ends.1 != { arriving.destination } {
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
        (complaint.protocol, complaint.segment),
        &arriving.reversed(),
        &leaving.reversed(),
    );
    // The sender's side is translated in this direction: its own address must not show (RFC 5508 REQ-5c).
    let source = if { arriving.source } == { leaving.source } {
        ends.0
    } else {
        leaving.source
    };
    let from = Tuple {
        source: ends.0,
        destination: ends.1,
        ..Tuple::default()
    };
    let to = Tuple {
        source,
        destination: leaving.destination,
        ..Tuple::default()
    };
    let (addresses, pseudo) = rewrite::deltas(&from, &to, A::ICMP);
    let sum = change.and(pseudo).apply(read_u16(frame, l4 + 2));
    write_u16(frame, l4 + 2, sum);
    A::write_ends(frame, l3, to.source, to.destination, addresses);
    A::lower_hops(frame, l3);
    Ok(source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{UDP, icmp, parse::parse};

    /// What is left of an error with `body` bytes behind its header, whose length byte says `words`.
    fn quoted(v6: bool, kind: u8, words: u8, body: usize) -> Option<usize> {
        let mut message = vec![0; ERROR_HEADER + body];
        message[0] = kind;
        message[if v6 { 4 } else { 5 }] = words;
        let quote = match v6 {
            false => original_datagram(&message),
            true => original_datagram_v6(&message),
        };
        quote.map(<[u8]>::len)
    }

    // Proves: I3d.
    #[test]
    fn a_quote_ends_where_extensions_begin() {
        for (v6, kind, words, body, length) in [
            (false, 3, 32, 200, 128),
            (false, 11, 33, 200, 132),
            (false, 12, 50, 200, 200),
            // Shorter than extensions allow, beyond the message, of another type: not a length.
            (false, 3, 31, 200, 200),
            (false, 3, 51, 200, 200),
            (false, 4, 32, 200, 200),
            (false, 3, 0, 28, 28),
            (true, 1, 16, 200, 128),
            (true, 3, 17, 200, 136),
            (true, 1, 15, 200, 200),
            (true, 3, 26, 200, 200),
            (true, 2, 16, 200, 200),
            (true, 4, 16, 200, 200),
        ] {
            assert_eq!(
                quoted(v6, kind, words, body),
                Some(length),
                "{kind} {words}"
            );
        }
        assert_eq!(original_datagram(&[3; ERROR_HEADER - 1]), None);
        assert_eq!(original_datagram_v6(&[3; ERROR_HEADER - 1]), None);
    }

    // Proves: I3d.
    #[test]
    fn zeros_behind_the_first_eight_bytes_are_padding() {
        let mut segment = [7u8; 40];
        segment[8..].fill(0);
        assert_eq!(without_padding(Some(&segment), 40), 8);
        assert_eq!(without_padding(Some(&segment), 20), 8);
        assert_eq!(without_padding(Some(&segment), 8), 8);
        segment[20] = 1;
        assert_eq!(without_padding(Some(&segment), 20), 8);
        assert_eq!(without_padding(Some(&segment), 21), 21);
        assert_eq!(without_padding(Some(&segment), 40), 40);
        assert_eq!(without_padding(None, 40), 40);
    }

    #[test]
    fn a_complaint_is_about_the_answer_of_what_it_quotes() {
        let quoted = |more, ip_length| Quoted {
            network: crate::wire::parse::Network::Ipv4,
            transport: crate::wire::parse::Transport::Udp,
            l4: 20,
            available: 8,
            ip_length,
            more,
            protocol: 17,
            source: 1,
            destination: 2,
            source_port: 3,
            destination_port: 4,
        };
        let complaint = about(&[0; 28], &quoted(false, 100), (1u32, 2u32));
        let answer = Tuple {
            source: 2,
            destination: 1,
            source_port: 4,
            destination_port: 3,
        };
        assert_eq!((complaint.answer, complaint.protocol), (answer, 17));
        assert_eq!((complaint.l4, complaint.length), (20, 28));
        assert_eq!(complaint.segment, Some(80));
        assert_eq!(
            complaint.key(RealmId(5)),
            FlowKey::new(answer, 17, RealmId(5))
        );
        let first = about(&[0; 28], &quoted(true, 100), (1u32, 2u32));
        assert_eq!(first.segment, None, "the length of a fragment");
        let broken = about(&[0; 28], &quoted(false, 7), (1u32, 2u32));
        assert_eq!(broken.segment, Some(0));
    }

    #[test]
    fn an_error_of_the_gateways_own_changes_its_source_twice() {
        // A service calls its backend from another address: both ends differ on both sides.
        let (client, service) = (0xcb00_7145u32, 0xc612_0002);
        let (caller, backend, gateway) = (0x0a00_0001, 0x0a00_0003, 0xcb00_7101);
        let tuple = |source, destination| Tuple {
            source,
            destination,
            source_port: 5000,
            destination_port: 53,
        };
        let session = Session {
            before: tuple(client, service),
            after: tuple(caller, backend),
            protocol: UDP,
            ..Session::default()
        };
        let mut quote = vec![0x45, 0, 0, 32, 0, 1, 0, 0, 1, UDP, 0, 0];
        quote.extend([caller, backend].map(u32::to_be_bytes).concat());
        let sum = checksum::finish(checksum::sum(&quote));
        write_u16(&mut quote, 10, sum);
        quote.extend([0x13, 0x88, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4]);
        let mut frame = vec![2; 12];
        frame.extend([8, 0]);
        frame.resize(200, 0);
        let expired = icmp::ErrorV4::TTL_EXPIRED;
        let length = icmp::error_v4(&mut frame[14..], gateway, caller, expired, &quote);
        frame.truncate(14 + length);
        let packet = parse(&frame).unwrap();
        let complaint = Complaint::read_v4(&frame, &packet).unwrap();
        let ends = (gateway, caller);
        let way = Direction::Reverse;
        let source = translate(&mut frame, &packet, ends, &complaint, &session, way).unwrap();
        assert_eq!(parse(&frame).map(|p| p.source), Ok(service));
        rewrite::set_source(&mut frame, &packet, (source, client), gateway);
        let sent = parse(&frame).unwrap();
        assert_eq!((sent.source, sent.destination), (gateway, client));
    }
}
