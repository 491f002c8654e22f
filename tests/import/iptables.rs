//! iptables-save: the documented inputs, every regression line, chains and states. What its targets accept is in `targets`.

use natgate::import::{Format, Import, Level, Options, import};

use crate::{body, has, input, lines, run, text};

fn lab() -> Options {
    let to = |theirs: &str, ours: &str| (theirs.to_owned(), ours.to_owned());
    Options {
        map: vec![
            to("eth0", "wan0"),
            to("virbr0", "lan0"),
            to("bond0.2", "wan0"),
            to("bond0.3", "lan0"),
        ],
        ..Options::default()
    }
}

pub fn save(table: &str) -> Import {
    run(Format::Iptables, &[text("f", table)], &lab())
}

/// One rule of nat/POSTROUTING.
pub fn post(rule: &str) -> Import {
    save(&format!(
        "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING {rule}\nCOMMIT\n"
    ))
}

/// One rule of nat/PREROUTING.
pub fn pre(rule: &str) -> Import {
    save(&format!(
        "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING {rule}\nCOMMIT\n"
    ))
}

#[track_caller]
pub fn gives(done: &Import, parts: &[&str]) {
    for part in parts {
        assert!(
            done.toml.contains(part),
            "{part:?} is not in\n{}\n{}",
            done.toml,
            lines(done)
        );
    }
    assert_eq!(done.report.count(Level::Reject), 0, "{}", lines(done));
}

/// The rule is refused with this code, and nothing comes of it.
#[track_caller]
pub fn refuses(done: &Import, code: &str) {
    assert!(
        lines(done).contains(&format!("reject {code}")),
        "{code} is not in\n{}",
        lines(done)
    );
    assert_eq!(body(done), "", "{}", lines(done));
}

#[test]
fn in_1_masquerade_by_uplink() {
    let done = import(Format::Iptables, &[input("cluster-gateway.rules")], &lab()).unwrap();
    assert!(
        body(&done).starts_with(
            "[[source-nat]]\nout = \"wan0\"\nvia = \"interface\"\norigin = \"import:cluster-gateway.rules:6\"\n\n\
             [[source-nat]]\nout = \"lan0\"\nvia = \"interface\"\norigin = \"import:cluster-gateway.rules:7\""
        ),
        "{}",
        done.toml
    );
    has(
        &done,
        &[
            ":6: ok source-nat #1 out=wan0 via=interface",
            ":7: ok source-nat #2 out=lan0 via=interface",
            ":13: note filter.default = \"drop\"",
            ":15: ok filter.rule #1 in=bond0.def action=accept",
            ":16: ok filter.rule #2 state=established,related action=accept (already built in, kept)",
            ":17: warn W-INPUT: no local service on the dataplane; ignored",
            "note W-COUNTERS: counters not carried over",
            "note W-IFMAP: bond0.def, lan0, wan0 must exist as [[interface]]",
        ],
    );
    assert!(
        done.toml.contains("[filter]\ndefault = \"drop\"\n\n[[filter.rule]]\nin = \"bond0.def\"\naction = \"accept\"\norigin = \"import:cluster-gateway.rules:15\"\n\n\
             [[filter.rule]]\nstate = [\"established\", \"related\"]\naction = \"accept\""),
        "{}",
        done.toml
    );
    // Without the rule for answers they are judged like any packet.
    let whole = input("cluster-gateway.rules");
    let without: String = whole
        .text
        .lines()
        .filter(|l| !l.contains("--state"))
        .map(|l| format!("{l}\n"))
        .collect();
    let done = checked_but_interfaces(&without);
    has(&done, &["f:13: warn W-STATELESS"]);
    assert!(
        done.toml
            .contains("[filter]\ndefault = \"drop\"\nestablished = \"filter\""),
        "{}",
        done.toml
    );
}

/// An import whose interfaces the lab does not all have.
fn checked_but_interfaces(table: &str) -> Import {
    import(Format::Iptables, &[text("f", table)], &lab()).unwrap()
}

