//! Rows about ICMP errors of every form (RFC 5508, RFC 4884), and about what may end a TCP session.

use etherparse::PacketBuilder;
use natgate::base::PortId;
use natgate::wire::checksum;

use crate::common::*;
use crate::rows::{Input, MASQUERADE, Source, now};

const FORWARD: &str = "[[source-nat]]\nout = \"wan0\"\nvia = \"interface\"\n\
    [[port-forward]]\nin = \"wan0\"\ndst = \"203.0.113.1\"\nproto = \"udp\"\ndport = \"5300\"\nto = \"10.0.0.2:53\"\n";

/// Short, because on tap ports time is real.
const RESETS: &str =
    "[[source-nat]]\nout = \"wan0\"\nvia = \"interface\"\n[timeouts]\ntcp_reset = \"2s\"\n";

pub const ALL: &[Source] = &[
    Source {
        name: "icmp-error-forms",
        rules: MASQUERADE,
        input: forms,
    },
    Source {
        name: "icmp-error-broken",
        rules: MASQUERADE,
        input: broken,
    },
    Source {
        name: "icmp-error-from-inside",
        rules: FORWARD,
        input: from_inside,
    },
    Source {
        name: "icmp-error-hairpin",
        rules: FORWARD,
        input: hairpin,
    },
    Source {
        name: "tcp-reset",
        rules: RESETS,
        input: resets,
    },
    Source {
        name: "tcp-unsolicited-syn",
        rules: MASQUERADE,
        input: unsolicited,
    },
];

const A: End = ("10.0.0.2", 40000);
const REMOTE: End = ("203.0.113.9", 5000);
const OUTSIDE_A: End = ("203.0.113.1", 40000);
/// A router on the way, which knows nothing of either end.
const ROUTER: &str = "203.0.113.77";

/// The IP packet of a frame as it looked beyond the gateway: one hop less.
fn beyond(frame: &[u8]) -> Vec<u8> {
    let mut packet = frame[14..].to_vec();
    packet[8] = 63;
    finish(&mut packet);
    packet
}

