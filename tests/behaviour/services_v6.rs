//! Services at IPv6 addresses: whatever services do, they do for both families alike (S3).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

use natgate::base::DropReason;

use crate::common::*;
use crate::filter_v6::{icmp6, to_gateway, udp6};
use crate::nat66::{Six, at, echo6, one6, six, text};
use crate::*;

const VIP: &str = "fd00:96::40";
const CLIENT: End = ("2001:db8::9", 5555);

/// A service at the virtual address with more keys in `keys` and the backends of `backends`.
fn service(keys: &str, backends: &str) -> String {
    format!("[[service]]\nname = \"s\"\naddress = \"{VIP}\"\n{keys}\nbackends = [{backends}]\n")
}

fn web() -> String {
    service("port = 80", "{ to = \"[fd00:1::2]:8080\" }")
}

/// A TCP segment; `flags` from "SA".
fn tcp6(port: PortId, from: End, to: End, flags: &str) -> Vec<u8> {
    let mut builder = to_gateway(port, from.0, to.0).tcp(from.1, to.1, 1000, 1024);
    for flag in flags.chars() {
        builder = match flag {
            'S' => builder.syn(),
            _ => builder.ack(7),
        };
    }
    let mut frame = Vec::new();
    builder.write(&mut frame, b"").unwrap();
    frame
}

/// The client calls, the backend sees a source and answers that, and the client hears the service.
fn calls(rack: &mut Rack, receiver: u8, port: PortId, client: End, called: End) -> Six {
    let asked = one6(rack, receiver, port, &tcp6(port, client, called, "S"));
    let (from, to) = (asked.destination, asked.source);
    let answer = tcp6(asked.port, (text(from.0), from.1), (text(to.0), to.1), "SA");
    let back = one6(rack, receiver, asked.port, &answer);
    assert_eq!(back.port, port, "the answer goes to the client");
    assert_eq!(back.source, at(called.0, called.1), "from the service");
    assert_eq!(back.destination, at(client.0, client.1));
    asked
}

#[test]
fn a_virtual_address_leads_to_its_backend() {
    // AT-3.1, AT-3.2, AT-3.17: from whichever interface, and the backend itself; and AT-3.4.
    everywhere(|workers, receiver| {
        let mut rack = lab(workers, &format!("{MASQUERADE}{}", web()));
        let out = calls(&mut rack, receiver, WAN, CLIENT, (VIP, 80));
        assert_eq!((out.port, out.destination), (LAN, at("fd00:1::2", 8080)));
        assert_eq!(out.source, at(CLIENT.0, CLIENT.1), "the source is kept");
        for host in ["fd00:1::3", "fd00:1::2"] {
            let out = calls(&mut rack, receiver, LAN, (host, 4000), (VIP, 80));
            assert_eq!(out.destination, at("fd00:1::2", 8080));
            assert_eq!(
                out.source.0,
                at("fd00:1::1", 0).0,
                "the gateway stands between"
            );
        }
        let mut plain = lab(workers, &web());
        for port in [6666, 8080] {
            let own = tcp6(LAN, ("fd00:1::2", port), ("2001:db8::9", 80), "S");
            let out = one6(&mut plain, receiver, LAN, &own);
            assert_eq!(out.source, at("fd00:1::2", port), "on its own account");
        }
    });
}

