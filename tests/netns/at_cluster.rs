//! A cluster's shared gateway: masquerade, forwarding, listing (AT-0.1 to AT-0.12).

use std::time::Duration;

use crate::accounting;
use crate::lab::{Lab, Setup, on_natgate, same_on_both};
use crate::probe::{Answer, Proto, open_stream};
use crate::raw::{self, Capture, Packet};

#[test]
fn at_0_1_a_free_source_port_is_kept() {
    same_on_both(&Setup::MASQUERADE, |lab| {
        lab.expect("UDP in 10.0.0.2:40000 > 203.0.113.9:5000 => seen 203.0.113.1:40000, reply");
    });
}

#[test]
fn at_0_2_a_taken_source_port_is_replaced() {
    same_on_both(&Setup::MASQUERADE, |lab| {
        lab.expect("UDP in 10.0.0.2:40000 > 203.0.113.9:5000 => seen 203.0.113.1:40000, reply");
        let second = lab
            .probe("UDP in 10.0.0.3:40000 > 203.0.113.9:5000")
            .answered();
        assert_eq!(second.ip().to_string(), "203.0.113.1");
        assert_ne!(second.port(), 40000);
        assert!(second.port() >= 1024, "{second}");
        // E3: one external port belongs to one inside endpoint; Linux reuses it for another remote.
        let first = lab.probe("UDP in 10.0.0.2:42000 > 203.0.113.9:5000").port();
        let other = lab
            .probe("UDP in 10.0.0.3:42000 > 203.0.113.10:5000")
            .port();
        assert_eq!(first, 42000);
        assert_eq!(other == 42000, lab.is_kernel(), "got {other}");
    });
}

#[test]
fn at_0_3_one_socket_keeps_one_external_port() {
    same_on_both(&Setup::MASQUERADE, |lab| {
        lab.expect("UDP in 10.0.0.2:43000 > 203.0.113.9:5000 => seen 203.0.113.1:43000, reply");
        let held = lab.hold("in", "10.0.0.3:43000");
        let to_first = lab.ask(&held, "203.0.113.9:5000").answered();
        let to_second = lab.ask(&held, "203.0.113.10:5000").answered();
        assert_eq!(to_first, to_second);
    });
}

#[test]
fn at_0_4_privileged_source_ports_stay_in_their_class() {
    same_on_both(&Setup::MASQUERADE, |lab| {
        for (port, class) in [(300, 1..=511), (700, 512..=1023)] {
            lab.probe(&format!("UDP in 10.0.0.2:{port} > 203.0.113.9:5000"))
                .answered();
            let second = lab
                .probe(&format!("UDP in 10.0.0.3:{port} > 203.0.113.9:5000"))
                .port();
            assert!(
                second != port && class.contains(&second),
                "{port} became {second}"
            );
        }
    });
}

#[test]
fn at_0_5_ping_is_translated_and_equal_ids_are_told_apart() {
    same_on_both(&Setup::MASQUERADE, |lab| {
        lab.inside.sh("ping -c 1 -W 2 -I 10.0.0.2 203.0.113.9");
        let ids = ["10.0.0.2", "10.0.0.3"].map(|client| {
            let (far, near) = (Capture::start(&lab.outside), Capture::start(&lab.inside));
            let request = Packet::echo_request(client, "203.0.113.9", 777, 1);
            raw::send(&lab.inside, &[request]);
            let seen = far
                .find(Duration::from_secs(1), |p| is_icmp(p, 8))
                .expect("a request arrives");
            assert_eq!(seen.source.to_string(), "203.0.113.1");
            assert!(raw::l4_checksum_is_right(&seen));
            let reply = near
                .find(Duration::from_secs(1), |p| is_icmp(p, 0))
                .expect("a reply arrives");
            assert_eq!(reply.destination.to_string(), client);
            assert_eq!(reply.word(4), 777, "the client's own id comes back");
            seen.word(4)
        });
        assert_ne!(ids[0], ids[1]);
    });
}

