//! Application helpers: FTP and TFTP from clients and servers inside, and everything that can go wrong with their texts.

use etherparse::{PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};
use natgate::base::DropReason;
use natgate::wire::tcp::{ACK, FIN, SYN};

use crate::common::*;
use crate::*;

const CLIENT: End = ("10.0.0.2", 40000);
const FTP: End = ("203.0.113.9", 21);
const PUBLIC: End = ("203.0.113.1", 40000);

/// A segment with numbers, options and payload.
struct Segment<'a> {
    port: PortId,
    from: End,
    to: End,
    flags: u8,
    numbers: (u32, u32),
    sack: Option<(u32, u32)>,
    payload: &'a str,
}

impl Segment<'_> {
    fn frame(&self) -> Vec<u8> {
        let mut builder = PacketBuilder::ethernet2(HOST_MAC, [2, 0, 0, 0, 1, self.port.0 as u8])
            .ipv4(ip(self.from.0).octets(), ip(self.to.0).octets(), 64)
            .tcp(self.from.1, self.to.1, self.numbers.0, 1024);
        builder = if self.flags & SYN != 0 {
            builder.syn()
        } else {
            builder
        };
        builder = if self.flags & FIN != 0 {
            builder.fin()
        } else {
            builder
        };
        builder = if self.flags & ACK != 0 {
            builder.ack(self.numbers.1)
        } else {
            builder
        };
        let none = [None; 3];
        let options = self.sack.map(|block| {
            [
                TcpOptionElement::Noop,
                TcpOptionElement::SelectiveAcknowledgement(block, none),
            ]
        });
        let builder = builder
            .options(&options.unwrap_or([TcpOptionElement::Noop, TcpOptionElement::Noop]))
            .unwrap();
        let mut frame = Vec::new();
        builder.write(&mut frame, self.payload.as_bytes()).unwrap();
        frame
    }
}

/// From the client inside, or the outside server's answer to it.
fn line(port: PortId, numbers: (u32, u32), payload: &str) -> Vec<u8> {
    let (from, to) = if port == LAN {
        (CLIENT, FTP)
    } else {
        (FTP, PUBLIC)
    };
    Segment {
        port,
        from,
        to,
        flags: ACK,
        numbers,
        sack: None,
        payload,
    }
    .frame()
}

fn opening(port: PortId, from: End, to: End, flags: u8, numbers: (u32, u32)) -> Vec<u8> {
    Segment {
        port,
        from,
        to,
        flags,
        numbers,
        sack: None,
        payload: "",
    }
    .frame()
}

/// Sequence number, acknowledgment number, SACK block and payload of a frame whose checksums are right.
fn read(frame: &(PortId, Vec<u8>)) -> (u32, u32, Option<(u32, u32)>, String) {
    let text = String::from_utf8(seen(frame).payload).unwrap();
    let packet = SlicedPacket::from_ethernet(&frame.1).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = packet.transport else {
        panic!("no TCP");
    };
    let sack = tcp.options_iterator().find_map(|option| match option {
        Ok(TcpOptionElement::SelectiveAcknowledgement(block, _)) => Some(block),
        _ => None,
    });
    (
        tcp.sequence_number(),
        tcp.acknowledgment_number(),
        sack,
        text,
    )
}

fn through(
    rack: &mut Rack,
    at: u8,
    port: PortId,
    frame: &[u8],
) -> (u32, u32, Option<(u32, u32)>, String) {
    let sent = rack.receive(WorkerId(at), port, &[frame]);
    assert_eq!(sent.len(), 1, "drops: {}", drops(rack));
    balanced(rack);
    read(&sent[0])
}

/// A lab with a control connection from the client inside; its first byte is 101, the server's 901.
fn connected(workers: u8, at: u8, rules: &str) -> Rack {
    let mut rack = lab(workers, rules);
    one(
        &mut rack,
        at,
        LAN,
        &opening(LAN, CLIENT, FTP, SYN, (100, 0)),
    );
    one(
        &mut rack,
        at,
        WAN,
        &opening(WAN, FTP, PUBLIC, SYN | ACK, (900, 101)),
    );
    one(
        &mut rack,
        at,
        LAN,
        &opening(LAN, CLIENT, FTP, ACK, (101, 901)),
    );
    rack
}

