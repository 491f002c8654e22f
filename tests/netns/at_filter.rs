//! The filter (AT-0.9, AT-0.10, AT-1.13, AT-1.15, AT-4.9 to AT-4.13), beside the kernel's FORWARD chain.

use std::time::Duration;

use nix::errno::Errno;

use crate::accounting;
use crate::lab::{Setup, on_natgate, same_on_both};
use crate::probe::Answer;
use crate::raw::{self, Capture, Packet};

/// Masquerade and a rule that lets out what the LAN sends, everything else dropped.
const CLOSED: Setup = Setup {
    kernel: Some(
        "table ip nat { chain post { type nat hook postrouting priority 100; oifname wan0 masquerade; }; }
         table inet filter { chain forward { type filter hook forward priority 0; policy drop
           ct state established,related accept
           iifname lan0 accept
         }; }",
    ),
    natgate: r#"
        [[source-nat]]
        name = "nat"
        src = "0.0.0.0/0"
        out = "wan0"
        via = "interface"
        [filter]
        default = "drop"
        [[filter.rule]]
        name = "out"
        in = "lan0"
        action = "accept"
    "#,
    ..Setup::PLAIN
};

#[test]
fn at_0_9_answers_of_what_was_let_out_come_back() {
    same_on_both(&CLOSED, |lab| {
        lab.expect("UDP in 10.0.0.2:40000 > 203.0.113.9:5000 => seen 203.0.113.1:40000, reply");
        lab.expect("TCP in 10.0.0.2:40000 > 203.0.113.9:80 => seen 203.0.113.1:40000, reply");
        lab.expect(
            "UDP in [fd00:1::2]:40000 > [2001:db8::9]:5000 => seen [fd00:1::2]:40000, reply",
        );
        lab.expect("TCP in [fd00:1::2]:40000 > [2001:db8::9]:80 => seen [fd00:1::2]:40000, reply");
        lab.inside.sh("ping -c 1 -W 2 -I 10.0.0.2 203.0.113.9");
        lab.inside.sh("ping -c 1 -W 2 -I fd00:1::2 2001:db8::9");
        // AT-4.7: a closed port's error is related.
        let refused = Answer::Error(Errno::ECONNREFUSED);
        for to in [
            "UDP in 10.0.0.2:0 > 203.0.113.9:9",
            "UDP in [fd00:1::2]:0 > [2001:db8::9]:9",
        ] {
            assert_eq!(lab.probe_closed(to), refused);
        }
    });
}

#[test]
fn at_0_9_stateless_rules_drop_the_answer() {
    let setup = Setup {
        kernel: Some(
            "table ip nat { chain post { type nat hook postrouting priority 100; oifname wan0 masquerade; }; }
             table inet filter { chain forward { type filter hook forward priority 0; policy drop
               iifname lan0 accept
             }; }",
        ),
        natgate: r#"
            [[source-nat]]
            src = "0.0.0.0/0"
            out = "wan0"
            via = "interface"
            [filter]
            default = "drop"
            established = "filter"
            [[filter.rule]]
            in = "lan0"
            action = "accept"
        "#,
        ..Setup::PLAIN
    };
    same_on_both(&setup, |lab| {
        lab.expect("UDP in 10.0.0.2:40000 > 203.0.113.9:5000 => seen 203.0.113.1:40000, timeout");
        lab.expect(
            "UDP in [fd00:1::2]:40000 > [2001:db8::9]:5000 => seen [fd00:1::2]:40000, timeout",
        );
    });
}

#[test]
fn at_0_10_what_nobody_let_in_stays_out() {
    same_on_both(&CLOSED, |lab| {
        lab.expect("UDP out 203.0.113.9:0 > 10.0.0.2:99 => seen –, timeout");
        lab.expect("TCP out 203.0.113.9:0 > 10.0.0.2:99 => seen –, timeout");
        lab.expect("UDP out [2001:db8::9]:0 > [fd00:1::2]:99 => seen –, timeout");
        lab.expect("TCP out [2001:db8::9]:0 > [fd00:1::2]:99 => seen –, timeout");
    });
}

