//! A reload changes what is new, and of what lives only what it must (E11–E15 of the iptables comparison).

use natgate::base::{DropReason, PortId};
use natgate::config::compile::{compile_text, recompile_text};

use crate::common::*;
use crate::*;

const CLIENT: End = ("10.0.0.2", 40000);

/// A lab with two uplinks of which the second is on port 2; `route` is the next hop of the default route.
fn two_uplinks(workers: u8, route: &str, wan1: &str) -> String {
    format!(
        r#"
schema = 1
[[port]]
name = "p-lan"
device = "null:"
mac = "02:00:00:00:01:00"
[[port]]
name = "p-wan"
device = "null:"
mac = "02:00:00:00:01:01"
[[port]]
name = "p-wan1"
device = "null:"
mac = "02:00:00:00:01:02"
[[interface]]
name = "lan0"
port = "p-lan"
address = ["10.0.0.1/24"]
[[interface]]
name = "wan0"
port = "p-wan"
address = ["203.0.113.1/24"]
[[interface]]
name = "wan1"
port = "p-wan1"
address = [{wan1}]
[[route]]
prefix = "198.51.100.0/24"
{route}
[[neighbour]]
interface = "wan0"
address = "203.0.113.9"
mac = "02:00:00:00:00:09"
[[neighbour]]
interface = "wan1"
address = "192.0.2.9"
mac = "02:00:00:00:00:09"
[[neighbour]]
interface = "lan0"
address = "10.0.0.2"
mac = "02:00:00:00:00:09"
[[source-nat]]
out = "wan*"
via = "interface"
[system]
workers = {workers}
"#
    )
}

const VIA_WAN0: &str = "via = \"203.0.113.9\"";
const VIA_WAN1: &str = "via = \"192.0.2.9\"";
const WAN1: PortId = PortId(2);
const FAR: End = ("198.51.100.7", 53);

#[test]
fn an_unrelated_change_touches_no_session() {
    everywhere(|workers, at| {
        let mut rack = rack(&lab_text(workers, MASQUERADE, ""));
        let public = one(&mut rack, at, LAN, &call(CLIENT)).source;
        let syn = tcp(LAN, ("10.0.0.3", 41000), ("203.0.113.9", 80), "S");
        let connection = one(&mut rack, at, LAN, &syn).source;
        let more =
            format!("{MASQUERADE}[[route]]\nprefix = \"198.18.0.0/15\"\nvia = \"203.0.113.10\"\n");
        for _ in 0..3 {
            reload(&mut rack, &lab_text(workers, &more, ""));
            rack.maintain();
            works(&mut rack, at, CLIENT, public);
            let syn_ack = tcp(
                WAN,
                ("203.0.113.9", 80),
                ("203.0.113.1", connection.1),
                "SA",
            );
            assert_eq!(
                one(&mut rack, at, WAN, &syn_ack).destination,
                (ip("10.0.0.3"), 41000)
            );
        }
        assert_eq!(rack.sessions(), 2);
    });
}

#[test]
fn a_removed_pool_address_runs_out() {
    everywhere(|workers, at| {
        let before = pool("pairing = \"spread\"");
        let after = before.replace("203.0.113.20", "203.0.113.21");
        let mut rack = rack(&lab_text(workers, &before, ""));
        let old = one(&mut rack, at, LAN, &call(CLIENT)).source;
        reload(&mut rack, &lab_text(workers, &after, ""));
        rack.maintain();
        works(&mut rack, at, CLIENT, old);
        let new = one(&mut rack, at, LAN, &call(("10.0.0.3", 40000))).source;
        assert_eq!(new.0, ip("203.0.113.21"));
        rack.advance(301_000);
        rack.maintain();
        let renewed = one(&mut rack, at, LAN, &call(CLIENT)).source;
        assert_eq!(renewed.0, ip("203.0.113.21"), "E12: not allocated again");
    });
}

#[test]
fn a_replaced_masquerade_address_forgets_its_sessions() {
    everywhere(|workers, at| {
        let text = lab_text(workers, MASQUERADE, "");
        let mut rack = rack(&text);
        one(&mut rack, at, LAN, &call(CLIENT));
        reload(&mut rack, &text.replace("203.0.113.1/24", "203.0.113.2/24"));
        let moved = one(&mut rack, at, LAN, &call(CLIENT)).source;
        assert_eq!(moved.0, ip("203.0.113.2"), "E11");
        works(&mut rack, at, CLIENT, moved);
        rack.maintain();
        assert_eq!(rack.sessions(), 1);
    });
}