/// "10,0,0,2,156,80" is port 40016, which masquerading keeps.
const PORT: &str = "PORT 10,0,0,2,156,80\r\n";
const PORT_OUT: &str = "PORT 203,0,113,1,156,80\r\n";

#[test]
fn an_active_client_gets_its_data_connection() {
    everywhere(|workers, at| {
        let mut rack = connected(workers, at, MASQUERADE);
        let knock = opening(
            WAN,
            ("203.0.113.9", 20),
            ("203.0.113.1", 40016),
            SYN,
            (1, 0),
        );
        rack.receive(WorkerId(at), WAN, &[&knock]);
        assert_eq!(rack.sessions(), 1, "closed before it is announced");
        let out = through(&mut rack, at, LAN, &line(LAN, (101, 901), PORT));
        assert_eq!((out.0, out.3.as_str()), (101, PORT_OUT));
        // From the server's port 20 or any other, but from no other host.
        let stranger = opening(
            WAN,
            ("203.0.113.10", 20),
            ("203.0.113.1", 40016),
            SYN,
            (1, 0),
        );
        dropped(&mut rack, at, WAN, &stranger, DropReason::Filtered);
        let data = opening(
            WAN,
            ("203.0.113.9", 34567),
            ("203.0.113.1", 40016),
            SYN,
            (1, 0),
        );
        assert_eq!(
            one(&mut rack, at, WAN, &data).destination,
            (ip("10.0.0.2"), 40016)
        );
        assert_eq!(rack.sessions(), 2, "the expectation became the connection");
        let second = opening(
            WAN,
            ("203.0.113.9", 34568),
            ("203.0.113.1", 40016),
            SYN,
            (1, 0),
        );
        dropped(&mut rack, at, WAN, &second, DropReason::Filtered);
        let answer = opening(
            LAN,
            ("10.0.0.2", 40016),
            ("203.0.113.9", 34567),
            SYN | ACK,
            (5, 2),
        );
        assert_eq!(
            one(&mut rack, at, LAN, &answer).source,
            (ip("203.0.113.1"), 40016)
        );
    });
}

// Proves: T12.
#[test]
fn numbers_follow_a_text_that_grew() {
    everywhere(|workers, at| {
        let mut rack = connected(workers, at, MASQUERADE);
        let grown = (PORT_OUT.len() - PORT.len()) as u32;
        let length = PORT.len() as u32;
        through(&mut rack, at, LAN, &line(LAN, (101, 901), PORT));
        // Sent again: the same once more. Acknowledged: as the client counts.
        let again = through(&mut rack, at, LAN, &line(LAN, (101, 901), PORT));
        assert_eq!((again.0, again.3.as_str()), (101, PORT_OUT));
        let ack = through(
            &mut rack,
            at,
            WAN,
            &line(WAN, (901, 101 + length + grown), "200 ok\r\n"),
        );
        assert_eq!((ack.0, ack.1), (901, 101 + length));
        let old = through(&mut rack, at, WAN, &line(WAN, (901, 101), ""));
        assert_eq!(old.1, 101, "from before the text");
        // What follows has moved; blocks of SACK move back.
        let next = through(
            &mut rack,
            at,
            LAN,
            &line(LAN, (101 + length, 909), "LIST\r\n"),
        );
        assert_eq!(
            (next.0, next.3.as_str()),
            (101 + length + grown, "LIST\r\n")
        );
        let sack = Segment {
            port: WAN,
            from: FTP,
            to: PUBLIC,
            flags: ACK,
            numbers: (909, 101 + length + grown),
            sack: Some((200 + grown, 300 + grown)),
            payload: "",
        };
        let sack = through(&mut rack, at, WAN, &sack.frame());
        assert_eq!((sack.1, sack.2), (101 + length, Some((200, 300))));
        // A second text adds to the first, this time one that shrinks.
        let long = "EPRT |1|10.0.0.2|00000|\r\nPORT 010,000,000,002,156,081\r\n";
        let at_seq = 101 + length + 6;
        let out = through(&mut rack, at, LAN, &line(LAN, (at_seq, 909), long));
        assert_eq!(out.0, at_seq + grown);
        assert!(out.3.ends_with("PORT 203,0,113,1,156,81\r\n"), "{}", out.3);
        let shrunk = (long.len() - out.3.len()) as u32;
        let end = at_seq + long.len() as u32;
        let last = through(&mut rack, at, LAN, &line(LAN, (end, 909), "NOOP\r\n"));
        assert_eq!(last.0, end + grown - shrunk);
        let ack = through(
            &mut rack,
            at,
            WAN,
            &line(WAN, (909, end + grown - shrunk), ""),
        );
        assert_eq!(ack.1, end);
    });
}

