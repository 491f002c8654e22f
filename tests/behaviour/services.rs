//! Services: one address in front of many backends, on one worker and on several alike (S3).

use std::collections::{BTreeMap, BTreeSet};

use natgate::base::DropReason;

use crate::common::*;
use crate::standards::query;
use crate::*;

const VIP: &str = "198.18.0.2";

/// A service at the virtual address with more keys in `keys` and the backends of `backends`.
fn service(keys: &str, backends: &str) -> String {
    format!("[[service]]\nname = \"s\"\naddress = \"{VIP}\"\n{keys}\nbackends = [{backends}]\n")
}

fn web() -> String {
    service("port = 80", "{ to = \"10.0.0.2:8080\" }")
}

/// The client calls, the backend sees `source` and answers, and the client hears the service.
fn calls(rack: &mut Rack, at: u8, port: PortId, client: End, called: End) -> Seen {
    let asked = one(rack, at, port, &tcp(port, client, called, "S"));
    let (from, to) = (asked.destination, asked.source);
    let from_text: &'static str = Box::leak(from.0.to_string().into_boxed_str());
    let to_text: &'static str = Box::leak(to.0.to_string().into_boxed_str());
    let answer = tcp(asked.port, (from_text, from.1), (to_text, to.1), "SA");
    let back = one(rack, at, asked.port, &answer);
    assert_eq!(back.port, port, "the answer goes to the client");
    assert_eq!(
        back.source,
        (ip(called.0), called.1),
        "it comes from the service"
    );
    assert_eq!(back.destination, (ip(client.0), client.1));
    asked
}

#[test]
fn a_virtual_address_leads_to_its_backend() {
    // AT-3.1, AT-3.17: from whichever interface, and the backend itself.
    everywhere(|workers, at| {
        let mut rack = lab(workers, &web());
        let out = calls(&mut rack, at, WAN, ("203.0.113.9", 5555), (VIP, 80));
        assert_eq!((out.port, out.destination), (LAN, (ip("10.0.0.2"), 8080)));
        assert_eq!(out.source, (ip("203.0.113.9"), 5555), "the source is kept");
        for client in ["10.0.0.3", "10.0.0.2"] {
            let client = (client, 4000);
            let out = calls(&mut rack, at, LAN, client, (VIP, 80));
            assert_eq!(out.destination, (ip("10.0.0.2"), 8080));
            assert_eq!(
                out.source.0,
                ip("10.0.0.1"),
                "behind the backend's interface the answer would bypass the gateway"
            );
        }
    });
}

#[test]
fn what_no_service_wants_is_refused() {
    // AT-3.3.
    everywhere(|workers, at| {
        let mut rack = lab(workers, &web());
        let client = ("203.0.113.9", 5555);
        let unmatched = DropReason::VipUnmatched;
        dropped(
            &mut rack,
            at,
            WAN,
            &tcp(WAN, client, (VIP, 6666), "S"),
            unmatched,
        );
        dropped(
            &mut rack,
            at,
            WAN,
            &udp(WAN, client, (VIP, 80), b"u"),
            unmatched,
        );
        dropped(&mut rack, at, WAN, &ping(WAN, client.0, VIP, 7), unmatched);

        let keys = "port = 80\nunmatched = \"reject\"\nping = true";
        let mut rack = lab(workers, &service(keys, "{ to = \"10.0.0.2:8080\" }"));
        let reset = one(&mut rack, at, WAN, &tcp(WAN, client, (VIP, 6666), "S"));
        assert_eq!(reset.source, (ip(VIP), 6666));
        assert_eq!(rack.drops(unmatched), 1);
        let error = one(&mut rack, at, WAN, &udp(WAN, client, (VIP, 81), b"u"));
        assert_eq!(error.payload[..2], [3, 3]);
        let pong = one(&mut rack, at, WAN, &ping(WAN, client.0, VIP, 7));
        assert_eq!((pong.source.0, pong.payload[0]), (ip(VIP), 0));

        let keys = "port = 80\nping = true";
        let mut rack = lab(workers, &service(keys, "{ to = \"10.0.0.2:8080\" }"));
        let asked_the_time = query(WAN, client.0, VIP, 13, 7);
        dropped(&mut rack, at, WAN, &asked_the_time, unmatched);
    });
}

