//! Application helpers, each by itself and in a connection.

use std::net::IpAddr;

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use natgate::base::{PortId, Random, WorkerId};
use natgate::nat::helpers::ftp::{Scan, Speaker, scan, write};

use crate::common::mutate::{blindly, pick};
use crate::common::*;
use crate::engine::{Target, fuzz, signature};

/// Pieces of what clients and servers say.
const WORDS: &[&str] = &[
    "PORT ",
    "EPRT ",
    "227 ",
    "229 ",
    "\r\n",
    "\n",
    "10,0,0,2,156,80",
    "10,0,0,2,0,1",
    "010,000,000,002,156,80",
    "256,0,0,2,1,1",
    "|1|10.0.0.2|40000|",
    "!1!10.0.0.2!65535!",
    "|2|fd00:1::2|40000|",
    "!2!::ffff:10.0.0.2!1!",
    "(|||40000|)",
    "(10,0,0,2,200,7)",
    ",",
    "|",
    "0",
    "99999",
    "\0",
    "LIST\r\n",
];

/// A target made of a function over what is said, and of the words it is said in; zeros part it into segments.
pub struct Said(pub fn(&[u8]) -> Vec<u64>, pub &'static [&'static str]);

impl Target for Said {
    fn run(&self, input: &[u8]) -> Vec<u64> {
        (self.0)(input)
    }

    fn next(&self, corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
        let mut text = pick(corpus, random).cloned().unwrap_or_default();
        let other = pick(corpus, random).cloned().unwrap_or_default();
        for _ in 0..=random.below(3) {
            if random.below(4) == 0 {
                blindly(&mut text, 0, &other, random);
            } else {
                let at = random.below(text.len() as u32 + 1) as usize;
                let end = (at + random.below(6) as usize).min(text.len());
                text.splice(at..end, pick(self.1, random).unwrap().bytes());
            }
        }
        text.truncate(2000);
        text
    }

    fn smaller(&self, input: &[u8]) -> Vec<Vec<u8>> {
        let cut = |at: usize| [&input[..at], &input[(at + 1).min(input.len())..]].concat();
        let mut all = vec![input[..input.len() / 2].to_vec()];
        all.extend((0..input.len().min(200)).map(cut));
        all.retain(|less| less.len() < input.len());
        all
    }
}

