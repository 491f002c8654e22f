//! Services with many backends (S3.1 to S3.7): real sockets, nginx and curl.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::accounting;
use crate::lab::{Lab, Setup, on_natgate, on_workers, same_on_both};
use crate::ns::Ns;
use crate::probe::Answer;
use crate::servers::{self, Server};

pub const VIP: &str = "198.18.0.2";

/// The network of virtual addresses is routed to the gateway.
pub fn route_services(lab: &Lab) {
    lab.outside.ip("route add 198.18.0.0/24 via 203.0.113.1");
}

const TWO_KINDS: Setup = Setup {
    kernel: Some(
        "table ip nat { chain pre { type nat hook prerouting priority -100
           ip daddr 198.18.0.2 tcp dport 80 dnat to 10.0.0.2:8080
           ip daddr 198.18.0.2 udp dport 53 dnat to 10.0.0.3:5353
         }
         chain post { type nat hook postrouting priority 100
           iifname lan0 oifname lan0 ct status dnat masquerade
         }; }",
    ),
    natgate: r#"
        [[service]]
        name = "web"
        address = "198.18.0.2"
        kind = "virtual"
        proto = "tcp"
        port = 80
        backends = [{ to = "10.0.0.2:8080" }]
        [[service]]
        name = "dns"
        address = "198.18.0.2"
        proto = "udp"
        port = 53
        backends = [{ to = "10.0.0.3:5353" }]
    "#,
    ..Setup::PLAIN
};

#[test]
fn at_3_1_2_4_17_a_virtual_address_answers_everybody() {
    same_on_both(&TWO_KINDS, |lab| {
        route_services(lab);
        lab.expect("TCP out 203.0.113.9:0 > 198.18.0.2:80 listener in@10.0.0.2:8080 => seen 203.0.113.9:*, reply");
        lab.expect("UDP out 203.0.113.9:0 > 198.18.0.2:53 listener in@10.0.0.3:5353 => seen 203.0.113.9:*, reply");
        // A backend's own flows, from another port and from the service's.
        lab.expect("TCP in 10.0.0.2:6666 > 203.0.113.9:80 => seen 10.0.0.2:6666, reply");
        lab.expect("TCP in 10.0.0.2:8081 > 203.0.113.9:80 => seen 10.0.0.2:8081, reply");
        // From the backend's own side, and by the backend itself: the gateway stands between.
        lab.expect(
            "TCP in 10.0.0.3:0 > 198.18.0.2:80 listener in@10.0.0.2:8080 => seen 10.0.0.1:*, reply",
        );
        lab.expect(
            "TCP in 10.0.0.2:0 > 198.18.0.2:80 listener in@10.0.0.2:8080 => seen 10.0.0.1:*, reply",
        );
    });
}

#[test]
fn at_3_3_what_no_service_wants_is_dropped_or_refused() {
    let ping = |lab: &Lab| {
        let asked = lab.outside.try_sh(&format!("ping -c 1 -W 1 {VIP}"));
        asked.status.success()
    };
    on_natgate(&TWO_KINDS, |lab| {
        route_services(lab);
        let closed = lab.probe_closed("TCP out 203.0.113.9:0 > 198.18.0.2:6666");
        assert_eq!(closed, Answer::Timeout);
        assert!(!ping(lab));
        assert!(accounting::dropped(lab.natgate(), "vip_unmatched") >= 2);
    });
    let polite = Setup {
        kernel: None,
        natgate: r#"
            [[service]]
            address = "198.18.0.2"
            port = 80
            unmatched = "reject"
            ping = true
            backends = [{ to = "10.0.0.2:8080" }]
        "#,
        ..Setup::PLAIN
    };
    on_natgate(&polite, |lab| {
        route_services(lab);
        lab.expect(
            "TCP out 203.0.113.9:0 > 198.18.0.2:6666 listener in@10.0.0.2:6666 => seen –, refused",
        );
        lab.expect(
            "UDP out 203.0.113.9:0 > 198.18.0.2:6666 listener in@10.0.0.2:6666 => seen –, refused",
        );
        assert!(ping(lab));
    });
}