#[test]
fn a_service_without_backends_says_so() {
    everywhere(|workers, at| {
        let keys = "port = 80\nempty = \"reject\"";
        for backends in ["", "{ to = \"10.0.0.2\", weight = 0 }"] {
            let mut rack = lab(workers, &service(keys, backends));
            let syn = tcp(WAN, ("203.0.113.9", 5555), (VIP, 80), "S");
            let reset = one(&mut rack, at, WAN, &syn);
            assert_eq!(reset.source, (ip(VIP), 80));
            assert_eq!(rack.drops(DropReason::NoBackend), 1);
        }
        let mut rack = lab(workers, &service("port = 80", ""));
        let syn = tcp(WAN, ("203.0.113.9", 5555), (VIP, 80), "S");
        dropped(&mut rack, at, WAN, &syn, DropReason::NoBackend);
    });
}

#[test]
fn packets_of_a_backend_on_its_own_account_pass_as_they_are() {
    // AT-3.4.
    everywhere(|workers, at| {
        let mut rack = lab(workers, &web());
        for port in [6666, 8080] {
            let out = one(
                &mut rack,
                at,
                LAN,
                &tcp(LAN, ("10.0.0.2", port), SERVER, "S"),
            );
            assert_eq!(out.source, (ip("10.0.0.2"), port));
            let back = one(
                &mut rack,
                at,
                WAN,
                &tcp(WAN, SERVER, ("10.0.0.2", port), "SA"),
            );
            assert_eq!(back.destination, (ip("10.0.0.2"), port));
        }
    });
}

#[test]
fn a_real_address_keeps_its_other_ports() {
    // AT-3.5: the source is rewritten, and ports are allocated for it.
    let rules = "[[service]]\nname = \"s\"\naddress = \"interface:wan0\"\nkind = \"real\"\nport = 8081\n\
        backends = [{ to = \"10.0.0.2:8080\", source = \"10.0.0.1\" }]\n";
    for more in ["", MASQUERADE] {
        everywhere(|workers, at| {
            let mut rack = lab(workers, &format!("{rules}{more}"));
            let called = ("203.0.113.1", 8081);
            let one_client = calls(&mut rack, at, WAN, ("203.0.113.9", 5555), called);
            let other = calls(&mut rack, at, WAN, ("203.0.113.10", 5555), called);
            assert_eq!(one_client.source.0, ip("10.0.0.1"));
            assert_eq!(other.source.0, ip("10.0.0.1"));
            assert_ne!(one_client.source.1, other.source.1, "each has a port");
            let pong = one(
                &mut rack,
                at,
                WAN,
                &ping(WAN, "203.0.113.9", "203.0.113.1", 7),
            );
            assert_eq!(pong.payload[0], 0);
        });
    }
}

#[test]
fn subscribers_call_services_and_backends_call_out() {
    // Source NAT for everybody inside, and a backend that is a subscriber as well.
    let rules = format!("{MASQUERADE}{}", web());
    everywhere(|workers, at| {
        let mut rack = lab(workers, &rules);
        for client in 1..20 {
            let client = ("203.0.113.9", 5000 + client);
            calls(&mut rack, at, WAN, client, (VIP, 80));
        }
        for host in ["10.0.0.2", "10.0.0.3", "10.0.0.4"] {
            let called = calls(&mut rack, at, LAN, (host, 4000), (VIP, 80));
            assert_eq!(called.source.0, ip("10.0.0.1"));
            let own = (host, 9000);
            let out = one(&mut rack, at, LAN, &call(own));
            assert_eq!(out.source.0, ip("203.0.113.1"));
            works(&mut rack, at, own, out.source);
        }
    });
}

