//! Next hops: asked for, waited for, given up, answered for.

use etherparse::PacketBuilder;
use natgate::base::{DropReason, PortId, WorkerId};
use natgate::wire::{MacAddr, arp};

use crate::common::*;
use crate::*;

/// A host on the outside link nobody knows yet.
const UNKNOWN: End = ("203.0.113.50", 5000);

fn outward(from: u16, payload: &[u8]) -> Vec<u8> {
    udp(LAN, ("10.0.0.2", from), UNKNOWN, payload)
}

/// An ARP frame from a host with the tests' MAC address.
fn arp_frame(port: PortId, operation: u16, sender: &str, target: &str) -> Vec<u8> {
    let gateway = MacAddr([2, 0, 0, 0, 1, port.0 as u8]);
    let to = match operation {
        arp::REQUEST => MacAddr::BROADCAST,
        _ => gateway,
    };
    let mut frame = vec![0; 14 + arp::LENGTH];
    frame[..6].copy_from_slice(&to.0);
    frame[6..12].copy_from_slice(&HOST_MAC);
    frame[12..14].copy_from_slice(&[8, 6]);
    let message = arp::Arp {
        operation,
        sender_mac: MacAddr(HOST_MAC),
        sender_ip: ip(sender).into(),
        target_mac: MacAddr::ZERO,
        target_ip: ip(target).into(),
    };
    message.write(&mut frame[14..]);
    frame
}

/// The answer of the host with `address`.
pub fn arp_reply(port: PortId, address: &str) -> Vec<u8> {
    arp_frame(port, arp::REPLY, address, "203.0.113.1")
}

/// The only frame sent, as ARP.
fn only_arp(sent: &[(PortId, Vec<u8>)]) -> (PortId, arp::Arp) {
    assert_eq!(sent.len(), 1, "{sent:02x?}");
    let (port, frame) = &sent[0];
    assert_eq!(frame[12..14], [8, 6], "an ARP frame");
    (*port, arp::Arp::read(frame, 14).unwrap())
}

#[test]
fn packets_wait_for_the_answer_in_order() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        let sent = send(&mut rack, at, LAN, &outward(4000, b"0"));
        assert_eq!(sent[0].1[..6], [0xff; 6], "asked by broadcast");
        let (port, request) = only_arp(&sent);
        assert_eq!((port, request.operation), (WAN, arp::REQUEST));
        assert_eq!(request.target_ip, u32::from(ip(UNKNOWN.0)));
        assert_eq!(request.sender_ip, u32::from(ip("203.0.113.1")));
        for payload in [b"1", b"2", b"3"] {
            let quiet = send(&mut rack, at, LAN, &outward(4000, payload));
            assert!(quiet.is_empty(), "asked once a second, not once a packet");
        }
        // The answer reaches the last worker, whoever asked.
        let reply = arp_reply(WAN, UNKNOWN.0);
        let released = send(&mut rack, workers - 1, WAN, &reply);
        let payloads: Vec<u8> = released.iter().map(|f| seen(f).payload[0]).collect();
        assert_eq!(payloads, b"0123");
        for frame in &released {
            assert_eq!((frame.0, &frame.1[..6]), (WAN, &HOST_MAC[..]));
            assert_eq!(seen(frame).source.0, ip("203.0.113.1"));
        }
        one(&mut rack, at, LAN, &outward(4000, b"4"));
    });
}

#[test]
fn who_never_answers_is_given_up() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        let mut requests = send(&mut rack, at, LAN, &outward(4000, b"0")).len();
        assert!(send(&mut rack, at, LAN, &outward(4000, b"1")).is_empty());
        for _ in 0..5 {
            rack.advance(1_001);
            // The senders of what waited are told; requests go out on the other port.
            requests += rack
                .maintain()
                .iter()
                .filter(|(port, _)| *port == WAN)
                .count();
            balanced(&rack);
        }
        assert_eq!(requests, 3, "three tries");
        assert_eq!(rack.drops(DropReason::NeighbourUnresolved), 2);
        assert!(
            rack.shards.iter().all(|s| s.held() == 0),
            "nothing waits for ever"
        );
        // Long after, it is asked for again.
        rack.advance(10_000);
        rack.maintain();
        only_arp(&send(&mut rack, at, LAN, &outward(4000, b"2")));
    });
}

#[test]
fn a_dead_next_hop_is_reported() {
    let mut rack = lab(1, MASQUERADE);
    send(&mut rack, 0, LAN, &outward(4000, b"0"));
    for _ in 0..3 {
        rack.advance(1_001);
        rack.maintain();
    }
    let late = outward(4000, b"late");
    let error = one(&mut rack, 0, LAN, &late);
    assert_eq!(
        (error.port, &error.payload[..2]),
        (LAN, &[3, 1][..]),
        "host unreachable"
    );
    assert_eq!(error.payload[8..], late[14..], "quoting the packet as sent");
    assert_eq!(rack.drops(DropReason::NeighbourUnresolved), 2);
}

