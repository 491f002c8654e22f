//! `natgate bench wire`: a generator in a process of its own, before and behind whatever forwards packets.
//!
//! Its two ports may be anything DPDK drives; `memif:` needs no hardware, and natgate, testpmd and other programs can all
//! stand at the other end. As in the other benchmark every frame that comes back is examined. It sends as fast as the
//! rings take frames, or at a given rate; what the device under test does not pass on is lost.

use std::time::Duration;

use arrayvec::ArrayVec;
use serde::{Deserialize, Serialize};

use crate::base::Random;
use crate::bench::family::Family;
use crate::bench::ledger::Ledger;
use crate::bench::order::{Order, Pattern};
use crate::bench::phase::{Direction, Measured};
use crate::bench::record::{Circumstances, Percentiles};
use crate::bench::script::{Script, Templates};
use crate::bench::traffic::{Population, Purpose, Seen};
use crate::bench::{BenchError, machine};
use crate::dataplane::affinity;
use crate::dataplane::buffer::BURST;
use crate::dataplane::clock::Clock;
use crate::dataplane::device::Device;
use crate::dataplane::devices::{self, OpenedDevices, PortRequest, SystemRequest};
use crate::dataplane::provision::{PacketBuffers, PortBuffers};
use crate::dataplane::worker::PortQueues;
use crate::dpdk::{Error, Mbuf};
use crate::nat::rss::SourceSteering;
use crate::wire::MacAddr;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Ports on the inside and the outside of the device under test.
    pub ports: [Device; 2],
    /// MAC addresses of its ports.
    pub macs: [MacAddr; 2],
    /// Whether it translates, and how is examined; otherwise frames are only counted.
    pub translates: bool,
    /// What the packets are.
    pub family: Family,
    /// Flows.
    pub sessions: u32,
    /// Frame sizes, in turn, without the checksum the wire adds.
    pub lengths: Vec<usize>,
    /// What those sizes are called.
    pub frame: String,
    /// The order of the flows.
    pub pattern: Pattern,
    /// Seconds of each phase.
    pub seconds: f64,
    /// Frames a second; as fast as possible without.
    pub rate: Option<f64>,
    /// Core of the generator.
    pub core: usize,
    /// Use huge pages when there are any.
    pub hugepages: bool,
    /// For whatever is random.
    pub seed: u64,
}

/// What a phase came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WireTrial {
    /// `establish`, `validate out`, `validate in`, `out`, `in`, `both`.
    pub phase: String,
    /// What the packets were.
    pub family: Family,
    /// Flows.
    pub sessions: u64,
    /// Frame sizes: a number of bytes with the wire's checksum, or `imix`.
    pub frame: String,
    /// Order of the flows.
    pub pattern: Pattern,
    /// How long it sent.
    pub seconds: f64,
    /// Frames the rings took.
    pub sent: u64,
    /// Frames that came back.
    pub returned: u64,
    /// Frames that came back per second.
    pub packets_per_second: f64,
    /// The same, in each tenth of a second while it sent: where two cores are of one chip for a while and of different ones
    /// for another, as those of a virtual machine may be, handing frames over is fast or slow as that is.
    pub tenths_per_second: Vec<f64>,
    /// Frames that did not come back.
    pub lost: u64,
    /// Frames that came back other than they should have.
    pub wrong: u64,
    /// Frames that came back after a later one of their flow.
    pub reordered: u64,
    /// From handing a frame to the ring until it was seen again, of every 64th frame.
    pub latency: Percentiles,
    /// Where and with what.
    pub circumstances: Circumstances,
}

/// How long the other end may take to connect.
const CONNECT_NANOS: u64 = 30_000_000_000;

/// How often links are looked at, and how long the other end may take to see what we saw.
const LOOK: Duration = Duration::from_millis(20);
const SETTLE: Duration = Duration::from_secs(1);

/// What [`WireTrial::tenths_per_second`] is about.
const TENTH_NANOS: u64 = 100_000_000;

