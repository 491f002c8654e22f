//! VPP's cnat: its commands of both ages, and the stanza of its startup file.

use natgate::config;
use natgate::import::{Format, Import, Level, Options, import};

use super::{body, has, input, lines, run, text};

fn mapped() -> Options {
    let map = [
        ("GigabitEthernet0/8/0", "wan0"),
        ("tap0", "lan0"),
        ("tap9", "lan0"),
    ];
    Options {
        map: map.map(|(a, b)| (a.to_owned(), b.to_owned())).to_vec(),
        ..Options::default()
    }
}

fn cnat(commands: &str) -> Import {
    run(Format::Cnat, &[text("f", commands)], &mapped())
}

#[test]
fn the_language_of_today() {
    let done = import(
        Format::Cnat,
        &[input("cnat-current.vpp")],
        &Options::default(),
    )
    .unwrap();
    assert_eq!(done.report.count(Level::Reject), 0, "{}", lines(&done));
    let report = lines(&done);
    for line in [
        ":2: ok pool \"snat\" = 203.0.113.30, 2001:db8:5::30\n",
        ":3: ok source-nat via=pool:snat, k8s policy; service.source=\"auto\" for outside->outside; out=\"!@host\"\n",
        ":4: ok source-nat in=[\"tap0\"] (IPv4)\n",
        ":5: ok source-nat in=[\"tap0\"] (IPv6)\n",
        ":6: ok set pod = [\"tap0\"]\n",
        ":7: ok set host = [\"tap9\"]\n",
        ":8: ok exempt 10.96.0.0/12\n",
        ":9: warn W-HOSTBITS: exempt 10.244.0.0/16 (given 10.244.7.3/16)\n",
        ":10: ok exempt fd00:244::/56\n",
        ":11: warn delete of a prefix never added: 10.95.0.0/16\n",
        ":12: ok scope in=GigabitEthernet0/8/0\n",
        ":13: ok scope in=tap0\n",
        ":14: ok service 10.96.0.40:80/tcp lb=maglev, 2 backends\n",
        ":15: ok service 10.96.0.10:53/udp lb=hash, 2 backends\n",
        ":16: ok service real 203.0.113.30:30080/tcp, 1 backend 10.244.2.9:8080 source=203.0.113.30\n",
        ":17: ok service [fd00:96::40]:80/tcp, 1 backend",
        ":18: ok service 10.96.0.41:443/tcp lb=maglev, 1 backend 10.244.1.8:443 forward_only=true (direct server return; the backend must own 10.96.0.41)\n",
        ":19: ok service real address=\"interface:GigabitEthernet0/8/0\" port 8443",
        ":19: warn W-IFMAP: GigabitEthernet0/8/0 must exist",
        ":20: ok scope in=tap0 (IPv4)\n",
        ":21: ok scope in=tap0 (IPv6)\n",
        "note W-IFMAP: GigabitEthernet0/8/0, tap0, tap9 must exist as [[interface]]\n",
    ] {
        assert!(report.contains(line), "{line:?} is not in\n{report}");
    }
    for line in [16, 17, 19] {
        let note = format!(":{line}: note load balance not given, \"hash\" taken");
        assert!(report.contains(&note), "{note}\n{report}");
    }
    assert!(!report.contains(":18: note") && !report.contains(":14: note"));
    let rules = "\
[sets]
pod = [\"tap0\"]
host = [\"tap9\"]

[[pool]]
name = \"snat\"
addresses = [\"203.0.113.30\", \"2001:db8:5::30\"]
origin = \"import:cnat-current.vpp:2\"

[[exempt]]
name = \"cnat\"
in = \"tap0\"
dst = [\"10.96.0.0/12\", \"10.244.0.0/16\", \"fd00:244::/56\"]
origin = \"import:cnat-current.vpp:8\"

[[source-nat]]
in = \"tap0\"
out = \"!@host\"
via = \"pool:snat\"
origin = \"import:cnat-current.vpp:3\"

[[service]]
address = \"10.96.0.40\"
proto = \"tcp\"
port = 80
lb = \"maglev\"
source = \"auto\"
backends = [{ to = \"10.244.1.7:8080\" }, { to = \"10.244.2.9:8080\" }]
origin = \"import:cnat-current.vpp:14\"

";
    assert!(body(&done).starts_with(rules), "{}", done.toml);
    for service in [
        "address = \"203.0.113.30\"\nkind = \"real\"\nproto = \"tcp\"\nport = 30080\nlb = \"hash\"\nsource = \"auto\"\nbackends = [{ to = \"10.244.2.9:8080\", source = \"203.0.113.30\" }]",
        "backends = [{ to = \"10.244.1.8:443\", forward_only = true }]",
        "address = \"interface:GigabitEthernet0/8/0\"\nkind = \"real\"\n",
        "address = \"fd00:96::40\"\nproto = \"tcp\"\nport = 80\nlb = \"hash\"\nsource = \"auto\"\nbackends = [{ to = \"[fd00:244:1::7]:8080\" }]",
    ] {
        assert!(done.toml.contains(service), "{service}\n{}", done.toml);
    }
    // With the interfaces there are, the check has nothing against it.
    run(Format::Cnat, &[input("cnat-current.vpp")], &mapped());
}

#[test]
fn the_language_of_2020() {
    let done = run(Format::Cnat, &[input("cnat-2020.vpp")], &mapped());
    has(
        &done,
        &[
            ":1: note \"ex_ctl _calico_master\" only carries the command to VPP; left out",
            ":1: note cnat snat with is the language of 2020; it is set cnat snat-policy addr now",
            ":1: ok pool \"snat\" = 203.0.113.30",
            ":2: ok exempt 10.96.0.0/12",
            ":3: ok 10.95.0.0/16, which cnat-2020.vpp:4 takes out again",
            ":4: ok 10.95.0.0/16 taken out again",
            ":5: ok scope in=lan0 (IPv4)",
            ":6: ok service 10.96.0.40:80/tcp, 1 backend 10.244.1.7:8080",
            ":7: note operational command, no configuration (its name is \"show cnat translation\")",
            ":8: note operational command, no configuration (its name is \"show cnat session\")",
            ":9: reject E-SYNTAX: column 31: a second command begins here with \"ex_ctl\" (its word \"cnat\" in column 53)",
        ],
    );
    assert_eq!(done.report.count(Level::Reject), 1, "{}", lines(&done));
    assert_eq!(
        body(&done),
        "\
[[pool]]
name = \"snat\"
addresses = [\"203.0.113.30\"]
origin = \"import:cnat-2020.vpp:1\"

[[exempt]]
name = \"cnat\"
in = \"lan0\"
dst = [\"10.96.0.0/12\"]
origin = \"import:cnat-2020.vpp:2\"

[[source-nat]]
in = \"lan0\"
src = \"0.0.0.0/0\"
via = \"pool:snat\"
origin = \"import:cnat-2020.vpp:1\"

[[service]]
address = \"10.96.0.40\"
proto = \"tcp\"
port = 80
lb = \"hash\"
source = \"keep\"
backends = [{ to = \"10.244.1.7:8080\" }]
origin = \"import:cnat-2020.vpp:6\""
    );
}

#[test]
fn endpoints_as_commands_write_them() {
    let service = |command: &str| {
        let done = cnat(&format!("cnat translation add {command}\n"));
        assert_eq!(done.report.count(Level::Reject), 0, "{}", lines(&done));
        body(&done).to_owned()
    };
    for (command, parts) in [
        (
            "proto tcp real 203.0.113.1 8081 to 10.0.0.1 0->10.0.0.2 8080",
            &["to = \"10.0.0.2:8080\", source = \"10.0.0.1\""][..],
        ),
        ("vip 198.18.0.2 to ->10.0.0.2", &["proto = \"tcp\"\nlb"]),
        (
            "vip 198.18.0.2 0 to -> 10.0.0.2 0",
            &["to = \"10.0.0.2\" }"],
        ),
        (
            "to ->10.0.0.2 80 proto UDP default vip 198.18.0.2 80",
            &["proto = \"udp\"", "lb = \"hash\""],
        ),
        (
            "vip 198.18.0.2 80 to ->10.0.0.2 to ->10.0.0.3 to ->10.0.0.2",
            &["{ to = \"10.0.0.2\", weight = 2 }, { to = \"10.0.0.3\" }"],
        ),
        (
            "real GigabitEthernet0/8/0 80 to ->10.0.0.2",
            &["address = \"interface:wan0\"\nkind = \"real\""],
        ),
        (
            "proto SCTP vip 198.18.0.2 to ->10.0.0.2",
            &["proto = \"sctp\""],
        ),
        (
            "proto sctp vip 198.18.0.2 3868 to ->10.0.0.2 13868",
            &[
                "proto = \"sctp\"\nport = 3868",
                "{ to = \"10.0.0.2:13868\" }",
            ],
        ),
        (
            "vip 198.18.0.2 80 to 10.0.0.9->10.0.0.2 8080:nonat",
            &["{ to = \"10.0.0.2\", forward_only = true }"],
        ),
    ] {
        let written = service(command);
        for part in parts {
            assert!(written.contains(part), "{command}: {part}\n{written}");
        }
    }
    let own = cnat(
        "cnat translation add vip GigabitEthernet0/8/0 80 to ->10.0.0.2 80\nset cnat snat-policy addr 203.0.113.30\ncnat translation add vip 203.0.113.30 80 to ->10.0.0.2 80\n",
    );
    has(
        &own,
        &[
            "f:1: warn an address of the gateway's own",
            "f:3: warn an address of the gateway's own",
        ],
    );
}

#[test]
fn what_no_command_of_cnat_says() {
    for (command, code, why) in [
        (
            "cnat translation add vip 198.18.0.2 80",
            "E-SYNTAX",
            "no backend",
        ),
        (
            "cnat translation add to ->10.0.0.2 80",
            "E-SYNTAX",
            "neither vip nor real",
        ),
        (
            "cnat translation add vip 198.18.0.2 80 to 10.0.0.2 80",
            "E-SYNTAX",
            "->ADDRESS",
        ),
        (
            "cnat translation add vip 198.18.0.2 70000 to ->10.0.0.2",
            "E-PORTS",
            "70000",
        ),
        (
            "cnat translation add vip 198.18.0.256 80 to ->10.0.0.2",
            "E-SYNTAX",
            "198.18.0.256",
        ),
        (
            "cnat translation add vip 198.18.0.2 80 to 10.0.0.1 99->10.0.0.2 80",
            "E-PORTS",
            "source port 99",
        ),
        (
            "cnat translation add vip 198.18.0.2 80 to tap0 0->10.0.0.2 80",
            "E-MATCH",
            "interface tap0",
        ),
        (
            "cnat translation add vip 198.18.0.2 80 to ->tap0 80",
            "E-MATCH",
            "interface tap0",
        ),
        (
            "cnat translation add vip 198.18.0.2 80 to ->fd00:1::2 80",
            "E-MATCH",
            "family",
        ),
        (
            "cnat translation add proto icmp vip 198.18.0.2 to ->10.0.0.2",
            "E-MATCH",
            "icmp",
        ),
        (
            "cnat translation add proto tpc vip 198.18.0.2 to ->10.0.0.2",
            "E-UNKNOWN",
            "did you mean \"tcp\"?",
        ),
        (
            "cnat translation add vip 198.18.0.2 80 to ->10.0.0.2 maglve",
            "E-UNKNOWN",
            "did you mean \"maglev\"?",
        ),
        ("cnat translation del 3", "E-SYNTAX", "number"),
        (
            "cnat translate add vip 198.18.0.2",
            "E-UNKNOWN",
            "did you mean \"translation\"?",
        ),
        (
            "cnat snat wiht 203.0.113.1",
            "E-UNKNOWN",
            "did you mean \"with\"?",
        ),
        (
            "set cnat snat-polcy none",
            "E-UNKNOWN",
            "did you mean \"snat-policy\"?",
        ),
        (
            "set cnat snat-policy k8",
            "E-UNKNOWN",
            "did you mean \"k8s\"?",
        ),
        ("set cnat snat-policy addr", "E-SYNTAX", "no address"),
        (
            "set cnat snat-policy addr 203.0.113.30 203.0.113.31",
            "E-SYNTAX",
            "one address of each family",
        ),
        ("set cnat snat-policy none fib 7", "E-MATCH", "vrf = \"7\""),
        ("set cnat snat-policy prefix 10/8", "E-SYNTAX", "no prefix"),
        (
            "set cnat snat-policy if table include-v5 tap0",
            "E-UNKNOWN",
            "did you mean \"include-v4\"?",
        ),
        (
            "set cnat snat-policy if table include-v4",
            "E-SYNTAX",
            "no interface",
        ),
        (
            "set cnat feature tap0 on",
            "E-SYNTAX",
            "neither enable nor disable",
        ),
        (
            "set interface feature tap0 cnat-snat-ip5 arc ip4-unicast",
            "E-UNKNOWN",
            "did you mean \"cnat-snat-ip4\"?",
        ),
        (
            "set interface feature tap0 cnat-snat-ip4 arc ip6-unicast",
            "E-SYNTAX",
            "arc ip4-unicast",
        ),
        (
            "cnta translation add",
            "E-UNKNOWN",
            "did you mean \"cnat translation\"?",
        ),
        ("nat44 add address 203.0.113.30", "E-UNKNOWN", "nat44"),
        (
            "cnat snat with 203.0.113.30 cnat snat exclude 10.0.0.0/8",
            "E-SYNTAX",
            "column 29: a second command",
        ),
    ] {
        let done = cnat(&format!("{command}\n"));
        let found = done
            .report
            .lines
            .iter()
            .find(|line| line.level == Level::Reject);
        let found = found.unwrap_or_else(|| panic!("{command} is not rejected\n{}", lines(&done)));
        assert_eq!(
            (found.place.as_str(), found.code),
            ("f:1", code),
            "{command}: {found}"
        );
        assert!(found.text.contains(why), "{command}: {found}");
    }
    let twice = cnat(
        "cnat translation add vip 198.18.0.2 80 to ->10.0.0.2\ncnat translation add vip 198.18.0.2 80 to ->10.0.0.3\ncnat translation add proto udp vip 198.18.0.2 80 to ->198.18.0.2\n",
    );
    has(
        &twice,
        &[
            "f:2: reject E-MATCH: 198.18.0.2:80/tcp has a translation at f:1 already; VPP would put this one into its place",
            "f:3: reject E-MATCH: 198.18.0.2 is a virtual address",
        ],
    );
}

#[test]
fn commands_that_configure_nothing() {
    let done = cnat(
        "comment whatever { is said\n# a remark\n\nshow cnat session\nshow cant session\ntest cnat scanner off\ncnat purge\nset interface state tap0 up\ncreate tap id 0\nip route add 0.0.0.0/0 via 203.0.113.1\n\
         set interface feature tap0 acl-plugin-in-ip4-fa arc ip4-unicast\nkubectl exec node -- vppctl show cnat client\ncalicovppctl vppctl -node a cnat log\n",
    );
    assert_eq!(done.report.count(Level::Reject), 0, "{}", lines(&done));
    assert!(
        done.report.worst() == Level::Note && body(&done).is_empty(),
        "{}",
        done.toml
    );
    has(
        &done,
        &[
            "f:4: note operational command, no configuration\n",
            "f:5: note operational command, no configuration (its name is \"show cnat session\")",
            "f:8: note not cnat's: interfaces and routes",
            "f:11: note the feature acl-plugin-in-ip4-fa is not cnat's",
            "f:12: note \"kubectl exec node -- vppctl\" only carries",
            "f:13: note operational command",
        ],
    );
}

#[test]
fn policies_scope_rules_as_vpp_does() {
    let rules = |commands: &str| -> String {
        let done = cnat(commands);
        assert_eq!(done.report.count(Level::Reject), 0, "{}", lines(&done));
        let tables = body(&done)
            .split("\n\n")
            .filter(|t| !t.starts_with("[[pool]]"));
        let tables = tables.map(|t| {
            t.lines()
                .filter(|l| !l.starts_with("origin"))
                .collect::<Vec<_>>()
                .join("; ")
        });
        tables.collect::<Vec<_>>().join("\n")
    };
    let base = "set cnat snat-policy addr 203.0.113.30 2001:db8::30\n";
    let all = rules(&format!(
        "{base}set cnat snat-policy none\nset interface feature tap0 cnat-snat-ip4 arc ip4-unicast\nset interface feature GigabitEthernet0/8/0 cnat-snat-ip6 arc ip6-unicast\n"
    ));
    assert_eq!(
        all,
        "[[source-nat]]; in = \"lan0\"; src = \"0.0.0.0/0\"; via = \"pool:snat\"\n[[source-nat]]; in = \"wan0\"; src = \"::/0\"; via = \"pool:snat\""
    );
    let included = rules(&format!(
        "{base}set cnat snat-policy if-pfx\nset cnat snat-policy if table include-v4 tap0\nset cnat snat-policy prefix 10.96.0.0/12\nset cnat snat-policy prefix 10.0.0.9/32 src\nset cnat feature GigabitEthernet0/8/0 enable\n"
    ));
    assert_eq!(
        included,
        "[[exempt]]; name = \"cnat\"; in = \"lan0\"; dst = [\"10.96.0.0/12\"]\n[[exempt]]; in = \"lan0\"; src = \"10.0.0.9/32\"; dst = [\"0.0.0.0/0\"]\n[[source-nat]]; in = \"lan0\"; src = \"0.0.0.0/0\"; via = \"pool:snat\""
    );
    let rewritten = rules(&format!(
        "{base}set cnat snat-policy dnat\nset cnat snat-policy prefix 198.18.1.0/24 rw 10.0.0.0\nset cnat snat-policy prefix 10.0.0.0/24 src rw 198.18.1.0\nset cnat snat-policy prefix 198.18.2.2/32 rw 10.0.1.2\nset cnat feature tap0 enable\n"
    ));
    assert_eq!(
        rewritten,
        "[[static-nat]]; external = \"198.18.1.0/24\"; internal = \"10.0.0.0/24\"\n[[static-nat]]; external = \"198.18.2.2/32\"; internal = \"10.0.1.2/32\"; direction = \"in\"\n\
         [[source-nat]]; in = \"lan0\"; src = \"0.0.0.0/0\"; dst = [\"10.0.0.0/24\", \"10.0.1.2/32\"]; via = \"pool:snat\""
    );
    for (commands, part) in [
        (
            "set cnat snat-policy none\n",
            "f:1: warn no address is given",
        ),
        (
            "set cnat snat-policy addr 203.0.113.30\n",
            "f:1: warn no interface has cnat's feature in this file",
        ),
        (
            "set cnat snat-policy addr 203.0.113.30\nset cnat snat-policy prefix 10.0.0.0/8\n",
            "f:2: warn the policy none does not ask prefixes",
        ),
        (
            "set cnat snat-policy addr 203.0.113.30\nset cnat snat-policy if-pfx\n",
            "f:2: warn no interface is included",
        ),
        (
            "set cnat snat-policy addr 203.0.113.30\nset cnat snat-policy addr 203.0.113.31\n",
            "f:1: warn W-SHADOWED: f:2 takes its place",
        ),
        (
            "set cnat snat-policy addr 203.0.113.30\nset cnat feature tap0 enable\n",
            "f:2: warn VPP translates what leaves",
        ),
        (
            "set cnat snat-policy addr 203.0.113.30\nset cnat snat-policy if-pfx\nset cnat snat-policy if table include-v4 tap0\nset cnat snat-policy if table include-v6 tap0\n",
            "f:1: warn has no address for IPv6",
        ),
        (
            "set cnat snat-policy dnat-only\nset cnat snat-policy prefix fd00:5::/64 rw fd00:1::\n",
            "f:2: warn IPv6 prefixes are translated as RFC 6296 says",
        ),
        (
            "set cnat snat-policy addr 203.0.113.30\nset cnat snat-policy if-pfx\nset cnat snat-policy if table include-v4 tap0\nset interface feature GigabitEthernet0/8/0 cnat-snat-ip4 arc ip4-unicast\n",
            "f:3: warn lan0 has no cnat feature",
        ),
    ] {
        has(&cnat(commands), &[part]);
    }
    let overlapping = cnat(
        "set cnat snat-policy dnat-only\nset cnat snat-policy prefix 198.18.0.0/16 rw 10.1.0.0\nset cnat snat-policy prefix 198.18.1.0/24 rw 10.2.0.0\n",
    );
    has(
        &overlapping,
        &["f:3: reject E-MATCH: overlaps the rewrite of f:2"],
    );
}

#[test]
fn the_stanza_of_the_startup_file() {
    let startup = "unix {\n  nodaemon # a remark\n  exec /etc/vpp/cnat.vpp\n}\ncnat { session-max-age 30\n  tcp-max-age 3600\n  session-max 100000\n  session-db-buckets 1024 session-db-memory 64M maglev-len 1009\n}\n";
    let both = [
        text("startup.conf", startup),
        text(
            "cnat.vpp",
            "cnat translation add vip 198.18.0.2 80 to ->10.0.0.2 80 maglev\n",
        ),
    ];
    let done = run(Format::Cnat, &both, &mapped());
    assert_eq!(done.report.count(Level::Reject), 0, "{}", lines(&done));
    has(
        &done,
        &[
            "startup.conf:1: note unix { … } is not cnat's; not read",
            "startup.conf:5: ok timeouts = \"30s\" for udp, udp_unreplied, icmp, tcp_opening, sctp, sctp_transitory, other",
            "startup.conf:6: ok timeouts.tcp = \"3600s\"",
            "startup.conf:7: ok system.sessions = 100000",
            "startup.conf:8: note session-db-buckets: natgate sizes its tables",
            "startup.conf:8: note maglev-len",
            "cnat.vpp:1: ok service",
        ],
    );
    assert!(
        body(&done)
            .starts_with("[system]\nsessions = 100000\n\n[timeouts]\nudp = \"30s\"\nudp_unreplied"),
        "{}",
        done.toml
    );
    let loaded = config::parse_texts(
        &[("lab", crate::common::LAB), ("import.toml", &done.toml)],
        &[],
    );
    assert_eq!(loaded.unwrap().validated.system.sessions, 100_000);
    for (stanza, code) in [
        ("cnat {\n session-max-age x\n}", "f:2: reject E-SYNTAX"),
        ("cnat {\n tcp-max-age 0 }", "f:2: reject E-SYNTAX"),
        (
            "cnat {\n sesion-max-age 3\n}",
            "f:2: reject E-UNKNOWN: cnat has no key \"sesion-max-age\" (did you mean \"session-max-age\"?)",
        ),
        (
            "cnat { tcp-max-age 70000 }",
            "f:1: warn tcp-max-age 70000: VPP keeps 16 bits",
        ),
    ] {
        has(&cnat(stanza), &[code]);
    }
    let open = import(Format::Cnat, &[text("f", "cnat {\n")], &Options::default()).unwrap();
    assert!(open.report.invalid && open.toml.is_empty());
    has(&open, &["f:1: reject E-SYNTAX: the brace is never closed"]);
}
