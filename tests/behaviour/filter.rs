//! The filter over IPv4: which flows pass, who is told, what is counted.

use natgate::base::DropReason;
use natgate::dataplane::accounts::RuleCount;

use crate::common::*;
use crate::*;

/// A filter whose default drops, with rules.
fn closed(rules: &str) -> String {
    format!("[filter]\ndefault = \"drop\"\n{rules}")
}

/// One rule.
fn rule(keys: &[&str]) -> String {
    format!("[[filter.rule]]\n{}\n", keys.join("\n"))
}

const OUT: &str = "[[filter.rule]]\nin = \"lan0\"\naction = \"accept\"\n";
const HOST: End = ("10.0.0.2", 40000);
const FORWARD: &str = "[[port-forward]]\nin = \"wan0\"\ndst = \"203.0.113.1\"\nproto = \"tcp\"\ndport = \"8022\"\nto = \"10.0.0.2:22\"\n";

/// What the rule with this name has counted.
fn counted(rack: &Rack, name: &str) -> RuleCount {
    let info = rack.policy.rules.iter().find(|r| r.name == name).unwrap();
    let counts = rack.rules();
    counts.get(info.id.index()).copied().unwrap_or_default()
}

#[test]
fn a_closed_filter_lets_out_what_a_rule_accepts_and_its_answers_in() {
    for nat in [MASQUERADE, ""] {
        let rules = format!("{nat}{}", closed(OUT));
        everywhere(|workers, at| {
            let mut rack = lab(workers, &rules);
            let out = one(&mut rack, 0, LAN, &call(HOST));
            let public: End = if nat.is_empty() {
                HOST
            } else {
                ("203.0.113.1", 40000)
            };
            assert_eq!(out.source, (ip(public.0), public.1));
            let back = one(&mut rack, at, WAN, &udp(WAN, SERVER, public, b"answer"));
            assert_eq!((back.port, back.destination), (LAN, (ip(HOST.0), HOST.1)));
            let stranger = udp(WAN, ("203.0.113.10", 7), ("10.0.0.3", 99), b"in");
            dropped(&mut rack, at, WAN, &stranger, DropReason::PolicyFilter);
            assert_eq!(rack.sessions(), 1, "what is refused leaves nothing behind");
        });
    }
}

/// E31, AT-0.9: stateless rules.
#[test]
fn answers_are_judged_where_the_filter_says_so() {
    let stateless = closed(OUT).replace("[filter]\n", "[filter]\nestablished = \"filter\"\n");
    let both = format!(
        "{stateless}{}",
        rule(&[
            "state = [\"established\", \"related\"]",
            "out = \"lan0\"",
            "action = \"accept\""
        ])
    );
    everywhere(|workers, at| {
        let answer = udp(WAN, SERVER, ("203.0.113.1", 40000), b"answer");
        let mut rack = lab(workers, &format!("{MASQUERADE}{stateless}"));
        let sent = one(&mut rack, at, LAN, &call(HOST));
        let quote = {
            let mut frame = udp(WAN, ("203.0.113.1", 40000), SERVER, b"call");
            frame[14..].copy_from_slice(&udp_as_sent(&sent.payload));
            frame
        };
        for _ in 0..2 {
            dropped(&mut rack, at, WAN, &answer, DropReason::PolicyFilter);
        }
        let error = icmp_error(WAN, "203.0.113.9", "203.0.113.1", (3, 3), &quote);
        dropped(&mut rack, at, WAN, &error, DropReason::PolicyFilter);
        one(&mut rack, at, LAN, &call(HOST));
        assert_eq!(
            counted(&rack, "default").packets,
            3,
            "each answer is counted"
        );

        let mut rack = lab(workers, &format!("{MASQUERADE}{both}"));
        works(&mut rack, at, HOST, (ip("203.0.113.1"), 40000));
        one(&mut rack, at, WAN, &error);
    });
}

