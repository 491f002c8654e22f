//! What the sessions of new flows are made of: whose rule they count on, what they are marked with, which answers they
//! let in, and what is expected beside them.

use natgate::base::{DropReason, Random};
use natgate::flow::session::{
    FLAG_ALLOWED, FLAG_FIRST, FLAG_HELPED, FLAG_MAPPED, FLAG_MASQUERADE, FLAG_STATIC, Session,
    State,
};
use natgate::nat::filter::flows::has_ports;
use natgate::nat::open::{Wanted, expect, expect_pair};
use natgate::wire::checksum;
use natgate::wire::{ICMP, SCTP, TCP, UDP, write_u16};

use crate::common::*;
use crate::*;

const HOST: End = ("10.0.0.2", 40000);
const PUBLIC: End = ("203.0.113.1", 40000);
const STATIC: &str = "[[static-nat]]\nexternal = \"203.0.113.64/30\"\ninternal = \"10.0.0.4/30\"\n";

fn sessions(rack: &Rack) -> Vec<Session<u32>> {
    let all = rack.shards.iter().flat_map(|s| s.nat.sessions.iter());
    all.map(|(_, session)| *session).collect()
}

/// The kind and text of the rule a session counts on.
fn rule_of(rack: &Rack, session: &Session<u32>) -> (&'static str, String) {
    let rule = rack.policy.rule(session.rule).unwrap();
    (rule.kind, rule.text.clone())
}

#[test]
fn a_session_counts_on_its_rule_and_is_marked_by_its_kind() {
    let rules = format!(
        "{STATIC}[[source-nat]]\nsrc = \"10.0.0.9\"\nout = \"wan0\"\nvia = \"interface\"\n{MASQUERADE}\
         [[port-forward]]\nin = \"wan0\"\ndst = \"203.0.113.1\"\nproto = \"udp\"\ndport = \"53\"\nto = \"10.0.0.2:5353\"\n"
    );
    let leased = FLAG_MASQUERADE | FLAG_MAPPED | FLAG_FIRST;
    for (port, from, to, kind, says, flags) in [
        (LAN, HOST, SERVER, "source-nat", "", leased),
        (
            LAN,
            ("10.0.0.9", 7),
            SERVER,
            "source-nat",
            "10.0.0.9",
            leased,
        ),
        (LAN, ("10.0.0.5", 7), SERVER, "static-nat", "", FLAG_STATIC),
        (
            WAN,
            SERVER,
            ("203.0.113.65", 7),
            "static-nat",
            "",
            FLAG_STATIC,
        ),
        (
            WAN,
            SERVER,
            ("203.0.113.1", 53),
            "port-forward",
            "",
            FLAG_ALLOWED | FLAG_STATIC,
        ),
    ] {
        let mut rack = lab(1, &rules);
        one(&mut rack, 0, port, &udp(port, from, to, b"call"));
        let all = sessions(&rack);
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].flags, flags, "{from:?} {to:?}");
        let (found, text) = rule_of(&rack, &all[0]);
        assert_eq!(found, kind, "{from:?} {to:?}");
        assert!(text.contains(says), "{text}");
    }
}

#[test]
fn a_static_flow_goes_on_through_a_reload() {
    let text = lab_text(1, STATIC, "");
    for (port, from, to) in [
        (LAN, ("10.0.0.5", 7), SERVER),
        (WAN, SERVER, ("203.0.113.65", 7)),
    ] {
        let mut rack = rack(&text);
        one(&mut rack, 0, port, &udp(port, from, to, b"call"));
        let route = "[[route]]\nprefix = \"192.0.2.0/24\"\nvia = \"203.0.113.9\"\n";
        reload(&mut rack, &format!("{text}{route}"));
        rack.maintain();
        assert_eq!(rack.sessions(), 1);
    }
}

