//! Translation of IPv6: the rules of IPv4, with the checksums, errors and extension headers of IPv6.

use std::net::Ipv6Addr;

use natgate::base::DropReason;
use natgate::wire::parse::{Transport, parse};
use natgate::wire::{checksum, ipv6};

use crate::common::*;
use crate::filter_v6::{icmp6, syn6, to_gateway, udp6};
use crate::*;

const INSIDE: &str = "fd00:1::2";
const OUTSIDE: &str = "2001:db8::9";
const GATEWAY: &str = "2001:db8::1";

const POOL: &str = "[[pool]]\nname = \"p\"\naddresses = [\"2001:db8::20\"]\n\
    block = { size = 4, max_per_host = 2 }\nports = \"1024-1039\"\n\
    [[source-nat]]\nout = \"wan0\"\nvia = \"pool:p\"\n";

const FORWARD: &str = "[[source-nat]]\nout = \"wan0\"\nvia = \"interface\"\n\
    [[port-forward]]\nin = \"wan0\"\ndst = \"2001:db8::1\"\nproto = \"udp\"\ndport = \"9000-9002\"\nto = \"[fd00:1::2]:20-22\"\n";

const PREFIX: &str = "[[static-nat]]\nexternal = \"2001:db8:77::/48\"\ninternal = \"fd00:1::/48\"\ninterface = \"wan0\"\n";

/// A packet that left, its checksum verified.
#[derive(Debug, PartialEq, Eq)]
pub struct Six {
    pub port: PortId,
    pub source: (Ipv6Addr, u16),
    pub destination: (Ipv6Addr, u16),
    pub frame: Vec<u8>,
}

pub fn six((port, frame): &(PortId, Vec<u8>)) -> Six {
    let packet = parse(frame).unwrap();
    let l3 = usize::from(packet.l3);
    let (source, destination) = (ipv6::source(frame, l3), ipv6::destination(frame, l3));
    if !packet.fragment.is_fragment() {
        let segment = &frame[usize::from(packet.l4)..packet.end()];
        let sum = checksum::transport_v6(source, destination, packet.protocol, segment);
        assert_eq!(sum, 0, "transport checksum: {frame:02x?}");
    }
    Six {
        port: *port,
        source: (source.into(), packet.source_port),
        destination: (destination.into(), packet.destination_port),
        frame: frame.clone(),
    }
}

pub fn one6(rack: &mut Rack, at: u8, port: PortId, frame: &[u8]) -> Six {
    let sent = send(rack, at, port, frame);
    assert_eq!(sent.len(), 1, "drops: {}", drops(rack));
    six(&sent[0])
}

pub fn at(text: &str, port: u16) -> (Ipv6Addr, u16) {
    (text.parse().unwrap(), port)
}

pub fn echo6(port: PortId, from: &str, to: &str, id: u16, reply: bool) -> Vec<u8> {
    let builder = to_gateway(port, from, to);
    let builder = match reply {
        true => builder.icmpv6_echo_reply(id, 1),
        false => builder.icmpv6_echo_request(id, 1),
    };
    let mut frame = Vec::new();
    builder.write(&mut frame, b"ping").unwrap();
    frame
}

/// A leaked string, because frames are made of such.
pub fn text(address: Ipv6Addr) -> &'static str {
    Box::leak(address.to_string().into_boxed_str())
}

