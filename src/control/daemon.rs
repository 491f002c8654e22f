//! The gateway's threads: one per worker, and one that looks after them.
//!
//! [`start`] is generic over the packet buffer: in service the devices are DPDK's, in tests they are memory, and everything
//! else is the same code.

use super::api::{Failure, FailureKind};
use super::live::alarms::Alarms;
use super::live::ask::{QueueHandle, WorkerHandle};
use super::live::counts::Baseline;
use super::live::exemptions::Watches;
use super::live::health::{Health, Watch};
use super::live::holds;
use super::live::leases;
use super::live::pulse::Pulse;
use super::live::records::Records;
use super::live::refusals::Refusals;
use super::live::running::Running;
use super::live::{Live, unconfirmed, unix_seconds};
use super::runtime::{Devices, ThreadHook, WorkerDevices, entropy};
use crate::arch::{self, Pages};
use crate::base::{Random, WorkerId};
use crate::config::Loaded;
use crate::config::capacity::ipv6_share;
use crate::config::compile::{PortFacts, compile};
use crate::config::validated::{self, Validated};
use crate::dataplane::affinity;
use crate::dataplane::buffer::{Buffer, Heard, Message};
use crate::dataplane::clock::Clock;
use crate::dataplane::counters::Counters;
use crate::dataplane::journal::{self, Outlet};
use crate::dataplane::machine;
use crate::dataplane::published::{Published, Reader};
use crate::dataplane::shard::{Shard, ShardSize};
use crate::dataplane::worker::{Idle, Job, Worker, WorkerNumbers, WorkerShared};
use crate::nat::policy::Policy;
use crate::nat::state::Capacity;
use crate::telemetry::natlog::NatLog;
use crate::telemetry::notify;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use crossbeam_utils::CachePadded;
use std::any::Any;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Packets that may be under way from one worker to another.
const RING: usize = 1024;

/// Jobs that may wait for a worker; more means that it does not run them.
const JOBS: usize = 64;

/// How often links and heartbeats are looked at.
const LOOK: Duration = Duration::from_millis(200);

/// How often the NAT log is collected.
const COLLECT: Duration = Duration::from_millis(50);

/// Looks between two renewals of the rates.
const RATES_EVERY: u32 = 10;

/// Looks between two times that busy ports are written down.
const HOLDS_EVERY: u32 = 50;

/// How long the workers may take to come up without any progress: large tables are written page by page.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How often the log says how far the tables are.
const PROGRESS: Duration = Duration::from_secs(1);

/// Where a worker's thread is to run, and from what.
#[derive(Clone, Debug, Default)]
pub struct Placement {
    /// The core of each worker; a worker without one is not pinned.
    pub cores: Vec<usize>,
}

impl Placement {
    /// The configured cores, or all usable ones but the first, which is left to everything else; those on the node of the
    /// network cards come first. Workers beyond the cores share them.
    pub fn of(config: &Validated) -> Placement {
        let system = &config.system;
        let devices = config.ports.iter().map(|port| &port.device);
        let near = machine::node_of_cards(devices).map(machine::cores_of_node);
        let mut cores = system.cores.clone();
        if cores.is_empty() {
            cores = chosen(
                &affinity::usable_cores(),
                usize::from(system.workers),
                &near.unwrap_or_default(),
            );
        }
        let count = usize::from(system.workers);
        Placement {
            cores: cores.into_iter().cycle().take(count).collect(),
        }
    }
}

/// The usable cores in the order workers take them: without the first if there are enough, the near ones before the others.
fn chosen(usable: &[usize], workers: usize, near: &BTreeSet<usize>) -> Vec<usize> {
    let spare = usize::from(usable.len() > workers);
    let mut cores = usable[spare..].to_vec();
    cores.sort_by_key(|core| !near.contains(core));
    cores
}

/// A running gateway with its threads.
pub struct Daemon {
    /// What an operator can ask and change.
    pub live: Arc<Live>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Option<Counters>>>,
    housekeeping: (Sender<()>, JoinHandle<()>),
    log: (Sender<()>, JoinHandle<()>),
    health: Watch,
    leases: leases::Watch,
    // Last: what the driver needs must outlive the threads.
    _keep: Box<dyn Any>,
}

