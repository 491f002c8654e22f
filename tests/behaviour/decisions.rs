//! What a new flow becomes by the policy alone: whom a forward serves, what its server sees, which segments may begin a
//! connection, what the filter is told; and what a policy knows of addresses.

use natgate::base::{DropReason, InterfaceId, RealmId};
use natgate::flow::key::Tuple;
use natgate::nat::destination::{PolicyDestination, by_policy};
use natgate::nat::policy::Policy;
use natgate::nat::ports::PortSpace;
use natgate::nat::rules::Facts;

use crate::common::*;
use crate::*;

const CLIENT: End = ("203.0.113.9", 5555);
const PUBLIC: End = ("203.0.113.1", 8022);

/// A forward of the port 8022 to the server's 22, with more keys.
fn forward(keys: &str) -> String {
    format!(
        "[[port-forward]]\nin = \"wan0\"\ndst = \"203.0.113.1\"\nproto = \"tcp\"\ndport = \"8022\"\nto = \"10.0.0.2:22\"\n{keys}\n"
    )
}

#[test]
fn a_forward_serves_the_clients_it_names() {
    let rules = format!("{MASQUERADE}{}", forward("src = \"203.0.113.9\""));
    everywhere(|workers, at| {
        let mut rack = lab(workers, &rules);
        let asked = one(&mut rack, at, WAN, &tcp(WAN, CLIENT, PUBLIC, "S"));
        assert_eq!(asked.destination, (ip("10.0.0.2"), 22));
        let stranger = tcp(WAN, ("203.0.113.10", 5555), PUBLIC, "S");
        assert!(send(&mut rack, at, WAN, &stranger).is_empty());
        assert_eq!(rack.sessions(), 1);
    });
}

#[test]
fn a_server_sees_the_source_its_forward_names() {
    let rules = format!("{MASQUERADE}{}", forward("source = \"10.0.0.1\""));
    everywhere(|workers, at| {
        let mut rack = lab(workers, &rules);
        let asked = one(&mut rack, at, WAN, &tcp(WAN, CLIENT, PUBLIC, "S"));
        assert_eq!(asked.destination, (ip("10.0.0.2"), 22));
        assert_eq!(asked.source.0, ip("10.0.0.1"));
        let seen_at = ("10.0.0.1", asked.source.1);
        let answer = tcp(LAN, ("10.0.0.2", 22), seen_at, "SA");
        let back = one(&mut rack, at, LAN, &answer);
        assert_eq!(
            (back.port, back.destination),
            (WAN, (ip(CLIENT.0), CLIENT.1))
        );
        assert_eq!(back.source, (ip(PUBLIC.0), PUBLIC.1));
    });
}

// Proves: T11.
#[test]
fn only_a_plain_syn_begins_a_translated_connection() {
    for (flags, begins, picked_up) in [
        ("S", true, true),
        ("SA", false, true),
        ("A", false, true),
        ("R", false, false),
        ("RA", false, false),
    ] {
        for (pickup, passes) in [(false, begins), (true, picked_up)] {
            let text = lab_text(1, MASQUERADE, &format!("tcp_pickup = {pickup}"));
            let mut rack = rack(&text);
            let frame = tcp(LAN, ("10.0.0.2", 4000), ("203.0.113.9", 80), flags);
            let before = rack.drops(DropReason::TcpNoSession);
            let sent = send(&mut rack, 0, LAN, &frame);
            assert_eq!(sent.len(), usize::from(passes), "{flags} {pickup}");
            let refused = rack.drops(DropReason::TcpNoSession) - before;
            assert_eq!(refused, u64::from(!passes), "{flags} {pickup}");
        }
    }
}

/// The rules that let only one thing pass, and nothing else.
fn only(keys: &str) -> String {
    format!("[filter]\ndefault = \"drop\"\n[[filter.rule]]\naction = \"accept\"\n{keys}\n")
}

/// A hairpin goes where its second half leads: to the server itself, by the way to it.
#[test]
fn a_hairpin_is_judged_by_the_server_it_reaches() {
    let hairpin = tcp(LAN, ("10.0.0.3", 6666), PUBLIC, "S");
    for (keys, passes) in [
        ("dst = \"10.0.0.2\"\ndport = \"22\"", true),
        ("dst = \"10.0.0.4\"\ndport = \"22\"", false),
        ("dst = \"203.0.113.1\"", false),
        ("out = \"lan0\"", true),
        ("out = \"wan0\"", false),
        ("src = \"10.0.0.3\"", true),
        ("src = \"203.0.113.1\"", false),
        ("proto = \"tcp\"\nsport = \"6666\"", true),
        ("state = \"dnat\"", true),
        ("state = \"snat\"", false),
    ] {
        let rules = format!("{MASQUERADE}{}{}", forward("allow = false"), only(keys));
        everywhere(|workers, at| {
            let mut rack = lab(workers, &rules);
            if passes {
                let asked = one(&mut rack, at, LAN, &hairpin);
                assert_eq!(asked.destination, (ip("10.0.0.2"), 22), "{keys}");
            } else {
                dropped(&mut rack, at, LAN, &hairpin, DropReason::PolicyFilter);
            }
        });
    }
}

