//! Rows about SCTP: other ports with the right checksum, in both families.

use natgate::base::PortId;

use crate::common::sctp::*;
use crate::common::{End, LAN, WAN};
use crate::rows::{Input, Source};

pub const ALL: &[Source] = &[
    Source {
        name: "sctp",
        rules: "[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.20\"]\nports = \"40000\"\n\
            [[source-nat]]\nout = \"wan0\"\nvia = \"pool:p\"\n\
            [[port-forward]]\nin = \"wan0\"\ndst = \"203.0.113.1\"\nproto = \"sctp\"\ndport = \"9000-9002\"\nto = \"10.0.0.2:20-22\"\n\
            [[service]]\naddress = \"198.18.0.2\"\nproto = \"sctp\"\nport = 3868\nbackends = [{ to = \"10.0.0.3:13868\" }]\n",
        input: v4,
    },
    Source {
        name: "ipv6-sctp",
        rules: "[[pool]]\nname = \"p\"\naddresses = [\"2001:db8::20\"]\nports = \"40000\"\n\
            [[source-nat]]\nout = \"wan0\"\nvia = \"pool:p\"\n\
            [[port-forward]]\nin = \"wan0\"\ndst = \"2001:db8::1\"\nproto = \"sctp\"\ndport = \"9000-9002\"\nto = \"[fd00:1::2]:20-22\"\n\
            [[service]]\naddress = \"fd00:96::40\"\nproto = \"sctp\"\nport = 3868\nbackends = [{ to = \"[fd00:1::3]:13868\" }]\n",
        input: v6,
    },
];

fn v4() -> Input {
    associations([
        "10.0.0.2",
        "10.0.0.3",
        "203.0.113.9",
        "203.0.113.20",
        "203.0.113.1",
        "198.18.0.2",
    ])
}

fn v6() -> Input {
    associations([
        "fd00:1::2",
        "fd00:1::3",
        "2001:db8::9",
        "2001:db8::20",
        "2001:db8::1",
        "fd00:96::40",
    ])
}

/// An association from inside through its whole life, with an error about it and a damaged packet; one to a forwarded port
/// and one to a service, each with its answer.
fn associations([host, other, server, pool, gateway, service]: [&'static str; 6]) -> Input {
    let (mine, far, outside): (End, End, End) = ((host, 2905), (server, 5000), (pool, 40000));
    let body = chunk(DATA, 3, b"all that is said");
    let too_big = if host.contains(':') { (2, 0) } else { (3, 4) };
    let translated = sctp(WAN, outside, far, 0xb2, &body);
    let mut damaged = sctp(LAN, mine, far, 0xb2, &body);
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    let frames: Vec<(PortId, Vec<u8>)> = vec![
        (LAN, sctp(LAN, mine, far, 0, &init(INIT, 0xa1))),
        (WAN, sctp(WAN, far, outside, 0xa1, &init(INIT_ACK, 0xb2))),
        (
            LAN,
            sctp(LAN, mine, far, 0xb2, &chunk(COOKIE_ECHO, 0, b"cookie")),
        ),
        (LAN, sctp(LAN, mine, far, 0xb2, &body)),
        (WAN, error(WAN, server, pool, too_big, &translated, 8)),
        (WAN, error(WAN, server, pool, too_big, &translated, 100)),
        (LAN, damaged),
        (
            WAN,
            sctp(WAN, far, outside, 0xa1, &chunk(SHUTDOWN_COMPLETE, 0, &[])),
        ),
        (
            WAN,
            sctp(WAN, (server, 7), (gateway, 9001), 0, &init(INIT, 1)),
        ),
        (
            LAN,
            sctp(LAN, (host, 21), (server, 7), 1, &init(INIT_ACK, 2)),
        ),
        (
            WAN,
            sctp(WAN, (server, 8), (service, 3868), 0, &init(INIT, 3)),
        ),
        (
            LAN,
            sctp(LAN, (other, 13868), (server, 8), 3, &init(INIT_ACK, 4)),
        ),
        (
            WAN,
            sctp(WAN, (server, 8), (service, 3869), 0, &init(INIT, 3)),
        ),
    ];
    let times = (0..).step_by(100);
    let frames = times.zip(frames);
    frames
        .map(|(time, (port, frame))| (time, port, frame))
        .collect()
}