fn is_icmp(packet: &Packet, kind: u8) -> bool {
    packet.protocol == raw::ICMP && packet.payload.first() == Some(&kind)
}

#[test]
fn at_0_6_tcp_carries_two_megabytes_each_way() {
    same_on_both(&Setup::MASQUERADE, |lab| {
        lab.expect("TCP in 10.0.0.2:40000 > 203.0.113.9:80 => seen 203.0.113.1:40000, reply");
        // The echo service returns all it got once the client has closed its half.
        let to = "203.0.113.9:81".parse().unwrap();
        let echo = lab.echo("out", Proto::Tcp, to);
        let sent = noise(2_000_000);
        let mut stream =
            open_stream(&lab.inside, "10.0.0.2:0".parse().unwrap(), to).expect("it connects");
        std::io::Write::write_all(&mut stream, &sent).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut back = Vec::new();
        std::io::Read::read_to_end(&mut stream, &mut back).unwrap();
        // No `assert_eq`: two megabytes in a failure message help nobody.
        assert!(
            back == sent,
            "what came back differs ({} bytes)",
            back.len()
        );
        assert!(echo.source_of(&sent).is_some(), "what arrived differs");
    });
}

/// Bytes without a pattern, the same every time (an xorshift sequence).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn at_0_7_a_large_datagram_arrives_whole() {
    same_on_both(&Setup::MASQUERADE, |lab| {
        let to = "203.0.113.9:5000".parse().unwrap();
        let echo = lab.echo("out", Proto::Udp, to);
        let held = lab.hold("in", "10.0.0.2:40000");
        let seen = held.ask_with(&noise(3000), to, &echo).answered();
        assert_eq!(seen.to_string(), "203.0.113.1:40000");
    });
}

#[test]
fn at_0_7_fragments_may_arrive_in_reverse_order() {
    // The kernel reassembles and passes too, but that is not part of the comparison.
    same_on_both(&Setup::MASQUERADE, |lab| {
        let echo = lab.echo("out", Proto::Udp, "203.0.113.9:5000".parse().unwrap());
        let data = noise(3000);
        let whole = Packet::udp("10.0.0.2:41000", "203.0.113.9:5000", &data, true);
        let mut fragments = whole.fragments(1200);
        fragments.reverse();
        assert_eq!(fragments.len(), 3);
        let arrived = Capture::start(&lab.inside);
        raw::send(&lab.inside, &fragments);
        // The echo comes back in fragments of its own: waiting for any of them is enough.
        let from_server =
            |p: &Packet| p.protocol == raw::UDP && p.source.octets() == [203, 0, 113, 9];
        arrived
            .find(Duration::from_secs(1), from_server)
            .expect("an answer comes back");
        let seen = echo.source_of(&data).expect("the datagram arrived whole");
        assert_eq!(seen.to_string(), "203.0.113.1:41000");
    });
}

#[test]
fn at_0_8_udp_without_checksum_stays_without() {
    same_on_both(&Setup::MASQUERADE, |lab| {
        let echo = lab.echo("out", Proto::Udp, "203.0.113.9:5000".parse().unwrap());
        let arriving = Capture::start(&lab.outside);
        let datagram = Packet::udp("10.0.0.2:44000", "203.0.113.9:5000", b"unprotected", false);
        raw::send(&lab.inside, &[datagram]);
        let to_server = |p: &Packet| p.protocol == raw::UDP && p.word(2) == 5000;
        let seen = arriving
            .find(Duration::from_secs(1), to_server)
            .expect("it arrives");
        assert_eq!(
            (seen.source.to_string().as_str(), seen.word(0)),
            ("203.0.113.1", 44000)
        );
        assert_eq!(seen.word(6), 0, "the checksum field");
        assert!(echo.arrival_of(b"unprotected").is_some());
    });
}

