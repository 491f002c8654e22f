//! filter/FORWARD of iptables-save and ip6tables-save: conditions, answers, states, chains, and what has no equivalent.

use natgate::import::{Format, Import, Level, Options};

use crate::{body, has, lines, run, text};

fn options() -> Options {
    Options {
        map: vec![
            ("eth0".to_owned(), "wan0".to_owned()),
            ("virbr0".to_owned(), "lan0".to_owned()),
        ],
        ..Options::default()
    }
}

fn filter(format: Format, policy: &str, rules: &[&str]) -> Import {
    let rules: String = rules.iter().map(|rule| format!("-A {rule}\n")).collect();
    let table = format!("*filter\n:FORWARD {policy} [0:0]\n:user - [0:0]\n{rules}COMMIT\n");
    run(format, &[text("f", &table)], &options())
}

/// The keys of the only rule that came of a rule of FORWARD.
fn keys(rule: &str) -> String {
    let done = filter(Format::Iptables, "ACCEPT", &[&format!("FORWARD {rule}")]);
    assert_eq!(
        done.report.count(Level::Reject),
        0,
        "{rule}: {}",
        lines(&done)
    );
    let (_, rule) = body(&done).split_once("[[filter.rule]]\n").unwrap();
    assert!(!rule.contains("[["), "{rule}");
    rule.split("origin")
        .next()
        .unwrap()
        .trim_end()
        .replace('\n', "; ")
}

fn refuses(rule: &str, code: &str) {
    let done = filter(Format::Iptables, "ACCEPT", &[&format!("FORWARD {rule}")]);
    has(&done, &[&format!("f:4: reject {code}")]);
    assert!(
        !done.toml.contains("[[filter.rule]]"),
        "{rule}: {}",
        done.toml
    );
}

#[test]
fn every_condition_has_its_key() {
    for (rule, expected) in [
        ("-j ACCEPT", "action = \"accept\""),
        (
            "-i virbr0 ! -o eth0 -j DROP",
            "in = \"lan0\"; out = \"!wan0\"; action = \"drop\"",
        ),
        (
            "-s 10.0.0.0/24 ! -d 10.0.0.0/8 -j DROP",
            "src = \"10.0.0.0/24\"; dst = \"!10.0.0.0/8\"; action = \"drop\"",
        ),
        (
            "-m iprange --src-range 10.0.0.2-10.0.0.9 -j DROP",
            "src = \"10.0.0.2-10.0.0.9\"; action = \"drop\"",
        ),
        ("-p 47 -j ACCEPT", "proto = \"gre\"; action = \"accept\""),
        (
            "-p tcp -m multiport --dports 80,8000:8010 -j ACCEPT",
            "proto = \"tcp\"; dport = \"80,8000-8010\"; action = \"accept\"",
        ),
        (
            "-p udp --sport 53 -j ACCEPT",
            "proto = \"udp\"; sport = \"53\"; action = \"accept\"",
        ),
        (
            "-m state --state NEW -j DROP",
            "state = \"new\"; action = \"drop\"",
        ),
        (
            "-m conntrack ! --ctstate INVALID,DNAT -j ACCEPT",
            "state = [\"!dnat\", \"!invalid\"]; action = \"accept\"",
        ),
        (
            "-m conntrack --ctstate DNAT -j ACCEPT",
            "state = \"dnat\"; action = \"accept\"",
        ),
        (
            "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j DROP",
            "proto = \"tcp\"; state = \"new\"; action = \"drop\"",
        ),
        (
            "-p tcp --syn -m state --state NEW,RELATED -j DROP",
            "proto = \"tcp\"; state = \"new\"; action = \"drop\"",
        ),
        (
            "-m conntrack --ctorigdst 203.0.113.1 -j ACCEPT",
            "orig_dst = \"203.0.113.1/32\"; action = \"accept\"",
        ),
        (
            "-p tcp -m conntrack --ctorigdstport 8022 -j ACCEPT",
            "proto = \"tcp\"; orig_dport = \"8022\"; action = \"accept\"",
        ),
        (
            "-p icmp -m icmp --icmp-type 8 -j ACCEPT",
            "proto = \"icmp\"; icmp_type = \"8\"; action = \"accept\"",
        ),
        (
            "-p icmp -m icmp ! --icmp-type 3/4 -j DROP",
            "proto = \"icmp\"; icmp_type = \"!3/4\"; action = \"drop\"",
        ),
        (
            "-p icmp -m icmp --icmp-type Echo-Request -j DROP",
            "proto = \"icmp\"; icmp_type = \"echo-request\"; action = \"drop\"",
        ),
        (
            "-p icmp -m icmp --icmp-type any -j ACCEPT",
            "proto = \"icmp\"; action = \"accept\"",
        ),
        (
            "-m addrtype --dst-type MULTICAST -j DROP",
            "dst = \"@multicast\"; action = \"drop\"",
        ),
        (
            "-m addrtype --src-type UNICAST -j ACCEPT",
            "action = \"accept\"",
        ),
        (
            "-m comment --comment \"no mail\" -p tcp --dport smtp -j DROP",
            "comment = \"no mail\"; proto = \"tcp\"; dport = \"25\"; action = \"drop\"",
        ),
    ] {
        assert_eq!(keys(rule), expected, "{rule}");
    }
    let both = filter(
        Format::Iptables,
        "ACCEPT",
        &["FORWARD -p tcp -m multiport --ports 53 -j DROP"],
    );
    has(
        &both,
        &[
            "f:4: ok filter.rule #1 proto=tcp sport=53",
            "f:4: ok filter.rule #2 proto=tcp dport=53",
        ],
    );
}

