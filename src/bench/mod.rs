//! `natgate bench`: the packet path measured without a network card.
//!
//! Every worker runs the real loop ([`Worker::run`]) over devices in memory: its receive queue computes frames, its
//! transmit queue looks at what came out and recycles the buffers. What is measured is therefore everything between the
//! two driver calls. The cost of computing the frames is measured in the same run, with the same queues and no
//! translation between them, and reported beside the result, never silently subtracted.

mod device;
pub mod report;
pub mod traffic;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use crossbeam_utils::CachePadded;

use crate::base::{InterfaceId, PortId, WorkerId};
use crate::bench::device::{Generator, Outcome, Script, SlotBuffer};
use crate::bench::report::{Figures, Row};
use crate::bench::traffic::Population;
use crate::config;
use crate::dataplane::buffer::Message;
use crate::dataplane::clock::Clock;
use crate::dataplane::published::{Published, Reader};
use crate::dataplane::shard::{Shard, ShardSize};
use crate::dataplane::steering;
use crate::dataplane::worker::{Idle, Worker, WorkerShared};
use crate::nat::policy::Policy;
use crate::nat::state::Capacity;
use crate::wire::MacAddr;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Session counts.
    pub sessions: Vec<u32>,
    /// Worker counts.
    pub workers: Vec<u8>,
    /// Frame size in bytes, without the checksum the wire adds.
    pub frame_bytes: usize,
    /// Packets of each throughput phase, per worker.
    pub packets: u64,
    /// Rounds; the median is reported.
    pub rounds: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            sessions: vec![1_000, 64_512, 1_032_192, 4_128_768],
            workers: vec![1, 2],
            frame_bytes: 60,
            packets: 20_000_000,
            rounds: 3,
        }
    }
}

/// Why a benchmark could not run.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The built-in configuration was refused.
    #[error("the benchmark's own configuration was refused: {0}")]
    Config(String),
    /// A table did not fit in memory.
    #[error("{0}")]
    Memory(#[from] crate::arch::OutOfMemory),
    /// A worker died.
    #[error("a worker stopped before its script ended")]
    Worker,
    /// Fewer sessions came into being than asked for, or a packet was lost or translated wrongly.
    #[error("{0}")]
    Wrong(String),
}

/// Runs every combination and returns one row for each.
///
/// # Errors
/// When memory is short, or when anything came out wrong: a benchmark that loses packets has no figures.
pub fn run(options: &Options, mut progress: impl FnMut(&Row)) -> Result<Vec<Row>, BenchError> {
    let mut rows = Vec::new();
    for &workers in &options.workers {
        for &sessions in &options.sessions {
            let mut rounds = Vec::new();
            for _ in 0..options.rounds.max(1) {
                rounds.push(round(options, workers, sessions)?);
            }
            let row = Row::median(workers, sessions, rounds);
            progress(&row);
            rows.push(row);
        }
    }
    Ok(rows)
}

/// One run with fresh tables.
fn round(options: &Options, workers: u8, sessions: u32) -> Result<Figures, BenchError> {
    let population = Population::default();
    let policy = policy(workers, sessions, &population)?;
    let published = Published::new(policy.clone());
    let stop = Arc::new(AtomicBool::new(false));
    let clock = Clock::start();
    let mut rings = rings(workers);
    let mut threads = Vec::new();
    let start = Arc::new(std::sync::Barrier::new(usize::from(workers)));
    let unfinished = Arc::new(AtomicUsize::new(usize::from(workers)));
    let mut memory = 0;
    for worker in 0..workers {
        let id = WorkerId(worker);
        let mine = owned_flows(&policy, &population, sessions, id);
        let size = size_for(&mine, workers);
        let shard = Shard::new(
            id,
            size,
            7 + u64::from(worker),
            [0x1234_5678, 0x9abc_def0 + u64::from(worker)],
        )?;
        memory += shard.nat.memory_bytes();
        let script = Script::standard(mine, options.packets, population, options.frame_bytes);
        let (ports, pool, outcome) = Generator::build(
            script,
            start.clone(),
            stop.clone(),
            unfinished.clone(),
            gateway_macs(&policy),
        );
        let (rings_in, rings_out) = rings.remove(0);
        let (_keep, jobs) = crossbeam_channel::bounded(1);
        let running = Worker {
            shard,
            ports,
            pool,
            rings_in,
            rings_out,
            policy: Reader::new(published.clone()),
            jobs,
            shared: Arc::new(CachePadded::new(WorkerShared::default())),
            stop: stop.clone(),
            clock,
            idle: Idle::Poll,
        };
        threads.push((std::thread::spawn(move || pinned(worker, running)), outcome));
    }
    let mut outcomes = Vec::new();
    for (thread, outcome) in threads {
        let counters = thread.join().map_err(|_| BenchError::Worker)?;
        let outcome: Outcome = outcome
            .recv_timeout(Duration::from_secs(1))
            .map_err(|_| BenchError::Worker)?;
        check(&outcome, &counters)?;
        outcomes.push(outcome);
    }
    let ports = policy
        .nat
        .externals
        .iter()
        .map(|(_, e)| e.memory_bytes())
        .sum::<usize>();
    Ok(Figures::from_outcomes(&outcomes, memory + ports))
}