/// The IP packet of a translated call, as the server's error quotes it.
fn udp_as_sent(payload: &[u8]) -> Vec<u8> {
    udp(WAN, ("203.0.113.1", 40000), SERVER, payload)[14..].to_vec()
}

/// E17, AT-1.15: the destination is seen translated, the source not yet; what was called is there to ask for.
#[test]
fn the_filter_stands_between_destination_and_source_translation() {
    let closed_forward = FORWARD.to_owned() + "allow = false\n";
    let knock = tcp(WAN, ("203.0.113.9", 5555), ("203.0.113.1", 8022), "S");
    for (keys, passes) in [
        ("dst = \"10.0.0.2\"\nproto = \"tcp\"\ndport = \"22\"", true),
        ("proto = \"tcp\"\ndport = \"8022\"", false),
        ("dst = \"203.0.113.1\"", false),
        (
            "orig_dst = \"203.0.113.1\"\nproto = \"tcp\"\norig_dport = \"8022\"",
            true,
        ),
        ("orig_dst = \"10.0.0.2\"", false),
        ("in = \"wan0\"\nout = \"lan0\"\nsrc = \"203.0.113.9\"", true),
        ("in = \"wan0\"\nout = \"wan0\"", false),
        ("state = \"dnat\"", true),
        ("state = \"new\"", true),
        ("state = [\"new\", \"!dnat\"]", false),
        ("state = \"snat\"", false),
        ("proto = \"!tcp\"", false),
    ] {
        let rules = closed(&rule(&[keys, "action = \"accept\""]));
        everywhere(|workers, at| {
            let mut rack = lab(workers, &format!("{MASQUERADE}{closed_forward}{rules}"));
            if passes {
                let seen = one(&mut rack, at, WAN, &knock);
                assert_eq!(seen.destination, (ip("10.0.0.2"), 22), "{keys}");
                let answer = tcp(LAN, ("10.0.0.2", 22), ("203.0.113.9", 5555), "SA");
                assert_eq!(
                    one(&mut rack, at, LAN, &answer).source,
                    (ip("203.0.113.1"), 8022)
                );
            } else {
                dropped(&mut rack, at, WAN, &knock, DropReason::PolicyFilter);
            }
        });
    }
    let snat = closed(&rule(&[
        "src = \"10.0.0.0/24\"",
        "out = \"wan0\"",
        "action = \"accept\"",
    ]));
    let mut rack = lab(1, &format!("{MASQUERADE}{snat}"));
    one(&mut rack, 0, LAN, &call(HOST));
}

/// AT-4.12: an allowed forward is not asked about, whatever the rules say.
#[test]
fn allowed_forwards_pass_and_others_are_asked_about() {
    let refuse = rule(&["action = \"drop\""]);
    let knock = tcp(WAN, ("203.0.113.9", 5555), ("203.0.113.1", 8022), "S");
    let hairpin = tcp(LAN, ("10.0.0.3", 6666), ("203.0.113.1", 8022), "S");
    everywhere(|workers, at| {
        let mut rack = lab(
            workers,
            &format!("{MASQUERADE}{FORWARD}{}", closed(&refuse)),
        );
        assert_eq!(
            one(&mut rack, at, WAN, &knock).destination.0,
            ip("10.0.0.2")
        );
        assert_eq!(
            one(&mut rack, at, LAN, &hairpin).destination.0,
            ip("10.0.0.2")
        );

        // Neither about answers, where the filter judges those.
        let stateless =
            closed(&refuse).replace("[filter]\n", "[filter]\nestablished = \"filter\"\n");
        let text = format!("{MASQUERADE}{FORWARD}{stateless}");
        let mut rack = lab(workers, &text);
        one(&mut rack, at, WAN, &knock);
        let answer = tcp(LAN, ("10.0.0.2", 22), ("203.0.113.9", 5555), "SA");
        one(&mut rack, at, LAN, &answer);
        reload(&mut rack, &lab_text(workers, &text, ""));
        one(&mut rack, at, LAN, &answer);

        let asked = format!("{FORWARD}allow = false\n");
        let mut rack = lab(workers, &format!("{MASQUERADE}{asked}{}", closed(&refuse)));
        dropped(&mut rack, at, WAN, &knock, DropReason::PolicyFilter);
        dropped(&mut rack, at, LAN, &hairpin, DropReason::PolicyFilter);
        assert_eq!(rack.sessions(), 0);
        // A hairpin is asked about as what it will be: from the LAN to the LAN, to the server's own port.
        let keys = [
            "in = \"lan0\"",
            "out = \"lan0\"",
            "proto = \"tcp\"",
            "dport = \"22\"",
            "action = \"accept\"",
        ];
        let mut rack = lab(
            workers,
            &format!("{MASQUERADE}{asked}{}", closed(&rule(&keys))),
        );
        assert_eq!(
            one(&mut rack, at, LAN, &hairpin).destination.0,
            ip("10.0.0.2")
        );
        dropped(&mut rack, at, WAN, &knock, DropReason::PolicyFilter);
    });
}

