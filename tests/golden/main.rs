//! Golden rows: configuration and packets in, packets and counter changes out, compared byte for byte.
//!
//! A row is a directory of `tests/golden`: `natgate.toml`, `in.lan.pcap` and `in.wan.pcap`, `out.lan.pcap` and
//! `out.wan.pcap`, `counters.json` (every counter that moved, none left out). Every row runs against the core in memory,
//! and again through the real binary: on pcap ports, and on tap ports with 1, 2 and 4 workers.
//!
//! `NATGATE_GOLDEN=write cargo test --test golden` writes the rows of `rows.rs` anew; review the difference.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]
#![allow(missing_docs, reason = "a test is no interface")]
#![allow(
    clippy::disallowed_methods,
    reason = "waiting for a process needs the clock"
)]

#[cfg(feature = "dpdk")]
mod binary;

#[path = "../common/mod.rs"]
mod common;
mod rows;
mod rows_helpers;
mod rows_icmp;
mod rows_sctp;
#[cfg(feature = "dpdk")]
mod tap;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::pcap::{self, Record};
use natgate::base::{DropReason, PortId, WorkerId};
use natgate::dataplane::counters::Counters;
use natgate::dataplane::rack::Rack;
use natgate::dataplane::shard::ShardSize;

/// Ports by position, as file names call them.
const PORTS: [&str; 2] = ["lan", "wan"];

/// A row as read from its directory.
pub struct Row {
    pub name: String,
    pub path: PathBuf,
    pub config: String,
    /// Time, port, frame; in order of time.
    pub input: Vec<(u64, PortId, Vec<u8>)>,
    pub output: [Vec<Vec<u8>>; 2],
    pub counters: BTreeMap<String, u64>,
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Every row there is, by name.
pub fn all_rows() -> Vec<Row> {
    let mut names: Vec<PathBuf> = fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("natgate.toml").exists())
        .collect();
    names.sort();
    names.iter().map(|path| read_row(path)).collect()
}

fn read_row(path: &Path) -> Row {
    let mut input = Vec::new();
    for (i, port) in PORTS.iter().enumerate() {
        for (millis, frame) in pcap::read(&path.join(format!("in.{port}.pcap"))).unwrap() {
            input.push((millis, PortId(i as u16), frame));
        }
    }
    input.sort_by_key(|(millis, ..)| *millis);
    let frames = |port: &str| -> Vec<Vec<u8>> {
        let records = pcap::read(&path.join(format!("out.{port}.pcap"))).unwrap();
        records.into_iter().map(|(_, frame)| frame).collect()
    };
    Row {
        name: path.file_name().unwrap().to_string_lossy().into_owned(),
        path: path.to_path_buf(),
        config: fs::read_to_string(path.join("natgate.toml")).unwrap(),
        input,
        output: [frames(PORTS[0]), frames(PORTS[1])],
        counters: serde_json::from_str(&fs::read_to_string(path.join("counters.json")).unwrap())
            .unwrap(),
    }
}

/// Every counter that is not zero, by name: packets received, sent, generated, consumed, and dropped for each reason.
pub fn moved(packets: [u64; 4], drops: impl Fn(DropReason) -> u64) -> BTreeMap<String, u64> {
    let names = ["received", "sent", "generated", "consumed"].map(str::to_owned);
    let mut all: BTreeMap<String, u64> = names.into_iter().zip(packets).collect();
    for reason in DropReason::ALL {
        all.insert(format!("drops.{reason}"), drops(*reason));
    }
    all.retain(|_, n| *n > 0);
    all
}

/// [`moved`], of a core.
pub fn moved_in(counters: &Counters) -> BTreeMap<String, u64> {
    let c = counters;
    moved([c.received, c.sent, c.generated, c.consumed], |reason| {
        c.drops[reason.index()]
    })
}

