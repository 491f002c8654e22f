//! The box itself, seen from both sides: it looks like any router.

use std::time::Duration;

use crate::accounting;
use crate::lab::{Setup, on_natgate, same_on_both};
use crate::raw::{self, Capture, Packet};

/// A narrower wire on the far side.
const NARROW: Setup = Setup {
    wan_mtu: 1400,
    ..Setup::MASQUERADE
};

#[test]
fn own_addresses_answer_ping_on_both_sides() {
    same_on_both(&Setup::MASQUERADE, |lab| {
        for address in ["10.0.0.1", "203.0.113.1", "fd00:1::1", "2001:db8::1"] {
            lab.inside.sh(&format!("ping -c 2 -i 0.2 -W 2 {address}"));
        }
        for address in ["203.0.113.1", "2001:db8::1"] {
            lab.outside.sh(&format!("ping -c 2 -i 0.2 -W 2 {address}"));
        }
    });
}

#[test]
fn traceroute_shows_the_gateway_and_the_server() {
    same_on_both(&Setup::MASQUERADE, |lab| {
        for method in ["", "-I", "-T"] {
            let path = lab
                .inside
                .sh(&format!("traceroute -n -q 1 -w 2 {method} 203.0.113.9"));
            let hops: Vec<&str> = path
                .lines()
                .skip(1)
                .filter_map(|l| l.split_whitespace().nth(1))
                .collect();
            assert_eq!(hops, ["10.0.0.1", "203.0.113.9"], "{method}: {path}");
        }
        let path = lab.inside.sh("traceroute -6 -n -q 1 -w 2 fd99::5");
        assert!(
            path.contains("fd00:1::1") && path.contains("fd99::5"),
            "{path}"
        );
    });
}

#[test]
fn traceroute_and_tracepath_end_at_the_gateway_itself() {
    same_on_both(&Setup::MASQUERADE, |lab| {
        for (from, address) in [
            ("in", "10.0.0.1"),
            ("in", "203.0.113.1"),
            ("out", "203.0.113.1"),
        ] {
            for method in ["", "-I"] {
                let line = format!("traceroute -n -q 1 -w 2 -m 4 {method} {address}");
                let path = lab.ns(from).sh(&line);
                assert_eq!(path.lines().count(), 2, "one hop: {line}\n{path}");
                assert!(!path.contains('*'), "{line}\n{path}");
            }
            let path = lab.ns(from).sh(&format!("tracepath -n -m 4 {address}"));
            assert!(path.contains("reached"), "{from}: {path}");
        }
    });
}

#[test]
fn tracepath_finds_the_narrow_link() {
    same_on_both(&NARROW, |lab| {
        let path = lab.inside.sh("tracepath -n -m 5 203.0.113.9");
        assert!(
            path.contains("10.0.0.1") && path.contains("pmtu 1400") && path.contains("reached"),
            "{path}"
        );
        let path = lab.inside.sh("tracepath -6 -n -m 5 2001:db8::9");
        assert!(
            path.contains("fd00:1::1") && path.contains("pmtu 1400") && path.contains("reached"),
            "{path}"
        );
    });
}

#[test]
fn a_large_packet_is_fragmented_or_refused_as_its_sender_asked() {
    same_on_both(&NARROW, |lab| {
        let refused = lab
            .inside
            .try_sh("ping -c 1 -W 2 -M do -s 1450 203.0.113.9");
        let text = String::from_utf8_lossy(&refused.stdout).into_owned();
        assert!(
            text.contains("mtu = 1400") || text.contains("mtu=1400"),
            "{text}"
        );
        // The kernel of `in` has learned the MTU now; a raw packet without DF still crosses in one piece.
        let far = Capture::start(&lab.outside);
        let request = Packet::udp("10.0.0.2:40000", "203.0.113.9:5000", &[7; 1450], true);
        raw::send(&lab.inside, &[request]);
        let fragment =
            |p: &Packet| p.protocol == raw::UDP && p.destination.octets() == [203, 0, 113, 9];
        let first = far
            .find(Duration::from_secs(1), fragment)
            .expect("a first fragment");
        let second = far
            .find(Duration::from_secs(1), fragment)
            .expect("a second fragment");
        assert_eq!(
            (first.fragment & 0x3fff, second.fragment & 0x2000),
            (0x2000, 0)
        );
        assert_eq!(first.id, second.id);
        assert_eq!(first.payload.len() + second.payload.len(), 1458);
    });
}

