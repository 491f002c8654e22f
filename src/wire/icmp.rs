//! ICMP (RFC 792) and ICMPv6 (RFC 4443): fields, echo replies, and the errors a gateway sends.
//!
//! ```text
//!  0      1      2          4                    8
//!  | type | code | checksum | rest of the header | quoted packet, or data
//!                             id, sequence: queries
//!                             MTU (in v4 in the low 16 bits): too big
//! ```
//!
//! Both versions share this layout; the ICMPv6 checksum covers the pseudo header as well.

mod error;

pub use error::{ErrorV4, ErrorV6, MAX_ERROR_V4, MAX_ERROR_V6, error_v4, error_v6};

use super::checksum::Delta;
use super::{
    Network, Parsed, Transport, ipv4, ipv6, read_u8, read_u16, read_u32, write_u8, write_u16,
    write_u32,
};

/// Length of the header.
pub const HEADER: usize = 8;
/// Offset of the checksum field in the header.
pub const CHECKSUM: usize = 2;

/// ICMPv4 type: echo reply.
pub const V4_ECHO_REPLY: u8 = 0;
/// ICMPv4 type: destination unreachable.
pub const V4_UNREACHABLE: u8 = 3;
/// ICMPv4 type: source quench (obsolete, RFC 6633).
pub const V4_SOURCE_QUENCH: u8 = 4;
/// ICMPv4 type: redirect.
pub const V4_REDIRECT: u8 = 5;
/// ICMPv4 type: echo request.
pub const V4_ECHO_REQUEST: u8 = 8;
/// ICMPv4 type: time exceeded.
pub const V4_TIME_EXCEEDED: u8 = 11;
/// ICMPv4 type: parameter problem.
pub const V4_PARAMETER_PROBLEM: u8 = 12;
/// ICMPv4 unreachable code: network.
pub const V4_CODE_NETWORK: u8 = 0;
/// ICMPv4 unreachable code: host.
pub const V4_CODE_HOST: u8 = 1;
/// ICMPv4 unreachable code: protocol.
pub const V4_CODE_PROTOCOL: u8 = 2;
/// ICMPv4 unreachable code: port.
pub const V4_CODE_PORT: u8 = 3;
/// ICMPv4 unreachable code: fragmentation needed and DF set.
pub const V4_CODE_FRAGMENTATION_NEEDED: u8 = 4;
/// ICMPv4 unreachable code: administratively prohibited.
pub const V4_CODE_PROHIBITED: u8 = 13;

/// ICMPv6 type: destination unreachable.
pub const V6_UNREACHABLE: u8 = 1;
/// ICMPv6 type: packet too big.
pub const V6_TOO_BIG: u8 = 2;
/// ICMPv6 type: time exceeded.
pub const V6_TIME_EXCEEDED: u8 = 3;
/// ICMPv6 type: parameter problem.
pub const V6_PARAMETER_PROBLEM: u8 = 4;
/// ICMPv6 type: echo request.
pub const V6_ECHO_REQUEST: u8 = 128;
/// ICMPv6 type: echo reply.
pub const V6_ECHO_REPLY: u8 = 129;
/// ICMPv6 type: router solicitation.
pub const V6_ROUTER_SOLICITATION: u8 = 133;
/// ICMPv6 type: router advertisement.
pub const V6_ROUTER_ADVERTISEMENT: u8 = 134;
/// ICMPv6 type: neighbour solicitation.
pub const V6_NEIGHBOUR_SOLICITATION: u8 = 135;
/// ICMPv6 type: neighbour advertisement.
pub const V6_NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// ICMPv6 unreachable code: no route.
pub const V6_CODE_NO_ROUTE: u8 = 0;
/// ICMPv6 unreachable code: administratively prohibited.
pub const V6_CODE_PROHIBITED: u8 = 1;
/// ICMPv6 unreachable code: address.
pub const V6_CODE_ADDRESS: u8 = 3;
/// ICMPv6 unreachable code: port.
pub const V6_CODE_PORT: u8 = 4;

/// Type of message.
#[inline]
pub fn kind(frame: &[u8], l4: usize) -> u8 {
    read_u8(frame, l4)
}

