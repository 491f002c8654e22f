//! Addresses that cannot be: martian sources and destinations (RFC 1812 §5.3.7, RFC 4291 §2.5).
//!
//! Three questions, asked in this order:
//!
//! 1. [`source_v4`], [`source_v6`]: of every IP packet, before anything else is done with it.
//! 2. [`destination_v4`], [`destination_v6`]: likewise. Multicast and broadcast pass, they may be for the gateway.
//! 3. [`transit_v4`], [`transit_v6`]: of packets that are not for the gateway itself, before they are routed.
//!
//! Deliberately allowed: documentation and other special-purpose prefixes (somebody's lab is built of them), 169.254/16
//! between the gateway and its own link, and `::` as the source of IPv6 packets to link-scope multicast, which is how
//! duplicate address detection and router solicitation start (RFC 4862 §5.4.2). 0.0.0.0 is refused everywhere: a DHCP
//! client's only IPv4 use of it is to a server, and the gateway is none.
//!
//! Whether a source is one of the gateway's *own* addresses depends on the configuration: ask
//! [`Routes::local_v4`](super::Routes::local_v4) and drop with the same reason.

use super::interface::is_link_local;
use crate::base::DropReason;

const MARTIAN_SOURCE: Option<DropReason> = Some(DropReason::MartianSource);
const MARTIAN_DESTINATION: Option<DropReason> = Some(DropReason::MartianDestination);

/// Why no packet can come from `source`: 0/8, 127/8, multicast, class E or the limited broadcast.
// Implements: F5.
#[inline]
pub fn source_v4(source: u32) -> Option<DropReason> {
    match source >> 24 {
        0 | 127 | 224.. => MARTIAN_SOURCE,
        _ => None,
    }
}

/// Why no packet can go to `destination`: 0/8, 127/8 or class E (but not 255.255.255.255).
// Implements: F5.
#[inline]
pub fn destination_v4(destination: u32) -> Option<DropReason> {
    match destination >> 24 {
        0 | 127 => MARTIAN_DESTINATION,
        240.. if destination != u32::MAX => MARTIAN_DESTINATION,
        _ => None,
    }
}

/// Why a packet must not travel from link to link: link-local at either end (RFC 3927 §7), multicast or broadcast
/// destination. Directed broadcasts depend on the interfaces: see [`Routes::broadcast_v4`](super::Routes::broadcast_v4).
#[inline]
pub fn transit_v4(source: u32, destination: u32) -> Option<DropReason> {
    const LINK_LOCAL: u32 = 0xa9fe;
    if destination >> 28 == 0xe || destination == u32::MAX {
        Some(DropReason::Multicast)
    } else if source >> 16 == LINK_LOCAL {
        MARTIAN_SOURCE
    } else if destination >> 16 == LINK_LOCAL {
        MARTIAN_DESTINATION
    } else {
        None
    }
}

/// Why no packet can come from `source`: multicast, loopback, an IPv4 address in disguise (`::/96`, `::ffff:0:0/96`), or
/// `::` unless it speaks to link-scope multicast.
#[inline]
pub fn source_v6(source: u128, destination: u128) -> Option<DropReason> {
    if source == 0 && destination >> 112 == 0xff02 {
        return None;
    }
    if source >> 120 == 0xff || never_on_a_wire(source) {
        return MARTIAN_SOURCE;
    }
    None
}

/// Why no packet can go to `destination`: unspecified, loopback, an IPv4 address in disguise, or multicast that does not
/// leave its host (scope 0 and 1, RFC 4291 §2.7).
#[inline]
pub fn destination_v6(destination: u128) -> Option<DropReason> {
    let host_scope = destination >> 120 == 0xff && (destination >> 112) & 0xf <= 1;
    (host_scope || never_on_a_wire(destination)).then_some(DropReason::MartianDestination)
}

/// Why a packet must not travel from link to link: link-local at either end (RFC 4291 §2.5.6), multicast destination, or
/// no source at all.
#[inline]
pub fn transit_v6(source: u128, destination: u128) -> Option<DropReason> {
    if destination >> 120 == 0xff {
        Some(DropReason::Multicast)
    } else if source == 0 || is_link_local(source) {
        MARTIAN_SOURCE
    } else if is_link_local(destination) {
        MARTIAN_DESTINATION
    } else {
        None
    }
}

