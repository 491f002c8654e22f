//! The configuration language: shipped files, every kind of mistake with its place and message, layering, and
//! that no text whatever makes the reader panic.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

#[path = "config/mistakes.rs"]
mod mistakes;
#[path = "config/shipped.rs"]
mod shipped;

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use natgate::base::{InterfaceId, PoolId, PortId, RealmId, VlanId};
use natgate::config::validated::*;
use natgate::config::{self, Loaded};
use proptest::prelude::*;

/// Two ports, two interfaces, nothing else.
pub const BASE: &str = r#"schema = 1
[[port]]
name = "wan"
device = "null:"
[[port]]
name = "lan"
device = "null:"
[[interface]]
name = "wan0"
port = "wan"
address = ["203.0.113.1/24", "2001:db8::1/64"]
[[interface]]
name = "lan0"
port = "lan"
address = ["10.0.0.1/24"]
"#;

/// The base with more, which must be correct.
fn good(more: &str) -> Loaded {
    match config::parse_texts(&[("base.toml", BASE), ("t.toml", more)], &[]) {
        Ok(loaded) => loaded,
        Err(report) => panic!("{more}\n{report}"),
    }
}

fn variable(name: &str, value: &str) -> (String, String) {
    (name.to_string(), value.to_string())
}

#[test]
fn names_sets_and_defaults_are_resolved() {
    let loaded = good(
        r#"
[system]
sessions = 80_000
[sets]
lan = ["10.0.0.0/25", "10.0.0.128/25"]
more = ["@lan", "192.168.0.1-192.168.0.2", "!10.0.0.7"]
uplinks = ["wan*"]
[[pool]]
name = "a"
addresses = ["203.0.113.20-203.0.113.23", "interface:wan0"]
exclude = ["203.0.113.21"]
[[pool]]
name = "b"
addresses = "203.0.113.32/30"
ports = "2000-2999"
block = { size = 100 }
[[source-nat]]
in = "!@uplinks"
out = "@uplinks"
src = "@more"
dst = ["!@self", "!interface:lan0"]
proto = "!tcp"
via = "pool:b"
"#,
    );
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let config = loaded.validated;

    // System: derived and default values.
    assert_eq!(
        (config.system.workers, config.system.subscribers),
        (1, 10_000)
    );
    assert_eq!(config.api.socket, Path::new("/run/natgate/natgate.sock"));
    assert_eq!(config.timeouts.tcp, Duration::from_secs(7440));
    assert_eq!(config.interfaces[1].port, PortId(1));
    assert_eq!(
        config.interfaces[1].label.origin, "base.toml:12",
        "the table's header is the object's place"
    );
    assert_eq!(config.interface("lan0"), Some(InterfaceId(1)));
    assert_eq!(config.pool("b"), Some(PoolId(1)));

    // Pools: ranges expanded, exclusions gone, defaults that depend on other keys.
    let [a, b] = config.pools.as_slice() else {
        panic!("two pools")
    };
    let shown: Vec<String> = a.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["203.0.113.20", "203.0.113.22", "203.0.113.23"]);
    assert_eq!(a.interfaces, [InterfaceId(0)]);
    assert_eq!(
        (a.select, a.low_ports, a.ports_explicit),
        (Select::Preserve, true, false)
    );
    assert_eq!(
        (b.select, b.low_ports, b.ports_explicit),
        (Select::Random, false, true)
    );
    assert_eq!(b.addresses.len(), 4);
    assert_eq!(
        b.block,
        Some(Block {
            size: 100,
            max_per_host: 1,
            idle: Duration::from_secs(120)
        })
    );

    // The rule: sets expanded and aggregated, negation resolved, what follows interfaces symbolic.
    let rule = &config.source_nat[0];
    assert_eq!(
        (rule.label.name.as_str(), rule.via),
        ("source-nat 1", Via::Pool(PoolId(1)))
    );
    assert!(
        rule.matching.in_.contains(InterfaceId(1)) && !rule.matching.in_.contains(InterfaceId(0))
    );
    assert!(
        rule.matching.out.contains(InterfaceId(0)) && !rule.matching.out.contains(InterfaceId(1))
    );
    assert!(rule.matching.proto.contains(17) && !rule.matching.proto.contains(6));
    let interfaces = &config.interfaces;
    let src = |text: &str| {
        rule.matching
            .src
            .contains(text.parse::<IpAddr>().unwrap(), interfaces)
    };
    assert!(src("10.0.0.200") && src("192.168.0.2"));
    assert!(
        !src("10.0.0.7") && !src("192.168.0.3"),
        "excluded, and beyond the range"
    );
    let dst = |text: &str| {
        rule.matching
            .dst
            .contains(text.parse::<IpAddr>().unwrap(), interfaces)
    };
    assert!(dst("8.8.8.8") && dst("10.0.0.2"));
    assert!(
        !dst("203.0.113.1") && !dst("2001:db8::1"),
        "@self is every own address"
    );
    assert_eq!(rule.matching.dst.exclude.interfaces, [InterfaceId(1)]);
}

