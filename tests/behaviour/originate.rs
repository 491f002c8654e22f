//! What the gateway itself sends for management: frames for a link, datagrams that follow the routes.

use std::net::SocketAddr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use natgate::base::{DropReason, InterfaceId, PortId, RealmId, WorkerId};
use natgate::config;
use natgate::dataplane::originate::{NotSent, Original, SLICE, Sent};
use natgate::dataplane::rack::Rack;
use natgate::dataplane::shard::ShardSize;
use natgate::wire::MacAddr;

use crate::common::*;
use crate::neighbours::arp_reply;
use crate::*;

fn datagram(to: &str, payload: &[u8]) -> Original {
    Original::Datagram {
        realm: RealmId(0),
        source_port: 4739,
        to: to.parse::<SocketAddr>().unwrap(),
        payload: payload.to_vec(),
    }
}

/// Has a worker send a batch, conservation checked.
fn originate(
    rack: &mut Rack,
    at: u8,
    packets: Vec<Original>,
) -> (Vec<Sent>, Vec<(PortId, Vec<u8>)>) {
    let out = rack.originate(WorkerId(at), packets);
    balanced(rack);
    out
}

#[test]
fn a_datagram_goes_by_the_routes_from_the_interface_it_leaves_by() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        for (to, port, source) in [
            ("10.0.0.3:514", LAN, "10.0.0.1"),
            ("203.0.113.10:514", WAN, "203.0.113.1"),
            ("192.0.2.7:514", WAN, "203.0.113.1"),
        ] {
            let (results, sent) = originate(&mut rack, at, vec![datagram(to, b"hello")]);
            assert_eq!(results, [Ok(())]);
            let packet = seen(&sent[0]);
            assert_eq!((packet.port, packet.source), (port, (ip(source), 4739)));
            assert_eq!(packet.destination.0.to_string() + ":514", to);
            assert_eq!(packet.payload, b"hello");
            assert_eq!(sent[0].1[..6], HOST_MAC);
        }
        assert_eq!(rack.totals().generated, 3);
        assert_eq!(rack.sessions(), 0, "no flow is tracked for it");
    });
}

#[test]
fn ipv6_goes_the_same_way() {
    let mut rack = lab(1, "");
    let (results, sent) = originate(&mut rack, 0, vec![datagram("[2001:db8:9::1]:514", b"six")]);
    assert_eq!((&results[..], sent[0].0), (&[Ok(())][..], WAN));
    let packet = SlicedPacket::from_ethernet(&sent[0].1).unwrap();
    let (Some(NetSlice::Ipv6(v6)), Some(TransportSlice::Udp(udp))) = (packet.net, packet.transport)
    else {
        panic!("no datagram over IPv6");
    };
    let header = v6.header();
    assert_eq!(header.source_addr().to_string(), "2001:db8::1");
    assert_eq!((udp.source_port(), udp.destination_port()), (4739, 514));
    let sum = udp
        .to_header()
        .calc_checksum_ipv6(&header.to_header(), udp.payload());
    assert_eq!(sum.unwrap(), udp.checksum());
}

#[test]
fn it_waits_for_the_next_hop_and_says_when_too_many_do() {
    let mut rack = lab(1, MASQUERADE);
    let burst = (0..20)
        .map(|n| datagram("203.0.113.50:514", &[n]))
        .collect();
    let (results, sent) = originate(&mut rack, 0, burst);
    assert_eq!(sent.len(), 1, "one request");
    assert_eq!(results[..16], [Ok(()); 16]);
    assert_eq!(results[16..], [Err(NotSent::NeighbourQueueFull); 4]);
    assert_eq!(rack.drops(DropReason::NeighbourQueueFull), 4);
    let released = send(&mut rack, 0, WAN, &arp_reply(WAN, "203.0.113.50"));
    let order: Vec<u8> = released.iter().map(|f| seen(f).payload[0]).collect();
    assert_eq!(order, (0..16).collect::<Vec<u8>>());
    // Nobody there: it is said at once from then on.
    originate(&mut rack, 0, vec![datagram("203.0.113.51:514", b"")]);
    for _ in 0..3 {
        rack.advance(1_001);
        rack.maintain();
    }
    let (results, _) = originate(&mut rack, 0, vec![datagram("203.0.113.51:514", b"")]);
    assert_eq!(results, [Err(NotSent::NeighbourUnresolved)]);
}