/// AT-4.10, AT-4.12: every reject type, with the packet quoted as its sender sent it.
#[test]
fn rejections_say_what_their_rule_says() {
    for (with, code) in [
        ("icmp-net-unreachable", 0),
        ("icmp-host-unreachable", 1),
        ("icmp-proto-unreachable", 2),
        ("icmp-port-unreachable", 3),
        ("icmp-net-prohibited", 9),
        ("icmp-host-prohibited", 10),
        ("icmp-admin-prohibited", 13),
        ("icmp6-no-route", 0),
        ("icmp6-adm-prohibited", 13),
        ("icmp6-addr-unreachable", 1),
        ("icmp6-port-unreachable", 3),
        ("icmp6-policy-fail", 13),
        ("icmp6-reject-route", 13),
    ] {
        let reject = rule(&["action = \"reject\"", &format!("reject_with = \"{with}\"")]);
        let mut rack = lab(1, &format!("{MASQUERADE}{FORWARD}allow = false\n{reject}"));
        for (port, asked) in [
            (LAN, call(HOST)),
            (
                WAN,
                tcp(WAN, ("203.0.113.9", 5555), ("203.0.113.1", 8022), "S"),
            ),
        ] {
            let sent = rack.receive(WorkerId(0), port, &[&asked]);
            balanced(&rack);
            let told = seen(&sent[0]);
            assert_eq!(
                (told.port, told.ttl, sent[0].1[15]),
                (port, 64, 0xc0),
                "{with}"
            );
            assert_eq!(told.payload[..2], [3, code], "{with}");
            assert_eq!(told.payload[8..], asked[14..], "{with}: quoted as sent");
        }
        assert_eq!(rack.drops(DropReason::PolicyFilter), 2);
        assert_eq!(rack.sessions(), 0);
    }
}

#[test]
fn resets_come_as_if_from_the_closed_port() {
    let reject = rule(&[
        "proto = \"tcp\"",
        "action = \"reject\"",
        "reject_with = \"tcp-reset\"",
    ]);
    everywhere(|workers, at| {
        let mut rack = lab(
            workers,
            &format!("{MASQUERADE}{FORWARD}allow = false\n{reject}"),
        );
        for (port, from, to) in [
            (LAN, HOST, ("203.0.113.9", 80)),
            (WAN, ("203.0.113.9", 5555), ("203.0.113.1", 8022)),
        ] {
            let sent = send(&mut rack, at, port, &tcp(port, from, to, "S"));
            let told = seen(&sent[0]);
            assert_eq!(
                (told.port, told.source, told.destination),
                (port, (ip(to.0), to.1), (ip(from.0), from.1))
            );
            assert_eq!(sent[0].1[47], 0x14, "RST and ACK");
        }
        // A reset is never answered, and datagrams are another rule's business.
        dropped(
            &mut rack,
            at,
            LAN,
            &tcp(LAN, HOST, SERVER, "R"),
            DropReason::PolicyFilter,
        );
        one(&mut rack, at, LAN, &call(HOST));
    });
}

