//! Interfaces and routes: VLANs of one port, equal routes, source checks, IPv6.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use natgate::base::DropReason;

use crate::common::*;
use crate::*;

/// One port that carries everything: the inside on VLANs 2 and 3, the outside untagged.
fn stick(workers: u8) -> String {
    let neighbour = |on: &str, address: &str| {
        format!(
            "[[neighbour]]\ninterface = \"{on}\"\naddress = \"{address}\"\nmac = \"02:00:00:00:00:09\"\n"
        )
    };
    format!(
        r#"
schema = 1
[[port]]
name = "all"
device = "null:"
mac = "02:00:00:00:01:00"
[[interface]]
name = "wan0"
port = "all"
address = ["203.0.113.1/24"]
[[interface]]
name = "blue"
port = "all"
vlan = 2
address = ["10.2.0.1/24"]
[[interface]]
name = "green"
port = "all"
vlan = 3
address = ["10.3.0.1/24"]
[[source-nat]]
out = "wan0"
via = "interface"
{}{}{}
[system]
workers = {workers}
"#,
        neighbour("wan0", "203.0.113.9"),
        neighbour("blue", "10.2.0.2"),
        neighbour("green", "10.3.0.2"),
    )
}

/// Puts an 802.1Q tag into a frame.
fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    let mut out = frame[..12].to_vec();
    out.extend([0x81, 0]);
    out.extend(vlan.to_be_bytes());
    out.extend(&frame[12..]);
    out
}

/// The tag of a frame that was sent.
fn tag(frame: &[u8]) -> Option<u16> {
    (frame[12..14] == [0x81, 0]).then(|| u16::from_be_bytes([frame[14], frame[15]]) & 0xfff)
}

#[test]
fn tagged_packets_leave_no_session_where_nothing_is_translated() {
    everywhere(|workers, at| {
        let text =
            stick(workers).replace("[[source-nat]]\nout = \"wan0\"\nvia = \"interface\"\n", "");
        let mut rack = rack(&text);
        for _ in 0..2 {
            let across = tagged(&udp(LAN, ("10.2.0.2", 1), ("10.3.0.2", 2), b"x"), 2);
            let sent = send(&mut rack, at, LAN, &across);
            assert_eq!(tag(&sent[0].1), Some(3));
            assert_eq!(seen(&sent[0]).source, (ip("10.2.0.2"), 1));
        }
        let open = rack
            .shards
            .iter()
            .map(|shard| shard.nat.sessions.iter().count());
        assert_eq!(open.sum::<usize>(), 0);
    });
}

#[test]
fn vlans_of_one_port_are_separate_links() {
    everywhere(|workers, at| {
        let mut rack = rack(&stick(workers));
        for (vlan, host) in [(2, "10.2.0.2"), (3, "10.3.0.2")] {
            let out = tagged(&udp(LAN, (host, 7000), SERVER, b"out"), vlan);
            let sent = send(&mut rack, at, LAN, &out);
            assert_eq!(sent.len(), 1, "drops: {}", drops(&rack));
            assert_eq!(tag(&sent[0].1), None, "the outside is untagged");
            let public = seen(&sent[0]).source;
            assert_eq!(public.0, ip("203.0.113.1"));
            let back = udp(LAN, SERVER, ("203.0.113.1", public.1), b"back");
            let sent = send(&mut rack, at, LAN, &back);
            assert_eq!(tag(&sent[0].1), Some(vlan), "the inside is tagged");
            assert_eq!(seen(&sent[0]).destination, (ip(host), 7000));
        }
        // From one VLAN to the other: routed, retagged.
        let across = tagged(&udp(LAN, ("10.2.0.2", 1), ("10.3.0.2", 2), b"x"), 2);
        let sent = send(&mut rack, at, LAN, &across);
        assert_eq!(tag(&sent[0].1), Some(3));
        assert_eq!(seen(&sent[0]).source, (ip("10.2.0.2"), 1));
        let stray = tagged(&udp(LAN, ("10.2.0.2", 1), SERVER, b"x"), 4);
        dropped(&mut rack, at, LAN, &stray, DropReason::UnknownVlan);
        // ARP is answered with the tag it came with.
        let who = natgate::wire::arp::Arp {
            operation: natgate::wire::arp::REQUEST,
            sender_mac: natgate::wire::MacAddr(HOST_MAC),
            sender_ip: ip("10.3.0.7").into(),
            target_mac: natgate::wire::MacAddr::ZERO,
            target_ip: ip("10.3.0.1").into(),
        };
        let mut frame = vec![0xff; 6];
        frame.extend(HOST_MAC);
        frame.extend([8, 6]);
        frame.extend([0; 28]);
        who.write(&mut frame[14..]);
        let sent = send(&mut rack, at, LAN, &tagged(&frame, 3));
        assert_eq!((sent.len(), tag(&sent[0].1)), (1, Some(3)));
        assert!(send(&mut rack, at, LAN, &tagged(&frame, 2)).is_empty());
    });
}