#[test]
fn at_1_13_a_named_group_is_reached_on_its_service_alone() {
    const GROUPS: &str = r#"
        [[source-nat]]
        out = "wan0"
        via = "interface"
        [filter]
        default = "drop"
        [[filter.rule]]
        src = "203.0.113.0/24"
        dst = "@web"
        proto = "tcp"
        dport = "80"
        action = "accept"
        [[filter.rule]]
        in = "lan0"
        action = "accept"
        [sets]
    "#;
    let with = |kernel: &'static str, web: &str| {
        let text = format!("{GROUPS}web = [\"{web}\"]\n");
        Setup {
            kernel: Some(kernel),
            natgate: Box::leak(text.into_boxed_str()),
            ..Setup::PLAIN
        }
    };
    let kernel = |web: &str| -> &'static str {
        let text = format!(
            "table ip nat {{ chain post {{ type nat hook postrouting priority 100; oifname wan0 masquerade; }}; }}
             table ip filter {{ chain forward {{ type filter hook forward priority 0; policy drop
               ct state established,related accept
               ip saddr 203.0.113.0/24 ip daddr {web} tcp dport 80 accept
               iifname lan0 accept
             }}; }}"
        );
        Box::leak(text.into_boxed_str())
    };
    same_on_both(&with(kernel("10.0.0.2"), "10.0.0.2/32"), |lab| {
        lab.expect("TCP out 203.0.113.9:0 > 10.0.0.2:80 => seen 203.0.113.9:*, reply");
        lab.expect("TCP out 203.0.113.9:0 > 10.0.0.2:81 => seen –, timeout");
        lab.expect("TCP out 203.0.113.9:0 > 10.0.0.3:80 => seen –, timeout");
        lab.expect("TCP in 10.0.0.2:0 > 203.0.113.9:80 => seen 203.0.113.1:*, reply");
        // A change of the set acts on new connections at once.
        lab.reload(&with(kernel("10.0.0.3"), "10.0.0.3/32"));
        lab.expect("TCP out 203.0.113.9:0 > 10.0.0.2:80 => seen –, timeout");
        lab.expect("TCP out 203.0.113.9:0 > 10.0.0.3:80 => seen 203.0.113.9:*, reply");
    });
}

/// ssh of one host, asked about by its inside and by its public address.
const FORWARD: &str = r#"
    [[source-nat]]
    out = "wan0"
    via = "interface"
    [[port-forward]]
    in = "wan0"
    dst = "203.0.113.1"
    proto = "tcp"
    dport = "8022"
    to = "10.0.0.2:22"
    allow = false
"#;

#[test]
fn at_1_15_the_filter_sees_the_translated_destination() {
    for (kernel, rule, passes) in [
        (
            "ip daddr 10.0.0.2 tcp dport 22",
            "dst = \"10.0.0.2\"\nproto = \"tcp\"\ndport = \"22\"",
            true,
        ),
        ("tcp dport 8022", "proto = \"tcp\"\ndport = \"8022\"", false),
        ("ip daddr 203.0.113.1", "dst = \"203.0.113.1\"", false),
        (
            "meta l4proto tcp ct original ip daddr 203.0.113.1 ct original proto-dst 8022",
            "orig_dst = \"203.0.113.1\"\nproto = \"tcp\"\norig_dport = \"8022\"",
            true,
        ),
        ("ct status dnat", "state = \"dnat\"", true),
        (
            "iifname wan0 oifname lan0 ip saddr 203.0.113.9",
            "in = \"wan0\"\nout = \"lan0\"\nsrc = \"203.0.113.9\"",
            true,
        ),
    ] {
        let kernel = format!(
            "table ip nat {{
               chain pre {{ type nat hook prerouting priority -100
                 iifname wan0 ip daddr 203.0.113.1 tcp dport 8022 dnat to 10.0.0.2:22
               }}
               chain post {{ type nat hook postrouting priority 100; oifname wan0 masquerade; }}
             }}
             table ip filter {{ chain forward {{ type filter hook forward priority 0; policy drop
               ct state established,related accept
               {kernel} accept
             }}; }}"
        );
        let natgate = format!(
            "{FORWARD}\n[filter]\ndefault = \"drop\"\n[[filter.rule]]\n{rule}\naction = \"accept\"\n"
        );
        let setup = Setup {
            kernel: Some(Box::leak(kernel.into_boxed_str())),
            natgate: Box::leak(natgate.into_boxed_str()),
            ..Setup::PLAIN
        };
        let expected = if passes {
            "seen 203.0.113.9:*, reply"
        } else {
            "seen –, timeout"
        };
        same_on_both(&setup, |lab| {
            lab.expect(&format!(
                "TCP out 203.0.113.9:0 > 203.0.113.1:8022 listener in@10.0.0.2:22 => {expected}"
            ));
        });
    }
}

