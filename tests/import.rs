//! Importers: what comes out for the inputs of their documentation, for every mistake, and that it passes the check.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

#[path = "import/cnat.rs"]
mod cnat;
mod common;
#[path = "import/docs.rs"]
mod docs;
#[path = "import/forward.rs"]
mod forward;
#[path = "import/ip6tables.rs"]
mod ip6tables;
#[path = "import/iptables.rs"]
mod iptables;
#[path = "import/kube.rs"]
mod kube;
#[path = "import/targets.rs"]
mod targets;

use std::path::{Path, PathBuf};

use common::LAB;
use natgate::config;
use natgate::import::{Format, Import, Input, Level, Options, import};

fn input(name: &str) -> Input {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/import")
        .join(name);
    Input {
        name: name.to_owned(),
        text: std::fs::read_to_string(&path).unwrap(),
        path: Some(path),
    }
}

fn text(name: &str, text: &str) -> Input {
    Input {
        name: name.to_owned(),
        path: None,
        text: text.to_owned(),
    }
}

fn inside() -> Options {
    Options {
        inside: vec!["lan0".to_owned()],
        ..Options::default()
    }
}

fn run(format: Format, inputs: &[Input], options: &Options) -> Import {
    let done = import(format, inputs, options).unwrap();
    if !done.report.invalid {
        // Whatever comes out is a drop-in that the lab's configuration takes.
        let checked = config::parse_texts(&[("lab", LAB), ("import.toml", &done.toml)], &[]);
        if let Err(report) = checked {
            panic!("{report}\n{}\n{}", done.toml, lines(&done));
        }
    }
    done
}

fn agent(content: &str, options: &Options) -> Import {
    run(Format::IpMasqAgent, &[text("f", content)], options)
}

fn lines(done: &Import) -> String {
    done.report
        .lines
        .iter()
        .map(|line| format!("{line}\n"))
        .collect()
}

/// The objects without the comment at the top.
fn body(done: &Import) -> &str {
    done.toml
        .split_once("\n\n")
        .map_or("", |(_, body)| body.trim_end())
}

#[track_caller]
fn has(done: &Import, parts: &[&str]) {
    let report = lines(done);
    for part in parts {
        assert!(report.contains(part), "{part:?} is not in\n{report}");
    }
}

#[test]
fn at_2_9_a_config_map_becomes_an_exemption_and_a_rule() {
    let options = Options {
        enable_ipv6: true,
        ..inside()
    };
    let map = [input("ip-masq-agent-configmap.yaml")];
    let done = run(Format::ConfigMap, &map, &options);
    assert_eq!(
        body(&done),
        r#"[[exempt]]
name = "ip-masq-agent"
in = ["lan0"]
dst = ["169.254.0.0/16", "fe80::/10", "10.244.0.0/16", "10.96.0.0/12", "172.20.0.0/14", "fd00:244::/56"]
origin = "import:ip-masq-agent-configmap.yaml"

[[source-nat]]
in = "lan0"
via = "interface"
select = "random"
origin = "import:ip-masq-agent-configmap.yaml""#
    );
    has(
        &done,
        &[
            "ip-masq-agent-configmap.yaml:12: ok exempt 10.244.0.0/16",
            ".yaml:15: ok exempt fd00:244::/56",
        ],
    );
    assert!(done.report.worst() <= Level::Note, "{}", lines(&done));

    let live = Options {
        live: true,
        ..options
    };
    let done = run(Format::ConfigMap, &map, &live);
    let file = r#"file = { path = "/etc/config/ip-masq-agent", resync = "90s", limit = 128 }"#;
    assert!(
        done.toml.contains(file) && !done.toml.contains("dst"),
        "{}",
        done.toml
    );

    let done = run(Format::ConfigMap, &map, &inside());
    assert!(done.report.invalid && done.toml.is_empty());
    has(
        &done,
        &[".yaml:15: reject E-SYNTAX: fd00:244::/56", "--enable-ipv6"],
    );
}

