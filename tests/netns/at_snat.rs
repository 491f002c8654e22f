//! Source NAT to pools and dynamic addresses, rule order, replies (AT-1.1 to AT-1.12).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::accounting;
use crate::lab::{Lab, Setup, on_natgate, same_on_both};
use crate::probe::Answer;
use crate::raw::{self, Capture, Packet};

/// The ten addresses of the pools below, for the kernel, which must own what it is to answer ARP for.
const TEN: &[&str] = &[
    "203.0.113.20/32",
    "203.0.113.21/32",
    "203.0.113.22/32",
    "203.0.113.23/32",
    "203.0.113.24/32",
    "203.0.113.25/32",
    "203.0.113.26/32",
    "203.0.113.27/32",
    "203.0.113.28/32",
    "203.0.113.29/32",
];

const ONE_ADDRESS: Setup = Setup {
    kernel: Some(
        "table ip nat { chain post { type nat hook postrouting priority 100
           oifname wan0 snat to 203.0.113.20
         }; }",
    ),
    natgate: r#"
        [[pool]]
        name = "a"
        addresses = ["203.0.113.20"]
        [[source-nat]]
        out = "wan0"
        via = "pool:a"
    "#,
    kernel_extra: &["203.0.113.20/32"],
    ..Setup::PLAIN
};

#[test]
fn at_1_1_a_static_address() {
    same_on_both(&ONE_ADDRESS, |lab| {
        lab.expect("UDP in 10.0.0.2:40000 > 203.0.113.9:5000 => seen 203.0.113.20:40000, reply");
        lab.expect("TCP in 10.0.0.3:0 > 203.0.113.9:80 => seen 203.0.113.20:*, reply");
    });
}

// Proves: U2.
#[test]
fn at_1_2_paired_pooling_gives_a_client_one_address() {
    let setup = Setup {
        kernel: Some(
            "table ip nat { chain post { type nat hook postrouting priority 100
               oifname wan0 snat to 203.0.113.20-203.0.113.29 persistent
             }; }",
        ),
        natgate: r#"
            [[pool]]
            name = "ten"
            addresses = ["203.0.113.20-203.0.113.29"]
            pairing = "paired"
            [[source-nat]]
            out = "wan0"
            via = "pool:ten"
        "#,
        kernel_extra: TEN,
        ..Setup::PLAIN
    };
    same_on_both(&setup, |lab| {
        let remotes = [
            "203.0.113.9",
            "203.0.113.10",
            "203.0.113.11",
            "198.51.100.5",
            "100.64.3.3",
        ];
        let mut before = Vec::new();
        for client in 2..=5 {
            let probe = |r: &&str| address_seen(lab, &format!("10.0.0.{client}"), r);
            let seen: BTreeSet<IpAddr> = remotes.iter().map(probe).collect();
            assert_eq!(seen.len(), 1, "client .{client} leaves from {seen:?}");
            before.extend(seen);
        }
        lab.restart();
        for (client, address) in (2..=5).zip(before) {
            let after = address_seen(lab, &format!("10.0.0.{client}"), "203.0.113.9");
            assert_eq!(after, address, "client .{client} after a restart");
        }
        let mut load = std::collections::BTreeMap::<IpAddr, usize>::new();
        for client in 100..140 {
            lab.inside
                .ip(&format!("addr add 10.0.0.{client}/24 dev eth0"));
            *load
                .entry(address_seen(
                    lab,
                    &format!("10.0.0.{client}"),
                    "203.0.113.9",
                ))
                .or_default() += 1;
        }
        // 40 clients thrown at 10 addresses: chance alone exceeds these bounds less than once in 10^4.
        assert!(
            load.len() >= 6 && load.values().all(|&n| n <= 13),
            "{load:?}"
        );
    });
}

fn address_seen(lab: &Lab, client: &str, remote: &str) -> IpAddr {
    lab.probe(&format!("UDP in {client}:0 > {remote}:5000"))
        .answered()
        .ip()
}

