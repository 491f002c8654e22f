//! Port forwards into a closed LAN and masquerade port ranges (AT-4.2 to AT-4.7).

use std::collections::BTreeSet;
use std::time::Duration;

use crate::lab::{Lab, Setup, on_natgate, same_on_both};
use crate::probe::Answer;
use crate::raw::{self, Capture, Packet};

/// ssh and DNS of one inside host, a shifted range, and masquerade for what goes out.
const FORWARDS: Setup = Setup {
    kernel: Some(
        "table ip nat {
           chain pre { type nat hook prerouting priority -100
             iifname wan0 ip daddr 203.0.113.1 tcp dport 8022 dnat to 10.0.0.2:22
             iifname wan0 ip daddr 203.0.113.1 udp dport 8053 dnat to 10.0.0.2:53
             iifname wan0 ip daddr 203.0.113.1 dnat to tcp dport map {
               9000 : 10.0.0.2 . 20, 9001 : 10.0.0.2 . 21, 9002 : 10.0.0.2 . 22 }
           }
           chain post { type nat hook postrouting priority 100
             oifname wan0 masquerade
           }
         }",
    ),
    natgate: r#"
        [[source-nat]]
        out = "wan0"
        via = "interface"
        [[port-forward]]
        in = "wan0"
        dst = "203.0.113.1"
        proto = "tcp"
        dport = "8022"
        to = "10.0.0.2:22"
        [[port-forward]]
        in = "wan0"
        dst = "203.0.113.1"
        proto = "udp"
        dport = "8053"
        to = "10.0.0.2:53"
        [[port-forward]]
        in = "wan0"
        dst = "203.0.113.1"
        proto = "tcp"
        dport = "9000-9002"
        to = "10.0.0.2:20-22"
    "#,
    ..Setup::PLAIN
};

#[test]
fn at_4_2_a_forwarded_port_is_reached_from_outside() {
    same_on_both(&FORWARDS, |lab| {
        lab.expect("TCP out 203.0.113.9:0 > 203.0.113.1:8022 listener in@10.0.0.2:22 => seen 203.0.113.9:*, reply");
        lab.expect("UDP out 203.0.113.10:0 > 203.0.113.1:8053 listener in@10.0.0.2:53 => seen 203.0.113.10:*, reply");
        lab.expect(
            "TCP out 203.0.113.9:0 > 203.0.113.1:8023 listener in@10.0.0.2:23 => seen –, no reply",
        );
    });
}

#[test]
fn at_4_3_ranges_of_equal_length_shift() {
    same_on_both(&FORWARDS, |lab| {
        for (outside, inside) in [(9000, 20), (9001, 21), (9002, 22)] {
            lab.expect(&format!(
                "TCP out 203.0.113.9:0 > 203.0.113.1:{outside} listener in@10.0.0.2:{inside} => seen 203.0.113.9:*, reply"
            ));
        }
    });
}

#[test]
fn at_4_4_several_targets_share_clients_by_hash() {
    let setup = Setup {
        kernel: Some(
            "table ip nat { chain pre { type nat hook prerouting priority -100
               iifname wan0 ip daddr 203.0.113.1 tcp dport 8022 dnat to jhash ip saddr mod 3 map {
                 0 : 10.0.0.2 . 22, 1 : 10.0.0.3 . 22, 2 : 10.0.0.4 . 22 }
             }; }",
        ),
        natgate: r#"
            [[port-forward]]
            in = "wan0"
            dst = "203.0.113.1"
            proto = "tcp"
            dport = "8022"
            to = ["10.0.0.2:22", "10.0.0.3:22", "10.0.0.4:22"]
            spread = "hash-source"
        "#,
        ..Setup::PLAIN
    };
    same_on_both(&setup, |lab| {
        let servers = ["in@10.0.0.2:22", "in@10.0.0.3:22", "in@10.0.0.4:22"];
        let mut used = BTreeSet::new();
        for client in 30..45 {
            lab.outside
                .ip(&format!("addr add 203.0.113.{client}/24 dev eth0"));
            let probe = format!("TCP out 203.0.113.{client}:0 > 203.0.113.1:8022");
            let chosen: Vec<_> = (0..3).map(|_| lab.probe_among(&probe, &servers)).collect();
            assert!(
                chosen[0].is_some() && chosen.iter().all(|c| *c == chosen[0]),
                "{chosen:?}"
            );
            used.insert(chosen[0]);
        }
        assert!(used.len() >= 2, "{used:?}");
    });
}

