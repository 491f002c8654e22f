//! The rows once more, through `natgate run` on DPDK's software ports.
//!
//! On pcap ports a worker finds everything at once: one burst from the first port, then one from the second. With one
//! worker that determines the outcome of all rows without pauses, which are written in that order. On tap ports, in a
//! namespace of their own, frames go in one by one and pauses are real, which determines the outcome of every row with any
//! number of workers.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use natgate::base::PortId;
use natgate::control::api::{PacketCounts, Status};
use natgate::dataplane::buffer::BURST;

use crate::all_rows;
use crate::common::ns::{self, Ns};
use crate::common::pcap;
use crate::common::process::{BINARY, Process};
use crate::common::row::{Input, PORTS, Row, compare, moved};
use crate::tap::{NAMES, Taps};

/// How long a packet may take to come out.
const PATIENCE: Duration = Duration::from_secs(20);

/// `natgate run` in `dir`, with the configuration there; `command` is the binary, in the namespace where it is to run.
fn start(mut command: Command, dir: &Path, devices: &str, workers: u8) -> Process {
    let instance = format!("golden-{devices}-{}", std::process::id());
    let socket = dir.join("natgate.sock");
    command
        .args(["run", "-c", "natgate.toml"])
        .current_dir(dir)
        .env("NATGATE__SYSTEM__INSTANCE", instance)
        .env("NATGATE__SYSTEM__WORKERS", workers.to_string())
        .env("NATGATE__SYSTEM__HUGEPAGES", "false")
        .env("NATGATE__SYSTEM__SESSIONS", "4096")
        .env("NATGATE__API__SOCKET", &socket)
        .env("NATGATE__METRICS__LISTEN", "");
    let mut process = Process::start(command, &socket, &dir.join("natgate.log"));
    process.wait_until_ready();
    process
}

/// Waits until `received` packets have come in and each has found its place; returns the books.
fn settled(process: &Process, row: &str, received: u64) -> PacketCounts {
    let deadline = Instant::now() + PATIENCE;
    let mut before = PacketCounts::default();
    loop {
        let text = process.ask(&["show", "status", "--json"]);
        let packets = serde_json::from_str::<Status>(&text).unwrap().packets;
        // On its way from one worker to another, or into a transmit queue: then the next reading differs.
        let at_rest = packets.handoff_in == packets.handoff_out && packets == before;
        if packets.received == received && at_rest {
            assert_eq!(packets.imbalance, 0, "row {row}: {packets:?}");
            return packets;
        }
        assert!(
            Instant::now() < deadline,
            "row {row}: {received} packets went in, and this became of them: {packets:?}\n{}",
            process.log()
        );
        before = packets;
    }
}

/// Compares the counters with the row's, and with what the process reports when it ends.
fn finish(mut process: Process, row: &Row, packets: &PacketCounts) {
    let drops = &packets.drops;
    let counted = moved(
        [
            packets.received,
            packets.sent,
            packets.generated,
            packets.consumed,
        ],
        |reason| drops.get(reason.name()).copied().unwrap_or(0),
    );
    assert_eq!(counted, row.counters, "row {}: counters", row.name);
    assert_eq!(packets.held, 0, "row {}: packets held", row.name);
    let report = process.stop();
    for (name, expected) in [
        ("received", packets.received),
        ("sent", packets.sent),
        ("generated", packets.generated),
        ("consumed", packets.consumed),
        ("dropped", packets.dropped),
        ("imbalance", 0),
    ] {
        assert_eq!(
            report[name], expected as i64,
            "row {}: {name} in the last report",
            row.name
        );
    }
}