fn conversations() -> Vec<Vec<u8>> {
    [
        "USER ftp\r\n\0PORT 10,0,0,2,156,80\r\n\0LIST\r\n\0PORT 10,0,0,2,156,81\r\n\0QUIT\r\n",
        "EPRT |1|10.0.0.2|40000|\r\n\0RETR file\r\n",
        "EPRT |2|fd00:1::2|40000|\r\n",
        "PORT 10,0,\0PORT 010,000,000,002,156,080\r\n\0LIST\r\n",
        "227 Entering Passive Mode (10,0,0,2,156,80).\r\n",
        "229 Entering Extended Passive Mode (|||40000|)\r\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// What is found lies in the payload, and what is written in its place is found there again.
fn lines(payload: &[u8]) -> Vec<u64> {
    let mut outcomes = Vec::new();
    for speaker in [Speaker::Client, Speaker::Server] {
        let found = scan(payload, speaker);
        let Scan::Named(named) = &found else {
            outcomes.push(signature(&found));
            continue;
        };
        assert!(named.port != 0 && named.range.end <= payload.len());
        let other = match named.address {
            Some(IpAddr::V6(_)) => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
            _ => IpAddr::from([203, 0, 113, 1]),
        };
        let text = write(named.form, other, 61_000).unwrap();
        let mut changed = payload.to_vec();
        changed.splice(named.range.clone(), text.iter().copied());
        if changed.len() > payload.len() && payload.len() > 480 {
            continue; // The line may have become too long to be looked at.
        }
        let Scan::Named(again) = scan(&changed, speaker) else {
            panic!("not found again: {:?}", String::from_utf8_lossy(&changed));
        };
        assert_eq!(
            (again.range.start, again.form, again.port),
            (named.range.start, named.form, 61_000)
        );
        assert_eq!(again.address, named.address.map(|_| other));
        outcomes.push(signature((speaker == Speaker::Client, named.form)));
    }
    outcomes
}

#[test]
fn ftp_lines() {
    fuzz("ftp", &Said(lines, WORDS), conversations(), 6);
}

/// A segment of the client's (from inside) or of the server's, whose port is `service`.
fn segment(
    port: PortId,
    (service, public): (u16, &'static str),
    flags: &str,
    numbers: (u32, u32),
    payload: &[u8],
) -> Vec<u8> {
    let (client, server) = (("10.0.0.2", 40000), ("203.0.113.9", service));
    let (from, to) = match port {
        LAN => (client, server),
        _ => (server, (public, 40000)),
    };
    let mut builder = PacketBuilder::ethernet2(HOST_MAC, [2, 0, 0, 0, 1, port.0 as u8])
        .ipv4(ip(from.0).octets(), ip(to.0).octets(), 64)
        .tcp(from.1, to.1, numbers.0, 1024);
    builder = if flags.contains('S') {
        builder.syn()
    } else {
        builder
    };
    builder = if flags.contains('A') {
        builder.ack(numbers.1)
    } else {
        builder
    };
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// Sequence number, acknowledgment number, payload length; all checksums are right.
fn numbers(sent: &[(PortId, Vec<u8>)]) -> Option<(u32, u32, u32)> {
    let frame = sent.first()?;
    let length = seen(frame).payload.len() as u32;
    let packet = SlicedPacket::from_ethernet(&frame.1).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = packet.transport else {
        panic!("no TCP");
    };
    Some((tcp.sequence_number(), tcp.acknowledgment_number(), length))
}

/// A client says it, segment by segment, now and then twice. The server sees one stream without gaps, and what it
/// acknowledges is what the client sent.
pub fn conversation(said: &[u8], service: u16, public: &'static str, rules: &str) -> Vec<u64> {
    let mut rack = lab(1, rules);
    let at = (service, public);
    let worker = WorkerId(0);
    let start = u32::MAX - 200;
    rack.receive(
        worker,
        LAN,
        &[&segment(LAN, at, "S", (start.wrapping_sub(1), 0), b"")],
    );
    let (mut here, mut there) = (start, start);
    let mut outcomes = Vec::new();
    // Segments that would not fit the link, grown or not, are another matter.
    let fits = |payload: &&[u8]| payload.len() <= 1300;
    for payload in said.split(|byte| *byte == 0).filter(fits) {
        let frame = segment(LAN, at, "A", (here, 901), payload);
        let Some((sequence, _, length)) = numbers(&rack.receive(worker, LAN, &[&frame])) else {
            outcomes.push(signature("dropped"));
            continue;
        };
        assert_eq!(sequence, there, "no gap and no overlap");
        if payload.len() % 2 == 1 {
            let again = numbers(&rack.receive(worker, LAN, &[&frame]));
            assert_eq!(
                again.map(|a| (a.0, a.2)),
                Some((sequence, length)),
                "the same once more"
            );
        }
        here = here.wrapping_add(payload.len() as u32);
        there = there.wrapping_add(length);
        let ack = segment(WAN, at, "A", (901, there), b"");
        let (_, acknowledged, _) = numbers(&rack.receive(worker, WAN, &[&ack])).unwrap();
        assert_eq!(acknowledged, here, "acknowledged as it was sent");
        outcomes.push(signature(
            (length as i64 - payload.len() as i64).clamp(-6, 12),
        ));
    }
    balanced(&rack);
    outcomes.push(signature(("sessions", rack.sessions().min(6))));
    outcomes
}

fn connection(said: &[u8]) -> Vec<u64> {
    let rules = "[[source-nat]]\nout = \"wan0\"\nvia = \"interface\"\n";
    conversation(said, 21, "203.0.113.1", rules)
}

#[test]
fn ftp_connections() {
    fuzz(
        "ftp_connection",
        &Said(connection, WORDS),
        conversations(),
        7,
    );
}
