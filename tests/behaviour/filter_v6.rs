//! The filter over IPv6: answers are known by what they answer.

use std::net::Ipv6Addr;

use etherparse::PacketBuilder;
use natgate::base::DropReason;

use crate::common::*;
use crate::*;

const INSIDE: &str = "fd00:1::2";
const OUTSIDE: &str = "2001:db8::9";

const CLOSED: &str = "[filter]\ndefault = \"drop\"\n[[filter.rule]]\nname = \"out\"\nin = \"lan0\"\naction = \"accept\"\n";

pub fn ip6(text: &str) -> [u8; 16] {
    text.parse::<Ipv6Addr>().unwrap().octets()
}

pub fn to_gateway(
    port: PortId,
    from: &str,
    to: &str,
) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2(HOST_MAC, [2, 0, 0, 0, 1, port.0 as u8]).ipv6(ip6(from), ip6(to), 64)
}

pub fn udp6(port: PortId, from: (&str, u16), to: (&str, u16), payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = to_gateway(port, from.0, to.0).udp(from.1, to.1);
    builder.write(&mut frame, payload).unwrap();
    frame
}

pub fn syn6(port: PortId, from: (&str, u16), to: (&str, u16)) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = to_gateway(port, from.0, to.0)
        .tcp(from.1, to.1, 1000, 512)
        .syn();
    builder.write(&mut frame, b"").unwrap();
    frame
}

/// An ICMPv6 message of type and code with a quote.
pub fn icmp6(port: PortId, from: &str, to: &str, (kind, code): (u8, u8), quote: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = to_gateway(port, from, to).icmpv6_raw(kind, code, [0; 4]);
    builder.write(&mut frame, quote).unwrap();
    frame
}

/// The frame passes as it is, but for its Ethernet header and hop limit.
fn passes(rack: &mut Rack, at: u8, port: PortId, frame: &[u8]) {
    let sent = send(rack, at, port, frame);
    assert_eq!(sent.len(), 1, "drops: {}", drops(rack));
    assert_ne!(sent[0].0, port);
    assert_eq!(sent[0].1[22..], frame[22..]);
}

#[test]
fn answers_pass_and_strangers_do_not() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, CLOSED);
        let out = udp6(LAN, (INSIDE, 4000), (OUTSIDE, 53), b"question");
        let back = udp6(WAN, (OUTSIDE, 53), (INSIDE, 4000), b"answer");
        dropped(&mut rack, at, WAN, &back, DropReason::PolicyFilter);
        passes(&mut rack, 0, LAN, &out);
        passes(&mut rack, at, WAN, &back);
        for stranger in [
            udp6(WAN, (OUTSIDE, 54), (INSIDE, 4000), b"another port"),
            udp6(WAN, (OUTSIDE, 53), ("fd00:1::3", 4000), b"another host"),
            syn6(WAN, (OUTSIDE, 53), (INSIDE, 4000)),
        ] {
            dropped(&mut rack, at, WAN, &stranger, DropReason::PolicyFilter);
        }
        // Two minutes without a packet from inside or outside for an answered flow are nothing, five are the end.
        rack.advance(290_000);
        rack.maintain();
        passes(&mut rack, at, WAN, &back);
        rack.advance(300_000);
        dropped(&mut rack, at, WAN, &back, DropReason::PolicyFilter);
        rack.maintain();
        assert!(rack.shards.iter().all(|s| s.nat_v6.sessions.is_empty()));
    });
}

#[test]
fn errors_about_flows_are_related_to_them() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, CLOSED);
        let out = udp6(LAN, (INSIDE, 4000), (OUTSIDE, 53), b"question");
        let router = "2001:db8::77";
        let error = icmp6(WAN, router, INSIDE, (2, 0), &out[14..]);
        dropped(&mut rack, at, WAN, &error, DropReason::IcmpNoSession);
        passes(&mut rack, 0, LAN, &out);
        passes(&mut rack, at, WAN, &error);
        let elsewhere = icmp6(WAN, router, "fd00:1::3", (2, 0), &out[14..]);
        dropped(&mut rack, at, WAN, &elsewhere, DropReason::IcmpNoSession);
    });
}

/// AT-4.12: the six IPv6 reject types, their equivalents, and the reset.
#[test]
fn rejections_say_what_their_rule_says() {
    for (with, told) in [
        ("icmp6-no-route", [1, 0]),
        ("icmp6-adm-prohibited", [1, 1]),
        ("icmp6-addr-unreachable", [1, 3]),
        ("icmp6-port-unreachable", [1, 4]),
        ("icmp6-policy-fail", [1, 5]),
        ("icmp6-reject-route", [1, 6]),
        ("icmp-net-unreachable", [1, 0]),
        ("icmp-host-unreachable", [1, 3]),
        ("icmp-port-unreachable", [1, 4]),
        ("icmp-proto-unreachable", [4, 1]),
        ("icmp-net-prohibited", [1, 1]),
        ("icmp-host-prohibited", [1, 1]),
        ("icmp-admin-prohibited", [1, 1]),
    ] {
        let rules = format!("[[filter.rule]]\naction = \"reject\"\nreject_with = \"{with}\"\n");
        let mut rack = lab(1, &rules);
        let asked = udp6(LAN, (INSIDE, 4000), (OUTSIDE, 53), b"question");
        let sent = send(&mut rack, 0, LAN, &asked);
        let error = &sent[0].1;
        assert_eq!((sent[0].0, &error[54..56]), (LAN, &told[..]), "{with}");
        assert_eq!(error[22..38], ip6("fd00:1::1"));
        assert_eq!(error[62..], asked[14..], "{with}: quoted as sent");
        assert_eq!(rack.drops(DropReason::PolicyFilter), 1);
    }
    let reset =
        "[[filter.rule]]\nproto = \"tcp\"\naction = \"reject\"\nreject_with = \"tcp-reset\"\n";
    let mut rack = lab(1, reset);
    let sent = send(&mut rack, 0, LAN, &syn6(LAN, (INSIDE, 4000), (OUTSIDE, 80)));
    let answer = &sent[0].1;
    assert_eq!(
        (&answer[22..38], &answer[38..54]),
        (&ip6(OUTSIDE)[..], &ip6(INSIDE)[..])
    );
    assert_eq!(answer[67], 0x14, "RST and ACK");
}

