//! What the standards say in numbers, and of what passes: timers and what puts them off, queries, addresses, errors.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use etherparse::PacketBuilder;
use natgate::base::DropReason;
use natgate::nat::ports::PortSpace;
use natgate::wire::checksum;

use crate::common::*;
use crate::mtu::finish;
use crate::*;

const CLIENT: End = ("10.0.0.2", 40000);
const PUBLIC: End = ("203.0.113.1", 40000);
const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;

/// Lets time pass, and says how many sessions are left.
fn after(rack: &mut Rack, millis: u64) -> usize {
    rack.advance(millis);
    rack.maintain();
    rack.sessions()
}

fn handshake(rack: &mut Rack, at: u8) {
    one(rack, at, LAN, &tcp(LAN, CLIENT, SERVER, "S"));
    one(rack, at, WAN, &tcp(WAN, SERVER, PUBLIC, "SA"));
    one(rack, at, LAN, &tcp(LAN, CLIENT, SERVER, "A"));
}

/// One flow of each kind, as far as it can come, and how long it lives then.
type Begun = (fn(&mut Rack, u8), u64);
const KINDS: [Begun; 5] = [
    (
        |rack, at| {
            one(rack, at, LAN, &call(CLIENT));
        },
        2 * MINUTE,
    ),
    (
        |rack, at| {
            one(rack, at, LAN, &call(CLIENT));
            one(rack, at, WAN, &udp(WAN, SERVER, PUBLIC, b"answer"));
        },
        5 * MINUTE,
    ),
    (
        |rack, at| {
            one(rack, at, LAN, &tcp(LAN, CLIENT, SERVER, "S"));
        },
        4 * MINUTE,
    ),
    (handshake, 124 * MINUTE),
    (
        |rack, at| {
            one(rack, at, LAN, &ping(LAN, CLIENT.0, SERVER.0, 40000));
        },
        MINUTE,
    ),
];

// Proves: U5, U5c, T5, I2, P2.1.
#[test]
fn idle_sessions_live_as_long_as_they_must_and_no_longer() {
    everywhere(|workers, at| {
        for (begin, life) in KINDS {
            let mut rack = lab(workers, MASQUERADE);
            begin(&mut rack, at);
            assert_eq!(after(&mut rack, life - SECOND), 1, "{life} ms");
            assert_eq!(after(&mut rack, 2 * SECOND), 0, "{life} ms");
        }
    });
}

/// The first of the frames as a router beyond would have seen it, translated.
fn translated(rack: &mut Rack, at: u8, frame: &[u8]) -> Vec<u8> {
    let mut sent = rack.receive(WorkerId(at), LAN, &[frame]);
    assert_eq!(sent.len(), 1);
    sent.remove(0).1
}

/// Every kind of error about every kind of session, from both sides, at half of its life.
// Proves: U12, U12a, U12b, T9, T10, I4b, I5b, I6, P7.1.
#[test]
fn errors_pass_and_neither_end_nor_refresh_a_session() {
    let codes = (0..16).map(|code| (3, code));
    let errors: Vec<(u8, u8)> = codes.chain([(4, 0), (11, 0), (11, 1), (12, 0)]).collect();
    everywhere(|workers, at| {
        for (kind, (begin, life)) in KINDS.into_iter().enumerate() {
            let mut rack = lab(workers, MASQUERADE);
            begin(&mut rack, at);
            let said = match kind {
                0 | 1 => call(CLIENT),
                2 => tcp(LAN, CLIENT, SERVER, "S"),
                3 => tcp(LAN, CLIENT, SERVER, "A"),
                _ => ping(LAN, CLIENT.0, SERVER.0, 40000),
            };
            let out = translated(&mut rack, at, &said);
            assert_eq!(after(&mut rack, life / 2), 1);
            for error in &errors {
                let report = icmp_error(WAN, "203.0.113.77", PUBLIC.0, *error, &out);
                let told = one(&mut rack, at, WAN, &report);
                assert_eq!((told.port, told.destination.0), (LAN, ip(CLIENT.0)));
                assert_eq!(told.source.0, ip("203.0.113.77"));
                assert_eq!((told.payload[0], told.payload[1]), *error);
            }
            assert_eq!(after(&mut rack, life / 2 - SECOND), 1, "kind {kind}");
            assert_eq!(after(&mut rack, 2 * SECOND), 0, "kind {kind}");
        }
        // From inside, about what came in.
        let mut rack = lab(workers, MASQUERADE);
        one(&mut rack, at, LAN, &call(CLIENT));
        let answer = udp(WAN, SERVER, PUBLIC, b"answer");
        let came = rack.receive(WorkerId(at), WAN, &[&answer]).remove(0).1;
        assert_eq!(after(&mut rack, 4 * MINUTE), 1);
        for error in &errors {
            let report = icmp_error(LAN, "10.0.0.7", SERVER.0, *error, &came);
            let told = one(&mut rack, at, LAN, &report);
            assert_eq!((told.port, told.destination.0), (WAN, ip(SERVER.0)));
            assert_eq!(told.source.0, ip(PUBLIC.0), "no inside address");
            assert_eq!((told.payload[0], told.payload[1]), *error);
            assert_eq!(told.payload[20..28], answer[26..34]);
        }
        assert_eq!(after(&mut rack, MINUTE - SECOND), 1);
        assert_eq!(after(&mut rack, 2 * SECOND), 0);
    });
}

