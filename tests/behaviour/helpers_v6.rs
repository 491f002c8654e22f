//! Application helpers over IPv6: what FTP says in RFC 2428's words alone, and TFTP.

use natgate::base::DropReason;
use natgate::wire::tcp::{acknowledgment, sequence};

use crate::common::*;
use crate::filter_v6::{to_gateway, udp6};
use crate::nat66::{at, one6};
use crate::*;

const CLIENT: End = ("fd00:1::2", 40000);
const FTP: End = ("2001:db8::9", 21);
const PUBLIC: End = ("2001:db8::1", 40000);

/// [`saying`] over IPv6.
fn segment(
    port: PortId,
    (from, to): (End, End),
    flags: &str,
    numbers: (u32, u32),
    payload: &str,
) -> Vec<u8> {
    let builder = to_gateway(port, from.0, to.0).tcp(from.1, to.1, numbers.0, 1024);
    spoken(builder, flags, numbers.1, payload)
}

/// From the client inside, or the outside server's answer to it.
fn line(port: PortId, numbers: (u32, u32), payload: &str) -> Vec<u8> {
    let ends = if port == LAN {
        (CLIENT, FTP)
    } else {
        (FTP, PUBLIC)
    };
    segment(port, ends, "A", numbers, payload)
}

/// Sequence number, acknowledgment number and payload of what the one packet became that comes out, all lengths and
/// checksums right.
fn through(rack: &mut Rack, receiver: u8, port: PortId, frame: &[u8]) -> (u32, u32, String) {
    let sent = one6(rack, receiver, port, frame).frame;
    let payload_length = u16::from_be_bytes([sent[18], sent[19]]);
    assert_eq!(usize::from(payload_length), sent.len() - 54);
    let text = String::from_utf8(sent[74..].to_vec()).unwrap();
    (sequence(&sent, 54), acknowledgment(&sent, 54), text)
}

/// A lab with a control connection from the client inside; its first byte is 101, the server's 901.
fn connected(workers: u8, receiver: u8, rules: &str) -> Rack {
    let mut rack = lab(workers, rules);
    let syn = segment(LAN, (CLIENT, FTP), "S", (100, 0), "");
    one6(&mut rack, receiver, LAN, &syn);
    let answer = segment(WAN, (FTP, PUBLIC), "SA", (900, 101), "");
    one6(&mut rack, receiver, WAN, &answer);
    one6(&mut rack, receiver, LAN, &line(LAN, (101, 901), ""));
    rack
}

const EPRT: &str = "EPRT |2|fd00:1::2|40016|\r\n";
const EPRT_OUT: &str = "EPRT |2|2001:db8::1|40016|\r\n";

fn knock(from: End, port: u16) -> Vec<u8> {
    segment(WAN, (from, (PUBLIC.0, port)), "S", (1, 0), "")
}

#[test]
fn an_active_client_gets_its_data_connection() {
    let filter = "[filter]\ndefault = \"drop\"\n[[filter.rule]]\nin = \"lan0\"\nproto = \"tcp\"\ndport = \"21\"\naction = \"accept\"\n";
    for rules in [MASQUERADE.to_owned(), format!("{MASQUERADE}{filter}")] {
        everywhere(|workers, receiver| {
            let mut rack = connected(workers, receiver, &rules);
            let out = through(&mut rack, receiver, LAN, &line(LAN, (101, 901), EPRT));
            assert_eq!((out.0, out.2.as_str()), (101, EPRT_OUT));
            let stranger = knock(("2001:db8::8", 20), 40016);
            dropped(&mut rack, receiver, WAN, &stranger, DropReason::Filtered);
            let data = one6(&mut rack, receiver, WAN, &knock((FTP.0, 34567), 40016));
            assert_eq!(data.destination, at(CLIENT.0, 40016));
            let second = knock((FTP.0, 34568), 40016);
            dropped(&mut rack, receiver, WAN, &second, DropReason::Filtered);
            let ends = ((CLIENT.0, 40016), (FTP.0, 34567));
            let answer = segment(LAN, ends, "SA", (5, 2), "");
            let answer = one6(&mut rack, receiver, LAN, &answer);
            assert_eq!(answer.source, at(PUBLIC.0, 40016));
        });
    }
}

#[test]
fn numbers_follow_a_text_that_grew() {
    everywhere(|workers, receiver| {
        let mut rack = connected(workers, receiver, MASQUERADE);
        let (length, grown) = (EPRT.len() as u32, (EPRT_OUT.len() - EPRT.len()) as u32);
        for _ in 0..2 {
            // Sent again: the same once more.
            let out = through(&mut rack, receiver, LAN, &line(LAN, (101, 901), EPRT));
            assert_eq!((out.0, out.2.as_str()), (101, EPRT_OUT));
        }
        let ack = line(WAN, (901, 101 + length + grown), "200 ok\r\n");
        let ack = through(&mut rack, receiver, WAN, &ack);
        assert_eq!((ack.0, ack.1), (901, 101 + length));
        let next = line(LAN, (101 + length, 909), "LIST\r\n");
        let next = through(&mut rack, receiver, LAN, &next);
        assert_eq!(
            (next.0, next.2.as_str()),
            (101 + length + grown, "LIST\r\n")
        );
    });
}

