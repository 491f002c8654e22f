//! Mapping and filtering by RFC 4787 §4.1 and §5: every combination, for each protocol; and ports that many remotes share.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use natgate::base::DropReason;
use natgate::dataplane::shard::ShardSize;
use natgate::nat::ports::{PortSpace, Usage};

use crate::common::*;
use crate::*;

const HOST: End = ("10.0.0.2", 4000);
const WORDS: [&str; 3] = ["endpoint", "address", "address-port"];

type Packet = fn(PortId, End, End) -> Vec<u8>;

fn datagram(port: PortId, from: End, to: End) -> Vec<u8> {
    udp(port, from, to, b"behave")
}

fn syn(port: PortId, from: End, to: End) -> Vec<u8> {
    tcp(port, from, to, "S")
}

/// A pool whose ports cannot be guessed, so that two mappings are not alike by chance.
fn behaving(keys: &str) -> String {
    pool(&format!("select = \"random\"\nlow_ports = false\n{keys}"))
}

/// What has become of the ports of the pool's address.
fn usage(rack: &Rack, space: PortSpace) -> Usage {
    let (_, external) = rack
        .policy
        .nat
        .external_of(u32::from(ip("203.0.113.20")))
        .unwrap();
    assert_eq!(external.errors(), 0);
    external.usage(space)
}

/// A rule for the sources 0.0.0.0/0 is a rule for everybody, and says no more than that about where subscribers are; and
/// remotes may be among the sources of any rule.
#[test]
fn a_rule_whose_sources_are_remotes_too_keeps_an_endpoint_on_one_worker() {
    for source in [
        "",
        "src = \"0.0.0.0/0\"\n",
        "src = \"0.0.0.0/1\"\n",
        "src = [\"10.0.0.0/8\", \"203.0.113.0/24\", \"198.51.100.0/24\"]\n",
    ] {
        let rules = format!("[[source-nat]]\n{source}out = \"wan0\"\nvia = \"interface\"\n");
        everywhere(|workers, at| {
            let mut rack = lab(workers, &rules);
            // Another host has the port of its choice already.
            one(
                &mut rack,
                at,
                LAN,
                &datagram(LAN, ("10.0.0.3", 4000), SERVER),
            );
            let mut seen_at = |to: End| one(&mut rack, at, LAN, &datagram(LAN, HOST, to)).source;
            let first = seen_at(SERVER);
            for to in ["203.0.113.10", "198.51.100.7", "8.8.8.8", "192.0.2.77"] {
                assert_eq!(seen_at((to, 5000)), first, "{source:?} to {to}");
            }
        });
    }
}

/// Hosts and their remotes behind one interface: nothing says who is a subscriber until the rule applies.
#[test]
fn an_endpoint_that_comes_and_leaves_by_one_interface_has_one_mapping() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        let other = datagram(WAN, ("203.0.113.10", 4000), ("198.51.100.7", 5000));
        one(&mut rack, at, WAN, &other);
        let host = ("203.0.113.11", 4000);
        let mut seen_at = |to| {
            let out = one(&mut rack, at, WAN, &datagram(WAN, host, (to, 5000)));
            assert_eq!((out.port, out.source.0), (WAN, ip("203.0.113.1")));
            out.source
        };
        let first = seen_at("198.51.100.7");
        for to in ["203.0.113.9", "8.8.8.8", "192.0.2.77", "198.51.100.8"] {
            assert_eq!(seen_at(to), first, "to {to}");
        }
    });
}

