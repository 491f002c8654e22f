//! PPTP's control messages, by themselves and on their way through a gateway.

use etherparse::PacketBuilder;
use natgate::base::{DropReason, PortId, Random, WorkerId};
use natgate::nat::helpers::pptp::{Message, Messages, number};

use crate::common::mutate::{blindly, pick};
use crate::common::*;
use crate::engine::{Target, fuzz, signature};

/// A target made of a function over a connection's bytes.
struct Sent(fn(&[u8]) -> Vec<u64>);

/// A control message of this kind and length.
fn message(kind: u16, length: u16, ids: [u16; 2]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [length, 1, 0x1a2b, 0x3c4d, kind, 0, ids[0], ids[1], 0x0100] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.resize(usize::from(length), 0);
    bytes
}

impl Target for Sent {
    fn run(&self, input: &[u8]) -> Vec<u64> {
        (self.0)(input)
    }

    fn next(&self, corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
        let mut bytes = pick(corpus, random).cloned().unwrap_or_default();
        let other = pick(corpus, random).cloned().unwrap_or_default();
        for _ in 0..=random.below(2) {
            if random.below(3) == 0 {
                blindly(&mut bytes, 0, &other, random);
            } else {
                let ids = [random.below(4) as u16, random.below(4) as u16];
                let length = 12 + random.below(30) as u16;
                bytes.extend(message(random.below(17) as u16, length, ids));
            }
        }
        bytes.truncate(1200);
        bytes
    }
}

fn messages() -> Vec<Vec<u8>> {
    (1..=15).map(|kind| message(kind, 32, [7, 9])).collect()
}

/// Every number lies in its message, behind the ones before.
fn numbers(payload: &[u8]) -> Vec<u64> {
    let mut outcomes = Vec::new();
    let mut at = 0;
    for found in Messages::of(payload) {
        let Ok(Message { own, peer }) = found else {
            outcomes.push(signature("partial"));
            continue;
        };
        for place in own.map(|own| own.1).into_iter().chain(peer) {
            assert!(place >= at && place + 2 <= payload.len());
            at = place + 2;
        }
        let here = |at: usize| number(payload, at).is_some();
        outcomes.push(signature((
            own.map(|(own, at)| (own, here(at))),
            peer.map(here),
        )));
    }
    outcomes
}

#[test]
fn pptp_messages() {
    fuzz("pptp", &Sent(numbers), messages(), 8);
}

fn segment(port: PortId, flags: &str, payload: &[u8]) -> Vec<u8> {
    let (from, to) = match port {
        LAN => (("10.0.0.2", 40000), ("203.0.113.9", 1723)),
        _ => (("203.0.113.9", 1723), ("203.0.113.20", 40000)),
    };
    let mut builder = PacketBuilder::ethernet2(HOST_MAC, [2, 0, 0, 0, 1, port.0 as u8])
        .ipv4(ip(from.0).octets(), ip(to.0).octets(), 64)
        .tcp(from.1, to.1, 7, 1024);
    for flag in flags.chars() {
        builder = match flag {
            'S' => builder.syn(),
            _ => builder.ack(7),
        };
    }
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// A client sends it and its server the same. Nothing but call ids changes, and no checksum is wrong.
fn connection(payload: &[u8]) -> Vec<u64> {
    let rules = "[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.20\"]\nhelpers = [\"pptp\"]\n\
        [[source-nat]]\nout = \"wan0\"\nvia = \"pool:p\"\n";
    let mut rack = lab(1, rules);
    rack.receive(WorkerId(0), LAN, &[&segment(LAN, "S", b"")]);
    let places: Vec<usize> = Messages::of(payload)
        .flatten()
        .flat_map(|message| message.own.map(|own| own.1).into_iter().chain(message.peer))
        .collect();
    let mut outcomes = Vec::new();
    for port in [LAN, WAN, LAN] {
        let sent = rack.receive(WorkerId(0), port, &[&segment(port, "A", payload)]);
        let Some(out) = sent.first().map(seen) else {
            assert!(rack.drops(DropReason::HelperUnfit) > 0, "{}", drops(&rack));
            outcomes.push(signature("unfit"));
            continue;
        };
        let changed = |at: &usize| out.payload[*at] != payload[*at];
        let places_changed = places
            .iter()
            .filter(|at| changed(at) || changed(&(**at + 1)))
            .count();
        assert_eq!(out.payload.len(), payload.len());
        for at in (0..payload.len()).filter(changed) {
            let is_id = places.iter().any(|place| (*place..place + 2).contains(&at));
            assert!(is_id, "byte {at} is no call id's");
        }
        outcomes.push(signature((
            port == LAN,
            places_changed.min(2),
            rack.sessions().min(5),
        )));
    }
    balanced(&rack);
    outcomes
}

#[test]
fn pptp_connections() {
    fuzz("pptp_connection", &Sent(connection), messages(), 6);
}
