//! The data plane in memory: what operators rely on, packet by packet, with 1, 2 and 4 workers and every steering a
//! network card could do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod common;

use common::*;
use natgate::base::{DropReason, WorkerId};

const MASQUERADE: &str = "[[source-nat]]\nout = \"wan0\"\nvia = \"interface\"\n";

/// Runs a test with several worker counts, receiving on the first worker and on the last.
fn everywhere(test: impl Fn(u8, u8)) {
    for workers in [1, 2, 4] {
        for receiver in [0, workers - 1] {
            test(workers, receiver);
        }
    }
}

#[test]
fn masquerade_keeps_the_port_and_replies_come_back() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        let out = one(
            &mut rack,
            at,
            LAN,
            &udp(LAN, ("10.0.0.2", 40000), ("203.0.113.9", 5000), b"hello"),
        );
        assert_eq!(
            (out.port, out.source, out.ttl),
            (WAN, (ip("203.0.113.1"), 40000), 63)
        );
        let back = one(
            &mut rack,
            at,
            WAN,
            &udp(WAN, ("203.0.113.9", 5000), ("203.0.113.1", 40000), b"world"),
        );
        assert_eq!(
            (back.port, back.destination),
            (LAN, (ip("10.0.0.2"), 40000))
        );
        assert_eq!(back.payload, b"world");
        assert_eq!(rack.sessions(), 1);
    });
}

// Proves: U3.
#[test]
fn second_client_with_the_same_port_gets_another() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        let first = one(
            &mut rack,
            at,
            LAN,
            &udp(LAN, ("10.0.0.2", 40000), ("203.0.113.9", 5000), b"1"),
        );
        let second = one(
            &mut rack,
            at,
            LAN,
            &udp(LAN, ("10.0.0.3", 40000), ("203.0.113.9", 5000), b"2"),
        );
        assert_eq!(first.source.1, 40000);
        assert!(second.source.1 != 40000 && second.source.1 >= 1024);
        for (source, inside) in [(first.source, "10.0.0.2"), (second.source, "10.0.0.3")] {
            let back = one(
                &mut rack,
                at,
                WAN,
                &udp(WAN, ("203.0.113.9", 5000), ("203.0.113.1", source.1), b"r"),
            );
            assert_eq!(back.destination, (ip(inside), 40000));
        }
    });
}

// Proves: U1.
#[test]
fn mapping_is_endpoint_independent_and_filtering_is_not() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        let a = one(
            &mut rack,
            at,
            LAN,
            &udp(LAN, ("10.0.0.2", 42000), ("203.0.113.9", 5000), b"a"),
        );
        let b = one(
            &mut rack,
            at,
            LAN,
            &udp(LAN, ("10.0.0.2", 42000), ("203.0.113.10", 5001), b"b"),
        );
        assert_eq!(a.source, b.source, "RFC 4787 REQ-1");
        for remote in [("203.0.113.9", 5999), ("203.0.113.11", 5000)] {
            dropped(
                &mut rack,
                at,
                WAN,
                &udp(WAN, remote, ("203.0.113.1", 42000), b"x"),
                DropReason::Filtered,
            );
        }
    });
}

#[test]
fn ports_nobody_holds_are_the_gateways_own() {
    let mut rack = lab(1, MASQUERADE);
    let sent = rack.receive(
        WorkerId(0),
        WAN,
        &[&udp(
            WAN,
            ("203.0.113.9", 5000),
            ("203.0.113.1", 7777),
            b"x",
        )],
    );
    let error = seen(&sent[0]);
    assert_eq!(
        (error.payload[0], error.payload[1], error.source.0),
        (3, 3, ip("203.0.113.1")),
        "port unreachable"
    );
    assert_eq!(rack.drops(DropReason::OwnService), 1);
    balanced(&rack);
}

// Proves: T2, T11.
#[test]
fn tcp_runs_its_course() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        let (client, server, public) = (
            ("10.0.0.2", 40000),
            ("203.0.113.9", 80),
            ("203.0.113.1", 40000),
        );
        one(&mut rack, at, LAN, &tcp(LAN, client, server, "S"));
        one(&mut rack, at, WAN, &tcp(WAN, server, public, "SA"));
        one(&mut rack, at, LAN, &tcp(LAN, client, server, "A"));
        one(&mut rack, at, LAN, &tcp(LAN, client, server, "FA"));
        one(&mut rack, at, WAN, &tcp(WAN, server, public, "FA"));
        one(&mut rack, at, LAN, &tcp(LAN, client, server, "A"));
        assert_eq!(rack.sessions(), 1);
        rack.advance(4 * 60 * 1000 + 1000);
        rack.maintain();
        assert_eq!(
            rack.sessions(),
            0,
            "closing connections live for the transitory timeout"
        );
        dropped(
            &mut rack,
            at,
            LAN,
            &tcp(LAN, client, server, "A"),
            DropReason::TcpNoSession,
        );
    });
}

