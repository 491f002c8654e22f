//! Packets from outside that no session claims are judged by the batch; what becomes of them is what becomes of each alone
//! on the slow path.

use std::collections::BTreeMap;
use std::sync::Arc;

use natgate::base::{PortId, Random, WorkerId};
use natgate::config::compile::compile_text;
use natgate::dataplane::buffer::BURST;
use natgate::dataplane::rack::Rack;
use natgate::dataplane::shard::ShardSize;
use natgate::nat::knock::Bare;

use crate::common::*;
use crate::*;

const CLIENTS: [End; 3] = [("10.0.0.2", 40000), ("10.0.0.3", 40000), ("10.0.0.4", 999)];

const FORWARD: &str = "[[port-forward]]\nin = \"wan0\"\ndst = \"203.0.113.21\"\nproto = \"udp\"\ndport = \"53\"\n\
                       to = \"10.0.0.5:53\"\n";

const REJECT: &str =
    "[filter]\ndefault = \"reject\"\n[[filter.rule]]\nin = \"lan0\"\naction = \"accept\"\n";
const DROP: &str = "[[filter.rule]]\nin = \"wan0\"\naction = \"drop\"\n";

/// A rack that runs `text`, with knocks refused by the batch or all on the slow path.
fn gateway(text: &str, slow: bool) -> Rack {
    let policy = compile_text("test", text).unwrap_or_else(|report| panic!("{report}\n{text}"));
    let mut policy = Arc::into_inner(policy).unwrap();
    if slow {
        policy.nat.bare = Bare::default();
    }
    Rack::new(Arc::new(policy), ShardSize::small(), 1).unwrap()
}

/// Everything that comes out, and why the rest does not, after the same knocks at the same mappings.
fn told(text: &str, slow: bool) -> (Vec<(PortId, Vec<u8>)>, String, usize) {
    let mut rack = gateway(text, slow);
    let mut out = Vec::new();
    let mut mapped = Vec::new();
    for client in CLIENTS {
        mapped.push(one(&mut rack, 0, LAN, &call(client)).source.1);
    }
    let strangers = [
        "198.51.100.7",
        SERVER.0,
        "127.0.0.1",
        "203.0.113.1",
        "10.0.0.2",
        "224.0.0.9",
    ];
    for _ in 0..2 {
        let mut knocks = Vec::new();
        for stranger in strangers {
            for to in [
                "203.0.113.20",
                "203.0.113.21",
                "203.0.113.1",
                "203.0.113.255",
            ] {
                for port in mapped.iter().copied().chain([53, 80, 40000, 65535]) {
                    for from in [SERVER.1, 4444] {
                        knocks.push(udp(WAN, (stranger, from), (to, port), b"anybody?"));
                        knocks.push(tcp(WAN, (stranger, from), (to, port), "S"));
                    }
                }
            }
        }
        let frames: Vec<&[u8]> = knocks.iter().map(Vec::as_slice).collect();
        for worker in 0..rack.shards.len() as u8 {
            for burst in frames.chunks(64) {
                out.extend(rack.receive(WorkerId(worker), WAN, burst));
                balanced(&rack);
            }
        }
        // The mappings have expired by now, and nobody has swept them.
        rack.advance(130_000);
    }
    (out, drops(&rack), rack.sessions())
}

#[test]
fn a_batch_of_knocks_ends_as_the_slow_path_has_it() {
    for workers in [1, 2] {
        for filtering in ["endpoint", "address", "address-port"] {
            for more in ["", FORWARD, REJECT, DROP] {
                let keys = format!("filtering = \"{filtering}\"\nhold = \"10s\"");
                let pool = pool(&keys).replace("\"203.0.113.20\"", "\"203.0.113.20-203.0.113.21\"");
                let text = lab_text(workers, &format!("{pool}{more}"), "");
                let [quick, slow] = [false, true].map(|slow| told(&text, slow));
                assert_eq!(quick.1, slow.1, "{text}");
                assert_eq!(quick.0, slow.0, "{text}");
                assert_eq!(quick.2, slow.2, "{text}");
                assert!(quick.1.contains("no_mapping"), "{}", quick.1);
            }
        }
    }
}

/// More than a pool on the outside: static NAT, a port forward, a service, a tagged interface that verifies sources and one
/// that forwards nothing.
fn many_rules(workers: u8, filtering: &str) -> String {
    let rules = format!(
        "[[interface]]\nname = \"wan7\"\nport = \"p-wan\"\nvlan = 7\naddress = [\"198.18.7.1/24\"]\n\
         [[interface]]\nname = \"wan8\"\nport = \"p-wan\"\nvlan = 8\naddress = [\"198.18.8.1/24\"]\n\
         urpf = \"strict\"\n\
         [[interface]]\nname = \"wan9\"\nport = \"p-wan\"\nvlan = 9\naddress = [\"198.18.9.1/24\"]\n\
         forward = false\n\
         [[pool]]\nname = \"p\"\naddresses = [\"203.0.113.20-203.0.113.21\"]\nhelpers = [\"tftp\"]\n\
         filtering = \"{filtering}\"\n\
         [[source-nat]]\nin = \"lan0\"\nvia = \"pool:p\"\n\
         [[static-nat]]\nexternal = \"203.0.113.24\"\ninternal = \"10.0.0.6\"\n\
         [[service]]\nname = \"s\"\naddress = \"203.0.113.25\"\nproto = \"udp\"\nport = 80\n\
         backends = [{{ to = \"10.0.0.7:80\" }}]\n"
    );
    lab_text(workers, &format!("{rules}{FORWARD}"), "")
}

