//! The only place that changes a forwarded packet's network and transport headers.
//!
//! Checksums are updated incrementally from deltas computed once per session (RFC 1624, equation 3), so the cost does not
//! depend on the packet's size and an error in the payload's checksum stays visible to the receiver.

use crate::flow::key::Tuple;
use crate::flow::session::{Direction, Session};
use crate::nat::family::Family;
use crate::wire::checksum::{self, Delta};
use crate::wire::parse::{Parsed, Transport};
use crate::wire::plain::{Ends, LEAST_V4, LEAST_V6};
use crate::wire::{DCCP, GRE, SCTP, UDP_LITE, gre, read_u16, sctp, write_u16, write_u32};

const SOURCE: usize = 12;
const DESTINATION: usize = 16;
const TTL: usize = 8;
const HOP_LIMIT: usize = 7;
const IP_CHECKSUM: usize = 10;
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;
const ICMP_CHECKSUM: usize = 2;
const ICMP_ID: usize = 4;
/// Of DCCP (RFC 4340 section 5.1) and UDP-Lite (RFC 3828 section 3.1): a part of the payload may be left out, never the
/// addresses.
const COVERING_CHECKSUM: usize = 6;

/// The checksum deltas of a session's forward direction: for the IPv4 header (without meaning in IPv6), and for
/// the transport checksum.
pub fn deltas<A: Family>(before: &Tuple<A>, after: &Tuple<A>, protocol: u8) -> (Delta, Delta) {
    let addresses =
        A::delta(before.source, after.source).and(A::delta(before.destination, after.destination));
    let ports = Delta::u16(before.source_port, after.source_port)
        .and(Delta::u16(before.destination_port, after.destination_port));
    // The ICMP checksum does not cover the addresses: there is no pseudo header in ICMPv4.
    let transport = if protocol == crate::wire::ICMP {
        ports
    } else {
        addresses.and(ports)
    };
    (addresses, transport)
}

/// Translates a packet of `session` that travels in `direction`, and takes one hop off its TTL.
#[inline]
pub fn forward<A: Family>(
    frame: &mut [u8],
    packet: &Parsed,
    session: &Session<A>,
    direction: Direction,
) {
    let (mut addresses, mut transport) = (
        Delta::from_raw(session.address_delta),
        Delta::from_raw(session.transport_delta),
    );
    if direction == Direction::Reverse {
        (addresses, transport) = (addresses.inverse(), transport.inverse());
    }
    translate(
        frame,
        packet,
        &session.leaving(direction),
        addresses,
        transport,
    );
    A::lower_hops(frame, usize::from(packet.l3));
}

/// [`forward`] for a [plain](crate::wire::plain) packet, with or without a VLAN tag in front: the same, with each header
/// word touched once.
#[inline(always)]
pub fn plain<A: Family>(
    frame: &mut [u8],
    tagged: bool,
    is_tcp: bool,
    session: &Session<A>,
    direction: Direction,
) {
    // The inverse of a difference is its complement: all bits flip for the way back.
    let flip = (direction as u16).wrapping_neg();
    let addresses = Delta::from_raw(session.address_delta ^ flip);
    let transport = Delta::from_raw(session.transport_delta ^ flip);
    let (to_addresses, to_ports) = session.leaving_words(direction);
    let l3 = if tagged { 18 } else { 14 };
    let l4 = l3 + A::HEADER;
    if is_tcp && let Some(segment) = frame.get_mut(l4..) {
        apply(segment, TCP_CHECKSUM, transport);
    }
    let Some(head) = A::Pair::head_mut(frame) else {
        return;
    };
    if !is_tcp {
        let field = &mut head.as_mut()[l4 + UDP_CHECKSUM..][..2];
        let checksum = u16::from_be_bytes([field[0], field[1]]);
        field.copy_from_slice(&transport.apply_udp(checksum).to_be_bytes());
    }
    A::write_plain(head, l3, to_addresses, to_ports, addresses);
}

/// [`Family::write_plain`] of IPv4.
#[inline(always)]
pub(super) fn write_plain_v4(
    head: &mut [u8; LEAST_V4],
    l3: usize,
    ends: u64,
    ports: u32,
    delta: Delta,
) {
    head[l3 + TTL] = head[l3 + TTL].wrapping_sub(1);
    let field = &mut head[l3 + IP_CHECKSUM..][..2];
    let checksum = u16::from_be_bytes([field[0], field[1]]);
    field.copy_from_slice(&delta.and_hop().apply(checksum).to_be_bytes());
    head[l3 + SOURCE..][..8].copy_from_slice(&ends.rotate_left(32).to_be_bytes());
    head[l3 + 20..][..4].copy_from_slice(&ports.rotate_left(16).to_be_bytes());
}