/// Repairs the header checksum of an IP packet.
pub fn finish(packet: &mut [u8]) {
    packet[10..12].copy_from_slice(&[0, 0]);
    let header = usize::from(packet[0] & 15) * 4;
    let sum = checksum::ipv4_header(&packet[..header]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// An ICMP error with its second word and whatever it quotes.
pub fn error(
    port: PortId,
    from: &str,
    to: &str,
    kind: (u8, u8),
    rest: [u8; 4],
    quote: &[u8],
) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(HOST_MAC, [2, 0, 0, 0, 1, port.0 as u8])
        .ipv4(ip(from).octets(), ip(to).octets(), 64)
        .icmpv4_raw(kind.0, kind.1, rest);
    let mut frame = Vec::new();
    builder.write(&mut frame, quote).unwrap();
    frame
}

/// From the router to the gateway's address.
fn reported(kind: (u8, u8), rest: [u8; 4], quote: &[u8]) -> (PortId, Vec<u8>) {
    (WAN, error(WAN, ROUTER, OUTSIDE_A.0, kind, rest, quote))
}

/// The packet with four bytes of options: a router alert (RFC 2113).
fn with_options(packet: &[u8]) -> Vec<u8> {
    let mut out = packet[..20].to_vec();
    out.extend([148, 4, 0, 0]);
    out.extend(&packet[20..]);
    out[0] = 0x46;
    let length = out.len() as u16;
    out[2..4].copy_from_slice(&length.to_be_bytes());
    finish(&mut out);
    out
}

/// A quote of 128 bytes, padded with zeros, and an extension object behind it (RFC 4884 section 7).
fn extended(quote: &[u8]) -> Vec<u8> {
    let mut out = quote.to_vec();
    out.resize(128, 0);
    let object = [0x20, 0, 0, 0, 0, 8, 1, 1, 0x12, 0x34, 0x56, 0x78];
    out.extend(object);
    let sum = checksum::finish(checksum::sum(&object));
    out[130..132].copy_from_slice(&sum.to_be_bytes());
    out
}

/// The client's first packets.
fn sent() -> Vec<(PortId, Vec<u8>)> {
    vec![
        (LAN, udp(LAN, A, REMOTE, b"a datagram of some length")),
        (LAN, tcp(LAN, A, REMOTE, "S")),
        (LAN, ping(LAN, A.0, REMOTE.0, 777)),
    ]
}

/// How they look beyond the gateway.
fn outside() -> [Vec<u8>; 3] {
    [
        beyond(&udp(WAN, OUTSIDE_A, REMOTE, b"a datagram of some length")),
        beyond(&tcp(WAN, OUTSIDE_A, REMOTE, "S")),
        beyond(&ping(WAN, OUTSIDE_A.0, REMOTE.0, 777)),
    ]
}

// Proves: I3b, I3d, I4a, I4b, I4c.
fn forms() -> Input {
    let mut frames = sent();
    let [udp, tcp, ping] = outside();
    let too_big = [0, 0, 0x05, 0x78];
    let length = [0, 32, 0, 0];
    frames.extend([
        // Path MTU discovery, with all of the packet.
        reported((3, 4), too_big, &udp),
        reported((3, 4), too_big, &tcp),
        // The least a router quotes: the checksum of TCP is missing.
        reported((11, 0), [0; 4], &udp[..28]),
        reported((11, 0), [0; 4], &tcp[..28]),
        reported((11, 0), [0; 4], &ping[..28]),
        // Cut in the middle of TCP's checksum.
        reported((3, 1), [0; 4], &tcp[..37]),
        // Options in the quote; a pointer into the packet.
        reported((3, 13), [0; 4], &with_options(&udp)),
        reported((3, 3), [0; 4], &with_options(&tcp)[..32]),
        reported((12, 0), [20, 0, 0, 0], &udp),
        // Extensions behind a padded quote, which is cut or whole.
        reported((11, 0), length, &extended(&udp)),
        reported((11, 0), length, &extended(&tcp[..28])),
        reported((11, 0), length, &extended(&tcp)),
        reported((3, 1), length, &extended(&ping)),
        // A length too small for extensions is no length.
        reported((3, 1), [0, 7, 0, 0], &tcp),
    ]);
    now(frames)
}

// Proves: I3, I3a, I3c, I4.
fn broken() -> Input {
    let mut frames = sent();
    let [udp, tcp, ping] = outside();
    let mut wrong_sum = reported((3, 1), [0; 4], &udp);
    wrong_sum.1[36] ^= 1;
    let mut wrong_header = udp.clone();
    wrong_header[8] = 62;
    let mut piece = udp.clone();
    piece[6..8].copy_from_slice(&[0, 8]);
    finish(&mut piece);
    let about_error = error(WAN, OUTSIDE_A.0, REMOTE.0, (3, 1), [0; 4], &udp);
    let mut wrong_transport = udp.clone();
    wrong_transport[26] ^= 0x55;
    frames.extend([
        wrong_sum,
        reported((3, 1), [0; 4], &wrong_header),
        reported((3, 1), [0; 4], &udp[..27]),
        reported((3, 1), [0; 4], &ping[..19]),
        reported((3, 1), [0; 4], &piece),
        reported((3, 1), [0; 4], &about_error[14..]),
        // To somebody else than the quoted sender.
        (WAN, error(WAN, ROUTER, "203.0.113.2", (3, 1), [0; 4], &tcp)),
        // The quoted transport checksum is not judged (RFC 5508 REQ-3c), and stays as wrong as it was.
        reported((3, 1), [0; 4], &wrong_transport),
    ]);
    now(frames)
}

// Proves: I5, I5a, I5b, I5c.
fn from_inside() -> Input {
    let question = udp(WAN, REMOTE, ("203.0.113.1", 5300), b"question");
    let arrived = beyond(&udp(LAN, REMOTE, ("10.0.0.2", 53), b"question"));
    let unknown = beyond(&udp(LAN, REMOTE, ("10.0.0.2", 54), b"question"));
    let answered = udp(WAN, REMOTE, OUTSIDE_A, b"answer");
    let answer = beyond(&udp(LAN, REMOTE, A, b"answer"));
    let inside = |from: &str, kind, quote: &[u8]| error(LAN, from, REMOTE.0, kind, [0; 4], quote);
    // With pauses: an error never comes before the packet it is about.
    vec![
        (0, WAN, question),
        // The server itself, and a router before it: neither shows an inside address (RFC 5508 REQ-5).
        (1, LAN, inside("10.0.0.2", (3, 3), &arrived)),
        (2, LAN, inside("10.0.0.5", (3, 1), &arrived[..28])),
        (3, LAN, inside("10.0.0.2", (3, 3), &unknown)),
        (4, LAN, udp(LAN, A, REMOTE, b"request")),
        (5, WAN, answered),
        (6, LAN, inside("10.0.0.2", (3, 3), &answer)),
    ]
}

/// With pauses, as for every row whose packets go back where they came from.
// Proves: I7, I7a.
fn hairpin() -> Input {
    let client = ("10.0.0.3", 5555);
    let asked = udp(LAN, client, ("203.0.113.1", 5300), b"question");
    let mut seen = udp(LAN, ("203.0.113.1", 5555), ("10.0.0.2", 53), b"question");
    seen[22] = 63;
    finish(&mut seen[14..]);
    vec![
        (0, LAN, asked),
        (
            1,
            LAN,
            error(LAN, "10.0.0.2", "203.0.113.1", (3, 3), [0; 4], &seen[14..]),
        ),
        (
            2,
            LAN,
            error(
                LAN,
                "10.0.0.5",
                "203.0.113.1",
                (11, 1),
                [0; 4],
                &seen[14..42],
            ),
        ),
    ]
}

fn segment(port: PortId, from: End, to: End, flags: &str, sequence: u32) -> Vec<u8> {
    let mut builder = PacketBuilder::ethernet2(HOST_MAC, [2, 0, 0, 0, 1, port.0 as u8])
        .ipv4(ip(from.0).octets(), ip(to.0).octets(), 64)
        .tcp(from.1, to.1, sequence, 1024);
    for flag in flags.chars() {
        builder = match flag {
            'S' => builder.syn(),
            'R' => builder.rst(),
            _ => builder.ack(if port == LAN { 9001 } else { 101 }),
        };
    }
    let mut frame = Vec::new();
    builder.write(&mut frame, b"").unwrap();
    frame
}

/// A reset from afar, one that is believed and survived, one that is believed and ends the session.
fn resets() -> Input {
    let client = |flags, sequence| segment(LAN, A, REMOTE, flags, sequence);
    let server = |flags, sequence| segment(WAN, REMOTE, OUTSIDE_A, flags, sequence);
    vec![
        (0, LAN, client("S", 100)),
        (1, WAN, server("SA", 9000)),
        (2, LAN, client("A", 101)),
        (3, WAN, server("R", 900_000_000)),
        (4_000, WAN, server("A", 9001)),
        (4_001, WAN, server("R", 9001)),
        (4_002, LAN, client("A", 101)),
        (8_000, LAN, client("A", 101)),
        (8_001, WAN, server("R", 9001)),
        (12_000, LAN, client("A", 101)),
    ]
}

/// Answered after six seconds; not at all when the inside calls meanwhile.
fn unsolicited() -> Input {
    vec![
        (0, WAN, segment(WAN, REMOTE, ("203.0.113.1", 4444), "S", 5)),
        (1, WAN, segment(WAN, REMOTE, OUTSIDE_A, "S", 9000)),
        (1_000, LAN, segment(LAN, A, REMOTE, "S", 100)),
        (9_000, WAN, segment(WAN, REMOTE, OUTSIDE_A, "SA", 9000)),
    ]
}