#[test]
fn in_2_static_source_nat_and_what_a_gateway_cannot_ask() {
    let ppp = Options {
        map: vec![
            ("eth0".to_owned(), "wan0".to_owned()),
            ("ppp+".to_owned(), "x".to_owned()),
        ],
        ..Options::default()
    };
    let done = run(Format::Iptables, &[input("vpn-gateway.rules")], &ppp);
    has(
        &done,
        &[
            ":7: ok interface.clamp_mss = 1360 on wan0",
            ":7: warn applies to the interface in both directions, not only to source 192.168.100.0/24",
            ":8: reject E-OWNER: \"-m owner --uid-owner 500\"",
            ":8: reject E-TABLE: mangle/OUTPUT",
            ":15: reject E-IPSEC-POLICY: \"-m policy --dir out --pol ipsec\" asks whether a packet will be encrypted",
            ":15: warn dropping this exclusion widens :16, :17, :18",
            ":16: ok pool \"p1\" = 198.51.100.24",
            ":16: ok source-nat #1",
            ":16: warn W-POOL-UNROUTED",
            ":17: ok pool \"p2\" = 198.51.100.25-198.51.100.28 pairing=paired",
            ":18: ok source-nat #3 out=ppp* src=192.168.102.0/24 via=interface",
            ":19: reject E-OWNER",
            ":19: reject E-LOCAL: nat/OUTPUT",
            ":25: reject E-OWNER",
            ":25: reject E-LOCAL",
        ],
    );
    assert!(
        done.toml.contains(
            "name = \"p2\"\naddresses = [\"198.51.100.25-198.51.100.28\"]\npairing = \"paired\""
        ),
        "{}",
        done.toml
    );
    assert!(
        done.toml
            .contains("out = \"wan0\"\nsrc = \"192.168.100.0/24\"\nvia = \"pool:p1\"")
    );
}

#[test]
fn in_3_port_forwards_keep_what_linux_does() {
    let done = run(Format::Iptables, &[input("closed-lan.rules")], &lab());
    assert!(
        body(&done).starts_with(
            "[[port-forward]]\ncomment = \"ssh to build01\"\nin = \"wan0\"\ndst = \"203.0.113.10/32\"\nproto = \"tcp\"\ndport = \"10022\"\n\
             to = \"192.168.122.11:22\"\nallow = false\nhairpin = false\norigin = \"import:closed-lan.rules:5\"\n"
        ),
        "{}",
        done.toml
    );
    for part in [
        "dport = \"13389\"\nto = \"192.168.122.12:3389\"",
        "proto = \"udp\"\ndport = \"10069\"\nto = \"192.168.122.13:69\"",
        "dport = \"20000-20099\"\nto = \"192.168.122.14\"",
        "dport = \"80,443,8080-8082\"\nto = \"192.168.122.15\"",
        "src = \"192.168.122.0/24\"\ndst = \"!192.168.122.0/24\"\nproto = \"tcp\"\nvia = \"interface\"\nports = \"1024-65535\"",
        "src = \"192.168.122.0/24\"\ndst = \"!192.168.122.0/24\"\nvia = \"interface\"\norigin = \"import:closed-lan.rules:12\"",
    ] {
        assert!(done.toml.contains(part), "{part} is not in\n{}", done.toml);
    }
    has(
        &done,
        &[
            ":6: warn no filter accept precedes the REJECT at :26 for this forward; it will be refused, as on Linux. Add allow=true to open it.",
            ":7: warn no filter accept",
            ":7: note tftp data connections need an ALG, none is active",
            ":8: warn no filter accept",
            ":9: warn no filter accept",
            ":18: warn W-INPUT",
            ":21: warn W-INPUT",
            ":22: ok filter.rule #1 out=lan0 dst=192.168.122.11/32 proto=tcp dport=22 action=accept",
            ":27: ok filter.rule #6 in=lan0 action=reject reject_with=icmp-port-unreachable",
        ],
    );
    assert!(!lines(&done).contains(":5: warn"), "{}", lines(&done));
    assert_eq!(done.report.count(Level::Reject), 0, "{}", lines(&done));
    for part in [
        "[filter]\ndefault = \"accept\"\n\n[[filter.rule]]\nout = \"lan0\"\ndst = \"192.168.122.11/32\"\nproto = \"tcp\"\ndport = \"22\"\naction = \"accept\"",
        "out = \"lan0\"\ndst = \"192.168.122.0/24\"\nstate = [\"established\", \"related\"]\naction = \"accept\"",
        "in = \"lan0\"\naction = \"reject\"\nreject_with = \"icmp-port-unreachable\"\norigin = \"import:closed-lan.rules:27\"",
    ] {
        assert!(done.toml.contains(part), "{part} is not in\n{}", done.toml);
    }
}