#[test]
fn what_no_service_wants_is_refused() {
    // AT-3.3.
    everywhere(|workers, receiver| {
        let unmatched = DropReason::VipUnmatched;
        let mut rack = lab(workers, &web());
        for frame in [
            tcp6(WAN, CLIENT, (VIP, 6666), "S"),
            udp6(WAN, CLIENT, (VIP, 80), b"u"),
            echo6(WAN, CLIENT.0, VIP, 7, false),
        ] {
            dropped(&mut rack, receiver, WAN, &frame, unmatched);
        }
        let keys = "port = 80\nunmatched = \"reject\"\nempty = \"reject\"\nping = true";
        let mut rack = lab(workers, &service(keys, ""));
        for (port, reason) in [(6666, unmatched), (80, DropReason::NoBackend)] {
            let syn = tcp6(WAN, CLIENT, (VIP, port), "S");
            let reset = one6(&mut rack, receiver, WAN, &syn);
            assert_eq!((reset.port, reset.source), (WAN, at(VIP, port)));
            assert_eq!(reset.frame[14 + 40 + 13] & 4, 4, "a reset");
            assert_eq!(rack.drops(reason), 1);
        }
        let error = udp6(WAN, CLIENT, (VIP, 81), b"u");
        let error = one6(&mut rack, receiver, WAN, &error);
        assert_eq!(error.frame[14 + 40..][..2], [1, 4], "port unreachable");
        let pong = echo6(WAN, CLIENT.0, VIP, 7, false);
        let pong = one6(&mut rack, receiver, WAN, &pong);
        assert_eq!((pong.port, pong.source.0), (WAN, at(VIP, 0).0));
        assert_eq!(pong.frame[14 + 40], 129);
        let mut silent = lab(workers, &service("port = 80", ""));
        let syn = tcp6(WAN, CLIENT, (VIP, 80), "S");
        dropped(&mut silent, receiver, WAN, &syn, DropReason::NoBackend);
    });
}

#[test]
fn one_service_stands_at_both_addresses_of_an_interface() {
    // AT-3.5 for both families: the source is rewritten, ports are allocated, other ports keep working.
    let rules = "[[service]]\nname = \"node\"\naddress = \"interface:wan0\"\nkind = \"real\"\nport = 8081\nbackends = [\
        { to = \"[fd00:1::2]:8080\", source = \"fd00:1::1\" }, { to = \"10.0.0.2:8080\", source = \"10.0.0.1\" }]\n";
    everywhere(|workers, receiver| {
        let mut rack = lab(workers, &format!("{rules}{MASQUERADE}"));
        let called = ("2001:db8::1", 8081);
        let ours = calls(&mut rack, receiver, WAN, CLIENT, called);
        let other = calls(&mut rack, receiver, WAN, ("2001:db8:5::1", 5555), called);
        for seen in [&ours, &other] {
            assert_eq!(seen.destination, at("fd00:1::2", 8080));
            assert_eq!(seen.source.0, at("fd00:1::1", 0).0);
        }
        assert_ne!(ours.source.1, other.source.1, "each has a port");
        let over_v4 = tcp(WAN, ("203.0.113.9", 5555), ("203.0.113.1", 8081), "S");
        let over_v4 = one(&mut rack, receiver, WAN, &over_v4);
        assert_eq!(over_v4.destination, (ip("10.0.0.2"), 8080));
        assert_eq!(over_v4.source.0, ip("10.0.0.1"));
        let pong = echo6(WAN, CLIENT.0, called.0, 7, false);
        let pong = one6(&mut rack, receiver, WAN, &pong);
        assert_eq!((pong.port, pong.source.0), (WAN, at(called.0, 0).0));
    });
}

const FIVE: [&str; 5] = [
    "fd00:1::2",
    "fd00:1::3",
    "fd00:1::4",
    "fd00:1::5",
    "fd00:1::6",
];

fn list(backends: &[&str]) -> String {
    let each: Vec<String> = backends
        .iter()
        .map(|b| format!("{{ to = \"{b}\" }}"))
        .collect();
    each.join(", ")
}

/// Which backend each of `flows` flows meets.
fn chosen(rack: &mut Rack, flows: u16) -> BTreeMap<u16, Ipv6Addr> {
    let flow = |port| {
        let datagram = udp6(WAN, (CLIENT.0, port), (VIP, 53), b"q");
        (port, one6(rack, 0, WAN, &datagram).destination.0)
    };
    (1000..1000 + flows).map(flow).collect()
}

fn shares(chosen: &BTreeMap<u16, Ipv6Addr>) -> BTreeMap<Ipv6Addr, usize> {
    let mut shares = BTreeMap::new();
    for backend in chosen.values() {
        *shares.entry(*backend).or_default() += 1;
    }
    shares
}

