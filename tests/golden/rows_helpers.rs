//! Rows about application helpers: what becomes of the texts, of the numbers behind them, and of the flows they announce.

use crate::common::*;
use crate::rows::{Input, MASQUERADE, Source};

const SERVER_INSIDE: &str = "[[source-nat]]\nout = \"wan0\"\nvia = \"interface\"\n\
    [[port-forward]]\nin = \"wan0\"\ndst = \"203.0.113.1\"\nproto = \"tcp\"\ndport = \"2121\"\nto = \"10.0.0.3:21\"\n";

const TFTP: &str = "[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.20\"]\nhelpers = [\"tftp\"]\n\
    [[source-nat]]\nout = \"wan0\"\nvia = \"pool:p\"\n";

const SIP: &str = "[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.20\"]\nhelpers = [\"sip\"]\n\
    [[source-nat]]\nout = \"wan0\"\nvia = \"pool:p\"\n";

const RTSP: &str = "[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.20\"]\nhelpers = [\"rtsp\"]\n\
    [[source-nat]]\nout = \"wan0\"\nvia = \"pool:p\"\n";

pub const ALL: &[Source] = &[
    Source {
        name: "ftp-active",
        rules: MASQUERADE,
        input: active,
    },
    Source {
        name: "ftp-extended-active",
        rules: MASQUERADE,
        input: extended_active,
    },
    Source {
        name: "ftp-passive-server",
        rules: SERVER_INSIDE,
        input: passive,
    },
    Source {
        name: "tftp",
        rules: TFTP,
        input: tftp,
    },
    Source {
        name: "sip-call",
        rules: SIP,
        input: sip,
    },
    Source {
        name: "rtsp-setup",
        rules: RTSP,
        input: rtsp,
    },
];

const CLIENT: End = ("10.0.0.2", 40000);
const PUBLIC: End = ("203.0.113.1", 40000);
const FTP: End = ("203.0.113.9", 21);

fn client(flags: &str, numbers: (u32, u32), payload: &str) -> Vec<u8> {
    saying(LAN, (CLIENT, FTP), flags, numbers, payload)
}

fn server(flags: &str, numbers: (u32, u32), payload: &str) -> Vec<u8> {
    saying(WAN, (FTP, PUBLIC), flags, numbers, payload)
}

/// What follows a command that names the client's port 40016 and becomes longer by `grows` bytes.
fn dialogue(command: &str, grows: u32) -> Input {
    let length = command.len() as u32;
    let data = ("203.0.113.1", 40016);
    let mut input = vec![
        (LAN, client("S", (100, 0), "")),
        (WAN, server("SA", (900, 101), "")),
        (LAN, client("A", (101, 901), "")),
        (LAN, client("A", (101, 901), command)),
        (WAN, server("A", (901, 101 + length + grows), "200 ok\r\n")),
        (LAN, client("A", (101 + length, 909), "LIST\r\n")),
        // The data connection, one from a stranger, one too many.
        (
            WAN,
            saying(WAN, (("203.0.113.10", 20), data), "S", (1, 0), ""),
        ),
        (
            WAN,
            saying(WAN, (("203.0.113.9", 20), data), "S", (1, 0), ""),
        ),
        (
            LAN,
            saying(
                LAN,
                (("10.0.0.2", 40016), ("203.0.113.9", 20)),
                "SA",
                (7, 2),
                "",
            ),
        ),
        (
            WAN,
            saying(WAN, (("203.0.113.9", 2020), data), "S", (1, 0), ""),
        ),
        // Sent again, late.
        (LAN, client("A", (101, 909), command)),
    ];
    let timed = input.drain(..).enumerate();
    timed
        .map(|(i, (port, frame))| (i as u64, port, frame))
        .collect()
}

fn active() -> Input {
    dialogue("PORT 10,0,0,2,156,80\r\n", 3)
}

fn extended_active() -> Input {
    dialogue("EPRT |1|10.0.0.2|40016|\r\n", 3)
}

fn passive() -> Input {
    let (caller, called, inside) = (
        ("203.0.113.9", 5555),
        ("203.0.113.1", 2121),
        ("10.0.0.3", 21),
    );
    let theirs = |flags, numbers, text| (WAN, saying(WAN, (caller, called), flags, numbers, text));
    let ours = |numbers, flags, text| (LAN, saying(LAN, (inside, caller), flags, numbers, text));
    let data = |from, port| {
        let to = ("203.0.113.1", port);
        (
            WAN,
            saying(WAN, (("203.0.113.9", from), to), "S", (1, 0), ""),
        )
    };
    let reply = "227 Entering Passive Mode (10,0,0,3,156,90).\r\n";
    let length = reply.len() as u32;
    let extended = "229 Entering Extended Passive Mode (|||40027|)\r\n";
    let frames = vec![
        theirs("S", (1, 0), ""),
        ours((50, 2), "SA", ""),
        theirs("A", (2, 51), "PASV\r\n"),
        ours((51, 8), "A", reply),
        data(6666, 40026),
        theirs("A", (8, 51 + length + 3), "EPSV\r\n"),
        ours((51 + length, 14), "A", extended),
        data(6667, 40027),
    ];
    let timed = frames.into_iter().enumerate();
    timed
        .map(|(i, (port, frame))| (i as u64, port, frame))
        .collect()
}

