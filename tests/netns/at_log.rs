//! The NAT log: who had which outside ports, and when.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use serde_json::Value;

use crate::accounting;
use crate::lab::{Lab, Setup, on_workers};
use crate::probe::{Answer, Held};

/// How long records may take.
const PATIENCE: Duration = Duration::from_secs(12);

/// The records in a file, in order.
pub fn records(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line =
        |line: &str| serde_json::from_str(line).unwrap_or_else(|why| panic!("{line}: {why}"));
    text.lines().map(line).collect()
}

/// Those about one kind of event.
pub fn of(records: &[Value], event: &str) -> Vec<Value> {
    let about = records.iter().filter(|record| record["event"] == event);
    about.cloned().collect()
}

/// Waits until `count` records of a kind are in the file, and returns all that are there then.
pub fn wait_for(path: &Path, event: &str, count: usize) -> Vec<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = records(path);
        if of(&found, event).len() >= count {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "no {count} × {event} in {found:#?}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The sinks of `show log`.
fn sinks(lab: &Lab) -> Vec<Value> {
    lab.natgate().show("log")["log"]
        .as_array()
        .expect("a list")
        .clone()
}

/// One address, blocks of four ports, two for each host.
const BLOCKS: Setup = Setup {
    kernel: None,
    natgate: r#"
        [timeouts]
        udp = "2s"
        udp_unreplied = "2s"
        [[pool]]
        name = "cgn"
        addresses = ["203.0.113.20"]
        ports = "1024-65535"
        low_ports = false
        select = "random"
        filtering = "endpoint"
        exhaustion = "icmp"
        hold = "0s"
        block = { size = 4, max_per_host = 2, idle = "1s" }
        [[source-nat]]
        name = "subscribers"
        in = "lan0"
        out = "wan0"
        via = "pool:cgn"
        [log]
        mappings = "block"
        to = "file:DIR/nat/nat.json"
    "#,
    ..Setup::PLAIN
};

// Proves: B1, G16.
#[test]
fn blocks_are_logged_once_when_leased_and_once_when_given_back() {
    on_workers(2, &BLOCKS, |lab| {
        let file = lab.dir.path().join("nat/nat.json");
        let ask = |host: &str, port: u16| {
            let socket = lab.hold("in", &format!("{host}:{port}"));
            lab.ask(&socket, "203.0.113.9:5000")
        };
        let block = |port: u16| (port - 1024) / 4;
        let first: Vec<u16> = (0..8).map(|n| ask("10.0.0.2", 40000 + n).port()).collect();
        let blocks: Vec<BTreeSet<u16>> = first
            .chunks(4)
            .map(|ports| ports.iter().map(|&port| block(port)).collect())
            .collect();
        assert!(blocks.iter().all(|four| four.len() == 1), "{first:?}");
        assert_ne!(blocks[0], blocks[1], "{first:?}");
        let ninth = ask("10.0.0.2", 40008);
        assert!(
            matches!(
                ninth.answer,
                Answer::Error(Errno::ECONNREFUSED | Errno::EHOSTUNREACH)
            ),
            "{ninth:?}"
        );
        assert_eq!(accounting::dropped(lab.natgate(), "quota_blocks"), 1);
        let other = ask("10.0.0.3", 40000).answered();
        assert_eq!(other.ip().to_string(), "203.0.113.20");
        // A remote never contacted.
        let call = lab.hold("in", "10.0.0.3:40000");
        let public = lab.ask(&call, "203.0.113.9:5000").answered();
        let stranger = lab.hold("out", "203.0.113.10:7777");
        stranger.send(b"from a stranger", public);
        let heard = call.receive(b"from a stranger", "203.0.113.10:7777".parse().unwrap());
        assert_eq!(heard, Answer::Reply);

        let all = wait_for(&file, "block_released", 3);
        let key = |record: &Value| {
            let (inside, first) = (&record["inside"], &record["first_port"]);
            (
                inside.as_str().unwrap().to_owned(),
                first.as_u64().unwrap() as u16,
            )
        };
        let held: BTreeSet<(String, u16)> = [
            ("10.0.0.2", first[0]),
            ("10.0.0.2", first[4]),
            ("10.0.0.3", other.port()),
        ]
        .map(|(host, port)| (host.to_owned(), 1024 + 4 * block(port)))
        .into();
        for event in ["block_allocated", "block_released"] {
            let about = of(&all, event);
            assert_eq!(about.len(), 3, "{about:#?}");
            assert_eq!(about.iter().map(key).collect::<BTreeSet<_>>(), held);
            for record in &about {
                assert_eq!(record["outside"], "203.0.113.20");
                assert_eq!(record["protocol"], "all");
                assert_eq!(
                    (&record["pool"], &record["realm"]),
                    (&"cgn".into(), &"main".into())
                );
                let last = record["last_port"].as_u64().unwrap();
                assert_eq!(last, record["first_port"].as_u64().unwrap() + 3);
                let time = record["time"].as_str().unwrap();
                assert!(time.starts_with("20") && time.ends_with('Z'), "{time}");
            }
        }
        assert_eq!(of(&all, "session_created"), Vec::<Value>::new());
        let limits = of(&all, "quota_exceeded");
        assert_eq!(limits.len(), 1, "{all:#?}");
        assert_eq!(
            (&limits[0]["inside"], &limits[0]["reason"]),
            (&"10.0.0.2".into(), &"quota_blocks".into())
        );
        assert_eq!(all[0]["event"], "gateway_started");
        let numbers: Vec<u64> = all
            .iter()
            .map(|record| record["seq"].as_u64().unwrap())
            .collect();
        assert_eq!(numbers, (1..=all.len() as u64).collect::<Vec<_>>());
    });
}

// Proves: G12, G16.
#[test]
fn a_session_has_a_record_at_either_end_and_the_file_may_move() {
    let natgate = BLOCKS
        .natgate
        .replace("block = { size = 4, max_per_host = 2, idle = \"1s\" }", "")
        .replace("\"block\"", "\"session\"");
    let setup = Setup {
        natgate: Box::leak(natgate.into_boxed_str()),
        ..BLOCKS
    };
    on_workers(2, &setup, |lab| {
        let file = lab.dir.path().join("nat/nat.json");
        let rotated = lab.dir.path().join("nat/nat.json.1");
        let seen = lab
            .probe("UDP in 10.0.0.2:40000 > 203.0.113.9:5000")
            .answered();
        let before = wait_for(&file, "session_created", 1);
        std::fs::rename(&file, &rotated).unwrap();
        let call = lab.hold("in", "10.0.0.3:40000");
        lab.ask(&call, "203.0.113.9:5000").answered();
        lab.ask(&call, "203.0.113.10:5000").answered();
        wait_for(&file, "session_deleted", 3);
        let all: Vec<Value> = records(&rotated)
            .into_iter()
            .chain(records(&file))
            .collect();
        assert!(before.len() <= records(&rotated).len());
        let ends = |event: &str, host: &str| {
            let about = of(&all, event).into_iter();
            about
                .filter(|record| record["inside"] == host)
                .collect::<Vec<_>>()
        };
        for event in ["session_created", "session_deleted"] {
            let one = ends(event, "10.0.0.2");
            assert_eq!(
                (one.len(), ends(event, "10.0.0.3").len()),
                (1, 2),
                "{all:#?}"
            );
            let record = &one[0];
            assert_eq!(record["outside"], "203.0.113.20");
            assert_eq!(record["outside_port"], seen.port());
            assert_eq!(
                (&record["inside_port"], &record["protocol"]),
                (&40000.into(), &"udp".into())
            );
            assert_eq!(
                record.get("destination"),
                None,
                "nobody asked for destinations"
            );
        }
        let numbers: Vec<u64> = all
            .iter()
            .map(|record| record["seq"].as_u64().unwrap())
            .collect();
        assert_eq!(
            numbers,
            (1..=all.len() as u64).collect::<Vec<_>>(),
            "no record is lost"
        );
        let sinks = sinks(lab);
        assert_eq!(sinks.len(), 1, "{sinks:#?}");
        assert_eq!(sinks[0]["emitted"], sinks[0]["delivered"]);
        assert_eq!(
            (&sinks[0]["dropped"], &sinks[0]["state"]),
            (&0.into(), &"up".into())
        );
    });
}

/// The messages that a collector gets from natgate until one has what is wanted.
pub fn until(collector: &Held, from: &str, wanted: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
    let deadline = Instant::now() + PATIENCE;
    let mut messages = Vec::new();
    while Instant::now() < deadline {
        let Some(message) = collector.next(from.parse().unwrap()) else {
            continue;
        };
        messages.push(message);
        if messages.last().is_some_and(|message| wanted(message)) {
            return messages;
        }
    }
    panic!("none of {} messages: {messages:02x?}", messages.len());
}

/// Data sets of IPFIX messages with this template number.
pub fn data_sets(messages: &[Vec<u8>], template: u16) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for message in messages {
        let word = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
        assert_eq!((word(0), usize::from(word(2))), (10, message.len()));
        let mut at = 16;
        while at < message.len() {
            let length = usize::from(word(at + 2));
            if word(at) == template {
                found.push(message[at + 4..at + length].to_vec());
            }
            at += length;
        }
    }
    found
}