#[test]
fn at_1_3_spread_pooling_uses_many_addresses_for_a_client() {
    let setup = Setup {
        kernel: Some(
            "table ip nat { chain post { type nat hook postrouting priority 100
               oifname wan0 snat to 203.0.113.20-203.0.113.29
             }; }",
        ),
        natgate: r#"
            [[pool]]
            name = "ten"
            addresses = ["203.0.113.20-203.0.113.29"]
            pairing = "spread"
            [[source-nat]]
            out = "wan0"
            via = "pool:ten"
        "#,
        kernel_extra: TEN,
        ..Setup::PLAIN
    };
    same_on_both(&setup, |lab| {
        // The kernel chooses by remote, natgate by socket: many of both show the spread of either.
        for remote in 100..125 {
            lab.outside
                .ip(&format!("addr add 198.51.100.{remote}/32 dev lo"));
        }
        let mut seen = BTreeSet::new();
        for n in 0..50 {
            let held = lab.hold("in", "10.0.0.2:0");
            let remote = format!("198.51.100.{}:5000", 100 + n % 25);
            let first = lab.ask(&held, &remote).answered();
            assert_eq!(
                lab.ask(&held, &remote).answered(),
                first,
                "a socket keeps its own"
            );
            seen.insert(first.ip());
        }
        assert!(seen.len() >= 3, "{seen:?}");
    });
}

/// Two ports for everybody.
const TWO_PORTS: Setup = Setup {
    kernel: Some(
        "table ip nat { chain post { type nat hook postrouting priority 100
           oifname wan0 ip protocol udp masquerade to :2000-2001
         }; }",
    ),
    natgate: r#"
        [[source-nat]]
        name = "two"
        out = "wan0"
        proto = "udp"
        via = "interface"
        ports = "2000-2001"
    "#,
    ..Setup::PLAIN
};

fn four_clients(lab: &Lab) -> Vec<Answer> {
    (2..=5)
        .map(|n| lab.probe(&format!("UDP in 10.0.0.{n}:41000 > 203.0.113.9:5000")))
        .inspect(|o| {
            let port_is_right = o.seen.is_none_or(|at| (2000..=2001).contains(&at.port()));
            assert!(port_is_right, "{o:?}");
        })
        .map(|o| o.answer)
        .collect()
}

#[test]
fn at_1_4_two_ports_serve_two_clients() {
    same_on_both(&TWO_PORTS, |lab| {
        use Answer::{Reply, Timeout};
        assert_eq!(four_clients(lab), [Reply, Reply, Timeout, Timeout]);
        if !lab.is_kernel() {
            assert_eq!(accounting::dropped(lab.natgate(), "no_port"), 2);
            let pools = lab.natgate().show("pools pool interface:wan0");
            assert_eq!(pools["pools"][0]["ports"][1]["refused"]["no_port"], 2);
            // The log says it once, some seconds later at most.
            let told = |log: &str| log.matches("pool refuses new mappings").count();
            let late = Instant::now() + Duration::from_secs(5);
            while told(&lab.natgate().log()) == 0 && Instant::now() < late {
                std::thread::sleep(Duration::from_millis(100));
            }
            assert_eq!(told(&lab.natgate().log()), 1, "{}", lab.natgate().log());
            // Those that have a port keep it.
            lab.probe("UDP in 10.0.0.2:41000 > 203.0.113.9:5000")
                .answered();
            lab.probe("UDP in 10.0.0.3:41000 > 203.0.113.9:5000")
                .answered();
        }
    });
}

#[test]
fn at_1_4_exhaustion_can_be_told_to_the_client() {
    let setup = Setup {
        kernel: None,
        natgate: r#"
            [[pool]]
            name = "two"
            addresses = ["interface:wan0"]
            ports = "2000-2001"
            exhaustion = "icmp"
            [[source-nat]]
            out = "wan0"
            via = "pool:two"
        "#,
        ..Setup::PLAIN
    };
    on_natgate(&setup, |lab| {
        let answers = four_clients(lab);
        assert_eq!(answers[..2], [Answer::Reply, Answer::Reply]);
        let told = |a: &Answer| matches!(a, Answer::Error(_));
        assert!(answers[2..].iter().all(told), "{answers:?}");
    });
}

#[test]
fn at_1_5_a_reversed_range_is_an_error() {
    on_natgate(&Setup::MASQUERADE, |lab| {
        let bad = Setup {
            natgate: "[[pool]]\nname = \"backwards\"\naddresses = [\"203.0.113.29-203.0.113.20\"]\n",
            ..Setup::MASQUERADE
        };
        lab.natgate().write_config(&bad);
        let check = lab
            .natgate()
            .cli(&["check", lab.natgate().config().to_str().unwrap()]);
        let message = String::from_utf8_lossy(&check.stderr);
        assert_eq!(check.status.code(), Some(1), "{message}");
        for word in ["pool", "203.0.113.20", "below"] {
            assert!(message.contains(word), "no {word:?} in: {message}");
        }
    });
}