#[test]
fn flows_spread_by_weight_and_by_the_fields_of_choice() {
    // AT-3.6, AT-3.7.
    for lb in ["hash", "maglev"] {
        let keys = format!("port = 53\nproto = \"udp\"\nlb = \"{lb}\"");
        let even = shares(&chosen(
            &mut lab(1, &service(&keys, &list(&FIVE[..2]))),
            400,
        ));
        assert_eq!(even.len(), 2);
        assert!(
            even.values().all(|n| (160..=240).contains(n)),
            "{lb}: {even:?}"
        );
        let weighted = "{ to = \"fd00:1::2\", weight = 3 }, { to = \"fd00:1::3\" }, { to = \"fd00:1::4\", weight = 0 }";
        let uneven = shares(&chosen(&mut lab(1, &service(&keys, weighted)), 400));
        assert_eq!(uneven.len(), 2, "{lb}: a drained backend gets nothing");
        let three = uneven[&at("fd00:1::2", 0).0];
        assert!((260..=340).contains(&three), "{lb}: {uneven:?}");
        for fields in ["[\"src\", \"dst\"]", "\"dport\""] {
            let keys = format!("{keys}\nhash = {fields}");
            let choice = shares(&chosen(&mut lab(1, &service(&keys, &list(&FIVE))), 100));
            assert_eq!(choice.len(), 1, "{lb} {fields}: source ports do not count");
        }
    }
}

#[test]
fn all_workers_choose_alike_and_maglev_moves_few() {
    // AT-3.8.
    let keys = "port = 53\nproto = \"udp\"\nlb = \"maglev\"";
    let choice = |workers, backends: &[&str]| {
        let mut rack = lab(workers, &service(keys, &list(backends)));
        chosen(&mut rack, 900)
    };
    let before = choice(1, &FIVE);
    assert_eq!(choice(2, &FIVE), before);
    assert_eq!(choice(4, &FIVE), before);
    let after = choice(1, &FIVE[1..]);
    let gone = at(FIVE[0], 0).0;
    let others: Vec<_> = before.iter().filter(|(_, b)| **b != gone).collect();
    let moved = others.iter().filter(|(port, b)| after[*port] != **b);
    let moved = moved.count();
    assert!(moved * 50 < others.len(), "{moved} of {}", others.len());
}

#[test]
fn sessions_outlive_changes_of_the_backends() {
    // AT-3.9.
    let text = |drain: &str, backend: &str, workers| {
        let keys = format!("port = 80\nproto = [\"tcp\", \"udp\"]\n{drain}");
        let backends = format!("{{ to = \"[{backend}]:8080\" }}");
        lab_text(workers, &service(&keys, &backends), "")
    };
    let datagram = udp6(WAN, CLIENT, (VIP, 80), b"q");
    let later = tcp6(WAN, CLIENT, (VIP, 80), "A");
    everywhere(|workers, receiver| {
        let mut rack = rack(&text("", "fd00:1::2", workers));
        let meets = |rack: &mut Rack, frame: &[u8]| one6(rack, receiver, WAN, frame).destination;
        meets(&mut rack, &tcp6(WAN, CLIENT, (VIP, 80), "S"));
        meets(&mut rack, &datagram);
        reload(&mut rack, &text("", "fd00:1::3", workers));
        assert_eq!(
            meets(&mut rack, &later),
            at("fd00:1::2", 8080),
            "TCP drains"
        );
        assert_eq!(
            meets(&mut rack, &datagram),
            at("fd00:1::3", 8080),
            "UDP ends with its backend"
        );
        reload(&mut rack, &text("drain = \"end\"", "fd00:1::4", workers));
        assert_eq!(meets(&mut rack, &datagram), at("fd00:1::4", 8080));
        reload(&mut rack, &text("drain = \"keep\"", "fd00:1::5", workers));
        assert_eq!(meets(&mut rack, &datagram), at("fd00:1::4", 8080));
        // The whole service goes, and with it what does not drain.
        reload(&mut rack, &lab_text(workers, "", ""));
        assert_eq!(meets(&mut rack, &datagram), at("fd00:1::4", 8080));
    });
}