#[test]
fn a_port_that_is_taken_is_announced_by_another() {
    everywhere(|workers, receiver| {
        let mut rack = connected(workers, receiver, MASQUERADE);
        let other = segment(LAN, (("fd00:1::4", 40016), FTP), "S", (1, 0), "");
        one6(&mut rack, receiver, LAN, &other);
        let out = through(&mut rack, receiver, LAN, &line(LAN, (101, 901), EPRT));
        let port: u16 = out.2.split('|').nth(3).unwrap().parse().unwrap();
        assert_eq!(out.2, format!("EPRT |2|2001:db8::1|{port}|\r\n"));
        assert_ne!(port, 40016);
        let data = one6(&mut rack, receiver, WAN, &knock((FTP.0, 20), port));
        assert_eq!(data.destination, at(CLIENT.0, 40016));
    });
}

#[test]
fn a_server_inside_is_reached_in_passive_mode() {
    let forward = format!(
        "{MASQUERADE}[[port-forward]]\nin = \"wan0\"\ndst = \"2001:db8::1\"\ndport = \"2121\"\nto = \"[fd00:1::3]:21\"\n"
    );
    let (caller, called, server) = (("2001:db8::9", 5555), (PUBLIC.0, 2121), ("fd00:1::3", 21));
    everywhere(|workers, receiver| {
        let mut rack = lab(workers, &forward);
        let syn = segment(WAN, (caller, called), "S", (1, 0), "");
        one6(&mut rack, receiver, WAN, &syn);
        let answer = segment(LAN, (server, caller), "SA", (50, 2), "");
        one6(&mut rack, receiver, LAN, &answer);
        let asks = segment(WAN, (caller, called), "A", (2, 51), "EPSV\r\n");
        one6(&mut rack, receiver, WAN, &asks);
        let reply = "229 Entering Extended Passive Mode (|||40026|)\r\n";
        let frame = segment(LAN, (server, caller), "A", (51, 8), reply);
        assert_eq!(through(&mut rack, receiver, LAN, &frame).2, reply);
        let data = one6(&mut rack, receiver, WAN, &knock((caller.0, 6666), 40026));
        assert_eq!(data.destination, at(server.0, 40026));
    });
}

#[test]
fn texts_that_are_not_the_hosts_own_stay_as_they_are() {
    everywhere(|workers, receiver| {
        let mut rack = connected(workers, receiver, MASQUERADE);
        let mut next = 101;
        for text in [
            "EPRT |2|fd00:1::9|40016|\r\n",
            "EPRT |1|10.0.0.2|40016|\r\n",
            "PORT 10,0,0,2,156,80\r\n",
            "EPSV\r\n",
        ] {
            let out = through(&mut rack, receiver, LAN, &line(LAN, (next, 901), text));
            assert_eq!((out.0, out.2.as_str()), (next, text));
            next += text.len() as u32;
        }
        let half = line(LAN, (next, 901), "EPRT |2|fd00");
        dropped(&mut rack, receiver, LAN, &half, DropReason::HelperUnfit);
        let mut wrong = line(LAN, (next, 901), EPRT);
        wrong[54 + 16] ^= 0xff;
        dropped(&mut rack, receiver, LAN, &wrong, DropReason::L4Checksum);
        let out = through(&mut rack, receiver, LAN, &line(LAN, (next, 901), EPRT));
        assert_eq!(out.2, EPRT_OUT);
    });
}

#[test]
fn a_tftp_server_answers_from_another_port() {
    let request = udp6(LAN, CLIENT, (FTP.0, 69), b"\0\x01file\0octet\0");
    let block = |port| udp6(WAN, (FTP.0, port), PUBLIC, b"\0\x03\0\x01data");
    everywhere(|workers, receiver| {
        let text = lab_text(workers, MASQUERADE, "");
        let on = text.replacen(
            "name = \"wan0\"\n",
            "name = \"wan0\"\nhelpers = [\"ftp\", \"tftp\"]\n",
            1,
        );
        let mut gateway = rack(&on);
        for port in [33333, 33334] {
            one6(&mut gateway, receiver, LAN, &request);
            let data = one6(&mut gateway, receiver, WAN, &block(port));
            assert_eq!(data.destination, at(CLIENT.0, CLIENT.1));
            let ack = udp6(LAN, CLIENT, (FTP.0, port), b"\0\x04\0\x01");
            let ack = one6(&mut gateway, receiver, LAN, &ack);
            assert_eq!(ack.source, at(PUBLIC.0, PUBLIC.1));
        }
        let mut gateway = rack(&text);
        one6(&mut gateway, receiver, LAN, &request);
        dropped(
            &mut gateway,
            receiver,
            WAN,
            &block(33333),
            DropReason::Filtered,
        );
    });
}