fn tftp() -> Input {
    let client = ("10.0.0.2", 40000);
    vec![
        (
            0,
            LAN,
            udp(LAN, client, ("203.0.113.9", 69), b"\0\x01file\0octet\0"),
        ),
        (
            1,
            WAN,
            udp(
                WAN,
                ("203.0.113.9", 33333),
                ("203.0.113.20", 40000),
                b"\0\x03\0\x01data",
            ),
        ),
        (
            2,
            LAN,
            udp(LAN, client, ("203.0.113.9", 33333), b"\0\x04\0\x01"),
        ),
        (
            3,
            WAN,
            udp(
                WAN,
                ("203.0.113.9", 44444),
                ("203.0.113.20", 40000),
                b"one too many",
            ),
        ),
    ]
}

/// A phone calls; voice comes from a third host; the call ends from outside.
fn sip() -> Input {
    let (phone, proxy, public) = (
        ("10.0.0.2", 5060),
        ("203.0.113.9", 5060),
        ("203.0.113.20", 5060),
    );
    let body = "v=0\r\no=- 1 1 IN IP4 10.0.0.2\r\ns=-\r\nc=IN IP4 10.0.0.2\r\nt=0 0\r\nm=audio 8000 RTP/AVP 0\r\n";
    let invite = format!(
        "INVITE sip:bob@203.0.113.9 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.2;branch=z9hG4bK1;rport\r\n\
         From: <sip:alice@10.0.0.2>;tag=1\r\nTo: <sip:bob@203.0.113.9>\r\nCall-ID: 1@10.0.0.2\r\nCSeq: 1 INVITE\r\n\
         Contact: <sip:alice@10.0.0.2>\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 203.0.113.20;branch=z9hG4bK1;received=203.0.113.20;rport=5060\r\n\
         Contact: <sip:bob@203.0.113.11>\r\nContent-Length: 0\r\n\r\n";
    let bye =
        "BYE sip:alice@203.0.113.20 SIP/2.0\r\nVia: SIP/2.0/UDP 203.0.113.9:5060\r\nl: 0\r\n\r\n";
    let voice = |port| {
        let to = ("203.0.113.20", port);
        (WAN, udp(WAN, ("203.0.113.11", 9000), to, b"voice"))
    };
    let frames = vec![
        voice(8000),
        (LAN, udp(LAN, phone, proxy, invite.as_bytes())),
        voice(8000),
        voice(8001),
        (WAN, udp(WAN, proxy, public, answer.as_bytes())),
        (WAN, udp(WAN, proxy, public, bye.as_bytes())),
        (
            LAN,
            udp(LAN, ("10.0.0.2", 8000), ("203.0.113.11", 9000), b"voice"),
        ),
    ];
    let timed = frames.into_iter().enumerate();
    timed
        .map(|(i, (port, frame))| (i as u64, port, frame))
        .collect()
}

/// A client sets streams up; the server names the client's address in its answer, so that texts grow and shrink.
fn rtsp() -> Input {
    let (client, public, server) = (
        ("10.0.0.2", 40000),
        ("203.0.113.20", 40000),
        ("203.0.113.9", 554),
    );
    let ours = |flags, numbers, text| (LAN, saying(LAN, (client, server), flags, numbers, text));
    let theirs = |flags, numbers, text| (WAN, saying(WAN, (server, public), flags, numbers, text));
    let setup = "SETUP rtsp://a/b RTSP/1.0\r\nCSeq: 1\r\nTransport: RTP/AVP;unicast;destination=10.0.0.2;client_port=9000-9001\r\n\r\n";
    let answer = "RTSP/1.0 200 OK\r\nCSeq: 1\r\nTransport: RTP/AVP;destination=203.0.113.20;client_port=9000-9001;server_port=7000-7001\r\n\r\n";
    let play = "PLAY rtsp://a/b RTSP/1.0\r\nCSeq: 2\r\n\r\n";
    let (asked, told) = (101 + setup.len() as u32, 901 + answer.len() as u32);
    let stream = |from, to| {
        let to = ("203.0.113.20", to);
        (WAN, udp(WAN, ("203.0.113.9", from), to, b"stream"))
    };
    let frames = vec![
        ours("S", (100, 0), ""),
        theirs("SA", (900, 101), ""),
        stream(7000, 9000),
        ours("A", (101, 901), setup),
        theirs("A", (901, asked + 4), answer),
        ours("A", (asked, told - 4), play),
        stream(7000, 9000),
        stream(7001, 9001),
        stream(7002, 9001),
        (
            LAN,
            udp(LAN, ("10.0.0.2", 9001), ("203.0.113.9", 7001), b"report"),
        ),
        ours("A", (101, 901), setup),
    ];
    let timed = frames.into_iter().enumerate();
    timed
        .map(|(i, (port, frame))| (i as u64, port, frame))
        .collect()
}
