//! The poll-mode loop of one worker, over any devices.
//!
//! ```text
//!   policy? ─▶ rx bursts ─▶ rings from other workers ─▶ job slice ─▶ maintenance slice ─▶ tx flush ─▶ idle?
//! ```
//!
//! Nothing here blocks while there is work. A worker shares nothing but rings, the published policy and a few numbers
//! that it alone writes.

mod job;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use crossbeam_utils::CachePadded;

use crate::base::time::Now;
use crate::base::{DropReason, PortId, WorkerId};
use crate::dataplane::buffer::{BURST, Buffer, Burst, Heard, Message, Sink};
use crate::dataplane::clock::Clock;
use crate::dataplane::counters::Counters;
use crate::dataplane::journal::Outlet;
use crate::dataplane::maintain::Slice;
use crate::dataplane::published::Reader;
use crate::dataplane::shard::Shard;
use crate::nat::expiry::SweepBudget;
use crate::nat::policy::Policy;

pub use job::{Job, JobContext, Progress, Question, consign};

/// A receive queue.
pub trait RxQueue<B>: Send {
    /// Fills the empty burst with what has arrived; returns how many.
    fn receive(&mut self, burst: &mut Burst<B>) -> usize;
}

/// A transmit queue.
pub trait TxQueue<B>: Send {
    /// Sends from the front of the burst; what is refused stays in it. Returns how many went.
    fn transmit(&mut self, burst: &mut Burst<B>) -> usize;
}

/// Where buffers come from and go to.
pub trait BufferPool<B>: Send {
    /// An empty buffer, if there is one.
    fn allocate(&mut self) -> Option<B>;
    /// Frees a whole burst at once.
    fn free(&mut self, burst: &mut Burst<B>);
}

/// A queue of a device, and what is counted on it.
pub struct Numbered<Q: ?Sized> {
    /// Its number on the device.
    pub number: u16,
    /// What this worker counts.
    pub numbers: QueueNumbers,
    /// The queue itself.
    pub queue: Box<Q>,
}

impl<Q: ?Sized> Numbered<Q> {
    /// The queue with this number; nothing is counted yet.
    pub fn new(number: u16, queue: Box<Q>) -> Numbered<Q> {
        Numbered {
            number,
            numbers: QueueNumbers::default(),
            queue,
        }
    }
}

/// What one worker counts on one queue. It alone writes, management reads.
#[derive(Debug, Default)]
pub struct QueueShared {
    /// Bursts that were not empty.
    pub bursts: AtomicU64,
    /// Packets in them.
    pub packets: AtomicU64,
    /// Packets the device did not take at the second try either, and that were dropped.
    pub refused: AtomicU64,
}

/// The numbers of one queue, padded against false sharing.
pub type QueueNumbers = Arc<CachePadded<QueueShared>>;

impl QueueShared {
    fn burst(&self, packets: usize) {
        add(&self.bursts, 1);
        add(&self.packets, packets as u64);
    }
}

/// One port as a worker sees it.
pub struct PortQueues<B> {
    /// Which port.
    pub port: PortId,
    /// Receive queues this worker polls; none on devices with fewer queues than workers.
    pub rx: Vec<Numbered<dyn RxQueue<B>>>,
    /// Its transmit queue.
    pub tx: Numbered<dyn TxQueue<B>>,
    /// Whether the link is up; written by the management side.
    pub link: Arc<AtomicBool>,
}

/// What management reads of a worker without asking it.
#[derive(Debug, Default)]
pub struct WorkerShared {
    /// Milliseconds since start at the last loop.
    pub heartbeat_millis: AtomicU64,
    /// Loops run.
    pub loops: AtomicU64,
    /// Loops that found work.
    pub busy_loops: AtomicU64,
    /// Nanoseconds spent in loops that found work.
    pub busy_nanos: AtomicU64,
    /// Bursts received and the packets in them: the average batch.
    pub bursts: AtomicU64,
    /// Version of the policy in use.
    pub policy_version: AtomicU64,
}

/// Shared numbers of all workers, padded against false sharing.
pub type WorkerNumbers = Arc<CachePadded<WorkerShared>>;

/// How an idle worker behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Never yields its core.
    Poll,
    /// Yields, then sleeps for ever longer moments, up to a quarter of a millisecond.
    Adaptive,
}