const FIVE: &str = "{ to = \"10.0.0.2\" }, { to = \"10.0.0.3\" }, { to = \"10.0.0.4\" }, { to = \"10.0.0.5\" }, { to = \"10.0.0.6\" }";

/// Which backend each of `flows` clients meets.
fn chosen(rack: &mut Rack, flows: u16) -> BTreeMap<u16, std::net::Ipv4Addr> {
    let flow = |port| {
        let datagram = udp(WAN, ("203.0.113.9", port), (VIP, 53), b"q");
        (port, one(rack, 0, WAN, &datagram).destination.0)
    };
    (1000..1000 + flows).map(flow).collect()
}

fn shares(chosen: &BTreeMap<u16, std::net::Ipv4Addr>) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for backend in chosen.values() {
        *shares.entry(backend.to_string()).or_default() += 1;
    }
    shares
}

#[test]
fn flows_spread_evenly_or_by_weight() {
    // AT-3.6.
    for lb in ["hash", "maglev"] {
        let keys = format!("port = 53\nproto = \"udp\"\nlb = \"{lb}\"");
        let two = "{ to = \"10.0.0.2\" }, { to = \"10.0.0.3\" }";
        let even = shares(&chosen(&mut lab(1, &service(&keys, two)), 400));
        assert_eq!(even.len(), 2);
        assert!(
            even.values().all(|n| (160..=240).contains(n)),
            "{lb}: {even:?}"
        );
        let weighted = "{ to = \"10.0.0.2\", weight = 3 }, { to = \"10.0.0.3\" }, { to = \"10.0.0.4\", weight = 0 }";
        let uneven = shares(&chosen(&mut lab(1, &service(&keys, weighted)), 400));
        assert_eq!(
            uneven.len(),
            2,
            "{lb}: a drained backend gets nothing: {uneven:?}"
        );
        assert!(
            (260..=340).contains(&uneven["10.0.0.2"]),
            "{lb}: {uneven:?}"
        );
    }
}

#[test]
fn all_workers_choose_alike() {
    let keys = "port = 53\nproto = \"udp\"\nlb = \"maglev\"";
    let choice = |workers| chosen(&mut lab(workers, &service(keys, FIVE)), 300);
    let alone = choice(1);
    assert_eq!(choice(2), alone);
    assert_eq!(choice(4), alone);
}

#[test]
fn the_hash_looks_at_the_fields_it_is_told() {
    // AT-3.7.
    for fields in ["[\"src\", \"dst\"]", "[\"dport\"]", "\"src\""] {
        let keys = format!("port = 53\nproto = \"udp\"\nhash = {fields}");
        let choice = shares(&chosen(&mut lab(1, &service(&keys, FIVE)), 100));
        assert_eq!(choice.len(), 1, "{fields}: source ports do not count");
    }
}

#[test]
fn maglev_moves_few_flows_of_the_others() {
    // AT-3.8.
    let keys = "port = 53\nproto = \"udp\"\nlb = \"maglev\"";
    let choice = |backends: &str| {
        let text = lab_text(1, &service(keys, backends), "");
        let policy = natgate::config::compile::compile_text("test", &text).unwrap();
        let size = ShardSize {
            nat: natgate::nat::state::Capacity {
                sessions: 8192,
                ..ShardSize::small().nat
            },
            ..ShardSize::small()
        };
        chosen(&mut Rack::new(policy, size, 1).unwrap(), 5000)
    };
    let before = choice(FIVE);
    let after = choice(&FIVE.replace("{ to = \"10.0.0.4\" }, ", ""));
    let others = before.iter().filter(|(_, b)| **b != ip("10.0.0.4"));
    let (mut all, mut moved) = (0, 0);
    for (port, backend) in others {
        all += 1;
        moved += usize::from(after[port] != *backend);
    }
    assert!(
        moved * 50 < all,
        "{moved} of {all} flows of the others moved"
    );
}

