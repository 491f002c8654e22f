//! What workers take down for the log: nothing is missing, nothing is said twice.

use std::collections::BTreeMap;
use std::net::IpAddr;

use natgate::base::Random;
use natgate::nat::journal::{Event, EventKind};

use crate::common::*;
use crate::*;

/// A log, and where it would go.
fn log(mappings: &str) -> String {
    format!("[log]\nmappings = \"{mappings}\"\nto = \"file:/var/log/nat.json\"\n")
}

/// Everything taken down since the last time, in order.
fn events(rack: &mut Rack) -> Vec<Event> {
    let mut events = Vec::new();
    for shard in &mut rack.shards {
        for journal in [&mut shard.nat.journal, &mut shard.nat_v6.journal] {
            assert_eq!(
                journal.take(|event| events.push(event)),
                0,
                "nothing is lost"
            );
        }
    }
    events.sort_by_key(Event::order);
    events
}

/// How many of each kind: blocks leased and returned, sessions opened and ended.
fn counts(events: &[Event]) -> [usize; 4] {
    [
        EventKind::BlockLeased,
        EventKind::BlockReturned,
        EventKind::SessionOpened,
        EventKind::SessionEnded,
    ]
    .map(|kind| events.iter().filter(|event| event.kind == kind).count())
}

/// Blocks by outside address and first port, with who holds them.
type Table = BTreeMap<(IpAddr, u16), IpAddr>;

/// The blocks that are really leased.
fn leased(rack: &Rack) -> Table {
    let mut table = Table::new();
    for (_, external) in rack.policy.nat.externals.iter() {
        let Some(blocks) = external.blocks() else {
            continue;
        };
        for block in (0..blocks.count()).map(|n| natgate::nat::ports::BlockIndex(n as u16)) {
            let Some(holder) = blocks.subscriber(block) else {
                continue;
            };
            let first = blocks.ports_of(block).unwrap().first;
            let holder = std::net::Ipv4Addr::from(holder as u32);
            table.insert((external.address(), first), holder.into());
        }
    }
    table
}

/// Replays events. A block that is leased is free, and one that is returned belongs to whom it was leased.
fn replay(table: &mut Table, events: &[Event]) {
    for event in events {
        let block = (event.outside, event.ports.first);
        match event.kind {
            EventKind::BlockLeased => {
                assert_eq!(table.insert(block, event.inside), None, "{event:?}")
            }
            EventKind::BlockReturned => {
                assert_eq!(table.remove(&block), Some(event.inside), "{event:?}")
            }
            EventKind::SessionOpened | EventKind::SessionEnded => panic!("{event:?}"),
        }
    }
}

// Proves: B1, D5.
#[test]
fn replaying_the_log_rebuilds_the_block_table() {
    let rules = |keys: &str| {
        format!(
            "[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.20-203.0.113.21\"]\nselect = \"random\"\n\
             block = {{ size = 4, max_per_host = 3, idle = \"20s\" }}\n{keys}\n\
             [[source-nat]]\nout = \"wan0\"\nvia = \"pool:p\"\n{}",
            log("block")
        )
    };
    for workers in [1, 3] {
        let variants = [
            lab_text(workers, &rules(""), ""),
            lab_text(workers, &rules("drain = [\"203.0.113.20\"]"), ""),
            lab_text(workers, &rules("filtering = \"endpoint\""), ""),
            // No pool at all: what is leased runs out.
            lab_text(workers, &format!("{MASQUERADE}{}", log("block")), ""),
        ];
        let mut leases = 0;
        for seed in 0..12 {
            let mut random = Random::from_seed(seed);
            let mut rack = rack(&variants[0]);
            let mut table = Table::new();
            for _ in 0..120 {
                match random.below(10) {
                    0 => reload(&mut rack, &variants[random.below(4) as usize]),
                    1..3 => {
                        rack.advance(u64::from(random.below(90_000)));
                        rack.maintain();
                    }
                    _ => {
                        let host = HOSTS[random.below(HOSTS.len() as u32) as usize];
                        let at = random.below(workers.into()) as u8;
                        let port = 5000 + random.below(16) as u16;
                        send(&mut rack, at, LAN, &call((host, port)));
                    }
                }
                let new = events(&mut rack);
                leases += counts(&new)[0];
                replay(&mut table, &new);
                assert_eq!(table, leased(&rack), "seed {seed}");
            }
            rack.advance(3_600_000);
            rack.maintain();
            rack.advance(3_600_000);
            rack.maintain();
            replay(&mut table, &events(&mut rack));
            assert_eq!(table, Table::new(), "each lease had its return");
        }
        assert!(leases > 100, "{leases} leases were replayed");
    }
}

const HOSTS: [&str; 6] = [
    "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7",
];

