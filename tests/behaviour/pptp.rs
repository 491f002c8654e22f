//! PPTP: several calls through one outside address, told apart by their ids.

use etherparse::{NetSlice, PacketBuilder, SlicedPacket};
use natgate::base::DropReason;
use natgate::wire::tcp::sequence;

use crate::common::*;
use crate::*;

const SERVER: End = ("203.0.113.9", 1723);
const OUTSIDE: &str = "203.0.113.20";

fn helped() -> String {
    pool("helpers = [\"pptp\"]")
}

/// A control message: type, call id, peer's call id or what else follows, a result that says "connected".
fn message(kind: u16, first: u16, second: u16) -> Vec<u8> {
    let length = match kind {
        7 => 168,
        9 => 220,
        13 => 148,
        _ => 32u16,
    };
    let mut bytes = Vec::new();
    for word in [length, 1, 0x1a2b, 0x3c4d, kind, 0, first, second, 0x0100] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.resize(usize::from(length), 0);
    bytes
}

fn control(port: PortId, (from, to): (End, End), flags: &str, payload: &[u8]) -> Vec<u8> {
    let mut builder = PacketBuilder::ethernet2(HOST_MAC, [2, 0, 0, 0, 1, port.0 as u8])
        .ipv4(ip(from.0).octets(), ip(to.0).octets(), 64)
        .tcp(from.1, to.1, 1000, 1024);
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

/// A packet of a call, to the receiver's id.
fn gre(port: PortId, from: &str, to: &str, call: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(HOST_MAC, [2, 0, 0, 0, 1, port.0 as u8]).ipv4(
        ip(from).octets(),
        ip(to).octets(),
        64,
    );
    let mut payload = vec![0x30, 1, 0x88, 0x0b, 0, 4];
    payload.extend(call.to_be_bytes());
    payload.extend([0, 0, 0, 1, 9, 9, 9, 9]);
    let mut frame = Vec::new();
    builder
        .write(&mut frame, etherparse::IpNumber(47), &payload)
        .unwrap();
    frame
}

/// Where a packet of a call came out, its ends and its id.
fn carried(sent: &[(PortId, Vec<u8>)]) -> (PortId, String, String, u16) {
    assert_eq!(sent.len(), 1, "one packet out");
    let packet = SlicedPacket::from_ethernet(&sent[0].1).unwrap();
    let Some(NetSlice::Ipv4(v4)) = &packet.net else {
        panic!("no IPv4 packet");
    };
    let header = v4.header();
    assert_eq!(
        header.header_checksum(),
        header.to_header().calc_header_checksum()
    );
    let payload = v4.payload().payload;
    assert_eq!((payload.len(), &payload[12..]), (16, &[9, 9, 9, 9][..]));
    let call = u16::from_be_bytes([payload[6], payload[7]]);
    (
        sent[0].0,
        header.source_addr().to_string(),
        header.destination_addr().to_string(),
        call,
    )
}

fn goes(rack: &mut Rack, at: u8, frame: (PortId, Vec<u8>)) -> (PortId, String, String, u16) {
    carried(&send(rack, at, frame.0, &frame.1))
}

fn seen_as(port: PortId, from: &str, to: &str, call: u16) -> (PortId, String, String, u16) {
    (port, from.to_owned(), to.to_owned(), call)
}

/// What a payload became on its way; nothing but the control connection's ends changed besides.
fn said(rack: &mut Rack, at: u8, frame: (PortId, Vec<u8>)) -> (Vec<u8>, u16) {
    let sent = send(rack, at, frame.0, &frame.1);
    assert_eq!(sent.len(), 1, "drops: {}", drops(rack));
    assert_eq!(sequence(&sent[0].1, 34), 1000);
    let out = seen(&sent[0]);
    (out.payload, out.source.1)
}

fn ids(payload: &[u8]) -> (u16, u16) {
    let word = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
    (word(12), word(14))
}

/// An inside client that makes a call with id `own`, which the server answers with `theirs`: the client's outside port and
/// outside id.
fn calls(rack: &mut Rack, at: u8, client: End, own: u16, theirs: u16) -> (u16, u16) {
    one(rack, at, LAN, &control(LAN, (client, SERVER), "S", b""));
    let request = message(7, own, 0);
    let (read, port) = said(
        rack,
        at,
        (LAN, control(LAN, (client, SERVER), "A", &request)),
    );
    let outside = ids(&read).0;
    assert_eq!(read, message(7, outside, 0), "nothing but the id changes");
    let reply = control(
        WAN,
        (SERVER, (OUTSIDE, port)),
        "A",
        &message(8, theirs, outside),
    );
    let (read, _) = said(rack, at, (WAN, reply));
    assert_eq!(read, message(8, theirs, own));
    (port, outside)
}

// Proves: OT3.
#[test]
fn clients_of_one_server_have_calls_of_their_own() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, &helped());
        // Both give their calls the same id.
        let hosts = [
            ("10.0.0.2", 40000),
            ("10.0.0.3", 40000),
            ("10.0.0.4", 40000),
        ];
        let calls: Vec<_> = (0..3)
            .map(|n| calls(&mut rack, at, hosts[n], 7, 21 + n as u16))
            .collect();
        let mut outside: Vec<u16> = calls.iter().map(|call| call.1).collect();
        outside.sort_unstable();
        outside.dedup();
        assert_eq!(outside.len(), 3, "{calls:?}");
        for (n, host) in hosts.iter().enumerate() {
            let theirs = 21 + n as u16;
            let out = (LAN, gre(LAN, host.0, SERVER.0, theirs));
            assert_eq!(
                goes(&mut rack, at, out),
                seen_as(WAN, OUTSIDE, SERVER.0, theirs)
            );
            let back = (WAN, gre(WAN, SERVER.0, OUTSIDE, calls[n].1));
            assert_eq!(goes(&mut rack, at, back), seen_as(LAN, SERVER.0, host.0, 7));
        }
        // Three connections, three calls each way. The same once more is the same.
        assert_eq!(rack.sessions(), 9);
        let again = control(LAN, (hosts[0], SERVER), "A", &message(7, 7, 0));
        assert_eq!(ids(&said(&mut rack, at, (LAN, again)).0).0, calls[0].1);
        assert_eq!(rack.sessions(), 9);
    });
}