#[test]
fn sessions_outlive_changes_of_the_backends() {
    // AT-3.9.
    let keys = "port = 80\nproto = [\"tcp\", \"udp\"]";
    let text = |keys: &str, backend: &str, workers| {
        lab_text(
            workers,
            &service(keys, &format!("{{ to = \"{backend}\" }}")),
            "",
        )
    };
    everywhere(|workers, at| {
        let mut rack = rack(&text(keys, "10.0.0.2:8080", workers));
        let client = ("203.0.113.9", 5555);
        calls(&mut rack, at, WAN, client, (VIP, 80));
        one(&mut rack, at, WAN, &udp(WAN, client, (VIP, 80), b"q"));
        reload(&mut rack, &text(keys, "10.0.0.3:8080", workers));
        let kept = one(&mut rack, at, WAN, &tcp(WAN, client, (VIP, 80), "A"));
        assert_eq!(kept.destination.0, ip("10.0.0.2"), "TCP drains");
        let moved = one(&mut rack, at, WAN, &udp(WAN, client, (VIP, 80), b"q"));
        assert_eq!(
            moved.destination.0,
            ip("10.0.0.3"),
            "UDP ends with its backend"
        );
        let new = one(
            &mut rack,
            at,
            WAN,
            &tcp(WAN, ("203.0.113.9", 5556), (VIP, 80), "S"),
        );
        assert_eq!(new.destination.0, ip("10.0.0.3"));

        // Told otherwise, each does the other.
        let end = format!("{keys}\ndrain = \"end\"");
        reload(&mut rack, &text(&end, "10.0.0.4:8080", workers));
        let moved = one(
            &mut rack,
            at,
            WAN,
            &tcp(WAN, ("203.0.113.9", 5556), (VIP, 80), "A"),
        );
        assert_eq!(moved.destination.0, ip("10.0.0.4"));
        let keep = format!("{keys}\ndrain = \"keep\"");
        one(&mut rack, at, WAN, &udp(WAN, client, (VIP, 80), b"q"));
        reload(&mut rack, &text(&keep, "10.0.0.5:8080", workers));
        let kept = one(&mut rack, at, WAN, &udp(WAN, client, (VIP, 80), b"q"));
        assert_eq!(kept.destination.0, ip("10.0.0.4"));
    });
}

#[test]
fn a_service_that_goes_takes_its_datagrams_along() {
    everywhere(|workers, at| {
        let rules = service(
            "port = 80\nproto = [\"tcp\", \"udp\"]",
            "{ to = \"10.0.0.2\" }",
        );
        let mut rack = rack(&lab_text(workers, &rules, ""));
        let client = ("203.0.113.9", 5555);
        calls(&mut rack, at, WAN, client, (VIP, 80));
        one(&mut rack, at, WAN, &udp(WAN, client, (VIP, 80), b"q"));
        // Two reloads, the second before anything looked at the sessions.
        reload(&mut rack, &lab_text(workers, "", ""));
        reload(&mut rack, &lab_text(workers, MASQUERADE, ""));
        rack.maintain();
        assert_eq!(rack.sessions(), 1, "the connection stays");
        let kept = one(&mut rack, at, WAN, &tcp(WAN, client, (VIP, 80), "A"));
        assert_eq!(kept.destination.0, ip("10.0.0.2"));
    });
}

#[test]
fn a_client_comes_back_to_its_backend() {
    let keys = "port = 80\nlb = \"maglev\"\naffinity = \"client\"\naffinity_timeout = \"1m\"";
    everywhere(|workers, at| {
        let text = |backends: &str| lab_text(workers, &service(keys, backends), "");
        let mut rack = rack(&text("{ to = \"10.0.0.2\" }"));
        let meets = |rack: &mut Rack, port| {
            let syn = tcp(WAN, ("203.0.113.9", port), (VIP, 80), "S");
            one(rack, at, WAN, &syn).destination.0
        };
        assert_eq!(meets(&mut rack, 1000), ip("10.0.0.2"));
        reload(&mut rack, &text(FIVE));
        for port in 1001..1030 {
            assert_eq!(
                meets(&mut rack, port),
                ip("10.0.0.2"),
                "whatever its hash says"
            );
            rack.advance(50_000);
        }
        rack.advance(20_000);
        let after: BTreeSet<_> = (2000..2030).map(|port| meets(&mut rack, port)).collect();
        assert_eq!(after.len(), 1, "forgotten, chosen anew, and kept again");
        // A backend that takes no flows any more keeps nobody.
        let kept = after.first().unwrap().to_string();
        let drained = FIVE.replace(&format!("\"{kept}\""), &format!("\"{kept}\", weight = 0"));
        reload(&mut rack, &text(&drained));
        assert_ne!(meets(&mut rack, 3000).to_string(), kept);
    });
}

