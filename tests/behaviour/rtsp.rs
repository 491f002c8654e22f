//! RTSP: streams to clients and from servers inside, and numbers behind texts that change in both directions.

use natgate::base::DropReason;
use natgate::wire::tcp::{acknowledgment, sequence};

use crate::common::*;
use crate::*;

const CLIENT: End = ("10.0.0.2", 40000);
const SERVER: End = ("203.0.113.9", 554);
const OUTSIDE: &str = "203.0.113.20";

fn helped() -> String {
    pool("helpers = [\"rtsp\"]\nselect = \"random\"")
}

/// Numbers, text and source port of what a segment becomes, all checksums right.
fn through(rack: &mut Rack, at: u8, port: PortId, frame: &[u8]) -> (u32, u32, String, u16) {
    let sent = send(rack, at, port, frame);
    assert_eq!(sent.len(), 1, "drops: {}", drops(rack));
    let out = seen(&sent[0]);
    let text = String::from_utf8(out.payload).unwrap();
    (
        sequence(&sent[0].1, 34),
        acknowledgment(&sent[0].1, 34),
        text,
        out.source.1,
    )
}

fn setup(ports: &str) -> String {
    format!(
        "SETUP rtsp://a/film RTSP/1.0\r\nCSeq: 1\r\nTransport: RTP/AVP;unicast;client_port={ports}\r\n\r\n"
    )
}

fn answer(client: &str, server: &str, source: &str) -> String {
    format!(
        "RTSP/1.0 200 OK\r\nCSeq: 1\r\nTransport: RTP/AVP;unicast;client_port={client};server_port={server};source={source}\r\n\r\n"
    )
}

/// The two ports behind a name.
fn ports(text: &str, name: &str) -> (u16, u16) {
    let value = text
        .split(name)
        .nth(1)
        .unwrap()
        .split([';', '\r'])
        .next()
        .unwrap();
    let (first, second) = value.split_once('-').unwrap();
    (first.parse().unwrap(), second.parse().unwrap())
}

/// A lab with a connection of the client inside, and its outside port; its first byte is 101, the server's 901.
fn connected(workers: u8, at: u8) -> (Rack, u16) {
    let mut rack = lab(workers, &helped());
    let syn = saying(LAN, (CLIENT, SERVER), "S", (100, 0), "");
    let port = through(&mut rack, at, LAN, &syn).3;
    let both = saying(WAN, (SERVER, (OUTSIDE, port)), "SA", (900, 101), "");
    through(&mut rack, at, WAN, &both);
    (rack, port)
}

fn datagram(port: PortId, from: End, to: End) -> Vec<u8> {
    udp(port, from, to, b"stream")
}

#[test]
fn a_client_inside_gets_its_streams() {
    everywhere(|workers, at| {
        let (mut rack, port) = connected(workers, at);
        let ours = |numbers, text: &str| saying(LAN, (CLIENT, SERVER), "A", numbers, text);
        let theirs =
            |numbers, text: &str| saying(WAN, (SERVER, (OUTSIDE, port)), "A", numbers, text);
        // The address makes texts longer whatever the ports are.
        let asked = setup("900-901;destination=10.0.0.2");
        let out = through(&mut rack, at, LAN, &ours((101, 901), &asked));
        let (first, second) = ports(&out.2, "client_port=");
        assert!(first.is_multiple_of(2) && second == first + 1, "{}", out.2);
        assert_eq!((out.0, out.1), (101, 901));
        let named = format!("{first}-{second};destination={OUTSIDE}");
        assert_eq!(out.2, setup(&named));
        let grown = (out.2.len() - asked.len()) as u32;
        assert!(grown > 0);
        // Sent again, it is the same again.
        assert_eq!(through(&mut rack, at, LAN, &ours((101, 901), &asked)), out);
        // The answer shrinks; acknowledgments count as each side counts.
        let told = answer(&named, "7000-7001", SERVER.0);
        let heard = answer("900-901;destination=10.0.0.2", "7000-7001", SERVER.0);
        let asked_end = 101 + asked.len() as u32;
        let back = through(&mut rack, at, WAN, &theirs((901, asked_end + grown), &told));
        assert_eq!(
            (back.0, back.1, back.2.as_str()),
            (901, asked_end, heard.as_str())
        );
        let shrunk = (told.len() - heard.len()) as u32;
        assert_eq!(shrunk, grown);
        let heard_end = 901 + heard.len() as u32;
        let play = "PLAY rtsp://a/film RTSP/1.0\r\nCSeq: 2\r\n\r\n";
        let out = through(&mut rack, at, LAN, &ours((asked_end, heard_end), play));
        assert_eq!(
            (out.0, out.1, out.2.as_str()),
            (asked_end + grown, heard_end + shrunk, play)
        );
        let ok = "RTSP/1.0 200 OK\r\nCSeq: 2\r\n\r\n";
        let back = through(
            &mut rack,
            at,
            WAN,
            &theirs((heard_end + shrunk, asked_end + grown), ok),
        );
        assert_eq!(
            (back.0, back.1, back.2.as_str()),
            (heard_end, asked_end, ok)
        );
        // Streams come from the server alone, one to each port.
        let stranger = datagram(WAN, ("203.0.113.10", 7000), (OUTSIDE, first));
        dropped(&mut rack, at, WAN, &stranger, DropReason::Filtered);
        for (outside, inside, from) in [(first, 900, 7000), (second, 901, 7001)] {
            let stream = datagram(WAN, (SERVER.0, from), (OUTSIDE, outside));
            assert_eq!(
                one(&mut rack, at, WAN, &stream).destination,
                (ip(CLIENT.0), inside)
            );
            let report = datagram(LAN, (CLIENT.0, inside), (SERVER.0, from));
            assert_eq!(
                one(&mut rack, at, LAN, &report).source,
                (ip(OUTSIDE), outside)
            );
            let more = datagram(WAN, (SERVER.0, from + 10), (OUTSIDE, outside));
            dropped(&mut rack, at, WAN, &more, DropReason::Filtered);
        }
    });
}