/// Runs a row's packets through the core.
fn run_core(
    config: &str,
    input: &[(u64, PortId, Vec<u8>)],
    workers: u8,
) -> ([Vec<Vec<u8>>; 2], Counters) {
    let config = format!("{config}\n[system]\nworkers = {workers}\n");
    let policy = natgate::config::compile::compile_text("row", &config)
        .unwrap_or_else(|report| panic!("{report}"));
    let mut rack = Rack::new(Arc::clone(&policy), ShardSize::small(), 1).unwrap();
    let mut output = [Vec::new(), Vec::new()];
    let mut collect = |sent: Vec<(PortId, Vec<u8>)>| {
        for (port, frame) in sent {
            output[port.index()].push(frame);
        }
    };
    collect(rack.announce());
    let mut time = 0;
    for (i, (millis, port, frame)) in input.iter().enumerate() {
        if *millis > time {
            rack.advance(millis - time);
            time = *millis;
            collect(rack.maintain());
        }
        let receiver = WorkerId((i % usize::from(workers)) as u8);
        collect(rack.receive(receiver, *port, &[frame]));
    }
    common::balanced(&rack);
    (output, rack.totals())
}

#[test]
fn rows_hold_in_the_core() {
    if std::env::var("NATGATE_GOLDEN").is_ok_and(|v| v == "write") {
        rows::write_all(&directory());
    }
    let rows = all_rows();
    assert!(
        rows.len() >= rows::all().count(),
        "a row of rows.rs has no directory: write them"
    );
    for row in rows {
        for workers in [1, 2, 4] {
            let (output, counters) = run_core(&row.config, &row.input, workers);
            for (i, port) in PORTS.iter().enumerate() {
                compare(&row, port, &row.output[i], &output[i]);
            }
            assert_eq!(
                moved_in(&counters),
                row.counters,
                "row {}, {workers} workers: counters",
                row.name
            );
        }
    }
}

/// Frames that leave outside, with the numbers of fragmented datagrams by order of appearance: natgate draws those itself,
/// and nobody can foresee them. What keeps its number, and what has a sum that is wrong, stays as it is.
fn numbered(port: &str, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    const MORE_OR_OFFSET: u8 = 0x3f;
    let mut known: Vec<[u8; 2]> = Vec::new();
    let mut frames = frames.to_vec();
    for frame in &mut frames {
        let is_piece = frame.len() >= 34
            && frame[12..15] == [8, 0, 0x45]
            && (frame[20] & MORE_OR_OFFSET, frame[21]) != (0, 0)
            && natgate::wire::checksum::verify(&frame[14..34]);
        if port != "wan" || !is_piece {
            continue;
        }
        let number = [frame[18], frame[19]];
        let place = known.iter().position(|other| *other == number);
        let place = place.unwrap_or_else(|| {
            known.push(number);
            known.len() - 1
        });
        frame[18..20].copy_from_slice(&(place as u16).to_be_bytes());
        frame[24..26].fill(0);
    }
    frames
}

/// Compares frames; a difference is left as a pcap file beside the expectation.
pub fn compare(row: &Row, port: &str, expected: &[Vec<u8>], actual: &[Vec<u8>]) {
    let (expected, actual) = (&numbered(port, expected), &numbered(port, actual));
    if expected == actual {
        return;
    }
    let path = row.path.join(format!("out.{port}.pcap.actual"));
    let records: Vec<Record> = actual.iter().map(|frame| (0, frame.clone())).collect();
    pcap::write(&path, &records).unwrap();
    let at = expected
        .iter()
        .zip(actual)
        .position(|(e, a)| e != a)
        .unwrap_or(expected.len().min(actual.len()));
    panic!(
        "row {}, port {port}: {} frames expected, {} came; first difference at {at}:\n  {:02x?}\n  {:02x?}\n(all in {})",
        row.name,
        expected.len(),
        actual.len(),
        expected.get(at),
        actual.get(at),
        path.display()
    );
}