/// AT-4.10: nothing is said about errors, to groups, or too often.
#[test]
fn rejections_are_limited_per_source() {
    let reject = rule(&["action = \"reject\""]);
    let mut rack = lab(1, &reject);
    let mut told = 0;
    for port in 0..200 {
        told += send(
            &mut rack,
            0,
            LAN,
            &udp(LAN, ("10.0.0.2", 1000 + port), SERVER, b"x"),
        )
        .len();
    }
    assert!((1..100).contains(&told), "{told} of 200");
    assert_eq!(rack.drops(DropReason::PolicyFilter), 200);
    assert_eq!(
        send(&mut rack, 0, LAN, &udp(LAN, ("10.0.0.3", 7), SERVER, b"x")).len(),
        1
    );
}

/// E16: who knocks at an external port that nobody has is told where the filter's default is to tell.
#[test]
fn a_rejecting_default_answers_for_ports_nobody_has() {
    let nat = pool("filtering = \"address-port\"");
    for (default, told) in [("reject", 1), ("drop", 0), ("accept", 0)] {
        let rules = format!("{nat}[filter]\ndefault = \"{default}\"\n{OUT}");
        everywhere(|workers, at| {
            let mut rack = lab(workers, &rules);
            one(&mut rack, at, LAN, &call(HOST));
            for (port, reason) in [
                (40000, DropReason::Filtered),
                (41000, DropReason::NoMapping),
            ] {
                let knock = udp(WAN, ("203.0.113.10", 5), ("203.0.113.20", port), b"knock");
                let sent = send(&mut rack, at, WAN, &knock);
                assert_eq!((sent.len(), rack.drops(reason)), (told, 1), "{default}");
                if let Some(error) = sent.first() {
                    assert_eq!(seen(error).payload[..2], [3, 3]);
                }
            }
        });
    }
}

#[test]
fn icmp_is_told_apart_by_type() {
    let rules = closed(&format!(
        "{}{}",
        rule(&[
            "proto = \"icmp\"",
            "icmp_type = \"!timestamp-request\"",
            "action = \"accept\""
        ]),
        rule(&["proto = \"udp\"", "action = \"accept\""]),
    ));
    everywhere(|workers, at| {
        let mut rack = lab(workers, &format!("{MASQUERADE}{rules}"));
        one(&mut rack, at, LAN, &ping(LAN, "10.0.0.2", "203.0.113.9", 7));
        one(
            &mut rack,
            at,
            WAN,
            &pong(WAN, "203.0.113.9", "203.0.113.1", 7),
        );
        let mut timestamp = ping(LAN, "10.0.0.2", "203.0.113.9", 8);
        timestamp[34] = 13;
        let field = u16::from_be_bytes([timestamp[36], timestamp[37]]);
        let change = natgate::wire::checksum::Delta::u16(8 << 8, 13 << 8);
        timestamp[36..38].copy_from_slice(&change.apply(field).to_be_bytes());
        dropped(&mut rack, at, LAN, &timestamp, DropReason::PolicyFilter);
        // Errors about what was let through are related to it.
        let sent = one(&mut rack, at, LAN, &call(HOST));
        let quote = udp(
            WAN,
            (
                Box::leak(sent.source.0.to_string().into_boxed_str()),
                sent.source.1,
            ),
            SERVER,
            b"call",
        );
        let error = icmp_error(WAN, "203.0.113.77", "203.0.113.1", (11, 0), &quote);
        assert_eq!(one(&mut rack, at, WAN, &error).destination.0, ip(HOST.0));
    });
}