#[test]
fn port_forwards_shift_port_by_port() {
    let loaded = good(
        r#"
[[port-forward]]
in = "wan0"
dport = "9000-9002"
to = ["10.0.0.2:20-22", "10.0.0.3"]
[[port-forward]]
dst = "interface:wan0"
proto = ["tcp", "udp"]
dport = 80
to = "10.0.0.4:8080"
hairpin = false
"#,
    );
    let [first, second] = loaded.validated.port_forwards.as_slice() else {
        panic!("two rules")
    };
    let ports: Vec<u16> = first
        .to
        .iter()
        .map(|target| first.target_port(target, 9002))
        .collect();
    assert_eq!(ports, [22, 9002]);
    assert!(first.proto.contains(6) && !first.proto.contains(17) && first.hairpin);
    assert_eq!(second.dst.interfaces, [InterfaceId(0)]);
    assert!(second.proto.contains(17) && !second.hairpin);
    assert_eq!(second.target_port(&second.to[0], 80), 8080);
}

#[test]
fn vlans_realms_routes_and_neighbours() {
    let loaded = good(
        r#"
[[interface]]
name = "red"
port = "lan"
vlan = 7
vrf = "red"
address = "10.0.0.1/24"      # the same subnet as lan0, in another realm
[[route]]
prefix = "0.0.0.0/0"
via = ["203.0.113.253", "203.0.113.254"]
[[route]]
prefix = "10.9.0.0/16"
via = "10.0.0.2"
vrf = "red"
[[route]]
prefix = "fd00::/8"
via = "fe80::1"
interface = "wan0"
[[neighbour]]
interface = "lan0"
address = "10.0.0.9"
mac = "02:00:00:00:00:09"
"#,
    );
    let config = loaded.validated;
    assert_eq!(config.realms, ["main", "red"]);
    assert_eq!(
        (config.interfaces[2].vlan, config.interfaces[2].realm),
        (Some(VlanId(7)), RealmId(1))
    );
    assert_eq!(config.routes[0].via.len(), 2);
    assert_eq!(config.routes[1].realm, RealmId(1));
    assert_eq!(config.routes[2].interface, Some(InterfaceId(0)));
    assert_eq!(config.neighbours[0].mac[5], 9);
}

