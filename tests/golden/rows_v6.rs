//! Rows about the translation of IPv6.

use super::{Input, now, v6};
use crate::common::*;

pub const PREFIX: &str = "[[static-nat]]\nexternal = \"2001:db8:77::/48\"\ninternal = \"fd00:1::/48\"\ninterface = \"wan0\"\n";

pub const FORWARD: &str = "[[source-nat]]\nout = \"wan0\"\nvia = \"interface\"\n\
    [[port-forward]]\nin = \"wan0\"\ndst = \"2001:db8::1\"\nproto = \"udp\"\ndport = \"9000-9002\"\nto = \"[fd00:1::2]:20-22\"\n";

const INSIDE: &str = "fd00:1::2";
const SERVER: &str = "2001:db8::9";
const GATEWAY: &str = "2001:db8::1";

type Frame = (natgate::base::PortId, Vec<u8>);

fn udp6(port: natgate::base::PortId, from: (&str, u16), to: (&str, u16), payload: &[u8]) -> Frame {
    let mut frame = Vec::new();
    let builder = v6(port, from.0, to.0).udp(from.1, to.1);
    builder.write(&mut frame, payload).unwrap();
    (port, frame)
}

/// A flow of each protocol, both ways, and a stranger.
pub fn masquerade() -> Input {
    let mut syn = Vec::new();
    let builder = v6(LAN, INSIDE, SERVER).tcp(4001, 80, 1000, 512).syn();
    builder.write(&mut syn, b"").unwrap();
    let mut answered = Vec::new();
    let builder = v6(WAN, SERVER, GATEWAY)
        .tcp(80, 4001, 9, 512)
        .syn()
        .ack(1001);
    builder.write(&mut answered, b"").unwrap();
    let (mut ping, mut pong) = (Vec::new(), Vec::new());
    let builder = v6(LAN, INSIDE, SERVER).icmpv6_echo_request(77, 1);
    builder.write(&mut ping, b"ping").unwrap();
    let builder = v6(WAN, SERVER, GATEWAY).icmpv6_echo_reply(77, 1);
    builder.write(&mut pong, b"ping").unwrap();
    now(vec![
        udp6(LAN, (INSIDE, 4000), (SERVER, 53), b"question"),
        udp6(WAN, (SERVER, 53), (GATEWAY, 4000), b"answer"),
        (LAN, syn),
        (WAN, answered),
        (LAN, ping),
        (WAN, pong),
        udp6(WAN, (SERVER, 54), (GATEWAY, 4000), b"probe"),
    ])
}

/// A forwarded service, called from outside and from inside.
pub fn forward() -> Input {
    let frames = [
        udp6(WAN, (SERVER, 1000), (GATEWAY, 9001), b"call"),
        udp6(LAN, (INSIDE, 21), (SERVER, 1000), b"answer"),
        udp6(LAN, ("fd00:1::3", 1000), (GATEWAY, 9000), b"hairpin"),
    ];
    // One after the other, whichever port they come by.
    let times = (0..).step_by(100);
    times
        .zip(frames)
        .map(|(time, (port, frame))| (time, port, frame))
        .collect()
}

/// Packet too big from a router on the way, and a hop limit that ends here.
pub fn errors() -> Input {
    let (_, sent) = udp6(WAN, (GATEWAY, 4000), (SERVER, 53), b"question");
    let mut error = Vec::new();
    let builder = v6(WAN, "2001:db8::77", GATEWAY).icmpv6_raw(2, 0, [0, 0, 5, 0]);
    builder.write(&mut error, &sent[14..]).unwrap();
    let mut last_hop = udp6(LAN, (INSIDE, 4002), (SERVER, 53), b"far");
    last_hop.1[21] = 1;
    now(vec![
        udp6(LAN, (INSIDE, 4000), (SERVER, 53), b"question"),
        (WAN, error),
        last_hop,
    ])
}

/// Behind options, and in pieces that come out of order.
pub fn pieces() -> Input {
    let (_, plain) = udp6(LAN, (INSIDE, 4000), (SERVER, 53), b"behind options");
    let mut options = plain[..54].to_vec();
    options[18..20].copy_from_slice(&((plain.len() - 54 + 8) as u16).to_be_bytes());
    options[20] = 60;
    options.extend([17, 0, 1, 4, 0, 0, 0, 0]);
    options.extend_from_slice(&plain[54..]);
    let (_, whole) = udp6(LAN, (INSIDE, 4001), (SERVER, 53), &[0x61; 56]);
    let piece = |at: usize| {
        let chunk = &whole[54 + at..whole.len().min(54 + at + 24)];
        let mut frame = whole[..54].to_vec();
        frame[18..20].copy_from_slice(&((8 + chunk.len()) as u16).to_be_bytes());
        frame[20] = 44;
        frame.extend([17, 0]);
        frame.extend((at as u16 | u16::from(at < 48)).to_be_bytes());
        frame.extend([0, 0, 0x12, 0x34]);
        frame.extend_from_slice(chunk);
        (LAN, frame)
    };
    now(vec![(LAN, options), piece(48), piece(0), piece(24)])
}

/// One prefix for another (RFC 6296): out, and in by an outside host that begins.
pub fn prefix() -> Input {
    // fd00:1:0 sums to fd01, 2001:db8:77 to 2e30: the subnet word 0 becomes ced1.
    let public = "2001:db8:77:ced1::2";
    now(vec![
        udp6(LAN, (INSIDE, 4000), (SERVER, 53), b"question"),
        udp6(WAN, (SERVER, 53), (public, 4000), b"answer"),
        udp6(WAN, (SERVER, 99), (public, 80), b"call"),
    ])
}
