//! Ten million frames of random and mutated garbage through the real binary: no crash, exact accounting, and nothing
//! leaves that a receiver could not read.
//!
//! ```text
//!   generator ═▶ pcap port p-lan ─▶             ─▶ pcap port p-lan ═▶ check of every frame
//!                                   natgate run
//!   generator ═▶ pcap port p-wan ─▶             ─▶ pcap port p-wan ═▶ check of every frame
//! ```
//!
//! The pcap files (═▶) are named pipes, so every frame is drawn anew and nothing is stored. What the generators draw follows
//! from their seeds alone; what becomes of it depends also on how natgate's workers take turns.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "waiting for a process needs the clock"
)]
#![allow(missing_docs, reason = "a test is no interface")]

mod common;

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::process::{BINARY, Process};
use common::{LAN, WAN, corpus, mutate, pcap};
use natgate::base::{DropReason, PortId, Random};
use natgate::control::api::{PacketCounts, Status};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::stat::Mode;

/// Frames through both ports together.
const FRAMES: u64 = 10_000_000;

/// From which all frames follow.
const SEED: u64 = 0x6761_7262_6167_6500;

/// Kinds of drops that must occur: garbage that reaches less tests less.
const REASONS: usize = 34;

/// How long all of it may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// Tables so small and times so short that all of them fill up and empty again and again.
const LIMITS: &str = r#"
[system]
hugepages = false
memory = "256MiB"
sessions = 4096
sessions_per_host = 100
subscribers = 128
fragments = 64
[timeouts]
udp = "2s"
udp_unreplied = "1s"
tcp = "3s"
tcp_transitory = "1s"
tcp_reset = "1s"
icmp = "1s"
other = "1s"
[metrics]
listen = ""
[[interface]]
name = "lan8"
port = "p-lan"
vlan = 8
address = ["10.8.0.1/24"]
urpf = "strict"
[[pool]]
name = "tiny"
addresses = ["203.0.113.100"]
ports = "2048-2175"
block = { size = 16, max_per_host = 2, idle = "1s" }
hold = "1s"
[[source-nat]]
out = "wan0"
src = "10.0.0.64/26"
via = "pool:tiny"
"#;

fn configuration(dir: &Path, workers: u8) -> String {
    let mut lab = common::LAB.to_owned();
    for port in ["lan", "wan"] {
        let (input, output) = (pipe(dir, "in", port), pipe(dir, "out", port));
        let device = format!("\"pcap:{},{}\"", input.display(), output.display());
        lab = lab.replacen("\"null:\"", &device, 1);
    }
    let instance = format!("garbage-{}", std::process::id());
    let system = format!("[system]\nworkers = {workers}\ninstance = \"{instance}\"");
    let limits = LIMITS.replace("[system]", &system);
    let socket = dir.join("natgate.sock");
    format!(
        "{lab}{}{limits}{}[api]\nsocket = \"{}\"\n",
        common::neighbours(),
        corpus::RULES,
        socket.display()
    )
}

fn pipe(dir: &Path, direction: &str, port: &str) -> PathBuf {
    dir.join(format!("{direction}.{port}.pcap"))
}

/// The next frame for a port: one in sixteen is noise from the first byte to the last; most others have the gateway's MAC
/// address, whatever else may be wrong with them.
fn draw(corpus: &[Vec<u8>], port: PortId, random: &mut Random) -> Vec<u8> {
    if random.below(16) > 0 {
        let mut frame = mutate::frame(corpus, false, random);
        if let Some(mac) = frame.get_mut(..6).filter(|mac| mac[0] & 1 == 0)
            && random.below(16) > 0
        {
            mac.copy_from_slice(&[2, 0, 0, 0, 1, port.0 as u8]);
        }
        return frame;
    }
    let length = random.below(1600) as usize;
    let words = std::iter::repeat_with(|| random.next_u64().to_ne_bytes());
    let mut noise: Vec<u8> = words.take(length.div_ceil(8)).flatten().collect();
    noise.truncate(length);
    noise
}

/// Writes frames into a pipe until all are written.
fn feed(path: &Path, port: PortId, corpus: Arc<Vec<Vec<u8>>>) -> JoinHandle<()> {
    // With a reader of our own, opening does not wait for natgate, and writing does not fail while it has not opened yet.
    let file = OpenOptions::new().read(true).write(true).open(path);
    let file = widened(file.unwrap());
    std::thread::spawn(move || {
        let mut random = Random::from_seed(SEED + u64::from(port.0));
        let mut writer = pcap::Writer::new(BufWriter::new(file)).unwrap();
        for _ in 0..FRAMES / 2 {
            writer.frame(0, &draw(&corpus, port, &mut random)).unwrap();
        }
        writer.finish().unwrap();
    })
}