#[test]
fn at_3_5_a_real_address_with_its_source_rewritten() {
    let setup = Setup {
        kernel: Some(
            "table ip nat { chain pre { type nat hook prerouting priority -100
               ip daddr 203.0.113.1 tcp dport 8081 dnat to 10.0.0.2:8080
             }
             chain post { type nat hook postrouting priority 100
               ip daddr 10.0.0.2 tcp dport 8080 snat to 10.0.0.1
             }; }",
        ),
        natgate: r#"
            [[service]]
            address = "interface:wan0"
            kind = "real"
            proto = "tcp"
            port = 8081
            backends = [{ to = "10.0.0.2:8080", source = "10.0.0.1" }]
        "#,
        ..Setup::PLAIN
    };
    same_on_both(&setup, |lab| {
        let to_service = "> 203.0.113.1:8081 listener in@10.0.0.2:8080 => seen 10.0.0.1:*, reply";
        for client in ["203.0.113.9:45000", "203.0.113.10:45000"] {
            lab.expect(&format!("TCP out {client} {to_service}"));
        }
        lab.outside.sh("ping -c 1 -W 2 203.0.113.1");
    });
}

#[test]
fn at_3_14_15_exclusions_by_longest_prefix_with_force() {
    let rules = "[[source-nat]]\nin = \"lan0\"\nsrc = \"10.0.0.0/24\"\nvia = \"interface\"\n";
    let exempt = "[[exempt]]\ndst = [\"172.16.0.0/12\"]\nforce = [\"172.16.5.5/32\"]\n";
    let text: &'static str = Box::leak(format!("{exempt}{rules}").into_boxed_str());
    let setup = Setup {
        kernel: None,
        natgate: text,
        ..Setup::PLAIN
    };
    on_natgate(&setup, |lab| {
        lab.outside.ip("addr add 172.16.5.6/32 dev lo");
        lab.expect("UDP in 10.0.0.2:0 > 203.0.113.9:5000 => seen 203.0.113.1:*, reply");
        lab.expect("UDP in 10.0.0.2:0 > 172.16.5.5:5000 => seen 203.0.113.1:*, reply");
        lab.expect("UDP in 10.0.0.2:40000 > 172.16.5.6:5000 => seen 10.0.0.2:40000, reply");
        // AT-3.16: without the exemption, and without the session that has its treatment.
        lab.reload(&Setup {
            natgate: "[[source-nat]]\nin = \"lan0\"\nsrc = \"10.0.0.0/24\"\nvia = \"interface\"\n",
            ..setup
        });
        lab.natgate().ask(&["clear", "sessions"]);
        lab.expect("UDP in 10.0.0.2:40000 > 172.16.5.6:5000 => seen 203.0.113.1:*, reply");
    });
}

