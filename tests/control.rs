//! The management side, end to end: the real command line, the real API server and the real workers, on devices in memory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking and wait in real time"
)]

mod common;
#[path = "control/exemptions.rs"]
mod exemptions;
#[path = "control/gateway.rs"]
mod gateway;
#[path = "control/objects.rs"]
mod objects;
#[path = "control/stream.rs"]
mod stream;
#[path = "control/worker.rs"]
mod worker;

use assert_cmd::Command;
use common::{LAB, LAN, udp};
use gateway::{Gateway, natgate, wait_for};
use natgate::control::api::ReloadRequest;
use natgate::control::backend::Backend;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const MASQUERADE: &str =
    "[[source-nat]]\nname = \"office\"\nin = \"lan0\"\nout = \"wan0\"\nvia = \"interface\"\n";

fn write(directory: &Path, text: &str) -> PathBuf {
    let file = directory.join("x.toml");
    std::fs::write(&file, text).unwrap();
    file
}

/// What a refused command says.
fn refusal(gateway: &Gateway, words: &str, code: i32) -> String {
    let output = gateway.cli(words);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{words}: {text}");
    text
}

#[test]
fn check_tells_good_from_bad_by_its_exit_code() {
    let directory = tempfile::tempdir().unwrap();
    let good = write(directory.path(), &format!("{LAB}{MASQUERADE}"));
    natgate().arg("check").arg(&good).assert().code(0);
    let bad = write(directory.path(), &format!("{LAB}[system]\nworkerz = 2\n"));
    let output = natgate()
        .arg("check")
        .arg(&bad)
        .assert()
        .code(1)
        .get_output()
        .clone();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.starts_with("natgate: configuration "), "{text}");
    assert!(
        text.contains("workerz") && text.contains("x.toml:"),
        "{text}"
    );
    natgate()
        .args(["check", "/nonexistent.toml"])
        .assert()
        .code(1);
    natgate()
        .args(["run", "-c", "/nonexistent.toml"])
        .assert()
        .code(1);
}

/// The example of RFC 7422 section 2.3 (GV2), asked of a file.
// Proves: D1, D7.
#[test]
fn lookup_answers_both_ways_without_a_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let pool = "[[pool]]\nname = \"cgn\"\naddresses = [\"192.0.2.1\"]\nanswer_arp = false\n\
                deterministic = { inside = [\"198.51.100.0/28\"], ratio = 16, overflow = { block = 1008 } }\n";
    let file = write(directory.path(), &format!("{LAB}{pool}"));
    let ask = |what: &str| {
        let mut command = natgate();
        let output = command.args(["lookup", what, "-c"]).arg(&file).output();
        let output = output.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), text)
    };
    let dynamic = "whoever holds the overflow block at the time";
    for (asked, ports, subscriber) in [
        ("198.51.100.1", "1024-5055", "198.51.100.1"),
        ("198.51.100.2", "5056-9087", "198.51.100.2"),
        ("198.51.100.14", "53440-57471", "198.51.100.14"),
        ("192.0.2.1:2001", "1024-5055", "198.51.100.1"),
        ("192.0.2.1:57471", "53440-57471", "198.51.100.14"),
        ("192.0.2.1:58204", "58204", dynamic),
    ] {
        let line = format!("outside=192.0.2.1 ports={ports} subscriber={subscriber} pool=cgn\n");
        assert_eq!(ask(asked), (Some(0), line), "{asked}");
    }
    for absent in [
        "198.51.100.0",
        "198.51.100.15",
        "192.0.2.1:1023",
        "192.0.2.2:2001",
    ] {
        assert_eq!(ask(absent), (Some(3), String::new()), "{absent}");
    }
    assert_eq!(ask("2001").0, Some(2));
    let check = natgate().arg("check").arg(&file).output().unwrap();
    let text = String::from_utf8(check.stdout).unwrap();
    let shares = "pool cgn: 1 address for 14 hosts, 14 per address with 4032 ports each and 8 overflow blocks of 1008 for \
                  all of them; at most 5040 ports per subscriber and protocol; 0 ports per address unused";
    assert!(text.contains(shares), "{text}");
}