#[test]
fn segments_that_can_open_nothing_are_invalid_to_the_filter() {
    for (flags, valid) in [
        ("S", true),
        ("A", true),
        ("SA", false),
        ("R", false),
        ("RA", false),
        ("F", false),
        ("FA", false),
        ("SF", false),
    ] {
        let bits = flags.bytes().fold(0, |bits, flag| {
            bits | match flag {
                b'S' => natgate::wire::tcp::SYN,
                b'A' => natgate::wire::tcp::ACK,
                b'F' => natgate::wire::tcp::FIN,
                _ => natgate::wire::tcp::RST,
            }
        });
        assert_eq!(
            natgate::nat::filter::flows::opens_tcp(bits),
            valid,
            "{flags}"
        );
    }
}

/// Nothing is remembered of clients of a service that asks for no affinity.
#[test]
fn clients_are_remembered_where_affinity_is_asked_for() {
    for (keys, remembered) in [
        ("", 0),
        ("affinity = \"client\"\naffinity_timeout = \"60s\"", 1),
    ] {
        let rules = format!(
            "[[service]]\nname = \"a\"\naddress = \"198.18.0.2\"\nproto = \"tcp\"\nport = 80\n{keys}\nbackends = [{{ to = \"10.0.0.2:8080\" }}]\n"
        );
        let mut rack = lab(1, &rules);
        one(
            &mut rack,
            0,
            WAN,
            &tcp(WAN, CLIENT, ("198.18.0.2", 80), "S"),
        );
        assert_eq!(rack.shards[0].nat.affinity.len(), remembered);
    }
}

/// The interface with this name.
fn interface(policy: &Policy, name: &str) -> InterfaceId {
    let mut all = policy.interfaces.iter();
    all.find(|on| on.name == name).unwrap().id
}

#[test]
fn a_policy_knows_whose_an_address_is() {
    let policy = lab_policy(
        4,
        "[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.20\"]\n\
         [[static-nat]]\nexternal = \"203.0.113.64/30\"\ninternal = \"10.0.0.4/30\"\n\
         [[source-nat]]\nin = \"lan0\"\nsrc = \"10.0.0.0/25\"\nout = \"wan0\"\nvia = \"pool:p\"\n",
    );
    let (lan, wan) = (interface(&policy, "lan0"), interface(&policy, "wan0"));
    let v6 = |text: &str| u128::from(text.parse::<std::net::Ipv6Addr>().unwrap());
    let v4 = |text: &str| u32::from(ip(text));
    let link_local = policy.interfaces.get(lan).unwrap().link_local;
    for (on, address, owner) in [
        (lan, v6("fd00:1::1"), Some(lan)),
        (wan, v6("fd00:1::1"), Some(lan)),
        (lan, v6("2001:db8::1"), Some(wan)),
        (lan, link_local, Some(lan)),
        (wan, link_local, None),
        (lan, v6("fd00:1::2"), None),
        (InterfaceId(99), v6("fd00:1::1"), None),
    ] {
        assert_eq!(policy.local_v6(on, address), owner, "{on:?} {address:x}");
    }
    for (on, source, inside) in [
        (lan, "10.0.0.2", true),
        (lan, "10.0.0.127", true),
        (lan, "10.0.0.200", false),
        (wan, "10.0.0.2", false),
    ] {
        assert_eq!(policy.is_inside(on, v4(source)), inside, "{source}");
        assert_eq!(policy.was_inside(on, v4(source)), inside, "{source}");
    }
    for (address, home) in [
        ("203.0.113.1", wan),
        ("203.0.113.20", wan),
        ("10.0.0.1", lan),
        ("10.0.0.9", lan),
        ("198.51.100.7", wan),
    ] {
        let found = policy.home_of(RealmId(0), v4(address));
        assert_eq!(found, Some(home), "{address}");
    }
    for (address, translated) in [
        ("203.0.113.20", true),
        ("203.0.113.65", true),
        ("203.0.113.21", false),
        ("203.0.113.68", false),
        ("10.0.0.9", false),
    ] {
        let told = policy.is_translated_address(v4(address));
        assert_eq!(told, translated, "{address}");
    }
    let (index, external) = policy.nat.external_of(v4("203.0.113.20")).unwrap();
    assert_eq!(external.address(), ip("203.0.113.20"));
    assert_eq!(policy.nat.address_of(index), Some(v4("203.0.113.20")));
    assert_eq!(policy.nat.address_of::<u128>(index), None);
    assert!(policy.nat.offers(index));
    assert!(policy.nat.pool_of(index).unwrap().holds(index));
    assert!(policy.nat.external_of(v4("203.0.113.21")).is_none());
    let owner = policy
        .nat
        .port_owner(v4("203.0.113.21"), PortSpace::Udp, 2000);
    assert_eq!(owner, None);
}

