//! Complete ICMP error packets about a packet the gateway could not forward.
//!
//! Whether an error may be sent at all (RFC 1812 section 4.3.2.7, RFC 4443 section 2.4e), and which form of
//! the offending packet to quote, is the caller's business: a translator must not quote an inside address
//! to the outside.

use super::{
    CHECKSUM, HEADER, V4_CODE_FRAGMENTATION_NEEDED, V4_CODE_HOST, V4_CODE_NETWORK, V4_CODE_PORT,
    V4_CODE_PROHIBITED, V4_TIME_EXCEEDED, V4_UNREACHABLE, V6_CODE_ADDRESS, V6_CODE_NO_ROUTE,
    V6_CODE_PORT, V6_CODE_PROHIBITED, V6_TIME_EXCEEDED, V6_TOO_BIG, V6_UNREACHABLE, set_checksum,
    set_code, set_kind, set_rest,
};
use crate::wire::{ICMP, ICMPV6, checksum, ipv4, ipv6};

/// Longest ICMPv4 error, IP header included (RFC 1812 section 4.3.2.3).
pub const MAX_ERROR_V4: usize = 576;
/// Longest ICMPv6 error, IP header included: the minimum MTU (RFC 4443 section 2.4c).
pub const MAX_ERROR_V6: usize = 1280;
/// Precedence 6, internetwork control (RFC 1812 section 4.3.2.5).
const TOS_CONTROL: u8 = 0xc0;

/// What an ICMPv4 error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorV4 {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// The type-specific 32 bits.
    pub rest: u32,
}

impl ErrorV4 {
    /// TTL ran out on the way.
    pub const TTL_EXPIRED: ErrorV4 = ErrorV4::plain(V4_TIME_EXCEEDED, 0);
    /// No route.
    pub const NETWORK_UNREACHABLE: ErrorV4 = ErrorV4::plain(V4_UNREACHABLE, V4_CODE_NETWORK);
    /// The last hop's neighbour does not answer.
    pub const HOST_UNREACHABLE: ErrorV4 = ErrorV4::plain(V4_UNREACHABLE, V4_CODE_HOST);
    /// Nobody listens.
    pub const PORT_UNREACHABLE: ErrorV4 = ErrorV4::plain(V4_UNREACHABLE, V4_CODE_PORT);
    /// Forbidden by a rule, or no resources for a translation (RFC 5508 REQ-8).
    pub const PROHIBITED: ErrorV4 = ErrorV4::plain(V4_UNREACHABLE, V4_CODE_PROHIBITED);

    /// Too big for the next hop and not to be fragmented (RFC 1191 section 4).
    pub const fn fragmentation_needed(mtu: u16) -> ErrorV4 {
        ErrorV4 {
            kind: V4_UNREACHABLE,
            code: V4_CODE_FRAGMENTATION_NEEDED,
            rest: mtu as u32,
        }
    }

    const fn plain(kind: u8, code: u8) -> ErrorV4 {
        ErrorV4 {
            kind,
            code,
            rest: 0,
        }
    }
}

/// What an ICMPv6 error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorV6 {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// The type-specific 32 bits.
    pub rest: u32,
}

impl ErrorV6 {
    /// Hop limit ran out on the way.
    pub const HOP_LIMIT_EXPIRED: ErrorV6 = ErrorV6::plain(V6_TIME_EXCEEDED, 0);
    /// No route.
    pub const NO_ROUTE: ErrorV6 = ErrorV6::plain(V6_UNREACHABLE, V6_CODE_NO_ROUTE);
    /// The last hop's neighbour does not answer.
    pub const ADDRESS_UNREACHABLE: ErrorV6 = ErrorV6::plain(V6_UNREACHABLE, V6_CODE_ADDRESS);
    /// Nobody listens.
    pub const PORT_UNREACHABLE: ErrorV6 = ErrorV6::plain(V6_UNREACHABLE, V6_CODE_PORT);
    /// Forbidden by a rule.
    pub const PROHIBITED: ErrorV6 = ErrorV6::plain(V6_UNREACHABLE, V6_CODE_PROHIBITED);

    /// Too big for the next hop.
    pub const fn too_big(mtu: u32) -> ErrorV6 {
        ErrorV6 {
            kind: V6_TOO_BIG,
            code: 0,
            rest: mtu,
        }
    }

    const fn plain(kind: u8, code: u8) -> ErrorV6 {
        ErrorV6 {
            kind,
            code,
            rest: 0,
        }
    }
}