#[test]
fn rows_hold_on_pcap_ports() {
    let rows = all_rows();
    let without_pauses = rows
        .iter()
        .filter(|row| row.input.iter().all(|(t, ..)| *t == 0));
    let mut ran = 0;
    for row in without_pauses {
        for (i, port) in PORTS.iter().enumerate() {
            let frames = row.input.iter().filter(|(_, p, _)| p.index() == i).count();
            assert!(
                frames <= BURST,
                "row {}: {port} does not fit a burst, so the order is undetermined",
                row.name
            );
        }
        let dir = tempfile::tempdir().unwrap();
        for file in ["natgate.toml", "in.lan.pcap", "in.wan.pcap"] {
            fs::copy(row.path.join(file), dir.path().join(file)).unwrap();
        }
        let process = start(Command::new(BINARY), dir.path(), "pcap", 1);
        let packets = settled(&process, &row.name, row.input.len() as u64);
        finish(process, row, &packets);
        for (i, port) in PORTS.iter().enumerate() {
            let records = pcap::read(&dir.path().join(format!("out.{port}.pcap"))).unwrap();
            let frames: Vec<_> = records.into_iter().map(|(_, frame)| frame).collect();
            compare(row, port, &row.output[i], &frames);
        }
        ran += 1;
    }
    assert!(
        2 * ran > rows.len(),
        "only {ran} of {} rows ran: a pause keeps a row from pcap ports",
        rows.len()
    );
}

/// What came out of `natgate run` on tap ports.
pub struct Played {
    /// Before the first packet, and after each.
    pub sent: Vec<Vec<(PortId, Vec<u8>)>>,
    process: Process,
    packets: PacketCounts,
    // After the process, which lives there.
    _place: (Ns, tempfile::TempDir),
    _turn: MutexGuard<'static, ()>,
}

/// One at a time: namespaces and instances are called by rows, and several tests play the same ones.
static TURN: Mutex<()> = Mutex::new(());

/// Plays packets on tap ports, at their own speed.
pub fn play_on_taps(name: &str, config: &str, input: &Input, workers: u8) -> Played {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let ns = Ns::create(&format!("{name}-{workers}"));
    // Nobody but the test may send.
    ns.sysctl(&["net.ipv6.conf.default.disable_ipv6=1"]);
    let dir = tempfile::tempdir().unwrap();
    let mut config = config.to_owned();
    for (port, tap) in PORTS.iter().zip(NAMES) {
        let pcap = format!("device = \"pcap:in.{port}.pcap,out.{port}.pcap\"");
        assert!(config.contains(&pcap), "row {name}: no {pcap}");
        config = config.replace(
            &pcap,
            &format!("device = \"tap:{tap}\"\nqueues = {workers}"),
        );
    }
    fs::write(dir.path().join("natgate.toml"), config).unwrap();
    // Before natgate makes the ports: it announces itself at once.
    let mut taps = Taps::watch(&ns);
    let process = start(ns.command(BINARY), dir.path(), "tap", workers);
    taps.find(&ns);
    let start = Instant::now();
    let mut packets = settled(&process, name, 0);
    let mut sent = vec![taps.received(packets.sent as usize)];
    for (n, (millis, port, frame)) in input.iter().enumerate() {
        let due = start + Duration::from_millis(*millis);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        taps.send(*port, frame);
        let before = packets.sent;
        packets = settled(&process, name, n as u64 + 1);
        sent.push(taps.received((packets.sent - before) as usize));
    }
    Played {
        sent,
        process,
        packets,
        _place: (ns, dir),
        _turn: turn,
    }
}

/// Plays one row on tap ports, and compares.
fn run_on_taps(row: &Row, workers: u8) {
    let played = play_on_taps(&row.name, &row.config, &row.input, workers);
    let output = played.sent.concat();
    for (i, port) in PORTS.iter().enumerate() {
        let frames: Vec<_> = output
            .iter()
            .filter(|(p, _)| *p == PortId(i as u16))
            .map(|(_, frame)| frame.clone())
            .collect();
        let expected: Vec<_> = row.output[i].iter().map(|frame| untagged(frame)).collect();
        compare(row, port, &expected, &frames);
    }
    finish(played.process, row, &played.packets);
}

/// A frame as packet sockets see it: the kernel has taken its VLAN tag off. The rows' other runs look at tags.
fn untagged(frame: &[u8]) -> Vec<u8> {
    match frame.get(12..14) {
        Some([0x81, 0x00]) => [&frame[..12], &frame[16..]].concat(),
        _ => frame.to_vec(),
    }
}

#[test]
fn rows_hold_on_tap_ports() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "namespaces need root (run `sudo make test`)"
    );
    ns::remove_leftovers();
    for row in all_rows() {
        for workers in [1, 2, 4] {
            run_on_taps(&row, workers);
        }
    }
}