/// Neither end is a subscriber: both ways have to meet the same worker.
#[test]
fn a_routed_flow_has_one_session_wherever_its_packets_arrive() {
    let rules = "[[source-nat]]\nsrc = \"10.0.0.2\"\nout = \"wan0\"\nvia = \"interface\"\n";
    everywhere(|workers, at| {
        for host in ["10.0.0.5", "10.0.0.6", "10.0.0.7", "10.0.0.8"] {
            let mut rack = lab(workers, rules);
            let out = one(&mut rack, at, LAN, &call((host, 4000)));
            assert_eq!(out.source, (ip(host), 4000));
            let back = udp(WAN, SERVER, (host, 4000), b"answer");
            let back = one(&mut rack, at, WAN, &back);
            assert_eq!((back.port, back.destination), (LAN, (ip(host), 4000)));
            assert_eq!(rack.sessions(), 1);
        }
    });
}

/// Two inside networks, a third one that no rule translates, and every kind of rule about destinations.
const NETWORKS: &str = r#"
[[interface]]
name = "lan1"
port = "p-lan"
vlan = 30
address = ["10.0.1.1/24"]
[[interface]]
name = "dmz"
port = "p-wan"
vlan = 40
address = ["192.0.2.1/24"]
[[source-nat]]
in = ["lan0", "lan1"]
out = "wan0"
via = "interface"
[[static-nat]]
external = "203.0.113.64/30"
internal = "10.0.0.4/30"
interface = "wan0"
[[static-nat]]
external = "203.0.113.72/30"
internal = "10.0.1.4/30"
[[port-forward]]
in = "wan0"
dst = "203.0.113.1"
proto = "udp"
dport = "5300"
to = "10.0.0.2:53"
[[port-forward]]
in = "wan0"
dst = "203.0.113.1"
proto = "udp"
dport = "5301"
to = "10.0.0.2:53"
hairpin = false
[[port-forward]]
in = "dmz"
src = "192.0.2.7"
dst = "192.0.2.1"
proto = "udp"
dport = "5302"
to = "10.0.0.2:53"
"#;

// Proves: U9, T8.
#[test]
fn a_destination_becomes_what_the_rules_say_where_the_packet_comes_from() {
    const KEPT: &str = "kept";
    const HAIRPIN: &str = "hairpin";
    let policy = lab_policy(1, NETWORKS);
    let lan_host = ("lan0", "10.0.0.9");
    let other_host = ("lan1", "10.0.1.9");
    let stranger = ("dmz", "192.0.2.9");
    let outside = ("wan0", "203.0.113.9");
    for (from, to, first, looped) in [
        // Static NAT on one interface, and on all.
        (outside, ("203.0.113.65", 80), "10.0.0.5:80", "10.0.0.5:80"),
        (lan_host, ("203.0.113.65", 80), HAIRPIN, "10.0.0.5:80"),
        (other_host, ("203.0.113.65", 80), HAIRPIN, "10.0.0.5:80"),
        (stranger, ("203.0.113.65", 80), KEPT, "10.0.0.5:80"),
        (outside, ("203.0.113.73", 80), "10.0.1.5:80", "10.0.1.5:80"),
        (lan_host, ("203.0.113.73", 80), "10.0.1.5:80", "10.0.1.5:80"),
        (other_host, ("203.0.113.73", 80), HAIRPIN, "10.0.1.5:80"),
        (stranger, ("203.0.113.73", 80), "10.0.1.5:80", "10.0.1.5:80"),
        (outside, ("203.0.113.68", 80), KEPT, KEPT),
        // Forwards with hairpins, and without.
        (outside, ("203.0.113.1", 5300), "10.0.0.2:53", "10.0.0.2:53"),
        (lan_host, ("203.0.113.1", 5300), HAIRPIN, "10.0.0.2:53"),
        (other_host, ("203.0.113.1", 5300), HAIRPIN, "10.0.0.2:53"),
        (stranger, ("203.0.113.1", 5300), KEPT, "10.0.0.2:53"),
        (outside, ("203.0.113.1", 5301), "10.0.0.2:53", "10.0.0.2:53"),
        (lan_host, ("203.0.113.1", 5301), KEPT, KEPT),
        (stranger, ("203.0.113.1", 5301), KEPT, KEPT),
        (outside, ("203.0.113.1", 5303), KEPT, KEPT),
        (outside, ("203.0.113.2", 5300), KEPT, KEPT),
        // For one client alone.
        (stranger, ("192.0.2.1", 5302), KEPT, "10.0.0.2:53"),
        (
            ("dmz", "192.0.2.7"),
            ("192.0.2.1", 5302),
            "10.0.0.2:53",
            "10.0.0.2:53",
        ),
    ] {
        let facts = Facts {
            ingress: interface(&policy, from.0),
            tuple: Tuple {
                source: u32::from(ip(from.1)),
                destination: u32::from(ip(to.0)),
                source_port: 5555,
                destination_port: to.1,
            },
            protocol: natgate::wire::UDP,
        };
        let told = |looped| match by_policy(&policy, &facts, looped) {
            PolicyDestination::Keep => KEPT.to_owned(),
            PolicyDestination::Hairpin => HAIRPIN.to_owned(),
            PolicyDestination::Service(_) => "a service".to_owned(),
            PolicyDestination::Translate { address, port, .. } => {
                format!("{}:{port}", std::net::Ipv4Addr::from(address))
            }
        };
        assert_eq!(
            (told(false), told(true)),
            (first.to_owned(), looped.to_owned()),
            "{from:?} {to:?}"
        );
    }
}