#[test]
fn at_1_6_a_new_interface_address_ends_the_old_ones_sessions() {
    same_on_both(&Setup::MASQUERADE, |lab| {
        let held = lab.hold("in", "10.0.0.2:40000");
        let before = lab.ask(&held, "203.0.113.9:5000").answered();
        assert_eq!(before.ip().to_string(), "203.0.113.1");
        lab.reload(&Setup {
            wan: &["203.0.113.2/24", "2001:db8::1/64"],
            ..Setup::MASQUERADE
        });
        std::thread::sleep(Duration::from_millis(1000));
        let after = lab.ask(&held, "203.0.113.9:5000").answered();
        assert_eq!(after.ip().to_string(), "203.0.113.2");
    });
}

#[test]
fn at_1_8_a_link_that_goes_ends_what_masquerades_on_it() {
    // E11, E12: a pool's sessions are there when the link comes back, the interface's are not.
    let setup = Setup {
        kernel: Some(
            "table ip nat { chain post { type nat hook postrouting priority 100
               oifname wan0 ip saddr 10.0.0.3 snat to 203.0.113.20
               oifname wan0 masquerade
             }; }",
        ),
        natgate: r#"
            [[pool]]
            name = "fixed"
            addresses = ["203.0.113.20"]
            [[source-nat]]
            src = "10.0.0.3"
            out = "wan0"
            via = "pool:fixed"
            [[source-nat]]
            out = "wan0"
            via = "interface"
        "#,
        kernel_extra: &["203.0.113.20/24"],
        ..Setup::PLAIN
    };
    same_on_both(&setup, |lab| {
        lab.expect("UDP in 10.0.0.2:40000 > 203.0.113.9:5000 => seen 203.0.113.1:40000, reply");
        lab.expect("UDP in 10.0.0.3:40000 > 203.0.113.9:5000 => seen 203.0.113.20:40000, reply");
        lab.close_listeners();
        lab.middle.sh("ip link set wan0 down");
        std::thread::sleep(Duration::from_millis(1000));
        lab.middle.sh("ip link set wan0 up");
        if lab.is_kernel() {
            lab.middle.sh("ip route replace default via 203.0.113.9");
        }
        std::thread::sleep(Duration::from_millis(1000));
        let pooled = "UDP out 203.0.113.9:5000 > 203.0.113.20:40000 listener in@10.0.0.3:40000";
        lab.expect(&format!("{pooled} => seen 203.0.113.9:5000, reply"));
        let masqueraded = "UDP out 203.0.113.9:5000 > 203.0.113.1:40000 listener in@10.0.0.2:40000";
        assert!(lab.probe(masqueraded).nothing_arrived(), "forgotten");
        lab.expect("UDP in 10.0.0.2:40001 > 203.0.113.9:5001 => seen 203.0.113.1:40001, reply");
    });
}

#[test]
fn at_1_9_a_moved_route_moves_the_translation() {
    let moved = Setup {
        kernel: Some(
            "table ip nat { chain post { type nat hook postrouting priority 100
               oifname { wan0, wan1 } masquerade
             }; }",
        ),
        natgate: r#"
            [[source-nat]]
            out = ["wan0", "wan1"]
            via = "interface"
        "#,
        second_uplink: true,
        ..Setup::PLAIN
    };
    let first = Setup {
        natgate: r#"
            [[route]]
            prefix = "198.51.100.5/32"
            via = "192.0.2.9"
            [[source-nat]]
            out = ["wan0", "wan1"]
            via = "interface"
        "#,
        ..moved
    };
    same_on_both(&first, |lab| {
        if lab.is_kernel() {
            lab.middle.ip("route add 198.51.100.5/32 via 192.0.2.9");
        }
        let held = lab.hold("in", "10.0.0.2:40000");
        let before = lab.ask(&held, "198.51.100.5:5000").answered();
        assert_eq!(before.ip().to_string(), "192.0.2.1");
        if lab.is_kernel() {
            lab.middle.ip("route del 198.51.100.5/32");
        }
        lab.reload(&moved);
        let mut after = lab.ask(&held, "198.51.100.5:5000");
        if after.nothing_arrived() {
            after = lab.ask(&held, "198.51.100.5:5000");
        }
        assert_eq!(after.answered().ip().to_string(), "203.0.113.1");
    });
}