/// Some packet from outside, to one of the `mapped` endpoints or to none.
fn stray(random: &mut Random, mapped: &[u16], number: u32) -> Vec<u8> {
    let mut any = |from: &[&'static str]| from[random.below(from.len() as u32) as usize];
    let source = any(&[
        SERVER.0,
        "198.51.100.7",
        "198.18.8.9",
        "10.0.0.2",
        "127.0.0.1",
    ]);
    let to = any(&[
        "203.0.113.20",
        "203.0.113.20",
        "203.0.113.21",
        "203.0.113.24",
        "203.0.113.25",
        "203.0.113.1",
        "203.0.113.255",
    ]);
    let ports = [mapped, &[53, 80, 40000, 65535]].concat();
    let port = ports[random.below(ports.len() as u32) as usize];
    let from = (source, [SERVER.1, 69, 4444][random.below(3) as usize]);
    let mut frame = match random.below(10) {
        0..=4 => udp(WAN, from, (to, port), &number.to_be_bytes()),
        5 => tcp(WAN, from, (to, port), "S"),
        6 => tcp(WAN, from, (to, port), "SA"),
        7 => udp_ttl(WAN, from, (to, port), 1),
        8 => ping(WAN, source, to, port),
        _ => pong(WAN, source, to, port),
    };
    if let tag @ 7..=10 = random.below(20) as u8 {
        frame.splice(12..12, [0x81, 0, 0, tag]);
    }
    if random.below(30) == 0 {
        frame[24] ^= 1;
    }
    frame
}

type Flows = BTreeMap<(u16, Vec<u8>), Vec<Vec<u8>>>;

/// What comes out, by flow and in its order, why the rest does not, and the sessions, after the same strays in bursts of
/// `burst`.
fn strayed(text: &str, seed: u64, burst: usize, slow: bool) -> (Flows, String, usize) {
    let mut rack = gateway(text, slow);
    let mut random = Random::from_seed(seed);
    let mut out = Flows::new();
    let mut mapped = Vec::new();
    for client in CLIENTS {
        mapped.push(one(&mut rack, 0, LAN, &call(client)).source.1);
    }
    for round in 0..4 {
        if round == 1 {
            let file = b"\0\x01file\0octet\0";
            let request = udp(LAN, CLIENTS[0], (SERVER.0, 69), file);
            mapped.push(one(&mut rack, 0, LAN, &request).source.1);
        }
        let strays: Vec<_> = (0..200)
            .map(|number| stray(&mut random, &mapped, 1000 * round + number))
            .collect();
        let frames: Vec<&[u8]> = strays.iter().map(Vec::as_slice).collect();
        for (at, frames) in frames.chunks(100).enumerate() {
            let worker = WorkerId((at % rack.shards.len()) as u8);
            for burst in frames.chunks(burst) {
                for (port, frame) in rack.receive(worker, WAN, burst) {
                    let flow = (port.0, [&frame[23..24], &frame[26..38]].concat());
                    out.entry(flow).or_default().push(frame);
                }
                balanced(&rack);
            }
        }
        // Unanswered mappings expire after the third round, and nobody sweeps them.
        rack.advance(50_000);
    }
    (out, drops(&rack), rack.sessions())
}

#[test]
fn strays_in_bursts_end_as_each_alone_on_the_slow_path() {
    for workers in [1, 2] {
        for filtering in ["endpoint", "address", "address-port"] {
            let text = many_rules(workers, filtering);
            assert_ne!(rack(&text).policy.nat.bare, Bare::default());
            for seed in 0..8 {
                let quick = strayed(&text, seed, BURST, false);
                let slow = strayed(&text, seed, 1, true);
                assert_eq!(quick.1, slow.1, "{filtering}, seed {seed}");
                for flow in quick.0.keys().chain(slow.0.keys()) {
                    let told = [&quick.0, &slow.0].map(|flows| flows.get(flow));
                    assert_eq!(told[0], told[1], "{filtering}, seed {seed}, flow {flow:?}");
                }
                assert_eq!(quick.2, slow.2, "{filtering}, seed {seed}");
                assert!(quick.1.contains("no_mapping"), "{}", quick.1);
            }
        }
    }
}
