//! Real programs through the gateway.

use crate::lab::{Lab, Setup, once_on_each, same_on_both};
use crate::servers;

#[test]
fn curl_moves_a_hundred_megabytes_each_way() {
    once_on_each(&Setup::MASQUERADE, |lab| {
        let _server = servers::nginx(lab);
        let dir = lab.dir.path().display();
        lab.inside
            .sh(&format!("head -c 100000000 /dev/urandom > {dir}/www/big"));
        let sum = |file: &str| lab.inside.sh(&format!("sha256sum < {dir}/{file}"));
        let original = sum("www/big");
        let curl = "curl -fsS --max-time 120 --interface 10.0.0.2";
        lab.inside
            .sh(&format!("{curl} -o {dir}/down http://203.0.113.9/big"));
        assert_eq!(sum("down"), original, "download");
        lab.inside
            .sh(&format!("{curl} -T {dir}/down http://203.0.113.9/up/back"));
        assert_eq!(sum("www/up/back"), original, "upload");
        let log = std::fs::read_to_string(lab.dir.path().join("access.log")).unwrap();
        assert!(log.lines().all(|l| l.starts_with("203.0.113.1 ")), "{log}");
    });
}

#[test]
fn several_hosts_browse_through_one_address() {
    same_on_both(&Setup::MASQUERADE, |lab| {
        let _server = servers::nginx(lab);
        let dir = lab.dir.path().display();
        lab.inside
            .sh(&format!("head -c 1000000 /dev/urandom > {dir}/www/page"));
        let script = format!(
            "for n in 2 3 4 5; do
               (curl -fsS --max-time 20 --interface 10.0.0.$n http://203.0.113.9/page | cmp - {dir}/www/page) || touch {dir}/failed &
             done; wait; test ! -e {dir}/failed"
        );
        lab.inside.sh(&script);
        let log = std::fs::read_to_string(lab.dir.path().join("access.log")).unwrap();
        assert_eq!(
            log.lines()
                .filter(|l| l.starts_with("203.0.113.1 "))
                .count(),
            4,
            "{log}"
        );
    });
}

#[test]
fn iperf3_runs_both_ways_over_tcp_and_udp() {
    once_on_each(&Setup::MASQUERADE, |lab| {
        let _server = servers::iperf3(lab);
        for direction in ["", "-R"] {
            let tcp = iperf3(lab, &format!("-t 2 {direction}"));
            let rate = tcp["end"]["sum_received"]["bits_per_second"]
                .as_f64()
                .unwrap_or(0.0);
            assert!(rate > 50e6, "TCP {direction}: {} Mbit/s", rate / 1e6);
            println!(
                "{}: TCP {direction} {:.0} Mbit/s",
                lab.gateway_name(),
                rate / 1e6
            );
            let udp = iperf3(lab, &format!("-u -b 20M -l 1200 -t 2 {direction}"));
            let (packets, lost) = (
                &udp["end"]["sum"]["packets"],
                &udp["end"]["sum"]["lost_packets"],
            );
            let (packets, lost) = (
                packets.as_u64().unwrap_or(0),
                lost.as_u64().unwrap_or(u64::MAX),
            );
            assert!(
                packets > 3000 && lost.saturating_mul(100) <= packets,
                "UDP {direction}: lost {lost} of {packets}"
            );
        }
    });
}

fn iperf3(lab: &Lab, options: &str) -> serde_json::Value {
    let line = format!("iperf3 -c 203.0.113.9 -B 10.0.0.2 --json {options}");
    serde_json::from_str(&lab.inside.sh(&line)).unwrap()
}

#[test]
fn dig_asks_over_udp_and_tcp() {
    same_on_both(&Setup::MASQUERADE, |lab| {
        let _server = servers::dnsmasq(lab);
        for options in ["", "+tcp"] {
            let answer = lab.inside.sh(&format!(
                "dig +short +tries=1 +time=2 {options} @203.0.113.9 natgate.test"
            ));
            assert_eq!(answer.trim(), "198.51.100.77", "{options}");
        }
    });
}

#[test]
fn stun_discovers_endpoint_independent_mapping() {
    same_on_both(&Setup::MASQUERADE, |lab| {
        let _server = servers::stun(lab);
        let report = lab
            .inside
            .sh("timeout 20 turnutils_natdiscovery -m -L 10.0.0.2 203.0.113.9");
        assert!(
            report.contains("NAT with Endpoint Independent Mapping"),
            "{report}"
        );
    });
}

#[test]
fn stun_discovers_the_filtering_of_a_masquerade() {
    once_on_each(&Setup::MASQUERADE, |lab| {
        let _server = servers::stun(lab);
        discovers(lab, "-f", "Address and Port Dependent Filtering");
    });
}

/// Ports that are not the source's: a port that is kept looks like endpoint-independent mapping to a client that asks
/// from one socket.
// Proves: U1, U8a.
#[test]
fn stun_discovers_the_behaviour_that_is_configured() {
    let behaviours = [
        ("endpoint", "Endpoint Independent"),
        ("address", "Address Dependent"),
        ("address-port", "Address and Port Dependent"),
    ];
    for (mapping, mapped) in behaviours {
        // Each filter once, and never the mapping's own: they do not depend on each other.
        let (filtering, filtered) = match mapping {
            "endpoint" => behaviours[1],
            "address" => behaviours[2],
            _ => behaviours[0],
        };
        let rules = format!(
            r#"
            [[pool]]
            name = "wan"
            addresses = ["203.0.113.20"]
            select = "random"
            mapping = {{ udp = "{mapping}" }}
            filtering = "{filtering}"
            [[source-nat]]
            out = "wan0"
            via = "pool:wan"
        "#
        );
        let setup = Setup {
            kernel: None,
            natgate: rules.leak(),
            ..Setup::PLAIN
        };
        once_on_each(&setup, |lab| {
            let _server = servers::stun(lab);
            discovers(lab, "-m", &format!("{mapped} Mapping"));
            discovers(lab, "-f", &format!("{filtered} Filtering"));
        });
    }
}

/// What a client finds out about the gateway it is behind.
fn discovers(lab: &Lab, what: &str, verdict: &str) {
    let report = lab.inside.sh(&format!(
        "timeout 30 turnutils_natdiscovery {what} -L 10.0.0.2 203.0.113.9"
    ));
    assert!(report.contains(verdict), "{verdict}: {report}");
}