#[test]
fn an_absent_neighbour_is_reported_as_unreachable() {
    same_on_both(&Setup::MASQUERADE, |lab| {
        let output = lab.inside.try_sh("ping -c 1 -W 5 203.0.113.77");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // Linux notices after it has translated and speaks from the far side; natgate from the near one.
        let speaker = if lab.is_kernel() {
            "203.0.113.1"
        } else {
            "10.0.0.1"
        };
        let expected = format!("From {speaker} icmp_seq=1 Destination Host Unreachable");
        assert!(text.contains(&expected), "{text}");
    });
}

#[test]
fn errors_quote_the_packet_as_its_sender_sent_it() {
    same_on_both(&Setup::MASQUERADE, |lab| {
        let arriving = Capture::start(&lab.inside);
        let mut request = Packet::udp("10.0.0.2:40000", "203.0.113.9:5000", b"short life", true);
        request.ttl = 1;
        raw::send(&lab.inside, std::slice::from_ref(&request));
        let expired = |p: &Packet| p.protocol == raw::ICMP && p.payload.first() == Some(&11);
        let error = arriving
            .find(Duration::from_secs(1), expired)
            .expect("time exceeded");
        assert_eq!(error.source.to_string(), "10.0.0.1");
        assert!(raw::l4_checksum_is_right(&error));
        assert_eq!(error.payload[8..], request.bytes()[..]);
        if !lab.is_kernel() {
            assert_eq!(accounting::dropped(lab.natgate(), "ttl_expired"), 1);
        }
    });
}

#[test]
fn broken_packets_are_dropped_each_for_its_reason() {
    on_natgate(&Setup::MASQUERADE, |lab| {
        // Something ordinary first, so that addresses are resolved and only the packet itself can fail.
        lab.expect("UDP in 10.0.0.2:40000 > 203.0.113.9:5000 => seen 203.0.113.1:40000, reply");
        let far = Capture::start(&lab.outside);
        let mut short = Packet::udp("10.0.0.2:40001", "203.0.113.9:5001", b"abcdefgh", true);
        short.payload.truncate(6);
        let mut long = Packet::udp("10.0.0.2:40001", "203.0.113.9:5001", b"abcdefgh", true);
        long.payload[4..6].copy_from_slice(&500u16.to_be_bytes());
        let martian = Packet::udp("203.0.113.1:40001", "203.0.113.9:5001", b"I am you", true);
        raw::send(&lab.inside, &[short, long, martian]);
        let arrived = far.find(Duration::from_millis(300), |p| p.protocol == raw::UDP);
        assert_eq!(arrived, None);
        let drops = accounting::drops(lab.natgate());
        for reason in ["l4_truncated", "l4_length", "martian_source"] {
            assert_eq!(drops.get(reason), Some(&1), "{reason}: {drops:?}");
        }
    });
}

#[test]
fn ten_fragments_in_any_order_with_a_duplicate_make_one_datagram() {
    same_on_both(&Setup::MASQUERADE, |lab| {
        let echo = lab.echo(
            "out",
            crate::probe::Proto::Udp,
            "203.0.113.9:5000".parse().unwrap(),
        );
        let data: Vec<u8> = (0..6000u32).map(|n| (n % 251) as u8).collect();
        let whole = Packet::udp("10.0.0.3:41000", "203.0.113.9:5000", &data, true);
        let pieces = whole.fragments(640);
        assert_eq!(pieces.len(), 10);
        let order = [4, 9, 2, 2, 7, 0, 5, 1, 8, 3, 6];
        let shuffled: Vec<Packet> = order.iter().map(|&n| pieces[n].clone()).collect();
        raw::send(&lab.inside, &shuffled);
        let seen = echo.arrival_of(&data).expect("the datagram arrived whole");
        assert_eq!(seen.to_string(), "203.0.113.1:41000");
    });
}
