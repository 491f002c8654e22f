//! SCTP: translated with its ports in both families, its checksum kept right, or as wrong as it came.

use std::net::SocketAddr;

use natgate::base::DropReason;
use natgate::nat::ports::PortSpace;

use crate::common::sctp::*;
use crate::common::sctp::{error, seen};
use crate::common::{End, LAN, WAN, balanced, drops, lab};
use crate::*;

/// What differs between the families.
#[derive(Clone, Copy)]
struct Family {
    host: &'static str,
    other: &'static str,
    server: &'static str,
    gateway: &'static str,
    pool: &'static str,
    router: &'static str,
    /// Fragmentation needed, or packet too big; port unreachable.
    errors: [(u8, u8); 2],
}

const FAMILIES: [Family; 2] = [
    Family {
        host: "10.0.0.2",
        other: "10.0.0.3",
        server: "203.0.113.9",
        gateway: "203.0.113.1",
        pool: "203.0.113.20",
        router: "203.0.113.77",
        errors: [(3, 4), (3, 3)],
    },
    Family {
        host: "fd00:1::2",
        other: "fd00:1::3",
        server: "2001:db8::9",
        gateway: "2001:db8::1",
        pool: "2001:db8::20",
        router: "2001:db8::77",
        errors: [(2, 0), (1, 4)],
    },
];

fn in_both(test: impl Fn(Family, u8, u8)) {
    for family in FAMILIES {
        everywhere(|workers, receiver| test(family, workers, receiver));
    }
}

/// A pool that gives out these ports, one by one.
fn pool(family: Family, keys: &str) -> String {
    format!(
        "[[pool]]\nname = \"p\"\naddresses = [\"{}\"]\n{keys}\n[[source-nat]]\nout = \"wan0\"\nvia = \"pool:p\"\n",
        family.pool
    )
}

fn one(rack: &mut Rack, at: u8, port: PortId, frame: &[u8]) -> Sctp {
    let sent = send(rack, at, port, frame);
    assert_eq!(sent.len(), 1, "drops: {}", drops(rack));
    seen(&sent[0])
}

fn leak(text: String) -> &'static str {
    Box::leak(text.into())
}

fn end(at: SocketAddr) -> End {
    (leak(at.ip().to_string()), at.port())
}

fn data(payload: &[u8]) -> Vec<u8> {
    chunk(DATA, 3, payload)
}

/// Opens an association from `from` and returns the outside endpoint it has.
fn associate(rack: &mut Rack, at: u8, from: End, to: End) -> SocketAddr {
    let out = one(rack, at, LAN, &sctp(LAN, from, to, 0, &init(INIT, 0xa1)));
    assert_eq!((out.port, out.destination), (WAN, socket(to)));
    let answer = sctp(WAN, to, end(out.source), 0xa1, &init(INIT_ACK, 0xb2));
    let back = one(rack, at, WAN, &answer);
    assert_eq!((back.port, back.source), (LAN, socket(to)));
    assert_eq!(back.destination, socket(from));
    let echo = sctp(LAN, from, to, 0xb2, &chunk(COOKIE_ECHO, 0, b"cookie"));
    assert_eq!(one(rack, at, LAN, &echo).source, out.source);
    out.source
}

// Proves: OT2.
#[test]
fn associations_get_ports_of_their_own() {
    in_both(|family, workers, at| {
        let server = (family.server, 5000);
        let mut rack = lab(workers, &pool(family, "ports = \"40000-40001\""));
        let (mine, theirs) = ((family.host, 2905), (family.other, 2905));
        let first = associate(&mut rack, at, mine, server);
        let second = associate(&mut rack, at, theirs, server);
        assert_eq!(first.ip(), second.ip());
        let mut ports = [first.port(), second.port()];
        ports.sort_unstable();
        assert_eq!(ports, [40000, 40001], "two hosts, one remote, one port");
        for (host, outside) in [(mine, first), (theirs, second)] {
            for length in [1, 2, 3, 4, 100, 1400] {
                let body = data(&vec![7; length]);
                let out = one(&mut rack, at, LAN, &sctp(LAN, host, server, 0xb2, &body));
                assert_eq!((out.source, &out.chunks), (outside, &body));
                let back = sctp(WAN, server, end(outside), 0xa1, &body);
                assert_eq!(one(&mut rack, at, WAN, &back).destination, socket(host));
            }
        }
        // Another remote meets the same endpoint; a third host finds no port.
        let elsewhere = (family.server, 5001);
        assert_eq!(associate(&mut rack, at, mine, elsewhere), first);
        let third = sctp(LAN, (family.host, 1), server, 0, &init(INIT, 1));
        assert!(send(&mut rack, at, LAN, &third).is_empty());
        assert_eq!(rack.drops(DropReason::NoPort), 1);
        // Strangers are filtered, and other protocols have their own ports.
        let stranger = sctp(WAN, (family.server, 7), end(first), 0, &init(INIT, 1));
        assert!(send(&mut rack, at, WAN, &stranger).is_empty());
        assert_eq!(rack.drops(DropReason::Filtered), 1);
        let usage = |space| {
            let externals = rack.policy.nat.externals.iter();
            externals.map(|(_, e)| e.usage(space).in_use).sum::<u32>()
        };
        assert_eq!(
            [PortSpace::Sctp, PortSpace::Tcp, PortSpace::Udp].map(usage),
            [2, 0, 0]
        );
    });
}

