//! nat of ip6tables-save: what it shares with IPv4, and what is written otherwise.

use natgate::import::{Format, Import, Level, Options};

use crate::{body, has, lines, run, text};

fn save(table: &str) -> Import {
    let options = Options {
        map: vec![("eth0".to_owned(), "wan0".to_owned())],
        ..Options::default()
    };
    run(Format::Ip6tables, &[text("f", table)], &options)
}

fn rule(rule: &str) -> Import {
    let (chain, rule) = rule.split_once(' ').unwrap();
    save(&format!(
        "*nat\n:{chain} ACCEPT [0:0]\n-A {chain} {rule}\nCOMMIT\n"
    ))
}

/// The tables without their origin.
fn written(done: &Import) -> String {
    assert_eq!(done.report.count(Level::Reject), 0, "{}", lines(done));
    let kept = body(done).lines().filter(|l| !l.starts_with("origin"));
    kept.collect::<Vec<_>>().join("; ")
}

#[test]
fn rules_hold_for_ipv6_alone() {
    for (original, here) in [
        (
            "POSTROUTING -o eth0 -j MASQUERADE",
            "[[source-nat]]; out = \"wan0\"; src = \"::/0\"; via = \"interface\"",
        ),
        (
            "POSTROUTING -s fd00:1::/64 -o eth0 -p tcp -j MASQUERADE --to-ports 1024-65535 --random-fully",
            "[[source-nat]]; out = \"wan0\"; src = \"fd00:1::/64\"; proto = \"tcp\"; via = \"interface\"; ports = \"1024-65535\"; select = \"random\"",
        ),
        (
            "POSTROUTING -s fd00:1::/64 -j SNAT --to-source 2001:db8::30",
            "[[pool]]; name = \"v6-p1\"; addresses = [\"2001:db8::30\"]; ; [[source-nat]]; src = \"fd00:1::/64\"; via = \"pool:v6-p1\"",
        ),
        (
            "POSTROUTING -s fd00:1::/64 -p tcp -j SNAT --to-source [2001:db8::30-2001:db8::33]:1025-65535 --persistent",
            "[[pool]]; name = \"v6-p1\"; addresses = [\"2001:db8::30-2001:db8::33\"]; pairing = \"paired\"; ; \
             [[source-nat]]; src = \"fd00:1::/64\"; proto = \"tcp\"; via = \"pool:v6-p1\"; ports = \"1025-65535\"",
        ),
        (
            "POSTROUTING -d fd99::/16 -j ACCEPT",
            "[[exempt]]; dst = [\"fd99::/16\"]",
        ),
        (
            "PREROUTING -d 2001:db8::1/128 -i eth0 -p tcp -m tcp --dport 8022 -j DNAT --to-destination [fd00:1::2]:22",
            "[[port-forward]]; in = \"wan0\"; dst = \"2001:db8::1/128\"; proto = \"tcp\"; dport = \"8022\"; to = \"[fd00:1::2]:22\"; allow = false; hairpin = false",
        ),
        (
            "PREROUTING -i eth0 -p udp -m udp --dport 53 -j DNAT --to-destination fd00:1::2-fd00:1::3",
            "[[port-forward]]; in = \"wan0\"; dst = \"::/0\"; proto = \"udp\"; dport = \"53\"; to = [\"fd00:1::2\", \"fd00:1::3\"]; allow = false; hairpin = false",
        ),
    ] {
        assert_eq!(written(&rule(original)), here, "{original}");
    }
}

#[test]
fn both_halves_of_a_map_are_one() {
    let done = save(
        "*nat\n:PREROUTING ACCEPT\n:POSTROUTING ACCEPT\n-A PREROUTING -d 2001:db8:1::/112 -i eth0 -j NETMAP --to fd00:1::/112\n\
         -A POSTROUTING -s fd00:1::/112 -o eth0 -j NETMAP --to 2001:db8:1::/112\nCOMMIT\n",
    );
    assert_eq!(
        written(&done),
        "[[static-nat]]; external = \"2001:db8:1::/112\"; internal = \"fd00:1::/112\"; interface = \"wan0\""
    );
    assert!(!lines(&done).contains("RFC 6296"), "{}", lines(&done));
    let whole = rule("POSTROUTING -s fd00:1::/64 -j NETMAP --to 2001:db8:1::/64");
    has(
        &whole,
        &["f:3: warn IPv6 prefixes correspond as RFC 6296 says: 16 bits behind the prefix differ"],
    );
}

#[test]
fn what_is_no_address_of_ipv6() {
    for (original, code) in [
        ("POSTROUTING -s 10.0.0.0/8 -j MASQUERADE", "E-SYNTAX"),
        (
            "POSTROUTING -s fd00::/8 -j SNAT --to-source 203.0.113.1",
            "E-SYNTAX",
        ),
        (
            "POSTROUTING -s fd00::/8 -p tcp -j SNAT --to-source [2001:db8::1]1-2",
            "E-SYNTAX",
        ),
        (
            "POSTROUTING -s fd00::/8 -p tcp -j SNAT --to-source [2001:db8::1:1-2",
            "E-SYNTAX",
        ),
        (
            "POSTROUTING -s fd00::/8 -p tcp -j SNAT --to-source [2001:db8::1]:5-2",
            "E-PORTS",
        ),
        (
            "POSTROUTING -s fd00::/8 -j SNAT --to-source [2001:db8::1]:5-7",
            "E-PORTS",
        ),
        (
            "POSTROUTING -s fd00::/8 -j SNAT --to-source 2001:db8::9-2001:db8::1",
            "E-RANGE-REVERSED",
        ),
        (
            "POSTROUTING -s fd00::/8 -j SNAT --to-source 2001:db8::-2001:db8:1::",
            "E-MATCH",
        ),
        (
            "POSTROUTING -s fd00::/64 -j NETMAP --to 10.0.0.0/24",
            "E-SYNTAX",
        ),
        (
            "PREROUTING -i eth0 -p tcp --dport 5 -j DNAT --to-destination 10.0.0.2",
            "E-SYNTAX",
        ),
        (
            "PREROUTING -i eth0 -p tcp --dport 5 -j DNAT --to-destination :22",
            "E-MATCH",
        ),
        (
            "PREROUTING -i eth0 -p tcp --dport 5 -j DNAT --to-destination fd00::-fd00::ffff",
            "E-MATCH",
        ),
        ("OUTPUT -j MASQUERADE", "E-LOCAL"),
    ] {
        let done = rule(original);
        assert!(
            lines(&done).contains(&format!("f:3: reject {code}")),
            "{original}\n{}",
            lines(&done)
        );
        assert_eq!(body(&done), "", "{original}");
    }
}