#[test]
fn at_0_11_rules_are_listed_with_separate_counters() {
    on_natgate(&Setup::MASQUERADE, |lab| {
        let held = lab.hold("in", "10.0.0.2:40000");
        for _ in 0..10 {
            lab.ask(&held, "203.0.113.9:5000").answered();
        }
        let rules = lab.natgate().show("source-nat");
        let rule = &rules["source_nat"][0];
        assert_eq!(rule["name"], "masquerade", "{rules}");
        assert_eq!(rule["hits"], 1, "{rules}");
        // Both directions are counted: ten questions, ten answers.
        assert_eq!(rule["packets"], 20, "{rules}");
        let table = lab.natgate().ask(&["show", "source-nat"]);
        assert!(
            table.contains("masquerade") && table.contains("wan0"),
            "{table}"
        );
    });
}

#[test]
fn at_0_12_sessions_survive_good_reloads_and_bad_ones_change_nothing() {
    on_natgate(&Setup::MASQUERADE, |lab| {
        let held = lab.hold("in", "10.0.0.2:40000");
        let before = lab.ask(&held, "203.0.113.9:5000").answered();
        for round in 0..20 {
            if round % 6 == 5 {
                lab.reload(&Setup::MASQUERADE);
            }
            assert_eq!(lab.ask(&held, "203.0.113.9:5000").answered(), before);
        }
        let running = lab.natgate().ask(&["show", "config"]);
        let file = lab.natgate().config();
        let bad = Setup {
            natgate: "[[source-nat]]\nout = \"nowhere0\"\nvia = \"interface\"\n",
            ..Setup::MASQUERADE
        };
        lab.natgate().write_config(&bad);
        let path = file.to_str().unwrap();
        let check = lab.natgate().cli(&["check", path]);
        let reload = lab.natgate().cli(&["reload"]);
        assert_eq!(
            (check.status.code(), reload.status.code()),
            (Some(1), Some(5))
        );
        for output in [check, reload] {
            let message = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                message.contains("nowhere0") && message.contains(path),
                "{message}"
            );
        }
        assert_eq!(lab.natgate().ask(&["show", "config"]), running);
        assert_eq!(lab.ask(&held, "203.0.113.9:5000").answered(), before);
    });
}

#[test]
fn ipv6_is_forwarded_untranslated() {
    same_on_both(&Setup::MASQUERADE, |lab| {
        lab.expect(
            "UDP in [fd00:1::2]:40000 > [2001:db8::9]:5000 => seen [fd00:1::2]:40000, reply",
        );
        lab.expect("TCP in [fd00:1::3]:0 > [fd99::5]:80 => seen [fd00:1::3]:*, reply");
        lab.expect("UDP out [2001:db8::9]:0 > [fd00:1::2]:99 => seen [2001:db8::9]:*, reply");
    });
}

#[test]
fn a_closed_remote_port_is_reported_to_the_client() {
    same_on_both(&Setup::MASQUERADE, |lab| {
        let refused = Answer::Error(nix::errno::Errno::ECONNREFUSED);
        // E22: the ICMP error finds its way back to the socket through the translation.
        assert_eq!(
            lab.probe_closed("UDP in 10.0.0.2:40000 > 203.0.113.9:9"),
            refused
        );
        assert_eq!(
            lab.probe_closed("TCP in 10.0.0.2:0 > 203.0.113.9:9"),
            refused
        );
    });
}

#[test]
fn every_drop_has_a_reason() {
    on_natgate(&Setup::MASQUERADE, |lab: &mut Lab| {
        lab.expect("UDP out 203.0.113.9:7000 > 203.0.113.1:61000 listener in@10.0.0.2:61000 => seen –, no reply");
        let drops = accounting::drops(lab.natgate());
        let known = ["no_mapping", "own_service"];
        assert!(
            drops.keys().any(|k| known.contains(&k.as_str())),
            "{drops:?}"
        );
    });
}