/// Starts the workers and waits until every one of them runs. `seed` must be the one the devices were steered with.
///
/// # Errors
/// When memory is short, the configuration does not compile against the real ports, or a worker does not come up.
pub fn start<B: Buffer>(
    devices: Devices<B>,
    loaded: Loaded,
    file: PathBuf,
    placement: &Placement,
    seed: u64,
) -> Result<Daemon, Failure> {
    let facts: Vec<PortFacts> = devices
        .ports
        .iter()
        .map(|port| PortFacts {
            mac: port.mac,
            up: port.link.load(Ordering::Relaxed),
        })
        .collect();
    let policy = compile(&loaded.validated, &facts, None, seed)
        .map_err(|report| super::runtime::refused(FailureKind::Failed, &file, &report))?;
    let generation = policy.generation.0;
    let clock = Clock::start();
    let resting = holds::recall(&loaded.validated.system, &policy, clock.now().tick);
    let (heard, hearing) = bounded(leases::WAITING);
    let mut plant = Plant {
        published: Published::new(Arc::new(policy)),
        stop: Arc::new(AtomicBool::new(false)),
        clock,
        random: entropy()?,
        on_thread: devices.on_thread,
        heard,
    };
    let size = shard_size(&loaded.validated);
    let idle = match loaded.validated.system.idle {
        validated::Idle::Poll => Idle::Poll,
        validated::Idle::Adaptive => Idle::Adaptive,
    };
    let mut rings = rings(devices.workers.len());
    let (mut handles, mut threads, mut inlets) = (Vec::new(), Vec::new(), Vec::new());
    for (at, devices) in devices.workers.into_iter().enumerate() {
        let core = placement.cores.get(at).copied();
        let (outlet, inlet) = journal::ring();
        let (handle, thread) = plant.worker(
            at as u8,
            devices,
            (rings.remove(0), outlet),
            size,
            idle,
            core,
        )?;
        handles.push(handle);
        threads.push(thread);
        inlets.push(inlet);
    }
    let exemptions = Watches::of(&loaded, &Watches::default(), plant.clock.nanos());
    let mut running = Running::new(loaded, file, generation);
    if let Some(hash) = unconfirmed::hash_of_files(&running.loaded) {
        running.boot_hash = hash;
    }
    let sender = handles
        .first()
        .map(|first: &WorkerHandle| first.jobs.clone());
    let log = NatLog::new(inlets, sender.unwrap_or_else(|| bounded(0).0));
    let live = Arc::new(Live {
        exemptions: Mutex::new(exemptions),
        workers: handles,
        ports: Mutex::new(devices.ports),
        published: plant.published,
        clock: plant.clock,
        start_unix_seconds: unix_seconds(),
        running: Mutex::new(running),
        changing: Mutex::new(()),
        baseline: Mutex::new(Baseline::default()),
        pulse: Mutex::new(Pulse::default()),
        records: Mutex::new(Records::default()),
        refusals: Mutex::new(Refusals::default()),
        alarms: Mutex::new(Alarms::default()),
        health: Mutex::new(Health::default()),
        leases: Mutex::new(leases::Views::new()),
        log,
        reloads_applied: AtomicU64::new(0),
        reloads_refused: AtomicU64::new(0),
        dpdk_version: devices.dpdk_version,
    });
    live.begin_log();
    let log = log_collector(live.clone())?;
    let housekeeping = housekeeping(live.clone())?;
    let health = Watch::start(live.clone())?;
    let leases = leases::Watch::start(
        live.clone(),
        hearing,
        Random::from_seed(plant.random.next_u64()),
    )?;
    let daemon = Daemon {
        live,
        health,
        leases,
        stop: plant.stop,
        threads,
        housekeeping,
        log,
        _keep: devices.keep,
    };
    daemon.wait_until_up()?;
    daemon.live.hand_out(resting);
    Ok(daemon)
}