// Proves: U1, T1, U3, T7, U8a, T3a.
#[test]
fn mappings_and_filters_depend_on_what_the_pool_says() {
    for (m, mapping) in WORDS.iter().enumerate() {
        for (f, filtering) in WORDS.iter().enumerate() {
            let rules = behaving(&format!(
                "mapping = \"{mapping}\"\nfiltering = \"{filtering}\""
            ));
            for packet in [datagram as Packet, syn] {
                everywhere(|workers, at| {
                    let context = format!("mapping {mapping}, filtering {filtering}");
                    let mut rack = lab(workers, &rules);
                    let mut seen_at =
                        |to: End| one(&mut rack, at, LAN, &packet(LAN, HOST, to)).source;
                    let first = seen_at(SERVER);
                    assert_eq!(seen_at((SERVER.0, 5001)) == first, m < 2, "{context}");
                    assert_eq!(seen_at(("203.0.113.10", 5000)) == first, m < 1, "{context}");
                    assert_eq!(seen_at(SERVER), first, "{context}: a living mapping stays");

                    let other = ("10.0.0.3", 4000);
                    let outside = one(&mut rack, at, LAN, &packet(LAN, other, SERVER)).source;
                    let outside = ("203.0.113.20", outside.1);
                    let answer = packet(WAN, SERVER, outside);
                    one(&mut rack, at, WAN, &answer);
                    for (from, admits) in
                        [((SERVER.0, 5999), f < 2), (("203.0.113.10", 5000), f < 1)]
                    {
                        let knock = packet(WAN, from, outside);
                        if admits {
                            let back = one(&mut rack, at, WAN, &knock);
                            assert_eq!(back.destination, (ip(other.0), other.1), "{context}");
                        } else {
                            dropped(&mut rack, at, WAN, &knock, DropReason::Filtered);
                        }
                    }
                });
            }
        }
    }
}

// Proves: T3b, P5, P6, I1a.
#[test]
fn each_protocol_has_its_own() {
    let rules =
        behaving("mapping = { udp = \"address-port\" }\nfiltering = { tcp = \"endpoint\" }");
    everywhere(|workers, at| {
        let mut rack = lab(workers, &rules);
        let (a, b) = (SERVER, ("203.0.113.10", 5000));
        let mut seen_at =
            |packet: Packet, to| one(&mut rack, at, LAN, &packet(LAN, HOST, to)).source;
        assert_ne!(seen_at(datagram, a), seen_at(datagram, b));
        let public = seen_at(syn, a);
        assert_eq!(public, seen_at(syn, b));
        let stranger = ("203.0.113.11", 1);
        let outside = ("203.0.113.20", public.1);
        let knock = one(&mut rack, at, WAN, &syn(WAN, stranger, outside));
        assert_eq!(knock.destination, (ip(HOST.0), HOST.1));
        let ids = ["203.0.113.9", "203.0.113.10"]
            .map(|to| one(&mut rack, at, LAN, &ping(LAN, HOST.0, to, 7)).source.1);
        assert_eq!(ids[0], ids[1], "ICMP queries depend on the endpoint");
    });
}

// Proves: P3.
#[test]
fn one_address_carries_far_more_sessions_than_it_has_ports() {
    const EACH: u16 = 30_000;
    let rules = behaving("mapping = \"address-port\"");
    let mut size = ShardSize::small();
    size.nat.sessions = 1 << 18;
    let remotes = [
        ("203.0.113.9", 5000),
        ("203.0.113.9", 5001),
        ("203.0.113.10", 5000),
        ("203.0.113.11", 5000),
        ("203.0.113.11", 53),
    ];
    for workers in [1, 2, 4] {
        let mut rack = Rack::new(lab_policy(workers, &rules), size, 1).unwrap();
        let mut given = BTreeSet::new();
        let mut samples: Vec<(End, End, (Ipv4Addr, u16))> = Vec::new();
        for n in 0..EACH {
            let host = ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"][usize::from(n % 4)];
            for to in remotes {
                let from = (host, 10_000 + n);
                let at = WorkerId((n % u16::from(workers)) as u8);
                let sent = rack.receive(at, LAN, &[&datagram(LAN, from, to)]);
                let [packet] = &sent[..] else {
                    panic!("{from:?} to {to:?}: {}", drops(&rack));
                };
                // Reading the headers is enough here: every checksum is looked at in a sample.
                let source = packet.1[26..30].try_into().unwrap();
                let source = (
                    Ipv4Addr::from_bits(u32::from_be_bytes(source)),
                    u16::from_be_bytes([packet.1[34], packet.1[35]]),
                );
                assert_eq!(source.0, ip("203.0.113.20"));
                assert!(given.insert((source, to)), "{source:?} twice for {to:?}");
                if n % 1000 == 0 {
                    assert_eq!(seen(packet).source, source);
                    samples.push((from, to, source));
                }
            }
        }
        assert_eq!(rack.sessions(), 5 * usize::from(EACH));
        let used = usage(&rack, PortSpace::Udp).in_use;
        assert!(used < 64_512, "150 000 sessions on {used} ports");
        for (from, to, source) in samples {
            let answer = datagram(WAN, to, ("203.0.113.20", source.1));
            for at in 0..workers {
                let back = one(&mut rack, at, WAN, &answer);
                assert_eq!(back.destination, (ip(from.0), from.1));
            }
        }
    }
}