/// How long frames under way are waited for once nothing comes any more.
const SILENCE_NANOS: u64 = 200_000_000;

/// Times a flow is opened before it is given up.
const ATTEMPTS: u32 = 5;

/// Of every so many frames one is timed.
const TIMED: u32 = 64;

/// Frames under way at most, in [`TIMED`]s: more than all rings hold.
const UNDER_WAY: usize = 1024;

/// Descriptors of each ring.
const DESCRIPTORS: u16 = 1024;
/// MTU of both ports.
const MTU: u16 = 1500;

/// Runs all phases.
///
/// # Errors
/// When a port cannot be opened, nobody connects, or sessions cannot be established.
pub fn run(options: &Options) -> Result<Vec<WireTrial>, BenchError> {
    let gigahertz_before = machine::gigahertz();
    let mut devices = open(options)?;
    let _registered = devices.eal.register_thread().map_err(failed)?;
    // A generator that may move between cores measures the scheduler; where pinning is refused, so be it.
    let _ = affinity::pin_to([options.core]);
    let ports = devices.workers.pop().map(|w| w.ports).unwrap_or_default();
    let mut wire = Wire::new(options, &devices, ports)?;
    wire.wait_for_link(&devices)?;
    let mut results = Vec::new();
    if options.translates {
        results.push(("establish", wire.establish()?, Vec::new()));
        for (name, direction) in [
            ("validate out", Direction::Outward),
            ("validate in", Direction::Inward),
        ] {
            let measured = wire.phase(direction, Until::EveryFlow)?;
            results.push((name, measured, Vec::new()));
        }
    }
    for (name, direction) in [
        ("out", Direction::Outward),
        ("in", Direction::Inward),
        ("both", Direction::Both),
    ] {
        let measured = wire.phase(direction, Until::Time)?;
        let tenths = std::mem::take(&mut wire.tenths);
        results.push((name, measured, tenths.per_second));
    }
    let circumstances = Circumstances {
        gigahertz_before,
        ..Circumstances::now(options.seed)
    };
    let trials = results.into_iter();
    Ok(trials
        .map(|(name, measured, tenths)| WireTrial {
            tenths_per_second: tenths,
            ..trial(options, name, &measured, &circumstances)
        })
        .collect())
}

fn failed(error: Error) -> BenchError {
    BenchError::Results(error.to_string())
}

fn open(options: &Options) -> Result<OpenedDevices, BenchError> {
    let ports = options.ports.iter().map(|device| PortBuffers {
        device,
        queues: 1,
        descriptors: DESCRIPTORS,
        mtu: MTU,
    });
    let system = SystemRequest {
        workers: 1,
        hugepages: options.hugepages,
        instance: format!("natgate-wire-{}", std::process::id()),
        eal_args: Vec::new(),
        buffers: PacketBuffers::of(ports, 1),
    };
    let requests = ["inside", "outside"]
        .iter()
        .zip(&options.ports)
        .map(|(name, device)| PortRequest {
            name: (*name).to_owned(),
            device: device.clone(),
            queues: 1,
            mtu: MTU,
            mac: None,
            promiscuous: true,
            descriptors: DESCRIPTORS,
            inside: true,
        });
    let steering = SourceSteering::new(&mut Random::from_seed(options.seed));
    devices::open(&system, &requests.collect::<Vec<_>>(), &steering).map_err(failed)
}

/// When a phase ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// Its time is over.
    Time,
    /// Every flow has sent once; every frame is examined.
    EveryFlow,
}

type Mbufs = ArrayVec<Mbuf, BURST>;

/// Keeps so few frames under way that no ring can overflow: what is lost then was lost by translation.
struct Window {
    returned: u64,
    heard: u64,
    given_up: u64,
}

impl Window {
    /// Frames: half of what a ring holds.
    const WIDTH: u64 = DESCRIPTORS as u64 / 2;