// Proves: U6.
#[test]
fn the_inside_keeps_a_mapping_and_the_outside_does_not() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        let public = one(&mut rack, at, LAN, &call(CLIENT)).source;
        works(&mut rack, at, CLIENT, public);
        for _ in 0..10 {
            assert_eq!(after(&mut rack, 4 * MINUTE), 1);
            works(&mut rack, at, CLIENT, public);
        }
        for _ in 0..4 {
            assert_eq!(after(&mut rack, MINUTE), 1);
            one(&mut rack, at, WAN, &udp(WAN, SERVER, PUBLIC, b"more"));
        }
        assert_eq!(after(&mut rack, MINUTE + SECOND), 0);
    });
}

/// With a filter that lets everybody in, who is refused for another reason keeps nothing alive.
// Proves: P7.
#[test]
fn what_opens_no_session_keeps_no_mapping() {
    let text = |workers| {
        let rules = pool("filtering = \"endpoint\"");
        lab_text(workers, &rules, "sessions_per_host = 1")
    };
    everywhere(|workers, at| {
        let mut rack = rack(&text(workers));
        let public = one(&mut rack, at, LAN, &call(CLIENT)).source;
        for _ in 0..3 {
            assert_eq!(after(&mut rack, 30 * SECOND), 1);
            let knock = udp(
                WAN,
                ("203.0.113.10", 7),
                ("203.0.113.20", public.1),
                b"knock",
            );
            dropped(&mut rack, at, WAN, &knock, DropReason::SessionLimit);
        }
        assert_eq!(after(&mut rack, 31 * SECOND), 0);
    });
}

/// A query that is not echo: timestamp, information, address mask.
pub fn query(port: PortId, from: &str, to: &str, kind: u8, id: u16) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(HOST_MAC, [2, 0, 0, 0, 1, port.0 as u8])
        .ipv4(ip(from).octets(), ip(to).octets(), 64)
        .icmpv4_raw(kind, 0, [high, low, 0, 1])
        .write(&mut frame, &[0; 12])
        .unwrap();
    frame
}

// Proves: I1, I1a, P11.
#[test]
fn queries_of_every_kind_pass_and_end_with_their_mapping() {
    let rules = pool("select = \"random\"");
    everywhere(|workers, at| {
        let mut rack = lab(workers, &rules);
        for (asked, answered) in [(8, 0), (13, 14), (15, 16), (17, 18)] {
            let mut outside = BTreeSet::new();
            for to in ["203.0.113.9", "203.0.113.10"] {
                let out = one(&mut rack, at, LAN, &query(LAN, "10.0.0.2", to, asked, 77));
                assert_eq!(out.source.0, ip("203.0.113.20"));
                let reply = query(WAN, to, "203.0.113.20", answered, out.source.1);
                let back = one(&mut rack, at, WAN, &reply);
                assert_eq!((back.destination.0, back.source.1), (ip("10.0.0.2"), 77));
                outside.insert(out.source.1);
            }
            assert_eq!(outside.len(), 1, "one id for every remote");
        }
        let in_use = |rack: &Rack| {
            let (_, external) = rack
                .policy
                .nat
                .external_of(u32::from(ip("203.0.113.20")))
                .unwrap();
            external.usage(PortSpace::Icmp).in_use
        };
        assert_eq!(in_use(&rack), 1);
        assert_eq!(after(&mut rack, MINUTE + SECOND), 0);
        assert_eq!(in_use(&rack), 0);
    });
}

