//! A million clients of one service over 64 backends, and one backend goes: nobody else's session moves.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]
#![allow(missing_docs, reason = "a test is no interface")]

mod common;

use common::*;
use natgate::base::WorkerId;
use natgate::config::compile::{compile_text, recompile_text};
use natgate::dataplane::rack::Rack;
use natgate::dataplane::shard::ShardSize;
use natgate::nat::state::Capacity;
use natgate::wire::checksum;

const CLIENTS: u32 = 1_000_000;
const BACKENDS: u8 = 64;
/// The backend that goes.
const GONE: u8 = 31;
const WORKERS: u8 = 2;

/// The lab with the service and all backends but `without`.
fn text(without: Option<u8>, drain: &str) -> String {
    let mut rules = format!(
        "[[service]]\nname = \"dns\"\naddress = \"198.18.0.2\"\nproto = \"udp\"\nport = 53\nlb = \"maglev\"\ndrain = \"{drain}\"\n"
    );
    let mut neighbours = String::new();
    for backend in 0..BACKENDS {
        let address = format!("10.0.0.{}", 100 + backend);
        if Some(backend) != without {
            rules += &format!("[[service.backends]]\nto = \"{address}\"\n");
        }
        neighbours += &format!(
            "[[neighbour]]\ninterface = \"lan0\"\naddress = \"{address}\"\nmac = \"02:00:00:00:00:09\"\n"
        );
    }
    lab_text(WORKERS, &format!("{rules}{neighbours}"), "")
}

fn rack_for(text: &str) -> Rack {
    let size = ShardSize {
        nat: Capacity {
            sessions: CLIENTS,
            ..ShardSize::small().nat
        },
        ..ShardSize::small()
    };
    let policy = compile_text("test", text).unwrap_or_else(|report| panic!("{report}"));
    Rack::new(policy, size, 1).unwrap()
}

/// A datagram of every client; the backend each of them meets.
fn met(rack: &mut Rack) -> Vec<u8> {
    let mut template = udp(WAN, ("172.16.0.0", 5555), ("198.18.0.2", 53), b"q");
    template[40..42].copy_from_slice(&[0, 0]);
    let mut backends = vec![u8::MAX; CLIENTS as usize];
    for first in (0..CLIENTS).step_by(64) {
        let frames: Vec<Vec<u8>> = (first..(first + 64).min(CLIENTS))
            .map(|client| {
                let mut frame = template.clone();
                frame[26..30].copy_from_slice(&(0xac10_0000 + client).to_be_bytes());
                frame[24..26].copy_from_slice(&[0, 0]);
                let sum = checksum::ipv4_header(&frame[14..34]);
                frame[24..26].copy_from_slice(&sum.to_be_bytes());
                frame
            })
            .collect();
        let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        for (port, frame) in rack.receive(WorkerId(0), WAN, &frames) {
            assert_eq!(port, LAN);
            let client = u32::from_be_bytes(frame[26..30].try_into().unwrap()) - 0xac10_0000;
            assert_eq!(frame[30..33], [10, 0, 0]);
            backends[client as usize] = frame[33] - 100;
        }
    }
    balanced(rack);
    assert!(
        backends.iter().all(|b| *b < BACKENDS),
        "every datagram arrives; drops: {}",
        drops(rack)
    );
    backends
}

#[test]
fn a_million_clients_keep_their_backends_when_one_goes() {
    for drain in ["keep", "end"] {
        let mut rack = rack_for(&text(None, drain));
        let before = met(&mut rack);
        let mut shares = vec![0u32; usize::from(BACKENDS)];
        for backend in &before {
            shares[usize::from(*backend)] += 1;
        }
        let fair = CLIENTS / u32::from(BACKENDS);
        assert!(
            shares.iter().all(|n| n.abs_diff(fair) < fair / 20),
            "{shares:?}"
        );
        let policy = recompile_text("test", &text(Some(GONE), drain), &rack.policy);
        rack.reload(policy.unwrap());
        let after = met(&mut rack);
        let moved = before.iter().zip(&after).filter(|(b, a)| b != a).count();
        let of_gone = shares[usize::from(GONE)] as usize;
        let lost = if drain == "end" { of_gone } else { 0 };
        assert_eq!(
            moved, lost,
            "drain = {drain}: only sessions of the backend that went"
        );
        if drain == "end" {
            assert!(after.iter().all(|backend| *backend != GONE));
            let mut anew = rack_for(&text(Some(GONE), drain));
            let others = before.iter().zip(met(&mut anew));
            let moved = others.filter(|(b, a)| **b != GONE && **b != *a).count();
            // New flows, as after a restart: the bound that the documentation gives.
            assert!(
                moved * 50 < CLIENTS as usize,
                "{moved} of the others' moved"
            );
        }
    }
}
