//! Inside hosts that call public addresses whose targets lie inside, and what is said about their packets.

use std::collections::BTreeSet;

use crate::common::*;
use crate::*;

const FORWARD: &str = "[[port-forward]]\nin = \"wan0\"\ndst = \"203.0.113.1\"\nproto = \"udp\"\ndport = \"5300\"\nto = \"10.0.0.2:53\"\n";

#[test]
fn an_error_about_a_hairpinned_packet_quotes_it_as_sent() {
    let rules = format!("{MASQUERADE}{FORWARD}");
    everywhere(|workers, at| {
        let mut rack = lab(workers, &rules);
        let asked = udp(LAN, ("10.0.0.3", 5555), ("203.0.113.1", 5300), b"question");
        let arrived = rack.receive(WorkerId(at), LAN, &[&asked]);
        assert_eq!(seen(&arrived[0]).destination, (ip("10.0.0.2"), 53));
        let source = seen(&arrived[0]).source.0.to_string();
        // The server has nobody on this port and says so, to whom it saw.
        let error = icmp_error(LAN, "10.0.0.2", &source, (3, 3), &arrived[0].1);
        let told = one(&mut rack, at, LAN, &error);
        assert_eq!((told.port, told.destination.0), (LAN, ip("10.0.0.3")));
        assert_eq!(told.payload[..2], [3, 3]);
        let quote = &told.payload[8..];
        assert_eq!(quote[12..20], asked[26..34], "the client's own addresses");
        assert_eq!(
            quote[20..28],
            asked[34..42],
            "its ports, length and checksum"
        );
    });
}

#[test]
fn static_nat_hosts_reach_each_other_by_their_public_addresses() {
    let rules = "[[static-nat]]\nexternal = \"203.0.113.64/28\"\ninternal = \"10.0.0.0/28\"\ninterface = \"wan0\"\n";
    everywhere(|workers, at| {
        let mut rack = lab(workers, rules);
        let asked = udp(LAN, ("10.0.0.5", 7), ("203.0.113.66", 8), b"q");
        let arrived = one(&mut rack, at, LAN, &asked);
        assert_eq!(
            (arrived.port, arrived.source, arrived.destination),
            (LAN, (ip("203.0.113.69"), 7), (ip("10.0.0.2"), 8))
        );
        let answer = udp(LAN, ("10.0.0.2", 8), ("203.0.113.69", 7), b"a");
        let back = one(&mut rack, at, LAN, &answer);
        assert_eq!(
            (back.port, back.source, back.destination),
            (LAN, (ip("203.0.113.66"), 8), (ip("10.0.0.5"), 7))
        );
        one(&mut rack, at, LAN, &asked);
    });
}

#[test]
fn several_targets_share_clients_and_keep_each() {
    let rules = format!(
        "{MASQUERADE}[[port-forward]]\nin = \"wan0\"\ndst = \"203.0.113.1\"\nproto = \"tcp\"\ndport = \"80\"\nto = [\"10.0.0.2:8080\", \"10.0.0.3:8080\", \"10.0.0.4:8080\"]\n"
    );
    everywhere(|workers, at| {
        let mut rack = lab(workers, &rules);
        let mut used = BTreeSet::new();
        for client in 0..60 {
            let address: &'static str = Box::leak(format!("198.51.100.{client}").into_boxed_str());
            let mut targets = BTreeSet::new();
            for port in 4000..4004 {
                let syn = tcp(WAN, (address, port), ("203.0.113.1", 80), "S");
                let seen = one(&mut rack, at, WAN, &syn);
                assert_eq!((seen.port, seen.destination.1), (LAN, 8080));
                targets.insert(seen.destination.0);
            }
            assert_eq!(targets.len(), 1, "one client, one target");
            used.extend(targets);
        }
        assert_eq!(used.len(), 3, "60 clients use all of them");
    });
}

/// Every way an inside host comes out, to every way one is reached from outside.
const EVERY_WAY: &str = "[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.20\"]\nfiltering = \"endpoint\"\n\
    [[static-nat]]\nexternal = \"203.0.113.64/30\"\ninternal = \"10.0.0.4/30\"\n\
    [[port-forward]]\nin = \"wan0\"\ndst = \"203.0.113.1\"\nproto = [\"tcp\", \"udp\"]\ndport = \"5300\"\nto = \"10.0.0.3:53\"\n\
    [[source-nat]]\nout = \"wan0\"\nvia = \"pool:p\"\n";

