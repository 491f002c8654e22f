//! Real workers between stations: one run of a benchmark.

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::Sender;
use crossbeam_utils::CachePadded;

use crate::arch::Pages;
use crate::base::{DropReason, InterfaceId, WorkerId};
use crate::bench::buffer::SlotBuffer;
use crate::bench::family::{Family, long};
use crate::bench::order::Pattern;
use crate::bench::phase::{Measured, Phase};
use crate::bench::script::{Course, SCANNERS, Script};
use crate::bench::station::{self, Buffers, Station};
use crate::bench::traffic::Population;
use crate::bench::{BenchError, Options, WIRE_CHECKSUM};
use crate::config::compile::{compile_text, recompile_text};
use crate::dataplane::affinity;
use crate::dataplane::buffer::Message;
use crate::dataplane::clock::Clock;
use crate::dataplane::counters::Counters;
use crate::dataplane::journal;
use crate::dataplane::published::{Published, Reader};
use crate::dataplane::shard::{Shard, ShardSize};
use crate::dataplane::steering;
use crate::dataplane::worker::{Idle, Job, Progress, Worker, WorkerShared};
use crate::nat::policy::Policy;
use crate::nat::state::Capacity;
use crate::wire::MacAddr;

/// One run: what is set up and what happens. Numbers of flows are per worker.
#[derive(Clone, Debug)]
pub struct Rig {
    /// What the packets are.
    pub family: Family,
    /// Workers.
    pub workers: u8,
    /// Sessions that are established before anything is measured, or attempted.
    pub sessions: u32,
    /// Room for sessions.
    pub capacity: u32,
    /// Flows there are.
    pub flows: u32,
    /// The first of them, of which established traffic is made.
    pub established: u32,
    /// Fragmented datagrams and waiting fragments at a time.
    pub fragments: u32,
    /// Addresses in the pool.
    pub addresses: u32,
    /// `filtering` of the pool.
    pub filtering: &'static str,
    /// `udp_unreplied`, in seconds.
    pub unreplied_seconds: u32,
    /// What happens.
    pub phases: Vec<Phase>,
    /// The order of established flows.
    pub pattern: Pattern,
    /// Sizes of established flows' frames, in turn.
    pub lengths: Vec<usize>,
    /// For whatever is random.
    pub seed: u64,
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// By worker, then by phase.
    pub workers: Vec<Vec<Measured>>,
    /// Packets dropped in the whole run, by reason; only what occurred.
    pub drops: BTreeMap<&'static str, u64>,
    /// Memory of all tables and port state.
    pub memory_bytes: usize,
    /// In phases that are watched: nanoseconds, and sessions of all workers.
    pub timeline: Vec<(u64, u64)>,
}

type Rings = (
    Vec<rtrb::Consumer<Message<SlotBuffer>>>,
    Vec<Option<rtrb::Producer<Message<SlotBuffer>>>>,
);

/// The first address of the pool: 203.0.113.1, or the IPv6 address with this number.
const FIRST_EXTERNAL: u32 = 0xcb00_7101;

/// How often the companion of a run looks up.
const LOOK: Duration = Duration::from_millis(2);

/// Time between two reloads.
const RELOAD_NANOS: u64 = 100_000_000;

/// Core of a worker: the last ones first, since the first core does everything else.
fn core_of(worker: u8) -> usize {
    let cores = affinity::usable_cores();
    let place = usize::from(worker) % cores.len().max(1);
    cores.iter().rev().nth(place).copied().unwrap_or_default()
}