#[test]
fn regression_lines_that_linux_takes_without_a_word() {
    refuses(
        &post("-o eth0 -j SNAT --to-source 203.0.113.29-203.0.113.20"),
        "E-RANGE-REVERSED",
    );
    refuses(&post("-s 172.16.0.0/255.240.255.0 -j MASQUERADE"), "E-MASK");
    refuses(&post("-o eth1:0 -j MASQUERADE"), "E-IFALIAS");
    gives(
        &post("-o eth0 -p icmp -j MASQUERADE --to-ports 3000-3999"),
        &["proto = \"icmp\"", "ports = \"3000-3999\""],
    );
    let done = post("-s 10.0.0.1/8 -o eth0 -j MASQUERADE");
    gives(&done, &["src = \"10.0.0.0/8\""]);
    has(&done, &["warn W-HOSTBITS: 10.0.0.1/8 read as 10.0.0.0/8"]);
    gives(&post("! -o virbr0 -j MASQUERADE"), &["out = \"!lan0\""]);
    gives(
        &post("-p tcp --sport 0:1023 --dport :1023 -j MASQUERADE"),
        &["sport = \"0-1023\"\ndport = \"0-1023\""],
    );
    gives(
        &post("-p udp --dport 1024: -j MASQUERADE"),
        &["dport = \"1024-65535\""],
    );
    gives(
        &post("-p tcp ! --dport 25 -j MASQUERADE"),
        &["dport = \"0-24,26-65535\""],
    );
    gives(
        &pre("-i eth0 -p tcp --dport 20000:20099 -j DNAT --to 192.168.122.14"),
        &["dport = \"20000-20099\"\nto = \"192.168.122.14\""],
    );
    refuses(
        &pre("-i eth0 -p tcp --dport 9000:9002 -j DNAT --to 192.168.122.14:20-22"),
        "E-MATCH",
    );
    gives(
        &pre("-i eth0 -p tcp --dport 9000:9002 -j DNAT --to 192.168.122.14:20-22/9000"),
        &["to = \"192.168.122.14:20-22\""],
    );
    let comment = post("-o eth0 -m comment --comment \"say \\\"hi\\\" -j DROP\" -j MASQUERADE");
    gives(&comment, &["say \"hi\" -j DROP", "via = \"interface\""]);
    gives(
        &save(
            "*nat\n:POSTROUTING ACCEPT\n[12:3400] -A POSTROUTING -o eth0 -j MASQUERADE\nCOMMIT\n",
        ),
        &["via = \"interface\""],
    );
}

#[test]
fn accept_in_nat_means_leave_alone() {
    let done = save(
        "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -d 10.0.0.0/8 -j ACCEPT\n-A POSTROUTING -d 172.16.0.0/12 -j RETURN\n-A POSTROUTING -o eth0 -j MASQUERADE\nCOMMIT\n",
    );
    gives(
        &done,
        &[
            "[[exempt]]\ndst = [\"10.0.0.0/8\", \"172.16.0.0/12\"]\norigin = \"import:f:3\"\n\n[[source-nat]]\nout = \"wan0\"",
        ],
    );
    let done = save(
        "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -s 10.1.0.0/16 -j MASQUERADE\n-A POSTROUTING -d 10.0.0.0/8 -j ACCEPT\n-A POSTROUTING -j MASQUERADE\n-A POSTROUTING -s 1.2.3.4 -j MASQUERADE\nCOMMIT\n",
    );
    gives(&done, &["dst = \"10.0.0.0/8\"\nvia = \"none\""]);
    assert!(!done.toml.contains("exempt"));
    has(
        &done,
        &["f:6: warn W-SHADOWED: can never match: the rule of line 5 takes everything"],
    );
}