#[test]
fn what_reject_answers() {
    let of = |rule: &str| {
        keys(rule)
            .rsplit("reject_with = ")
            .next()
            .unwrap()
            .to_owned()
    };
    for name in [
        "icmp-net-unreachable",
        "icmp-host-unreachable",
        "icmp-proto-unreachable",
        "icmp-port-unreachable",
        "icmp-net-prohibited",
        "icmp-host-prohibited",
        "icmp-admin-prohibited",
    ] {
        assert_eq!(
            of(&format!("-j REJECT --reject-with {name}")),
            format!("{name:?}")
        );
    }
    assert_eq!(of("-j REJECT"), "\"icmp-port-unreachable\"");
    assert_eq!(
        of("-j REJECT --reject-with icmp-port"),
        "\"icmp-port-unreachable\""
    );
    assert_eq!(
        of("-j REJECT --reject-with port-UNREACH"),
        "\"icmp-port-unreachable\""
    );
    assert_eq!(
        of("-p tcp -j REJECT --reject-with tcp-reset"),
        "\"tcp-reset\""
    );
    refuses("-j REJECT --reject-with tcp-reset", "E-SYNTAX");
    refuses("-j REJECT --reject-with nonsense", "E-UNKNOWN");
    let unclear = filter(
        Format::Iptables,
        "ACCEPT",
        &["FORWARD -j REJECT --reject-with icmp"],
    );
    has(
        &unclear,
        &["f:4: warn \"icmp\" fits several answers; iptables silently takes icmp-net-unreachable"],
    );
    for name in [
        "icmp6-no-route",
        "icmp6-adm-prohibited",
        "icmp6-addr-unreachable",
        "icmp6-port-unreachable",
        "icmp6-policy-fail",
        "icmp6-reject-route",
    ] {
        let rule = format!("FORWARD -s fd00::/8 -j REJECT --reject-with {name}");
        let done = filter(Format::Ip6tables, "ACCEPT", &[&rule]);
        assert!(
            done.toml.contains(&format!(
                "src = \"fd00::/8\"\naction = \"reject\"\nreject_with = {name:?}"
            )),
            "{}",
            done.toml
        );
    }
    let ping = filter(
        Format::Ip6tables,
        "DROP",
        &["FORWARD -p ipv6-icmp -m icmp6 --icmpv6-type 128 -j ACCEPT"],
    );
    assert!(
        ping.toml.contains("proto = \"icmp6\"\nicmp_type = \"128\""),
        "{}",
        ping.toml
    );
}