#[test]
fn a_masqueraded_flow_works_both_ways() {
    everywhere(|workers, receiver| {
        let mut rack = lab(workers, MASQUERADE);
        let out = udp6(LAN, (INSIDE, 4000), (OUTSIDE, 53), b"question");
        let sent = one6(&mut rack, receiver, LAN, &out);
        assert_eq!((sent.port, sent.source), (WAN, at(GATEWAY, 4000)));
        assert_eq!(sent.destination, at(OUTSIDE, 53));
        assert_eq!(sent.frame[21], 63, "one hop less");
        let back = udp6(WAN, (OUTSIDE, 53), (GATEWAY, 4000), b"answer");
        let answer = one6(&mut rack, receiver, WAN, &back);
        assert_eq!((answer.port, answer.destination), (LAN, at(INSIDE, 4000)));
        // The port is another host's now, so a second host gets another one.
        let other = udp6(LAN, ("fd00:1::3", 4000), (OUTSIDE, 53), b"question");
        let other = one6(&mut rack, receiver, LAN, &other);
        assert_eq!(other.source.0, at(GATEWAY, 0).0);
        assert_ne!(other.source.1, 4000);
        let stranger = udp6(WAN, ("2001:db8::8", 53), (GATEWAY, 4000), b"probe");
        dropped(&mut rack, receiver, WAN, &stranger, DropReason::Filtered);
        let syn = one6(
            &mut rack,
            receiver,
            LAN,
            &syn6(LAN, (INSIDE, 5000), (OUTSIDE, 80)),
        );
        assert_eq!(syn.source, at(GATEWAY, 5000));
    });
}

#[test]
fn queries_keep_their_ids_apart() {
    everywhere(|workers, receiver| {
        let mut rack = lab(workers, MASQUERADE);
        let first = one6(
            &mut rack,
            receiver,
            LAN,
            &echo6(LAN, INSIDE, OUTSIDE, 7, false),
        );
        let second = echo6(LAN, "fd00:1::3", OUTSIDE, 7, false);
        let second = one6(&mut rack, receiver, LAN, &second);
        assert_eq!(first.source, at(GATEWAY, 7));
        assert_ne!(second.source.1, 7);
        let reply = echo6(WAN, OUTSIDE, GATEWAY, second.source.1, true);
        let reply = one6(&mut rack, receiver, WAN, &reply);
        assert_eq!(reply.destination, at("fd00:1::3", 7));
        // The gateway itself still answers.
        let own = one6(
            &mut rack,
            receiver,
            WAN,
            &echo6(WAN, OUTSIDE, GATEWAY, 7, false),
        );
        assert_eq!((own.port, own.source.0), (WAN, at(GATEWAY, 0).0));
    });
}

/// RFC 4443: a router on the way says the packet is too big; the sender must recognise what it sent.
#[test]
fn packet_too_big_comes_home_with_its_quote() {
    everywhere(|workers, receiver| {
        for port in [4000u16, 4001] {
            let mut rack = lab(workers, MASQUERADE);
            let out = udp6(LAN, (INSIDE, port), (OUTSIDE, 53), b"a large question");
            let sent = one6(&mut rack, receiver, LAN, &out);
            let error = icmp6(WAN, "2001:db8::77", GATEWAY, (2, 0), &sent.frame[14..]);
            let told = one6(&mut rack, receiver, WAN, &error);
            assert_eq!((told.port, told.destination.0), (LAN, at(INSIDE, 0).0));
            assert_eq!(told.source.0, at("2001:db8::77", 0).0);
            let mut expected = out[14..].to_vec();
            expected[7] -= 1;
            assert_eq!(told.frame[14 + 48..], expected, "the quote as it was sent");
        }
    });
}

#[test]
fn an_error_of_the_inside_speaks_for_the_public_address() {
    everywhere(|workers, receiver| {
        let mut rack = lab(workers, FORWARD);
        let call = udp6(WAN, (OUTSIDE, 1000), (GATEWAY, 9001), b"call");
        let got = one6(&mut rack, receiver, WAN, &call);
        assert_eq!((got.port, got.destination), (LAN, at(INSIDE, 21)));
        let error = icmp6(LAN, INSIDE, OUTSIDE, (1, 4), &got.frame[14..]);
        let told = one6(&mut rack, receiver, LAN, &error);
        assert_eq!((told.port, told.source.0), (WAN, at(GATEWAY, 0).0));
        let mut expected = call[14..].to_vec();
        expected[7] -= 1;
        assert_eq!(told.frame[14 + 48..], expected);
        let answer = udp6(LAN, (INSIDE, 21), (OUTSIDE, 1000), b"answer");
        assert_eq!(
            one6(&mut rack, receiver, LAN, &answer).source,
            at(GATEWAY, 9001)
        );
    });
}