// Proves: I1.
#[test]
fn ping_keeps_ids_apart() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        let first = one(
            &mut rack,
            at,
            LAN,
            &ping(LAN, "10.0.0.2", "203.0.113.9", 777),
        );
        let second = one(
            &mut rack,
            at,
            LAN,
            &ping(LAN, "10.0.0.3", "203.0.113.9", 777),
        );
        assert_eq!(first.source, (ip("203.0.113.1"), 777));
        assert_ne!(second.source.1, 777);
        let back = one(
            &mut rack,
            at,
            WAN,
            &pong(WAN, "203.0.113.9", "203.0.113.1", second.source.1),
        );
        assert_eq!((back.destination.0, back.source.1), (ip("10.0.0.3"), 777));
    });
}

// Proves: U12a, U12b, T9, I4, I4a, I4b, I4c.
#[test]
fn icmp_errors_reach_the_sender_with_its_own_packet() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        let probe = udp(LAN, ("10.0.0.2", 40000), ("203.0.113.9", 5000), b"probe");
        let sent = rack.receive(WorkerId(at), LAN, &[&probe]);
        // A router beyond complains about what it saw: the translated packet.
        let error = icmp_error(WAN, "203.0.113.77", "203.0.113.1", (3, 4), &sent[0].1);
        let back = one(&mut rack, at, WAN, &error);
        assert_eq!(
            (back.source.0, back.destination.0),
            (ip("203.0.113.77"), ip("10.0.0.2"))
        );
        let quote = &back.payload[8..];
        assert_eq!(
            &quote[12..20],
            &probe[26..34],
            "addresses of the quote are the sender's own"
        );
        assert_eq!(
            &quote[20..28],
            &probe[34..42],
            "so are ports, length and checksum"
        );
        // Forged ones about flows that do not exist go nowhere.
        let unrelated = udp(WAN, ("203.0.113.1", 1), ("203.0.113.9", 5000), b"probe");
        let forged = icmp_error(WAN, "203.0.113.77", "203.0.113.1", (3, 4), &unrelated);
        assert!(rack.receive(WorkerId(at), WAN, &[&forged]).is_empty());
        balanced(&rack);
    });
}

// Proves: F2, F3, I10.
#[test]
fn expired_ttl_is_reported_with_the_packet_as_sent() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        let probe = udp_ttl(LAN, ("10.0.0.2", 40000), ("203.0.113.9", 33434), 1);
        let sent = rack.receive(WorkerId(at), LAN, &[&probe]);
        let error = seen(&sent[0]);
        assert_eq!(
            (error.port, error.source.0, error.destination.0),
            (LAN, ip("10.0.0.1"), ip("10.0.0.2"))
        );
        assert_eq!((error.payload[0], error.payload[1]), (11, 0));
        assert_eq!(
            &error.payload[8..],
            &probe[14..],
            "the quote is the packet as sent"
        );
        assert_eq!(rack.drops(DropReason::TtlExpired), 1);
        balanced(&rack);
    });
}

#[test]
fn port_forward_opens_and_shifts() {
    let rules = format!(
        "{MASQUERADE}[[port-forward]]\nin = \"wan0\"\ndst = \"203.0.113.1\"\nproto = \"tcp\"\ndport = \"9000-9002\"\nto = \"10.0.0.2:20-22\"\n"
    );
    everywhere(|workers, at| {
        let mut rack = lab(workers, &rules);
        let syn = one(
            &mut rack,
            at,
            WAN,
            &tcp(WAN, ("203.0.113.9", 5555), ("203.0.113.1", 9002), "S"),
        );
        assert_eq!(
            (syn.port, syn.source, syn.destination),
            (LAN, (ip("203.0.113.9"), 5555), (ip("10.0.0.2"), 22))
        );
        let answer = one(
            &mut rack,
            at,
            LAN,
            &tcp(LAN, ("10.0.0.2", 22), ("203.0.113.9", 5555), "SA"),
        );
        assert_eq!(
            (answer.port, answer.source),
            (WAN, (ip("203.0.113.1"), 9002))
        );
    });
}