#[test]
fn equal_routes_share_flows_and_keep_each() {
    let route = "via = \"203.0.113.9\"";
    let both = "via = [\"203.0.113.9\", \"203.0.113.10\"]";
    let other = "address = \"203.0.113.10\"\nmac = \"02:00:00:00:00:09\"";
    let another_mac = other.replace("00:09", "00:0a");
    for rules in [MASQUERADE, ""] {
        everywhere(|workers, at| {
            let text = lab_text(workers, rules, "")
                .replace(route, both)
                .replace(other, &another_mac);
            let mut rack = rack(&text);
            let mut by_hop = BTreeMap::new();
            for port in 5000..5100 {
                let datagram = udp(LAN, ("10.0.0.2", port), ("198.51.100.1", 9), b"x");
                let first = send(&mut rack, at, LAN, &datagram);
                for _ in 0..3 {
                    let next = send(&mut rack, at, LAN, &datagram);
                    assert_eq!(next[0].1[..6], first[0].1[..6], "a flow stays on its path");
                }
                *by_hop.entry(first[0].1[5]).or_insert(0) += 1;
            }
            assert_eq!(by_hop.len(), 2);
            assert!(by_hop.values().all(|n| *n >= 25), "{by_hop:?}");
        });
    }
}

fn with_lan(keys: &str, rules: &str) -> Rack {
    let name = "name = \"lan0\"\n";
    rack(&lab_text(1, rules, "").replacen(name, &format!("{name}{keys}\n"), 1))
}

#[test]
fn strict_urpf_drops_borrowed_sources() {
    for rules in [MASQUERADE, ""] {
        let mut rack = with_lan("urpf = \"strict\"", rules);
        one(&mut rack, 0, LAN, &call(("10.0.0.2", 1)));
        for source in ["203.0.113.77", "198.51.100.1"] {
            dropped(&mut rack, 0, LAN, &call((source, 1)), DropReason::Urpf);
        }
        let mut lax = with_lan("", rules);
        one(&mut lax, 0, LAN, &call(("198.51.100.1", 1)));
    }
}

#[test]
fn an_interface_that_does_not_forward_serves_itself_only() {
    for rules in [MASQUERADE, ""] {
        let mut rack = with_lan("forward = false", rules);
        dropped(
            &mut rack,
            0,
            LAN,
            &call(("10.0.0.2", 1)),
            DropReason::ForwardDisabled,
        );
        let pong = one(&mut rack, 0, LAN, &ping(LAN, "10.0.0.2", "10.0.0.1", 5));
        assert_eq!((pong.port, pong.payload[0]), (LAN, 0), "echo reply");
        let mut frame = Vec::new();
        v6_frame("fd00:1::2", "2001:db8::9", 64, &mut frame);
        dropped(&mut rack, 0, LAN, &frame, DropReason::ForwardDisabled);
        assert_eq!(rack.sessions(), 0);
    }
}

