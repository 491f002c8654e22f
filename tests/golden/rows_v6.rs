//! Rows about the translation of IPv6.

use super::{Input, MASQUERADE, Source, now, v6};
use crate::common::*;

pub const ALL: &[Source] = &[
    Source {
        name: "ipv6-masquerade",
        rules: MASQUERADE,
        input: masquerade,
    },
    Source {
        name: "ipv6-port-forward",
        rules: FORWARD,
        input: forward,
    },
    Source {
        name: "ipv6-errors",
        rules: MASQUERADE,
        input: errors,
    },
    Source {
        name: "ipv6-fragments",
        rules: MASQUERADE,
        input: pieces,
    },
    Source {
        name: "ipv6-prefix",
        rules: PREFIX,
        input: prefix,
    },
    Source {
        name: "ipv6-services",
        rules: SERVICES,
        input: services,
    },
    Source {
        name: "ipv6-ftp",
        rules: MASQUERADE,
        input: ftp,
    },
];

const PREFIX: &str = "[[static-nat]]\nexternal = \"2001:db8:77::/48\"\ninternal = \"fd00:1::/48\"\ninterface = \"wan0\"\n";

const FORWARD: &str = "[[source-nat]]\nout = \"wan0\"\nvia = \"interface\"\n\
    [[port-forward]]\nin = \"wan0\"\ndst = \"2001:db8::1\"\nproto = \"udp\"\ndport = \"9000-9002\"\nto = \"[fd00:1::2]:20-22\"\n";

const SERVICES: &str = "[[service]]\nname = \"web\"\naddress = \"fd00:96::40\"\nport = 80\nunmatched = \"reject\"\nping = true\nbackends = [{ to = \"[fd00:1::2]:8080\" }]\n\
    [[service]]\nname = \"node\"\naddress = \"interface:wan0\"\nkind = \"real\"\nport = 8081\nbackends = [{ to = \"[fd00:1::2]:8080\", source = \"fd00:1::1\" }]\n\
    [[service]]\nname = \"closed\"\naddress = \"fd00:96::41\"\nport = 80\nempty = \"reject\"\n";

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
fn masquerade() -> Input {
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
fn forward() -> Input {
    in_turn([
        udp6(WAN, (SERVER, 1000), (GATEWAY, 9001), b"call"),
        udp6(LAN, (INSIDE, 21), (SERVER, 1000), b"answer"),
        udp6(LAN, ("fd00:1::3", 1000), (GATEWAY, 9000), b"hairpin"),
    ])
}

/// Packet too big from a router on the way, and a hop limit that ends here.
fn errors() -> Input {
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
fn pieces() -> Input {
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
fn prefix() -> Input {
    // fd00:1:0 sums to fd01, 2001:db8:77 to 2e30: the subnet word 0 becomes ced1.
    let public = "2001:db8:77:ced1::2";
    now(vec![
        udp6(LAN, (INSIDE, 4000), (SERVER, 53), b"question"),
        udp6(WAN, (SERVER, 53), (public, 4000), b"answer"),
        udp6(WAN, (SERVER, 99), (public, 80), b"call"),
    ])
}

/// Frames one after the other, whichever port they come by.
fn in_turn(frames: impl IntoIterator<Item = Frame>) -> Input {
    let times = (0..).step_by(100);
    times
        .zip(frames)
        .map(|(time, (port, frame))| (time, port, frame))
        .collect()
}

/// A segment; `numbers` are sequence and acknowledgment number.
fn tcp6(
    port: natgate::base::PortId,
    (from, to): ((&str, u16), (&str, u16)),
    flags: &str,
    numbers: (u32, u32),
    payload: &str,
) -> Frame {
    let mut builder = v6(port, from.0, to.0).tcp(from.1, to.1, numbers.0, 1024);
    for flag in flags.chars() {
        builder = match flag {
            'S' => builder.syn(),
            _ => builder.ack(numbers.1),
        };
    }
    let mut frame = Vec::new();
    builder.write(&mut frame, payload.as_bytes()).unwrap();
    (port, frame)
}

/// Called from outside, from the backend's side and at the gateway's address; what no service wants; a ping.
fn services() -> Input {
    const VIP: &str = "fd00:96::40";
    let (client, backend) = ((SERVER, 5555), (INSIDE, 8080));
    let syn = |port, from, to| tcp6(port, (from, to), "S", (1000, 0), "");
    let answer = |to| tcp6(LAN, (backend, to), "SA", (7, 1001), "");
    let mut ping = Vec::new();
    let builder = v6(WAN, SERVER, VIP).icmpv6_echo_request(9, 1);
    builder.write(&mut ping, b"ping").unwrap();
    in_turn([
        syn(WAN, client, (VIP, 80)),
        answer(client),
        syn(LAN, ("fd00:1::3", 5555), (VIP, 80)),
        answer(("fd00:1::1", 5555)),
        syn(WAN, (SERVER, 5556), (GATEWAY, 8081)),
        answer(("fd00:1::1", 5556)),
        syn(WAN, client, (VIP, 81)),
        udp6(WAN, client, (VIP, 54), b"nobody's port"),
        (WAN, ping),
        syn(WAN, client, ("fd00:96::41", 80)),
        syn(WAN, client, ("fd00:96::41", 81)),
    ])
}

/// An active client: the command, its acknowledgment, what follows, the data connection, and a stranger.
fn ftp() -> Input {
    let command = "EPRT |2|fd00:1::2|40016|\r\n";
    let (length, grows) = (command.len() as u32, 2);
    let (client, server, public) = ((INSIDE, 40000), (SERVER, 21), (GATEWAY, 40000));
    let ours = |flags, numbers, text| tcp6(LAN, (client, server), flags, numbers, text);
    let theirs = |flags, numbers, text| tcp6(WAN, (server, public), flags, numbers, text);
    let data = (GATEWAY, 40016);
    in_turn([
        ours("S", (100, 0), ""),
        theirs("SA", (900, 101), ""),
        ours("A", (101, 901), ""),
        ours("A", (101, 901), command),
        theirs("A", (901, 101 + length + grows), "200 ok\r\n"),
        ours("A", (101 + length, 909), "LIST\r\n"),
        tcp6(WAN, (("2001:db8::8", 20), data), "S", (1, 0), ""),
        tcp6(WAN, ((SERVER, 20), data), "S", (1, 0), ""),
        tcp6(LAN, ((INSIDE, 40016), (SERVER, 20)), "SA", (7, 2), ""),
        // Sent again, late.
        ours("A", (101, 909), command),
    ])
}