#[test]
fn a_server_inside_takes_calls() {
    everywhere(|workers, at| {
        let forward = "[[port-forward]]\nin = \"wan0\"\ndst = \"203.0.113.20\"\nproto = \"tcp\"\ndport = \"1723\"\nto = \"10.0.0.3:1723\"\n";
        let filter =
            "[filter]\ndefault = \"drop\"\n[[filter.rule]]\nproto = \"tcp\"\naction = \"accept\"\n";
        let mut rack = lab(workers, &format!("{}{forward}{filter}", helped()));
        let (caller, server) = (("203.0.113.9", 5555), ("10.0.0.3", 1723));
        let called = (OUTSIDE, 1723);
        one(
            &mut rack,
            at,
            WAN,
            &control(WAN, (caller, called), "S", b""),
        );
        let request = message(7, 300, 0);
        let frame = (WAN, control(WAN, (caller, called), "A", &request));
        assert_eq!(said(&mut rack, at, frame).0, request);
        let frame = (
            LAN,
            control(LAN, (server, caller), "A", &message(8, 4, 300)),
        );
        let (read, _) = said(&mut rack, at, frame);
        let outside = ids(&read).0;
        assert_eq!(read, message(8, outside, 300));
        let inward = (WAN, gre(WAN, caller.0, OUTSIDE, outside));
        assert_eq!(
            goes(&mut rack, at, inward),
            seen_as(LAN, caller.0, server.0, 4)
        );
        let outward = (LAN, gre(LAN, server.0, caller.0, 300));
        assert_eq!(
            goes(&mut rack, at, outward),
            seen_as(WAN, OUTSIDE, caller.0, 300)
        );
        // Later messages about the call.
        let info = control(WAN, (caller, called), "A", &message(15, outside, 0));
        assert_eq!(said(&mut rack, at, (WAN, info)).0, message(15, 4, 0));
        let over = control(LAN, (server, caller), "A", &message(13, 4, 0));
        for _ in 0..2 {
            assert_eq!(
                said(&mut rack, at, (LAN, over.clone())).0,
                message(13, outside, 0)
            );
        }
    });
}

#[test]
fn a_call_ends_with_the_word_of_the_remote_or_by_itself() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, &helped());
        let client = ("10.0.0.2", 40000);
        let (port, outside) = calls(&mut rack, at, client, 7, 21);
        let clear = (LAN, control(LAN, (client, SERVER), "A", &message(12, 7, 0)));
        assert_eq!(said(&mut rack, at, clear).0, message(12, outside, 0));
        let over = message(13, 21, 0);
        let frame = (WAN, control(WAN, (SERVER, (OUTSIDE, port)), "A", &over));
        assert_eq!(said(&mut rack, at, frame).0, over, "the remote's own id");
        assert_eq!(rack.sessions(), 2);
        rack.advance(11 * 60_000);
        rack.maintain();
        let late = gre(WAN, SERVER.0, OUTSIDE, outside);
        dropped(&mut rack, at, WAN, &late, DropReason::NoMapping);
    });
}