#[test]
fn at_1_15_explain_names_the_rule_of_each_stage() {
    on_natgate(&CLOSED, |lab| {
        let words = [
            "in=lan0",
            "src=10.0.0.2",
            "dst=203.0.113.9",
            "proto=udp",
            "sport=40000",
            "dport=5000",
        ];
        let ask = |more: &[&str]| {
            let mut args = vec!["explain"];
            args.extend(words);
            args.extend(more);
            lab.natgate().ask(&args)
        };
        let fresh = ask(&[]);
        for line in [
            "filter       accept  by filter out",
            "source       from pool interface:wan0  by source-nat nat",
            "result       forwarded as 203.0.113.1:40000 > 203.0.113.9:5000",
        ] {
            assert!(fresh.contains(line), "{line} in:\n{fresh}");
        }
        assert!(!fresh.contains("session"), "{fresh}");
        // Nothing was opened by asking; a living session is named.
        assert_eq!(lab.natgate().show("sessions")["total"], 0);
        lab.expect("UDP in 10.0.0.2:40000 > 203.0.113.9:5000 => seen 203.0.113.1:40000, reply");
        assert!(ask(&[]).contains("session      203.0.113.1:40000 > 203.0.113.9:5000, "));
        // A candidate is asked the same way.
        let config = std::fs::read_to_string(lab.natgate().config()).unwrap();
        let candidate = lab.dir.path().join("candidate.toml");
        std::fs::write(&candidate, config.replace("in = \"lan0\"", "in = \"wan0\"")).unwrap();
        let dropped = ask(&["--config", candidate.to_str().unwrap()]);
        assert!(
            dropped.contains("result       dropped: policy_filter"),
            "{dropped}"
        );
    });
}

/// The five rules of a closed LAN.
const FIVE: Setup = Setup {
    kernel: Some(
        "table ip nat {
           chain pre { type nat hook prerouting priority -100
             iifname wan0 ip daddr 203.0.113.1 tcp dport 8022 dnat to 10.0.0.2:22
             iifname wan0 ip daddr 203.0.113.1 udp dport 8053 dnat to 10.0.0.2:53
           }
           chain post { type nat hook postrouting priority 100; oifname wan0 masquerade; }
         }
         table ip filter { chain forward { type filter hook forward priority 0; policy accept
           ip daddr 10.0.0.0/24 oifname lan0 ct state related,established accept
           ip saddr 10.0.0.0/24 iifname lan0 accept
           iifname lan0 oifname lan0 accept
           oifname lan0 reject with icmp type port-unreachable
           iifname lan0 reject with icmp type port-unreachable
         }; }",
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
        allow = false
        [[port-forward]]
        in = "wan0"
        dst = "203.0.113.1"
        proto = "udp"
        dport = "8053"
        to = "10.0.0.2:53"
        allow = false
        [filter]
        default = "accept"
        [[filter.rule]]
        dst = "10.0.0.0/24"
        out = "lan0"
        state = ["related", "established"]
        action = "accept"
        [[filter.rule]]
        src = "10.0.0.0/24"
        in = "lan0"
        action = "accept"
        [[filter.rule]]
        in = "lan0"
        out = "lan0"
        action = "accept"
        [[filter.rule]]
        out = "lan0"
        action = "reject"
        reject_with = "icmp-port-unreachable"
        [[filter.rule]]
        in = "lan0"
        action = "reject"
        reject_with = "icmp-port-unreachable"
    "#,
    ..Setup::PLAIN
};

