//! What no router forwards is dropped for its own reason, and nothing is said about it: one row a reason.

use natgate::base::DropReason;
use natgate::dataplane::rack::Rack;
use natgate::dataplane::shard::ShardSize;
use natgate::wire::checksum;

use crate::common::*;
use crate::*;

const CLIENT: End = ("10.0.0.2", 40000);

/// Repairs the header checksum of an IPv4 frame.
fn reseal(mut frame: Vec<u8>) -> Vec<u8> {
    let header = 14 + usize::from(frame[14] & 15) * 4;
    frame[24..26].fill(0);
    let sum = checksum::ipv4_header(&frame[14..header]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// The frame with some bytes replaced and the header checksum right.
fn with(frame: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    reseal(frame)
}

/// The frame with four bytes of IPv4 options.
fn with_option(frame: &[u8], option: [u8; 4]) -> Vec<u8> {
    let mut longer = frame.to_vec();
    longer.splice(34..34, option);
    longer[14] = 0x46;
    let length = (longer.len() - 14) as u16;
    longer[16..18].copy_from_slice(&length.to_be_bytes());
    reseal(longer)
}

// Proves: F1, F5, I10.
#[test]
fn broken_packets_are_dropped_each_for_its_reason() {
    use DropReason::*;
    let datagram = call(CLIENT);
    let segment = tcp(LAN, CLIENT, ("203.0.113.9", 80), "S");
    let flags = |flags: u8| with(&segment, 47, &[flags]);
    let fragment = |offset_and_flags: u16| with(&datagram, 20, &offset_and_flags.to_be_bytes());
    let rows = [
        (FrameShort, datagram[..20].to_vec()),
        (FrameType, with(&datagram, 12, &[0x88, 0xcc])),
        (FrameMac, with(&datagram, 0, &[2, 0, 0, 0, 0, 0x55])),
        (FrameMac, with(&datagram, 6, &[3, 0, 0, 0, 0, 9])),
        (
            UnknownVlan,
            [&datagram[..12], &[0x81, 0, 0, 7], &datagram[12..]].concat(),
        ),
        (IpVersion, with(&datagram, 14, &[0x65])),
        (IpHeaderLength, {
            let mut frame = datagram.clone();
            frame[14] = 0x44;
            frame
        }),
        (IpTotalLength, with(&datagram, 16, &[0xff, 0xff])),
        (IpChecksum, {
            let mut frame = datagram.clone();
            frame[24] ^= 0x10;
            frame
        }),
        (IpSourceRoute, with_option(&datagram, [131, 3, 4, 0])),
        (IpSourceRoute, with_option(&datagram, [137, 3, 4, 0])),
        (MartianSource, with(&datagram, 26, &[127, 0, 0, 1])),
        (MartianSource, with(&datagram, 26, &[224, 0, 0, 1])),
        (MartianSource, with(&datagram, 26, &[255; 4])),
        (MartianSource, with(&datagram, 26, &[10, 0, 0, 1])),
        (MartianDestination, with(&datagram, 30, &[127, 0, 0, 1])),
        (MartianDestination, with(&datagram, 30, &[240, 0, 0, 1])),
        (Multicast, with(&datagram, 30, &[239, 1, 2, 3])),
        (Multicast, with(&datagram, 30, &[255; 4])),
        (Multicast, with(&datagram, 30, &[203, 0, 113, 255])),
        (L4Truncated, with(&datagram, 16, &[0, 24])),
        (L4Length, with(&datagram, 38, &[0, 200])),
        (TcpFlags, flags(0)),
        (TcpFlags, flags(0x03)),
        (TcpFlags, flags(0x06)),
        (TcpNoSession, flags(0x10)),
        (FragmentTiny, with(&fragment(0x2000), 16, &[0, 24])),
        (FragmentOversize, fragment(0x1fff)),
    ];
    everywhere(|workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        for (row, (reason, frame)) in rows.iter().enumerate() {
            println!("row {row}: {reason}");
            dropped(&mut rack, at, LAN, frame, *reason);
        }
        assert_eq!(rack.sessions(), 0);
        assert_eq!(rack.totals().icmp_errors, 0, "nobody is told");
        // What is right still passes.
        one(&mut rack, at, LAN, &datagram);
        one(
            &mut rack,
            at,
            LAN,
            &with_option(&call(CLIENT), [1, 1, 1, 0]),
        );
    });
}

// Proves: I10f.
#[test]
fn errors_are_limited_and_what_is_not_said_is_counted() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        let expired = udp_ttl(LAN, CLIENT, SERVER, 1);
        for _ in 0..1000 {
            let said = send(&mut rack, at, LAN, &expired);
            assert!(
                said.iter()
                    .all(|sent| seen(sent).source.0 == ip("10.0.0.1"))
            );
        }
        let totals = rack.totals();
        assert_eq!(rack.drops(DropReason::TtlExpired), 1000);
        assert_eq!(totals.icmp_errors + totals.icmp_suppressed, 1000);
        assert!(
            (1..200).contains(&totals.icmp_errors),
            "{} errors in an instant",
            totals.icmp_errors
        );
        rack.advance(1000);
        assert_eq!(
            send(&mut rack, at, LAN, &expired).len(),
            1,
            "a second later"
        );
    });
}