// Proves: T8.
#[test]
fn hairpin_through_a_forward_shows_a_gateway_address() {
    let rules = format!(
        "{MASQUERADE}[[port-forward]]\nin = \"wan0\"\ndst = \"203.0.113.1\"\nproto = \"tcp\"\ndport = \"8022\"\nto = \"10.0.0.2:22\"\n"
    );
    everywhere(|workers, at| {
        let mut rack = lab(workers, &rules);
        let syn = one(
            &mut rack,
            at,
            LAN,
            &tcp(LAN, ("10.0.0.3", 5555), ("203.0.113.1", 8022), "S"),
        );
        assert_eq!((syn.port, syn.destination), (LAN, (ip("10.0.0.2"), 22)));
        assert_eq!(
            syn.source.0,
            ip("203.0.113.1"),
            "external source address (RFC 4787 REQ-9)"
        );
        assert_eq!(syn.ttl, 63, "a hairpin is one hop");
        let x = ("203.0.113.1", syn.source.1);
        let answer = one(&mut rack, at, LAN, &tcp(LAN, ("10.0.0.2", 22), x, "SA"));
        assert_eq!(
            (answer.source, answer.destination),
            ((ip("203.0.113.1"), 8022), (ip("10.0.0.3"), 5555))
        );
        one(
            &mut rack,
            at,
            LAN,
            &tcp(LAN, ("10.0.0.3", 5555), ("203.0.113.1", 8022), "A"),
        );
    });
}

// Proves: U9, U9a.
#[test]
fn hairpin_between_two_mappings() {
    let rules = r#"
[[pool]]
name = "cgn"
addresses = ["203.0.113.20"]
filtering = "endpoint"
[[source-nat]]
out = "wan0"
via = "pool:cgn"
"#;
    everywhere(|workers, at| {
        let mut rack = lab(workers, rules);
        let a = one(
            &mut rack,
            at,
            LAN,
            &udp(LAN, ("10.0.0.2", 1111), ("203.0.113.9", 5000), b"a"),
        )
        .source;
        let b = one(
            &mut rack,
            at,
            LAN,
            &udp(LAN, ("10.0.0.3", 2222), ("203.0.113.9", 5000), b"b"),
        )
        .source;
        let call = one(
            &mut rack,
            at,
            LAN,
            &udp(LAN, ("10.0.0.2", 1111), ("203.0.113.20", b.1), b"hi"),
        );
        assert_eq!(
            (call.source, call.destination),
            (a, (ip("10.0.0.3"), 2222)),
            "from the caller's outside endpoint"
        );
        let back = one(
            &mut rack,
            at,
            LAN,
            &udp(LAN, ("10.0.0.3", 2222), ("203.0.113.20", a.1), b"ho"),
        );
        assert_eq!((back.source, back.destination), (b, (ip("10.0.0.2"), 1111)));
        // Endpoint-independent filtering: a remote never contacted gets through.
        let stranger = one(
            &mut rack,
            at,
            WAN,
            &udp(WAN, ("203.0.113.11", 9), ("203.0.113.20", a.1), b"knock"),
        );
        assert_eq!(stranger.destination, (ip("10.0.0.2"), 1111));
    });
}

#[test]
fn static_nat_works_from_both_sides() {
    let rules = "[[static-nat]]\nexternal = \"203.0.113.64/28\"\ninternal = \"10.0.0.0/28\"\ninterface = \"wan0\"\n";
    everywhere(|workers, at| {
        let mut rack = lab(workers, rules);
        let out = one(
            &mut rack,
            at,
            LAN,
            &udp(LAN, ("10.0.0.5", 7), ("203.0.113.9", 8), b"o"),
        );
        assert_eq!(out.source, (ip("203.0.113.69"), 7));
        let back = one(
            &mut rack,
            at,
            WAN,
            &udp(WAN, ("203.0.113.9", 8), ("203.0.113.69", 7), b"i"),
        );
        assert_eq!(back.destination, (ip("10.0.0.5"), 7));
        let new = one(
            &mut rack,
            at,
            WAN,
            &tcp(WAN, ("203.0.113.10", 99), ("203.0.113.66", 443), "S"),
        );
        assert_eq!(new.destination, (ip("10.0.0.2"), 443));
        let answer = one(
            &mut rack,
            at,
            LAN,
            &tcp(LAN, ("10.0.0.2", 443), ("203.0.113.10", 99), "SA"),
        );
        assert_eq!(answer.source, (ip("203.0.113.66"), 443));
    });
}

// Proves: G6.
#[test]
fn exemptions_by_longest_prefix() {
    let rules = format!(
        "[[exempt]]\ndst = [\"198.51.100.0/24\"]\nforce = [\"198.51.100.5/32\"]\n{MASQUERADE}"
    );
    everywhere(|workers, at| {
        let mut rack = lab(workers, &rules);
        let kept = one(
            &mut rack,
            at,
            LAN,
            &udp(LAN, ("10.0.0.2", 1), ("198.51.100.6", 2), b""),
        );
        assert_eq!(kept.source, (ip("10.0.0.2"), 1));
        let back = one(
            &mut rack,
            at,
            WAN,
            &udp(WAN, ("198.51.100.6", 2), ("10.0.0.2", 1), b""),
        );
        assert_eq!(back.destination, (ip("10.0.0.2"), 1));
        let forced = one(
            &mut rack,
            at,
            LAN,
            &udp(LAN, ("10.0.0.2", 1), ("198.51.100.5", 2), b""),
        );
        assert_eq!(forced.source.0, ip("203.0.113.1"));
    });
}