#[test]
fn helpers_stay_off_where_mappings_depend_on_the_remote() {
    for (mapping, helped) in [
        ("endpoint", true),
        ("address", false),
        ("address-port", false),
    ] {
        let keys = format!("helpers = [\"ftp\"]\nmapping = \"{mapping}\"");
        let mut rack = lab(1, &pool(&keys));
        one(&mut rack, 0, LAN, &tcp(LAN, HOST, ("203.0.113.9", 21), "S"));
        let flags = sessions(&rack)[0].flags;
        assert_eq!(flags & FLAG_HELPED != 0, helped, "{mapping}");
    }
}

/// The second flow may get any port above the privileged ones, not only some of them.
#[test]
fn flows_are_told_apart_by_ports_of_the_whole_range() {
    let twins = "[[service]]\nname = \"a\"\naddress = \"198.18.0.2\"\nproto = \"udp\"\nport = 80\nbackends = [{ to = \"10.0.0.2:8080\" }]\n\
        [[service]]\nname = \"b\"\naddress = \"198.18.0.3\"\nproto = \"udp\"\nport = 80\nbackends = [{ to = \"10.0.0.2:8080\" }]\n";
    let mut rack = lab(1, twins);
    let mut ports = Vec::new();
    for client in 0..30 {
        let address: &'static str = Box::leak(format!("198.51.100.{client}").into_boxed_str());
        for service in ["198.18.0.2", "198.18.0.3"] {
            let asked = udp(WAN, (address, 5555), (service, 80), b"call");
            ports.push(one(&mut rack, 0, WAN, &asked).source.1);
        }
    }
    let (kept, changed): (Vec<u16>, Vec<u16>) = ports.iter().partition(|port| **port == 5555);
    assert_eq!((kept.len(), changed.len()), (30, 30));
    assert!(changed.iter().all(|port| *port >= 1024));
    for part in [1024..22000, 22000..44000, 44000..u16::MAX] {
        assert!(changed.iter().any(|port| part.contains(port)), "{part:?}");
    }
}

/// A filter that judges answers: what the rules let pass and nothing else.
fn judged(rules: &[&str]) -> String {
    let mut text = "[filter]\nestablished = \"filter\"\ndefault = \"drop\"\n".to_owned();
    for keys in rules {
        text += &format!("[[filter.rule]]\naction = \"accept\"\n{keys}\n");
    }
    text
}

/// Sends a packet that passes, or that the filter refuses.
fn judge(rack: &mut Rack, port: PortId, frame: &[u8], passes: bool) {
    if passes {
        one(rack, 0, port, frame);
    } else {
        dropped(rack, 0, port, frame, DropReason::PolicyFilter);
    }
}

#[test]
fn an_answer_is_judged_by_its_own_ends_and_what_was_translated() {
    let forward = "[[port-forward]]\nin = \"wan0\"\ndst = \"203.0.113.1\"\nproto = \"udp\"\ndport = \"40000\"\nto = \"10.0.0.2\"\nallow = false\n";
    for (keys, masqueraded, forwarded, routed) in [
        ("state = \"established\"", true, true, true),
        ("state = \"snat\"", true, false, false),
        ("state = \"dnat\"", false, true, false),
        ("state = \"related\"", false, false, false),
        (
            "in = \"wan0\"\ndst = \"10.0.0.2\"\ndport = \"40000\"",
            true,
            false,
            true,
        ),
        (
            "in = \"wan0\"\nsrc = \"203.0.113.9\"\nsport = \"5000\"",
            true,
            false,
            true,
        ),
        (
            "in = \"lan0\"\nsrc = \"10.0.0.2\"\ndst = \"203.0.113.9\"",
            false,
            true,
            false,
        ),
    ] {
        for (nat, port, from, to, answer, passes) in [
            (
                MASQUERADE,
                LAN,
                HOST,
                SERVER,
                (WAN, SERVER, PUBLIC),
                masqueraded,
            ),
            (forward, WAN, SERVER, PUBLIC, (LAN, HOST, SERVER), forwarded),
            ("", LAN, HOST, SERVER, (WAN, SERVER, HOST), routed),
        ] {
            let new = if port == LAN {
                "state = \"new\"\nin = \"lan0\""
            } else {
                "state = \"new\"\nin = \"wan0\""
            };
            let mut rack = lab(1, &format!("{nat}{}", judged(&[new, keys])));
            one(&mut rack, 0, port, &udp(port, from, to, b"call"));
            let answer_frame = udp(answer.0, answer.1, answer.2, b"answer");
            judge(&mut rack, answer.0, &answer_frame, passes);
        }
    }
}

