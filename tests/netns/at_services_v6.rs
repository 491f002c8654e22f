//! Services and source NAT of IPv6 (AT-3.2, AT-3.14 to AT-3.17), beside the kernel where it can do the same.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::accounting;
use crate::at_services::{line, until, web};
use crate::lab::{Lab, Setup, on_natgate, on_workers, same_on_both};
use crate::probe::Answer;
use crate::servers::Server;

const VIP: &str = "fd00:96::40";

/// The network of virtual addresses is routed to the gateway.
fn route_services(lab: &Lab) {
    lab.outside.ip("route add fd00:96::/64 via 2001:db8::1");
}

const TWO_KINDS: Setup = Setup {
    kernel: Some(
        "table ip6 nat { chain pre { type nat hook prerouting priority -100
           ip6 daddr fd00:96::40 tcp dport 80 dnat to [fd00:1::2]:8080
           ip6 daddr fd00:96::40 udp dport 53 dnat to [fd00:1::3]:5353
         }
         chain post { type nat hook postrouting priority 100
           iifname lan0 oifname lan0 ct status dnat masquerade
         }; }",
    ),
    natgate: r#"
        [[service]]
        name = "web"
        address = "fd00:96::40"
        port = 80
        backends = [{ to = "[fd00:1::2]:8080" }]
        [[service]]
        name = "dns"
        address = "fd00:96::40"
        proto = "udp"
        port = 53
        backends = [{ to = "[fd00:1::3]:5353" }]
    "#,
    ..Setup::PLAIN
};

#[test]
fn at_3_1_2_4_17_a_virtual_ipv6_address_answers_everybody() {
    same_on_both(&TWO_KINDS, |lab| {
        route_services(lab);
        lab.expect("TCP out [2001:db8::9]:0 > [fd00:96::40]:80 listener in@[fd00:1::2]:8080 => seen [2001:db8::9]:*, reply");
        lab.expect("UDP out [2001:db8::9]:0 > [fd00:96::40]:53 listener in@[fd00:1::3]:5353 => seen [2001:db8::9]:*, reply");
        lab.expect("TCP in [fd00:1::2]:6666 > [2001:db8::9]:80 => seen [fd00:1::2]:6666, reply");
        for client in ["[fd00:1::3]:0", "[fd00:1::2]:0"] {
            lab.expect(&format!("TCP in {client} > [fd00:96::40]:80 listener in@[fd00:1::2]:8080 => seen [fd00:1::1]:*, reply"));
        }
    });
}

#[test]
fn at_3_3_what_no_ipv6_service_wants_is_dropped_or_refused() {
    let ping = |lab: &Lab| {
        let asked = lab.outside.try_sh(&format!("ping -c 1 -W 1 {VIP}"));
        asked.status.success()
    };
    on_natgate(&TWO_KINDS, |lab| {
        route_services(lab);
        let closed = lab.probe_closed("TCP out [2001:db8::9]:0 > [fd00:96::40]:6666");
        assert_eq!(closed, Answer::Timeout);
        assert!(!ping(lab));
        assert!(accounting::dropped(lab.natgate(), "vip_unmatched") >= 2);
    });
    let polite = Setup {
        kernel: None,
        natgate: "[[service]]\naddress = \"fd00:96::40\"\nport = 80\nunmatched = \"reject\"\nping = true\nbackends = [{ to = \"[fd00:1::2]:8080\" }]\n",
        ..Setup::PLAIN
    };
    on_natgate(&polite, |lab| {
        route_services(lab);
        for proto in ["TCP", "UDP"] {
            lab.expect(&format!("{proto} out [2001:db8::9]:0 > [fd00:96::40]:6666 listener in@[fd00:1::2]:6666 => seen –, refused"));
        }
        assert!(ping(lab));
    });
}

#[test]
fn at_3_5_a_real_ipv6_address_with_its_source_rewritten() {
    let setup = Setup {
        kernel: Some(
            "table ip6 nat { chain pre { type nat hook prerouting priority -100
               ip6 daddr 2001:db8::1 tcp dport 8081 dnat to [fd00:1::2]:8080
             }
             chain post { type nat hook postrouting priority 100
               ip6 daddr fd00:1::2 tcp dport 8080 snat to fd00:1::1
             }; }",
        ),
        natgate: "[[service]]\naddress = \"interface:wan0\"\nkind = \"real\"\nport = 8081\nbackends = [{ to = \"[fd00:1::2]:8080\", source = \"fd00:1::1\" }]\n",
        ..Setup::PLAIN
    };
    same_on_both(&setup, |lab| {
        lab.outside.ip("addr add 2001:db8::a/64 dev eth0 nodad");
        for client in ["[2001:db8::9]:45000", "[2001:db8::a]:45000"] {
            lab.expect(&format!("TCP out {client} > [2001:db8::1]:8081 listener in@[fd00:1::2]:8080 => seen [fd00:1::1]:*, reply"));
        }
        lab.outside.sh("ping -c 1 -W 2 2001:db8::1");
    });
}