#[test]
fn an_inside_host_calls_the_public_address() {
    everywhere(|workers, receiver| {
        let mut rack = lab(workers, FORWARD);
        let call = udp6(LAN, ("fd00:1::3", 1000), (GATEWAY, 9000), b"call");
        let got = one6(&mut rack, receiver, LAN, &call);
        assert_eq!((got.port, got.destination), (LAN, at(INSIDE, 20)));
        assert_eq!(
            got.source.0,
            at(GATEWAY, 0).0,
            "the server sees a public address"
        );
        let answer = udp6(
            LAN,
            (INSIDE, 20),
            (text(got.source.0), got.source.1),
            b"answer",
        );
        let answer = one6(&mut rack, receiver, LAN, &answer);
        assert_eq!(answer.source, at(GATEWAY, 9000));
        assert_eq!(answer.destination, at("fd00:1::3", 1000));
    });
}

#[test]
fn blocks_and_their_quota_hold_for_ipv6_hosts() {
    everywhere(|workers, receiver| {
        let mut rack = lab(workers, POOL);
        let call = |host, port| udp6(LAN, (host, port), (OUTSIDE, 53), b"x");
        let mut ports = Vec::new();
        for port in 1..=8 {
            let sent = one6(&mut rack, receiver, LAN, &call(INSIDE, port));
            assert_eq!(sent.source.0, at("2001:db8::20", 0).0);
            ports.push(sent.source.1);
        }
        ports.sort_unstable();
        let blocks: Vec<u16> = ports.iter().map(|port| port / 4).collect();
        assert_eq!(blocks[..4], [blocks[0]; 4]);
        assert_eq!(blocks[4..], [blocks[4]; 4]);
        dropped(
            &mut rack,
            receiver,
            LAN,
            &call(INSIDE, 9),
            DropReason::QuotaBlocks,
        );
        let other = one6(&mut rack, receiver, LAN, &call("fd00:1::3", 1));
        assert!(
            !blocks.contains(&(other.source.1 / 4)),
            "another host, another block"
        );
    });
}

/// Pool addresses on a connected subnet are answered for.
#[test]
fn neighbours_find_pool_addresses() {
    let mut rack = lab(1, POOL);
    let target: Ipv6Addr = "2001:db8::20".parse().unwrap();
    let mut body = target.octets().to_vec();
    body.extend([1, 1]);
    body.extend(HOST_MAC);
    let mut ask = icmp6(WAN, OUTSIDE, "ff02::1:ff00:20", (135, 0), &body);
    ask[..6].copy_from_slice(&[0x33, 0x33, 0xff, 0, 0, 0x20]);
    ask[21] = 255;
    let sent = send(&mut rack, 0, WAN, &ask);
    assert_eq!(sent.len(), 1, "drops: {}", drops(&rack));
    let packet = parse(&sent[0].1).unwrap();
    assert_eq!(packet.transport, Transport::IcmpOther);
    let body = &sent[0].1[usize::from(packet.l4)..];
    assert_eq!((body[0], &body[8..24]), (136, &target.octets()[..]));
}