#[test]
fn the_queue_has_an_end_and_costs_nobody_else() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        for i in 0..20 {
            send(&mut rack, at, LAN, &outward(4000, &[i]));
        }
        assert_eq!(rack.drops(DropReason::NeighbourQueueFull), 4);
        let public = one(&mut rack, at, LAN, &call(("10.0.0.3", 7))).source;
        works(&mut rack, at, ("10.0.0.3", 7), public);
        let reply = arp_reply(WAN, UNKNOWN.0);
        assert_eq!(send(&mut rack, at, WAN, &reply).len(), 16);
    });
}

// Proves: F13.
#[test]
fn answers_for_own_and_pool_addresses_on_their_link_only() {
    let mut rack = lab(1, &pool(""));
    for (port, target, answered) in [
        (WAN, "203.0.113.1", true),
        (WAN, "203.0.113.20", true),
        (LAN, "10.0.0.1", true),
        (LAN, "203.0.113.20", false),
        (LAN, "203.0.113.1", false),
        (WAN, "203.0.113.77", false),
        (WAN, "10.0.0.1", false),
    ] {
        let asker = if port == WAN {
            "203.0.113.88"
        } else {
            "10.0.0.8"
        };
        let sent = send(
            &mut rack,
            0,
            port,
            &arp_frame(port, arp::REQUEST, asker, target),
        );
        if !answered {
            assert!(sent.is_empty(), "{target} is not of this link");
            continue;
        }
        let (out, reply) = only_arp(&sent);
        assert_eq!((out, reply.operation), (port, arp::REPLY));
        assert_eq!(reply.sender_mac.0, [2, 0, 0, 0, 1, port.0 as u8]);
        assert_eq!(reply.sender_ip, u32::from(ip(target)));
        assert_eq!(
            (reply.target_mac.0, &sent[0].1[..6]),
            (HOST_MAC, &HOST_MAC[..])
        );
    }
}

#[test]
fn a_solicitation_is_advertised() {
    let mut rack = lab(1, MASQUERADE);
    let asker: std::net::Ipv6Addr = "2001:db8::77".parse().unwrap();
    let target: std::net::Ipv6Addr = "2001:db8::1".parse().unwrap();
    let group: std::net::Ipv6Addr = "ff02::1:ff00:1".parse().unwrap();
    let mut body = vec![0; 4];
    body.extend(target.octets());
    body.extend([1, 1]);
    body.extend(HOST_MAC);
    let icmp = etherparse::Icmpv6Type::Unknown {
        type_u8: 135,
        code_u8: 0,
        bytes5to8: [0; 4],
    };
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(HOST_MAC, [0x33, 0x33, 0xff, 0, 0, 1])
        .ipv6(asker.octets(), group.octets(), 255)
        .icmpv6(icmp)
        .write(&mut frame, &body[4..])
        .unwrap();
    let sent = send(&mut rack, 0, WAN, &frame);
    assert_eq!(sent.len(), 1, "drops: {}", drops(&rack));
    let (port, answer) = &sent[0];
    assert_eq!((*port, &answer[..6]), (WAN, &HOST_MAC[..]));
    assert_eq!(
        (answer[54], answer[55]),
        (136, 0),
        "neighbour advertisement"
    );
    assert_eq!(answer[22 + 16..54], asker.octets(), "to the asker");
    assert_eq!(answer[62..78], target.octets());
    assert_eq!(answer[58] & 0xe0, 0xe0, "router, solicited, override");
    assert_eq!(answer[78..80], [2, 1]);
    assert_eq!(answer[80..86], [2, 0, 0, 0, 1, 1]);
}

#[test]
fn a_neighbour_learned_by_one_worker_is_known_to_all() {
    let mut rack = lab(4, MASQUERADE);
    // All workers ask, because flows of four hosts live on several of them.
    for host in [
        "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7",
    ] {
        send(&mut rack, 0, LAN, &udp(LAN, (host, 9), UNKNOWN, b"wait"));
    }
    let waiting = rack.shards.iter().filter(|s| s.held() > 0).count();
    assert!(waiting > 1, "several workers wait");
    let reply = arp_reply(WAN, UNKNOWN.0);
    let released = rack.receive(WorkerId(3), WAN, &[&reply]);
    assert_eq!(released.len(), 6);
    balanced(&rack);
}