#[test]
fn chains_are_flattened_in_order() {
    let chains = |jump: &str| {
        save(&format!(
            "*nat\n:POSTROUTING ACCEPT [0:0]\n:user - [0:0]\n-A POSTROUTING -s 10.0.0.0/8 {jump} user\n-A POSTROUTING -o eth0 -j MASQUERADE\n\
             -A user -d 172.16.0.0/12 -j RETURN\n-A user -p tcp -j SNAT --to-source 203.0.113.20\n-A user -s 11.0.0.0/8 -j ACCEPT\nCOMMIT\n"
        ))
    };
    let rules = |done: &Import| -> Vec<String> {
        let text = lines(done);
        let rules = text
            .lines()
            .filter_map(|l| l.split_once(": ok source-nat #"));
        let mut rules: Vec<String> = rules.map(|(_, rule)| rule.to_owned()).collect();
        rules.sort();
        rules
    };
    let jump = chains("-j");
    assert_eq!(
        rules(&jump),
        [
            "1 out=wan0 src=10.0.0.0/8 dst=172.16.0.0/12 via=interface",
            "2 src=10.0.0.0/8 dst=172.16.0.0/12 via=none",
            "3 src=10.0.0.0/8 proto=tcp via=pool:p1",
            "4 out=wan0 via=interface"
        ],
        "{}",
        lines(&jump)
    );
    has(
        &jump,
        &[
            "f:4: ok the rules of the chain user follow, under these conditions",
            "f:6: warn W-REMASQ: what returns here is translated after all, by the caller's rule of line 5",
            "f:8: note can never match behind the jump",
        ],
    );
    // After a goto comes the policy, not the next rule.
    assert_eq!(
        rules(&chains("-g")),
        [
            "1 src=10.0.0.0/8 dst=172.16.0.0/12 via=none",
            "2 src=10.0.0.0/8 proto=tcp via=pool:p1",
            "3 src=10.0.0.0/8 via=none",
            "4 out=wan0 via=interface"
        ]
    );
    let looping = save("*nat\n:POSTROUTING ACCEPT\n:a -\n-A POSTROUTING -j a\n-A a -j a\nCOMMIT\n");
    refuses(&looping, "E-EXPAND");
    let mut many = "*nat\n:POSTROUTING ACCEPT\n:a -\n:b -\n".to_owned();
    for i in 0..100 {
        many.push_str(&format!(
            "-A POSTROUTING -s 10.0.{i}.0/24 -j a\n-A a -d 10.1.{i}.0/24 -j MASQUERADE\n"
        ));
    }
    has(
        &save(&format!("{many}-A b -j MASQUERADE\nCOMMIT\n")),
        &[
            "reject E-EXPAND",
            "note no rule in use leads to the chain b",
        ],
    );
}

#[test]
fn the_shape_of_a_file() {
    let rule = "-A POSTROUTING -o eth0 -j MASQUERADE\n";
    let cut = save(&format!("*nat\n:POSTROUTING ACCEPT\n{rule}"));
    assert!(cut.report.invalid);
    has(&cut, &["f:3: reject E-SYNTAX: COMMIT is missing"]);
    let twice = save(&format!(
        "*nat\n:POSTROUTING ACCEPT\n{rule}COMMIT\n*nat\n:POSTROUTING ACCEPT\n-A POSTROUTING -o virbr0 -j MASQUERADE\nCOMMIT\n"
    ));
    has(
        &twice,
        &[
            "f:5: warn *nat stands here again and replaces the one of line 1",
            "f:3: warn lost",
        ],
    );
    gives(&twice, &["out = \"lan0\""]);
    assert!(!twice.toml.contains("wan0"));
    let crlf = save(&format!("*nat\n:POSTROUTING ACCEPT\n{rule}COMMIT\n").replace('\n', "\r\n"));
    has(&crlf, &["note lines end in CR LF"]);
    gives(&crlf, &["out = \"wan0\""]);
    let legacy = save(
        "# Warning: iptables-legacy tables present, use iptables-legacy-save to see them\n*nat\nCOMMIT\n",
    );
    has(&legacy, &["f:1: note there are legacy tables"]);
    let old = post("-s ! 10.0.0.0/8 -o eth0 -j MASQUERADE");
    gives(&old, &["src = \"!10.0.0.0/8\""]);
    has(&old, &["note", "old place"]);
    for (line, code) in [
        (
            "-A POSTROUTE -j MASQUERADE",
            "E-UNKNOWN: unknown chain \"POSTROUTE\" (did you mean \"POSTROUTING\"?)",
        ),
        ("-A POSTROUTING -j MASQUERAD", "E-UNKNOWN"),
        ("-A POSTROUTING --frobnicate 1 -j MASQUERADE", "E-UNKNOWN"),
        ("-A POSTROUTING -m nonsense -j MASQUERADE", "E-UNKNOWN"),
        (
            "-A POSTROUTING -m comment --comment \"x -j MASQUERADE",
            "E-SYNTAX: a quote is not closed",
        ),
        ("-X", "E-SYNTAX"),
    ] {
        refuses(
            &save(&format!("*nat\n:POSTROUTING ACCEPT\n{line}\nCOMMIT\n")),
            code,
        );
    }
}