impl Rig {
    /// Runs it.
    ///
    /// # Errors
    /// When memory is short, the configuration is refused or a worker dies. Losses are no errors here; they are counted.
    pub fn run(&self) -> Result<Outcome, BenchError> {
        let policy = compile_text("benchmark", &self.configuration())
            .map_err(|report| BenchError::Config(report.to_string()))?;
        let published = Published::new(policy.clone());
        let clock = Clock::start();
        let course = Course::new(usize::from(self.workers));
        let barrier = Arc::new(Barrier::new(usize::from(self.workers)));
        let mut rings = rings(self.workers);
        let (mut threads, mut jobs, mut memory_bytes) = (Vec::new(), Vec::new(), 0);
        for worker in 0..self.workers {
            let id = WorkerId(worker);
            let seed = self.seed + u64::from(worker);
            let shard = Shard::new(id, self.size(), seed, [seed, !seed])?;
            memory_bytes += match self.family {
                Family::Ipv4 => shard.nat.memory_bytes(),
                Family::Ipv6 => shard.nat_v6.memory_bytes(),
            };
            let station = Station::new(self.script(&policy, id), course.clone(), barrier.clone())?;
            let (rings_in, rings_out) = rings.remove(0);
            let (sender, receiver) = crossbeam_channel::bounded(4);
            jobs.push(sender);
            let worker = Worker {
                shard,
                ports: station::queues(),
                pool: Box::new(Buffers),
                rings_in,
                rings_out,
                policy: Reader::new(published.clone()),
                jobs: receiver,
                heard: None,
                log: journal::ring().0,
                shared: Arc::new(CachePadded::new(WorkerShared::default())),
                stop: course.stop.clone(),
                clock,
                idle: Idle::Poll,
            };
            threads.push(std::thread::spawn(move || pinned(id, worker, station)));
        }
        drop(policy);
        let companion = Companion {
            rig: self,
            course: &course,
            published: &published,
            jobs,
            clock,
        };
        let timeline = companion.accompany(|| threads.iter().any(|t| t.is_finished()))?;
        let (mut workers, mut total) = (Vec::new(), Counters::default());
        for thread in threads {
            let (counters, measured) = thread.join().map_err(|_| BenchError::Worker)?;
            total.add(&counters);
            workers.push(measured);
        }
        if total.imbalance(0) != 0 {
            return Err(BenchError::Books(total.imbalance(0)));
        }
        let externals = &published.load().nat.externals;
        memory_bytes += externals
            .iter()
            .map(|(_, e)| e.memory_bytes())
            .sum::<usize>();
        let drops = DropReason::ALL
            .iter()
            .map(|r| (r.name(), total.drops[r.index()]));
        Ok(Outcome {
            workers,
            drops: drops.filter(|(_, count)| *count > 0).collect(),
            memory_bytes,
            timeline,
        })
    }

    /// What its frame sizes are called: as asked for, but for frames that cannot be so small.
    pub fn frame(&self, options: &Options) -> String {
        match (&self.lengths[..], &options.lengths[..]) {
            ([length], [asked]) if length > asked => (length + WIRE_CHECKSUM).to_string(),
            _ => options.frame.clone(),
        }
    }

    fn size(&self) -> ShardSize {
        let nat = Capacity {
            sessions: self.capacity,
            subscribers: self.hosts() + 64,
            held_ports: 64,
            contacts: 0,
            shared: 0,
            workers: self.workers,
            pages: Pages::Reserved,
        };
        let other = Capacity {
            sessions: 64,
            ..nat
        };
        let (nat, nat_v6) = match self.family {
            Family::Ipv4 => (nat, other),
            Family::Ipv6 => (other, nat),
        };
        ShardSize {
            nat,
            nat_v6,
            neighbours: 64,
            waiting: 64,
            fragments: self.fragments,
        }
    }

    /// Inside hosts of one worker, scanning ones included.
    fn hosts(&self) -> u32 {
        self.flows.div_ceil(crate::bench::traffic::FLOWS_PER_HOST) + SCANNERS
    }

    /// The script of a worker: its hosts are those a card that steers by source address would deliver to it.
    fn script(&self, policy: &Policy, worker: WorkerId) -> Script {
        let owner = |host| match self.family {
            Family::Ipv4 => steering::of_address(policy, host),
            Family::Ipv6 => steering::of_address(policy, long(host)),
        };
        let belongs = |host| policy.workers == 1 || owner(host) == worker;
        let mac = |id| {
            let interface = policy.interfaces.get(InterfaceId(id));
            interface.map_or(MacAddr::ZERO, |i| i.mac)
        };
        Script {
            phases: self.phases.clone(),
            family: self.family,
            population: Population::new(self.flows, SCANNERS, belongs),
            flows: self.flows,
            established: self.established,
            pattern: self.pattern,
            lengths: self.lengths.clone(),
            macs: [mac(0), mac(1)],
            pool: (FIRST_EXTERNAL, self.addresses),
            seed: self.seed + u64::from(worker.0),
        }
    }