#[test]
fn a_client_comes_back_to_its_backend() {
    let keys = "port = 80\nlb = \"maglev\"\naffinity = \"client\"\naffinity_timeout = \"1m\"";
    everywhere(|workers, receiver| {
        let text = |backends: &str| lab_text(workers, &service(keys, backends), "");
        let mut rack = rack(&text(&list(&FIVE[..1])));
        let meets = |rack: &mut Rack, port| {
            let syn = tcp6(WAN, (CLIENT.0, port), (VIP, 80), "S");
            one6(rack, receiver, WAN, &syn).destination.0
        };
        assert_eq!(meets(&mut rack, 1000), at(FIVE[0], 0).0);
        reload(&mut rack, &text(&list(&FIVE)));
        for port in 1001..1020 {
            assert_eq!(meets(&mut rack, port), at(FIVE[0], 0).0);
            rack.advance(50_000);
        }
        rack.advance(20_000);
        let after: BTreeSet<_> = (2000..2030).map(|port| meets(&mut rack, port)).collect();
        assert_eq!(after.len(), 1, "forgotten, chosen anew, and kept again");
        let kept = text_of(after.first().unwrap());
        let drained = list(&FIVE).replace(&kept, &format!("{kept}, weight = 0"));
        reload(&mut rack, &text(&drained));
        assert!(!kept.contains(&meets(&mut rack, 3000).to_string()));
    });
}

/// A backend's address as the configuration writes it.
fn text_of(address: &Ipv6Addr) -> String {
    format!("\"{address}\"")
}

#[test]
fn a_direct_backend_gets_packets_as_they_are() {
    everywhere(|workers, receiver| {
        let backends = "{ to = \"fd00:1::2\", forward_only = true }";
        let mut rack = lab(workers, &service("port = 80", backends));
        let syn = tcp6(WAN, CLIENT, (VIP, 80), "S");
        let out = one6(&mut rack, receiver, WAN, &syn);
        assert_eq!((out.port, out.destination), (LAN, at(VIP, 80)));
        assert_eq!(out.frame[22..], syn[22..], "nothing is rewritten");
        let answer = tcp6(LAN, (VIP, 80), CLIENT, "SA");
        let back = one6(&mut rack, receiver, LAN, &answer);
        assert_eq!((back.port, back.source), (WAN, at(VIP, 80)));
    });
}

#[test]
fn errors_about_a_service_reach_the_client_as_it_knows_it() {
    // AT-3.18: packet too big from the backend's side, port unreachable from the client's.
    let rules = service(
        "port = 53\nproto = \"udp\"",
        "{ to = \"[fd00:1::2]:5353\" }",
    );
    everywhere(|workers, receiver| {
        let mut rack = lab(workers, &rules);
        let asked = udp6(WAN, CLIENT, (VIP, 53), b"question");
        let arrived = one6(&mut rack, receiver, WAN, &asked);
        let too_big = icmp6(LAN, "fd00:1::7", CLIENT.0, (2, 0), &arrived.frame[14..]);
        let told = one6(&mut rack, receiver, LAN, &too_big);
        assert_eq!((told.port, told.destination.0), (WAN, at(CLIENT.0, 0).0));
        assert_eq!(told.frame[14 + 40], 2);
        let mut expected = asked[14..].to_vec();
        expected[7] -= 1;
        assert_eq!(told.frame[14 + 48..], expected, "the client's own packet");
        let answer = udp6(LAN, ("fd00:1::2", 5353), CLIENT, b"answer");
        let sent = one6(&mut rack, receiver, LAN, &answer);
        let refused = icmp6(WAN, CLIENT.0, VIP, (1, 4), &sent.frame[14..]);
        let told = one6(&mut rack, receiver, WAN, &refused);
        assert_eq!((told.port, told.destination.0), (LAN, at("fd00:1::2", 0).0));
        let mut expected = answer[14..].to_vec();
        expected[7] -= 1;
        assert_eq!(told.frame[14 + 48..], expected, "the backend's own packet");
    });
}

#[test]
fn services_of_any_port_and_any_protocol() {
    let particular = web().replace("\"s\"", "\"web\"").replace("::2]", "::3]");
    let rules = service("proto = \"any\"", "{ to = \"fd00:1::2\" }") + &particular;
    everywhere(|workers, receiver| {
        let mut rack = lab(workers, &rules);
        let out = calls(&mut rack, receiver, WAN, CLIENT, (VIP, 443));
        assert_eq!(out.destination, at("fd00:1::2", 443));
        let out = calls(&mut rack, receiver, WAN, CLIENT, (VIP, 80));
        assert_eq!(out.destination, at("fd00:1::3", 8080), "particular first");
        // Protocols whose ports natgate does not read: translated by address, and back.
        for protocol in [99, 115] {
            let raw = |port: PortId, from: &'static str, to: &'static str| {
                let mut frame = udp6(port, (from, 7), (to, 8), b"payload");
                frame[20] = protocol;
                frame
            };
            let sent = send(&mut rack, receiver, WAN, &raw(WAN, CLIENT.0, VIP));
            assert_eq!(sent[0].1[38..54], at("fd00:1::2", 0).0.octets());
            let back = send(&mut rack, receiver, LAN, &raw(LAN, "fd00:1::2", CLIENT.0));
            let source = &back[0].1[22..38];
            assert_eq!((back[0].0, source), (WAN, &at(VIP, 0).0.octets()[..]));
        }
    });
}