/// An answer to a query of another kind.
fn reply(kind: u8) -> Vec<u8> {
    let mut frame = pong(WAN, "203.0.113.9", "203.0.113.1", 7);
    frame[34] = kind;
    write_u16(&mut frame, 36, 0);
    let sum = checksum::finish(checksum::sum(&frame[34..]));
    write_u16(&mut frame, 36, sum);
    frame
}

#[test]
fn the_answer_to_a_query_is_judged_as_such_and_stays_so_after_a_reload() {
    let new = "state = \"new\"\nin = \"lan0\"";
    for (accepted, passes) in [("echo-reply", true), ("timestamp-reply", false)] {
        let rule = format!("proto = \"icmp\"\nicmp_type = \"{accepted}\"");
        let text = lab_text(1, &format!("{MASQUERADE}{}", judged(&[new, &rule])), "");
        let mut rack = rack(&text);
        one(&mut rack, 0, LAN, &ping(LAN, "10.0.0.2", "203.0.113.9", 7));
        judge(&mut rack, WAN, &reply(0), passes);
        reload(&mut rack, &text);
        rack.maintain();
        judge(&mut rack, WAN, &reply(0), passes);
        if !passes {
            // Another kind of answer, which the rules would let pass, is none to this query.
            judge(&mut rack, WAN, &reply(14), false);
        }
    }
}

#[test]
fn an_error_about_a_flow_is_judged_by_who_sends_it_to_whom() {
    for (keys, passes) in [
        ("state = \"related\"", true),
        ("state = \"established\"", false),
        ("state = \"related\"\nsrc = \"203.0.113.77\"", true),
        ("state = \"related\"\nsrc = \"203.0.113.9\"", false),
        ("state = \"related\"\ndst = \"10.0.0.2\"", true),
        ("state = \"related\"\ndst = \"203.0.113.1\"", false),
        ("proto = \"icmp\"\nout = \"lan0\"", true),
        ("proto = \"icmp\"\nout = \"wan0\"", false),
    ] {
        let new = "state = \"new\"\nin = \"lan0\"";
        let mut rack = lab(1, &format!("{MASQUERADE}{}", judged(&[new, keys])));
        let sent = send(&mut rack, 0, LAN, &call(HOST));
        let error = icmp_error(WAN, "203.0.113.77", "203.0.113.1", (3, 4), &sent[0].1);
        judge(&mut rack, WAN, &error, passes);
    }
}

#[test]
fn three_protocols_have_ports_the_filter_knows() {
    let known: Vec<u8> = (0..=u8::MAX).filter(|p| has_ports(*p)).collect();
    assert_eq!(known, [TCP, UDP, SCTP]);
    assert!(!has_ports(ICMP));
}

/// A lab in which the host has a control connection.
fn connected(rules: &str, host: End) -> Rack {
    let mut rack = lab(1, rules);
    one(
        &mut rack,
        0,
        LAN,
        &tcp(LAN, host, ("203.0.113.9", 2000), "S"),
    );
    rack
}