#[test]
fn at_4_9_a_closed_lan_calls_out_and_refuses_calls() {
    same_on_both(&FIVE, |lab| {
        lab.expect("UDP in 10.0.0.2:0 > 203.0.113.9:5000 => seen 203.0.113.1:*, reply");
        lab.expect("TCP in 10.0.0.2:0 > 203.0.113.9:80 => seen 203.0.113.1:*, reply");
        lab.expect("UDP out 203.0.113.9:0 > 10.0.0.2:99 => seen –, refused");
        lab.expect("TCP out 203.0.113.9:0 > 10.0.0.2:99 => seen –, refused");
    });
}

/// The ICMP error that a packet sent in one of the namespaces meets.
fn told(lab: &crate::lab::Lab, role: &str, packet: &Packet) -> Option<Packet> {
    let arriving = Capture::start(lab.ns(role));
    raw::send(lab.ns(role), std::slice::from_ref(packet));
    let source = packet.source;
    arriving.find(Duration::from_millis(700), |p: &Packet| {
        p.protocol == raw::ICMP && p.payload.first() == Some(&3) && p.destination == source
    })
}

#[test]
fn at_4_10_the_error_quotes_the_packet_as_it_was_sent() {
    same_on_both(&FIVE, |lab| {
        for (to, size) in [
            ("10.0.0.2:99", 100),
            ("203.0.113.1:8053", 100),
            ("10.0.0.2:99", 1000),
        ] {
            let sent = Packet::udp("203.0.113.9:6000", to, &vec![7; size], true);
            let error = told(lab, "out", &sent).expect("an ICMP error");
            assert_eq!(error.source.to_string(), "203.0.113.1");
            assert_eq!((error.payload[1], error.ttl, error.tos), (3, 64, 0xc0));
            assert!(raw::l4_checksum_is_right(&error));
            let whole = 28 + size;
            let quoted = error.payload.len() - 8;
            assert_eq!(quoted, whole.min(576 - 28), "quoted up to 576 bytes in all");
            let inner = &error.payload[8..];
            let destination = to
                .rsplit_once(':')
                .unwrap()
                .0
                .parse::<std::net::Ipv4Addr>()
                .unwrap();
            assert_eq!(inner[12..16], [203, 0, 113, 9]);
            assert_eq!(inner[16..20], destination.octets(), "as the client sent it");
        }
        // Nothing about later fragments and errors.
        let mut fragment = Packet::udp("203.0.113.9:6000", "10.0.0.2:99", &[7; 64], true);
        fragment.fragment = 8;
        assert_eq!(told(lab, "out", &fragment), None);
        let error = Packet::new("203.0.113.9", "10.0.0.2", raw::ICMP, {
            let quote = Packet::udp("10.0.0.2:1", "203.0.113.9:2", b"x", true);
            let mut message = vec![3, 1, 0, 0, 0, 0, 0, 0];
            message.extend(quote.bytes());
            let sum = raw::ones_complement(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            message
        });
        assert_eq!(told(lab, "out", &error), None);
    });
}

#[test]
fn at_4_11_borrowed_sources_are_rejected_by_the_last_rule() {
    same_on_both(&FIVE, |lab| {
        lab.inside.ip("addr add 10.55.0.2/32 dev eth0");
        // The kernel needs a way back to tell the sender, as natgate does.
        if lab.is_kernel() {
            lab.middle.ip("route add 10.55.0.0/24 dev lan0");
        }
        lab.expect("UDP in 10.55.0.2:0 > 203.0.113.9:5000 => seen –, no reply");
        if !lab.is_kernel() {
            let rules = lab.natgate().show("filter");
            let last = &rules["filter"][4];
            assert_eq!(
                (&last["index"], &last["packets"]),
                (&5.into(), &1.into()),
                "{rules}"
            );
        }
    });
}

#[test]
fn at_4_12_a_forward_is_open_once_a_rule_or_its_own_key_accepts_it() {
    let knock = "TCP out 203.0.113.9:0 > 203.0.113.1:8022 listener in@10.0.0.2:22";
    same_on_both(&FIVE, |lab| {
        lab.expect(&format!("{knock} => seen –, refused"));
        let accept = "[[filter.rule]]\ndst = \"10.0.0.2\"\nproto = \"tcp\"\ndport = \"22\"\nout = \"lan0\"\naction = \"accept\"\n";
        let natgate =
            FIVE.natgate
                .replacen("[[filter.rule]]", &format!("{accept}[[filter.rule]]"), 1);
        let kernel = FIVE.kernel.unwrap().replacen(
            "policy accept",
            "policy accept\nip daddr 10.0.0.2 tcp dport 22 oifname lan0 accept\n",
            1,
        );
        lab.reload(&Setup {
            kernel: Some(Box::leak(kernel.into_boxed_str())),
            natgate: Box::leak(natgate.into_boxed_str()),
            ..FIVE
        });
        lab.expect(&format!("{knock} => seen 203.0.113.9:*, reply"));
    });
    let open = FIVE.natgate.replace("allow = false", "allow = true");
    let setup = Setup {
        natgate: Box::leak(open.into_boxed_str()),
        ..FIVE
    };
    on_natgate(&setup, |lab| {
        lab.expect(&format!("{knock} => seen 203.0.113.9:*, reply"));
    });
}

/// What a datagram and a connection meet under each reject type: what the sender's socket reports, which is what the type
/// is for.
#[test]
fn at_4_12_every_reject_type_says_what_the_kernel_says() {
    const V4: &[(&str, &str)] = &[
        ("icmp-net-unreachable", "icmp type net-unreachable"),
        ("icmp-host-unreachable", "icmp type host-unreachable"),
        ("icmp-proto-unreachable", "icmp type prot-unreachable"),
        ("icmp-port-unreachable", "icmp type port-unreachable"),
        ("icmp-net-prohibited", "icmp type net-prohibited"),
        ("icmp-host-prohibited", "icmp type host-prohibited"),
        ("icmp-admin-prohibited", "icmp type admin-prohibited"),
    ];
    const V6: &[(&str, &str)] = &[
        ("icmp6-no-route", "icmpv6 type no-route"),
        ("icmp6-adm-prohibited", "icmpv6 type admin-prohibited"),
        ("icmp6-addr-unreachable", "icmpv6 type addr-unreachable"),
        ("icmp6-port-unreachable", "icmpv6 type port-unreachable"),
        ("icmp6-policy-fail", "icmpv6 type policy-fail"),
        ("icmp6-reject-route", "icmpv6 type reject-route"),
    ];
    // One rule for each type, told apart by port; TCP with a reset beside them.
    let (mut kernel, mut natgate) = (String::new(), String::new());
    for (port, (ours, theirs)) in (7000..).zip(V4.iter().chain(V6)) {
        let (family, key) = match ours.starts_with("icmp6") {
            true => ("ip6", "fd00::/8"),
            false => ("ip", "10.0.0.0/24"),
        };
        kernel += &format!("{family} saddr {key} udp dport {port} reject with {theirs}\n");
        natgate += &format!(
            "[[filter.rule]]\nsrc = \"{key}\"\nproto = \"udp\"\ndport = \"{port}\"\naction = \"reject\"\nreject_with = \"{ours}\"\n"
        );
    }
    kernel += "tcp dport 7099 reject with tcp reset\n";
    natgate += "[[filter.rule]]\nproto = \"tcp\"\ndport = \"7099\"\naction = \"reject\"\nreject_with = \"tcp-reset\"\n";
    let kernel = format!(
        "table inet filter {{ chain forward {{ type filter hook forward priority 0; policy accept\n{kernel} }}; }}"
    );
    let setup = Setup {
        kernel: Some(Box::leak(kernel.into_boxed_str())),
        natgate: Box::leak(natgate.into_boxed_str()),
        ..Setup::PLAIN
    };
    let codes = [0u8, 1, 2, 3, 9, 10, 13];
    same_on_both(&setup, |lab| {
        for (port, code) in (7000..).zip(codes) {
            let sent = Packet::udp(
                "10.0.0.2:6000",
                &format!("203.0.113.9:{port}"),
                b"knock",
                true,
            );
            let error = told(lab, "in", &sent).expect("an ICMP error");
            assert_eq!(error.source.to_string(), "10.0.0.1");
            assert_eq!(error.payload[..2], [3, code], "port {port}");
        }
        let expected = [
            Errno::ENETUNREACH,
            Errno::EACCES,
            Errno::EHOSTUNREACH,
            Errno::ECONNREFUSED,
            Errno::EACCES,
            Errno::EACCES,
        ];
        for (port, expected) in (7007..).zip(expected) {
            let probe = format!("UDP in [fd00:1::2]:0 > [2001:db8::9]:{port}");
            assert_eq!(lab.probe_closed(&probe), Answer::Error(expected), "{probe}");
        }
        let refused = Answer::Error(Errno::ECONNREFUSED);
        for to in [
            "TCP in 10.0.0.2:0 > 203.0.113.9:7099",
            "TCP in [fd00:1::2]:0 > [2001:db8::9]:7099",
        ] {
            assert_eq!(lab.probe_closed(to), refused);
        }
    });
}

#[test]
fn at_4_13_the_listing_counts_packets() {
    on_natgate(&CLOSED, |lab| {
        let held = lab.hold("in", "10.0.0.2:40000");
        for _ in 0..10 {
            lab.ask(&held, "203.0.113.9:5000").answered();
        }
        lab.expect("UDP out 203.0.113.9:0 > 10.0.0.2:99 => seen –, timeout");
        let rules = lab.natgate().show("filter");
        let row = |index: usize, key: &str| rules["filter"][index][key].clone();
        for (key, value) in [("index", 1), ("hits", 1), ("packets", 20)] {
            assert_eq!(row(0, key), value, "{rules}");
        }
        assert!(row(0, "bytes").as_u64() >= Some(20 * 28), "{rules}");
        for (key, value) in [
            ("name", "out"),
            ("in", "lan0"),
            ("out", "any"),
            ("action", "accept"),
        ] {
            assert_eq!(row(0, key), value, "{rules}");
        }
        assert_eq!(
            (row(1, "name"), row(1, "action")),
            ("default".into(), "drop".into())
        );
        assert_eq!(row(1, "packets"), 1);
        // The translation counts the same packets.
        assert_eq!(
            lab.natgate().show("source-nat")["source_nat"][0]["packets"],
            20
        );
        assert_eq!(accounting::dropped(lab.natgate(), "policy_filter"), 1);
        let table = lab.natgate().ask(&["show", "filter"]);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[0].starts_with("INDEX") && lines.len() == 3, "{table}");
        lab.natgate().ask(&["clear", "counters"]);
        assert_eq!(lab.natgate().show("filter")["filter"][0]["packets"], 0);
    });
}

