//! ICMP errors the gateway sends: which ones there are, and when the rules forbid them.
//!
//! Deciding is all that happens here. The dataplane parses the offending packet into an [`Offender`], asks
//! [`may_send_error`] and then the rate limiter, and builds the message from [`ErrorKind::v4`] or [`ErrorKind::v6`] with
//! the source address of the interface towards the receiver.

use super::sanity;
use std::net::IpAddr;

/// Bytes of the whole IPv4 error packet at most (RFC 1812 §4.3.2.3).
pub const V4_TOTAL_MAX: usize = 576;
/// Bytes of the whole IPv6 error packet at most: the minimum IPv6 MTU (RFC 4443 §2.4 c).
pub const V6_TOTAL_MAX: usize = 1280;
/// Bytes of the offending packet an IPv4 error quotes at most: what 20 bytes IPv4 and 8 bytes ICMP header leave.
pub const V4_QUOTE_MAX: usize = V4_TOTAL_MAX - 28;
/// Bytes of the offending packet an IPv6 error quotes at most: what 40 bytes IPv6 and 8 bytes ICMP header leave.
pub const V6_QUOTE_MAX: usize = V6_TOTAL_MAX - 48;
/// TOS (traffic class) of errors: precedence 6, internetwork control (RFC 1812 §4.3.2.5).
// Implements: I10d.
pub const ERROR_TOS: u8 = 0xc0;
/// TTL (hop limit) of everything the gateway itself sends, neighbour discovery aside.
pub const OWN_TTL: u8 = 64;
/// The smallest MTU an IPv6 link may have (RFC 8200 §5); a smaller one is never announced.
const V6_MTU_MIN: u16 = 1280;

/// What the gateway has to say about a packet it did not forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// TTL or hop limit ran out in transit.
    TimeExceeded,
    /// No route to the destination.
    NetUnreachable,
    /// The next hop or destination does not answer on its link.
    HostUnreachable,
    /// Nobody listens on that port of the gateway.
    PortUnreachable,
    /// The gateway does not speak this protocol.
    ProtocolUnreachable {
        /// Offset of the next-header field that names the protocol, from the start of the IPv6 header (6 without
        /// extension headers). IPv4 does not say.
        pointer: u16,
    },
    /// Policy forbids it, or no translation could be made (RFC 6888 REQ-9).
    AdminProhibited,
    /// Policy forbids the destination's network (RFC 1812 §5.2.7.1); IPv6 only knows [`ErrorKind::AdminProhibited`].
    NetProhibited,
    /// Policy forbids the destination (RFC 1812 §5.2.7.1); IPv6 only knows [`ErrorKind::AdminProhibited`].
    HostProhibited,
    /// Policy forbids the source (RFC 4443 §3.1); IPv4 only knows [`ErrorKind::AdminProhibited`].
    SourceProhibited,
    /// The route to the destination rejects (RFC 4443 §3.1); IPv4 only knows [`ErrorKind::AdminProhibited`].
    RouteRejects,
    /// Too big for the next link, and not to be fragmented here.
    FragmentationNeeded {
        /// The next link's IP MTU in bytes.
        mtu: u16,
    },
}

/// The first 8 bytes of an ICMP message, less the checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpHead {
    /// ICMP type.
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
    /// The second 32-bit word, host order: unused, MTU or pointer.
    pub rest: u32,
}

impl ErrorKind {
    /// The ICMP message (RFC 792; code 13: RFC 1812 §5.2.7.1; MTU: RFC 1191 §4).
    pub fn v4(self) -> IcmpHead {
        let (kind, code, rest) = match self {
            ErrorKind::TimeExceeded => (11, 0, 0),
            ErrorKind::NetUnreachable => (3, 0, 0),
            ErrorKind::HostUnreachable => (3, 1, 0),
            ErrorKind::ProtocolUnreachable { .. } => (3, 2, 0),
            ErrorKind::PortUnreachable => (3, 3, 0),
            ErrorKind::FragmentationNeeded { mtu } => (3, 4, u32::from(mtu)),
            ErrorKind::NetProhibited => (3, 9, 0),
            ErrorKind::HostProhibited => (3, 10, 0),
            ErrorKind::AdminProhibited | ErrorKind::SourceProhibited | ErrorKind::RouteRejects => {
                (3, 13, 0)
            }
        };
        IcmpHead { kind, code, rest }
    }