    /// A carrier's policy: port blocks, random ports, one pool for all.
    fn configuration(&self) -> String {
        // An interface's network 255.255.255.252, its hosts 1 and 2; and the hosts' network.
        let (inside, outside, hosts) = (0x0aff_ff00, 0xc000_0200, 0x0a00_0000);
        let address = |number| self.family.address(number);
        format!(
            r#"
schema = 1
[system]
workers = {workers}
sessions = {sessions}
memory = "4096GiB"
[timeouts]
udp_unreplied = "{unreplied}s"
[[port]]
name = "p0"
device = "null:"
[[port]]
name = "p1"
device = "null:"
[[interface]]
name = "inside"
port = "p0"
address = ["{inside}/{link}"]
[[interface]]
name = "outside"
port = "p1"
address = ["{outside}/{link}"]
[[route]]
prefix = "{everywhere}/{all}"
via = "{beyond}"
[[route]]
prefix = "{hosts}/{of_hosts}"
via = "{router}"
[[neighbour]]
interface = "outside"
address = "{beyond}"
mac = "02:00:00:00:00:02"
[[neighbour]]
interface = "inside"
address = "{router}"
mac = "02:00:00:00:00:01"
[[pool]]
name = "carrier"
addresses = ["{first}-{last}"]
block = {{ size = 64, max_per_host = 1 }}
filtering = "{filtering}"
answer_arp = false
[[source-nat]]
in = "inside"
out = "outside"
via = "pool:carrier"
"#,
            workers = self.workers,
            sessions = self.capacity * u32::from(self.workers),
            unreplied = self.unreplied_seconds,
            inside = address(inside + 1),
            router = address(inside + 2),
            outside = address(outside + 1),
            beyond = address(outside + 2),
            link = self.family.prefix_length(30),
            everywhere = address(0),
            all = self.family.prefix_length(0),
            hosts = address(hosts),
            of_hosts = self.family.prefix_length(8),
            first = address(FIRST_EXTERNAL),
            last = address(FIRST_EXTERNAL + self.addresses - 1),
            filtering = self.filtering,
        )
    }
}

fn pinned(id: WorkerId, worker: Worker<SlotBuffer>, station: Station) -> (Counters, Vec<Measured>) {
    // A worker that may move between cores measures the scheduler; where pinning is refused, so be it.
    let _ = affinity::pin_to([core_of(id.0)]);
    station::install(station);
    let counters = worker.run();
    (counters, station::results())
}

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

/// What happens beside the workers: reloads, and counting sessions.
struct Companion<'a> {
    rig: &'a Rig,
    course: &'a Course,
    published: &'a Published<Policy>,
    jobs: Vec<Sender<Job>>,
    clock: Clock,
}

impl Companion<'_> {
    /// Until all stations have finished, or a worker has ended before; returns the timeline.
    fn accompany(&self, ended: impl Fn() -> bool) -> Result<Vec<(u64, u64)>, BenchError> {
        let samples: Samples = Arc::default();
        let text = self.rig.configuration();
        let mut reloaded = 0;
        while !self.course.stop.load(std::sync::atomic::Ordering::Acquire) && !ended() {
            std::thread::sleep(LOOK);
            let Some(phase) = self.rig.phases.get(self.course.phase()) else {
                continue;
            };
            if phase.reloads && self.clock.nanos() > reloaded + RELOAD_NANOS {
                reloaded = self.clock.nanos();
                let next = recompile_text("benchmark", &text, &self.published.load())
                    .map_err(|report| BenchError::Config(report.to_string()))?;
                let before = self.published.publish(next);
                // Large things are not freed on a packet thread.
                while Arc::strong_count(&before) > 1 && !ended() {
                    std::thread::sleep(LOOK);
                }
            }
            if phase.watched {
                self.count_sessions(&samples);
            }
        }
        let samples = samples.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(sums(&samples, self.jobs.len()))
    }

    /// Asks every worker. The lock is taken between bursts and by nobody else meanwhile.
    fn count_sessions(&self, samples: &Samples) {
        for worker in &self.jobs {
            let (samples, clock) = (samples.clone(), self.clock);
            let job = Job::Ask(Box::new(move |context| {
                let sessions = context.nat.sessions.len() + context.nat_v6.sessions.len();
                let mut samples = samples.lock().unwrap_or_else(PoisonError::into_inner);
                samples.push((clock.nanos(), context.worker, sessions as u64));
                Progress::Done
            }));
            // A worker that still has jobs to do is asked again later.
            let _ = worker.try_send(job);
        }
    }
}

/// Moment, worker, its sessions.
type Samples = Arc<Mutex<Vec<(u64, WorkerId, u64)>>>;

/// The sessions of all workers together whenever one of them was asked.
fn sums(samples: &[(u64, WorkerId, u64)], workers: usize) -> Vec<(u64, u64)> {
    let mut latest = vec![None; workers];
    let mut sums = Vec::new();
    for (nanos, worker, sessions) in samples {
        if let Some(of_worker) = latest.get_mut(worker.index()) {
            *of_worker = Some(*sessions);
        }
        // Until everybody has answered there is no sum.
        sums.extend(
            latest
                .iter()
                .copied()
                .sum::<Option<u64>>()
                .map(|sum| (*nanos, sum)),
        );
    }
    sums
}