#[test]
fn wrong_usage_and_an_absent_daemon_have_exit_codes_of_their_own() {
    natgate().args(["show", "nonsense"]).assert().code(2);
    natgate().arg("--frobnicate").assert().code(2);
    let output = natgate()
        .args(["--socket", "/nonexistent.sock", "show", "status"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.starts_with("natgate: socket /nonexistent.sock: ") && text.contains("systemctl"),
        "{text}"
    );
    natgate()
        .args(["--socket", "/nonexistent.sock", "reload"])
        .assert()
        .code(4);
    natgate()
        .args(["show", "sessions", "colour", "red"])
        .assert()
        .code(2);
    natgate().args(["completions", "bash"]).assert().code(0);
    let page = natgate().arg("man").output().unwrap().stdout;
    assert!(String::from_utf8(page).unwrap().contains(".TH natgate"));
}

#[test]
fn every_listing_and_document_can_be_shown() {
    let gateway = Gateway::start(2, MASQUERADE);
    gateway.open_sessions(3);
    let kinds = "status ports queues interfaces routes neighbors workers pools blocks subscribers mappings sessions \
                 source-nat exempt static-nat port-forwards services drops timeouts config counters history";
    for kind in kinds.split_whitespace() {
        gateway.ask(&format!("show {kind}"));
        let document = gateway.json(&format!("show {kind}"));
        if let Some(list) = document.get(kind.replace('-', "_")) {
            assert!(list.is_array() || kind == "sessions", "{kind}: {document}");
        }
    }
    gateway.ask("show drops --explain");
    let status = gateway.json("show status");
    assert_eq!(
        (&status["state"], &status["ready"]),
        (&"ready".into(), &true.into())
    );
    assert_eq!(
        (&status["sessions"], &status["workers"]),
        (&3.into(), &2.into())
    );
    assert_eq!(gateway.json("show history")["history"][0]["cause"], "start");
}

#[test]
fn rules_count_connections_packets_and_bytes_apart() {
    let gateway = Gateway::start(1, MASQUERADE);
    let frame = udp(LAN, ("10.0.0.2", 4000), ("203.0.113.9", 53), b"x");
    gateway.send(LAN, 0, &vec![frame; 10], 10);
    let rule = &gateway.json("show source-nat")["source_nat"][0];
    assert_eq!(
        (&rule["name"], &rule["in"], &rule["out"]),
        (&"office".into(), &"lan0".into(), &"wan0".into())
    );
    assert_eq!((&rule["hits"], &rule["packets"]), (&1.into(), &10.into()));
    assert_eq!(rule["bytes"], 290, "20 + 8 + 1 bytes each");
    gateway.ask("clear counters");
    assert_eq!(
        gateway.json("show source-nat")["source_nat"][0]["packets"],
        0
    );
    let counters = gateway.json("show counters");
    assert_eq!(
        (
            &counters["total"]["received"],
            &counters["total"]["imbalance"]
        ),
        (&0.into(), &0.into())
    );
    let (_, metrics) = gateway.http("/metrics");
    assert!(
        metrics.contains(r#"natgate_worker_packets_total{worker="0",fate="received"} 10"#),
        "metrics go on"
    );
}

#[test]
fn sessions_are_filtered_cut_and_cleared() {
    let gateway = Gateway::start(2, MASQUERADE);
    gateway.open_sessions(60);
    let text = gateway.ask("show sessions");
    assert_eq!(
        text.lines().count(),
        52,
        "a heading, fifty sessions, the last line"
    );
    assert!(text.ends_with("only the first 50 of 60\n"), "{text}");
    assert_eq!(gateway.ask("show sessions max all").lines().count(), 61);
    let one = gateway.json("show sessions ip 10.0.0.2 port 4007 verbose");
    assert_eq!((&one["shown"], &one["total"]), (&1.into(), &1.into()));
    let session = &one["sessions"][0];
    assert_eq!(
        session["forward"]["translated_source"]["address"],
        "203.0.113.1"
    );
    assert_eq!(session["reverse"]["translated_destination"]["port"], 4007);
    assert_eq!(
        (&session["state"], &session["rule"]),
        (&"unreplied".into(), &"office".into())
    );
    assert_eq!(
        (&session["interface"], &session["out_interface"]),
        (&"lan0".into(), &"wan0".into())
    );
    assert_eq!(gateway.json("show sessions proto tcp")["total"], 0);
    assert_eq!(gateway.json("show sessions interface wan0")["total"], 60);
    assert_eq!(gateway.json("show mappings max all")["total"], 60);
    assert_eq!(
        gateway.json("show subscribers")["subscribers"][0]["sessions"],
        60
    );
    for filter in [
        "pool nowhere",
        "interface nowhere",
        "state nowhere",
        "worker 9",
    ] {
        assert_eq!(
            gateway
                .cli(&format!("show sessions {filter}"))
                .status
                .code(),
            Some(3),
            "{filter}"
        );
    }
    assert_eq!(
        gateway.ask("clear sessions port 4007"),
        "1 sessions cleared\n"
    );
    assert_eq!(gateway.json("clear sessions")["cleared"], 59);
    assert_eq!(gateway.json("show status")["sessions"], 0);
    assert_eq!(
        gateway.json("show counters")["sessions_ended"]["cleared"],
        60
    );
}

#[test]
fn counters_balance_per_worker_and_in_total() {
    let gateway = Gateway::start(2, MASQUERADE);
    gateway.open_sessions(20);
    let mut broken = udp(LAN, ("10.0.0.2", 1), ("203.0.113.9", 53), b"x");
    broken.truncate(20);
    gateway.send(LAN, 1, &[broken], 0);
    wait_for("the broken frame is counted", || {
        gateway.json("show counters")["total"]["dropped"] == 1
    });
    for document in ["show counters", "show drops"] {
        let document = gateway.json(document);
        let total = &document["total"];
        assert_eq!(
            (&total["received"], &total["dropped"]),
            (&21.into(), &1.into()),
            "{document}"
        );
        let workers = document["workers"].as_array().unwrap();
        assert_eq!(workers.len(), 2);
        for part in workers.iter().chain([total]) {
            assert_eq!(part["imbalance"], 0, "{document}");
            assert_eq!(
                part["drops"].as_object().unwrap().len(),
                natgate::base::DropReason::COUNT
            );
        }
        assert_eq!(total["handoff_in"], total["handoff_out"], "{document}");
    }
    assert_eq!(gateway.json("show drops")["drops"][0]["packets"], 1);
}

#[test]
fn a_reload_says_what_changed_and_keeps_sessions() {
    let gateway = Gateway::start(2, MASQUERADE);
    gateway.open_sessions(5);
    assert!(
        gateway
            .ask("reload")
            .starts_with("nothing changed\ngeneration 1 ")
    );
    gateway.edit(|text| text + "[[port-forward]]\nname = \"web\"\nin = \"wan0\"\ndst = \"203.0.113.1\"\nproto = \"tcp\"\ndport = \"80\"\nto = \"10.0.0.2\"\n");
    let done = gateway.json("reload");
    assert_eq!(
        (&done["generation"], &done["changes"][0]),
        (&2.into(), &"port-forward web added".into())
    );
    assert_eq!(
        gateway.json("show port-forwards")["port_forwards"][0]["name"],
        "web"
    );
    assert_eq!(gateway.json("show status")["sessions"], 5);
    assert_eq!(
        gateway.json("show history")["history"][1]["cause"],
        "reload"
    );
    let other = gateway.directory.path().join("other.toml");
    std::fs::copy(gateway.file(), &other).unwrap();
    assert_eq!(
        gateway
            .ask(&format!("reload {}", other.display()))
            .lines()
            .next(),
        Some("nothing changed")
    );
}

#[test]
fn a_refused_reload_changes_nothing_and_says_why() {
    let gateway = Gateway::start(1, MASQUERADE);
    let before = (
        gateway.ask("show config"),
        gateway.json("show status")["generation"].clone(),
    );
    gateway.edit(|text| text.replace("via = \"interface\"", "via = \"pool:missing\"\ncolour = 1"));
    let output = gateway.cli("reload");
    assert_eq!(output.status.code(), Some(5));
    let text = String::from_utf8(output.stderr).unwrap();
    for part in ["natgate.toml:", "missing", "colour", "nothing was changed"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let restart = |text: String| {
        text.replace("sessions = 4096", "sessions = 8192")
            .replacen("null:", "tap:t0", 1)
    };
    gateway.edit(|text| {
        restart(text.replace("via = \"pool:missing\"\ncolour = 1", "via = \"interface\""))
    });
    let output = gateway.cli("reload");
    assert_eq!(output.status.code(), Some(5));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("system.sessions: 4096 now, 8192") && text.contains("restart"),
        "{text}"
    );
    let after = (
        gateway.ask("show config"),
        gateway.json("show status")["generation"].clone(),
    );
    assert_eq!(before, after);
    let (_, metrics) = gateway.http("/metrics");
    assert!(
        metrics.contains(r#"natgate_config_reloads_total{result="refused"} 2"#),
        "{metrics}"
    );
}

#[test]
fn a_pulled_cable_ends_masqueraded_sessions() {
    let gateway = Gateway::start(2, MASQUERADE);
    gateway.open_sessions(4);
    gateway.plugs[1].store(false, Ordering::Relaxed);
    wait_for("the link is seen down", || {
        gateway.json("show status")["ports_down"][0] == "p-wan"
    });
    wait_for("sessions are forgotten", || {
        gateway.json("show status")["sessions"] == 0
    });
    let interfaces = gateway.json("show interfaces");
    assert_eq!(interfaces["interfaces"][1]["up"], false, "{interfaces}");
    gateway.plugs[1].store(true, Ordering::Relaxed);
    wait_for("the link is back", || {
        gateway.json("show interfaces")["interfaces"][1]["up"] == true
    });
    let causes = gateway.json("show history");
    assert_eq!(causes["history"][2]["cause"], "link", "{causes}");
}

#[test]
fn metrics_and_health_are_served_and_promtool_agrees() {
    let gateway = Gateway::start(2, MASQUERADE);
    gateway.open_sessions(3);
    assert_eq!(gateway.http("/healthz"), (200, "alive\n".into()));
    assert_eq!(gateway.http("/readyz").0, 200);
    assert_eq!(
        gateway.http("/v1/reload").0,
        404,
        "nothing can be changed here"
    );
    let (status, text) = gateway.http("/metrics");
    assert_eq!(status, 200);
    for line in [
        r#"natgate_sessions{proto="udp",state="unreplied"} 3"#,
        r#"natgate_drops_total{reason="no_port"} 0"#,
        r#"natgate_link_up{port="p-wan"} 1"#,
        r#"natgate_conservation_error_packets{worker="1"} 0"#,
        r#"natgate_pool_ports{pool="interface:wan0",proto="udp",state="in_use"} 3"#,
        r#"natgate_mappings{pool="interface:wan0",proto="udp"} 3"#,
        r#"natgate_mappings{pool="",proto="udp"} 0"#,
        r#"natgate_mapping_creations_total{pool="interface:wan0",proto="udp"} 3"#,
        r#"natgate_mapping_failures_total{pool="interface:wan0",proto="tcp",reason="no_port"} 0"#,
        r#"natgate_queue_packets_total{port="p-lan",direction="rx",queue="0"} 3"#,
        r#"natgate_queue_refused_total{port="p-wan",direction="tx",queue="1"} 0"#,
        "natgate_ready 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    }
    assert!(!text.contains("10.0.0.2"), "no subscriber is in a label");
    match Command::new("promtool")
        .args(["check", "metrics"])
        .write_stdin(text)
        .output()
    {
        Ok(output) => {
            let findings = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() && findings.is_empty(), "{findings}");
        }
        Err(error) => panic!("promtool is needed (apt-get install prometheus): {error}"),
    }
}

#[test]
fn queues_are_counted_by_those_who_serve_them() {
    let gateway = Gateway::start(2, MASQUERADE);
    gateway.open_sessions(3);
    let queues = gateway.json("show queues")["queues"].clone();
    let packets = |port: &str, direction: &str| -> u64 {
        let queues = queues.as_array().unwrap().iter();
        let of = queues.filter(|q| q["port"] == port && q["direction"] == direction);
        of.map(|q| q["packets"].as_u64().unwrap()).sum()
    };
    assert_eq!(queues.as_array().unwrap().len(), 8, "{queues}");
    assert_eq!((packets("p-lan", "rx"), packets("p-wan", "rx")), (3, 0));
    // Besides the three: what worker 0 announces at its start.
    let counters = gateway.json("show counters");
    let sent = counters["total"]["sent"].as_u64().unwrap();
    assert_eq!(packets("p-lan", "tx") + packets("p-wan", "tx"), sent);
    let first = gateway.json("show queues worker 0");
    assert_eq!(first["total"], 4, "{first}");
    assert_eq!(
        (&first["queues"][0]["queue"], &first["queues"][0]["bursts"]),
        (&0.into(), &queues[0]["bursts"])
    );
}

#[test]
fn pools_count_what_they_give_and_refuse() {
    let tight = "[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.20\"]\nports = \"2000-2001\"\n\
                 [[source-nat]]\nout = \"wan0\"\nvia = \"pool:p\"\n";
    let gateway = Gateway::start(1, tight);
    gateway.open_sessions(2);
    let refused = udp(LAN, ("10.0.0.3", 4000), ("203.0.113.9", 53), b"x");
    gateway.send(LAN, 0, &[refused], 0);
    wait_for("the third client is refused", || {
        gateway.json("show drops")["drops"][0]["packets"] == 1
    });
    let count = |pool: &serde_json::Value| {
        let udp = &pool["ports"][1];
        (udp["created"].clone(), udp["refused"]["no_port"].clone())
    };
    let before = gateway.json("show pools pool p")["pools"][0].clone();
    assert_eq!(count(&before), (2.into(), 1.into()), "{before}");
    // Counts go by the name, also when the pool stands elsewhere in the file.
    gateway.edit(|text| {
        text.replace(
            "[[pool]]",
            "[[pool]]\nname = \"q\"\naddresses = [\"203.0.113.30\"]\n[[pool]]",
        )
    });
    gateway.ask("reload");
    let after = gateway.json("show pools")["pools"].clone();
    assert_eq!(
        (&after[0]["pool"], &after[1]["pool"]),
        (&"q".into(), &"p".into())
    );
    assert_eq!(count(&after[0]), (0.into(), 0.into()));
    assert_eq!(count(&after[1]), (2.into(), 1.into()));
    let text = gateway.ask("show pools pool p verbose");
    assert!(
        text.contains("REFUSED") && text.contains("CREATED"),
        "{text}"
    );
}

#[test]
fn an_interface_with_two_addresses_is_one_pool() {
    let two = "[[interface]]\nname = \"dmz\"\nport = \"p-wan\"\nvlan = 7\n\
               address = [\"192.0.2.1/24\", \"198.51.100.1/24\"]\n";
    let gateway = Gateway::start(1, &format!("{MASQUERADE}{two}"));
    gateway.open_sessions(2);
    let pool = gateway.json("show pools pool interface:dmz");
    assert_eq!(pool["total"], 1, "{pool}");
    assert_eq!(
        pool["pools"][0]["addresses"],
        serde_json::json!(["192.0.2.1", "198.51.100.1"])
    );
    assert_eq!(
        gateway.json("show mappings pool interface:wan0")["total"],
        2
    );
    assert_eq!(gateway.json("show mappings pool interface:dmz")["total"], 0);
    let (_, metrics) = gateway.http("/metrics");
    let line = r#"natgate_mappings{pool="interface:dmz",proto="tcp"} 0"#;
    assert_eq!(metrics.matches(line).count(), 1, "one sample a series");
}

#[test]
fn reloads_and_listings_run_while_packets_flow() {
    let gateway = Gateway::start(2, MASQUERADE);
    let stop = AtomicBool::new(false);
    let sent = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut port = 0u16;
            while !stop.load(Ordering::Relaxed) {
                port = (port + 1) % 2000;
                let frame = udp(LAN, ("10.0.0.2", 10_000 + port), ("203.0.113.9", 53), b"x");
                gateway.wires[0][usize::from(port % 2)].send(frame).unwrap();
                sent.fetch_add(1, Ordering::Relaxed);
                // Slow enough that no ring fills up while the machine runs something else.
                if port.is_multiple_of(16) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        let live = &gateway.daemon.as_ref().unwrap().live;
        let base = std::fs::read_to_string(gateway.file()).unwrap();
        for seconds in 0..20 {
            std::fs::write(
                gateway.file(),
                format!("{base}[timeouts]\nudp = \"{}s\"\n", 400 + seconds),
            )
            .unwrap();
            live.reload(&ReloadRequest::default()).unwrap();
            let mut listed = 0;
            let filter = natgate::control::api::Filter {
                max: Some(u64::MAX),
                ..Default::default()
            };
            let kind = natgate::control::api::Listing::Sessions;
            live.list(kind, &filter, &mut |_| {
                listed += 1;
                true
            })
            .unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    let sent = sent.load(Ordering::Relaxed);
    wait_for("every packet arrives", || {
        gateway.json("show counters")["total"]["received"] == sent
    });
    let counters = gateway.json("show counters");
    assert_eq!(
        (
            &counters["total"]["dropped"],
            &counters["total"]["imbalance"]
        ),
        (&0.into(), &0.into())
    );
    assert_eq!(
        counters["total"]["sent"],
        sent + counters["total"]["generated"].as_u64().unwrap()
    );
}