#[test]
fn an_interface_without_address_never_borrows_one() {
    everywhere(|workers, at| {
        let on_wan1 = "interface = \"wan1\"";
        let with = two_uplinks(workers, on_wan1, "\"192.0.2.1/24\"");
        let known = "[[neighbour]]\ninterface = \"wan1\"\naddress = \"192.0.2.9\"\nmac = \"02:00:00:00:00:09\"\n";
        let without = with.replace("\"192.0.2.1/24\"", "").replace(known, "");
        let mut rack = rack(&with);
        let datagram = udp(LAN, CLIENT, FAR, b"far");
        let asked = send(&mut rack, at, LAN, &datagram);
        assert_eq!(
            asked.len(),
            1,
            "the far host is asked for on the link itself"
        );
        assert_eq!(rack.sessions(), 1);
        reload(&mut rack, &without);
        dropped(&mut rack, at, LAN, &datagram, DropReason::NoAddress);
        rack.maintain();
        assert_eq!(rack.sessions(), 0, "E13");
    });
}

#[test]
fn a_moved_route_maps_its_flows_anew() {
    everywhere(|workers, at| {
        let wan1 = "\"192.0.2.1/24\"";
        let mut rack = rack(&two_uplinks(workers, VIA_WAN0, wan1));
        let datagram = udp(LAN, CLIENT, FAR, b"far");
        let first = one(&mut rack, at, LAN, &datagram);
        assert_eq!((first.port, first.source.0), (WAN, ip("203.0.113.1")));
        reload(&mut rack, &two_uplinks(workers, VIA_WAN1, wan1));
        let moved = one(&mut rack, at, LAN, &datagram);
        assert_eq!(
            (moved.port, moved.source.0),
            (WAN1, ip("192.0.2.1")),
            "E13b"
        );
        let answer = udp(WAN1, FAR, ("192.0.2.1", moved.source.1), b"re");
        assert_eq!(one(&mut rack, at, WAN1, &answer).destination.1, CLIENT.1);
        rack.maintain();
        assert_eq!(rack.sessions(), 1);
    });
}

#[test]
fn a_removed_rule_keeps_its_living_sessions() {
    everywhere(|workers, at| {
        let pool_of = "[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.20\"]\n";
        let other =
            "[[source-nat]]\nout = \"wan0\"\ndst = \"198.51.100.0/24\"\nvia = \"interface\"\n";
        let rule = "[[source-nat]]\nout = \"wan0\"\nvia = \"pool:p\"\n";
        let mut rack = rack(&lab_text(workers, &format!("{pool_of}{other}{rule}"), ""));
        let public = one(&mut rack, at, LAN, &call(CLIENT)).source;
        assert_eq!(public.0, ip("203.0.113.20"));
        reload(
            &mut rack,
            &lab_text(workers, &format!("{pool_of}{other}"), ""),
        );
        rack.maintain();
        works(&mut rack, at, CLIENT, public);
        let plain = one(&mut rack, at, LAN, &call(("10.0.0.3", 40000)));
        assert_eq!(
            plain.source,
            (ip("10.0.0.3"), 40000),
            "no rule, no translation"
        );
        // A rule that comes back takes only what is new (a flow older than a rule keeps its treatment).
        reload(
            &mut rack,
            &lab_text(workers, &format!("{pool_of}{rule}"), ""),
        );
        let old = one(&mut rack, at, LAN, &call(("10.0.0.3", 40000)));
        assert_eq!(old.source, (ip("10.0.0.3"), 40000));
        works(&mut rack, at, CLIENT, public);
    });
}

// Proves: U5b, T5a, I2a.
#[test]
fn timeouts_change_live() {
    everywhere(|workers, at| {
        let mut rack = rack(&lab_text(workers, MASQUERADE, ""));
        let public = one(&mut rack, at, LAN, &call(CLIENT)).source;
        works(&mut rack, at, CLIENT, public);
        rack.advance(200_000);
        rack.maintain();
        assert_eq!(rack.sessions(), 1);
        let short = format!("{MASQUERADE}[timeouts]\nudp = \"150s\"\n");
        reload(&mut rack, &lab_text(workers, &short, ""));
        let answer = udp(WAN, SERVER, ("203.0.113.1", public.1), b"late");
        assert!(send(&mut rack, at, WAN, &answer).iter().all(|f| f.0 == WAN));
        rack.maintain();
        assert_eq!(rack.sessions(), 0, "idle for longer than the new timeout");
    });
}

#[test]
fn a_new_port_forward_reserves_its_port() {
    everywhere(|workers, at| {
        let mut rack = rack(&lab_text(workers, MASQUERADE, ""));
        let forward = format!(
            "{MASQUERADE}[[port-forward]]\nin = \"wan0\"\ndst = \"203.0.113.1\"\nproto = \"udp\"\ndport = \"40000\"\nto = \"10.0.0.5:53\"\n"
        );
        let old = one(&mut rack, at, LAN, &call(("10.0.0.3", 40001))).source;
        reload(&mut rack, &lab_text(workers, &forward, ""));
        let new = one(&mut rack, at, LAN, &call(CLIENT)).source;
        assert_ne!(new.1, 40000, "the port is the forward's");
        let asked = udp(WAN, SERVER, ("203.0.113.1", 40000), b"q");
        assert_eq!(
            one(&mut rack, at, WAN, &asked).destination,
            (ip("10.0.0.5"), 53)
        );
        works(&mut rack, at, CLIENT, new);
        works(&mut rack, at, ("10.0.0.3", 40001), old);
    });
}