/// With options behind the fragment header too, where only the first piece shows the transport (RFC 8200 section 4.5).
#[test]
fn fragments_are_translated_in_any_order() {
    let whole = udp6(LAN, (INSIDE, 4000), (OUTSIDE, 53), &[0x61; 56]);
    for (next, options) in [(17, &[][..]), (60, &[17, 0, 1, 4, 0, 0, 0, 0][..])] {
        let body = [options, &whole[54..]].concat();
        let pieces: Vec<Vec<u8>> = (0..3).map(|i| piece6(&whole, next, &body, i)).collect();
        everywhere(|workers, receiver| {
            let mut rack = lab(workers, MASQUERADE);
            assert!(send(&mut rack, receiver, LAN, &pieces[2]).is_empty());
            let mut sent = send(&mut rack, 0, LAN, &pieces[0]);
            sent.extend(send(&mut rack, receiver, LAN, &pieces[1]));
            assert_eq!(sent.len(), 3);
            let mut got = vec![0; body.len()];
            for piece in &sent {
                assert_eq!(six(piece).source.0, at(GATEWAY, 0).0);
                let offset = usize::from(u16::from_be_bytes([piece.1[56], piece.1[57]]) & 0xfff8);
                got[offset..offset + piece.1.len() - 62].copy_from_slice(&piece.1[62..]);
            }
            let ends = (
                ipv6::source(&sent[0].1, 14),
                ipv6::destination(&sent[0].1, 14),
            );
            let datagram = &got[options.len()..];
            assert_eq!(checksum::transport_v6(ends.0, ends.1, 17, datagram), 0);
            assert_eq!(got[..options.len()], *options);
        });
    }
}

/// Piece `i` of three of `body`, which begins with a header `next`, in a packet between the addresses of `whole`.
fn piece6(whole: &[u8], next: u8, body: &[u8], i: usize) -> Vec<u8> {
    let chunk = body.chunks(24).nth(i).unwrap();
    let mut frame = whole[..54].to_vec();
    frame[18..20].copy_from_slice(&((8 + chunk.len()) as u16).to_be_bytes());
    frame[20] = 44;
    frame.extend([next, 0]);
    frame.extend(((i * 24) as u16 | u16::from(i < 2)).to_be_bytes());
    frame.extend([0, 0, 0x12, 0x34]);
    frame.extend_from_slice(chunk);
    frame
}

/// Extension headers stay where they are, and the transport behind them is translated.
#[test]
fn extension_headers_travel_along() {
    everywhere(|workers, receiver| {
        let mut rack = lab(workers, MASQUERADE);
        let plain = udp6(LAN, (INSIDE, 4000), (OUTSIDE, 53), b"question");
        let mut frame = plain[..54].to_vec();
        frame[18..20].copy_from_slice(&((plain.len() - 54 + 16) as u16).to_be_bytes());
        // Hop-by-hop options, then destination options, both padding alone.
        frame[20] = 0;
        frame.extend([60, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0]);
        frame.extend_from_slice(&plain[54..]);
        let sent = one6(&mut rack, receiver, LAN, &frame);
        assert_eq!(sent.source, at(GATEWAY, 4000));
        assert_eq!(sent.frame[54..70], frame[54..70]);
    });
}

/// RFC 6296: no checksum changes, both ways, whoever begins.
// Proves: NP1, NP5, NP6.
#[test]
fn prefixes_translate_without_touching_checksums() {
    everywhere(|workers, receiver| {
        let mut rack = lab(workers, PREFIX);
        let out = udp6(LAN, (INSIDE, 4000), (OUTSIDE, 53), b"question");
        let sent = one6(&mut rack, receiver, LAN, &out);
        assert_eq!(sent.source.1, 4000);
        assert_eq!(sent.source.0.segments()[..3], [0x2001, 0xdb8, 0x77]);
        assert_eq!(sent.source.0.segments()[4..], [0, 0, 0, 2]);
        assert_eq!(
            sent.frame[54..],
            out[54..],
            "not a bit behind the addresses"
        );
        let public = text(sent.source.0);
        let back = udp6(WAN, (OUTSIDE, 53), (public, 4000), b"answer");
        assert_eq!(
            one6(&mut rack, receiver, WAN, &back).destination,
            at(INSIDE, 4000)
        );
        let call = udp6(WAN, (OUTSIDE, 1), (public, 80), b"call");
        assert_eq!(
            one6(&mut rack, receiver, WAN, &call).destination,
            at(INSIDE, 80)
        );
    });
}