    /// The ICMPv6 message (RFC 4443 §3).
    pub fn v6(self) -> IcmpHead {
        let (kind, code, rest) = match self {
            ErrorKind::TimeExceeded => (3, 0, 0),
            ErrorKind::NetUnreachable => (1, 0, 0),
            ErrorKind::AdminProhibited | ErrorKind::NetProhibited | ErrorKind::HostProhibited => {
                (1, 1, 0)
            }
            ErrorKind::SourceProhibited => (1, 5, 0),
            ErrorKind::RouteRejects => (1, 6, 0),
            ErrorKind::HostUnreachable => (1, 3, 0),
            ErrorKind::PortUnreachable => (1, 4, 0),
            ErrorKind::FragmentationNeeded { mtu } => (2, 0, u32::from(mtu.max(V6_MTU_MIN))),
            // A parameter problem: unrecognised next header.
            ErrorKind::ProtocolUnreachable { pointer } => (4, 1, u32::from(pointer)),
        };
        IcmpHead { kind, code, rest }
    }
}

/// What must be known of a packet before an error about it may be sent. Its IP header is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offender {
    /// Source, as received.
    pub source: IpAddr,
    /// Destination, as received (same family).
    pub destination: IpAddr,
    /// The frame was sent to a group MAC address.
    pub link_group: bool,
    /// The source or destination is the broadcast or network address of a connected subnet
    /// ([`Routes::broadcast_v4`](super::Routes::broadcast_v4)).
    pub subnet_broadcast: bool,
    /// A fragment with an offset above 0.
    pub later_fragment: bool,
    /// The ICMP (over IPv4) or ICMPv6 (over IPv6) type, if it is such a packet.
    pub icmp_type: Option<u8>,
}

