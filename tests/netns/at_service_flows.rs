//! Flows of services (S3.3 to S3.5, AT-3.18): where they go, how long they live, how many there may be, how they are listed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nix::errno::Errno;

use crate::accounting;
use crate::at_services::{VIP, route_services, until};
use crate::lab::{Lab, Setup, on_natgate, on_workers, same_on_both};
use crate::probe::{Answer, Proto, open_stream};

/// One service of UDP at port 53 with more keys in `keys`, and what else the configuration says.
fn dns(keys: &str, backends: &[&str], more: &str) -> Setup {
    let list: Vec<String> = backends
        .iter()
        .map(|to| format!("{{ to = \"{to}\" }}"))
        .collect();
    let text = format!(
        "[[service]]\nname = \"dns\"\naddress = \"{VIP}\"\nproto = \"udp\"\nport = 53\n{keys}\nbackends = [{}]\n{more}\n",
        list.join(", ")
    );
    Setup {
        kernel: None,
        natgate: Box::leak(text.into_boxed_str()),
        ..Setup::PLAIN
    }
}

/// Sends a datagram from each of `ports` to the service, and counts the flows of each backend.
fn flood(lab: &Lab, ports: std::ops::Range<u16>) -> BTreeMap<String, u64> {
    for port in ports.clone() {
        lab.hold("out", &format!("203.0.113.9:{port}"))
            .send(b"question", format!("{VIP}:53").parse().unwrap());
    }
    let total = ports.len() as u64;
    let hits = || -> BTreeMap<String, u64> {
        let document = lab.natgate().show("services");
        let lines = document["services"].as_array().unwrap();
        let of = |line: &serde_json::Value| {
            let backend = line["backend"].as_str().unwrap().to_owned();
            (backend, line["hits"].as_u64().unwrap())
        };
        lines.iter().map(of).collect()
    };
    until("every flow is counted", Duration::from_secs(10), || {
        hits().values().sum::<u64>() == total
    });
    hits()
}

const TWO: [&str; 2] = ["10.0.0.2:5353", "10.0.0.3:5353"];

#[test]
fn at_3_6_flows_spread_and_stay() {
    on_natgate(&dns("", &TWO, ""), |lab| {
        route_services(lab);
        let hits = flood(lab, 20000..20400);
        assert!(hits.values().all(|n| (160..=240).contains(n)), "{hits:?}");
        // All packets of a flow meet one backend.
        let echoes = TWO.map(|at| lab.echo("in", Proto::Udp, at.parse().unwrap()));
        let held = lab.hold("out", "203.0.113.9:31000");
        let mut met = BTreeSet::new();
        for n in 0..10 {
            let payload = format!("of one flow {n}").into_bytes();
            held.send(&payload, format!("{VIP}:53").parse().unwrap());
            let answer = held.receive(&payload, format!("{VIP}:53").parse().unwrap());
            assert_eq!(answer, Answer::Reply);
            met.insert(echoes.iter().position(|e| e.source_of(&payload).is_some()));
        }
        assert_eq!(met.len(), 1, "{met:?}");
    });
}

#[test]
fn at_3_7_the_choice_depends_on_what_it_is_told() {
    for fields in ["[\"src\", \"dst\"]", "[\"dport\"]"] {
        on_workers(2, &dns(&format!("hash = {fields}"), &TWO, ""), |lab| {
            route_services(lab);
            let hits = flood(lab, 20000..20050);
            let mut shares: Vec<u64> = hits.into_values().collect();
            shares.sort_unstable();
            assert_eq!(shares, [0, 50], "{fields}: source ports do not count");
        });
    }
}

/// Five servers at one address, and which of them each of `ports` meets from `out`.
fn met(lab: &Lab, round: &str, ports: std::ops::Range<u16>) -> BTreeMap<u16, usize> {
    let servers = FIVE.map(|at| lab.echo("in", Proto::Udp, at.parse().unwrap()));
    let to = format!("{VIP}:53").parse().unwrap();
    let mut met = BTreeMap::new();
    let ports: Vec<u16> = ports.collect();
    // In portions, so that no socket's buffer runs over.
    for portion in ports.chunks(100) {
        let said = |port: &u16| format!("{round} {port}").into_bytes();
        for port in portion {
            let held = lab.hold("out", &format!("203.0.113.9:{port}"));
            held.send(&said(port), to);
        }
        for port in portion {
            let payload = said(port);
            let met_by = || servers.iter().position(|s| s.source_of(&payload).is_some());
            until("the flow arrives", Duration::from_secs(5), || {
                met_by().is_some()
            });
            met.insert(*port, met_by().unwrap());
        }
    }
    met
}

const FIVE: [&str; 5] = [
    "10.0.0.2:5351",
    "10.0.0.2:5352",
    "10.0.0.2:5353",
    "10.0.0.2:5354",
    "10.0.0.2:5355",
];