/// AT-4.1 and RFC 3704: strict wants the way back, loose any way.
#[test]
fn loose_source_verification_wants_a_route() {
    let setup = Setup {
        kernel: None,
        natgate: "",
        ..Setup::PLAIN
    };
    on_natgate(&setup, |lab| {
        // The base configuration has a default route, so every source has a way back: nothing is refused.
        let config = std::fs::read_to_string(lab.natgate().config()).unwrap();
        let loose = config.replacen(
            "name = \"lan0\"\n",
            "name = \"lan0\"\nurpf = \"loose\"\n",
            1,
        );
        std::fs::write(lab.natgate().config(), &loose).unwrap();
        lab.natgate().ask(&["reload"]);
        lab.expect("UDP in 10.0.0.2:0 > 203.0.113.9:5000 => seen 10.0.0.2:*, reply");
        let sent = Packet::udp("10.55.0.2:1", "203.0.113.9:5000", b"borrowed", true);
        raw::send(&lab.inside, std::slice::from_ref(&sent));
        let strict = loose.replace("\"loose\"", "\"strict\"");
        std::fs::write(lab.natgate().config(), &strict).unwrap();
        assert_eq!(accounting::dropped(lab.natgate(), "urpf"), 0);
        lab.natgate().ask(&["reload"]);
        raw::send(
            &lab.inside,
            &[Packet::udp(
                "10.55.0.2:2",
                "203.0.113.9:5000",
                b"borrowed",
                true,
            )],
        );
        lab.expect("UDP in 10.0.0.2:0 > 203.0.113.9:5000 => seen 10.0.0.2:*, reply");
        assert_eq!(accounting::dropped(lab.natgate(), "urpf"), 1);
    });
}
