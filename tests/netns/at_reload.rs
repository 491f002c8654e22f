//! Reload under load, clearing, stopping, metrics: what an operator does to a running gateway.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::accounting;
use crate::lab::{Setup, on_natgate, once_on_each};
use crate::servers;

#[test]
fn a_reload_under_load_loses_no_packet() {
    once_on_each(&Setup::MASQUERADE, |lab| {
        let _server = servers::iperf3(lab);
        let line = "iperf3 -c 203.0.113.9 -B 10.0.0.2 -u -b 40M -l 1200 -t 4 --json";
        let mut client = lab.inside.command("sh");
        client
            .args(["-c", line])
            .stdout(std::process::Stdio::piped());
        let client = client.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(1000));
        let before = (!lab.is_kernel()).then(|| accounting::losses(lab.natgate()));
        for _ in 0..4 {
            // A file that really differs, and one that is the first again.
            lab.reload(&Setup {
                natgate: "[timeouts]\nudp = \"6m\"\n[[source-nat]]\nname = \"masquerade\"\nout = \"wan0\"\nvia = \"interface\"\n",
                ..Setup::MASQUERADE
            });
            std::thread::sleep(Duration::from_millis(150));
            lab.reload(&Setup::MASQUERADE);
            std::thread::sleep(Duration::from_millis(150));
        }
        if let Some(before) = before {
            assert_eq!(
                accounting::losses(lab.natgate()),
                before,
                "drops during reloads"
            );
        }
        let output = client.wait_with_output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let sum = &report["end"]["sum"];
        let (packets, lost) = (sum["packets"].as_u64(), sum["lost_packets"].as_u64());
        assert!(
            output.status.success() && packets.unwrap_or(0) > 5000,
            "{report}"
        );
        // The hosts' own queues may lose a datagram on a busy machine; natgate's counters must not.
        assert!(lost.unwrap_or(u64::MAX) * 100 <= packets.unwrap(), "{sum}");
    });
}

#[test]
fn a_link_that_goes_in_the_middle_of_a_flood_costs_packets_only() {
    on_natgate(&Setup::MASQUERADE, |lab| {
        let flood = lab
            .inside
            .enter(|| std::net::UdpSocket::bind("10.0.0.2:41000").unwrap());
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..50 {
                        let _ = flood.send_to(&[7; 200], "203.0.113.9:9");
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            for _ in 0..4 {
                // natgate learns of it up to a fifth of a second later, and sends until then.
                for state in ["down", "up"] {
                    std::thread::sleep(Duration::from_millis(500));
                    lab.middle.sh(&format!("ip link set wan0 {state}"));
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        std::thread::sleep(Duration::from_millis(1500));
        lab.expect("UDP in 10.0.0.2:40000 > 203.0.113.9:5000 => seen 203.0.113.1:40000, reply");
        lab.expect("TCP in 10.0.0.3:0 > 203.0.113.9:5000 => seen 203.0.113.1:*, reply");
    });
}

#[test]
fn cleared_sessions_are_gone_and_new_ones_work() {
    on_natgate(&Setup::MASQUERADE, |lab| {
        let held = lab.hold("in", "10.0.0.2:40000");
        lab.ask(&held, "203.0.113.9:5000").answered();
        let table = lab.natgate().ask(&["show", "sessions"]);
        for part in ["10.0.0.2", "40000", "203.0.113.1", "203.0.113.9", "5000"] {
            assert!(table.contains(part), "no {part} in\n{table}");
        }
        lab.natgate().ask(&["clear", "sessions"]);
        let table = lab.natgate().ask(&["show", "sessions"]);
        assert!(!table.contains("10.0.0.2"), "{table}");
        lab.ask(&held, "203.0.113.9:5000").answered();
    });
}

#[test]
fn metrics_are_well_formed_and_count() {
    on_natgate(&Setup::MASQUERADE, |lab| {
        lab.expect("UDP in 10.0.0.2:40000 > 203.0.113.9:5000 => seen 203.0.113.1:40000, reply");
        let url = "http://127.0.0.1:9464";
        let metrics = lab.middle.sh(&format!("curl -fsS {url}/metrics"));
        assert!(metrics.contains("natgate_build_info"), "{metrics}");
        // An address of a subscriber must never become a label.
        assert!(!metrics.contains("10.0.0.2"), "{metrics}");
        lab.middle
            .sh(&format!("curl -fsS {url}/metrics | promtool check metrics"));
        lab.middle.sh(&format!(
            "curl -fsS {url}/healthz && curl -fsS {url}/readyz"
        ));
    });
}

#[test]
fn a_removed_rule_leaves_living_sessions_alone() {
    on_natgate(&Setup::MASQUERADE, |lab| {
        // E15, with E12: the session keeps its treatment, a new one gets the new rules'.
        let held = lab.hold("in", "10.0.0.2:40000");
        let before = lab.ask(&held, "203.0.113.9:5000").answered();
        assert_eq!(before.to_string(), "203.0.113.1:40000");
        lab.reload(&Setup::PLAIN);
        assert_eq!(lab.ask(&held, "203.0.113.9:5000").answered(), before);
        lab.expect("UDP in 10.0.0.3:41000 > 203.0.113.9:5000 => seen 10.0.0.3:41000, reply");
    });
}