/// nginx at an address in a namespace, which answers every request with its name.
pub fn web(lab: &Lab, ns: &Ns, at: &str) -> Server {
    let dir = format!("web-{}", at.replace(['[', ']'], ""));
    let dir = lab.dir.path().join(dir);
    std::fs::create_dir_all(&dir).unwrap();
    let dir = dir.display();
    let config = format!(
        "daemon off; master_process off; user root; pid {dir}/pid; error_log {dir}/err;
         events {{ worker_connections 256; }}
         http {{
           access_log {dir}/access.log;
           client_body_temp_path {dir}/a; proxy_temp_path {dir}/b; fastcgi_temp_path {dir}/c;
           uwsgi_temp_path {dir}/d; scgi_temp_path {dir}/e;
           server {{ listen {at}; location / {{ return 200 \"{at}\\n\"; }} }}
         }}"
    );
    let file = format!("{dir}/nginx.conf");
    std::fs::write(&file, config).unwrap();
    Server::start(ns, &format!("nginx -e {dir}/err -c {file}")).wait_for_tcp(ns, at)
}

/// Which backends `count` requests from `out` met.
fn ask(lab: &Lab, count: usize) -> BTreeMap<String, usize> {
    let script = format!(
        "for i in $(seq {count}); do curl -sS --max-time 3 http://{VIP}/ || echo failed; done"
    );
    let mut met = BTreeMap::new();
    for line in lab.outside.sh(&script).lines() {
        *met.entry(line.to_owned()).or_default() += 1;
    }
    met
}

fn shop(keys: &str, backends: &[&str]) -> Setup {
    let list: Vec<String> = backends.iter().map(|to| format!("{{ {to} }}")).collect();
    let text = format!(
        "[[service]]\nname = \"shop\"\naddress = \"{VIP}\"\nport = 80\n{keys}\nbackends = [{}]\n",
        list.join(", ")
    );
    Setup {
        kernel: None,
        natgate: Box::leak(text.into_boxed_str()),
        ..Setup::PLAIN
    }
}

/// The line of `show services` about a backend.
pub fn line(lab: &Lab, backend: &str) -> serde_json::Value {
    let document = lab.natgate().show("services");
    let lines = document["services"].as_array().unwrap().clone();
    let found = lines.into_iter().find(|line| line["backend"] == backend);
    found.unwrap_or_else(|| panic!("{document}"))
}

#[test]
fn at_3_6_9_13_curl_meets_every_nginx_and_changes_are_live() {
    let all = [
        "to = \"10.0.0.2:8080\"",
        "to = \"10.0.0.3:8080\"",
        "to = \"10.0.0.4:8080\"",
    ];
    let setup = shop("lb = \"maglev\"", &all);
    on_natgate(&setup, |lab| {
        route_services(lab);
        let _servers: Vec<Server> = ["10.0.0.2:8080", "10.0.0.3:8080", "10.0.0.4:8080"]
            .iter()
            .map(|at| web(lab, &lab.inside, at))
            .collect();
        let met = ask(lab, 60);
        assert_eq!(met.len(), 3, "{met:?}");
        assert!(met.values().all(|n| *n >= 8), "{met:?}");
        for (backend, n) in &met {
            let line = line(lab, backend);
            assert_eq!(line["hits"], *n, "{line}");
            assert_eq!(
                (&line["state"], &line["source"]),
                (&"active".into(), &"auto".into())
            );
            assert!(line["packets"].as_u64().unwrap() > 8 * *n as u64, "{line}");
        }
        let scrape = lab.middle.sh("curl -sS http://127.0.0.1:9464/metrics");
        let active = "natgate_service_backend_active{service=\"shop\",backend=\"10.0.0.2:8080\"} 1";
        assert!(scrape.contains(active), "{scrape}");

        // One drained, one gone: new connections go to the third.
        lab.reload(&shop(
            "lb = \"maglev\"",
            &["to = \"10.0.0.2:8080\", weight = 0", all[2]],
        ));
        let met = ask(lab, 10);
        assert_eq!(met, BTreeMap::from([("10.0.0.4:8080".to_owned(), 10)]));
        assert_eq!(line(lab, "10.0.0.2:8080")["state"], "drained");
    });
}

#[test]
fn at_3_9_a_download_survives_the_removal_of_its_backend() {
    let setup = shop("", &["to = \"203.0.113.9\""]);
    on_workers(2, &setup, |lab| {
        // The service's server is outside here, its clients inside: services have no sides.
        let _server = servers::nginx(lab);
        let dir = lab.dir.path().display().to_string();
        lab.inside
            .sh(&format!("head -c 20000000 /dev/urandom > {dir}/www/big"));
        let mut curl = lab.inside.command("sh");
        curl.args([
            "-c",
            &format!("curl -fsS --limit-rate 8M --max-time 60 -o {dir}/down http://{VIP}/big"),
        ]);
        let mut curl = curl.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(500));
        lab.reload(&shop("", &["to = \"203.0.113.10\""]));
        assert!(curl.wait().unwrap().success());
        lab.inside.sh(&format!("cmp {dir}/down {dir}/www/big"));
        lab.expect("TCP in 10.0.0.2:0 > 198.18.0.2:80 listener out@203.0.113.10:80 => seen 10.0.0.2:*, reply");
    });
}

#[test]
fn affinity_brings_a_client_back() {
    let keys = "affinity = \"client\"\naffinity_timeout = \"1h\"";
    let one = ["to = \"10.0.0.3:8080\""];
    on_natgate(&shop(keys, &one), |lab| {
        route_services(lab);
        let _servers: Vec<Server> = ["10.0.0.2:8080", "10.0.0.3:8080", "10.0.0.4:8080"]
            .iter()
            .map(|at| web(lab, &lab.inside, at))
            .collect();
        ask(lab, 1);
        let three = ["to = \"10.0.0.2:8080\"", one[0], "to = \"10.0.0.4:8080\""];
        lab.reload(&shop(keys, &three));
        let met = ask(lab, 12);
        assert_eq!(met, BTreeMap::from([("10.0.0.3:8080".to_owned(), 12)]));
    });
}

pub fn until(what: &str, limit: Duration, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_backend_that_does_not_answer_arp_is_left_out_until_it_does() {
    let two = ["to = \"10.0.0.2:8080\"", "to = \"10.0.0.7:8080\""];
    on_natgate(&shop("", &two), |lab| {
        route_services(lab);
        let _one = web(lab, &lab.inside, "10.0.0.2:8080");
        assert_eq!(line(lab, "10.0.0.7:8080")["state"], "active");
        // Somebody has to try.
        lab.outside.sh(&format!(
            "for i in 1 2 3 4 5 6; do curl -s --max-time 1 http://{VIP}/ || true; done"
        ));
        let limit = Duration::from_secs(15);
        until("it is left out", limit, || {
            line(lab, "10.0.0.7:8080")["state"] == "down"
        });
        assert_eq!(
            ask(lab, 12),
            BTreeMap::from([("10.0.0.2:8080".to_owned(), 12)])
        );
        lab.inside.ip("addr add 10.0.0.7/24 dev eth0");
        let _other = web(lab, &lab.inside, "10.0.0.7:8080");
        until("it is back", limit, || {
            line(lab, "10.0.0.7:8080")["state"] == "active"
        });
        let met = ask(lab, 24);
        assert!(met.len() == 2 && !met.contains_key("failed"), "{met:?}");
    });
}

#[test]
fn a_backend_that_fails_its_check_is_left_out() {
    let two = ["to = \"10.0.0.2:8080\"", "to = \"10.0.0.3:8080\""];
    let check = "check = { kind = \"http\", path = \"/healthz\", interval = \"200ms\", timeout = \"200ms\" }";
    on_workers(2, &shop(check, &two), |lab| {
        route_services(lab);
        // A network of the host's own to the backends: checks are no business of the packet path.
        let inside = lab.inside.name().to_owned();
        lab.middle.ip(&format!(
            "link add mgmt0 type veth peer name mgmt1 netns {inside}"
        ));
        lab.middle.ip("addr add 192.168.99.1/24 dev mgmt0
                       link set mgmt0 up");
        lab.inside.ip("addr add 192.168.99.2/24 dev mgmt1
                       link set mgmt1 up");
        lab.middle.ip("route add 10.0.0.2/32 via 192.168.99.2
                       route add 10.0.0.3/32 via 192.168.99.2");
        let limit = Duration::from_secs(15);
        let state = |backend: &str, state: &str| {
            until(&format!("{backend} is {state}"), limit, || {
                line(lab, backend)["state"] == state
            });
        };
        let _one = web(lab, &lab.inside, "10.0.0.2:8080");
        state("10.0.0.3:8080", "down");
        state("10.0.0.2:8080", "active");
        assert_eq!(
            ask(lab, 12),
            BTreeMap::from([("10.0.0.2:8080".to_owned(), 12)])
        );
        let two = web(lab, &lab.inside, "10.0.0.3:8080");
        state("10.0.0.3:8080", "active");
        let met = ask(lab, 24);
        assert!(met.len() == 2 && !met.contains_key("failed"), "{met:?}");
        drop(two);
        state("10.0.0.3:8080", "down");
        assert_eq!(
            ask(lab, 12),
            BTreeMap::from([("10.0.0.2:8080".to_owned(), 12)])
        );
    });
}

#[test]
fn direct_return_reaches_a_backend_that_owns_the_address() {
    let setup = shop("", &["to = \"10.0.0.5\", forward_only = true"]);
    on_natgate(&setup, |lab| {
        route_services(lab);
        lab.inside.ip(&format!("addr add {VIP}/32 dev lo"));
        lab.expect("TCP out 203.0.113.9:0 > 198.18.0.2:80 listener in@198.18.0.2:80 => seen 203.0.113.9:*, reply");
    });
}