fn pinned(worker: u8, running: Worker<SlotBuffer>) -> crate::dataplane::counters::Counters {
    // A worker that may move between cores measures the scheduler; where pinning is refused, so be it.
    let _ = crate::dataplane::affinity::pin_to(usize::from(worker));
    running.run()
}

/// Everything sent must have come back translated, and nothing may be lost.
fn check(
    outcome: &Outcome,
    counters: &crate::dataplane::counters::Counters,
) -> Result<(), BenchError> {
    if outcome.wrong > 0 {
        return Err(BenchError::Wrong(format!(
            "{} packets came back translated wrongly",
            outcome.wrong
        )));
    }
    let drops = counters.dropped();
    if drops > 0 {
        let reasons: Vec<String> = crate::base::DropReason::ALL
            .iter()
            .filter(|r| counters.drops[r.index()] > 0)
            .map(|r| format!("{r} {}", counters.drops[r.index()]))
            .collect();
        return Err(BenchError::Wrong(format!(
            "{drops} packets were dropped: {}",
            reasons.join(", ")
        )));
    }
    Ok(())
}

/// The flows whose inside host lives on `worker`: what a network card that steers by source address would deliver to it.
fn owned_flows(
    policy: &Policy,
    population: &Population,
    sessions: u32,
    worker: WorkerId,
) -> Vec<u32> {
    (0..sessions)
        .filter(|flow| {
            policy.workers == 1 || steering::of_address(policy, population.host(*flow)) == worker
        })
        .collect()
}

fn size_for(flows: &[u32], workers: u8) -> ShardSize {
    let sessions = flows.len().max(64) as u32;
    ShardSize {
        nat: Capacity {
            sessions,
            subscribers: sessions / 63 + 64,
            held_ports: 64,
            contacts: 0,
            workers,
        },
        neighbours: 64,
        waiting: 64,
        fragments: 64,
    }
}

type Rings = (
    Vec<rtrb::Consumer<Message<SlotBuffer>>>,
    Vec<Option<rtrb::Producer<Message<SlotBuffer>>>>,
);

/// Rings between every pair of workers, as the appliance has them.
fn rings(workers: u8) -> Vec<Rings> {
    let count = usize::from(workers);
    let mut ends: Vec<Rings> = (0..count).map(|_| (Vec::new(), Vec::new())).collect();
    for from in 0..count {
        for to in 0..count {
            if from == to {
                ends[from].1.push(None);
                continue;
            }
            let (producer, consumer) = rtrb::RingBuffer::new(1024);
            ends[from].1.push(Some(producer));
            ends[to].0.push(consumer);
        }
    }
    ends
}

/// A carrier's policy: port blocks, random ports, one pool large enough for all sessions.
fn policy(workers: u8, sessions: u32, population: &Population) -> Result<Arc<Policy>, BenchError> {
    let hosts = sessions.div_ceil(population.ports_per_host).max(1);
    // One block of 64 ports for each host; an address has 1,008 of them.
    let addresses = hosts.div_ceil(1008) + 1;
    let last = 0xcb00_7100 + addresses;
    let text = format!(
        r#"
schema = 1
[system]
workers = {workers}
sessions = {sessions}
memory = "20GiB"
[[port]]
name = "p0"
device = "null:"
[[port]]
name = "p1"
device = "null:"
[[interface]]
name = "inside"
port = "p0"
address = ["10.255.255.1/30"]
[[interface]]
name = "outside"
port = "p1"
address = ["192.0.2.1/30"]
[[route]]
prefix = "0.0.0.0/0"
via = "192.0.2.2"
[[route]]
prefix = "10.0.0.0/8"
via = "10.255.255.2"
[[neighbour]]
interface = "outside"
address = "192.0.2.2"
mac = "02:00:00:00:00:02"
[[neighbour]]
interface = "inside"
address = "10.255.255.2"
mac = "02:00:00:00:00:01"
[[pool]]
name = "carrier"
addresses = ["203.0.113.1-{last}"]
block = {{ size = 64, max_per_host = 1 }}
filtering = "endpoint"
answer_arp = false
[[source-nat]]
in = "inside"
out = "outside"
via = "pool:carrier"
"#,
        last = std::net::Ipv4Addr::from(last),
    );
    config::compile::compile_text("benchmark", &text)
        .map_err(|report| BenchError::Config(report.to_string()))
}

/// MAC addresses of the inside and the outside interface.
fn gateway_macs(policy: &Policy) -> [MacAddr; 2] {
    let mac = |id| {
        policy
            .interfaces
            .get(InterfaceId(id))
            .map_or(MacAddr::ZERO, |i| i.mac)
    };
    [mac(0), mac(1)]
}

/// The ports the generator stands for.
const PORTS: [PortId; 2] = [PortId(0), PortId(1)];