/// [`Family::write_plain`] of IPv6: there is no header checksum.
#[inline(always)]
pub(super) fn write_plain_v6(
    head: &mut [u8; LEAST_V6],
    l3: usize,
    [source, to]: [u128; 2],
    ports: u32,
) {
    head[l3 + HOP_LIMIT] = head[l3 + HOP_LIMIT].wrapping_sub(1);
    head[l3 + 8..][..16].copy_from_slice(&source.to_be_bytes());
    head[l3 + 24..][..16].copy_from_slice(&to.to_be_bytes());
    head[l3 + 40..][..4].copy_from_slice(&ports.rotate_left(16).to_be_bytes());
}

/// Writes a tuple into a packet and repairs the checksums by the given deltas.
// Implements: F7, OT2, OT4, OT5, OT6, NP5.
#[inline]
pub fn translate<A: Family>(
    frame: &mut [u8],
    packet: &Parsed,
    to: &Tuple<A>,
    addresses: Delta,
    transport: Delta,
) {
    let l3 = usize::from(packet.l3);
    A::write_ends(frame, l3, to.source, to.destination, addresses);
    let l4 = usize::from(packet.l4);
    match packet.transport {
        Transport::Tcp => {
            write_u16(frame, l4, to.source_port);
            write_u16(frame, l4 + 2, to.destination_port);
            apply(frame, l4 + TCP_CHECKSUM, transport);
        }
        Transport::Udp => {
            write_u16(frame, l4, to.source_port);
            write_u16(frame, l4 + 2, to.destination_port);
            apply_udp(frame, l4 + UDP_CHECKSUM, transport);
        }
        Transport::IcmpQuery => {
            write_u16(frame, l4 + ICMP_ID, to.source_port);
            apply(frame, l4 + ICMP_CHECKSUM, transport);
        }
        Transport::IcmpReply => {
            write_u16(frame, l4 + ICMP_ID, to.destination_port);
            apply(frame, l4 + ICMP_CHECKSUM, transport);
        }
        Transport::Sctp => {
            let length = packet.datagram_length();
            sctp::set_ports(frame, l4, length, to.source_port, to.destination_port);
        }
        // Other protocols are translated by address only, which some cover by their checksum.
        Transport::Other => {
            let at = l4 + COVERING_CHECKSUM;
            match packet.protocol {
                DCCP if at + 2 <= packet.end() => apply(frame, at, transport),
                UDP_LITE if at + 2 <= packet.end() => apply_udp(frame, at, transport),
                // A flow of a call alone has the call's id for a port.
                GRE if to.destination_port != 0 => gre::set_call(frame, l4, to.destination_port),
                _ => {}
            }
        }
        // A later fragment has no transport header.
        Transport::LaterFragment | Transport::IcmpError | Transport::IcmpOther => {}
    }
}

/// Changes the source address of an ICMP error of the gateway's own.
pub fn set_source<A: Family>(frame: &mut [u8], packet: &Parsed, ends: (A, A), source: A) {
    let from = Tuple {
        source: ends.0,
        destination: ends.1,
        ..Tuple::default()
    };
    let to = Tuple { source, ..from };
    let (addresses, transport) = deltas(&from, &to, A::ICMP);
    A::write_ends(frame, usize::from(packet.l3), source, ends.1, addresses);
    apply(frame, usize::from(packet.l4) + ICMP_CHECKSUM, transport);
}

/// [`Family::write_ends`] of IPv4.
#[inline]
pub(super) fn write_ends_v4(
    frame: &mut [u8],
    l3: usize,
    source: u32,
    destination: u32,
    delta: Delta,
) -> Delta {
    write_u32(frame, l3 + SOURCE, source);
    write_u32(frame, l3 + DESTINATION, destination);
    apply_measured(frame, l3 + IP_CHECKSUM, delta)
}

/// Takes one hop off the TTL and repairs the header checksum. The caller has seen to TTL > 1.
// Implements: F2.
#[inline]
pub fn decrement_ttl(frame: &mut [u8], l3: usize) {
    let word = read_u16(frame, l3 + TTL);
    let lower = word.wrapping_sub(0x0100);
    write_u16(frame, l3 + TTL, lower);
    apply(frame, l3 + IP_CHECKSUM, Delta::u16(word, lower));
}

