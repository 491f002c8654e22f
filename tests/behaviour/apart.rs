//! Flows that would look like a living one once they are translated: whoever comes second gets another source port.

use natgate::base::DropReason;

use crate::common::*;
use crate::filter_v6::udp6;
use crate::nat66::{self, one6};
use crate::*;

const CLIENT: End = ("203.0.113.9", 5555);
const SERVER: End = ("10.0.0.2", 8080);

/// Two virtual addresses with one server behind both.
const TWINS: &str = "[[service]]\nname = \"a\"\naddress = \"198.18.0.2\"\nproto = [\"tcp\", \"udp\"]\nport = 80\nbackends = [{ to = \"10.0.0.2:8080\" }]\n\
    [[service]]\nname = \"b\"\naddress = \"198.18.0.3\"\nproto = [\"tcp\", \"udp\"]\nport = 80\nbackends = [{ to = \"10.0.0.2:8080\" }]\n";

/// Two ports of the gateway's that lead to one server.
const FORWARDS: &str = "[[port-forward]]\nin = \"wan0\"\ndst = \"203.0.113.1\"\nproto = [\"tcp\", \"udp\"]\ndport = \"8022\"\nto = \"10.0.0.2:8080\"\n\
    [[port-forward]]\nin = \"wan0\"\ndst = \"203.0.113.1\"\nproto = [\"tcp\", \"udp\"]\ndport = \"8023\"\nto = \"10.0.0.2:8080\"\n";

fn told_apart(rack: &Rack) -> u64 {
    let counts = rack.shards.iter();
    counts
        .map(|s| s.nat.counts.told_apart + s.nat_v6.counts.told_apart)
        .sum()
}

/// A leaked string, because frames are made of such.
fn text(address: std::net::Ipv4Addr) -> &'static str {
    Box::leak(address.to_string().into_boxed_str())
}

/// A client calls the same server by several names from one endpoint. The server sees each flow from another endpoint, and
/// what it answers comes back from the name that was called. Returns the sources it saw.
fn calls(
    rack: &mut Rack,
    at: u8,
    (port, client): (PortId, End),
    names: &[End],
) -> Vec<(std::net::Ipv4Addr, u16)> {
    let mut seen_from = Vec::new();
    for name in names {
        for frame in [
            tcp(port, client, *name, "S"),
            udp(port, client, *name, b"call"),
        ] {
            let asked = one(rack, at, port, &frame);
            assert_eq!(asked.destination, (ip(SERVER.0), SERVER.1), "{name:?}");
            seen_from.push(asked.source);
        }
    }
    // All of them live at the same time.
    for (name, from) in names.iter().zip(seen_from.chunks(2)) {
        for (kind, source) in from.iter().enumerate() {
            let to = (text(source.0), source.1);
            let answer = match kind {
                0 => tcp(LAN, SERVER, to, "SA"),
                _ => udp(LAN, SERVER, to, b"answer"),
            };
            let back = one(rack, at, LAN, &answer);
            assert_eq!(back.source, (ip(name.0), name.1));
            assert_eq!(
                (back.port, back.destination),
                (port, (ip(client.0), client.1))
            );
        }
    }
    for kind in 0..2 {
        let mut ends: Vec<_> = seen_from.iter().skip(kind).step_by(2).collect();
        ends.sort();
        ends.dedup();
        assert_eq!(ends.len(), names.len(), "no two alike: {seen_from:?}");
    }
    seen_from
}

#[test]
fn two_services_with_one_server_and_the_server_itself() {
    everywhere(|workers, at| {
        for port in [5555, 700] {
            let mut rack = lab(workers, TWINS);
            let names = [("198.18.0.2", 80), ("198.18.0.3", 80), SERVER];
            let client = (CLIENT.0, port);
            let seen = calls(&mut rack, at, (WAN, client), &names);
            assert!(seen.iter().all(|(address, _)| *address == ip(CLIENT.0)));
            assert_eq!(
                (seen[0].1, seen[1].1),
                (port, port),
                "the first keeps its port"
            );
            let privileged = |port: u16| port < 1024;
            assert!(seen.iter().all(|(_, p)| privileged(*p) == privileged(port)));
            assert_eq!(told_apart(&rack), 4);
        }
    });
}

#[test]
fn two_forwarded_ports_of_one_server() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, FORWARDS);
        let names = [("203.0.113.1", 8022), ("203.0.113.1", 8023)];
        let seen = calls(&mut rack, at, (WAN, CLIENT), &names);
        assert!(seen.iter().all(|(address, _)| *address == ip(CLIENT.0)));
        assert_eq!(told_apart(&rack), 2);
        // From inside, where both the client and the server are: the gateway stands between.
        let mut rack = lab(workers, &format!("{FORWARDS}{MASQUERADE}"));
        let seen = calls(&mut rack, at, (LAN, ("10.0.0.3", 5555)), &names);
        assert_eq!(seen[0].0, ip("203.0.113.1"));
        assert_eq!(seen[2].0, ip("10.0.0.1"));
        assert_eq!(told_apart(&rack), 2);
    });
}