/// Expects two flows beside the control connection; the outside ports, and how many are expected then.
fn pair(rack: &mut Rack, ports: [u16; 2]) -> (Result<[u16; 2], DropReason>, usize) {
    let control = sessions(rack)
        .into_iter()
        .find(|s| s.protocol == TCP)
        .unwrap();
    let policy = rack.policy.clone();
    let wanted = ports.map(|port| Wanted::from_anyone(UDP, port));
    let mut random = Random::from_seed(1);
    let nat = &mut rack.shards[0].nat;
    let told = expect_pair(nat, &policy, &control, wanted, rack.now, &mut random);
    let expected = sessions(rack)
        .iter()
        .filter(|s| s.state == State::Expected)
        .count();
    (told, expected)
}

#[test]
fn two_flows_are_expected_at_an_even_port_and_the_next_where_they_are_such_a_pair() {
    let mut rack = connected(MASQUERADE, HOST);
    for (ports, told, expected) in [
        ([5000, 5001], [5000, 5001], 2),
        ([5000, 5001], [5000, 5001], 2),
        ([5003, 5004], [5003, 5004], 4),
        ([6000, 6003], [6000, 6003], 6),
        ([6000, 6001], [6000, 6001], 7),
        ([7001, 7002], [7001, 7002], 9),
        ([7000, 7001], [7000, 7001], 10),
    ] {
        assert_eq!(pair(&mut rack, ports), (Ok(told), expected), "{ports:?}");
    }
    let marks = FLAG_MASQUERADE | FLAG_MAPPED | FLAG_FIRST;
    let all = sessions(&rack);
    assert!(all.iter().all(|s| s.flags == marks));
}

#[test]
fn what_a_pool_has_left_decides_which_pair_is_expected() {
    let host = ("10.0.0.2", 40000);
    let of = |ports: &str| {
        let mut rack = connected(&pool(&format!("ports = \"{ports}\"")), host);
        pair(&mut rack, [5000, 5001])
    };
    let (told, expected) = of("2001-2004");
    assert_eq!((told, expected), (Ok([2002, 2003]), 2), "the only pair");
    let (told, expected) = of("2001-2002");
    let mut any = told.unwrap();
    any.sort_unstable();
    assert_eq!((any, expected), ([2001, 2002], 2), "no pair, but two ports");
    for ports in ["2001", "2002"] {
        let mut rack = connected(&pool(&format!("ports = \"{ports}\"")), host);
        let (told, expected) = pair(&mut rack, [5000, 5001]);
        assert!(told.is_err());
        assert_eq!(expected, 0, "neither is expected");
        let counts = &rack.shards[0].nat.counts;
        assert_eq!((counts.created, counts.mappings_created), (1, 1));
    }
}

/// A host that is translated one to one needs no expectation; one beside such a rule does.
#[test]
fn a_flow_is_expected_where_ports_are_translated() {
    for (host, expected) in [(("10.0.0.5", 7), 0), (HOST, 1)] {
        let mut rack = connected(&format!("{STATIC}{MASQUERADE}"), host);
        let control = sessions(&rack)[0];
        let policy = rack.policy.clone();
        let wanted = Wanted::from_remote(TCP, 5000);
        let mut random = Random::from_seed(1);
        let nat = &mut rack.shards[0].nat;
        let port = expect(nat, &policy, &control, &wanted, rack.now, &mut random);
        assert_eq!(port, Ok(5000));
        assert_eq!(sessions(&rack).len(), 1 + expected, "{host:?}");
    }
}

#[test]
fn ends_are_counted_by_their_cause() {
    let mut rack = lab(1, MASQUERADE);
    for port in [1, 2, 3] {
        one(&mut rack, 0, LAN, &call(("10.0.0.2", port)));
    }
    assert_eq!(rack.shards[0].nat.counts.live.iter().sum::<u64>(), 3);
    rack.advance(121_000);
    rack.maintain();
    let counts = &rack.shards[0].nat.counts;
    assert_eq!(counts.ended, [3, 0, 0, 0]);
    assert_eq!((counts.created, counts.live.iter().sum::<u64>()), (3, 0));
}