    fn new(now: u64) -> Window {
        Window {
            returned: 0,
            heard: now,
            given_up: 0,
        }
    }

    /// Whether another burst may be sent. Frames that have not come back after a silence never will.
    fn is_open(&mut self, measured: &Measured, now: u64) -> bool {
        let sent = measured.sent();
        let returned = measured.returned();
        if returned > self.returned {
            (self.returned, self.heard) = (returned, now);
        }
        let under_way = sent.saturating_sub(returned);
        if now - self.heard > SILENCE_NANOS {
            (self.given_up, self.heard) = (under_way, now);
        }
        under_way.saturating_sub(self.given_up) < Window::WIDTH
    }
}

/// The generator.
struct Wire<'a> {
    options: &'a Options,
    pool: crate::dpdk::Mempool,
    ports: Vec<PortQueues<Mbuf>>,
    /// What the rings have not taken yet.
    pending: [Mbufs; 2],
    script: Script,
    templates: Templates,
    ledger: Ledger,
    order: Order,
    turn: Order,
    clock: Clock,
    measured: Measured,
    /// When the frames were sent whose sequence numbers are multiples of [`TIMED`].
    stamps: Box<[u64; UNDER_WAY]>,
    tenths: Tenths,
}

/// How many frames came back in each tenth of a second.
#[derive(Default)]
struct Tenths {
    /// When the current one began, from the beginning of the phase, and what had come back then.
    began: (u64, u64),
    per_second: Vec<f64>,
}

impl Tenths {
    /// `returned` frames have come back since the phase began, `elapsed` nanoseconds ago.
    fn note(&mut self, elapsed: u64, returned: u64) {
        let (began, before) = self.began;
        if elapsed - began >= TENTH_NANOS {
            let seconds = (elapsed - began) as f64 / 1e9;
            self.per_second.push((returned - before) as f64 / seconds);
            self.began = (elapsed, returned);
        }
    }
}