// Proves: I11, I10.
#[test]
fn other_icmp_stays_on_its_link() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        for kind in [5, 9, 10, 30, 37, 40, 255] {
            let frame = query(LAN, CLIENT.0, SERVER.0, kind, 1);
            dropped(&mut rack, at, LAN, &frame, DropReason::IcmpType);
        }
    });
}

/// The frame as one of another protocol, without any ports.
fn as_protocol(mut frame: Vec<u8>, protocol: u8) -> Vec<u8> {
    frame[23] = protocol;
    finish(&mut frame);
    frame
}

fn source_of((_, frame): &(PortId, Vec<u8>)) -> Ipv4Addr {
    Ipv4Addr::new(frame[26], frame[27], frame[28], frame[29])
}

// Proves: U2, G2, OT4, OT6.
#[test]
fn a_host_leaves_by_one_address_whatever_it_speaks() {
    let rules = pool("").replace("[\"203.0.113.20\"]", "[\"203.0.113.20-203.0.113.27\"]");
    everywhere(|workers, at| {
        let mut rack = lab(workers, &rules);
        let mut used = BTreeSet::new();
        let hosts = [
            "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7",
        ];
        for (n, host) in hosts.into_iter().enumerate() {
            // One host for each remote, as far as there are no ports.
            let remote: &'static str = Box::leak(format!("198.51.100.{n}").into());
            let mut own = BTreeSet::new();
            for n in 0..20 {
                own.insert(one(&mut rack, at, LAN, &call((host, 5000 + n))).source.0);
                let syn = tcp(LAN, (host, 5000 + n), SERVER, "S");
                own.insert(one(&mut rack, at, LAN, &syn).source.0);
                own.insert(
                    one(&mut rack, at, LAN, &ping(LAN, host, SERVER.0, n))
                        .source
                        .0,
                );
            }
            // GRE, ESP, L2TP.
            for protocol in [47, 50, 115] {
                let whole = udp(LAN, (host, 1), (remote, 5000), b"whatever");
                let sent = send(&mut rack, at, LAN, &as_protocol(whole.clone(), protocol));
                assert_eq!(sent.len(), 1, "{protocol}; drops: {}", drops(&rack));
                assert_eq!(sent[0].1[34..], whole[34..], "untouched");
                own.insert(source_of(&sent[0]));
            }
            assert_eq!(own.len(), 1, "{host}: {own:?}");
            used.extend(own);
        }
        assert!(used.len() > 1, "six hosts, eight addresses");
    });
}

// Proves: G3.
#[test]
fn a_pool_may_be_anything() {
    let list = "[\"203.0.113.20\", \"203.0.113.30-203.0.113.31\", \"203.0.113.40/31\", \"198.51.100.128/30\"]";
    let rules = pool("pairing = \"spread\"\nports = \"2000-2009,3001-3005,4000\"")
        .replace("[\"203.0.113.20\"]", list);
    let mut rack = lab(1, &rules);
    let mut ends = BTreeSet::new();
    for n in 0..16 * 9 {
        let end = one(&mut rack, 0, LAN, &call(("10.0.0.2", 5000 + n))).source;
        assert!(ends.insert(end), "{end:?} twice");
        assert!(matches!(end.1, 2000..=2009 | 3001..=3005 | 4000));
    }
    let addresses: BTreeSet<Ipv4Addr> = ends.iter().map(|end| end.0).collect();
    assert_eq!(addresses.len(), 9, "to the last port of the last one");
    let more = call(("10.0.0.2", 9000));
    dropped(&mut rack, 0, LAN, &more, DropReason::NoPort);
}

