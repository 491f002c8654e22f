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