#[test]
fn sessions_are_logged_where_the_log_is_to_have_them() {
    let blocks = "block = { size = 64 }";
    // What is logged of one flow of a pool: opened, then ended.
    for (keys, mappings, opened, ended) in [
        ("", "off", [0, 0, 0, 0], [0, 0, 0, 0]),
        ("", "block", [0, 0, 0, 0], [0, 0, 0, 0]),
        ("", "auto", [0, 0, 1, 0], [0, 0, 0, 1]),
        ("", "session", [0, 0, 1, 0], [0, 0, 0, 1]),
        (blocks, "off", [0, 0, 0, 0], [0, 0, 0, 0]),
        (blocks, "block", [1, 0, 0, 0], [0, 1, 0, 0]),
        (blocks, "auto", [1, 0, 0, 0], [0, 1, 0, 0]),
        (blocks, "session", [1, 0, 1, 0], [0, 1, 0, 1]),
    ] {
        everywhere(|workers, at| {
            let text = lab_text(workers, &format!("{}{}", pool(keys), log(mappings)), "");
            let mut rack = rack(&text);
            let public = one(&mut rack, at, LAN, &call(("10.0.0.2", 5000))).source;
            works(&mut rack, at, ("10.0.0.2", 5000), public);
            let told = events(&mut rack);
            assert_eq!(counts(&told), opened, "{keys} {mappings}");
            for event in &told {
                assert_eq!(event.inside, IpAddr::from(ip("10.0.0.2")));
                assert_eq!(event.outside, IpAddr::from(public.0));
                assert!(event.ports.contains(public.1));
                assert_eq!((event.millis, event.remote), (rack.now.millis, None));
            }
            // The session ends, then its block has been idle.
            for _ in 0..2 {
                rack.advance(600_000);
                rack.maintain();
            }
            let told = events(&mut rack);
            assert_eq!(counts(&told), ended, "{keys} {mappings}");
        });
    }
}

// Proves: G12.
#[test]
fn destinations_are_logged_on_request_alone() {
    for (key, remote) in [
        ("", None),
        (
            "destinations = true\n",
            Some((ip(SERVER.0).into(), SERVER.1)),
        ),
    ] {
        let text = lab_text(1, &format!("{}{}{key}", pool(""), log("session")), "");
        let mut rack = rack(&text);
        one(&mut rack, 0, LAN, &call(("10.0.0.2", 5000)));
        assert_eq!(events(&mut rack)[0].remote, remote);
    }
}

#[test]
fn what_the_configuration_says_already_is_logged_on_request_alone() {
    let rules = "[[port-forward]]\nin = \"wan0\"\ndst = \"203.0.113.1\"\nproto = \"udp\"\ndport = \"53\"\nto = \"10.0.0.3\"\n";
    for (mappings, number) in [("auto", 0), ("session", 1)] {
        let text = lab_text(1, &format!("{rules}{}", log(mappings)), "");
        let mut rack = rack(&text);
        let query = udp(WAN, SERVER, ("203.0.113.1", 53), b"query");
        assert_eq!(one(&mut rack, 0, WAN, &query).port, LAN);
        let told = events(&mut rack);
        assert_eq!(counts(&told), [0, 0, number, 0], "{mappings}");
        for event in told {
            assert_eq!(
                (event.inside, event.inside_port),
                (ip("10.0.0.3").into(), 53)
            );
            assert_eq!(
                (event.outside, event.ports.first),
                (ip("203.0.113.1").into(), 53)
            );
        }
    }
}

// Proves: D5, D6.
#[test]
fn of_a_deterministic_pool_only_overflow_is_logged() {
    let pool = "[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.20\"]\nports = \"2000-2019,4000-4019\"\nhold = \"0s\"\n\
                deterministic = { inside = [\"10.0.0.2-10.0.0.3\"], ports_per_host = 10, overflow = { block = 5, max = 2 } }\n\
                [[source-nat]]\nout = \"wan0\"\nvia = \"pool:p\"\n";
    let text = lab_text(1, &format!("{pool}{}", log("auto")), "");
    let mut rack = rack(&text);
    for port in 0..10 {
        one(&mut rack, 0, LAN, &call(("10.0.0.2", 5000 + port)));
    }
    assert_eq!(counts(&events(&mut rack)), [0; 4]);
    for port in 10..16 {
        one(&mut rack, 0, LAN, &call(("10.0.0.2", 5000 + port)));
    }
    let told = events(&mut rack);
    assert_eq!(counts(&told), [2, 0, 0, 0]);
    assert!(told.iter().all(|event| event.ports.size() == 5));
    for _ in 0..2 {
        rack.advance(600_000);
        rack.maintain();
    }
    assert_eq!(counts(&events(&mut rack)), [0, 2, 0, 0]);
}