#[test]
fn at_3_8_maglev_moves_few_flows_over_a_restart() {
    on_workers(2, &dns("lb = \"maglev\"", &FIVE, ""), |lab| {
        route_services(lab);
        let before = met(lab, "before", 20000..25000);
        lab.reload(&dns("lb = \"maglev\"", &FIVE[..4], ""));
        lab.restart();
        let after = met(lab, "after", 20000..25000);
        let others: Vec<_> = before.iter().filter(|(_, server)| **server != 4).collect();
        let kept = others.iter().filter(|(port, s)| after[*port] == **s);
        let kept = kept.count();
        assert!(kept * 10 >= others.len() * 9, "{kept} of {}", others.len());
    });
}

#[test]
fn at_3_9_datagrams_follow_the_change_of_the_backend_unless_they_drain() {
    for (drain, second) in [("", TWO[1]), ("drain = \"keep\"", TWO[0])] {
        on_workers(2, &dns(drain, &TWO[..1], ""), |lab| {
            route_services(lab);
            let to = format!("{VIP}:53").parse().unwrap();
            let held = lab.hold("out", "203.0.113.9:20000");
            let meets = |lab: &Lab, server: &str, payload: &[u8]| {
                let echo = lab.echo("in", Proto::Udp, server.parse().unwrap());
                let met = held.ask_with(payload, to, &echo);
                assert_eq!(met.answered().to_string(), "203.0.113.9:20000");
            };
            meets(lab, TWO[0], b"one");
            lab.reload(&dns(drain, &TWO[1..], ""));
            meets(lab, second, b"two");
        });
    }
}

#[test]
fn at_3_10_a_flow_of_datagrams_is_forgotten() {
    let short = "[timeouts]\nudp = \"2s\"\nudp_unreplied = \"2s\"";
    on_natgate(&dns("", &TWO[..1], short), |lab| {
        route_services(lab);
        lab.expect("UDP out 203.0.113.9:20000 > 198.18.0.2:53 listener in@10.0.0.2:5353 => seen 203.0.113.9:20000, reply");
        assert_eq!(lab.natgate().show("status")["sessions"], 1);
        until("it is forgotten", Duration::from_secs(4), || {
            lab.natgate().show("status")["sessions"] == 0
        });
    });
}