/// Without other rules no sessions are needed; errors come home with their quote, and hosts that call the outside prefix
/// find each other.
// Proves: NP6, NP4.
#[test]
fn prefixes_need_no_sessions() {
    everywhere(|workers, receiver| {
        for rules in [PREFIX.to_owned(), format!("{PREFIX}{MASQUERADE}")] {
            let mut rack = lab(workers, &rules);
            let out = udp6(LAN, (INSIDE, 4000), (OUTSIDE, 53), b"question");
            let sent = one6(&mut rack, receiver, LAN, &out);
            let public = text(sent.source.0);
            let error = icmp6(WAN, "2001:db8::77", public, (2, 0), &sent.frame[14..]);
            let told = one6(&mut rack, receiver, WAN, &error);
            let mut expected = out[14..].to_vec();
            expected[7] -= 1;
            assert_eq!((told.port, told.destination.0), (LAN, at(INSIDE, 0).0));
            assert_eq!(told.frame[14 + 48..], expected);
            let call = udp6(LAN, ("fd00:1::3", 9), (public, 80), b"hairpin");
            let got = one6(&mut rack, receiver, LAN, &call);
            assert_eq!((got.port, got.destination), (LAN, at(INSIDE, 80)));
            assert_eq!(got.source.0.segments()[..3], [0x2001, 0xdb8, 0x77]);
            let tracked = rack.shards.iter().any(|s| !s.nat_v6.sessions.is_empty());
            assert_eq!(tracked, rules != PREFIX);
        }
    });
}

#[test]
fn rules_of_one_family_leave_the_other_alone() {
    let v4_only = "[[source-nat]]\nsrc = \"10.0.0.0/8\"\nout = \"wan0\"\nvia = \"interface\"\n";
    let mut rack = lab(1, v4_only);
    let out = udp6(LAN, (INSIDE, 4000), (OUTSIDE, 53), b"question");
    assert_eq!(one6(&mut rack, 0, LAN, &out).source, at(INSIDE, 4000));
    assert!(
        rack.shards[0].nat_v6.sessions.is_empty(),
        "nothing to track"
    );
    let exempt = format!("[[exempt]]\ndst = [\"2001:db8::/64\"]\n{MASQUERADE}");
    let mut rack = lab(1, &exempt);
    assert_eq!(one6(&mut rack, 0, LAN, &out).source, at(INSIDE, 4000));
    let elsewhere = udp6(LAN, (INSIDE, 4000), ("2001:db8:9::1", 53), b"question");
    assert_eq!(
        one6(&mut rack, 0, LAN, &elsewhere).source,
        at(GATEWAY, 4000)
    );
    works(&mut rack, 0, ("10.0.0.2", 9), (ip("203.0.113.1"), 9));
}

#[test]
fn sessions_end_and_their_ports_rest() {
    let rules = "[[pool]]\nname = \"p\"\naddresses = [\"2001:db8::20\"]\n\
        [[source-nat]]\nout = \"wan0\"\nvia = \"pool:p\"\n";
    let mut rack = lab(1, rules);
    let out = udp6(LAN, (INSIDE, 4000), (OUTSIDE, 53), b"question");
    one6(&mut rack, 0, LAN, &out);
    let back = udp6(WAN, (OUTSIDE, 53), ("2001:db8::20", 4000), b"late");
    rack.advance(121_000);
    dropped(&mut rack, 0, WAN, &back, DropReason::NoMapping);
    rack.maintain();
    assert!(rack.shards[0].nat_v6.sessions.is_empty());
    assert!(rack.shards[0].nat_v6.mappings.is_empty());
    let other = udp6(LAN, ("fd00:1::3", 4000), (OUTSIDE, 53), b"question");
    assert_ne!(one6(&mut rack, 0, LAN, &other).source.1, 4000, "it rests");
}