#[test]
fn a_direct_backend_gets_packets_as_they_are() {
    let backends = "{ to = \"10.0.0.2\", forward_only = true }";
    everywhere(|workers, at| {
        let text = |backends: &str, drain: &str| {
            lab_text(
                workers,
                &service(&format!("port = 80\n{drain}"), backends),
                "",
            )
        };
        let mut rack = rack(&text(backends, ""));
        let client = ("203.0.113.9", 5555);
        let syn = tcp(WAN, client, (VIP, 80), "S");
        let out = one(&mut rack, at, WAN, &syn);
        assert_eq!(out.port, LAN);
        assert_eq!(out.destination, (ip(VIP), 80), "nothing is rewritten");
        assert_eq!(out.source, (ip(client.0), client.1));
        // Should the answer pass the gateway, it passes as it is.
        let back = one(&mut rack, at, LAN, &tcp(LAN, (VIP, 80), client, "SA"));
        assert_eq!((back.port, back.source), (WAN, (ip(VIP), 80)));
        // Its way is known as long as its sessions live.
        reload(
            &mut rack,
            &text("{ to = \"10.0.0.3\", forward_only = true }", ""),
        );
        let kept = one(&mut rack, at, WAN, &tcp(WAN, client, (VIP, 80), "A"));
        assert_eq!(kept.port, LAN);
        reload(&mut rack, &text("{ to = \"10.0.0.3\" }", "drain = \"end\""));
        let kept = one(&mut rack, at, WAN, &tcp(WAN, client, (VIP, 80), "A"));
        assert_eq!(
            kept.destination,
            (ip(VIP), 80),
            "it went under the earlier setting"
        );
    });
}

#[test]
fn errors_about_a_service_reach_the_client_as_it_knows_it() {
    // AT-3.18.
    everywhere(|workers, at| {
        let mut rack = lab(
            workers,
            &service("port = 53\nproto = \"udp\"", "{ to = \"10.0.0.2:5353\" }"),
        );
        let asked = udp(WAN, ("203.0.113.9", 5555), (VIP, 53), b"question");
        let arrived = rack.receive(WorkerId(at), WAN, &[&asked]);
        let too_big = icmp_error(LAN, "10.0.0.2", "203.0.113.9", (3, 4), &arrived[0].1);
        let told = one(&mut rack, at, LAN, &too_big);
        assert_eq!((told.port, told.source.0), (WAN, ip(VIP)));
        assert_eq!(told.payload[..2], [3, 4]);
        assert_eq!(
            told.payload[8..][12..20],
            asked[26..34],
            "the client's own addresses"
        );
        assert_eq!(told.payload[8..][20..28], asked[34..42], "and ports");
        // The other way: a client that cannot take an answer.
        let answer = udp(LAN, ("10.0.0.2", 5353), ("203.0.113.9", 5555), b"answer");
        let sent = rack.receive(WorkerId(at), LAN, &[&answer]);
        let refused = icmp_error(WAN, "203.0.113.9", VIP, (3, 3), &sent[0].1);
        let told = one(&mut rack, at, WAN, &refused);
        assert_eq!((told.port, told.destination.0), (LAN, ip("10.0.0.2")));
        assert_eq!(told.payload[8..][12..20], answer[26..34]);
    });
}