/// Everything a worker is made of.
pub struct Worker<B: Buffer> {
    /// Its state.
    pub shard: Shard<B>,
    /// Its queues.
    pub ports: Vec<PortQueues<B>>,
    /// Its buffers.
    pub pool: Box<dyn BufferPool<B>>,
    /// Rings from the other workers.
    pub rings_in: Vec<rtrb::Consumer<Message<B>>>,
    /// Rings to the other workers, by worker; none to itself.
    pub rings_out: Vec<Option<rtrb::Producer<Message<B>>>>,
    /// The policy.
    pub policy: Reader<Policy>,
    /// Jobs from management.
    pub jobs: Receiver<Job>,
    /// What management wants to hear.
    pub heard: Option<Sender<Heard>>,
    /// Where what has to be logged goes.
    pub log: Outlet,
    /// Numbers for management.
    pub shared: WorkerNumbers,
    /// Set when the gateway stops.
    pub stop: Arc<AtomicBool>,
    /// Time.
    pub clock: Clock,
    /// Behaviour without work.
    pub idle: Idle,
}

/// Messages taken from one ring per loop.
const RING_BATCH: usize = BURST;

/// How long rings are still served after the stop, so that nothing in flight is lost.
const DRAIN: Duration = Duration::from_millis(50);

impl<B: Buffer> Worker<B> {
    /// Runs until told to stop, then drains and returns the final counters (nothing is held then).
    pub fn run(self) -> Counters {
        let Worker {
            mut shard,
            ports,
            pool,
            mut rings_in,
            rings_out,
            mut policy,
            jobs,
            heard,
            mut log,
            shared,
            stop,
            clock,
            idle,
        } = self;
        let (mut rx, tx) = split(ports);
        let mut sink = WorkerSink::new(tx, pool, rings_out, heard);
        let mut burst = Burst::new();
        let mut job: Option<Job> = None;
        let mut pace = Pace::new(idle);
        let mut maintained = clock.now().millis;
        let mut drain_until = None;
        shard.policy_changed(policy.get(), clock.now(), &mut sink);
        if shard.id == WorkerId(0) {
            shard.announce(policy.get(), None, &mut sink);
        }
        let mut now = clock.now();
        loop {
            if let Some(before) = policy.refresh() {
                shard.policy_changed(policy.get(), now, &mut sink);
                if shard.id == WorkerId(0) {
                    shard.announce(policy.get(), Some(&before), &mut sink);
                }
            }
            let snapshot = policy.get();
            let mut work = 0;
            if drain_until.is_none() {
                for (port, from) in &mut rx {
                    let count = from.queue.receive(&mut burst);
                    if count > 0 {
                        work += count;
                        add(&shared.bursts, 1);
                        from.numbers.burst(count);
                        shard.receive(snapshot, now, *port, &mut burst, &mut sink);
                    }
                }
            }
            for ring in &mut rings_in {
                for _ in 0..RING_BATCH {
                    let Ok(message) = ring.pop() else { break };
                    work += 1;
                    shard.receive_message(snapshot, now, message, &mut sink);
                }
            }
            if job.is_none() {
                job = jobs.try_recv().ok();
            }
            if let Some(current) = &mut job {
                work += 1;
                if run(current, &mut shard, snapshot, now, &mut sink) == Progress::Done {
                    job = None;
                }
            }
            let elapsed = now.millis - maintained;
            if elapsed > 0 {
                maintained = now.millis;
                sink.keep_alive();
                let slice = slice(elapsed, &shard);
                shard.maintain(snapshot, now, slice, &mut sink);
                shard.carry_log(&mut log);
            }
            sink.flush();
            sink.settle(&mut shard.counters);
            shared
                .policy_version
                .store(u64::from(policy.version()), Ordering::Release);
            match drain_until {
                None if stop.load(Ordering::Relaxed) => {
                    drain_until = Some(now.millis + DRAIN.as_millis() as u64)
                }
                Some(until) if now.millis >= until => break,
                _ => {}
            }
            now = pace.after(work, &clock, &shared);
        }
        for ring in &mut rings_in {
            while let Ok(message) = ring.pop() {
                if let Message::Packet(incoming) = message {
                    shard.counters.handoff_in += 1;
                    shard.counters.drop(DropReason::Shutdown);
                    sink.discard(incoming.buffer);
                }
            }
        }
        shard.shut_down(&mut sink);
        shard.carry_log(&mut log);
        sink.finish();
        sink.settle(&mut shard.counters);
        shard.counters
    }
}

/// Runs a slice of a job.
fn run<B: Buffer>(
    job: &mut Job,
    shard: &mut Shard<B>,
    policy: &Policy,
    now: Now,
    sink: &mut WorkerSink<B>,
) -> Progress {
    let question = match job {
        Job::Ask(question) => question,
        Job::Send(consignment) => {
            return match shard.send_consignment(policy, now, consignment, sink) {
                true => Progress::Done,
                false => Progress::Again,
            };
        }
    };
    let held = shard.held() + sink.pending();
    sink.settle(&mut shard.counters);
    question(&mut JobContext {
        worker: shard.id,
        policy,
        now,
        nat: &mut shard.nat,
        nat_v6: &mut shard.nat_v6,
        neighbours: &mut shard.neighbours,
        counters: &mut shard.counters,
        accounts: &shard.accounts,
        held,
    })
}