/// `::`, `::1` and the rest of the IPv4-compatible range, and IPv4-mapped addresses.
#[inline]
fn never_on_a_wire(address: u128) -> bool {
    matches!(address >> 32, 0 | 0xffff)
}

#[cfg(test)]
mod tests {
    use super::super::interface::tests::{v4, v6};
    use super::*;
    use DropReason::{MartianDestination, MartianSource, Multicast};

    #[test]
    fn ipv4_ends() {
        let rows = [
            ("0.0.0.0", Some(MartianSource), Some(MartianDestination)),
            (
                "0.255.255.255",
                Some(MartianSource),
                Some(MartianDestination),
            ),
            ("1.0.0.0", None, None),
            ("126.255.255.255", None, None),
            ("127.0.0.1", Some(MartianSource), Some(MartianDestination)),
            ("128.0.0.0", None, None),
            ("169.254.1.1", None, None),
            ("203.0.113.9", None, None),
            ("223.255.255.255", None, None),
            ("224.0.0.1", Some(MartianSource), None),
            ("239.255.255.255", Some(MartianSource), None),
            ("240.0.0.0", Some(MartianSource), Some(MartianDestination)),
            (
                "255.255.255.254",
                Some(MartianSource),
                Some(MartianDestination),
            ),
            ("255.255.255.255", Some(MartianSource), None),
        ];
        for (address, as_source, as_destination) in rows {
            assert_eq!(source_v4(v4(address)), as_source, "from {address}");
            assert_eq!(destination_v4(v4(address)), as_destination, "to {address}");
        }
    }

    #[test]
    fn ipv4_transit() {
        let host = v4("10.0.0.2");
        let rows = [
            ("203.0.113.9", None),
            ("224.0.0.251", Some(Multicast)),
            ("255.255.255.255", Some(Multicast)),
            ("169.254.169.254", Some(MartianDestination)),
            ("169.255.0.0", None),
        ];
        for (to, expected) in rows {
            assert_eq!(transit_v4(host, v4(to)), expected, "{to}");
        }
        assert_eq!(transit_v4(v4("169.254.0.9"), host), Some(MartianSource));
    }

    #[test]
    fn ipv6_ends() {
        let rows = [
            ("::", Some(MartianSource), Some(MartianDestination)),
            ("::1", Some(MartianSource), Some(MartianDestination)),
            ("::192.0.2.1", Some(MartianSource), Some(MartianDestination)),
            (
                "::ffff:192.0.2.1",
                Some(MartianSource),
                Some(MartianDestination),
            ),
            ("64:ff9b::192.0.2.1", None, None),
            ("2001:db8::1", None, None),
            ("fe80::1", None, None),
            ("ff00::1", Some(MartianSource), Some(MartianDestination)),
            ("ff01::1", Some(MartianSource), Some(MartianDestination)),
            ("ff02::1", Some(MartianSource), None),
            ("ff0e::1", Some(MartianSource), None),
        ];
        for (address, as_source, as_destination) in rows {
            let ours = v6("2001:db8::2");
            assert_eq!(source_v6(v6(address), ours), as_source, "from {address}");
            assert_eq!(destination_v6(v6(address)), as_destination, "to {address}");
        }
    }

    #[test]
    fn the_unspecified_source_may_only_speak_to_its_link() {
        assert_eq!(
            source_v6(0, v6("ff02::1:ff00:1")),
            None,
            "duplicate address detection"
        );
        assert_eq!(source_v6(0, v6("ff02::2")), None, "router solicitation");
        assert_eq!(source_v6(0, v6("ff05::2")), Some(MartianSource));
        assert_eq!(source_v6(1, v6("ff02::2")), Some(MartianSource));
    }

    #[test]
    fn ipv6_transit() {
        let (host, far) = (v6("2001:db8::2"), v6("2001:db8:9::9"));
        assert_eq!(transit_v6(host, far), None);
        assert_eq!(transit_v6(host, v6("ff0e::1")), Some(Multicast));
        assert_eq!(transit_v6(host, v6("fe80::1")), Some(MartianDestination));
        assert_eq!(transit_v6(v6("fe80::1"), far), Some(MartianSource));
        assert_eq!(transit_v6(0, far), Some(MartianSource));
    }
}