#[test]
fn config_maps_that_hold_no_list() {
    for (content, why) in [
        ("kind: List\nitems: []\n", "\"List\""),
        (
            "kind: ConfigMap\nbinaryData: {config: aGk=}\n",
            "binaryData",
        ),
        ("kind: ConfigMap\ndata: {x: y}\n", "neither"),
        ("kind: ConfigMap\ndata: {config: [1]}\n", "a list"),
        ("kind: [", "not YAML"),
        (
            "kind: ConfigMap\ndata:\n  config: |\n    nonMasqueradeCIDRs: [10.0.0.1/8]\n",
            "f:4: reject E-SYNTAX",
        ),
    ] {
        let done = run(Format::ConfigMap, &[text("f", content)], &inside());
        assert!(done.report.invalid, "{content}");
        has(&done, &[why]);
    }
    let azure = "kind: ConfigMap\ndata:\n  ip-masq-agent-reconciled: |-\n    nonMasqueradeCIDRs: [10.0.0.0/8]\n  ip-masq-agent: |-\n    masqLinkLocal: true\n";
    let done = run(Format::ConfigMap, &[text("f", azure)], &inside());
    assert!(
        done.toml.contains(r#"dst = ["10.0.0.0/8"]"#),
        "{}",
        done.toml
    );
}

#[test]
fn defaults_are_printed_and_mistakes_refuse_the_file() {
    let done = agent("", &inside());
    has(
        &done,
        &[
            "f: warn W-DEFAULTS",
            "10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16",
        ],
    );
    assert!(
        done.toml.contains(
            r#"dst = ["169.254.0.0/16", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]"#
        )
    );
    let reserved = Options {
        all_reserved: true,
        ..inside()
    };
    assert!(
        agent("masqLinkLocal: true", &reserved)
            .toml
            .contains("240.0.0.0/4")
    );
    assert!(
        agent("nonMasqueradeCIDRs: []", &inside())
            .toml
            .contains(r#"dst = ["169.254.0.0/16"]"#)
    );

    let bad = "nonMasqueradeCIDRs:\n- 10.0.0.1/8\n- 010.0.0.0/8\n- 10/8\nresyncInterval: 60\ncidrLimit: x\n";
    let done = agent(bad, &inside());
    assert!(done.report.invalid);
    has(
        &done,
        &[
            "f:2: reject E-SYNTAX: nonMasqueradeCIDRs: 10.0.0.1/8 has host bits set (the network is 10.0.0.0/8)",
            "f:3: ",
            "f:4: ",
            "f:5: ",
            "f:6: ",
        ],
    );
    let many: Vec<String> = (0..65).map(|i| format!("10.{i}.0.0/16")).collect();
    let done = agent(
        &format!("nonMasqueradeCIDRs: [{}]", many.join(",")),
        &inside(),
    );
    assert!(done.report.invalid);
    has(&done, &["65 prefixes, at most 64"]);
}

#[test]
fn duplicates_unknown_keys_and_requests_are_told() {
    let content = "nonMasqueradeCIDRs: [10.0.0.0/8, 10.1.0.0/16, 10.0.0.0/8]\nmasqueradeCIDRs: [10.8.0.0/16]\nnonMasqCIDRs: []\n";
    let done = agent(content, &inside());
    has(
        &done,
        &[
            "note 10.1.0.0/16 lies in 10.0.0.0/8",
            "warn 10.8.0.0/16: no agent reads",
            "warn unknown key \"nonMasqCIDRs\"",
        ],
    );
    assert!(
        done.toml
            .contains(r#"dst = ["169.254.0.0/16", "10.0.0.0/8", "10.1.0.0/16"]"#),
        "{}",
        done.toml
    );
    assert!(!done.toml.contains("force"));
    let accepting = Options {
        accept_masquerade_cidrs: true,
        ..inside()
    };
    assert!(
        agent(content, &accepting)
            .toml
            .contains(r#"force = ["10.8.0.0/16"]"#)
    );
}

#[test]
fn dialects_differ_as_their_programs_do() {
    let misaligned = [text(
        "f",
        "nonMasqueradeCIDRs: [2.2.2.2/16]\nresyncInterval: 5m\n",
    )];
    let done = run(Format::Cilium, &misaligned, &inside());
    assert!(done.toml.contains("\"2.2.0.0/16\""), "{}", done.toml);
    has(
        &done,
        &[
            "f:1: warn W-HOSTBITS: exempt 2.2.0.0/16 (given 2.2.2.2/16)",
            "f:2: warn resyncInterval has no effect",
        ],
    );
    assert!(run(Format::Azure, &misaligned, &inside()).report.invalid);
    let done = run(Format::Cilium, &[text("f", "")], &inside());
    assert!(done.toml.contains("240.0.0.0/4") && done.toml.contains("169.254.0.0/16"));
    let done = run(
        Format::Cilium,
        &[text("f", "masqLinkLocal: true\n")],
        &inside(),
    );
    assert!(
        done.toml.contains("dst = []") || !done.toml.contains("[[exempt]]"),
        "{}",
        done.toml
    );
    let parts = [
        text("ip-masq-a", "{\"nonMasqueradeCIDRs\": [\"10.0.0.0/8\"]}"),
        text(
            "ip-masq-b",
            "masqLinkLocal: true\nnonMasqueradeCIDRs: [10.0.0.0/8, 11.0.0.0/8]\n",
        ),
    ];
    let done = run(Format::Azure, &parts, &inside());
    assert!(
        done.toml.contains(r#"dst = ["10.0.0.0/8", "11.0.0.0/8"]"#),
        "{}",
        done.toml
    );
}

#[test]
fn ports_of_the_agent_become_a_rule_for_protocols_with_ports() {
    let with = |ports: &str| Options {
        to_ports: Some(ports.to_owned()),
        keep_ports: true,
        ..inside()
    };
    let done = agent("", &with("1024-29999,32768-65535"));
    assert!(
        done.toml
            .contains("proto = [\"tcp\", \"udp\", \"sctp\"]\nports = \"1024-29999,32768-65535\""),
        "{}",
        done.toml
    );
    assert!(!done.toml.contains("select"));
    for bad in ["70000", "2-1", "1 - 2", "1-2-3", "a", "1-", "", "0"] {
        has(&agent("", &with(bad)), &["reject E-PORTS"]);
    }
}

#[test]
fn the_inside_is_what_no_default_route_leaves_through() {
    let base = config::parse_str("lab", LAB).unwrap().validated;
    let options = Options {
        base: Some(base),
        ..Options::default()
    };
    assert!(agent("", &options).toml.contains(r#"in = ["lan0"]"#));
    let unknown = import(Format::IpMasqAgent, &[text("f", "")], &Options::default());
    assert!(unknown.unwrap_err().contains("--in"));
}

#[test]
fn at_2_10_policies_of_a_windows_node() {
    let done = run(
        Format::CniWindows,
        &[input("win-bridge-v1.json")],
        &inside(),
    );
    assert!(
        done.toml
            .contains(r#"dst = ["10.244.0.0/16", "10.96.0.0/12", "172.31.9.4/32"]"#),
        "{}",
        done.toml
    );
    assert!(done.toml.contains(r#"force = ["198.51.100.77/32"]"#));
    has(
        &done,
        &[
            "win-bridge-v1.json:$.policies[0].value.ExceptionList[2]: note 172.31.9.4 is a bare address",
            "$.policies[1].value.Destinations: warn Destinations: HNS translates only these",
            "$.policies[2]: warn W-HNS-ROUTE",
            "$.policies[3]: reject E-MATCH: 30080->80/tcp",
            "--target IP",
            "$.loopbackDSR: note loopbackDSR: hairpin is on by default",
        ],
    );
    assert_eq!(done.report.count(Level::Reject), 1);
    let options = Options {
        target: Some("10.0.0.5".parse().unwrap()),
        ..inside()
    };
    let done = run(Format::CniWindows, &[input("win-bridge-v1.json")], &options);
    assert_eq!(done.report.count(Level::Reject), 0);
    assert!(
        done.toml
            .contains("dport = \"30080\"\nto = \"10.0.0.5:80\""),
        "{}",
        done.toml
    );
}

#[test]
fn versions_and_nests_of_windows_files() {
    let run = |content: &str| run(Format::CniWindows, &[text("f", content)], &inside());
    let v2 = r#"{"apiVersion": 2, "delegate": {"AdditionalArgs": [{"Name": "EndpointPolicy", "Value": {"Type": "OutBoundNAT", "Settings": {"Exceptions": ["10.0.0.0/8"], "VirtualIP": "203.0.113.7"}}}]}, "ipMasqNetwork": "11.0.0.0/8"}"#;
    let done = run(v2);
    assert!(
        done.toml.contains(r#"dst = ["10.0.0.0/8", "11.0.0.0/8"]"#),
        "{}",
        done.toml
    );
    assert!(done.toml.contains("via = \"pool:hns\"") && done.toml.contains("203.0.113.7"));
    let mixed = r#"{"apiVersion": 2, "policies": [{"name": "EndpointPolicy", "value": {"Type": "OutBoundNAT", "ExceptionList": ["10.0.0.0/8"]}}]}"#;
    let done = run(mixed);
    has(
        &done,
        &["warn OutBoundNAT: apiVersion 2 keeps its settings below Settings; HNS would ignore"],
    );
    assert!(!done.toml.contains("10.0.0.0/8"));
    let done = run(
        r#"{"policies": [{"name": "EndpointPolicy", "value": {"Type": "outboundnat", "ExceptionList": []}}, {"name": "EndpointPolicy", "value": {"Type": "OutBoundNAT", "ExceptionList": ["10.0.0.0"  , "x", 7]}}]}"#,
    );
    has(
        &done,
        &[
            "$.policies[0]: reject E-UNKNOWN",
            "did you mean \"OutBoundNAT\"?",
            "ExceptionList[1]: reject E-SYNTAX",
            "ExceptionList[2]: reject E-SYNTAX",
        ],
    );
}

#[test]
fn access_lists_of_windows_nodes_become_filter_rules() {
    let run = |rules: &str| {
        let list = format!(r#"{{"policies": [{rules}]}}"#);
        run(Format::CniWindows, &[text("f", &list)], &inside())
    };
    let acl =
        |more: &str| format!(r#"{{"name": "EndpointPolicy", "value": {{"Type": "ACL", {more}}}}}"#);
    let done = run(&[
        acl(r#""Action": "Allow", "Direction": "Out", "Priority": 200, "LocalAddresses": "10.0.0.0/24""#),
        acl(r#""Action": "Block", "Direction": "Out", "Priority": 100, "RemoteAddresses": "192.0.2.0/24,198.51.100.7", "RemotePorts": "80,8000-8010", "Protocol": 6"#),
    ]
    .join(","));
    assert_eq!(
        body(&done),
        r#"[[filter.rule]]
dst = ["192.0.2.0/24", "198.51.100.7/32"]
proto = "6"
dport = ["80", "8000-8010"]
action = "drop"
in = "lan0"
origin = "import:f:$.policies[1]"

[[filter.rule]]
src = "10.0.0.0/24"
action = "accept"
in = "lan0"
origin = "import:f:$.policies[0]""#
    );
    for bad in [
        r#""Action": "Block", "Direction": "In""#,
        r#""Action": "Pass", "Direction": "Out""#,
        r#""Action": "Block", "Direction": "Out", "RemotePorts": "80""#,
        r#""Action": "Block", "Direction": "Out", "RemoteAddresses": "x""#,
        r#""Action": "Block", "Direction": "Out", "ServiceName": "x""#,
        r#""Action": "Block", "Direction": "Out", "Protocol": "6", "LocalPorts": "9-1""#,
        r#""Action": "Block", "Direction": "Out", "LocalAddresses": "10.0.0.1", "RemoteAddresses": "fd00::/8""#,
    ] {
        has(&run(&acl(bad)), &["$.policies[0]: reject E-MATCH: ACL: "]);
    }
}

#[test]
fn at_2_11_fragments_are_not_json() {
    let done = run(
        Format::CniWindows,
        &[text("f", "\"policies\": [\n]")],
        &inside(),
    );
    assert!(done.report.invalid);
    has(&done, &["f:1: reject E-SYNTAX: column 11: not JSON"]);
    let done = run(
        Format::CniWindows,
        &[text("f", "{\n  \"policies\": [\n    ...\n  ]\n}")],
        &inside(),
    );
    has(&done, &["f:3: reject E-SYNTAX: column 5: not JSON"]);
}

#[test]
fn a_libvirt_network_becomes_its_rule_set() {
    let options = Options {
        map: vec![
            ("eth0".to_owned(), "wan0".to_owned()),
            ("virbr0".to_owned(), "lan0".to_owned()),
        ],
        ..Options::default()
    };
    let done = run(
        Format::LibvirtNetwork,
        &[input("nat-network.xml")],
        &options,
    );
    assert_eq!(
        body(&done),
        r#"[[pool]]
name = "guests"
addresses = ["203.0.113.20-203.0.113.23"]
origin = "import:nat-network.xml:3"

[[source-nat]]
out = "wan0"
src = "192.168.122.0/24"
dst = "!192.168.122.0/24"
proto = "tcp"
via = "pool:guests"
ports = "1024-32767"
origin = "import:nat-network.xml:11"

[[source-nat]]
out = "wan0"
src = "192.168.122.0/24"
dst = "!192.168.122.0/24"
proto = "udp"
via = "pool:guests"
ports = "1024-32767"
origin = "import:nat-network.xml:11"

[[source-nat]]
out = "wan0"
src = "192.168.122.0/24"
dst = "!192.168.122.0/24"
via = "pool:guests"
origin = "import:nat-network.xml:11"

[[filter.rule]]
origin = "import:nat-network.xml:11"
in = "wan0"
out = "lan0"
dst = "192.168.122.0/24"
state = ["established", "related"]
action = "accept"

[[filter.rule]]
origin = "import:nat-network.xml:11"
in = "lan0"
out = "wan0"
src = "192.168.122.0/24"
action = "accept"

[[filter.rule]]
origin = "import:nat-network.xml:14"
in = "wan0"
out = "lan0"
dst = "2001:db8:ca2::/64"
action = "accept"

[[filter.rule]]
origin = "import:nat-network.xml:14"
in = "lan0"
out = "wan0"
src = "2001:db8:ca2::/64"
action = "accept"

[[filter.rule]]
origin = "import:nat-network.xml:9"
in = "lan0"
out = "lan0"
action = "accept"

[[filter.rule]]
origin = "import:nat-network.xml:9"
out = "lan0"
action = "reject"
reject_with = "icmp-port-unreachable"

[[filter.rule]]
origin = "import:nat-network.xml:9"
in = "lan0"
action = "reject"
reject_with = "icmp-port-unreachable""#
    );
    assert_eq!(done.report.count(Level::Reject), 0);
    has(
        &done,
        &[
            "nat-network.xml:9: ok guests are behind lan0",
            "xml:10: note <dns>",
            "xml:11: ok source-nat",
            "xml:14: note 2001:db8:ca2::/64: IPv6 is routed",
        ],
    );
}

#[test]
fn libvirt_networks_with_mistakes_and_other_modes() {
    let run = |content: &str| {
        run(
            Format::LibvirtNetwork,
            &[text("f", content)],
            &Options::default(),
        )
    };
    let nat = |inner: &str| {
        format!("<network><forward>{inner}</forward><ip address='10.1.2.1'/></network>")
    };
    has(
        &run(&nat("")),
        &["ok source-nat 10.0.0.0/8 via interface, tcp and udp with ports 1024-65535"],
    );
    has(
        &run(&nat("<nat><port start='9' end='9'/></nat>")),
        &["start must lie below end"],
    );
    has(
        &run(&nat("<nat><port start='9' end='70000'/></nat>")),
        &["start must lie below end"],
    );
    has(
        &run(&nat(
            "<nat><address start='10.0.0.9' end='10.0.0.1'/></nat>",
        )),
        &["E-RANGE-REVERSED"],
    );
    has(
        &run("<network><forward mode='route'/></network>"),
        &["note mode='route' translates nothing"],
    );
    has(&run("<network/>"), &["isolated"]);
    has(
        &run("<network><forward/><ip address='10.0.0.1' netmask='255.0.255.0'/></network>"),
        &["E-MASK"],
    );
    for broken in [
        "",
        "<network>",
        "<domain/>",
        "<!DOCTYPE a [<!ENTITY b 'c'>]><network>&b;</network>",
    ] {
        assert!(run(broken).report.invalid, "{broken}");
    }
}

/// Runs `natgate import` as a user does.
fn command(args: &[&str]) -> std::process::Output {
    let mut natgate = assert_cmd::Command::new(assert_cmd::cargo::cargo_bin!("natgate"));
    natgate.arg("import").args(args).output().unwrap()
}

#[test]
fn exit_codes_and_files_of_the_command() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let write = |name: &str, text: &str| -> PathBuf {
        std::fs::write(at(name), text).unwrap();
        at(name)
    };
    let base = write("natgate.toml", LAB).display().to_string();
    let good = write("good", "nonMasqueradeCIDRs: [10.0.0.0/8]\n")
        .display()
        .to_string();
    let bad = write("bad", "nonMasqueradeCIDRs: [10.0.0.1/8]\n")
        .display()
        .to_string();
    let out = at("out.toml").display().to_string();
    let call = |args: &[&str]| {
        let output = command(&[&["--base", &base], args].concat());
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let (code, toml, report) = call(&["ip-masq-agent", &good]);
    assert_eq!(code, Some(0), "{report}");
    assert!(
        toml.contains("[[exempt]]") && report.contains("good:1: ok exempt 10.0.0.0/8"),
        "{report}"
    );
    let (code, toml, _) = call(&["ip-masq-agent", &good, "-o", &out]);
    assert_eq!((code, toml.as_str()), (Some(0), ""));
    assert!(
        std::fs::read_to_string(&out)
            .unwrap()
            .contains("[[exempt]]")
    );
    let (code, toml, report) = call(&["ip-masq-agent", &bad]);
    assert_eq!((code, toml.as_str()), (Some(1), ""), "{report}");
    assert_eq!(call(&["ip-masq-agent", "/nonexistent"]).0, Some(1));
    assert_eq!(call(&["nonsense", &good]).0, Some(2));
    assert_eq!(
        call(&["ip-masq-agent", "--to-ports", "70000", &good]).0,
        Some(2)
    );
    let (code, toml, _) = call(&[
        "ip-masq-agent",
        "--best-effort",
        "--to-ports",
        "70000",
        &good,
    ]);
    assert!(code == Some(2) && toml.contains("[[exempt]]"));
    let empty = write("empty", "").display().to_string();
    assert_eq!(call(&["ip-masq-agent", &empty]).0, Some(0));
    assert_eq!(
        call(&["ip-masq-agent", "--strict", &empty]).0,
        Some(2),
        "a warning counts"
    );
    std::fs::create_dir(at("azure")).unwrap();
    write("azure/ip-masq-agent", "nonMasqueradeCIDRs: [10.0.0.0/8]\n");
    write("azure/other", "x");
    let (code, toml, report) = call(&["azure-ipmasq", &at("azure").display().to_string()]);
    assert!(
        code == Some(0) && toml.contains("10.0.0.0/8") && report.contains("other: note not read"),
        "{report}"
    );
}