#[test]
fn at_4_5_an_inside_host_reaches_a_forward_by_its_public_address() {
    // E18: Linux needs an extra rule for this.
    let to_public = "TCP in 10.0.0.3:0 > 203.0.113.1:8022 listener in@10.0.0.2:22";
    on_natgate(&FORWARDS, |lab| {
        let seen = lab.probe(to_public).answered().ip().to_string();
        assert!(
            ["203.0.113.1", "10.0.0.1"].contains(&seen.as_str()),
            "the server saw {seen}"
        );
    });
    let without = Setup {
        natgate: r#"
            [[port-forward]]
            in = "wan0"
            dst = "203.0.113.1"
            proto = "tcp"
            dport = "8022"
            to = "10.0.0.2:22"
            hairpin = false
        "#,
        ..FORWARDS
    };
    on_natgate(&without, |lab| {
        lab.expect(&format!("{to_public} => seen –, no reply"));
    });
}

#[test]
fn two_inside_hosts_talk_through_their_external_endpoints() {
    // RFC 4787 REQ-9: hairpinning, and the receiver sees the sender's external endpoint.
    let setup = Setup {
        kernel: None,
        natgate: r#"
            [[pool]]
            name = "wan"
            addresses = ["203.0.113.20"]
            filtering = "endpoint"
            [[source-nat]]
            out = "wan0"
            via = "pool:wan"
        "#,
        ..Setup::PLAIN
    };
    on_natgate(&setup, |lab| {
        lab.expect("UDP in 10.0.0.2:40000 > 203.0.113.9:5000 => seen 203.0.113.20:40000, reply");
        lab.expect("UDP in 10.0.0.3:41000 > 203.0.113.20:40000 listener in@10.0.0.2:40000 => seen 203.0.113.20:41000, reply");
    });
}

#[test]
fn at_4_6_errors_of_a_forwarded_flow_reach_the_client() {
    same_on_both(&FORWARDS, |lab| {
        lab.expect("TCP in 10.0.0.2:0 > 203.0.113.9:80 => seen 203.0.113.1:*, reply");
        let arriving = Capture::start(&lab.outside);
        let answer = lab.probe_closed("UDP out 203.0.113.9:6000 > 203.0.113.1:8053");
        assert_eq!(answer, Answer::Error(nix::errno::Errno::ECONNREFUSED));
        let is_error = |p: &Packet| p.protocol == raw::ICMP && p.payload.first() == Some(&3);
        let error = arriving
            .find(Duration::from_secs(1), is_error)
            .expect("an ICMP error");
        assert_eq!(error.source.to_string(), "203.0.113.1");
        assert!(raw::l4_checksum_is_right(&error));
        let quoted = Packet::parse(&error.payload[8..]).expect("the whole datagram is quoted");
        assert_eq!(quoted.source.to_string(), "203.0.113.9");
        assert_eq!(quoted.destination.to_string(), "203.0.113.1");
        assert_eq!((quoted.word(0), quoted.word(2)), (6000, 8053));
        assert!(
            raw::l4_checksum_is_right(&quoted),
            "the quoted checksum is the sender's"
        );
    });
}