// Proves: G6.
#[test]
fn destinations_and_ports_can_be_left_untranslated() {
    let rules = format!(
        "[[source-nat]]\nout = \"wan0\"\nproto = \"udp\"\ndport = \"5000\"\nvia = \"none\"\n{MASQUERADE}"
    );
    everywhere(|workers, at| {
        let mut rack = lab(workers, &rules);
        let kept = one(&mut rack, at, LAN, &call(CLIENT));
        assert_eq!(kept.source, (ip(CLIENT.0), CLIENT.1));
        let other = udp(LAN, CLIENT, (SERVER.0, 5001), b"another port");
        assert_eq!(one(&mut rack, at, LAN, &other).source.0, ip(PUBLIC.0));
        let other = tcp(LAN, CLIENT, SERVER, "S");
        assert_eq!(one(&mut rack, at, LAN, &other).source.0, ip(PUBLIC.0));
    });
}

/// Whether the checksum at `at` of the IP payload is right, with the pseudo header.
fn covers((_, frame): &(PortId, Vec<u8>)) -> bool {
    let body = &frame[34..];
    let mut summed = frame[26..34].to_vec();
    summed.extend([0, frame[23]]);
    summed.extend((body.len() as u16).to_be_bytes());
    summed.extend(body);
    if summed.len() % 2 == 1 {
        summed.push(0);
    }
    let sum: u32 = summed
        .chunks(2)
        .map(|w| u32::from(w[0]) << 8 | u32::from(w[1]))
        .sum();
    sum.is_multiple_of(0xffff)
}

/// DCCP and UDP-Lite cover their addresses; what the network changes has to be corrected.
#[test]
fn checksums_that_cover_addresses_stay_right() {
    let rules = format!(
        "[[static-nat]]\nexternal = \"203.0.113.64/28\"\ninternal = \"10.0.0.0/28\"\n{MASQUERADE}"
    );
    everywhere(|workers, at| {
        for rules in [MASQUERADE, &rules] {
            let mut rack = lab(workers, rules);
            for (protocol, sample) in [(33u8, b"odd body"), (136, b"even bod")] {
                let make = |port, from: End, to: End| {
                    let mut frame = udp(port, from, to, sample);
                    frame[23] = protocol;
                    frame[40..42].copy_from_slice(&[0, 0]);
                    finish(&mut frame);
                    let mut zero = frame[26..34].to_vec();
                    zero.extend([0, protocol]);
                    zero.extend(((frame.len() - 34) as u16).to_be_bytes());
                    zero.extend(&frame[34..]);
                    let sum = checksum::finish(checksum::sum(&zero));
                    frame[40..42].copy_from_slice(&sum.to_be_bytes());
                    frame
                };
                let out = make(LAN, ("10.0.0.5", 7), SERVER);
                assert!(covers(&(LAN, out.clone())));
                let sent = send(&mut rack, at, LAN, &out);
                assert_ne!(source_of(&sent[0]), ip("10.0.0.5"));
                assert!(covers(&sent[0]), "protocol {protocol}");
                let public: &'static str = Box::leak(source_of(&sent[0]).to_string().into());
                let back = send(&mut rack, at, WAN, &make(WAN, SERVER, (public, 7)));
                assert_eq!(back[0].1[30..34], [10, 0, 0, 5]);
                assert!(covers(&back[0]), "protocol {protocol}");
            }
        }
    });
}

/// A source port of 0 asks for no answer (RFC 768), and belongs to no class; nobody is given it.
// Proves: U3a.
#[test]
fn port_zero_is_a_port() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        for host in ["10.0.0.2", "10.0.0.3"] {
            let public = one(&mut rack, at, LAN, &call((host, 0))).source;
            assert!(public.1 >= 1024, "{}", public.1);
            works(&mut rack, at, (host, 0), public);
        }
    });
}