#[test]
fn what_cannot_be_sent_is_said_and_costs_nothing() {
    let mut rack = lab(1, MASQUERADE);
    rack.limit_buffers(WorkerId(0), Some(1));
    let longest = vec![7; 1500 - 28];
    let batch = vec![
        datagram("10.0.0.1:514", b"to itself"),
        datagram("10.0.0.2:514", &[0; 1500 - 27]),
        datagram("10.0.0.2:514", &longest),
        datagram("10.0.0.2:514", b"no buffer"),
        Original::Frame {
            interface: InterfaceId(9),
            to: MacAddr::BROADCAST,
            ethertype: 0x0800,
            payload: vec![0; 20],
        },
    ];
    let (results, sent) = originate(&mut rack, 0, batch);
    let expected = [
        Err(NotSent::Ourselves),
        Err(NotSent::TooLong),
        Ok(()),
        Err(NotSent::NoBuffer),
        Err(NotSent::NoInterface),
    ];
    assert_eq!(results, expected);
    assert_eq!(seen(&sent[0]).payload, longest);
    assert_eq!((rack.totals().generated, rack.totals().dropped()), (1, 0));
}

#[test]
fn an_interface_without_an_address_sends_no_datagram() {
    let lonely = LAB
        .replace("\"203.0.113.1/24\", ", "")
        .replace("via = \"203.0.113.9\"", "interface = \"wan0\"");
    let mut rack = rack(&lonely);
    let (results, sent) = originate(&mut rack, 0, vec![datagram("192.0.2.7:514", b"x")]);
    assert_eq!(
        (&results[..], sent.len()),
        (&[Err(NotSent::NoAddress)][..], 0)
    );
}

#[test]
fn a_frame_leaves_without_any_address_and_with_its_tag() {
    let text = lab_text(1, "", "")
        + "[[interface]]\nname = \"bare\"\nport = \"p-wan\"\nvlan = 3\naddress = []\n";
    let mut rack = rack(&text);
    let bare = rack.policy.interfaces.by_name("bare").unwrap().id;
    let frame = Original::Frame {
        interface: bare,
        to: MacAddr::BROADCAST,
        ethertype: 0x0800,
        payload: vec![0x45; 300],
    };
    let (results, sent) = originate(&mut rack, 0, vec![frame.clone()]);
    assert_eq!(results, [Ok(())]);
    let (port, bytes) = &sent[0];
    assert_eq!((*port, bytes.len()), (WAN, 318));
    assert_eq!(
        bytes[..12],
        [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 1, 1]
    );
    assert_eq!(bytes[12..18], [0x81, 0, 0, 3, 8, 0]);
}

#[test]
fn a_batch_longer_than_a_slice_is_sent_whole() {
    let mut rack = lab(1, MASQUERADE);
    let many = 2 * SLICE + 1;
    let batch = (0..many)
        .map(|n| datagram("10.0.0.2:514", &n.to_be_bytes()))
        .collect();
    let (results, sent) = originate(&mut rack, 0, batch);
    assert_eq!((results.len(), sent.len()), (many, many));
    for (n, frame) in sent.iter().enumerate() {
        assert_eq!(seen(frame).payload, n.to_be_bytes());
    }
}

#[test]
fn ports_of_its_own_are_given_to_nobody() {
    let text = lab_text(1, MASQUERADE, "");
    let kept = |own: &[u16]| {
        let mut loaded = config::parse_str("test", &text).unwrap();
        loaded.validated.own_ports.extend(own);
        let policy = config::compile::compile(&loaded.validated, &[], None, 1).unwrap();
        let mut rack = Rack::new(policy.into(), ShardSize::small(), 1).unwrap();
        one(&mut rack, 0, LAN, &call(("10.0.0.2", 4739))).source.1 == 4739
    };
    assert!(kept(&[]) && kept(&[4740]));
    assert!(!kept(&[4739, 68]));
}