/// An endpoint that was seen, as tests write them.
fn end(of: (std::net::Ipv4Addr, u16)) -> End {
    (Box::leak(of.0.to_string().into_boxed_str()), of.1)
}

type Packet = fn(PortId, End, End) -> Vec<u8>;

// Proves: U9, U9a, T8, T8a, I7, I7a, P12.
#[test]
fn hosts_reach_each_other_in_every_way() {
    let packets: [[Packet; 2]; 2] = [
        [
            |port, from, to| udp(port, from, to, b"call"),
            |port, from, to| udp(port, from, to, b"answer"),
        ],
        [
            |port, from, to| tcp(port, from, to, "S"),
            |port, from, to| tcp(port, from, to, "SA"),
        ],
    ];
    everywhere(|workers, at| {
        for [asks, answers] in packets {
            let mut rack = lab(workers, EVERY_WAY);
            // One that has a mapping, one that has an address, one that is forwarded to.
            let open = one(&mut rack, at, LAN, &asks(LAN, ("10.0.0.9", 7000), SERVER)).source;
            let callees = [
                (end(open), ("10.0.0.9", 7000)),
                (("203.0.113.66", 7000), ("10.0.0.6", 7000)),
                (("203.0.113.1", 5300), ("10.0.0.3", 53)),
            ];
            let callers = ["10.0.0.2", "10.0.0.5", "10.0.0.6", "10.0.0.8"].map(|host| (host, 5555));
            for caller in callers {
                let own = one(&mut rack, at, LAN, &asks(LAN, caller, SERVER)).source;
                for (called, callee) in callees {
                    let context = format!("{caller:?} to {called:?}, {workers} workers");
                    let asked = asks(LAN, caller, called);
                    let arrived = rack.receive(WorkerId(at), LAN, &[&asked]).remove(0);
                    let call = seen(&arrived);
                    assert_eq!(call.port, LAN, "{context}");
                    assert_eq!(call.destination, (ip(callee.0), callee.1), "{context}");
                    assert_eq!(call.ttl, 63, "{context}");
                    assert_eq!(call.source, own, "{context}: the caller's endpoint");
                    let answer = answers(LAN, callee, end(call.source));
                    let back = rack.receive(WorkerId(at), LAN, &[&answer]).remove(0);
                    assert_eq!(
                        seen(&back).destination,
                        (ip(caller.0), caller.1),
                        "{context}"
                    );
                    assert_eq!(seen(&back).source, (ip(called.0), called.1), "{context}");
                    // Each of them, and a router before it, about what it got.
                    for from in [callee.0, "10.0.0.7"] {
                        let error = icmp_error(LAN, from, end(call.source).0, (3, 3), &arrived.1);
                        let told = one(&mut rack, at, LAN, &error);
                        assert_eq!((told.port, told.destination.0), (LAN, ip(caller.0)));
                        let shown = [ip(called.0), ip("10.0.0.1")];
                        assert!(shown.contains(&told.source.0), "{context}: no inside host");
                        assert_eq!(told.payload[20..28], asked[26..34], "{context}");
                        assert_eq!(told.payload[28..36], asked[34..42], "{context}");
                    }
                    let error = icmp_error(LAN, caller.0, called.0, (3, 3), &back.1);
                    let told = one(&mut rack, at, LAN, &error);
                    assert_eq!((told.port, told.destination.0), (LAN, ip(callee.0)));
                    assert_eq!(told.payload[20..28], answer[26..34], "{context}");
                    assert_eq!(told.payload[28..36], answer[34..42], "{context}");
                    balanced(&rack);
                }
            }
        }
    });
}

// Proves: I7, P12.
#[test]
fn static_hosts_ping_each_other_by_their_public_addresses() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, EVERY_WAY);
        for (caller, shown) in [("10.0.0.5", "203.0.113.65"), ("10.0.0.2", "203.0.113.20")] {
            let asked = one(&mut rack, at, LAN, &ping(LAN, caller, "203.0.113.66", 9));
            assert_eq!(asked.destination.0, ip("10.0.0.6"));
            assert_eq!(asked.source.0, ip(shown));
            let answer = pong(LAN, "10.0.0.6", shown, asked.source.1);
            let back = one(&mut rack, at, LAN, &answer);
            assert_eq!((back.port, back.destination.0), (LAN, ip(caller)));
            assert_eq!((back.source.0, back.source.1), (ip("203.0.113.66"), 9));
        }
    });
}