#[test]
fn without_buffers_nothing_is_made_and_everything_is_counted() {
    let mut rack = lab(1, MASQUERADE);
    rack.limit_buffers(WorkerId(0), Some(0));
    let large = crate::mtu::datagram(3000, false);
    dropped(&mut rack, 0, LAN, &large, DropReason::MbufExhausted);
    let expired = udp_ttl(LAN, CLIENT, SERVER, 1);
    dropped(&mut rack, 0, LAN, &expired, DropReason::TtlExpired);
    rack.limit_buffers(WorkerId(0), None);
    assert_eq!(send(&mut rack, 0, LAN, &large).len(), 3);
}

#[test]
fn a_full_table_of_subscribers_refuses_the_next_host_only() {
    let mut size = ShardSize::small();
    size.nat.subscribers = 2;
    let mut rack = Rack::new(lab_policy(1, MASQUERADE), size, 1).unwrap();
    let first = one(&mut rack, 0, LAN, &call(("10.0.0.2", 5000))).source;
    one(&mut rack, 0, LAN, &call(("10.0.0.3", 5000)));
    let third = call(("10.0.0.4", 5000));
    dropped(&mut rack, 0, LAN, &third, DropReason::SubscriberLimit);
    one(&mut rack, 0, LAN, &call(("10.0.0.3", 5001)));
    works(&mut rack, 0, ("10.0.0.2", 5000), first);
}

#[test]
fn traffic_inside_the_net_and_group_traffic_is_never_translated() {
    // AT-4.8: the rule's own net is left out by the rule, groups are left out of every rule.
    let rules = "[[source-nat]]\ndst = \"!10.0.0.0/24\"\nvia = \"interface\"\n";
    everywhere(|workers, at| {
        let mut rack = lab(workers, rules);
        let neighbourly = udp(LAN, CLIENT, ("10.0.0.3", 53), b"local");
        let seen = one(&mut rack, at, LAN, &neighbourly);
        assert_eq!(
            (seen.port, seen.source, seen.destination),
            (LAN, (ip("10.0.0.2"), 40000), (ip("10.0.0.3"), 53))
        );
        for group in ["224.0.0.5", "239.255.255.250", "255.255.255.255"] {
            let frame = udp(LAN, CLIENT, (group, 1900), b"all");
            dropped(&mut rack, at, LAN, &frame, DropReason::Multicast);
        }
        assert_eq!(
            one(&mut rack, at, LAN, &call(CLIENT)).source.0,
            ip("203.0.113.1")
        );
    });
}