#[test]
fn drop_ins_merge_in_name_order_and_the_environment_wins() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/dropins/natgate.toml");
    let environment = [
        variable("NATGATE__SYSTEM__WORKERS", "4"),
        variable("NATGATE__SYSTEM__IDLE", "poll"),
    ];
    let loaded = config::load(&path, &environment).unwrap();
    let names: Vec<String> = loaded
        .texts
        .iter()
        .map(|text| {
            Path::new(&text.name)
                .file_name()
                .unwrap()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    assert_eq!(names, ["natgate.toml", "10-first.toml", "20-second.toml"]);
    let text = loaded.text();
    let config = loaded.validated;
    assert_eq!(
        (config.system.workers, config.system.idle),
        (4, Idle::Poll),
        "the environment wins"
    );
    assert_eq!(config.system.sessions, 30_000, "the last drop-in wins");
    assert_eq!(
        config.system.fragments, 100,
        "keys of a merged table survive"
    );
    let rules: Vec<&str> = config
        .source_nat
        .iter()
        .map(|rule| rule.label.name.as_str())
        .collect();
    assert_eq!(rules, ["main", "first", "second"], "lists append");
    assert!(
        config.source_nat[1]
            .label
            .origin
            .ends_with("10-first.toml:4"),
        "{:?}",
        config.source_nat[1].label
    );
    assert!(text.contains("20-second.toml") && text.contains("NATGATE__SYSTEM__WORKERS"));

    // A mistake in the environment names the variable.
    let wrong = [
        variable("NATGATE__SYSTEM__WORKRS", "4"),
        variable("NATGATE__SYSTEM__SESSIONS", "many"),
    ];
    let report = config::load(&path, &wrong).unwrap_err().to_string();
    assert_eq!(
        report,
        "environment NATGATE__SYSTEM__WORKRS: system.workrs: unknown key (did you mean NATGATE__SYSTEM__WORKERS?)\n\
         environment NATGATE__SYSTEM__SESSIONS: system.sessions: is a string (expected a whole number)"
    );
}

#[test]
fn a_drop_in_adds_keys_to_an_interface() {
    let main = "schema = 1\nport = [{ name = \"a\", device = \"null:\" }]\n[[interface]]\nname = \"wan0\"\nport = \"a\"\nurpf = \"loose\"\n";
    let with = |more: &str| config::parse_texts(&[("main", main), ("more", more)], &[]);
    let config = with("[[interface]]\nname = \"wan0\"\nclamp_mss = 1360\n").unwrap();
    let interfaces = &config.validated.interfaces;
    assert_eq!((interfaces.len(), interfaces[0].clamp_mss), (1, 1360));
    let refused = |more: &str| with(more).unwrap_err().to_string();
    let twice = refused("[[interface]]\nname = \"wan0\"\nurpf = \"off\"\nclamp_ms = 1\n");
    assert!(
        twice.contains("more:3: interface[wan0].urpf: is set already, in main:6"),
        "{twice}"
    );
    assert!(
        twice.contains("more:4: interface[wan0].clamp_ms: unknown key"),
        "{twice}"
    );
    let unknown = refused("[[interface]]\nname = \"wan1\"\nclamp_mss = 1360\n");
    assert!(
        unknown.contains("interface[wan1].port: is missing"),
        "{unknown}"
    );
}

#[test]
fn a_missing_file_is_named() {
    let report = config::load(Path::new("/nonexistent/natgate.toml"), &[])
        .unwrap_err()
        .to_string();
    assert!(
        report.starts_with("/nonexistent/natgate.toml: cannot be read: "),
        "{report}"
    );
}

/// Fragments of the language, so that random texts get past the parser.
fn fragment() -> impl Strategy<Value = String> {
    let words = [
        "schema = 1\n",
        "[system]\n",
        "[[pool]]\n",
        "[[interface]]\n",
        "[[port]]\n",
        "[sets]\n",
        "[[port-forward]]\n",
        "[[source-nat]]\n",
        "[[route]]\n",
        "[[exempt]]\n",
        "[[static-nat]]\n",
        "[[neighbour]]\n",
        "[filter]\n",
        "[[filter.rule]]\n",
        "default = \"reject\"\n",
        "established = \"filter\"\n",
        "rule = [{ action = \"drop\" }, 3]\n",
        "action = \"accept\"\n",
        "action = \"reject\"\n",
        "reject_with = \"tcp-reset\"\n",
        "icmp_type = [\"8\", \"!3/255\", \"256\"]\n",
        "icmp_type = \"ping\"\n",
        "state = [\"new\", \"!dnat\"]\n",
        "orig_dst = [\"!@a\", \"10.0.0.1-10.0.0.9\"]\n",
        "orig_dport = \"!1-65535\"\n",
        "name = \"a\"\n",
        "name = \"b\"\n",
        "device = \"null:\"\n",
        "port = \"a\"\n",
        "address = [\"10.0.0.1/24\", \"::1/64\"]\n",
        "addresses = \"0.0.0.0-255.255.255.255\"\n",
        "addresses = \"10.0.0.9/31\"\n",
        "ports = \"0-65535\"\n",
        "block = { size = 1 }\n",
        "block = { size = 32768, max_per_host = 65535 }\n",
        "a = [\"@b\", \"!@b\"]\n",
        "b = [\"@a\", \"@self\", \"!10.0.0.0/8\"]\n",
        "src = \"@a\"\n",
        "dst = [\"!@b\", \"interface:a\"]\n",
        "in = [\"a*\", \"!a\"]\n",
        "out = \"@a\"\n",
        "via = \"pool:a\"\n",
        "via = \"10.0.0.7\"\n",
        "proto = \"!any\"\n",
        "proto = 1\n",
        "dport = \"!0-65535\"\n",
        "dport = \"65535\"\n",
        "to = [\"10.0.0.1:1-65535\", \"9.9.9.9\"]\n",
        "prefix = \"0.0.0.0/0\"\n",
        "prefix = \"::/0\"\n",
        "interface = \"a\"\n",
        "vlan = 4094\n",
        "mtu = 576\n",
        "external = \"0.0.0.0/0\"\n",
        "internal = \"10.0.0.0/8\"\n",
        "sessions = 1_000_000_000\n",
        "hold = \"0s\"\n",
        "workers = 64\n",
        "memory = \"16777215TiB\"\n",
        "force = \"@self\"\n",
        "mac = \"é2:00:00:00:00:00\"\n",
        "schema = { x = 1 }\n",
        "x = 1979-05-27\n",
        "clamp_mss = 9560\n",
        "vrf = \"\"\n",
        "descriptors = 64\n",
    ];
    prop::sample::select(words.to_vec()).prop_map(str::to_string)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}") {
        let _ = config::parse_str("t.toml", &text);
    }

    #[test]
    fn no_damage_to_a_real_file_makes_the_reader_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0usize..20), 1..6),
    ) {
        let mut bytes = include_bytes!("../configs/example-b.toml").to_vec();
        for (at, byte, length) in damage {
            let at = at.index(bytes.len());
            let end = (at + length).min(bytes.len());
            bytes.splice(at..end, [byte]);
        }
        let _ = config::parse_str("t.toml", &String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn no_mixture_of_the_language_makes_the_reader_panic(
        lines in prop::collection::vec(prop_oneof![9 => fragment(), 1 => "[a-z_.]{1,8} = [\\[\"{0-9a-z!@]{1,9}\n"], 0..30),
        with_base: bool,
    ) {
        let text = lines.concat();
        let base = if with_base { BASE } else { "" };
        // Whatever is refused says where and why.
        if let Err(report) = config::parse_texts(&[("base.toml", base), ("t.toml", &text)], &[]) {
            prop_assert!(report.errors().count() > 0, "refused without an error: {text}");
            for finding in &report.diagnostics {
                let placed = finding.place.starts_with("t.toml") || finding.place.starts_with("base.toml");
                prop_assert!(placed && !finding.message.is_empty(), "{finding}");
            }
        }
    }
}