/// Segments that begin no connection are invalid, where they would open a flow that is only routed.
#[test]
fn tcp_that_opens_nothing_is_invalid() {
    let rules = rule(&["state = \"invalid\"", "action = \"drop\""]);
    everywhere(|workers, at| {
        let mut rack = lab(workers, &rules);
        for flags in ["SA", "R", "FA"] {
            let segment = tcp(LAN, HOST, SERVER, flags);
            dropped(&mut rack, at, LAN, &segment, DropReason::PolicyFilter);
        }
        one(&mut rack, at, LAN, &tcp(LAN, HOST, SERVER, "A"));
        one(&mut rack, at, WAN, &tcp(WAN, SERVER, HOST, "FA"));
    });
}

/// AT-4.13: packets of a flow on the rule that let it pass and on the rule that translates it; refusals on theirs.
#[test]
fn rules_count_packets_bytes_and_flows() {
    let rules = format!(
        "[[source-nat]]\nname = \"nat\"\nout = \"wan0\"\nvia = \"interface\"\n{}",
        closed(&format!(
            "{}{}",
            rule(&[
                "name = \"guests\"",
                "src = \"10.0.0.3\"",
                "action = \"reject\""
            ]),
            rule(&["name = \"lan\"", "in = \"lan0\"", "action = \"accept\""]),
        ))
    );
    everywhere(|workers, at| {
        let mut rack = lab(workers, &rules);
        for _ in 0..10 {
            one(&mut rack, at, LAN, &call(HOST));
        }
        one(
            &mut rack,
            at,
            WAN,
            &udp(WAN, SERVER, ("203.0.113.1", 40000), b"answer"),
        );
        for _ in 0..3 {
            send(&mut rack, at, LAN, &call(("10.0.0.3", 1)));
        }
        let stranger = udp(WAN, ("203.0.113.10", 7), ("10.0.0.3", 99), b"in");
        dropped(&mut rack, at, WAN, &stranger, DropReason::PolicyFilter);
        let size = |payload: u64| 28 + payload;
        let all = RuleCount {
            hits: 1,
            packets: 11,
            bytes: 10 * size(4) + size(6),
        };
        assert_eq!(counted(&rack, "nat"), all);
        assert_eq!(counted(&rack, "lan"), all);
        assert_eq!(
            counted(&rack, "guests"),
            RuleCount {
                hits: 3,
                packets: 3,
                bytes: 3 * size(4)
            }
        );
        assert_eq!(
            counted(&rack, "default"),
            RuleCount {
                hits: 1,
                packets: 1,
                bytes: size(2)
            }
        );
    });
}

/// Flows keep their treatment, new ones get the new rules (E15, AT-1.13); with `established = "filter"` new rules act at
/// once on both.
#[test]
fn a_reload_judges_new_flows() {
    let web = |members: &str| {
        format!(
            "[sets]\nweb = [{members}]\n{MASQUERADE}{}",
            closed(&rule(&["src = \"@web\"", "action = \"accept\""]))
        )
    };
    let (before, after) = (web("\"10.0.0.2\""), web("\"10.0.0.3\""));
    everywhere(|workers, at| {
        let mut rack = lab(workers, &before);
        works(&mut rack, at, HOST, (ip("203.0.113.1"), 40000));
        dropped(
            &mut rack,
            at,
            LAN,
            &call(("10.0.0.3", 1)),
            DropReason::PolicyFilter,
        );
        reload(&mut rack, &lab_text(workers, &after, ""));
        works(&mut rack, at, HOST, (ip("203.0.113.1"), 40000));
        dropped(
            &mut rack,
            at,
            LAN,
            &call(("10.0.0.2", 2)),
            DropReason::PolicyFilter,
        );
        one(&mut rack, at, LAN, &call(("10.0.0.3", 1)));
        // Answers are judged from now on, also those of flows that live.
        let stateless = after.replace("[filter]\n", "[filter]\nestablished = \"filter\"\n");
        reload(&mut rack, &lab_text(workers, &stateless, ""));
        one(&mut rack, at, LAN, &call(HOST));
        let answer = udp(WAN, SERVER, ("203.0.113.1", 40000), b"answer");
        dropped(&mut rack, at, WAN, &answer, DropReason::PolicyFilter);
        reload(&mut rack, &lab_text(workers, &after, ""));
        works(&mut rack, at, HOST, (ip("203.0.113.1"), 40000));
    });
}