#[test]
fn chains_of_other_programs_and_other_tables() {
    let kube = save(
        "*nat\n:PREROUTING ACCEPT\n:KUBE-SERVICES -\n-A PREROUTING -j KUBE-SERVICES\n-A KUBE-SERVICES -j RETURN\nCOMMIT\n",
    );
    has(
        &kube,
        &["f:4: reject E-GENERATED", "f:5: reject E-GENERATED"],
    );
    has(
        &save("*raw\n:PREROUTING ACCEPT\n-A PREROUTING -p udp -j NOTRACK\nCOMMIT\n"),
        &["f:3: reject E-TABLE"],
    );
}

#[test]
fn states_and_types_that_mean_nothing_to_new_flows() {
    let done = post("-o eth0 -m conntrack --ctstate NEW,RELATED -j MASQUERADE");
    gives(&done, &["out = \"wan0\"\nvia = \"interface\""]);
    has(&done, &["f:3: note the state is left out"]);
    let done = post("-o eth0 -m state --state ESTABLISHED -j MASQUERADE");
    has(&done, &["f:3: warn W-SHADOWED: can never match"]);
    assert_eq!(body(&done), "");
    let done = post("-o eth0 -m addrtype ! --dst-type LOCAL -j MASQUERADE");
    gives(&done, &["out = \"wan0\"\nvia = \"interface\""]);
    has(
        &done,
        &["f:3: note packets to the gateway itself never reach source NAT"],
    );
    gives(
        &pre("-m addrtype --dst-type LOCAL -p tcp --dport 80 -j DNAT --to 10.0.0.9"),
        &["dst = \"@self\""],
    );
    refuses(
        &pre("-m addrtype ! --dst-type LOCAL -p tcp --dport 80 -j DNAT --to 10.0.0.9"),
        "E-MATCH",
    );
}

#[test]
fn at_1_14_owners_are_rejected_with_advice() {
    let told = lines(&post("-m owner --uid-owner 5 -j MASQUERADE"));
    for part in [
        "f:3: reject E-OWNER: \"-m owner --uid-owner 5\"",
        "forwarded packets have no local process",
        "in=, src= or a set",
    ] {
        assert!(told.contains(part), "{part}\n{told}");
    }
    assert!(!told.contains("iptables itself dropped"), "{told}");
    for removed in ["--cmd-owner ping", "--pid-owner 7", "--sid-owner 7"] {
        let done = post(&format!("-m owner {removed} -j MASQUERADE"));
        has(
            &done,
            &["reject E-OWNER", "iptables itself dropped this one"],
        );
    }
}

#[test]
fn flushed_rules_and_unused_chains_are_told() {
    let done = save(
        "*nat\n:POSTROUTING ACCEPT\n:OUTPUT ACCEPT\n:a -\n:b -\n-A a -j MASQUERADE\n-A b -j MASQUERADE\n-A OUTPUT -j b\n-A POSTROUTING -j MASQUERADE\n-F POSTROUTING\nCOMMIT\n",
    );
    has(
        &done,
        &[
            "f:6: note no rule in use leads to the chain a",
            "f:7: reject E-LOCAL",
            "f:8: reject E-LOCAL",
            "f:9: warn lost: line 10 flushes",
        ],
    );
}

#[test]
fn mss_clamping_belongs_to_an_interface() {
    let mangle = |rule: &str| {
        save(&format!(
            "*mangle\n:FORWARD ACCEPT\n-A FORWARD {rule}\nCOMMIT\n"
        ))
    };
    let syn = "-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS";
    gives(
        &mangle(&format!("-o eth0 {syn} --set-mss 1360")),
        &["[[interface]]\nname = \"wan0\"\nclamp_mss = 1360\n"],
    );
    refuses(
        &mangle("-o eth0 -p tcp -j TCPMSS --set-mss 1360"),
        "E-MATCH",
    );
    refuses(&mangle(&format!("{syn} --set-mss 1360")), "E-MATCH");
    refuses(&mangle(&format!("-o eth0 {syn} --set-mss 100")), "E-SYNTAX");
    refuses(
        &mangle(&format!("-o eth0 {syn} --clamp-mss-to-pmtu")),
        "E-MATCH",
    );
    refuses(&mangle("-o eth0 -j MARK --set-mark 1"), "E-TABLE");
    let base = natgate::config::parse_str("lab", crate::common::LAB).unwrap();
    let known = Options {
        base: Some(base.validated),
        ..lab()
    };
    let rule =
        format!("*mangle\n:FORWARD ACCEPT\n-A FORWARD -o eth0 {syn} --clamp-mss-to-pmtu\nCOMMIT\n");
    let done = run(Format::Iptables, &[text("f", &rule)], &known);
    gives(&done, &["clamp_mss = 1460"]);
    has(
        &done,
        &["f:3: warn --clamp-mss-to-pmtu read as the MTU of wan0 (1500) less 40"],
    );
}

