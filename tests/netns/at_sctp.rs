//! SCTP beside TCP and UDP (S1, S2 and S3): the kernel has no such sockets here, so packets are made by hand.

use std::time::Duration;

use crate::lab::{Lab, Setup, on_natgate};
use crate::ns::Ns;
use crate::raw::{self, Capture, Packet};
use crate::sctp::{COOKIE_ECHO, INIT, INIT_ACK, chunk, init, is_right, segment};

const SCTP: u8 = 132;
const WAIT: Duration = Duration::from_secs(2);

const ALL: Setup = Setup {
    kernel: None,
    natgate: r#"
        [[source-nat]]
        out = "wan0"
        via = "interface"
        ports = "40000-40999"
        [[port-forward]]
        in = "wan0"
        dst = "203.0.113.1"
        proto = "sctp"
        dport = "3868"
        to = "10.0.0.2:13868"
        [[service]]
        name = "diameter"
        address = "10.96.0.40"
        proto = "sctp"
        port = 3868
        backends = [{ to = "10.0.0.3:13868" }]
    "#,
    ..Setup::PLAIN
};

/// Sends a packet from one namespace and returns it as it comes to `to` in the other, its checksum right.
fn pass(from: &Ns, there: &Ns, packet: &Packet, to: &str) -> Packet {
    let seen = Capture::start(there);
    raw::send(from, std::slice::from_ref(packet));
    let arrived = |p: &Packet| p.protocol == SCTP && p.destination.to_string() == to;
    let seen = seen.find(WAIT, arrived).expect("it arrives");
    assert!(is_right(&seen.payload), "{seen:?}");
    seen
}

fn packet(from: (&str, u16), to: (&str, u16), tag: u32, chunks: &[u8]) -> Packet {
    Packet::new(from.0, to.0, SCTP, segment(from.1, to.1, tag, chunks))
}

/// Somebody outside calls, the server answers, and the client hears whom it called.
fn called(lab: &Lab, called: &str, server: &str) {
    let client = ("203.0.113.9", 5555);
    let there = packet(client, (called, 3868), 0, &init(INIT, 5));
    let there = pass(&lab.outside, &lab.inside, &there, server);
    assert_eq!((there.word(0), there.word(2)), (5555, 13868));
    let back = packet((server, 13868), client, 5, &init(INIT_ACK, 6));
    let back = pass(&lab.inside, &lab.outside, &back, client.0);
    assert_eq!(
        (back.source.to_string().as_str(), back.word(0)),
        (called, 3868)
    );
}

#[test]
fn sctp_is_translated_with_its_ports() {
    on_natgate(&ALL, |lab| {
        let _claims = [&lab.inside, &lab.outside].map(|ns| raw::claim_protocol(ns, SCTP));
        lab.outside.ip("route add 10.96.0.0/16 via 203.0.113.1");
        let server = ("203.0.113.9", 5000);
        let mut ports = Vec::new();
        for host in ["10.0.0.2", "10.0.0.3"] {
            let opening = packet((host, 2905), server, 0, &init(INIT, 7));
            let out = pass(&lab.inside, &lab.outside, &opening, server.0);
            assert_eq!(out.source.to_string(), "203.0.113.1");
            let port = out.word(0);
            assert!((40000..41000).contains(&port), "{port}");
            ports.push(port);
            let answer = packet(server, ("203.0.113.1", port), 7, &init(INIT_ACK, 8));
            let back = pass(&lab.outside, &lab.inside, &answer, host);
            assert_eq!((back.word(0), back.word(2)), (5000, 2905));
            let echo = packet((host, 2905), server, 8, &chunk(COOKIE_ECHO, 0, &[1; 200]));
            let out = pass(&lab.inside, &lab.outside, &echo, server.0);
            assert_eq!(out.word(0), port);
        }
        assert_ne!(ports[0], ports[1]);
        called(lab, "203.0.113.1", "10.0.0.2");
        called(lab, "10.96.0.40", "10.0.0.3");
        let listed = lab.natgate().ask(&["show", "sessions", "proto", "sctp"]);
        assert_eq!(listed.matches("sctp-established").count(), 4, "{listed}");
        let limits = lab.natgate().show("timeouts").to_string();
        assert!(limits.contains("sctp-closing"), "{limits}");
    });
}