/// Writes a complete IPv4 packet with an ICMP error about `offending_ip_packet` (from its IP header;
/// padding is ignored), quoting as much as fits 576 bytes. Returns its length, 0 if `out` is shorter.
pub fn error_v4(
    out: &mut [u8],
    source: u32,
    destination: u32,
    error: ErrorV4,
    offending_ip_packet: &[u8],
) -> usize {
    let length = usize::from(ipv4::total_length(offending_ip_packet, 0));
    let room = MAX_ERROR_V4 - ipv4::HEADER - HEADER;
    let quote = prefix(offending_ip_packet, length.min(room));
    let total = ipv4::HEADER + HEADER + quote.len();
    let Some(packet) = out.get_mut(..total) else {
        return 0;
    };
    let header = ipv4::Header {
        tos: TOS_CONTROL,
        total_length: total as u16,
        // An atomic datagram (RFC 6864 section 4.1): it fits every link, and its id shows nobody a counter.
        id: 0,
        flags_offset: ipv4::DONT_FRAGMENT,
        ttl: ipv4::DEFAULT_TTL,
        protocol: ICMP,
        source,
        destination,
    };
    ipv4::write_header(packet, &header);
    let message = packet.get_mut(ipv4::HEADER..).unwrap_or(&mut []);
    write_message(message, error.kind, error.code, error.rest, quote);
    let field = checksum::finish(checksum::sum(message));
    set_checksum(message, 0, field);
    total
}

/// Writes a complete IPv6 packet with an ICMPv6 error about `offending_ip_packet` (from its IP header;
/// padding is ignored), quoting as much as fits 1280 bytes. Returns its length, 0 if `out` is shorter.
pub fn error_v6(
    out: &mut [u8],
    source: u128,
    destination: u128,
    error: ErrorV6,
    offending_ip_packet: &[u8],
) -> usize {
    let length = ipv6::HEADER + usize::from(ipv6::payload_length(offending_ip_packet, 0));
    let room = MAX_ERROR_V6 - ipv6::HEADER - HEADER;
    let quote = prefix(offending_ip_packet, length.min(room));
    let total = ipv6::HEADER + HEADER + quote.len();
    let Some(packet) = out.get_mut(..total) else {
        return 0;
    };
    let header = ipv6::Header {
        payload_length: (HEADER + quote.len()) as u16,
        next_header: ICMPV6,
        hop_limit: ipv6::DEFAULT_HOP_LIMIT,
        source,
        destination,
    };
    ipv6::write_header(packet, &header);
    let message = packet.get_mut(ipv6::HEADER..).unwrap_or(&mut []);
    write_message(message, error.kind, error.code, error.rest, quote);
    let field = checksum::transport_v6(source, destination, ICMPV6, message);
    set_checksum(message, 0, field);
    total
}

/// The first `length` bytes, or all there are.
fn prefix(bytes: &[u8], length: usize) -> &[u8] {
    bytes.get(..length).unwrap_or(bytes)
}