/// Whether an ICMP error about this packet may be sent: not about ICMP errors and redirects, later fragments, anything
/// sent to a group on either layer, or a source that is not a single host (RFC 1812 §4.3.2.7, RFC 4443 §2.4 e).
///
/// RFC 4443 would allow Packet Too Big about multicast; natgate forwards none, so it is not made an exception.
// Implements: I10e, F4.
pub fn may_send_error(packet: &Offender) -> bool {
    let ends_are_hosts = match (packet.source, packet.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            sanity::source_v4(source.into()).is_none()
                && !destination.is_multicast()
                && !destination.is_broadcast()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            sanity::source_v6(source.into(), destination.into()).is_none()
                && !source.is_unspecified()
                && !destination.is_multicast()
        }
        _ => false,
    };
    let about_error = match (packet.icmp_type, packet.source) {
        (None, _) => false,
        // Unreachable, source quench, redirect, time exceeded, parameter problem.
        (Some(kind), IpAddr::V4(_)) => matches!(kind, 3 | 4 | 5 | 11 | 12),
        // Errors are the lower half of the types; 137 is the redirect.
        (Some(kind), IpAddr::V6(_)) => kind < 128 || kind == 137,
    };
    let to_a_group = packet.link_group || packet.subnet_broadcast;
    ends_are_hosts && !about_error && !to_a_group && !packet.later_fragment
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(source: &str, destination: &str) -> Offender {
        Offender {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            link_group: false,
            subnet_broadcast: false,
            later_fragment: false,
            icmp_type: None,
        }
    }

    #[test]
    fn ordinary_packets_and_queries_get_errors() {
        for mut ordinary in [
            packet("10.0.0.2", "203.0.113.9"),
            packet("2001:db8::2", "2001:db8:9::9"),
        ] {
            assert!(may_send_error(&ordinary));
            ordinary.icmp_type = Some(if ordinary.source.is_ipv4() { 8 } else { 128 });
            assert!(may_send_error(&ordinary), "echo requests, as traceroute -I");
        }
    }

    // Proves: I10e, F4.
    #[test]
    fn each_single_fact_forbids() {
        for good in [
            packet("10.0.0.2", "203.0.113.9"),
            packet("2001:db8::2", "2001:db8:9::9"),
        ] {
            let link_group = Offender {
                link_group: true,
                ..good
            };
            let broadcast = Offender {
                subnet_broadcast: true,
                ..good
            };
            let fragment = Offender {
                later_fragment: true,
                ..good
            };
            for bad in [link_group, broadcast, fragment] {
                assert!(!may_send_error(&bad), "{bad:?}");
            }
        }
    }

    // Proves: I10e, F4.
    #[test]
    fn never_about_errors() {
        for kind in 0..=255 {
            let mut v4 = packet("10.0.0.2", "203.0.113.9");
            v4.icmp_type = Some(kind);
            assert_eq!(
                may_send_error(&v4),
                ![3, 4, 5, 11, 12].contains(&kind),
                "{kind}"
            );
            let mut v6 = packet("2001:db8::2", "2001:db8:9::9");
            v6.icmp_type = Some(kind);
            assert_eq!(may_send_error(&v6), kind >= 128 && kind != 137, "v6 {kind}");
        }
    }

    #[test]
    fn both_ends_must_be_hosts() {
        for (source, destination) in [
            ("0.0.0.0", "203.0.113.9"),
            ("127.0.0.1", "203.0.113.9"),
            ("224.0.0.1", "203.0.113.9"),
            ("255.255.255.255", "203.0.113.9"),
            ("10.0.0.2", "224.0.0.1"),
            ("10.0.0.2", "255.255.255.255"),
            ("::", "2001:db8::1"),
            ("::", "ff02::1"),
            ("::1", "2001:db8::1"),
            ("ff02::1", "2001:db8::1"),
            ("2001:db8::2", "ff02::1"),
            ("10.0.0.2", "2001:db8::1"),
        ] {
            assert!(
                !may_send_error(&packet(source, destination)),
                "{source} > {destination}"
            );
        }
    }

    #[test]
    fn messages_on_the_wire() {
        let head = |kind, code, rest| IcmpHead { kind, code, rest };
        let too_big = ErrorKind::FragmentationNeeded { mtu: 1400 };
        let protocol = ErrorKind::ProtocolUnreachable { pointer: 6 };
        for (kind, v4, v6) in [
            (ErrorKind::TimeExceeded, head(11, 0, 0), head(3, 0, 0)),
            (ErrorKind::NetUnreachable, head(3, 0, 0), head(1, 0, 0)),
            (ErrorKind::HostUnreachable, head(3, 1, 0), head(1, 3, 0)),
            (ErrorKind::PortUnreachable, head(3, 3, 0), head(1, 4, 0)),
            (ErrorKind::AdminProhibited, head(3, 13, 0), head(1, 1, 0)),
            (ErrorKind::NetProhibited, head(3, 9, 0), head(1, 1, 0)),
            (ErrorKind::HostProhibited, head(3, 10, 0), head(1, 1, 0)),
            (ErrorKind::SourceProhibited, head(3, 13, 0), head(1, 5, 0)),
            (ErrorKind::RouteRejects, head(3, 13, 0), head(1, 6, 0)),
            (too_big, head(3, 4, 1400), head(2, 0, 1400)),
            (protocol, head(3, 2, 0), head(4, 1, 6)),
        ] {
            assert_eq!((kind.v4(), kind.v6()), (v4, v6), "{kind:?}");
        }
        let small = ErrorKind::FragmentationNeeded { mtu: 576 };
        assert_eq!(small.v6().rest, 1280, "no IPv6 link is smaller");
        assert_eq!((V4_QUOTE_MAX, V6_QUOTE_MAX), (548, 1232));
    }
}