/// Code, the type's detail.
#[inline]
pub fn code(frame: &[u8], l4: usize) -> u8 {
    read_u8(frame, l4 + 1)
}

/// Checksum.
#[inline]
pub fn checksum(frame: &[u8], l4: usize) -> u16 {
    read_u16(frame, l4 + CHECKSUM)
}

/// Identifier of a query or reply.
#[inline]
pub fn identifier(frame: &[u8], l4: usize) -> u16 {
    read_u16(frame, l4 + 4)
}

/// Sequence number of a query or reply.
#[inline]
pub fn sequence(frame: &[u8], l4: usize) -> u16 {
    read_u16(frame, l4 + 6)
}

/// The type-specific 32 bits: of packet too big (ICMPv6) the MTU.
#[inline]
pub fn rest(frame: &[u8], l4: usize) -> u32 {
    read_u32(frame, l4 + 4)
}

/// Next-hop MTU of an ICMPv4 fragmentation needed (RFC 1191 section 4); 0 from routers that predate it.
#[inline]
pub fn mtu_v4(frame: &[u8], l4: usize) -> u16 {
    read_u16(frame, l4 + 6)
}

/// Sets the type.
#[inline]
pub fn set_kind(frame: &mut [u8], l4: usize, value: u8) {
    write_u8(frame, l4, value);
}

/// Sets the code.
#[inline]
pub fn set_code(frame: &mut [u8], l4: usize, value: u8) {
    write_u8(frame, l4 + 1, value);
}

/// Sets the identifier.
#[inline]
pub fn set_identifier(frame: &mut [u8], l4: usize, value: u16) {
    write_u16(frame, l4 + 4, value);
}

/// Sets the type-specific 32 bits.
#[inline]
pub fn set_rest(frame: &mut [u8], l4: usize, value: u32) {
    write_u32(frame, l4 + 4, value);
}

/// Sets the checksum.
#[inline]
pub fn set_checksum(frame: &mut [u8], l4: usize, value: u16) {
    write_u16(frame, l4 + CHECKSUM, value);
}

/// Brings the checksum up to date with a change of the identifier, of quoted bytes, or (ICMPv6) of addresses.
#[inline]
pub fn apply_checksum(frame: &mut [u8], l4: usize, change: Delta) {
    let field = change.apply(checksum(frame, l4));
    set_checksum(frame, l4, field);
}