impl<'a> Wire<'a> {
    fn new(
        options: &'a Options,
        devices: &OpenedDevices,
        ports: Vec<PortQueues<Mbuf>>,
    ) -> Result<Wire<'a>, BenchError> {
        let script = Script {
            phases: Vec::new(),
            family: options.family,
            population: Population::new(options.sessions, 0, |_| true),
            flows: options.sessions,
            established: options.sessions,
            pattern: options.pattern,
            lengths: options.lengths.clone(),
            macs: options.macs,
            pool: (0, 1),
            seed: options.seed,
        };
        let mut ledger = Ledger::new(script.family, script.population.clone(), script.flows)?;
        if !options.translates {
            ledger.learn_untranslated();
        }
        Ok(Wire {
            templates: Templates::new(&script),
            ledger,
            order: Order::new(options.pattern, options.sessions, options.seed),
            turn: Order::new(Pattern::Random, options.sessions, options.seed),
            options,
            pool: devices.pool.clone(),
            ports,
            pending: [Mbufs::new(), Mbufs::new()],
            script,
            clock: Clock::start(),
            measured: Measured::new()?,
            stamps: Box::new([0; UNDER_WAY]),
            tenths: Tenths::default(),
        })
    }

    fn wait_for_link(&self, devices: &OpenedDevices) -> Result<(), BenchError> {
        let began = self.clock.nanos();
        while !devices.ports.iter().all(|port| port.poll_link().up) {
            if self.clock.nanos() - began > CONNECT_NANOS {
                let why = "nobody has connected to both ports (start the device under test first)";
                return Err(BenchError::Results(why.to_owned()));
            }
            std::thread::sleep(LOOK);
        }
        // The other end may look at its links less often.
        std::thread::sleep(SETTLE);
        Ok(())
    }

    /// Opens every flow; those whose first packet was lost once more.
    fn establish(&mut self) -> Result<Measured, BenchError> {
        let began = self.clock.nanos();
        let mut unknown: Vec<u32> = (0..self.options.sessions).collect();
        for _ in 0..ATTEMPTS {
            for flows in unknown.chunks(BURST) {
                self.write(true, Purpose::Opening, flows);
                while !self.pending[0].is_empty() {
                    self.send(0);
                    self.receive_both(false);
                }
            }
            self.measured.nanos = self.clock.nanos() - began;
            self.drain(false);
            unknown.retain(|flow| !self.ledger.knows(*flow));
            if unknown.is_empty() {
                return self.finish();
            }
        }
        Err(BenchError::Results(format!(
            "{} of {} sessions could not be established",
            unknown.len(),
            self.options.sessions
        )))
    }

    fn phase(&mut self, direction: Direction, until: Until) -> Result<Measured, BenchError> {
        let thorough = until == Until::EveryFlow && self.options.translates;
        let (began, mut written) = (self.clock.nanos(), 0u64);
        let mut window = Window::new(began);
        let last = u64::from(self.options.sessions);
        loop {
            let elapsed = self.clock.nanos() - began;
            let over = match until {
                Until::Time => elapsed as f64 >= self.options.seconds * 1e9,
                Until::EveryFlow => written >= last && self.pending.iter().all(ArrayVec::is_empty),
            };
            if over {
                self.measured.nanos = elapsed;
                break;
            }
            if until == Until::Time {
                self.tenths.note(elapsed, self.measured.returned());
            }
            for side in [0, 1] {
                let inside = side == 0;
                if !direction.sends(inside) {
                    continue;
                }
                if self.pending[side].is_empty() {
                    let mut count = BURST as u64;
                    if until == Until::EveryFlow {
                        count = count.min(last - written);
                        if !window.is_open(&self.measured, self.clock.nanos()) {
                            count = 0;
                        }
                    }
                    if let Some(rate) = self.options.rate {
                        let due = (elapsed as f64 * rate / 1e9) as u64;
                        count = count.min(due.saturating_sub(written));
                    }
                    self.write_next(inside, thorough, count as usize);
                    written += self.pending[side].len() as u64;
                }
                self.send(side);
            }
            self.receive_both(thorough);
        }
        for pending in &mut self.pending {
            Mbuf::free_bulk(pending);
        }
        self.drain(thorough);
        self.finish()
    }

    /// Generates frames of established flows in their order.
    fn write_next(&mut self, inside: bool, thorough: bool, count: usize) {
        let mut flows = [0; BURST];
        for flow in flows.iter_mut().take(count) {
            *flow = match thorough {
                false => self.order.next_flow(),
                true => self.turn.next_flow(),
            };
            if !inside {
                self.ledger.prefetch(*flow, false);
            }
        }
        self.write(inside, Purpose::Established, &flows[..count]);
    }

    /// Generates one frame of each of these flows; none when there are no buffers.
    fn write(&mut self, inside: bool, purpose: Purpose, flows: &[u32]) {
        let mbufs = &mut self.pending[usize::from(!inside)];
        if flows.is_empty() || !self.pool.alloc_bulk(flows.len(), mbufs) {
            return;
        }
        let now = crate::arch::cycles();
        for (mbuf, &flow) in mbufs.iter_mut().zip(flows) {
            let tuple = match inside {
                true => self.script.population.tuple(flow),
                false => self.ledger.answer(flow),
            };
            let (template, sequence) = match purpose {
                Purpose::Opening => self.templates.opening(),
                _ => self.templates.datagram(inside),
            };
            if mbuf.set_len(template.length()) {
                template.write(mbuf.bytes_mut(), &tuple, flow, sequence);
            }
            if sequence.is_multiple_of(TIMED) {
                self.stamps[(sequence / TIMED) as usize % UNDER_WAY] = now;
            }
        }
    }

    /// Hands over what is pending.
    fn send(&mut self, side: usize) {
        let pending = &mut self.pending[side];
        let purpose = pending
            .first()
            .and_then(|mbuf| Seen::read(self.script.family, mbuf.bytes()))
            .map(|seen| seen.purpose);
        if let (Some(port), Some(purpose)) = (self.ports.get_mut(side), purpose) {
            let sent = port.tx.queue.transmit(pending);
            self.measured.tallies[purpose as usize].sent += sent as u64;
        }
    }

    /// Takes in and examines what has come back on both ports; returns how much.
    fn receive_both(&mut self, thorough: bool) -> usize {
        let mut count = 0;
        for (side, port) in self.ports.iter_mut().enumerate() {
            let mut burst = Mbufs::new();
            for queue in &mut port.rx {
                count += queue.queue.receive(&mut burst);
            }
            let now = crate::arch::cycles();
            for mbuf in &burst {
                let frame = mbuf.bytes();
                let Some(seen) = Seen::read(self.script.family, frame) else {
                    self.measured.others += 1;
                    continue;
                };
                self.measured.tallies[seen.purpose as usize].returned += 1;
                if seen.sequence.is_multiple_of(TIMED) {
                    let sent = self.stamps[(seen.sequence / TIMED) as usize % UNDER_WAY];
                    let residence = &mut self.measured.residence;
                    residence.saturating_record(now.saturating_sub(sent));
                }
                if self.options.translates {
                    let measured = &mut self.measured;
                    self.ledger
                        .examine(&seen, frame, side == 0, thorough, measured);
                }
            }
            Mbuf::free_bulk(&mut burst);
        }
        count
    }

    /// Waits for what is under way.
    fn drain(&mut self, thorough: bool) {
        let mut heard = self.clock.nanos();
        while self.clock.nanos() - heard < SILENCE_NANOS {
            if self.receive_both(thorough) > 0 {
                heard = self.clock.nanos();
            }
        }
    }

    fn finish(&mut self) -> Result<Measured, BenchError> {
        Ok(std::mem::replace(&mut self.measured, Measured::new()?))
    }
}