#[test]
fn a_server_inside_is_reached_in_passive_mode() {
    let forward = format!(
        "{MASQUERADE}[[port-forward]]\nin = \"wan0\"\ndport = \"2121\"\nto = \"10.0.0.3:21\"\n"
    );
    let (caller, called, server) = (
        ("203.0.113.9", 5555),
        ("203.0.113.1", 2121),
        ("10.0.0.3", 21),
    );
    for (reply, expected) in [
        (
            "227 Entering Passive Mode (10,0,0,3,156,90).\r\n",
            "227 Entering Passive Mode (203,0,113,1,156,90).\r\n",
        ),
        (
            "229 Entering Extended Passive Mode (|||40026|)\r\n",
            "229 Entering Extended Passive Mode (|||40026|)\r\n",
        ),
    ] {
        everywhere(|workers, at| {
            let mut rack = lab(workers, &forward);
            one(
                &mut rack,
                at,
                WAN,
                &opening(WAN, caller, called, SYN, (1, 0)),
            );
            one(
                &mut rack,
                at,
                LAN,
                &opening(LAN, server, caller, SYN | ACK, (50, 2)),
            );
            let pasv = Segment {
                port: WAN,
                from: caller,
                to: called,
                flags: ACK,
                numbers: (2, 51),
                sack: None,
                payload: "PASV\r\n",
            };
            one(&mut rack, at, WAN, &pasv.frame());
            let reply = Segment {
                port: LAN,
                from: server,
                to: caller,
                flags: ACK,
                numbers: (51, 8),
                sack: None,
                payload: reply,
            };
            assert_eq!(through(&mut rack, at, LAN, &reply.frame()).3, expected);
            let data = opening(
                WAN,
                ("203.0.113.9", 6666),
                ("203.0.113.1", 40026),
                SYN,
                (1, 0),
            );
            assert_eq!(
                one(&mut rack, at, WAN, &data).destination,
                (ip("10.0.0.3"), 40026)
            );
        });
    }
}

#[test]
fn extended_commands_and_ports_that_are_taken() {
    everywhere(|workers, at| {
        let mut rack = connected(workers, at, MASQUERADE);
        // Somebody else has the port outside.
        one(&mut rack, at, LAN, &tcp(LAN, ("10.0.0.4", 40016), FTP, "S"));
        let out = through(
            &mut rack,
            at,
            LAN,
            &line(LAN, (101, 901), "EPRT |1|10.0.0.2|40016|\r\n"),
        );
        let port: u16 = out.3.split('|').nth(3).unwrap().parse().unwrap();
        assert_eq!(out.3, format!("EPRT |1|203.0.113.1|{port}|\r\n"));
        assert_ne!(port, 40016);
        let data = opening(WAN, ("203.0.113.9", 20), ("203.0.113.1", port), SYN, (1, 0));
        assert_eq!(
            one(&mut rack, at, WAN, &data).destination,
            (ip("10.0.0.2"), 40016)
        );
    });
}

#[test]
fn an_expectation_passes_the_filter_and_expires() {
    let rules = format!(
        "{MASQUERADE}[filter]\ndefault = \"drop\"\n[[filter.rule]]\nin = \"lan0\"\nproto = \"tcp\"\ndport = \"21\"\naction = \"accept\"\n"
    );
    let data = opening(
        WAN,
        ("203.0.113.9", 20),
        ("203.0.113.1", 40016),
        SYN,
        (1, 0),
    );
    everywhere(|workers, at| {
        let mut rack = connected(workers, at, &rules);
        through(&mut rack, at, LAN, &line(LAN, (101, 901), PORT));
        rack.advance(110_000);
        rack.maintain();
        one(&mut rack, at, WAN, &data);
        let mut rack = connected(workers, at, &rules);
        through(&mut rack, at, LAN, &line(LAN, (101, 901), PORT));
        assert_eq!(rack.sessions(), 2);
        rack.advance(121_000);
        assert!(rack.receive(WorkerId(at), WAN, &[&data]).is_empty(), "late");
        rack.maintain();
        assert_eq!(rack.sessions(), 1, "the control connection");
        balanced(&rack);
    });
}