fn v6_frame(from: &str, to: &str, hops: u8, frame: &mut Vec<u8>) {
    let (from, to): (Ipv6Addr, Ipv6Addr) = (from.parse().unwrap(), to.parse().unwrap());
    etherparse::PacketBuilder::ethernet2(HOST_MAC, [2, 0, 0, 0, 1, 0])
        .ipv6(from.octets(), to.octets(), hops)
        .udp(1000, 33434)
        .write(frame, b"six")
        .unwrap();
}

/// The ICMPv6 error that answers `frame`: its type and code.
fn v6_error(rack: &mut Rack, at: u8, frame: &[u8], reason: DropReason) -> (u8, u8) {
    let sent = send(rack, at, LAN, frame);
    assert_eq!(sent.len(), 1, "drops: {}", drops(rack));
    assert_eq!(rack.drops(reason), 1);
    let (port, error) = &sent[0];
    assert_eq!(*port, LAN);
    let gateway: Ipv6Addr = "fd00:1::1".parse().unwrap();
    assert_eq!(error[22..38], gateway.octets());
    assert_eq!(error[38..54], frame[22..38], "to the sender");
    assert_eq!(error[62..], frame[14..], "quoting the packet as sent");
    let packet = etherparse::SlicedPacket::from_ethernet(error).unwrap();
    let Some(etherparse::TransportSlice::Icmpv6(icmp)) = &packet.transport else {
        panic!("no ICMPv6");
    };
    let mut to = [0; 16];
    to.copy_from_slice(&error[38..54]);
    assert!(icmp.is_checksum_valid(gateway.octets(), to), "checksum");
    (error[54], error[55])
}

#[test]
fn ipv6_is_forwarded_untranslated() {
    let v4_alone = format!("{MASQUERADE}src = \"0.0.0.0/0\"\n");
    everywhere(|workers, at| {
        let mut rack = lab(workers, &v4_alone);
        let mut frame = Vec::new();
        v6_frame("fd00:1::2", "2001:db8::9", 64, &mut frame);
        let sent = send(&mut rack, at, LAN, &frame);
        assert_eq!(sent.len(), 1, "drops: {}", drops(&rack));
        assert_eq!((sent[0].0, sent[0].1[21]), (WAN, 63), "one hop less");
        assert_eq!(sent[0].1[..12], [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 1, 1]);
        assert_eq!(sent[0].1[22..], frame[22..], "nothing else changed");
        assert_eq!(rack.sessions(), 0);
        let mut last = Vec::new();
        v6_frame("fd00:1::2", "2001:db8::9", 1, &mut last);
        assert_eq!(
            v6_error(&mut rack, at, &last, DropReason::TtlExpired),
            (3, 0)
        );
    });
}

#[test]
fn ipv6_without_route_is_told() {
    let default = "[[route]]\nprefix = \"::/0\"\nvia = \"2001:db8::9\"\n";
    let mut rack = rack(&lab_text(1, MASQUERADE, "").replace(default, ""));
    let mut frame = Vec::new();
    v6_frame("fd00:1::2", "2001:db9::9", 64, &mut frame);
    assert_eq!(v6_error(&mut rack, 0, &frame, DropReason::NoRoute), (1, 0));
}

#[test]
fn ipv4_without_route_is_told() {
    let default = "[[route]]\nprefix = \"0.0.0.0/0\"\nvia = \"203.0.113.9\"\n";
    for rules in [MASQUERADE, ""] {
        let mut rack = rack(&lab_text(1, rules, "").replace(default, ""));
        let lost = udp(LAN, ("10.0.0.2", 1), ("198.51.100.1", 2), b"x");
        let error = one(&mut rack, 0, LAN, &lost);
        assert_eq!((error.port, &error.payload[..2]), (LAN, &[3, 0][..]));
        assert_eq!(error.payload[8..], lost[14..]);
        assert_eq!(rack.drops(DropReason::NoRoute), 1);
        assert_eq!(rack.sessions(), 0);
    }
}