/// The maintenance due after `elapsed` milliseconds: a whole turn over the sessions takes a second, or as long as two million
/// sessions a second allow, about 1 % of a core; and no slice delays a packet by more than some tens of microseconds.
fn slice<B: Buffer>(elapsed: u64, shard: &Shard<B>) -> Slice {
    let due = |entries: u64| entries * elapsed / 1000;
    let budget = |sessions: u32, subscribers: usize| SweepBudget {
        sessions: due(sessions.into()).clamp(64, 2048) as u32,
        ended: 256,
        subscribers: due(subscribers as u64).clamp(16, 256) as u32,
    };
    let (v4, v6) = (&shard.nat, &shard.nat_v6);
    Slice {
        sweep: budget(v4.sessions.high_water(), v4.subscribers.capacity()),
        sweep_v6: budget(v6.sessions.high_water(), v6.subscribers.capacity()),
        neighbours: 64,
        datagrams: 64,
    }
}

/// Adds to a number that nobody else writes.
fn add(number: &AtomicU64, n: u64) {
    number.store(number.load(Ordering::Relaxed) + n, Ordering::Relaxed);
}

type RxSide<B> = Vec<(PortId, Numbered<dyn RxQueue<B>>)>;

fn split<B>(ports: Vec<PortQueues<B>>) -> (RxSide<B>, Vec<PortTx<B>>) {
    let mut rx = Vec::new();
    let mut tx = Vec::new();
    for port in ports {
        rx.extend(port.rx.into_iter().map(|queue| (port.port, queue)));
        tx.push(PortTx {
            port: port.port,
            to: port.tx,
            pending: Burst::new(),
            retried: false,
            link: port.link,
        });
    }
    (rx, tx)
}

struct PortTx<B> {
    port: PortId,
    to: Numbered<dyn TxQueue<B>>,
    pending: Burst<B>,
    /// The tail in `pending` was refused in the loop before.
    retried: bool,
    link: Arc<AtomicBool>,
}

/// Collects a loop's output per port and sends it in bursts.
struct WorkerSink<B> {
    /// By port id; a hole is a port without a queue here.
    tx: Vec<Option<PortTx<B>>>,
    pool: Box<dyn BufferPool<B>>,
    free: Burst<B>,
    rings_out: Vec<Option<rtrb::Producer<Message<B>>>>,
    heard: Option<Sender<Heard>>,
    sent: u64,
    tx_full: u64,
    link_down: u64,
}

impl<B> WorkerSink<B> {
    fn new(
        ports: Vec<PortTx<B>>,
        pool: Box<dyn BufferPool<B>>,
        rings_out: Vec<Option<rtrb::Producer<Message<B>>>>,
        heard: Option<Sender<Heard>>,
    ) -> Self {
        let mut tx = Vec::new();
        for port in ports {
            let at = port.port.index();
            if tx.len() <= at {
                tx.resize_with(at + 1, || None);
            }
            tx[at] = Some(port);
        }
        WorkerSink {
            tx,
            pool,
            free: Burst::new(),
            rings_out,
            heard,
            sent: 0,
            tx_full: 0,
            link_down: 0,
        }
    }

    /// Frames waiting for a transmit queue.
    fn pending(&self) -> u64 {
        self.tx
            .iter()
            .flatten()
            .map(|p| p.pending.len() as u64)
            .sum()
    }

    /// Moves what was counted here into the shard's counters.
    fn settle(&mut self, counters: &mut Counters) {
        counters.sent += std::mem::take(&mut self.sent);
        counters.drops[DropReason::TxFull.index()] += std::mem::take(&mut self.tx_full);
        counters.drops[DropReason::LinkDown.index()] += std::mem::take(&mut self.link_down);
    }

    /// Sends everything; a tail that was refused twice is dropped.
    fn flush(&mut self) {
        for i in 0..self.tx.len() {
            self.flush_port(i);
        }
        if !self.free.is_empty() {
            self.pool.free(&mut self.free);
        }
    }

    /// Calls every queue, also without packets: a bond takes part in LACP only while its queues are called.
    fn keep_alive(&mut self) {
        let mut nothing = Burst::new();
        for port in self.tx.iter_mut().flatten() {
            port.to.queue.transmit(&mut nothing);
        }
    }