#[test]
fn at_1_15_source_rules_see_the_translated_destination() {
    // Only a rule about the inside address matches a forwarded connection.
    let by = |address: &str| {
        let kernel = format!(
            "table ip nat {{
               chain pre {{ type nat hook prerouting priority -100
                 iifname wan0 ip daddr 203.0.113.1 tcp dport 8022 dnat to 10.0.0.2:22
               }}
               chain post {{ type nat hook postrouting priority 100
                 oifname lan0 ip daddr {address} masquerade
               }}
             }}"
        );
        let natgate = format!(
            r#"
                [[source-nat]]
                out = "lan0"
                dst = "{address}"
                via = "interface"
                [[port-forward]]
                in = "wan0"
                dst = "203.0.113.1"
                proto = "tcp"
                dport = "8022"
                to = "10.0.0.2:22"
            "#
        );
        // A setup lives as long as the test program.
        Setup {
            kernel: Some(kernel.leak()),
            natgate: natgate.leak(),
            ..Setup::PLAIN
        }
    };
    let probe = "TCP out 203.0.113.9:0 > 203.0.113.1:8022 listener in@10.0.0.2:22";
    same_on_both(&by("203.0.113.1"), |lab| {
        lab.expect(&format!("{probe} => seen 203.0.113.9:*, reply"));
    });
    same_on_both(&by("10.0.0.2"), |lab| {
        lab.expect(&format!("{probe} => seen 10.0.0.1:*, reply"));
    });
}

#[test]
fn at_4_7_masquerade_can_stay_above_the_privileged_ports() {
    let setup = Setup {
        kernel: Some(
            "table ip nat { chain post { type nat hook postrouting priority 100
               oifname wan0 ip daddr != 10.0.0.0/24 ip protocol tcp masquerade to :1024-65535
               oifname wan0 ip daddr != 10.0.0.0/24 ip protocol udp masquerade to :1024-65535
               oifname wan0 ip daddr != 10.0.0.0/24 masquerade
             }; }",
        ),
        natgate: r#"
            [[source-nat]]
            out = "wan0"
            dst = "!10.0.0.0/24"
            proto = "tcp"
            via = "interface"
            ports = "1024-65535"
            [[source-nat]]
            out = "wan0"
            dst = "!10.0.0.0/24"
            proto = "udp"
            via = "interface"
            ports = "1024-65535"
            [[source-nat]]
            out = "wan0"
            dst = "!10.0.0.0/24"
            via = "interface"
        "#,
        ..Setup::PLAIN
    };
    same_on_both(&setup, |lab: &mut Lab| {
        for proto in ["UDP", "TCP"] {
            let low = lab
                .probe(&format!("{proto} in 10.0.0.2:300 > 203.0.113.9:5000"))
                .port();
            assert!(low >= 1024, "300 became {low}");
            lab.expect(&format!(
                "{proto} in 10.0.0.2:45000 > 203.0.113.9:5000 => seen 203.0.113.1:45000, reply"
            ));
        }
        lab.inside.sh("ping -c 1 -W 2 -I 10.0.0.2 203.0.113.9");
        let refused = Answer::Error(nix::errno::Errno::ECONNREFUSED);
        assert_eq!(
            lab.probe_closed("UDP in 10.0.0.2:0 > 203.0.113.9:9"),
            refused
        );
        assert_eq!(
            lab.probe_closed("TCP in 10.0.0.2:0 > 203.0.113.9:9"),
            refused
        );
    });
}

#[test]
fn a_static_address_is_translated_both_ways() {
    let setup = Setup {
        kernel: Some(
            "table ip nat {
               chain pre { type nat hook prerouting priority -100
                 iifname wan0 ip daddr 203.0.113.40 dnat to 10.0.0.4
               }
               chain post { type nat hook postrouting priority 100
                 oifname wan0 ip saddr 10.0.0.4 snat to 203.0.113.40
               }
             }",
        ),
        natgate: r#"
            [[static-nat]]
            external = "203.0.113.40/32"
            internal = "10.0.0.4/32"
            interface = "wan0"
        "#,
        kernel_extra: &["203.0.113.40/32"],
        ..Setup::PLAIN
    };
    same_on_both(&setup, |lab| {
        lab.expect("UDP in 10.0.0.4:333 > 203.0.113.9:5000 => seen 203.0.113.40:333, reply");
        lab.expect("TCP out 203.0.113.9:0 > 203.0.113.40:80 listener in@10.0.0.4:80 => seen 203.0.113.9:*, reply");
        lab.outside.sh("ping -c 1 -W 2 203.0.113.40");
    });
}
