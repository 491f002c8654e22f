//! A golden row: what it is, how its directory is read and written, how it runs through the core in memory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]
#![allow(dead_code, reason = "every test binary uses another part of it")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use natgate::base::{DropReason, PortId, WorkerId};
use natgate::dataplane::counters::Counters;
use natgate::dataplane::rack::Rack;
use natgate::dataplane::shard::ShardSize;

use super::pcap::{self, Record};
use super::{LAB, balanced, neighbours};

/// Ports by position, as file names call them.
pub const PORTS: [&str; 2] = ["lan", "wan"];

/// Time in milliseconds, port, frame; in order of time.
pub type Input = Vec<(u64, PortId, Vec<u8>)>;

/// Frames sent, by port.
pub type Output = [Vec<Vec<u8>>; 2];

/// A row as it lies in its directory.
pub struct Row {
    pub name: String,
    pub path: PathBuf,
    pub config: String,
    pub input: Input,
    pub output: Output,
    pub counters: BTreeMap<String, u64>,
}

impl Row {
    /// Reads the row of a directory.
    pub fn read(path: &Path) -> Row {
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
        let counters = fs::read_to_string(path.join("counters.json")).unwrap();
        Row {
            name: path.file_name().unwrap().to_string_lossy().into_owned(),
            path: path.to_path_buf(),
            config: fs::read_to_string(path.join("natgate.toml")).unwrap(),
            input,
            output: [frames(PORTS[0]), frames(PORTS[1])],
            counters: serde_json::from_str(&counters).unwrap(),
        }
    }

    /// Writes the row's directory.
    pub fn write(&self) {
        fs::create_dir_all(&self.path).unwrap();
        fs::write(self.path.join("natgate.toml"), &self.config).unwrap();
        for (i, port) in PORTS.iter().enumerate() {
            let on_port = |(_, p, _): &&(u64, PortId, Vec<u8>)| p.index() == i;
            let given: Vec<Record> = self
                .input
                .iter()
                .filter(on_port)
                .map(|(t, _, f)| (*t, f.clone()))
                .collect();
            pcap::write(&self.path.join(format!("in.{port}.pcap")), &given).unwrap();
            let came: Vec<Record> = self.output[i].iter().map(|f| (0, f.clone())).collect();
            pcap::write(&self.path.join(format!("out.{port}.pcap")), &came).unwrap();
        }
        let counters = serde_json::to_string_pretty(&self.counters).unwrap();
        fs::write(self.path.join("counters.json"), counters + "\n").unwrap();
    }

    /// Compares what was sent with what is expected: the first difference, in words.
    pub fn difference(&self, output: &Output) -> Option<String> {
        let ports = PORTS.iter().zip(&self.output).zip(output);
        ports
            .into_iter()
            .find_map(|((port, expected), actual)| differs(self, port, expected, actual))
    }
}

/// The lab with pcap devices, as the binary runs it in the row's directory.
pub fn config(rules: &str) -> String {
    let mut devices = PORTS.iter();
    let mut text = String::new();
    for line in LAB.lines().filter(|l| !l.is_empty()) {
        match (
            line,
            line.starts_with("device").then(|| devices.next()).flatten(),
        ) {
            (_, Some(port)) => {
                text += &format!("device = \"pcap:in.{port}.pcap,out.{port}.pcap\"\n")
            }
            (line, None) => text += &format!("{line}\n"),
        }
    }
    text + &neighbours() + rules
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

/// Runs packets through the core.
pub fn run_core(config: &str, input: &Input, workers: u8) -> (Output, Counters) {
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
    balanced(&rack);
    (output, rack.totals())
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

/// What differs on one port, in words; what came is left as a pcap file beside the expectation.
fn differs(row: &Row, port: &str, expected: &[Vec<u8>], actual: &[Vec<u8>]) -> Option<String> {
    let (expected, actual) = (&numbered(port, expected), &numbered(port, actual));
    if expected == actual {
        return None;
    }
    let path = row.path.join(format!("out.{port}.pcap.actual"));
    let records: Vec<Record> = actual.iter().map(|frame| (0, frame.clone())).collect();
    pcap::write(&path, &records).unwrap();
    let at = expected
        .iter()
        .zip(actual)
        .position(|(e, a)| e != a)
        .unwrap_or(expected.len().min(actual.len()));
    Some(format!(
        "row {}, port {port}: {} frames expected, {} came; first difference at {at}:\n  {:02x?}\n  {:02x?}\n(all in {})",
        row.name,
        expected.len(),
        actual.len(),
        expected.get(at),
        actual.get(at),
        path.display()
    ))
}

/// Fails when what came on a port is not what is expected.
pub fn compare(row: &Row, port: &str, expected: &[Vec<u8>], actual: &[Vec<u8>]) {
    if let Some(difference) = differs(row, port, expected, actual) {
        panic!("{difference}");
    }
}