#[test]
fn source_rules_see_where_a_flow_really_goes() {
    let rules = "[[port-forward]]\nin = \"wan0\"\ndst = \"203.0.113.1\"\nproto = \"tcp\"\ndport = \"8022\"\nto = \"10.0.0.2:22\"\n\
        [[source-nat]]\nout = \"lan0\"\ndst = \"10.0.0.2\"\ndport = \"22\"\nproto = \"tcp\"\nvia = \"interface\"\n";
    let mut rack = lab(1, rules);
    let asked = one(&mut rack, 0, WAN, &tcp(WAN, CLIENT, PUBLIC, "S"));
    assert_eq!(asked.destination, (ip("10.0.0.2"), 22));
    assert_eq!(asked.source.0, ip("10.0.0.1"));
}

/// E6: ports of a rule bind ids of queries only where the rule is about ICMP.
#[test]
fn ports_of_a_rule_bind_ids_where_it_says_icmp() {
    for (keys, bound) in [("", false), ("proto = \"icmp\"\n", true)] {
        let rules = format!(
            "[[source-nat]]\nout = \"wan0\"\nports = \"2000-2009\"\n{keys}via = \"interface\"\n"
        );
        let mut rack = lab(1, &rules);
        let asked = one(
            &mut rack,
            0,
            LAN,
            &ping(LAN, "10.0.0.2", "203.0.113.9", 777),
        );
        assert_eq!((2000..2010).contains(&asked.source.1), bound, "{keys}");
        let sent = one(&mut rack, 0, LAN, &call(("10.0.0.2", 4000)));
        assert_eq!((2000..2010).contains(&sent.source.1), !bound, "{keys}");
    }
}

#[test]
fn an_exemption_is_for_the_sources_and_interfaces_it_names() {
    for (keys, exempt) in [
        ("in = \"lan0\"\nsrc = \"10.0.0.2\"", true),
        ("in = \"lan0\"\nsrc = \"10.0.0.3\"", false),
        ("in = \"wan0\"\nsrc = \"10.0.0.2\"", false),
    ] {
        let rules = format!("{MASQUERADE}[[exempt]]\n{keys}\ndst = [\"203.0.113.0/24\"]\n");
        let mut rack = lab(1, &rules);
        let out = one(&mut rack, 0, LAN, &call(("10.0.0.2", 4000)));
        let source = if exempt { "10.0.0.2" } else { "203.0.113.1" };
        assert_eq!(out.source.0, ip(source), "{keys}");
    }
}

/// Of an interface's addresses that one is taken which the next router knows.
#[test]
fn masquerading_takes_the_address_towards_the_next_hop() {
    let text = lab_text(1, MASQUERADE, "")
        .replace(
            "\"203.0.113.1/24\"",
            "\"203.0.113.1/24\", \"198.51.100.1/24\"",
        )
        .replace(
            "prefix = \"0.0.0.0/0\"\nvia = \"203.0.113.9\"",
            "prefix = \"0.0.0.0/0\"\nvia = \"198.51.100.9\"",
        )
        .replace("\"203.0.113.10\"", "\"198.51.100.9\"");
    let mut rack = rack(&text);
    let far = udp(LAN, ("10.0.0.2", 4000), ("192.0.2.7", 53), b"call");
    assert_eq!(one(&mut rack, 0, LAN, &far).source.0, ip("198.51.100.1"));
    let near = call(("10.0.0.2", 4001));
    assert_eq!(one(&mut rack, 0, LAN, &near).source.0, ip("203.0.113.1"));
}