/// Repairs the checksum field at `at`.
#[inline]
fn apply(frame: &mut [u8], at: usize, delta: Delta) {
    let sum = delta.apply(read_u16(frame, at));
    write_u16(frame, at, sum);
}

/// Repairs a UDP checksum: 0 means "none" and stays (over IPv6 only tunnels send it, RFC 6935), and a computed 0 is sent
/// as 0xffff (RFC 768).
// Implements: F8.
#[inline]
fn apply_udp(frame: &mut [u8], at: usize, delta: Delta) {
    let old = read_u16(frame, at);
    if old == 0 {
        return;
    }
    let sum = delta.apply(old);
    write_u16(frame, at, if sum == 0 { 0xffff } else { sum });
}

/// Un-translates the packet quoted in an ICMP error so that its receiver recognises what it sent (RFC 5508 REQ-4, REQ-5).
///
/// `quote` starts at the embedded IP header, `l4` is the offset of its transport header, `length` what the packet had from
/// there on, if that is known; `from` is the tuple it carries and `to` the one it shall carry. Returns the change of the one's
/// complement sum over the quoted bytes, which the ICMP checksum has to follow.
// Implements: I4a, I5a, F7.
pub fn quoted<A: Family>(
    quote: &mut [u8],
    l4: usize,
    (protocol, length): (u8, Option<u16>),
    from: &Tuple<A>,
    to: &Tuple<A>,
) -> Delta {
    let (addresses, transport) = deltas(from, to, protocol);
    let header = A::write_ends(quote, 0, to.source, to.destination, addresses);
    let mut change = addresses.and(header);
    if protocol == SCTP {
        return change.and(quoted_sctp(quote, l4, length, to));
    }
    let (port_at, checksum_at) = match protocol {
        crate::wire::TCP => (Some(l4), Some(l4 + TCP_CHECKSUM)),
        crate::wire::UDP => (Some(l4), Some(l4 + UDP_CHECKSUM)),
        icmp if icmp == A::ICMP => (None, Some(l4 + ICMP_CHECKSUM)),
        DCCP | UDP_LITE => (None, Some(l4 + COVERING_CHECKSUM)),
        _ => (None, None),
    };
    if let Some(at) = port_at {
        write_u16(quote, at, to.source_port);
        write_u16(quote, at + 2, to.destination_port);
        change = change
            .and(Delta::u16(from.source_port, to.source_port))
            .and(Delta::u16(from.destination_port, to.destination_port));
    } else if protocol == A::ICMP {
        // A query carries its id as the tuple's source port, a reply as the destination port; the other one is 0.
        let (old, new) = (
            from.source_port | from.destination_port,
            to.source_port | to.destination_port,
        );
        write_u16(quote, l4 + ICMP_ID, new);
        change = change.and(Delta::u16(old, new));
    } else if protocol == GRE && to.destination_port != 0 {
        gre::set_call(quote, l4, to.destination_port);
        change = change.and(Delta::u16(from.destination_port, to.destination_port));
    }
    // The quote may end before the checksum: then there is nothing to repair (RFC 5508 REQ-3c).
    if let Some(at) = checksum_at.filter(|at| at + 2 <= quote.len()) {
        let none = protocol == crate::wire::UDP && read_u16(quote, at) == 0;
        if !none {
            change = change.and(apply_measured(quote, at, transport));
        }
    }
    change
}

/// The ports of a quoted SCTP packet, and its checksum where the quote reaches so far: what it changes by depends on the
/// length the whole had. Of a quoted fragment that is not known, and the checksum stays.
fn quoted_sctp<A: Family>(
    quote: &mut [u8],
    l4: usize,
    length: Option<u16>,
    to: &Tuple<A>,
) -> Delta {
    let end = quote.len().min(l4 + sctp::HEADER);
    let sum = |quote: &[u8]| checksum::sum(quote.get(l4..end).unwrap_or(&[])) as u16;
    let before = sum(quote);
    sctp::set_ports(quote, l4, length, to.source_port, to.destination_port);
    Delta::u16(before, sum(quote))
}

/// [`apply`], returning what the change of the field itself does to a sum over it.
#[inline]
fn apply_measured(bytes: &mut [u8], at: usize, delta: Delta) -> Delta {
    let old = read_u16(bytes, at);
    apply(bytes, at, delta);
    Delta::u16(old, read_u16(bytes, at))
}

#[cfg(test)]
mod tests;