/// The template of blocks of IPv4: time, event, inside, outside, first and last port.
pub const BLOCK_TEMPLATE: u16 = 264;

// Proves: B1, G16.
#[test]
fn collectors_on_the_gateways_own_networks_get_syslog_and_ipfix() {
    let (plain, _) = BLOCKS.natgate.split_once("[log]").unwrap();
    let logged = format!(
        "{plain}[log]\nmappings = \"block\"\n\
         to = [\"syslog:203.0.113.9:514\", \"ipfix:203.0.113.9:4739\"]\n"
    );
    let setup = |natgate: String| Setup {
        natgate: Box::leak(natgate.into_boxed_str()),
        ..BLOCKS
    };
    on_workers(2, &setup(plain.to_owned()), |lab| {
        let syslog = lab.hold("out", "203.0.113.9:514");
        let ipfix = lab.hold("out", "203.0.113.9:4739");
        lab.reload(&setup(logged.clone()));
        let port = lab
            .probe("UDP in 10.0.0.2:40000 > 203.0.113.9:5000")
            .answered()
            .port();
        let first = port - (port - 1024) % 4;
        let text = |message: &[u8]| String::from_utf8(message.to_vec()).unwrap();
        let messages = until(&syslog, "203.0.113.1:514", |message| {
            text(message).contains(" block_released ")
        });
        let texts: Vec<String> = messages.iter().map(|message| text(message)).collect();
        for event in ["block_allocated", "block_released"] {
            let about: Vec<_> = texts.iter().filter(|text| text.contains(event)).collect();
            assert_eq!(about.len(), 1, "{texts:#?}");
            assert!(about[0].starts_with("<134>1 20"), "{texts:#?}");
            let ports = format!("firstPort=\"{first}\" lastPort=\"{}\"", first + 3);
            assert!(about[0].contains(&ports), "{texts:#?}");
        }
        let released = |message: &[u8]| {
            let sets = data_sets(&[message.to_vec()], BLOCK_TEMPLATE);
            sets.iter().any(|set| set[8] == 17)
        };
        let messages = until(&ipfix, "203.0.113.1:4739", released);
        let all = data_sets(&messages, BLOCK_TEMPLATE).concat();
        let blocks: Vec<&[u8]> = all.chunks(21).collect();
        let events: Vec<u8> = blocks.iter().map(|block| block[8]).collect();
        assert_eq!(events, [16, 17], "allocated, released");
        for block in blocks {
            assert_eq!(block[9..17], [10, 0, 0, 2, 203, 0, 113, 20]);
            let ports = [first.to_be_bytes(), (first + 3).to_be_bytes()].concat();
            assert_eq!(block[17..], ports);
        }
        let sinks = sinks(lab);
        assert_eq!(sinks.len(), 2, "{sinks:#?}");
        assert!(
            sinks
                .iter()
                .all(|sink| sink["state"] == "up" && sink["dropped"] == 0),
            "{sinks:#?}"
        );
    });
}