/// A packet from outside that ends here: its sender hears of it as it sent it, and of no inside address.
// Proves: F2, F3, F6, U13.
#[test]
fn outside_senders_are_told_what_they_sent() {
    let name = "name = \"lan0\"\n";
    let text = |workers| {
        lab_text(workers, MASQUERADE, "").replacen(name, &format!("{name}mtu = 1300\n"), 1)
    };
    everywhere(|workers, at| {
        let mut rack = rack(&text(workers));
        one(&mut rack, at, LAN, &call(CLIENT));
        let mut large = udp(WAN, SERVER, PUBLIC, &[7; 1400]);
        large[20] = 0x40;
        finish(&mut large);
        let expired = udp_ttl(WAN, SERVER, PUBLIC, 1);
        for (frame, kind, rest) in [(large, [3, 4], 1300u16), (expired, [11, 0], 0)] {
            let told = one(&mut rack, at, WAN, &frame);
            assert_eq!((told.port, told.source.0), (WAN, ip("203.0.113.1")));
            assert_eq!(told.destination.0, ip(SERVER.0));
            assert_eq!(told.payload[..2], kind);
            assert_eq!(told.payload[6..8], rest.to_be_bytes());
            let quote = &told.payload[8..];
            assert_eq!(quote, &frame[14..14 + quote.len()]);
            assert!(8 + quote.len() + 20 <= 576);
        }
    });
}

/// A second translator behind the first, whose inside net is the first one's outside.
fn beyond(workers: u8, mtu: u16) -> Rack {
    let text = lab_text(workers, MASQUERADE, "")
        .replace("203.0.113.", "198.51.100.")
        .replace("10.0.0.1/24", "203.0.113.254/24")
        .replace("10.0.0.", "203.0.113.");
    let name = "name = \"wan0\"\n";
    let neighbour = "[[neighbour]]\ninterface = \"lan0\"\naddress = \"203.0.113.1\"\nmac = \"02:00:00:00:00:09\"\n";
    let text = text.replacen(name, &format!("{name}mtu = {mtu}\n"), 1);
    rack(&format!("{text}{neighbour}"))
}

/// The frame as it arrives at the next gateway's port.
fn arriving(port: PortId, mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 1, port.0 as u8]);
    frame
}

/// Path MTU discovery through two translators, by the second one's own word and by a router's behind it.
// Proves: F6, I4, I4a, I4c, U13.
#[test]
fn errors_find_their_way_back_through_two_translators() {
    const FAR: &str = "192.0.2.9";
    everywhere(|workers, at| {
        let mut near = lab(workers, MASQUERADE);
        for (mtu, from_afar) in [(1300, false), (1500, true)] {
            let mut far = beyond(workers, mtu);
            let mut large = udp(LAN, CLIENT, (FAR, 5000), &[7; 1400]);
            large[20] = 0x40;
            finish(&mut large);
            let out = near.receive(WorkerId(at), LAN, &[&large]).remove(0).1;
            let mut sent = far.receive(WorkerId(at), LAN, &[&arriving(LAN, out)]);
            if from_afar {
                let (port, frame) = sent.remove(0);
                assert_eq!(
                    (port, source_of(&(port, frame.clone()))),
                    (WAN, ip("198.51.100.1"))
                );
                let mut report = icmp_error(WAN, "198.51.100.77", "198.51.100.1", (3, 4), &frame);
                report[40..42].copy_from_slice(&1300u16.to_be_bytes());
                report[36..38].copy_from_slice(&[0, 0]);
                let sum = checksum::finish(checksum::sum(&report[34..]));
                report[36..38].copy_from_slice(&sum.to_be_bytes());
                sent = far.receive(WorkerId(at), WAN, &[&report]);
            }
            let (port, report) = sent.remove(0);
            assert_eq!(port, LAN, "back towards the first");
            let told = one(&mut near, at, WAN, &arriving(WAN, report));
            assert_eq!((told.port, told.destination.0), (LAN, ip(CLIENT.0)));
            assert_eq!(told.payload[..2], [3, 4]);
            assert_eq!(told.payload[6..8], 1300u16.to_be_bytes());
            let quote = &told.payload[8..];
            assert_eq!(
                quote[12..28],
                large[26..42],
                "addresses, ports, length, checksum"
            );
        }
    });
}