#[test]
fn texts_that_are_not_the_hosts_own_stay_as_they_are() {
    everywhere(|workers, at| {
        let mut rack = connected(workers, at, MASQUERADE);
        let mut next = 101;
        for text in [
            "PORT 10,0,0,9,156,80\r\n",
            "PORT 203,0,113,9,0,22\r\n",
            "USER PORT 10,0,0,2,156,80\r\n",
            "PASV\r\n",
        ] {
            let out = through(&mut rack, at, LAN, &line(LAN, (next, 901), text));
            assert_eq!((out.0, out.3.as_str()), (next, text));
            next += text.len() as u32;
        }
        // Replies of a server outside name its own address.
        let reply = "227 Entering Passive Mode (203,0,113,9,156,80)\r\n";
        assert_eq!(
            through(&mut rack, at, WAN, &line(WAN, (901, next), reply)).3,
            reply
        );
        assert_eq!(rack.sessions(), 1);
        // Half a line has to come as a whole.
        dropped(
            &mut rack,
            at,
            LAN,
            &line(LAN, (next, 901), "PORT 10,0,"),
            DropReason::HelperUnfit,
        );
        assert_eq!(
            through(&mut rack, at, LAN, &line(LAN, (next, 901), PORT)).3,
            PORT_OUT
        );
    });
}

#[test]
fn a_host_at_its_limit_gets_no_expectation() {
    everywhere(|workers, at| {
        let mut rack = rack(&lab_text(workers, MASQUERADE, "sessions_per_host = 1"));
        one(
            &mut rack,
            at,
            LAN,
            &opening(LAN, CLIENT, FTP, SYN, (100, 0)),
        );
        let out = through(&mut rack, at, LAN, &line(LAN, (101, 901), PORT));
        assert_eq!(out.3, PORT, "unchanged");
        let refused: u64 = rack
            .shards
            .iter()
            .map(|s| s.nat.counts.expectations_refused)
            .sum();
        assert_eq!((refused, rack.sessions()), (1, 1));
    });
}

// Proves: U10a, T6.
#[test]
fn helpers_can_be_switched_off() {
    everywhere(|workers, at| {
        let text = lab_text(workers, MASQUERADE, "");
        let off = text.replacen("name = \"wan0\"\n", "name = \"wan0\"\nhelpers = []\n", 1);
        let mut gateway = rack(&off);
        one(
            &mut gateway,
            at,
            LAN,
            &opening(LAN, CLIENT, FTP, SYN, (100, 0)),
        );
        assert_eq!(
            through(&mut gateway, at, LAN, &line(LAN, (101, 901), PORT)).3,
            PORT
        );
        let mut gateway = lab(workers, &pool("helpers = []"));
        one(
            &mut gateway,
            at,
            LAN,
            &opening(LAN, CLIENT, FTP, SYN, (100, 0)),
        );
        assert_eq!(
            through(&mut gateway, at, LAN, &line(LAN, (101, 901), PORT)).3,
            PORT
        );
    });
}

// Proves: U10, U10a.
#[test]
fn a_tftp_server_answers_from_another_port() {
    let request = udp(LAN, CLIENT, ("203.0.113.9", 69), b"\0\x01file\0octet\0");
    let block = udp(WAN, ("203.0.113.9", 33333), PUBLIC, b"\0\x03\0\x01data");
    everywhere(|workers, at| {
        let text = lab_text(workers, MASQUERADE, "");
        let on = text.replacen(
            "name = \"wan0\"\n",
            "name = \"wan0\"\nhelpers = [\"ftp\", \"tftp\"]\n",
            1,
        );
        let mut gateway = rack(&on);
        for port in [33333, 33334] {
            one(&mut gateway, at, LAN, &request);
            let block = udp(WAN, ("203.0.113.9", port), PUBLIC, b"\0\x03\0\x01data");
            assert_eq!(
                one(&mut gateway, at, WAN, &block).destination,
                (ip("10.0.0.2"), 40000)
            );
            let ack = udp(LAN, CLIENT, ("203.0.113.9", port), b"\0\x04\0\x01");
            assert_eq!(
                one(&mut gateway, at, LAN, &ack).source,
                (ip(PUBLIC.0), PUBLIC.1)
            );
        }
        let mut gateway = rack(&text);
        one(&mut gateway, at, LAN, &request);
        dropped(&mut gateway, at, WAN, &block, DropReason::Filtered);
    });
}