#[test]
fn what_was_damaged_stays_damaged() {
    in_both(|family, workers, at| {
        let mut rack = lab(workers, &pool(family, "ports = \"40000\""));
        let mut frame = sctp(LAN, (family.host, 1), (family.server, 2), 9, &data(b"bits"));
        let last = frame.len() - 1;
        frame[last] ^= 0x40;
        let (_, came) = seen_wrong_by(&(LAN, frame.clone()));
        let sent = send(&mut rack, at, LAN, &frame);
        let (seen, wrong) = seen_wrong_by(&sent[0]);
        assert_eq!((seen.source.port(), wrong), (40000, came));
        assert_ne!(wrong, 0);
    });
}

#[test]
fn masquerade_keeps_the_port_if_it_can() {
    in_both(|family, workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        let server = (family.server, 5000);
        let kept = associate(&mut rack, at, (family.host, 3868), server);
        assert_eq!(kept, socket((family.gateway, 3868)));
        let moved = associate(&mut rack, at, (family.other, 3868), server);
        assert_eq!(moved.ip(), kept.ip());
        assert_ne!(moved.port(), 3868);
    });
}

#[test]
fn errors_about_associations_reach_who_sent_the_packet() {
    in_both(|family, workers, at| {
        let mut rack = lab(workers, &pool(family, "ports = \"40000\""));
        let (host, server) = ((family.host, 2905), (family.server, 5000));
        let outside = associate(&mut rack, at, host, server);
        let body = data(&[5; 64]);
        let sent = sctp(WAN, end(outside), server, 0xb2, &body);
        let answered = sctp(LAN, server, host, 0xa1, &body);
        for kind in family.errors {
            // Eight bytes are ports and tag (RFC 792); with twelve the checksum comes, whose change is known all the same.
            for bytes in [8, 12, 40, 1000] {
                let complaint = error(WAN, family.router, family.pool, kind, &sent, bytes);
                let told = send(&mut rack, at, WAN, &complaint);
                assert_eq!(told.len(), 1, "drops: {}", drops(&rack));
                let quote = quoted(&told[0]);
                assert_eq!((quote.port, quote.tag), (LAN, 0xb2));
                assert_eq!(
                    (quote.source, quote.destination),
                    (socket(host), socket(server))
                );
                // The other way: the host refuses an answer.
                let complaint = error(LAN, family.host, family.server, kind, &answered, bytes);
                let told = send(&mut rack, at, LAN, &complaint);
                assert_eq!(told.len(), 1, "drops: {}", drops(&rack));
                let quote = quoted(&told[0]);
                assert_eq!((quote.port, quote.source), (WAN, socket(server)));
                assert_eq!(quote.destination, outside);
            }
        }
    });
}

/// The state of the only session, of either family.
fn state(rack: &Rack) -> &'static str {
    let names = rack.shards.iter().flat_map(|shard| {
        let v4 = shard.nat.sessions.iter().map(|(_, s)| s.state.name());
        let v6 = shard.nat_v6.sessions.iter().map(|(_, s)| s.state.name());
        v4.chain(v6).collect::<Vec<_>>()
    });
    let names: Vec<_> = names.collect();
    assert_eq!(names.len(), 1, "{names:?}");
    names[0]
}

fn sessions(rack: &Rack) -> usize {
    let count = |shard: &_| -> usize {
        let shard: &natgate::dataplane::shard::Shard<_> = shard;
        shard.nat.sessions.iter().count() + shard.nat_v6.sessions.iter().count()
    };
    rack.shards.iter().map(count).sum()
}