/// The pool for two of the clients, the interface's address for the rest.
const SOME_TO_POOL: Setup = Setup {
    kernel: Some(
        "table ip nat { chain post { type nat hook postrouting priority 100
           ip saddr 10.0.0.0/30 oifname wan0 snat to 203.0.113.20
           oifname wan0 masquerade
         }; }",
    ),
    natgate: r#"
        [[pool]]
        name = "a"
        addresses = ["203.0.113.20"]
        [[source-nat]]
        src = "10.0.0.0/30"
        out = "wan0"
        via = "pool:a"
        [[source-nat]]
        out = "wan0"
        via = "interface"
    "#,
    kernel_extra: &["203.0.113.20/32"],
    ..Setup::PLAIN
};

#[test]
fn at_1_10_the_first_matching_rule_wins() {
    same_on_both(&SOME_TO_POOL, |lab| {
        lab.expect("UDP in 10.0.0.2:0 > 203.0.113.9:5000 => seen 203.0.113.20:*, reply");
        lab.expect("UDP in 10.0.0.3:0 > 203.0.113.9:5000 => seen 203.0.113.20:*, reply");
        lab.expect("UDP in 10.0.0.4:0 > 203.0.113.9:5000 => seen 203.0.113.1:*, reply");
    });
    let swapped = Setup {
        kernel: Some(
            "table ip nat { chain post { type nat hook postrouting priority 100
               oifname wan0 masquerade
               ip saddr 10.0.0.0/30 oifname wan0 snat to 203.0.113.20
             }; }",
        ),
        natgate: r#"
            [[pool]]
            name = "a"
            addresses = ["203.0.113.20"]
            [[source-nat]]
            out = "wan0"
            via = "interface"
            [[source-nat]]
            src = "10.0.0.0/30"
            out = "wan0"
            via = "pool:a"
        "#,
        ..SOME_TO_POOL
    };
    same_on_both(&swapped, |lab| {
        for client in 2..=4 {
            lab.expect(&format!(
                "UDP in 10.0.0.{client}:0 > 203.0.113.9:5000 => seen 203.0.113.1:*, reply"
            ));
        }
    });
}

#[test]
fn at_1_11_protocols_without_ports_are_translated_by_address() {
    same_on_both(&Setup::MASQUERADE, |lab| {
        for protocol in [50, 99] {
            let _claims = [&lab.inside, &lab.outside].map(|ns| raw::claim_protocol(ns, protocol));
            let (far, near) = (Capture::start(&lab.outside), Capture::start(&lab.inside));
            let data = vec![0x5a; 64];
            let there = Packet::new("10.0.0.2", "203.0.113.9", protocol, data.clone());
            raw::send(&lab.inside, &[there]);
            let wait = Duration::from_secs(1);
            let seen = far
                .find(wait, |p| p.protocol == protocol)
                .expect("it arrives");
            assert_eq!(
                (seen.source.to_string().as_str(), &seen.payload),
                ("203.0.113.1", &data)
            );
            raw::send(
                &lab.outside,
                &[Packet::new(
                    "203.0.113.9",
                    "203.0.113.1",
                    protocol,
                    data.clone(),
                )],
            );
            let back = |p: &Packet| p.protocol == protocol && p.source.octets() == [203, 0, 113, 9];
            let reply = near.find(wait, back).expect("the reply comes back");
            assert_eq!(reply.destination.to_string(), "10.0.0.2");
            // A second client's packets could not be told apart from the first one's on their way back.
            raw::send(
                &lab.inside,
                &[Packet::new("10.0.0.3", "203.0.113.9", protocol, data)],
            );
            let arriving =
                |p: &Packet| p.protocol == protocol && p.destination.octets() == [203, 0, 113, 9];
            assert_eq!(far.find(Duration::from_millis(300), arriving), None);
        }
        if !lab.is_kernel() {
            assert_eq!(accounting::dropped(lab.natgate(), "no_port_conflict"), 2);
        }
    });
}

#[test]
fn at_1_12_replies_need_no_rule_and_strangers_are_kept_out() {
    same_on_both(&Setup::MASQUERADE, |lab| {
        lab.expect("UDP in 10.0.0.2:40000 > 203.0.113.9:5000 => seen 203.0.113.1:40000, reply");
        lab.close_listeners();
        let inside = "listener in@10.0.0.2:40000";
        for stranger in ["203.0.113.10:5001", "203.0.113.9:5999"] {
            lab.expect(&format!(
                "UDP out {stranger} > 203.0.113.1:40000 {inside} => seen –, no reply"
            ));
        }
        if !lab.is_kernel() {
            assert_eq!(accounting::dropped(lab.natgate(), "filtered"), 2);
        }
        lab.expect(&format!(
            "UDP out 203.0.113.9:5000 > 203.0.113.1:40000 {inside} => seen 203.0.113.9:5000, reply"
        ));
    });
}