#[test]
fn at_3_11_a_reset_ends_a_connection() {
    let setup = Setup {
        kernel: None,
        natgate: "[timeouts]\ntcp_reset = \"2s\"\n[[service]]\naddress = \"198.18.0.2\"\nport = 80\nbackends = [{ to = \"10.0.0.2:8080\" }]\n",
        ..Setup::PLAIN
    };
    on_natgate(&setup, |lab| {
        route_services(lab);
        let _echo = lab.echo("in", Proto::Tcp, "10.0.0.2:8080".parse().unwrap());
        let to = "198.18.0.2:80".parse().unwrap();
        let from = "203.0.113.9:0".parse().unwrap();
        let stream = open_stream(&lab.outside, from, to).unwrap();
        assert_eq!(lab.natgate().show("status")["sessions"], 1);
        // Closing without a linger sends a reset.
        let socket = socket2::Socket::from(stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        drop(socket);
        until("it is gone", Duration::from_secs(6), || {
            lab.natgate().show("status")["sessions"] == 0
        });
    });
}

#[test]
fn at_3_12_a_full_table_refuses_and_is_cleared() {
    // One worker: the table's places are shared out among them.
    on_workers(1, &dns("", &TWO[..1], ""), |lab| {
        route_services(lab);
        let drop_in = lab.dir.path().join("natgate.d");
        std::fs::create_dir(&drop_in).unwrap();
        std::fs::write(drop_in.join("few.toml"), "[system]\nsessions = 200\n").unwrap();
        lab.restart();
        let to = format!("{VIP}:53").parse().unwrap();
        for port in 20000..20210 {
            lab.hold("out", &format!("203.0.113.9:{port}"))
                .send(b"q", to);
        }
        until(
            "every datagram is accounted for",
            Duration::from_secs(5),
            || accounting::dropped(lab.natgate(), "table_full") == 10,
        );
        assert_eq!(lab.natgate().show("status")["sessions"], 200);
        lab.natgate().ask(&["clear", "sessions"]);
        lab.expect("UDP out 203.0.113.9:20205 > 198.18.0.2:53 listener in@10.0.0.2:5353 => seen 203.0.113.9:20205, reply");
    });
}

#[test]
fn at_3_13_services_and_their_sessions_are_listed() {
    on_natgate(&dns("lb = \"maglev\"", &TWO[..1], ""), |lab| {
        route_services(lab);
        flood(lab, 20000..20060);
        let table = lab.natgate().ask(&["show", "services", "verbose"]);
        for part in [
            "dns",
            VIP,
            "udp",
            "53",
            "maglev",
            "src,dst,sport,dport,proto",
            "10.0.0.2:5353",
            "active",
            "60",
        ] {
            assert!(table.contains(part), "no {part} in\n{table}");
        }
        let listed = lab.natgate().ask(&["show", "sessions"]);
        assert_eq!(
            listed.lines().count(),
            52,
            "a heading, fifty, and how many more"
        );
        assert!(listed.contains("only the first 50 of 60"), "{listed}");
        let few = [
            "show", "sessions", "port", "20007", "proto", "udp", "max", "3", "verbose",
        ];
        let one = lab.natgate().ask(&few);
        for part in [VIP, "10.0.0.2", "5353", "203.0.113.9", "20007", "dns"] {
            assert!(one.contains(part), "no {part} in\n{one}");
        }
    });
}

/// AT-3.18: the link to the clients is narrow, and the server asks its path for more.
#[test]
fn at_3_18_a_server_learns_the_mtu_towards_its_clients() {
    let setup = Setup {
        kernel: Some(
            "table ip nat { chain pre { type nat hook prerouting priority -100
               ip daddr 198.18.0.2 udp dport 53 dnat to 10.0.0.2:5353
             }; }
             table ip6 nat { chain pre { type nat hook prerouting priority -100
               ip6 daddr fd00:96::40 udp dport 53 dnat to [fd00:1::2]:5353
             }; }",
        ),
        natgate: r#"
            [[service]]
            name = "four"
            address = "198.18.0.2"
            proto = "udp"
            port = 53
            backends = [{ to = "10.0.0.2:5353" }]
            [[service]]
            name = "six"
            address = "fd00:96::40"
            proto = "udp"
            port = 53
            backends = [{ to = "[fd00:1::2]:5353" }]
        "#,
        wan_mtu: 1400,
        ..Setup::PLAIN
    };
    same_on_both(&setup, |lab| {
        route_services(lab);
        lab.outside.ip("route add fd00:96::/64 via 2001:db8::1");
        // The server sends what is too large; the error tells its socket so, and the next one goes in pieces.
        for (server, client, service) in [
            ("10.0.0.2:5353", "203.0.113.9:20000", "198.18.0.2:53"),
            (
                "[fd00:1::2]:5353",
                "[2001:db8::9]:20000",
                "[fd00:96::40]:53",
            ),
        ] {
            let at = |text: &str| text.parse().unwrap();
            let (serves, calls) = (lab.hold("in", server), lab.hold("out", client));
            calls.send(b"question", at(service));
            let asked = serves.receive(b"question", at(client));
            assert_eq!(asked, Answer::Reply);
            let large = [b'x'; 1430];
            serves.send(&large, at(client));
            let told = serves.receive(b"no answer expected", at(client));
            assert_eq!(told, Answer::Error(Errno::EMSGSIZE), "{server}");
            serves.send(&large, at(client));
            let answered = calls.receive(&large, at(service));
            assert_eq!(answered, Answer::Reply, "{server}");
        }
    });
}

/// One endpoint of a client calls one server by two services and by its own address: all three get their own answers.
#[test]
fn flows_that_would_look_alike_are_told_apart() {
    let setup = Setup {
        kernel: Some(
            "table ip nat { chain pre { type nat hook prerouting priority -100
               ip daddr 198.18.0.2 udp dport 53 dnat to 10.0.0.2:5353
               ip daddr 198.18.0.3 udp dport 53 dnat to 10.0.0.2:5353
             }; }",
        ),
        natgate: r#"
            [[service]]
            address = "198.18.0.2"
            proto = "udp"
            port = 53
            backends = [{ to = "10.0.0.2:5353" }]
            [[service]]
            address = "198.18.0.3"
            proto = "udp"
            port = 53
            backends = [{ to = "10.0.0.2:5353" }]
        "#,
        ..Setup::PLAIN
    };
    same_on_both(&setup, |lab| {
        route_services(lab);
        let echo = lab.echo("in", Proto::Udp, "10.0.0.2:5353".parse().unwrap());
        let held = lab.hold("out", "203.0.113.9:20000");
        let ask = |round: &str, to: &str| {
            let payload = format!("{round} to {to}").into_bytes();
            let seen = held.ask_with(&payload, to.parse().unwrap(), &echo);
            let seen = seen.answered();
            assert_eq!(seen.ip().to_string(), "203.0.113.9");
            seen.port()
        };
        let names = ["198.18.0.2:53", "198.18.0.3:53", "10.0.0.2:5353"];
        let first = names.map(|to| ask("first", to));
        assert_eq!(first[0], 20000);
        let different: BTreeSet<u16> = first.into_iter().collect();
        assert_eq!(different.len(), 3, "{first:?}");
        assert_eq!(names.map(|to| ask("again", to)), first);
    });
}