// Proves: P3, G13.
#[test]
fn a_port_is_refused_when_the_remote_has_met_them_all_and_not_before() {
    let rules = behaving("ports = \"2000-2003\"\nmapping = \"address-port\"\nhold = \"0s\"");
    everywhere(|workers, at| {
        let mut rack = lab(workers, &rules);
        // One host, so that all its flows live on one worker, which then has all ports.
        let mut flows = BTreeMap::new();
        for remote in 0..3 {
            for n in 0..4 {
                let (from, to) = (("10.0.0.2", 6000 + n), (SERVER.0, 5000 + remote));
                let out = one(&mut rack, at, LAN, &datagram(LAN, from, to));
                assert!(flows.insert((out.source, to), from).is_none());
            }
            let more = datagram(LAN, ("10.0.0.2", 7000), (SERVER.0, 5000 + remote));
            dropped(&mut rack, at, LAN, &more, DropReason::NoPort);
        }
        assert_eq!(usage(&rack, PortSpace::Udp).in_use, 4);
        for ((source, to), from) in &flows {
            let back = one(
                &mut rack,
                at,
                WAN,
                &datagram(WAN, *to, ("203.0.113.20", source.1)),
            );
            assert_eq!(back.destination, (ip(from.0), from.1));
        }
        rack.advance(600_000);
        rack.maintain();
        assert_eq!(rack.sessions(), 0);
        assert_eq!(usage(&rack, PortSpace::Udp).in_use, 0);
        let out = one(&mut rack, at, LAN, &datagram(LAN, ("10.0.0.3", 1), SERVER));
        assert!((2000..2004).contains(&out.source.1), "anybody's again");
    });
}

#[test]
fn a_block_is_shared_with_remotes_and_with_nobody_else() {
    let keys = "mapping = \"address-port\"\nports = \"2000-2039\"\nblock = { size = 10, max_per_host = 2 }\nhold = \"0s\"";
    everywhere(|workers, at| {
        let mut rack = lab(workers, &pool(keys));
        let mut blocks: BTreeMap<&str, BTreeSet<u16>> = BTreeMap::new();
        for host in ["10.0.0.2", "10.0.0.3"] {
            for n in 0..40 {
                let frame = datagram(LAN, (host, 6000 + n), (SERVER.0, 5000 + n / 10));
                let out = one(&mut rack, at, LAN, &frame);
                blocks.entry(host).or_default().insert(out.source.1 / 10);
            }
        }
        let (a, b) = (&blocks["10.0.0.2"], &blocks["10.0.0.3"]);
        assert_eq!((a.len(), b.len()), (1, 1), "forty flows in a block of ten");
        assert_ne!(a, b);
        for n in 0..10 {
            let frame = datagram(LAN, ("10.0.0.2", 7000 + n), (SERVER.0, 5000));
            one(&mut rack, at, LAN, &frame);
        }
        let frame = datagram(LAN, ("10.0.0.2", 8000), (SERVER.0, 5000));
        dropped(&mut rack, at, LAN, &frame, DropReason::QuotaBlocks);
    });
}

#[test]
fn a_combination_rests_after_use_while_its_port_serves_others() {
    let rules = behaving("ports = \"2000-2000\"\nmapping = \"address-port\"\nhold = \"120s\"");
    everywhere(|workers, at| {
        let mut rack = lab(workers, &rules);
        let (a, b) = ((SERVER.0, 5000), (SERVER.0, 5001));
        let call = |rack: &mut Rack, port, to| {
            let sent = send(rack, at, LAN, &datagram(LAN, ("10.0.0.2", port), to));
            sent.len() == 1
        };
        assert!(call(&mut rack, 1, a));
        // The unanswered flow to a ends after two minutes, the one to b is kept alive.
        for _ in 0..7 {
            assert!(call(&mut rack, 2, b));
            rack.advance(20_000);
            rack.maintain();
        }
        assert_eq!(rack.sessions(), 1);
        assert!(!call(&mut rack, 3, a), "another endpoint, the same remote");
        for _ in 0..6 {
            assert!(call(&mut rack, 2, b));
            rack.advance(20_000);
            rack.maintain();
        }
        assert!(call(&mut rack, 3, a), "two minutes later");
    });
}