#[test]
fn rules_about_one_family_do_not_touch_the_other() {
    let rules = "[[filter.rule]]\nsrc = \"fd00::/8\"\naction = \"drop\"\n\
        [[filter.rule]]\nproto = \"icmp6\"\nicmp_type = \"echo-request\"\naction = \"drop\"\n\
        [[filter.rule]]\nsrc = \"10.0.0.3\"\naction = \"drop\"\n";
    everywhere(|workers, at| {
        let mut rack = lab(workers, rules);
        one(&mut rack, at, LAN, &call(("10.0.0.2", 1)));
        one(&mut rack, at, LAN, &ping(LAN, "10.0.0.2", "203.0.113.9", 9));
        dropped(
            &mut rack,
            at,
            LAN,
            &call(("10.0.0.3", 1)),
            DropReason::PolicyFilter,
        );
        let six = udp6(LAN, (INSIDE, 4000), (OUTSIDE, 53), b"question");
        dropped(&mut rack, at, LAN, &six, DropReason::PolicyFilter);
        passes(
            &mut rack,
            at,
            WAN,
            &udp6(WAN, (OUTSIDE, 1), (INSIDE, 2), b"in"),
        );
        let mut echo = Vec::new();
        let builder = to_gateway(WAN, OUTSIDE, INSIDE).icmpv6_echo_request(7, 1);
        builder.write(&mut echo, b"ping").unwrap();
        dropped(&mut rack, at, WAN, &echo, DropReason::PolicyFilter);
    });
}

/// Answers are judged one by one where the filter says so.
#[test]
fn stateless_rules_judge_answers() {
    let stateless = CLOSED.replace("[filter]\n", "[filter]\nestablished = \"filter\"\n");
    let both = format!(
        "{stateless}[[filter.rule]]\nstate = [\"established\", \"related\"]\naction = \"accept\"\n"
    );
    everywhere(|workers, at| {
        let out = udp6(LAN, (INSIDE, 4000), (OUTSIDE, 53), b"question");
        let back = udp6(WAN, (OUTSIDE, 53), (INSIDE, 4000), b"answer");
        let error = icmp6(WAN, OUTSIDE, INSIDE, (1, 4), &out[14..]);
        let mut rack = lab(workers, &stateless);
        passes(&mut rack, at, LAN, &out);
        dropped(&mut rack, at, WAN, &back, DropReason::PolicyFilter);
        dropped(&mut rack, at, WAN, &error, DropReason::PolicyFilter);
        let mut rack = lab(workers, &both);
        passes(&mut rack, at, LAN, &out);
        passes(&mut rack, at, WAN, &back);
        passes(&mut rack, at, WAN, &error);
    });
}

/// Pieces of a datagram, in any order: they pass with the first one or not at all.
#[test]
fn fragments_follow_their_first() {
    let pieces = |port, from: (&str, u16), to: (&str, u16)| -> Vec<Vec<u8>> {
        let whole = udp6(port, from, to, &[0x61; 56]);
        let segment = &whole[54..];
        let piece = |(i, chunk): (usize, &[u8])| {
            let mut frame = whole[..54].to_vec();
            frame[18..20].copy_from_slice(&((8 + chunk.len()) as u16).to_be_bytes());
            frame[20] = 44;
            let more = u16::from(i < 2);
            frame.extend([17, 0]);
            frame.extend(((i * 24) as u16 | more).to_be_bytes());
            frame.extend([0, 0, 0x12, from.1 as u8]);
            frame.extend_from_slice(chunk);
            frame
        };
        segment[..64].chunks(24).enumerate().map(piece).collect()
    };
    everywhere(|workers, at| {
        let mut rack = lab(
            workers,
            &CLOSED.replace(
                "in = \"lan0\"",
                "in = \"lan0\"\nproto = \"udp\"\ndport = \"53\"",
            ),
        );
        let good = pieces(LAN, (INSIDE, 4000), (OUTSIDE, 53));
        // The last first: it waits for the ports.
        assert!(send(&mut rack, at, LAN, &good[2]).is_empty());
        assert_eq!(send(&mut rack, 0, LAN, &good[0]).len(), 2);
        assert_eq!(send(&mut rack, at, LAN, &good[1]).len(), 1);
        let bad = pieces(LAN, (INSIDE, 4001), (OUTSIDE, 54));
        dropped(&mut rack, at, LAN, &bad[0], DropReason::PolicyFilter);
        dropped(&mut rack, at, LAN, &bad[1], DropReason::FragmentNoFirst);
        assert_eq!(rack.drops(DropReason::PolicyFilter), 1);
    });
}