#[test]
fn what_the_filter_cannot_ask() {
    for (rule, code) in [
        ("-m limit --limit 5/min -j ACCEPT", "E-MATCH"),
        ("-m set --match-set bad src -j DROP", "E-SET"),
        ("-m mark --mark 1 -j DROP", "E-MARK"),
        ("-m mac --mac-source 02:00:00:00:00:01 -j ACCEPT", "E-MATCH"),
        ("-m physdev --physdev-is-bridged -j ACCEPT", "E-PHYSDEV"),
        ("-m policy --dir in --pol ipsec -j ACCEPT", "E-IPSEC-POLICY"),
        ("-m rpfilter --invert -j DROP", "E-MATCH"),
        ("-m conntrack --ctstate UNTRACKED -j ACCEPT", "E-MATCH"),
        ("-m conntrack --ctstatus DNAT -j ACCEPT", "E-UNKNOWN"),
        ("-p tcp ! --syn -j DROP", "E-MATCH"),
        ("-p tcp -m tcp --tcp-flags ALL NONE -j DROP", "E-MATCH"),
        ("-p dccp --dport 5 -j ACCEPT", "E-MATCH"),
        ("-p icmp -m icmp --icmp-type nonsense -j DROP", "E-SYNTAX"),
        ("-m icmp --icmp-type 8 -j DROP", "E-SYNTAX"),
        ("-f -j DROP", "E-MATCH"),
        ("-j LOG --log-prefix x", "E-TARGET"),
        ("-j NFQUEUE --queue-num 1", "E-TARGET"),
        ("-j MASQUERADE", "E-TARGET"),
        ("-j KUBE-FORWARD", "E-GENERATED"),
        ("-i lo:1 -j DROP", "E-IFALIAS"),
        ("-i lo -j ACCEPT", "E-LOCAL"),
    ] {
        refuses(rule, code);
    }
}

#[test]
fn chains_return_to_their_caller_and_then_to_the_policy() {
    let rules = |done: &Import| -> Vec<String> {
        let text = lines(done);
        let rules = text
            .lines()
            .filter_map(|l| l.split_once(": ok filter.rule #"));
        let mut rules: Vec<String> = rules.map(|(_, rule)| rule.to_owned()).collect();
        rules.sort();
        rules
    };
    let done = filter(
        Format::Iptables,
        "DROP",
        &[
            "FORWARD -m state --state RELATED,ESTABLISHED -j ACCEPT",
            "FORWARD -i virbr0 -j user",
            "FORWARD -p udp -j ACCEPT",
            "user -d 10.0.0.0/8 -j RETURN",
            "user -j ACCEPT",
        ],
    );
    assert_eq!(
        rules(&done),
        [
            "1 state=established,related action=accept (already built in, kept)",
            "2 in=lan0 dst=10.0.0.0/8 proto=udp action=accept",
            "3 in=lan0 dst=10.0.0.0/8 action=drop",
            "4 in=lan0 action=accept",
            "5 proto=udp action=accept",
        ],
        "{}",
        lines(&done)
    );
    assert!(!lines(&done).contains("W-REMASQ") && !lines(&done).contains("W-STATELESS"));
    let goto = filter(
        Format::Iptables,
        "DROP",
        &["FORWARD -i virbr0 -g user", "user -p tcp -j ACCEPT"],
    );
    assert_eq!(
        rules(&goto),
        ["1 in=lan0 proto=tcp action=accept", "2 in=lan0 action=drop"]
    );
    let shadowed = filter(
        Format::Iptables,
        "DROP",
        &["FORWARD -j ACCEPT", "FORWARD -p udp -j DROP"],
    );
    has(
        &shadowed,
        &["f:5: warn W-SHADOWED: can never match: the rule of line 4 takes everything"],
    );
    assert_eq!(rules(&shadowed), ["1 action=accept"]);
}