/// A piece of the UDP payload of `whole` behind a fragment header.
fn piece(whole: &[u8], range: core::ops::Range<usize>, more: bool) -> Vec<u8> {
    let body = &whole[54 + range.start..54 + range.end];
    let mut frame = whole[..54].to_vec();
    frame[18..20].copy_from_slice(&((8 + body.len()) as u16).to_be_bytes());
    frame[20] = 44;
    let field = range.start as u16 | u16::from(more);
    frame.extend([17, 0]);
    frame.extend(field.to_be_bytes());
    frame.extend([0, 0, 0x42, 0x42]);
    frame.extend(body);
    frame
}

#[test]
fn fragments_of_a_datagram_go_to_one_backend() {
    let keys = "port = 53\nproto = \"udp\"";
    everywhere(|workers, receiver| {
        let mut rack = lab(workers, &service(keys, &list(&FIVE)));
        let whole = udp6(WAN, CLIENT, (VIP, 53), &[0x61; 1200]);
        let met = one6(&mut rack, receiver, WAN, &whole).destination.0;
        let later = piece(&whole, 600..whole.len() - 54, false);
        let held = send(&mut rack, receiver, WAN, &later);
        assert!(held.is_empty(), "the later fragment waits for its ports");
        let both = send(&mut rack, receiver, WAN, &piece(&whole, 0..600, true));
        assert_eq!(both.len(), 2, "drops: {}", drops(&rack));
        assert!(both.iter().all(|sent| six(sent).destination.0 == met));
    });
}

#[test]
fn backends_are_counted_each_on_its_own() {
    let mut rack = lab(2, &service("port = 53\nproto = \"udp\"", &list(&FIVE)));
    let met = shares(&chosen(&mut rack, 100));
    let counts = rack.rules();
    let policy = rack.policy.clone();
    let backends = policy.rules.iter().filter(|info| info.kind == "service");
    let mut hits = 0;
    for info in backends {
        let (service, backend) = info.name.split_once(' ').unwrap();
        assert_eq!(service, "s");
        let count = counts[info.id.index()];
        assert_eq!(count.hits as usize, met[&backend.parse().unwrap()]);
        assert_eq!(count.packets, count.hits);
        hits += count.hits;
    }
    assert_eq!(hits, 100);
}

#[test]
fn the_filter_sees_services_as_translated() {
    let rules = format!(
        "{}[filter]\ndefault = \"drop\"\n[[filter.rule]]\nin = \"wan0\"\nstate = [\"dnat\"]\naction = \"accept\"\n",
        web()
    );
    everywhere(|workers, receiver| {
        let mut rack = lab(workers, &rules);
        calls(&mut rack, receiver, WAN, CLIENT, (VIP, 80));
        let direct = tcp6(WAN, (CLIENT.0, 5556), ("fd00:1::2", 8080), "S");
        dropped(&mut rack, receiver, WAN, &direct, DropReason::PolicyFilter);
    });
}

/// The server of one family is no backend for clients of the other.
#[test]
fn families_are_not_mixed() {
    for (rules, told) in [
        (
            service("port = 80", "{ to = \"10.0.0.2:8080\" }"),
            "of another address family",
        ),
        (
            service(
                "port = 80",
                "{ to = \"[fd00:1::2]:8080\", source = \"10.0.0.1\" }",
            ),
            "10.0.0.1 is of another address family than fd00:1::2",
        ),
    ] {
        let text = lab_text(1, &rules, "");
        let report = natgate::config::compile::compile_text("test", &text).err();
        let report = report.unwrap().to_string();
        assert!(report.contains(told), "{report}");
    }
}