#[test]
fn replies_of_routed_inbound_flows_stay_untranslated() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        let asked = one(
            &mut rack,
            at,
            WAN,
            &udp(WAN, ("203.0.113.9", 5), ("10.0.0.2", 53), b"q"),
        );
        assert_eq!(asked.destination, (ip("10.0.0.2"), 53));
        let answer = one(
            &mut rack,
            at,
            LAN,
            &udp(LAN, ("10.0.0.2", 53), ("203.0.113.9", 5), b"a"),
        );
        assert_eq!(
            answer.source,
            (ip("10.0.0.2"), 53),
            "the reply belongs to the flow that asked"
        );
    });
}

// Proves: OT4, OT6.
#[test]
fn a_portless_protocol_is_one_hosts_at_a_time() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        let esp = |from: &str| {
            let mut frame = udp(LAN, ("10.0.0.2", 1), ("203.0.113.9", 2), b"payload");
            frame[23] = 50;
            frame[26..30].copy_from_slice(&ip(from).octets());
            frame[24..26].copy_from_slice(&[0, 0]);
            let sum = natgate::wire::checksum::ipv4_header(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            frame
        };
        let sent = rack.receive(WorkerId(at), LAN, &[&esp("10.0.0.2")]);
        assert_eq!(&sent[0].1[26..30], &ip("203.0.113.1").octets());
        dropped(
            &mut rack,
            at,
            LAN,
            &esp("10.0.0.3"),
            DropReason::NoPortConflict,
        );
    });
}

// Proves: U8a.
#[test]
fn address_dependent_filtering_admits_other_ports_of_a_known_host() {
    let rules = "[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.20\"]\nfiltering = \"address\"\n\
                 [[source-nat]]\nout = \"wan0\"\nvia = \"pool:p\"\n";
    everywhere(|workers, at| {
        let mut rack = lab(workers, rules);
        let out = one(
            &mut rack,
            at,
            LAN,
            &udp(LAN, ("10.0.0.2", 40000), ("203.0.113.9", 5000), b"out"),
        );
        let to = ("203.0.113.20", out.source.1);
        let other_port = one(
            &mut rack,
            at,
            WAN,
            &udp(WAN, ("203.0.113.9", 5999), to, b"in"),
        );
        assert_eq!(other_port.destination, (ip("10.0.0.2"), 40000));
        let other_host = udp(WAN, ("203.0.113.10", 5000), to, b"in");
        dropped(&mut rack, at, WAN, &other_host, DropReason::Filtered);
    });
}

#[test]
fn without_an_address_nothing_leaves_and_nobody_elses_is_taken() {
    let text = LAB
        .replace("\"203.0.113.1/24\", ", "")
        .replace("via = \"203.0.113.9\"", "interface = \"wan0\"");
    let policy =
        natgate::config::compile::compile_text("test", &format!("{text}{MASQUERADE}")).unwrap();
    let mut rack = natgate::dataplane::rack::Rack::new(
        policy,
        natgate::dataplane::shard::ShardSize::small(),
        1,
    )
    .unwrap();
    let packet = udp(LAN, ("10.0.0.2", 40000), ("203.0.113.9", 5000), b"x");
    dropped(&mut rack, 0, LAN, &packet, DropReason::NoAddress);
}

#[test]
fn a_silent_neighbour_is_reported_to_the_sender_as_it_knows_the_flow() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        let packet = udp(LAN, ("10.0.0.2", 40000), ("203.0.113.77", 5000), b"x");
        let asked = rack.receive(WorkerId(at), LAN, &[&packet]);
        assert_eq!(
            (asked.len(), &asked[0].1[12..14]),
            (1, &[0x08, 0x06][..]),
            "an ARP request goes out"
        );
        let mut errors = Vec::new();
        for _ in 0..5 {
            rack.advance(1000);
            errors.extend(rack.maintain().into_iter().filter(|(port, _)| *port == LAN));
        }
        assert_eq!(errors.len(), 1, "drops: {}", drops(&rack));
        let error = seen(&errors[0]);
        assert_eq!(
            (error.source.0, error.destination.0),
            (ip("10.0.0.1"), ip("10.0.0.2"))
        );
        assert_eq!(
            (error.payload[0], error.payload[1]),
            (3, 1),
            "host unreachable"
        );
        assert_eq!(
            &error.payload[8 + 12..8 + 20],
            &packet[26..34],
            "about the packet as it was sent"
        );
        assert_eq!(rack.drops(DropReason::NeighbourUnresolved), 1);
        balanced(&rack);
    });
}