#[test]
fn packets_that_wait_on_a_removed_interface_are_let_go() {
    everywhere(|workers, at| {
        let wan1 = "\"192.0.2.1/24\"";
        let known = "address = \"192.0.2.9\"\nmac";
        let unknown = "address = \"192.0.2.99\"\nmac";
        let with = two_uplinks(workers, VIA_WAN1, wan1).replace(known, unknown);
        let mut rack = rack(&with);
        let datagram = udp(LAN, CLIENT, FAR, b"far");
        assert_eq!(send(&mut rack, at, LAN, &datagram).len(), 1, "asked for");
        let start = with.find("[[interface]]\nname = \"wan1\"").unwrap();
        let end = with[start..].find("[[route]]").unwrap() + start;
        let mut without = with.clone();
        without.replace_range(start..end, "");
        let gone = "[[neighbour]]\ninterface = \"wan1\"\naddress = \"192.0.2.99\"\nmac = \"02:00:00:00:00:09\"\n";
        let without = without.replace(gone, "").replace(VIA_WAN1, VIA_WAN0);
        reload(&mut rack, &without);
        balanced(&rack);
        assert_eq!(rack.drops(DropReason::ConfigChanged), 1);
        assert!(rack.shards.iter().all(|s| s.held() == 0));
        let moved = one(&mut rack, at, LAN, &datagram);
        assert_eq!((moved.port, moved.source.0), (WAN, ip("203.0.113.1")));
    });
}

#[test]
fn the_last_rule_may_go_and_its_sessions_stay() {
    // One worker: where the card steers differently, several do not keep to this yet.
    let mut rack = rack(&lab_text(1, &pool(""), ""));
    let public = one(&mut rack, 0, LAN, &call(CLIENT)).source;
    let none = "[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.20\"]\n";
    reload(&mut rack, &lab_text(1, none, ""));
    rack.maintain();
    works(&mut rack, 0, CLIENT, public);
    let plain = one(&mut rack, 0, LAN, &call(("10.0.0.3", 40000)));
    assert_eq!(plain.source, (ip("10.0.0.3"), 40000));
}

/// Only a change of what living sessions depend on has each of them looked at again when its next packet comes; changes
/// of what decides new flows do not, which keeps throughput up while the configuration changes often.
#[test]
fn sessions_are_looked_at_again_only_for_a_reason() {
    let base = lab_text(1, &pool(""), "");
    let before = compile_text("test", &base).unwrap();
    let looks_again = |text: String| {
        let after = recompile_text("test", &text, &before).unwrap();
        assert_eq!(after.generation.0, before.generation.0 + 1);
        after.epoch != before.epoch
    };
    let drop_smtp = "[[filter.rule]]\nproto = \"tcp\"\ndport = \"25\"\naction = \"drop\"\n";
    let for_new_flows_only = [
        base.clone(),
        lab_text(1, &pool("pairing = \"spread\""), "sessions_per_host = 9"),
        lab_text(1, &pool(""), "[timeouts]\nudp = \"10m\""),
        lab_text(1, &format!("{}{drop_smtp}", pool("")), ""),
        lab_text(
            1,
            &pool("").replace("out = ", "proto = \"udp\"\nout = "),
            "",
        ),
    ];
    for text in for_new_flows_only {
        assert!(!looks_again(text.clone()), "{text}");
    }
    let route = "[[route]]\nprefix = \"198.18.0.0/15\"\nvia = \"203.0.113.10\"\n";
    let for_all = [
        format!("{base}{route}"),
        base.replace("203.0.113.20", "203.0.113.21"),
        base.replace("name = \"wan0\"\n", "name = \"wan0\"\nmtu = 1400\n"),
        format!("{base}[filter]\nestablished = \"filter\"\n{drop_smtp}"),
    ];
    for text in for_all {
        assert!(looks_again(text.clone()), "{text}");
    }
}

/// A policy that leaves the sessions of the one before alone still moves those of an earlier one that it did not.
#[test]
fn a_reason_stands_until_every_session_was_looked_at() {
    everywhere(|workers, at| {
        let text = two_uplinks(workers, VIA_WAN0, "\"192.0.2.1/24\"");
        let mut rack = rack(&text);
        let datagram = udp(LAN, CLIENT, FAR, b"far");
        assert_eq!(one(&mut rack, at, LAN, &datagram).port, WAN);
        let moved = two_uplinks(workers, VIA_WAN1, "\"192.0.2.1/24\"");
        reload(&mut rack, &moved);
        let epoch = rack.policy.epoch;
        reload(&mut rack, &format!("{moved}[timeouts]\nudp = \"10m\"\n"));
        assert_eq!(rack.policy.epoch, epoch);
        let again = one(&mut rack, at, LAN, &datagram);
        assert_eq!((again.port, again.source.0), (WAN1, ip("192.0.2.1")));
    });
}