#[test]
fn associations_live_by_their_chunks() {
    let timers = "[timeouts]\nsctp = \"60s\"\nsctp_transitory = \"20s\"\n";
    in_both(|family, workers, at| {
        let mut rack = lab(workers, &format!("{MASQUERADE}{timers}"));
        let (host, server, outside) = (
            (family.host, 2905),
            (family.server, 5000),
            (family.gateway, 2905),
        );
        let opening = sctp(LAN, host, server, 0, &init(INIT, 0xa1_0000));
        one(&mut rack, at, LAN, &opening);
        assert_eq!(state(&rack), "sctp-opening");
        let answer = sctp(WAN, server, outside, 0xa1_0000, &init(INIT_ACK, 0xb2_0000));
        one(&mut rack, at, WAN, &answer);
        assert_eq!(state(&rack), "sctp-established");
        let out = sctp(LAN, host, server, 0xb2_0000, &data(b"x"));
        one(&mut rack, at, LAN, &out);
        // Forged ends are sent on and not believed; the flow lives on.
        for (kind, flags, tag) in [
            (ABORT, 0, 0xdead_0000),
            (ABORT, 1, 0xa1_0000),
            (SHUTDOWN_COMPLETE, 0, 0xb2_0000),
        ] {
            let forged = sctp(WAN, server, outside, tag, &chunk(kind, flags, &[]));
            one(&mut rack, at, WAN, &forged);
            assert_eq!(state(&rack), "sctp-established");
        }
        rack.advance(40_000);
        rack.maintain();
        assert_eq!(state(&rack), "sctp-established", "longer than it may open");
        one(&mut rack, at, LAN, &out);
        let end = sctp(WAN, server, outside, 0xa1_0000, &chunk(ABORT, 0, &[]));
        one(&mut rack, at, WAN, &end);
        assert_eq!(state(&rack), "sctp-closing");
        one(&mut rack, at, LAN, &opening);
        assert_eq!(state(&rack), "sctp-opening", "anew on the same ports");
        one(&mut rack, at, WAN, &answer);
        one(&mut rack, at, LAN, &out);
        let end = sctp(
            LAN,
            host,
            server,
            0xb2_0000,
            &chunk(SHUTDOWN_COMPLETE, 0, &[]),
        );
        one(&mut rack, at, LAN, &end);
        assert_eq!(state(&rack), "sctp-closing");
        for _ in 0..30 {
            rack.advance(1000);
            rack.maintain();
        }
        assert_eq!(sessions(&rack), 0, "gone after the transitory time");
        balanced(&rack);
    });
}

/// The SCTP packet of a frame in pieces of `size` bytes, a multiple of 8.
fn cut(frame: &[u8], size: usize) -> Vec<Vec<u8>> {
    let v4 = frame[14] >> 4 == 4;
    let header = if v4 { 34 } else { 54 };
    let body = &frame[header..];
    let count = body.len().div_ceil(size);
    let piece = |n: usize| {
        let part = &body[n * size..body.len().min((n + 1) * size)];
        let more = n + 1 < count;
        let mut out = frame[..header].to_vec();
        if v4 {
            out[16..18].copy_from_slice(&(20 + part.len() as u16).to_be_bytes());
            out[18..20].copy_from_slice(&[0x12, 0x34]);
            let field = (n * size / 8) as u16 | if more { 0x2000 } else { 0 };
            out[20..22].copy_from_slice(&field.to_be_bytes());
            let sum = natgate::wire::checksum::ipv4_header(&out[14..34]);
            out[24..26].copy_from_slice(&sum.to_be_bytes());
        } else {
            out[18..20].copy_from_slice(&(8 + part.len() as u16).to_be_bytes());
            out[20] = 44;
            let field = (n * size) as u16 | u16::from(more);
            out.extend([132, 0]);
            out.extend(field.to_be_bytes());
            out.extend([0, 0, 0x12, 0x34]);
        }
        out.extend(part);
        out
    };
    (0..count).map(piece).collect()
}