#[test]
fn answers_are_judged_as_on_linux() {
    let with =
        |policy: &str, rule: &str| filter(Format::Iptables, policy, &[&format!("FORWARD {rule}")]);
    for (policy, rule, stateless) in [
        ("DROP", "-i virbr0 -j ACCEPT", true),
        ("ACCEPT", "-i eth0 -j DROP", true),
        ("ACCEPT", "-i eth0 -m state --state NEW -j DROP", false),
        ("ACCEPT", "-m state --state INVALID -j DROP", false),
        (
            "DROP",
            "-m state --state RELATED,ESTABLISHED -j ACCEPT",
            false,
        ),
        ("ACCEPT", "-i eth0 -j ACCEPT", false),
    ] {
        let done = with(policy, rule);
        assert_eq!(
            lines(&done).contains("f:2: warn W-STATELESS"),
            stateless,
            "{policy} {rule}"
        );
        assert_eq!(
            done.toml.contains("established = \"filter\""),
            stateless,
            "{policy} {rule}"
        );
    }
    let some = with(
        "DROP",
        "-d 10.0.0.0/8 -m state --state ESTABLISHED -j ACCEPT",
    );
    has(
        &some,
        &["f:4: note answers of all flows that were let through pass, not of these alone"],
    );
    has(
        &some,
        &["f:2: note the default, and rules without addresses, hold for IPv6, too"],
    );
}

#[test]
fn rules_about_the_gateway_itself_are_left_out() {
    let table = "*filter\n:INPUT DROP\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\n:own -\n-A INPUT -m limit --limit 5/s -j ACCEPT\n-A INPUT -j own\n-A own -p tcp --dport 22 -j ACCEPT\n-A OUTPUT -m owner --uid-owner 5 -j DROP\nCOMMIT\n";
    let done = run(Format::Iptables, &[text("f", table)], &options());
    has(
        &done,
        &[
            "f:6: warn W-INPUT: no local service on the dataplane; ignored",
            "f:7: warn W-INPUT",
            "f:8: warn W-INPUT",
            "f:9: reject E-OWNER",
            "f:9: reject E-LOCAL",
        ],
    );
    assert_eq!(body(&done), "[filter]\ndefault = \"accept\"");
}

#[test]
fn rules_of_one_family_hold_for_it_alone() {
    let base = natgate::config::parse_str("lab", crate::common::LAB).unwrap();
    assert!(base.validated.has_ipv6());
    let known = Options {
        base: Some(base.validated),
        ..options()
    };
    let table = "*nat\n:POSTROUTING ACCEPT\n-A POSTROUTING -o eth0 -j MASQUERADE\nCOMMIT\n*filter\n:FORWARD DROP\n-A FORWARD -i virbr0 -j ACCEPT\n-A FORWARD -d 10.0.0.0/8 -j ACCEPT\nCOMMIT\n";
    let done = run(Format::Iptables, &[text("f", table)], &known);
    for part in [
        "out = \"wan0\"\nsrc = \"0.0.0.0/0\"\nvia = \"interface\"",
        "in = \"lan0\"\nsrc = \"0.0.0.0/0\"\naction = \"accept\"",
        "[[filter.rule]]\ndst = \"10.0.0.0/8\"\naction",
    ] {
        assert!(done.toml.contains(part), "{part}\n{}", done.toml);
    }
    has(&done, &["f:6: warn the default holds for IPv6, too"]);
    let six = filter(Format::Ip6tables, "DROP", &["FORWARD -i virbr0 -j ACCEPT"]);
    assert!(
        six.toml.contains("in = \"lan0\"\nsrc = \"::/0\"\naction"),
        "{}",
        six.toml
    );
    has(&six, &["f:2: warn the default holds for IPv4, too"]);
}