/// The server is outside, its clients are subscribers: the second flow gets a port of the pool of its own.
#[test]
fn a_subscriber_calls_one_server_by_two_names() {
    let rules = TWINS.replace("10.0.0.2:8080", "203.0.113.9:5000") + MASQUERADE;
    everywhere(|workers, at| {
        let mut rack = lab(workers, &rules);
        let host = ("10.0.0.3", 4000);
        let mut sources = Vec::new();
        for name in [("198.18.0.2", 80), ("198.18.0.3", 80)] {
            let out = one(&mut rack, at, LAN, &udp(LAN, host, name, b"call"));
            assert_eq!((out.port, out.destination.1), (WAN, 5000));
            sources.push((name, out.source));
        }
        assert_ne!(sources[0].1, sources[1].1);
        for (name, source) in &sources {
            let to = (text(source.0), source.1);
            let back = udp(WAN, ("203.0.113.9", 5000), to, b"answer");
            let back = one(&mut rack, at, WAN, &back);
            assert_eq!(back.source, (ip(name.0), name.1));
            assert_eq!(back.destination, (ip(host.0), host.1));
        }
        assert_eq!(told_apart(&rack), 1);
        // The endpoint stays what it is to everybody else (RFC 4787 REQ-1).
        let other = udp(LAN, host, ("203.0.113.10", 53), b"call");
        assert_eq!(one(&mut rack, at, LAN, &other).source, sources[0].1);
        // And all of it ends.
        rack.advance(301_000);
        rack.maintain();
        assert_eq!(rack.sessions(), 0);
        assert!(rack.shards.iter().all(|s| s.nat.mappings.is_empty()));
    });
}

#[test]
fn ipv6_flows_are_told_apart_alike() {
    let rules = TWINS
        .replace("10.0.0.2:8080", "[fd00:1::2]:8080")
        .replace("198.18.0.", "fd00:96::");
    everywhere(|workers, at| {
        let mut rack = lab(workers, &rules);
        let client = ("2001:db8::9", 5555);
        let names = [("fd00:96::2", 80), ("fd00:96::3", 80), ("fd00:1::2", 8080)];
        let mut ports = Vec::new();
        for name in names {
            let asked = one6(&mut rack, at, WAN, &udp6(WAN, client, name, b"call"));
            assert_eq!(asked.destination, nat66::at("fd00:1::2", 8080));
            assert_eq!(asked.source.0, nat66::at(client.0, 0).0);
            ports.push(asked.source.1);
        }
        for (name, port) in names.iter().zip(&ports) {
            let answer = udp6(LAN, ("fd00:1::2", 8080), (client.0, *port), b"answer");
            let back = one6(&mut rack, at, LAN, &answer);
            assert_eq!(back.source, nat66::at(name.0, name.1));
            assert_eq!(back.destination, nat66::at(client.0, client.1));
        }
        assert_eq!(told_apart(&rack), 2);
    });
}

/// A connection that nothing is known of cannot begin in its middle with another port.
#[test]
fn the_middle_of_a_connection_gets_no_other_port() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, TWINS);
        one(
            &mut rack,
            at,
            WAN,
            &tcp(WAN, CLIENT, ("198.18.0.2", 80), "S"),
        );
        let middle = tcp(WAN, CLIENT, ("198.18.0.3", 80), "A");
        dropped(&mut rack, at, WAN, &middle, DropReason::TcpNoSession);
    });
}

/// What cannot be told apart: a packet from an endpoint to itself; and an outside host that comes to a host by two of its
/// mappings, because that host knows it by the port it has.
#[test]
fn what_cannot_be_told_apart_is_dropped() {
    let conflict = DropReason::MappingConflict;
    everywhere(|workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        let itself = udp(LAN, ("10.0.0.2", 7), ("10.0.0.2", 7), b"land");
        dropped(&mut rack, at, LAN, &itself, conflict);
        let keys = "mapping = \"address\"\nfiltering = \"endpoint\"";
        let mut rack = lab(workers, &pool(keys));
        let host = ("10.0.0.3", 4000);
        let mapped = |rack: &mut Rack, to| one(rack, at, LAN, &udp(LAN, host, to, b"call")).source;
        let first = mapped(&mut rack, ("203.0.113.9", 53));
        let second = mapped(&mut rack, ("203.0.113.10", 53));
        assert_ne!(first, second);
        let caller = ("203.0.113.11", 7777);
        let by = |mapping: (std::net::Ipv4Addr, u16)| {
            udp(WAN, caller, (text(mapping.0), mapping.1), b"hello")
        };
        let met = one(&mut rack, at, WAN, &by(first));
        assert_eq!(met.destination, (ip(host.0), host.1));
        dropped(&mut rack, at, WAN, &by(second), conflict);
        assert_eq!(told_apart(&rack), 0);
    });
}