/// Reads a pipe to its end, checks every frame, and returns how many there were.
fn check(path: &Path, port: PortId) -> JoinHandle<u64> {
    let path = path.to_path_buf();
    std::thread::spawn(move || {
        let file = widened(File::open(path).unwrap());
        let mut reader = pcap::Reader::new(BufReader::new(file)).unwrap();
        let mut frames = 0;
        while let Some((_, frame)) = reader.next().unwrap() {
            corpus::check_sent(port, &frame, false);
            frames += 1;
        }
        frames
    })
}

/// A pipe with room for a megabyte: fewer changes between writer and reader.
fn widened(pipe: File) -> File {
    fcntl(pipe.as_fd(), FcntlArg::F_SETPIPE_SZ(1 << 20)).unwrap();
    pipe
}

fn packets(process: &Process) -> PacketCounts {
    let text = process.ask(&["show", "status", "--json"]);
    let status: Status = serde_json::from_str(&text).unwrap();
    assert_eq!(
        status.packets.imbalance, 0,
        "packets are unaccounted for: {:?}",
        status.packets
    );
    status.packets
}

#[test]
fn ten_million_frames_of_garbage_are_accounted_for() {
    for workers in [1, 2, 4] {
        run(workers);
    }
}

fn run(workers: u8) {
    let dir = tempfile::tempdir().unwrap();
    let frames = Arc::new(corpus::frames());
    let (mut feeds, mut checks) = (Vec::new(), Vec::new());
    for (port, name) in [(LAN, "lan"), (WAN, "wan")] {
        let (input, output) = (pipe(dir.path(), "in", name), pipe(dir.path(), "out", name));
        for path in [&input, &output] {
            nix::unistd::mkfifo(path, Mode::S_IRWXU).unwrap();
        }
        feeds.push(feed(&input, port, Arc::clone(&frames)));
        checks.push(check(&output, port));
    }
    let config = dir.path().join("natgate.toml");
    std::fs::write(&config, configuration(dir.path(), workers)).unwrap();
    let mut command = Command::new(BINARY);
    command.args(["run", "-c"]).arg(&config);
    let (socket, log) = (
        dir.path().join("natgate.sock"),
        dir.path().join("natgate.log"),
    );
    let started = Instant::now();
    let mut process = Process::start(command, &socket, &log);
    process.wait_until_ready();

    // All of it goes in, and is counted once.
    let all = loop {
        std::thread::sleep(Duration::from_millis(500));
        if let Some(status) = process.ended() {
            panic!("natgate ended with {status}");
        }
        let packets = packets(&process);
        let fed = feeds.iter().all(JoinHandle::is_finished);
        if fed && packets.received >= FRAMES && packets.handoff_in == packets.handoff_out {
            break packets;
        }
        assert!(started.elapsed() < PATIENCE, "too slow: {packets:?}");
    };
    for feed in feeds {
        feed.join().unwrap();
    }
    assert_eq!(all.received, FRAMES);
    assert_eq!(all.drops[DropReason::Internal.name()], 0);
    assert!(all.drops[DropReason::FrameLong.name()] > 0);
    let took = started.elapsed().as_secs_f32();
    let reached: Vec<_> = all.drops.iter().filter(|(_, n)| **n > 0).collect();
    println!(
        "{workers} workers: {took:.1} s, {} sent, {} handed over, {} reasons to drop: {reached:?}",
        all.sent,
        all.handoff_in,
        reached.len()
    );
    assert!(
        reached.len() >= REASONS,
        "{REASONS} reasons to drop expected: {all:?}"
    );

    // It ends in an orderly way, holds nothing back, and what it says it sent has come out.
    let report = process.stop();
    assert_eq!(report["received"], FRAMES as i64);
    assert_eq!(report["imbalance"], 0);
    let sent: u64 = checks.into_iter().map(|check| check.join().unwrap()).sum();
    assert_eq!(sent as i64, report["sent"], "frames in the output files");
    assert!(sent > FRAMES / 10, "only {sent} frames came out");
}