#[test]
fn gre_of_no_call_is_translated_by_address() {
    everywhere(|workers, at| {
        for rules in [helped(), pool("")] {
            let mut rack = lab(workers, &rules);
            let out = (LAN, gre(LAN, "10.0.0.2", SERVER.0, 99));
            assert_eq!(
                goes(&mut rack, at, out),
                seen_as(WAN, OUTSIDE, SERVER.0, 99)
            );
            let back = (WAN, gre(WAN, SERVER.0, OUTSIDE, 17));
            assert_eq!(
                goes(&mut rack, at, back),
                seen_as(LAN, SERVER.0, "10.0.0.2", 17)
            );
            let second = gre(LAN, "10.0.0.3", SERVER.0, 98);
            dropped(&mut rack, at, LAN, &second, DropReason::NoPortConflict);
        }
        // Off, control messages stay as they are.
        let mut rack = lab(workers, &pool(""));
        let client = ("10.0.0.2", 40000);
        one(
            &mut rack,
            at,
            LAN,
            &control(LAN, (client, SERVER), "S", b""),
        );
        let request = message(7, 7, 0);
        let frame = (LAN, control(LAN, (client, SERVER), "A", &request));
        assert_eq!(said(&mut rack, at, frame).0, request);
        assert_eq!(rack.sessions(), 1);
    });
}

#[test]
fn a_call_comes_before_the_flow_of_its_addresses() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, &helped());
        let plain = (LAN, gre(LAN, "10.0.0.2", SERVER.0, 99));
        goes(&mut rack, at, plain);
        let (_, outside) = calls(&mut rack, at, ("10.0.0.3", 40000), 7, 21);
        let back = (WAN, gre(WAN, SERVER.0, OUTSIDE, outside));
        assert_eq!(
            goes(&mut rack, at, back),
            seen_as(LAN, SERVER.0, "10.0.0.3", 7)
        );
        let out = (LAN, gre(LAN, "10.0.0.3", SERVER.0, 21));
        assert_eq!(
            goes(&mut rack, at, out),
            seen_as(WAN, OUTSIDE, SERVER.0, 21)
        );
        let plain = (WAN, gre(WAN, SERVER.0, OUTSIDE, outside.wrapping_add(1)));
        assert_eq!(goes(&mut rack, at, plain).2, "10.0.0.2");
    });
}

#[test]
fn errors_about_a_call_reach_its_sender() {
    let mut rack = lab(1, &helped());
    let (_, outside) = calls(&mut rack, 0, ("10.0.0.2", 40000), 7, 21);
    let sent = send(&mut rack, 0, LAN, &gre(LAN, "10.0.0.2", SERVER.0, 21));
    let error = icmp_error(WAN, SERVER.0, OUTSIDE, (3, 1), &sent[0].1);
    let told = one(&mut rack, 0, WAN, &error);
    assert_eq!(told.destination.0, ip("10.0.0.2"));
    assert_eq!(told.payload[8 + 20 + 6..8 + 20 + 8], [0, 21]);
    let sent = send(&mut rack, 0, WAN, &gre(WAN, SERVER.0, OUTSIDE, outside));
    let error = icmp_error(LAN, "10.0.0.2", SERVER.0, (3, 1), &sent[0].1);
    let told = one(&mut rack, 0, LAN, &error);
    assert_eq!(
        (told.source.0, told.destination.0),
        (ip(OUTSIDE), ip(SERVER.0))
    );
    assert_eq!(told.payload[8 + 20 + 6..8 + 20 + 8], outside.to_be_bytes());
}

#[test]
fn part_of_a_message_is_to_be_sent_again() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, &helped());
        let client = ("10.0.0.2", 40000);
        one(
            &mut rack,
            at,
            LAN,
            &control(LAN, (client, SERVER), "S", b""),
        );
        let part = control(LAN, (client, SERVER), "A", &message(7, 7, 0)[..100]);
        dropped(&mut rack, at, LAN, &part, DropReason::HelperUnfit);
    });
}

/// Both flows of a call are the inside host's, pass unasked, and live on while the call is spoken of.
#[test]
fn the_flows_of_a_call_are_its_hosts_and_live_while_it_is_spoken_of() {
    use natgate::flow::session::{FLAG_ALLOWED, FLAG_INBOUND, Session};
    let mut rack = lab(1, &helped());
    let host = ("10.0.0.2", 40000);
    calls(&mut rack, 0, host, 7, 21);
    let flows = |rack: &Rack| -> Vec<Session<u32>> {
        let all = rack.shards[0].nat.sessions.iter().map(|(_, s)| *s);
        all.filter(|s| s.protocol == 47).collect()
    };
    let mut flags: Vec<u8> = flows(&rack).iter().map(|s| s.flags).collect();
    flags.sort_unstable();
    let inbound = FLAG_ALLOWED | FLAG_INBOUND;
    assert_eq!(flags, [FLAG_ALLOWED, inbound]);
    assert_eq!(rack.shards[0].nat.subscribers.len(), 1);
    rack.advance(9 * 60_000);
    let again = control(LAN, (host, SERVER), "A", &message(7, 7, 0));
    said(&mut rack, 0, (LAN, again));
    rack.advance(5 * 60_000);
    rack.maintain();
    let left: Vec<u8> = flows(&rack).iter().map(|s| s.flags).collect();
    assert_eq!(left, [inbound]);
}