const VIA_POOL: &str = "[[pool]]\nname = \"v6\"\naddresses = [\"2001:db8::30\"]\n\
    [[source-nat]]\nin = \"lan0\"\nsrc = \"fd00:1::/64\"\nvia = \"pool:v6\"\n";

fn with(exempt: &str) -> Setup {
    Setup {
        kernel: None,
        natgate: Box::leak(format!("{exempt}{VIA_POOL}").into_boxed_str()),
        ..Setup::PLAIN
    }
}

#[test]
fn at_3_14_15_16_ipv6_source_nat_with_exclusions() {
    let exempt = "[[exempt]]\ndst = [\"fd99::/100\"]\n";
    on_natgate(&with(exempt), |lab| {
        lab.outside.ip("addr add fd99::6/128 dev lo nodad");
        let seen = "=> seen [2001:db8::30]:*, reply";
        lab.expect(&format!("UDP in [fd00:1::2]:0 > [2001:db8::9]:5000 {seen}"));
        lab.expect("UDP in [fd00:1::2]:40000 > [fd99::5]:5000 => seen [fd00:1::2]:40000, reply");
        // AT-3.14: what enters elsewhere is left alone.
        lab.expect(
            "UDP out [2001:db8::9]:40000 > [fd00:1::2]:5000 => seen [2001:db8::9]:40000, reply",
        );
        // AT-3.15: a longer prefix says otherwise.
        let force = "[[exempt]]\ndst = [\"fd99::/100\"]\nforce = [\"fd99::5/128\"]\n";
        lab.reload(&with(force));
        lab.natgate().ask(&["clear", "sessions"]);
        lab.expect(&format!("UDP in [fd00:1::2]:40000 > [fd99::5]:5000 {seen}"));
        lab.expect("UDP in [fd00:1::2]:40001 > [fd99::6]:5000 => seen [fd00:1::2]:40001, reply");
        // AT-3.16: without the exemption, and without the session that has its treatment.
        lab.reload(&with(""));
        lab.natgate().ask(&["clear", "sessions"]);
        lab.expect(&format!("UDP in [fd00:1::2]:40001 > [fd99::6]:5000 {seen}"));
    });
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

/// Which backends `count` requests from `out` met.
fn ask(lab: &Lab, count: usize) -> BTreeMap<String, usize> {
    let script = format!(
        "for i in $(seq {count}); do curl -gsS --max-time 3 http://[{VIP}]/ || echo failed; done"
    );
    let mut met = BTreeMap::new();
    for line in lab.outside.sh(&script).lines() {
        *met.entry(line.to_owned()).or_default() += 1;
    }
    met
}

#[test]
fn at_3_6_9_13_curl_meets_every_nginx_over_ipv6() {
    let (two, three) = ("[fd00:1::2]:8080", "[fd00:1::3]:8080");
    let both = ["to = \"[fd00:1::2]:8080\"", "to = \"[fd00:1::3]:8080\""];
    on_natgate(&shop("lb = \"maglev\"", &both), |lab| {
        route_services(lab);
        let _servers: Vec<Server> = [two, three]
            .iter()
            .map(|at| web(lab, &lab.inside, at))
            .collect();
        let met = ask(lab, 40);
        assert_eq!(met.len(), 2, "{met:?}");
        for (backend, n) in &met {
            let line = line(lab, backend);
            assert!(*n >= 8 && line["hits"] == *n, "{met:?} {line}");
            assert_eq!(line["state"], "active");
            assert!(line["packets"].as_u64().unwrap() > 8 * *n as u64, "{line}");
        }
        let scrape = lab.middle.sh("curl -sS http://127.0.0.1:9464/metrics");
        let active =
            format!("natgate_service_backend_active{{service=\"shop\",backend=\"{two}\"}} 1");
        assert!(scrape.contains(&active), "{scrape}");
        lab.reload(&shop(
            "lb = \"maglev\"",
            &["to = \"[fd00:1::2]:8080\", weight = 0", both[1]],
        ));
        assert_eq!(ask(lab, 10), BTreeMap::from([(three.to_owned(), 10)]));
        assert_eq!(line(lab, two)["state"], "drained");
        let why = lab.natgate().ask(&[
            "explain",
            "in=wan0",
            "src=2001:db8::9",
            "dst=fd00:96::40",
            "proto=tcp",
            "dport=80",
        ]);
        let decided = format!("{three}  by service shop {three}");
        assert!(why.contains(&decided), "{why}");
    });
}

#[test]
fn a_backend_that_does_not_answer_neighbour_discovery_is_left_out_until_it_does() {
    let two = ["to = \"[fd00:1::2]:8080\"", "to = \"[fd00:1::7]:8080\""];
    on_workers(2, &shop("", &two), |lab| {
        route_services(lab);
        let _one = web(lab, &lab.inside, "[fd00:1::2]:8080");
        let limit = Duration::from_secs(15);
        lab.outside.sh(&format!(
            "for i in 1 2 3 4 5 6; do curl -gs --max-time 1 http://[{VIP}]/ || true; done"
        ));
        let state = |state: &str| {
            until(&format!("it is {state}"), limit, || {
                line(lab, "[fd00:1::7]:8080")["state"] == state
            });
        };
        state("down");
        let only = BTreeMap::from([("[fd00:1::2]:8080".to_owned(), 12)]);
        assert_eq!(ask(lab, 12), only);
        lab.inside.ip("addr add fd00:1::7/64 dev eth0 nodad");
        let _other = web(lab, &lab.inside, "[fd00:1::7]:8080");
        state("active");
        let met = ask(lab, 24);
        assert!(met.len() == 2 && !met.contains_key("failed"), "{met:?}");
    });
}

#[test]
fn a_backend_that_fails_its_check_over_ipv6_is_left_out() {
    let two = ["to = \"[fd00:1::2]:8080\"", "to = \"[fd00:1::3]:8080\""];
    let check = "check = { kind = \"http\", path = \"/healthz\", interval = \"200ms\", timeout = \"200ms\" }";
    on_workers(2, &shop(check, &two), |lab| {
        route_services(lab);
        // A network of the host's own to the backends: checks are no business of the packet path.
        let inside = lab.inside.name().to_owned();
        lab.middle.ip(&format!(
            "link add mgmt0 type veth peer name mgmt1 netns {inside}"
        ));
        lab.middle.sysctl(&["net.ipv6.conf.mgmt0.disable_ipv6=0"]);
        lab.middle.ip("addr add fd00:99::1/64 dev mgmt0 nodad
                       link set mgmt0 up");
        lab.inside.ip("addr add fd00:99::2/64 dev mgmt1 nodad
                       link set mgmt1 up");
        lab.middle.ip("route add fd00:1::2/128 via fd00:99::2
                       route add fd00:1::3/128 via fd00:99::2");
        let limit = Duration::from_secs(15);
        let state = |backend: &str, state: &str| {
            until(&format!("{backend} is {state}"), limit, || {
                line(lab, backend)["state"] == state
            });
        };
        let _one = web(lab, &lab.inside, "[fd00:1::2]:8080");
        state("[fd00:1::3]:8080", "down");
        state("[fd00:1::2]:8080", "active");
        let only = BTreeMap::from([("[fd00:1::2]:8080".to_owned(), 12)]);
        assert_eq!(ask(lab, 12), only);
        let _two = web(lab, &lab.inside, "[fd00:1::3]:8080");
        state("[fd00:1::3]:8080", "active");
        let met = ask(lab, 24);
        assert!(met.len() == 2 && !met.contains_key("failed"), "{met:?}");
    });
}

#[test]
fn direct_return_and_affinity_over_ipv6() {
    on_natgate(
        &shop("", &["to = \"fd00:1::3\", forward_only = true"]),
        |lab| {
            route_services(lab);
            lab.inside.ip(&format!("addr add {VIP}/128 dev lo nodad"));
            lab.expect("TCP out [2001:db8::9]:0 > [fd00:96::40]:80 listener in@[fd00:96::40]:80 => seen [2001:db8::9]:*, reply");
        },
    );
    let keys = "affinity = \"client\"\naffinity_timeout = \"1h\"";
    let both = ["to = \"[fd00:1::3]:8080\"", "to = \"[fd00:1::2]:8080\""];
    on_natgate(&shop(keys, &both[..1]), |lab| {
        route_services(lab);
        let places = ["[fd00:1::2]:8080", "[fd00:1::3]:8080"];
        let _servers: Vec<Server> = places.iter().map(|at| web(lab, &lab.inside, at)).collect();
        ask(lab, 1);
        lab.reload(&shop(keys, &both));
        assert_eq!(ask(lab, 12), BTreeMap::from([(places[1].to_owned(), 12)]));
    });
}