#[test]
fn services_of_any_port_and_any_protocol() {
    everywhere(|workers, at| {
        let rules = service("proto = \"any\"", "{ to = \"10.0.0.2\" }")
            + &web()
                .replace("\"s\"", "\"web\"")
                .replace("10.0.0.2:8080", "10.0.0.3:8080");
        let mut rack = lab(workers, &rules);
        let client = ("203.0.113.9", 5555);
        let out = calls(&mut rack, at, WAN, client, (VIP, 443));
        assert_eq!(out.destination, (ip("10.0.0.2"), 443));
        let out = calls(&mut rack, at, WAN, client, (VIP, 80));
        assert_eq!(
            out.destination,
            (ip("10.0.0.3"), 8080),
            "the more particular one first"
        );
        let datagram = one(&mut rack, at, WAN, &udp(WAN, client, (VIP, 80), b"q"));
        assert_eq!(datagram.destination, (ip("10.0.0.2"), 80));
        // A protocol without ports: translated by address, and back.
        let raw = |port: PortId, from: &'static str, to: &'static str| {
            let mut frame = udp(port, (from, 0), (to, 0), b"payload");
            frame[23] = 99;
            frame[24..26].copy_from_slice(&[0, 0]);
            let sum = natgate::wire::checksum::ipv4_header(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            frame
        };
        let sent = send(&mut rack, at, WAN, &raw(WAN, client.0, VIP));
        assert_eq!(sent[0].1[30..34], ip("10.0.0.2").octets());
        let back = send(&mut rack, at, LAN, &raw(LAN, "10.0.0.2", client.0));
        assert_eq!(
            (back[0].0, &back[0].1[26..30]),
            (WAN, &ip(VIP).octets()[..])
        );
    });
}

#[test]
fn fragments_of_a_datagram_go_to_one_backend() {
    let keys = "port = 53\nproto = \"udp\"";
    everywhere(|workers, at| {
        let mut rack = lab(workers, &service(keys, FIVE));
        let whole = udp(WAN, ("203.0.113.9", 5555), (VIP, 53), &[0x61; 1200]);
        let first = one(&mut rack, at, WAN, &whole);
        let piece = |offset: usize, more: bool| {
            let mut frame = whole[..34].to_vec();
            let end = if more { 34 + offset + 600 } else { whole.len() };
            let body = &whole[34 + offset..end];
            frame[16..18].copy_from_slice(&((20 + body.len()) as u16).to_be_bytes());
            let field = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
            frame[18..20].copy_from_slice(&[0x42, 0x42]);
            frame[20..22].copy_from_slice(&field.to_be_bytes());
            frame[24..26].copy_from_slice(&[0, 0]);
            let sum = natgate::wire::checksum::ipv4_header(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            frame.extend_from_slice(body);
            frame
        };
        let held = send(&mut rack, at, WAN, &piece(600, false));
        assert!(held.is_empty(), "the later fragment waits for its ports");
        let both = send(&mut rack, at, WAN, &piece(0, true));
        assert_eq!(both.len(), 2);
        for (_, frame) in &both {
            assert_eq!(frame[30..34], first.destination.0.octets());
        }
    });
}

#[test]
fn backends_are_counted_each_on_its_own() {
    let mut rack = lab(2, &service("port = 53\nproto = \"udp\"", FIVE));
    let met = shares(&chosen(&mut rack, 100));
    let counts = rack.rules();
    let mut hits = 0;
    for info in rack
        .policy
        .rules
        .iter()
        .filter(|info| info.kind == "service")
    {
        let (service, backend) = info.name.split_once(' ').unwrap();
        assert_eq!(service, "s");
        let count = counts[info.id.index()];
        assert_eq!(count.hits as usize, met[backend]);
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
    everywhere(|workers, at| {
        let mut rack = lab(workers, &rules);
        calls(&mut rack, at, WAN, ("203.0.113.9", 5555), (VIP, 80));
        let direct = tcp(WAN, ("203.0.113.9", 5556), ("10.0.0.2", 8080), "S");
        dropped(&mut rack, at, WAN, &direct, DropReason::PolicyFilter);
    });
}