/// Header with a zero checksum, and the quote.
fn write_message(message: &mut [u8], kind: u8, code: u8, rest: u32, quote: &[u8]) {
    const { assert!(CHECKSUM == 2, "set_checksum clears bytes 2 and 3") };
    set_kind(message, 0, kind);
    set_code(message, 0, code);
    set_checksum(message, 0, 0);
    set_rest(message, 0, rest);
    for (to, from) in message.iter_mut().skip(HEADER).zip(quote) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;
    use crate::wire::checksum::verify;
    use crate::wire::{Transport, parse, parse_quoted, parse_quoted_v6};

    fn ip4(payload: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 1).udp(5, 6);
        builder.write(&mut out, &vec![7; payload]).unwrap();
        out
    }

    fn framed(ethertype: u16, packet: &[u8]) -> Vec<u8> {
        [&[2; 12][..], &ethertype.to_be_bytes(), packet].concat()
    }

    // Proves: I10d, F3.
    #[test]
    fn v4_error_is_complete_and_bounded() {
        for (payload, padding, total) in [(0, 18, 56), (519, 0, 575), (520, 0, 576), (2000, 0, 576)]
        {
            let mut offending = ip4(payload);
            offending.extend(vec![0xee; padding]);
            let mut out = [0xaa; 600];
            let error = ErrorV4::fragmentation_needed(1400);
            assert_eq!(error_v4(&mut out, 1, 2, error, &offending), total);
            let frame = framed(0x0800, &out[..total]);
            let p = parse(&frame).unwrap();
            assert_eq!(
                (p.transport, p.source, p.destination, p.ttl),
                (Transport::IcmpError, 1, 2, 64)
            );
            assert_eq!(
                (p.fragment.id, out[1], usize::from(p.ip_length)),
                (0, 0xc0, total)
            );
            assert!(verify(&out[20..total]));
            assert_eq!(super::super::mtu_v4(&out, 20), 1400);
            assert_eq!(parse_quoted(&out[28..total]).unwrap().destination_port, 6);
            assert_eq!(out[28..total], offending[..total - 28]);
            assert_eq!(error_v4(&mut out[..total - 1], 1, 2, error, &offending), 0);
        }
        assert_eq!(
            error_v4(&mut [0; 600], 1, 2, ErrorV4::TTL_EXPIRED, &[]),
            28,
            "nothing to quote"
        );
    }

    #[test]
    fn v6_error_is_complete_and_bounded() {
        for (payload, total) in [(0, 96), (1183, 1279), (1184, 1280), (3000, 1280)] {
            let mut offending = Vec::new();
            let builder = PacketBuilder::ipv6([1; 16], [2; 16], 1).udp(5, 6);
            builder.write(&mut offending, &vec![7; payload]).unwrap();
            let mut out = [0xaa; 1400];
            assert_eq!(
                error_v6(&mut out, 1, 2, ErrorV6::too_big(1400), &offending),
                total
            );
            let frame = framed(0x86dd, &out[..total]);
            let p = parse(&frame).unwrap();
            assert_eq!(
                (p.transport, p.ttl, usize::from(p.ip_length)),
                (Transport::IcmpError, 64, total)
            );
            assert_eq!(checksum::transport_v6(1, 2, ICMPV6, &out[40..total]), 0);
            assert_eq!(super::super::rest(&out, 40), 1400);
            assert_eq!(
                parse_quoted_v6(&out[48..total]).unwrap().destination_port,
                6
            );
            assert_eq!(
                error_v6(&mut out[..total - 1], 1, 2, ErrorV6::NO_ROUTE, &offending),
                0
            );
        }
    }

    #[test]
    fn every_error_says_its_type_code_and_detail() {
        let offending = ip4(3);
        for (error, kind, code, rest) in [
            (ErrorV4::TTL_EXPIRED, 11, 0, [0; 4]),
            (ErrorV4::NETWORK_UNREACHABLE, 3, 0, [0; 4]),
            (ErrorV4::HOST_UNREACHABLE, 3, 1, [0; 4]),
            (ErrorV4::PORT_UNREACHABLE, 3, 3, [0; 4]),
            (ErrorV4::PROHIBITED, 3, 13, [0; 4]),
            (ErrorV4::fragmentation_needed(0x05dc), 3, 4, [0, 0, 5, 0xdc]),
        ] {
            let mut out = [0xaa; 100];
            let total = error_v4(&mut out, 1, 2, error, &offending);
            assert_eq!((out[20], out[21]), (kind, code));
            assert_eq!(out[24..28], rest);
            assert_eq!(out[28..total], offending);
            assert!(verify(&out[..20]) && verify(&out[20..total]));
        }
        let mut offending = Vec::new();
        let builder = PacketBuilder::ipv6([1; 16], [2; 16], 1).udp(5, 6);
        builder.write(&mut offending, &[7; 3]).unwrap();
        for (error, kind, code, rest) in [
            (ErrorV6::HOP_LIMIT_EXPIRED, 3, 0, [0; 4]),
            (ErrorV6::NO_ROUTE, 1, 0, [0; 4]),
            (ErrorV6::ADDRESS_UNREACHABLE, 1, 3, [0; 4]),
            (ErrorV6::PORT_UNREACHABLE, 1, 4, [0; 4]),
            (ErrorV6::PROHIBITED, 1, 1, [0; 4]),
            (ErrorV6::too_big(0x1_0500), 2, 0, [0, 1, 5, 0]),
        ] {
            let mut out = [0xaa; 110];
            let padded = [&offending[..], &[0xee; 5]].concat();
            let total = error_v6(&mut out, 1, 2, error, &padded);
            assert_eq!((out[40], out[41]), (kind, code));
            assert_eq!(out[44..48], rest);
            assert_eq!(out[48..total], offending, "without the padding");
            assert_eq!(checksum::transport_v6(1, 2, ICMPV6, &out[40..total]), 0);
        }
    }

    #[test]
    fn a_packet_that_is_there_in_part_is_quoted_as_far_as_it_goes() {
        let mut out = [0xaa; 100];
        let offending = ip4(100);
        let total = error_v4(&mut out, 1, 2, ErrorV4::TTL_EXPIRED, &offending[..30]);
        assert_eq!((total, &out[28..58]), (58, &offending[..30]));
    }
}