#[test]
fn flows_outlive_a_change_of_behaviour_and_nothing_is_left_behind() {
    everywhere(|workers, at| {
        let text = |keys: &str| lab_text(workers, &behaving(&format!("hold = \"0s\"\n{keys}")), "");
        let kinds = WORDS.iter().flat_map(|m| WORDS.map(|f| (*m, f)));
        let kinds: Vec<String> = kinds
            .map(|(m, f)| format!("mapping = \"{m}\"\nfiltering = \"{f}\""))
            .collect();
        // With the last one first: what needs memory has it from the start.
        let first = "mapping = { udp = \"address-port\", tcp = \"address\" }\nfiltering = { icmp = \"address\" }";
        let mut rack = rack(&text(first));
        let mut flows = Vec::new();
        for (n, kind) in kinds.iter().enumerate() {
            reload(&mut rack, &text(kind));
            for to in [SERVER, (SERVER.0, 5001), ("203.0.113.10", 5000)] {
                let from = ("10.0.0.2", 4000 + n as u16);
                flows.push((
                    from,
                    to,
                    one(&mut rack, at, LAN, &datagram(LAN, from, to)).source,
                ));
            }
            let mut ends = BTreeSet::new();
            for &(from, to, source) in &flows {
                let out = one(&mut rack, at, LAN, &datagram(LAN, from, to));
                assert_eq!(out.source, source, "under {kind}");
                assert!(ends.insert((source, to)));
                let answer = datagram(WAN, to, ("203.0.113.20", source.1));
                let back = one(&mut rack, at, WAN, &answer);
                assert_eq!(back.destination, (ip(from.0), from.1));
            }
        }
        rack.advance(600_000);
        rack.maintain();
        assert_eq!(
            (rack.sessions(), usage(&rack, PortSpace::Udp).in_use),
            (0, 0)
        );
        for shard in &rack.shards {
            assert!(shard.nat.mappings.is_empty());
            assert!(shard.nat.allocator.shared().is_empty());
            assert_eq!(shard.nat.subscribers.len(), 0);
        }
    });
}

#[test]
fn sharing_ports_needs_memory_from_the_start() {
    let rack = rack(&lab_text(1, &behaving(""), ""));
    let text = lab_text(1, &behaving("mapping = \"address\""), "");
    let refused = natgate::config::compile::recompile_text("test", &text, &rack.policy);
    let report = refused.err().unwrap().to_string();
    assert!(report.contains("needs a restart"), "{report}");
}

#[test]
fn hairpins_meet_the_filter_as_outside_hosts_do() {
    let rules = behaving("mapping = \"address-port\"\nfiltering = \"endpoint\"");
    everywhere(|workers, at| {
        let mut rack = lab(workers, &rules);
        let b = one(&mut rack, at, LAN, &datagram(LAN, ("10.0.0.3", 2), SERVER)).source;
        let hi = datagram(LAN, ("10.0.0.2", 1), ("203.0.113.20", b.1));
        let heard = one(&mut rack, at, LAN, &hi);
        assert_eq!(heard.destination, (ip("10.0.0.3"), 2));
        assert_eq!(heard.source.0, ip("203.0.113.20"), "RFC 4787 REQ-9a");
        let ho = datagram(LAN, ("10.0.0.3", 2), ("203.0.113.20", heard.source.1));
        let back = one(&mut rack, at, LAN, &ho);
        assert_eq!((back.source, back.destination), (b, (ip("10.0.0.2"), 1)));
    });
    let mut rack = lab(2, &behaving("mapping = \"address-port\""));
    let b = one(&mut rack, 0, LAN, &datagram(LAN, ("10.0.0.3", 2), SERVER)).source;
    let hi = datagram(LAN, ("10.0.0.2", 1), ("203.0.113.20", b.1));
    dropped(&mut rack, 0, LAN, &hi, DropReason::Filtered);
}