/// The whole packet again, from its pieces.
fn joined(mut pieces: Vec<(PortId, Vec<u8>)>) -> (PortId, Vec<u8>) {
    let v4 = pieces[0].1[14] >> 4 == 4;
    let offset = |frame: &[u8]| match v4 {
        true => (u16::from_be_bytes([frame[20], frame[21]]) & 0x1fff) * 8,
        false => u16::from_be_bytes([frame[56], frame[57]]) & 0xfff8,
    };
    pieces.sort_by_key(|(_, frame)| offset(frame));
    let mut whole = pieces[0].1[..if v4 { 34 } else { 54 }].to_vec();
    for (_, frame) in &pieces {
        let start = if v4 { 34 } else { 62 };
        assert_eq!(
            usize::from(offset(frame)),
            whole.len() - if v4 { 34 } else { 54 }
        );
        whole.extend(&frame[start..]);
    }
    let length = whole.len() - 14;
    if v4 {
        whole[16..18].copy_from_slice(&(length as u16).to_be_bytes());
        whole[20..22].fill(0);
        let sum = natgate::wire::checksum::ipv4_header(&whole[14..34]);
        whole[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        whole[18..20].copy_from_slice(&(length as u16 - 40).to_be_bytes());
        whole[20] = 132;
    }
    (pieces[0].0, whole)
}

// Proves: OT2.
#[test]
fn fragments_wait_until_the_checksum_can_be_told() {
    let orders: [&[usize]; 5] = [
        &[0, 1, 2, 3],
        &[3, 2, 1, 0],
        &[1, 3, 0, 2],
        &[3, 0, 1, 2],
        &[1, 0, 0, 2, 3],
    ];
    in_both(|family, workers, at| {
        let (host, server) = ((family.host, 2905), (family.server, 5000));
        for order in orders {
            let mut rack = lab(workers, &pool(family, "ports = \"40000\""));
            let body = data(&(0..140).collect::<Vec<u8>>());
            let pieces = cut(&sctp(LAN, host, server, 9, &body), 48);
            let mut out = Vec::new();
            for &n in order {
                out.extend(send(&mut rack, at, LAN, &pieces[n]));
            }
            assert_eq!(out.len(), order.len(), "{order:?}: {}", drops(&rack));
            out.dedup();
            let whole = seen(&joined(out));
            assert_eq!(whole.source, socket((family.pool, 40000)));
            assert_eq!(whole.chunks, body);
        }
        // Without the last one they are held, and dropped when their time is up.
        let mut rack = lab(workers, &pool(family, "ports = \"40000\""));
        let pieces = cut(&sctp(LAN, host, server, 9, &data(&[1; 100])), 48);
        for piece in &pieces[..2] {
            assert!(send(&mut rack, at, LAN, piece).is_empty());
        }
        rack.advance(3_000);
        rack.maintain();
        assert_eq!(
            rack.drops(DropReason::FragmentTimeout),
            2,
            "{}",
            drops(&rack)
        );
        balanced(&rack);
    });
}

const VIRTUAL: [&str; 2] = ["198.18.0.2", "fd00:96::40"];

/// The endpoint as a rule writes it.
fn written(at: End) -> String {
    socket(at).to_string()
}

/// Calls `called` from outside; the server at `server` answers, and the client hears what it called.
fn call(rack: &mut Rack, at: u8, (client, called): (End, End), server: End) -> Sctp {
    let asked = one(rack, at, WAN, &sctp(WAN, client, called, 0, &init(INIT, 5)));
    assert_eq!((asked.port, asked.destination), (LAN, socket(server)));
    let answer = sctp(LAN, server, end(asked.source), 5, &init(INIT_ACK, 6));
    let back = one(rack, at, LAN, &answer);
    assert_eq!((back.port, back.source), (WAN, socket(called)));
    assert_eq!(back.destination, socket(client));
    asked
}

#[test]
fn forwards_lead_to_other_ports() {
    in_both(|family, workers, at| {
        let rules = format!(
            "{MASQUERADE}[[port-forward]]\nin = \"wan0\"\ndst = \"{}\"\nproto = [\"tcp\", \"sctp\"]\n\
             dport = \"9000-9002\"\nto = \"{}-22\"\n",
            family.gateway,
            written((family.host, 20)),
        );
        let mut rack = lab(workers, &rules);
        let client = (family.server, 5555);
        for n in 0..3 {
            let called = (family.gateway, 9000 + n);
            call(&mut rack, at, (client, called), (family.host, 20 + n));
        }
        let beside = sctp(WAN, client, (family.gateway, 9003), 0, &init(INIT, 1));
        assert!(seen_sctp(&send(&mut rack, at, WAN, &beside)).is_empty());
        // A host inside calls it by its public name, and the forwarded ports are not given out.
        let called = (family.gateway, 9001);
        let hairpin = sctp(LAN, (family.other, 9001), called, 0, &init(INIT, 1));
        let out = one(&mut rack, at, LAN, &hairpin);
        assert_eq!(
            (out.port, out.destination),
            (LAN, socket((family.host, 21)))
        );
        assert_eq!(out.source.ip(), socket(called).ip());
        assert_ne!(out.source.port(), 9001);
    });
}

/// The SCTP packets among frames: not the errors that tell a sender.
fn seen_sctp(sent: &[(PortId, Vec<u8>)]) -> Vec<Sctp> {
    let is_sctp = |frame: &[u8]| match frame[14] >> 4 {
        4 => frame[23] == 132,
        _ => frame[20] == 132,
    };
    let frames = sent.iter().filter(|(_, frame)| is_sctp(frame));
    frames.map(seen).collect()
}

#[test]
fn services_have_ports_and_backends() {
    for (family, address) in FAMILIES.into_iter().zip(VIRTUAL) {
        everywhere(|workers, at| {
            let service = |name: &str, keys: &str, backends: &[String]| {
                let list: Vec<_> = backends
                    .iter()
                    .map(|b| format!("{{ to = \"{b}\" }}"))
                    .collect();
                format!(
                    "[[service]]\nname = \"{name}\"\naddress = \"{address}\"\nproto = \"sctp\"\n{keys}\nbackends = [{}]\n",
                    list.join(", ")
                )
            };
            let rules = format!(
                "{MASQUERADE}{}{}",
                service("one", "port = 3868", &[written((family.host, 13868))]),
                service("any", "", &[family.other.to_owned()]),
            );
            let mut rack = lab(workers, &rules);
            let client = (family.server, 5555);
            let out = call(
                &mut rack,
                at,
                (client, (address, 3868)),
                (family.host, 13868),
            );
            assert_eq!(out.source, socket(client));
            call(&mut rack, at, (client, (address, 77)), (family.other, 77));
            // From the backend itself, by the gateway's address.
            let own = sctp(LAN, (family.host, 4000), (address, 3868), 0, &init(INIT, 1));
            let out = one(&mut rack, at, LAN, &own);
            assert_eq!(out.destination, socket((family.host, 13868)));
            assert_ne!(out.source.ip(), socket((family.host, 0)).ip());
            // Backends share the clients.
            let both = [written((family.host, 1)), written((family.other, 2))];
            let mut rack = lab(
                workers,
                &service("two", "port = 3868\nlb = \"maglev\"", &both),
            );
            let mut met = std::collections::BTreeSet::new();
            for port in 1000..1040 {
                let asked = sctp(
                    WAN,
                    (family.server, port),
                    (address, 3868),
                    0,
                    &init(INIT, 1),
                );
                met.insert(one(&mut rack, at, WAN, &asked).destination);
            }
            assert_eq!(met.len(), 2);
        });
    }
}

#[test]
fn one_to_one_and_untranslated_flows_keep_their_ports() {
    let external = ["203.0.113.64/30", "2001:db8:77::/64"];
    let internal = ["10.0.0.0/30", "fd00:1::/64"];
    for (n, family) in FAMILIES.into_iter().enumerate() {
        everywhere(|workers, at| {
            let exempt = format!("[[exempt]]\ndst = \"{}\"\n{MASQUERADE}", family.server);
            let mut rack = lab(workers, &exempt);
            let flow = ((family.host, 9), (family.server, 5));
            let kept = one(
                &mut rack,
                at,
                LAN,
                &sctp(LAN, flow.0, flow.1, 0, &init(INIT, 1)),
            );
            assert_eq!(kept.source, socket(flow.0));
            let rules = format!(
                "[[static-nat]]\nexternal = \"{}\"\ninternal = \"{}\"\ninterface = \"wan0\"\n",
                external[n], internal[n]
            );
            let mut rack = lab(workers, &rules);
            let sent = sctp(LAN, flow.0, flow.1, 0, &init(INIT, 1));
            let out = one(&mut rack, at, LAN, &sent);
            assert_ne!(out.source.ip(), kept.source.ip());
            assert_eq!(out.source.port(), 9);
            let answer = sctp(WAN, flow.1, end(out.source), 1, &init(INIT_ACK, 2));
            assert_eq!(one(&mut rack, at, WAN, &answer).destination, socket(flow.0));
        });
    }
}

#[test]
fn the_filter_reads_ports() {
    in_both(|family, workers, at| {
        let rules = format!(
            "{MASQUERADE}[filter]\ndefault = \"drop\"\n\
             [[filter.rule]]\nin = \"lan0\"\nproto = \"sctp\"\ndport = \"3868\"\naction = \"accept\"\n"
        );
        let mut rack = lab(workers, &rules);
        let calls = |rack: &mut Rack, port| {
            let init = sctp(
                LAN,
                (family.host, 9),
                (family.server, port),
                0,
                &init(INIT, 1),
            );
            send(rack, at, LAN, &init).len()
        };
        assert_eq!(calls(&mut rack, 3868), 1);
        assert_eq!(calls(&mut rack, 3869), 0);
        assert_eq!(rack.drops(DropReason::PolicyFilter), 1);
    });
}