#[test]
fn a_server_inside_is_reached_where_it_sends_from() {
    let rules = format!(
        "{}[[port-forward]]\nin = \"wan0\"\ndst = \"203.0.113.20\"\nproto = \"tcp\"\ndport = \"8554\"\nto = \"10.0.0.3:554\"\n",
        helped()
    );
    everywhere(|workers, at| {
        let mut rack = lab(workers, &rules);
        let (caller, called, server) = (("203.0.113.10", 5555), (OUTSIDE, 8554), ("10.0.0.3", 554));
        through(
            &mut rack,
            at,
            WAN,
            &saying(WAN, (caller, called), "S", (1, 0), ""),
        );
        through(
            &mut rack,
            at,
            LAN,
            &saying(LAN, (server, caller), "SA", (50, 2), ""),
        );
        let asked = setup("6000-6001");
        let read = through(
            &mut rack,
            at,
            WAN,
            &saying(WAN, (caller, called), "A", (2, 51), &asked),
        );
        assert_eq!(read.2, asked, "the caller's ports are its own");
        let told = answer("6000-6001", "700-701", server.0);
        let out = through(
            &mut rack,
            at,
            LAN,
            &saying(LAN, (server, caller), "A", (51, 9), &told),
        );
        let (first, second) = ports(&out.2, "server_port=");
        assert_eq!(
            out.2,
            answer("6000-6001", &format!("{first}-{second}"), OUTSIDE)
        );
        let report = datagram(WAN, (caller.0, 6001), (OUTSIDE, second));
        assert_eq!(
            one(&mut rack, at, WAN, &report).destination,
            (ip(server.0), 701)
        );
        let stream = datagram(LAN, (server.0, 700), (caller.0, 6000));
        assert_eq!(
            one(&mut rack, at, LAN, &stream).source,
            (ip(OUTSIDE), first)
        );
    });
}

#[test]
fn what_needs_no_port_stays() {
    everywhere(|workers, at| {
        let (mut rack, port) = connected(workers, at);
        let mut sent = 101;
        for text in [
            "SETUP rtsp://a/film RTSP/1.0\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n\r\n",
            "$\0\0\x04SETU",
            "SETUP rtsp://a/film RTSP/1.0\r\nTransport: RTP/AVP;unicast;destination=10.0.0.3\r\n\r\n",
        ] {
            let out = through(
                &mut rack,
                at,
                LAN,
                &saying(LAN, (CLIENT, SERVER), "A", (sent, 901), text),
            );
            assert_eq!((out.0, out.2.as_str()), (sent, text));
            sent += text.len() as u32;
        }
        let foreign = answer("1-2", "7000-7001", "203.0.113.9");
        let back = saying(WAN, (SERVER, (OUTSIDE, port)), "A", (901, sent), &foreign);
        assert_eq!(
            through(&mut rack, at, WAN, &back).2,
            foreign,
            "nobody's ports"
        );
        assert_eq!(rack.sessions(), 1);
        let part = saying(
            LAN,
            (CLIENT, SERVER),
            "A",
            (sent, 901),
            "SETUP rtsp://a/film RTSP/1.0\r\nTrans",
        );
        dropped(&mut rack, at, LAN, &part, DropReason::HelperUnfit);
        // Off, nothing is touched.
        let mut rack = lab(workers, &pool(""));
        through(
            &mut rack,
            at,
            LAN,
            &saying(LAN, (CLIENT, SERVER), "S", (100, 0), ""),
        );
        let asked = setup("6000-6001");
        let out = through(
            &mut rack,
            at,
            LAN,
            &saying(LAN, (CLIENT, SERVER), "A", (101, 901), &asked),
        );
        assert_eq!((out.2, rack.sessions()), (asked, 1));
    });
}