#[test]
fn ports_drawn_by_their_size_become_one_rule() {
    let agent = |first: &str, last: &str| {
        save(&format!(
            "*nat\n:POSTROUTING ACCEPT\n:IP-MASQ-AGENT -\n-A POSTROUTING -m addrtype ! --dst-type LOCAL -j IP-MASQ-AGENT\n\
             -A IP-MASQ-AGENT -p tcp -m statistic --mode random --probability {first} -j MASQUERADE --to-ports 1024-29999 --random-fully\n\
             -A IP-MASQ-AGENT -p tcp {last} -j MASQUERADE --to-ports 32768-65535 --random-fully\nCOMMIT\n"
        ))
    };
    let done = agent("0.46929256292", "");
    gives(
        &done,
        &[
            "proto = \"tcp\"\nvia = \"interface\"\nports = \"1024-29999,32768-65535\"\nselect = \"random\"",
        ],
    );
    has(&done, &["f:6: ok drawn from with line 5"]);
    has(
        &agent("0.5", ""),
        &["f:5: reject E-MATCH: -m statistic: 1024-29999 is not drawn by its size (0.469293)"],
    );
    has(
        &agent("0.46929256292", "--sport 5"),
        &["f:5: reject E-MATCH: -m statistic: the rules of a draw differ"],
    );
    has(
        &agent(
            "0.46929256292",
            "-m statistic --mode random --probability 1",
        ),
        &[
            "f:5: reject E-MATCH: -m statistic: no rule without it",
            "f:6: reject E-MATCH",
        ],
    );
}

#[test]
fn a_million_lines() {
    let mut rules = "*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n".to_owned();
    let address = |base: u32, i: u32| std::net::Ipv4Addr::from(base + i);
    for i in 0..600_000u32 {
        let source = address(0x0a00_0000, i * 8);
        let port = 1 + i % 60_000;
        rules.push_str(&format!(
            "-A POSTROUTING -s {source}/29 -o eth0 -p tcp -m tcp --dport {port} -j MASQUERADE\n"
        ));
    }
    for i in 0..100_000u32 {
        let (outside, server) = (address(0xcb00_0000, i), address(0x0a00_0000, i));
        rules.push_str(&format!(
            "-A PREROUTING -d {outside}/32 -i eth0 -p udp -m udp --dport 53 -j DNAT --to-destination {server}:5353\n\
             -A POSTROUTING -s {server}/32 -o eth0 -p udp -j SNAT --to-source {outside}\n"
        ));
    }
    rules.push_str("COMMIT\n*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n");
    for i in 0..200_000u32 {
        let from = address(0x0b00_0000, i);
        rules.push_str(&format!(
            "-A FORWARD -s {from}/32 -i eth0 -p tcp -m tcp --dport 22 -j REJECT --reject-with tcp-reset\n"
        ));
    }
    rules.push_str("-A FORWARD -d 10.0.0.0/8 -p udp -j ACCEPT\nCOMMIT\n");
    let done = import(Format::Iptables, &[text("f", &rules)], &lab()).unwrap();
    assert_eq!(done.report.count(Level::Reject), 0);
    let tables = |head: &str| done.toml.matches(&format!("{head}\n")).count();
    assert_eq!(tables("[[source-nat]]"), 700_000);
    assert_eq!(tables("[[port-forward]]"), 100_000);
    assert_eq!(tables("[[pool]]"), 100_000);
    assert_eq!(tables("[[filter.rule]]"), 200_002);
    // Every forward is let through by the last rule, for which it passes all others.
    assert!(!lines(&done).contains("no filter accept"));
    assert!(
        done.toml
            .contains("src = \"10.73.61.248/29\"\nproto = \"tcp\"\ndport = \"60000\""),
        "the last of the first kind"
    );
}