fn trial(
    options: &Options,
    name: &str,
    measured: &Measured,
    circumstances: &Circumstances,
) -> WireTrial {
    let seconds = measured.nanos as f64 / 1e9;
    let returned = measured.returned();
    WireTrial {
        phase: name.to_owned(),
        family: options.family,
        sessions: u64::from(options.sessions),
        frame: options.frame.clone(),
        pattern: options.pattern,
        seconds,
        sent: measured.sent(),
        returned,
        packets_per_second: returned as f64 / seconds,
        tenths_per_second: Vec::new(),
        lost: measured.sent().saturating_sub(returned),
        wrong: measured.wrong,
        reordered: measured.reordered,
        latency: Percentiles::of(&measured.residence, circumstances.cycle_gigahertz),
        circumstances: circumstances.clone(),
    }
}

/// The heading of a table of trials.
pub fn heading() -> String {
    format!(
        "{:<13} {:>9} {:>6} {:>8} {:>9} {:>9} {:>9} {:>9} {:>10}",
        "phase", "sessions", "frame", "Mpps", "p50 µs", "p99.9 µs", "lost", "wrong", "reordered"
    )
}

/// A trial as a line of it.
pub fn row(trial: &WireTrial) -> String {
    format!(
        "{:<13} {:>9} {:>6} {:>8.2} {:>9.1} {:>9.1} {:>9} {:>9} {:>10}",
        trial.phase,
        trial.sessions,
        trial.frame,
        trial.packets_per_second / 1e6,
        trial.latency.p50_nanos / 1e3,
        trial.latency.p99_9_nanos / 1e3,
        trial.lost,
        trial.wrong,
        trial.reordered
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenths_of_a_second_are_told_apart() {
        let mut tenths = Tenths::default();
        for (elapsed, returned) in [
            (60_000_000, 50),
            (100_000_000, 100),
            (150_000_000, 120),
            (300_000_000, 500),
        ] {
            tenths.note(elapsed, returned);
        }
        assert_eq!(tenths.per_second, [1_000.0, 2_000.0]);
    }
}