    fn flush_port(&mut self, at: usize) {
        let Some(port) = self.tx.get_mut(at).and_then(Option::as_mut) else {
            return;
        };
        if port.pending.is_empty() {
            return;
        }
        if !port.link.load(Ordering::Relaxed) {
            self.link_down += port.pending.len() as u64;
            self.pool.free(&mut port.pending);
            port.retried = false;
            return;
        }
        let sent = port.to.queue.transmit(&mut port.pending);
        if sent > 0 {
            self.sent += sent as u64;
            port.to.numbers.burst(sent);
        }
        if port.pending.is_empty() {
            port.retried = false;
        } else if port.retried {
            let refused = port.pending.len() as u64;
            self.tx_full += refused;
            add(&port.to.numbers.refused, refused);
            self.pool.free(&mut port.pending);
            port.retried = false;
        } else {
            port.retried = true;
        }
    }

    /// Makes room for a frame by sending what waits.
    #[cold]
    fn transmit_full(&mut self, at: usize, buffer: B) {
        self.flush_port(at);
        let refused = match self.tx.get_mut(at) {
            Some(Some(port)) => port.pending.try_push(buffer).map_err(|e| e.element()),
            _ => Err(buffer),
        };
        if let Err(buffer) = refused {
            self.tx_full += 1;
            if let Some(Some(port)) = self.tx.get(at) {
                add(&port.to.numbers.refused, 1);
            }
            self.release(buffer);
        }
    }

    /// Collects a buffer to be freed with others.
    fn release(&mut self, buffer: B) {
        if let Err(refused) = self.free.try_push(buffer) {
            self.pool.free(&mut self.free);
            self.free.push(refused.element());
        }
    }

    /// Sends what is left and lets go of what is refused.
    fn finish(&mut self) {
        self.flush();
        self.flush();
    }
}

impl<B: Buffer> Sink<B> for WorkerSink<B> {
    fn allocate(&mut self) -> Option<B> {
        self.pool.allocate()
    }

    #[inline]
    fn transmit(&mut self, port: PortId, buffer: B) {
        let Some(Some(to)) = self.tx.get_mut(port.index()) else {
            self.link_down += 1;
            return self.release(buffer);
        };
        if let Err(refused) = to.pending.try_push(buffer) {
            self.transmit_full(port.index(), refused.element());
        }
    }

    fn discard(&mut self, buffer: B) {
        self.release(buffer);
    }

    fn hand_over(&mut self, to: WorkerId, message: Message<B>) -> Result<(), Message<B>> {
        match self.rings_out.get_mut(to.index()) {
            Some(Some(ring)) => ring
                .push(message)
                .map_err(|rtrb::PushError::Full(message)| message),
            _ => Err(message),
        }
    }

    fn tell_control(&mut self, heard: Heard) -> bool {
        let listener = self.heard.as_ref();
        listener.is_some_and(|listener| listener.try_send(heard).is_ok())
    }
}

/// Keeps a worker's core usable by others while there is nothing to do.
struct Pace {
    idle: Idle,
    empty_loops: u32,
    last_nanos: u64,
}

impl Pace {
    /// Empty loops before the core is offered to others, and before the worker sleeps.
    const YIELD_AFTER: u32 = 64;
    const SLEEP_AFTER: u32 = 256;
    const LONGEST_SLEEP_MICROS: u64 = 250;

    fn new(idle: Idle) -> Pace {
        Pace {
            idle,
            empty_loops: 0,
            last_nanos: 0,
        }
    }

    /// Accounts for a loop with `work` and waits if there has been none for long. Returns the time, which the next loop goes by:
    /// a loop is short, and a look at the clock costs as much as a packet.
    fn after(&mut self, work: usize, clock: &Clock, shared: &WorkerShared) -> Now {
        let nanos = clock.nanos();
        let now = Clock::at(nanos);
        shared.heartbeat_millis.store(now.millis, Ordering::Relaxed);
        add(&shared.loops, 1);
        if work > 0 {
            add(&shared.busy_loops, 1);
            add(&shared.busy_nanos, nanos.saturating_sub(self.last_nanos));
            self.empty_loops = 0;
        } else {
            self.empty_loops = self.empty_loops.saturating_add(1);
        }
        self.last_nanos = nanos;
        if self.idle == Idle::Poll || self.empty_loops < Pace::YIELD_AFTER {
            return now;
        }
        if self.empty_loops < Pace::SLEEP_AFTER {
            std::thread::yield_now();
        } else {
            let micros = u64::from(self.empty_loops - Pace::SLEEP_AFTER)
                .clamp(10, Pace::LONGEST_SLEEP_MICROS);
            std::thread::sleep(Duration::from_micros(micros));
        }
        self.last_nanos = clock.nanos();
        Clock::at(self.last_nanos)
    }
}