/// Counters follow a rule's name through reloads.
#[test]
fn counters_survive_a_reload_with_their_rule() {
    let named = |name: &str| {
        rule(&[
            &format!("name = \"{name}\""),
            "in = \"lan0\"",
            "action = \"accept\"",
        ])
    };
    let mut rack = lab(1, &closed(&named("a")));
    one(&mut rack, 0, LAN, &call(HOST));
    let more = closed(&format!(
        "{}{}",
        rule(&[
            "name = \"first\"",
            "src = \"10.0.0.9\"",
            "action = \"drop\""
        ]),
        named("a")
    ));
    reload(&mut rack, &lab_text(1, &more, ""));
    one(&mut rack, 0, LAN, &call(HOST));
    assert_eq!(
        (counted(&rack, "a").packets, counted(&rack, "first").packets),
        (2, 0)
    );
    reload(&mut rack, &lab_text(1, "", ""));
    one(&mut rack, 0, LAN, &call(HOST));
    assert_eq!(rack.sessions(), 1, "the flow lives on without a filter");
}

/// RFC 3704 §2.4: any route back will do, none will not.
#[test]
fn loose_urpf_wants_a_route_back() {
    let default = "[[route]]\nprefix = \"0.0.0.0/0\"\nvia = \"203.0.113.9\"\n";
    let name = "name = \"lan0\"\n";
    for rules in [MASQUERADE, ""] {
        let text = lab_text(1, rules, "").replace(default, "");
        let text = text.replacen(name, &format!("{name}urpf = \"loose\"\n"), 1);
        let mut rack = rack(&text);
        one(&mut rack, 0, LAN, &call(("10.0.0.2", 1)));
        one(&mut rack, 0, LAN, &call(("203.0.113.77", 1)));
        dropped(
            &mut rack,
            0,
            LAN,
            &call(("198.51.100.1", 1)),
            DropReason::Urpf,
        );
    }
}

/// Protocols without ports pass as flows between two hosts, and a condition on ports never holds for them.
#[test]
fn protocols_without_ports() {
    let rules = closed(&format!(
        "{}{}",
        rule(&[
            "sport = \"0-65535\"",
            "dport = \"1-65535\"",
            "proto = \"tcp\"",
            "action = \"accept\""
        ]),
        rule(&["in = \"lan0\"", "proto = \"gre\"", "action = \"accept\""]),
    ));
    let gre = |port, from: &str, to: &str| {
        let mut frame = udp(
            port,
            (Box::leak(from.to_owned().into_boxed_str()), 0),
            (Box::leak(to.to_owned().into_boxed_str()), 0),
            b"x",
        );
        frame[23] = 47;
        frame[24..26].copy_from_slice(&[0, 0]);
        let sum = natgate::wire::checksum::ipv4_header(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame
    };
    everywhere(|workers, at| {
        let mut rack = lab(workers, &rules);
        let out = gre(LAN, "10.0.0.2", "203.0.113.9");
        let back = gre(WAN, "203.0.113.9", "10.0.0.2");
        dropped(&mut rack, at, WAN, &back, DropReason::PolicyFilter);
        assert_eq!(send(&mut rack, 0, LAN, &out).len(), 1);
        assert_eq!(send(&mut rack, at, WAN, &back).len(), 1);
        dropped(&mut rack, at, LAN, &call(HOST), DropReason::PolicyFilter);
    });
}