impl Daemon {
    /// Waits until every worker has run its loop.
    fn wait_until_up(&self) -> Result<(), Failure> {
        let clock = &self.live.clock;
        let began = clock.nanos();
        let (mut told, mut progressed, mut written) = (began, began, 0);
        while !(self.live.workers_current() && self.live.workers_alive()) {
            let died = self.threads.iter().any(JoinHandle::is_finished);
            let now = clock.nanos();
            if arch::written_bytes() != written {
                (progressed, written) = (now, arch::written_bytes());
            }
            if now - told > PROGRESS.as_nanos() as u64 {
                told = now;
                tracing::info!(mib = written >> 20, "tables are being written");
            }
            if died || now - progressed > START_LIMIT.as_nanos() as u64 {
                let why = if died {
                    "a worker ended at once"
                } else {
                    "a worker does not come up"
                };
                return Err(
                    Failure::new(FailureKind::Failed, "start", why).hint("the log has the reason")
                );
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let millis = (clock.nanos() - began) / 1_000_000;
        tracing::info!(
            mib = arch::written_bytes() >> 20,
            millis,
            "tables are written, workers run"
        );
        Ok(())
    }

    /// Stops taking packets, lets the workers drain, and returns what they counted, by worker. `None` stands for a worker
    /// that died.
    pub fn stop(self) -> Vec<Option<Counters>> {
        // While there are still workers to answer its questions.
        self.health.stop();
        self.leases.stop();
        self.stop.store(true, Ordering::Relaxed);
        let counters = self
            .threads
            .into_iter()
            .map(|thread| thread.join().ok().flatten())
            .collect();
        for (quit, thread) in [self.housekeeping, self.log] {
            drop(quit);
            let _ = thread.join();
        }
        self.live.end_log();
        self.live.save_holds();
        counters
    }
}

/// What all workers are made with.
struct Plant {
    published: Arc<Published<Policy>>,
    stop: Arc<AtomicBool>,
    clock: Clock,
    random: Random,
    on_thread: ThreadHook,
    heard: Sender<Heard>,
}

impl Plant {
    fn worker<B: Buffer>(
        &mut self,
        worker: u8,
        devices: WorkerDevices<B>,
        ((rings_in, rings_out), log): (Rings<B>, Outlet),
        size: ShardSize,
        idle: Idle,
        core: Option<usize>,
    ) -> Result<(WorkerHandle, JoinHandle<Option<Counters>>), Failure> {
        let (sender, jobs): (Sender<Job>, Receiver<Job>) = bounded(JOBS);
        let numbers: WorkerNumbers = Arc::new(CachePadded::new(WorkerShared::default()));
        let seed = self.random.next_u64();
        let secret = [self.random.next_u64(), self.random.next_u64()];
        let (published, stop, clock) = (self.published.clone(), self.stop.clone(), self.clock);
        let queues = QueueHandle::of(&devices.ports);
        let (shared, hook, heard) = (numbers.clone(), self.on_thread.clone(), self.heard.clone());
        let body = move || {
            // Built here, and with the help of the cores of the worker's own node, so that the memory is touched first there.
            if let Some(Err(error)) = core.map(|core| affinity::pin_to(machine::cores_near(core))) {
                tracing::debug!(worker, core, %error, "tables are built by any core");
            }
            let shard = Shard::new(WorkerId(worker), size, seed, secret)
                .map_err(|error| tracing::error!(worker, "worker cannot start: {error}"))
                .ok()?;
            if let Some(Err(error)) = core.map(|core| affinity::pin_to([core])) {
                tracing::warn!(worker, core, %error, "worker runs on any core");
            }
            let _registered = hook()
                .map_err(|why| tracing::error!(worker, "worker cannot start: {why}"))
                .ok()?;
            let WorkerDevices { ports, pool } = devices;
            let policy = Reader::new(published);
            let worker = Worker {
                shard,
                ports,
                pool,
                rings_in,
                rings_out,
                policy,
                jobs,
                heard: Some(heard),
                log,
                shared,
                stop,
                clock,
                idle,
            };
            Some(worker.run())
        };
        let thread = std::thread::Builder::new()
            .name(format!("worker-{worker}"))
            .spawn(body);
        let thread = thread
            .map_err(|e| Failure::new(FailureKind::Failed, "start", format!("no thread: {e}")))?;
        Ok((
            WorkerHandle {
                worker,
                core,
                jobs: sender,
                numbers,
                queues,
            },
            thread,
        ))
    }
}

/// The tables of one worker. Subscribers spread over the workers by hash, so each gets an eighth more than its even share.
fn shard_size(config: &Validated) -> ShardSize {
    let system = &config.system;
    let workers = u32::from(system.workers.max(1));
    let share = |all: u32| match workers {
        1 => all.max(1),
        _ => (u64::from(all) * 9)
            .div_ceil(u64::from(workers) * 8)
            .max(64) as u32,
    };
    let held: u64 = config
        .pools
        .iter()
        .map(|pool| u64::from(pool.hold_max))
        .sum();
    let nat = |of: u32| Capacity {
        sessions: share(system.sessions / of),
        subscribers: share(system.subscribers / of),
        held_ports: (held + 16_384).min(1 << 20) as u32,
        // Only pools that filter by address remember remote hosts.
        contacts: match config.pools.iter().any(validated::Pool::filters_by_address) {
            true => share(system.sessions / of),
            false => 0,
        },
        // Every session on a shared port may have a mapping of its own.
        shared: match config.pools.iter().any(validated::Pool::shares_ports) {
            true => share(system.sessions / of),
            false => 0,
        },
        workers: system.workers,
        pages: match system.hugepages {
            true => Pages::Reserved,
            false => Pages::Transparent,
        },
    };
    ShardSize {
        nat: nat(1),
        nat_v6: nat(ipv6_share(config)),
        neighbours: 4096,
        waiting: 1024,
        fragments: share(system.fragments),
    }
}

type Rings<B> = (
    Vec<rtrb::Consumer<Message<B>>>,
    Vec<Option<rtrb::Producer<Message<B>>>>,
);

/// A ring from every worker to every other.
fn rings<B>(workers: usize) -> Vec<Rings<B>> {
    let mut ends: Vec<Rings<B>> = (0..workers).map(|_| (Vec::new(), Vec::new())).collect();
    for from in 0..workers {
        for to in 0..workers {
            if from == to {
                ends[from].1.push(None);
                continue;
            }
            let (producer, consumer) = rtrb::RingBuffer::new(RING);
            ends[from].1.push(Some(producer));
            ends[to].0.push(consumer);
        }
    }
    ends
}

/// The thread that watches links, heartbeats and rates until its channel closes.
fn housekeeping(live: Arc<Live>) -> Result<(Sender<()>, JoinHandle<()>), Failure> {
    let (quit, quitting) = bounded::<()>(0);
    let body = move || {
        let watchdog = notify::watchdog_period().map_or(0, |period| {
            (period.as_millis() / LOOK.as_millis()).max(1) as u32
        });
        for turn in 0u32.. {
            match quitting.recv_timeout(LOOK) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => return,
            }
            live.watch_links();
            live.take_back_unconfirmed(live.clock.nanos());
            live.watch_exemptions();
            if turn.is_multiple_of(RATES_EVERY) {
                live.renew_rates();
                live.log_mappings();
                live.watch_pools();
                live.tell_limits();
                live.tell_refusals();
            }
            if turn.is_multiple_of(HOLDS_EVERY) {
                live.save_holds();
            }
            if watchdog > 0 && turn.is_multiple_of(watchdog) && live.workers_alive() {
                notify::alive();
            }
        }
    };
    let thread = std::thread::Builder::new()
        .name("housekeeping".to_owned())
        .spawn(body);
    let thread = thread
        .map_err(|e| Failure::new(FailureKind::Failed, "start", format!("no thread: {e}")))?;
    Ok((quit, thread))
}

/// The thread that collects what has to be logged until its channel closes.
fn log_collector(live: Arc<Live>) -> Result<(Sender<()>, JoinHandle<()>), Failure> {
    let (quit, quitting) = bounded::<()>(0);
    let body = move || {
        while let Err(RecvTimeoutError::Timeout) = quitting.recv_timeout(COLLECT) {
            live.collect_log();
        }
    };
    let thread = std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(body);
    let thread = thread
        .map_err(|e| Failure::new(FailureKind::Failed, "start", format!("no thread: {e}")))?;
    Ok((quit, thread))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_take_the_cores_near_the_cards() {
        let near = BTreeSet::from([4, 5, 6, 7]);
        let all: Vec<usize> = (0..8).collect();
        assert_eq!(chosen(&all, 2, &near), [4, 5, 6, 7, 1, 2, 3]);
        assert_eq!(chosen(&all, 2, &BTreeSet::new()), [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(chosen(&[0, 1], 2, &near), [0, 1], "none to spare");
    }
}