/// Turns an echo request into its reply in place: addresses exchanged, type changed, TTL or hop limit 64,
/// checksums corrected by difference so that a damaged request gives a damaged reply. The Ethernet header
/// stays. Returns false, and changes nothing, unless `parsed` describes an echo request.
pub fn turn_echo_request_into_reply(frame: &mut [u8], parsed: &Parsed) -> bool {
    let (l3, l4) = (usize::from(parsed.l3), usize::from(parsed.l4));
    let (request, reply) = match parsed.network {
        Network::Ipv4 => (V4_ECHO_REQUEST, V4_ECHO_REPLY),
        Network::Ipv6 => (V6_ECHO_REQUEST, V6_ECHO_REPLY),
        Network::Arp => return false,
    };
    if parsed.transport != Transport::IcmpQuery || kind(frame, l4) != request {
        return false;
    }
    // Exchanging two addresses changes neither the header's nor the pseudo header's sum.
    if parsed.network == Network::Ipv4 {
        let (source, destination) = (ipv4::source(frame, l3), ipv4::destination(frame, l3));
        ipv4::set_source(frame, l3, destination);
        ipv4::set_destination(frame, l3, source);
        let change = ipv4::ttl_delta(ipv4::ttl(frame, l3), ipv4::DEFAULT_TTL);
        ipv4::set_ttl(frame, l3, ipv4::DEFAULT_TTL);
        ipv4::apply_checksum(frame, l3, change);
    } else {
        let (source, destination) = (ipv6::source(frame, l3), ipv6::destination(frame, l3));
        ipv6::set_source(frame, l3, destination);
        ipv6::set_destination(frame, l3, source);
        ipv6::set_hop_limit(frame, l3, ipv6::DEFAULT_HOP_LIMIT);
    }
    set_kind(frame, l4, reply);
    let change = Delta::u16(u16::from(request) << 8, u16::from(reply) << 8);
    apply_checksum(frame, l4, change);
    true
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;
    use crate::wire::checksum::{transport_v6, verify};
    use crate::wire::parse;

    #[test]
    fn golden_fields() {
        let mut frame = [0xee, 3, 4, 0xab, 0xcd, 0, 1, 5, 0xdc];
        assert_eq!(
            (kind(&frame, 1), code(&frame, 1), checksum(&frame, 1)),
            (3, 4, 0xabcd)
        );
        assert_eq!((identifier(&frame, 1), sequence(&frame, 1)), (1, 1500));
        assert_eq!((rest(&frame, 1), mtu_v4(&frame, 1)), (0x0001_05dc, 1500));
        set_kind(&mut frame, 1, 8);
        set_code(&mut frame, 1, 0);
        set_rest(&mut frame, 1, 0x0102_0304);
        set_identifier(&mut frame, 1, 0xffff);
        set_checksum(&mut frame, 1, 0);
        assert_eq!(frame, [0xee, 8, 0, 0, 0, 0xff, 0xff, 3, 4]);
        assert_eq!(identifier(&frame, 1), 0xffff);
    }

    fn echo_request() -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 7)
            .icmpv4_echo_request(0x1234, 9)
            .write(&mut frame, b"payload")
            .unwrap();
        frame
    }

    #[test]
    fn echo_reply_v4() {
        let mut frame = echo_request();
        let request = parse(&frame).unwrap();
        assert!(turn_echo_request_into_reply(&mut frame, &request));
        let reply = parse(&frame).unwrap();
        assert_eq!(
            (reply.source, reply.destination),
            (request.destination, request.source)
        );
        assert_eq!(
            (reply.transport, reply.destination_port, reply.ttl),
            (Transport::IcmpReply, 0x1234, 64)
        );
        assert!(verify(&frame[34..]));
        assert!(!turn_echo_request_into_reply(&mut frame, &reply));
    }

    #[test]
    fn echo_reply_v6() {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv6([1; 16], [2; 16], 7)
            .icmpv6_echo_request(0x1234, 9)
            .write(&mut frame, b"payload")
            .unwrap();
        let request = parse(&frame).unwrap();
        assert!(turn_echo_request_into_reply(&mut frame, &request));
        let reply = parse(&frame).unwrap();
        assert_eq!((reply.transport, reply.ttl), (Transport::IcmpReply, 64));
        let (source, destination) = (ipv6::source(&frame, 14), ipv6::destination(&frame, 14));
        assert_eq!(source, u128::from_be_bytes([2; 16]));
        assert_eq!(transport_v6(source, destination, 58, &frame[54..]), 0);
    }

    #[test]
    fn only_echo_requests_are_answered() {
        let mut timestamp = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 7)
            .icmpv4_raw(13, 0, [0, 1, 0, 2])
            .write(&mut timestamp, &[0; 12])
            .unwrap();
        let query = parse(&timestamp).unwrap();
        assert_eq!(query.transport, Transport::IcmpQuery);
        let request = {
            let mut frame = timestamp.clone();
            set_kind(&mut frame, 34, V4_ECHO_REQUEST);
            frame
        };
        let described = |network, transport| Parsed {
            network,
            transport,
            ..query
        };
        for (frame, parsed) in [
            (&timestamp, query),
            (&request, described(Network::Arp, Transport::IcmpQuery)),
            (&request, described(Network::Ipv6, Transport::IcmpQuery)),
            (&request, described(Network::Ipv4, Transport::Other)),
            (&request, described(Network::Ipv4, Transport::LaterFragment)),
        ] {
            let mut same = frame.clone();
            assert!(!turn_echo_request_into_reply(&mut same, &parsed));
            assert_eq!(same, *frame);
        }
    }

    #[test]
    fn a_damaged_request_gives_a_damaged_reply() {
        let mut frame = echo_request();
        *frame.last_mut().unwrap() ^= 1;
        let request = parse(&frame).unwrap();
        assert!(turn_echo_request_into_reply(&mut frame, &request));
        assert!(!verify(&frame[34..]));
    }
}
