//! Devices in memory for one worker: receive queues that compute frames, transmit queues that check and recycle them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender};

use crate::bench::PORTS;
use crate::bench::traffic::{Population, Shuffle, flow_of, write_frame};
use crate::dataplane::buffer::{BURST, Buffer, Burst};
use crate::dataplane::clock::Clock;
use crate::dataplane::worker::{BufferPool, Numbered, PortQueues, RxQueue, TxQueue};
use crate::flow::key::Tuple;
use crate::wire::{ETHERTYPE_IPV4, MacAddr, read_u16, read_u32};

/// What is measured, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The generator and the check alone: what the other phases contain besides natgate.
    Generator,
    /// The first packet of every flow.
    Establish,
    /// Established flows, inside to outside.
    Outbound,
    /// Established flows, outside to inside.
    Inbound,
    /// Both directions in turn.
    Both,
}

impl Phase {
    /// Every phase, in order.
    pub const ALL: [Phase; Phase::COUNT] = [
        Phase::Generator,
        Phase::Establish,
        Phase::Outbound,
        Phase::Inbound,
        Phase::Both,
    ];
    /// Number of phases.
    pub const COUNT: usize = 5;
}

/// What one phase took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measured {
    /// Packets.
    pub packets: u64,
    /// Time stamp counter cycles.
    pub cycles: u64,
    /// Nanoseconds.
    pub nanos: u64,
}

/// What a worker's script came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// By phase.
    pub measured: [Measured; Phase::COUNT],
    /// Frames that came back other than they should.
    pub wrong: u64,
}

/// A worker's task.
pub struct Script {
    flows: Vec<u32>,
    packets: u64,
    population: Population,
    frame_bytes: usize,
}

impl Script {
    /// All phases over the given flows.
    pub fn standard(
        flows: Vec<u32>,
        packets: u64,
        population: Population,
        frame_bytes: usize,
    ) -> Script {
        Script {
            flows,
            packets,
            population,
            frame_bytes,
        }
    }
}

/// A frame in a slot of its own. One word to move about, like an mbuf.
#[derive(Debug)]
pub struct SlotBuffer(Box<Slot>);

#[derive(Debug)]
struct Slot {
    start: usize,
    end: usize,
    bytes: [u8; HEADROOM + ROOM],
}

const HEADROOM: usize = 64;

/// Largest frame.
const ROOM: usize = 1536;

impl SlotBuffer {
    fn new() -> SlotBuffer {
        SlotBuffer(Box::new(Slot {
            start: HEADROOM,
            end: HEADROOM,
            bytes: [0; HEADROOM + ROOM],
        }))
    }

    fn reset(&mut self, length: usize) {
        self.0.start = HEADROOM;
        self.0.end = (HEADROOM + length).min(self.0.bytes.len());
    }
}

impl Buffer for SlotBuffer {
    fn bytes(&self) -> &[u8] {
        &self.0.bytes[self.0.start..self.0.end]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0.bytes[self.0.start..self.0.end]
    }

    fn prepend(&mut self, count: usize) -> bool {
        let fits = count <= self.0.start;
        if fits {
            self.0.start -= count;
        }
        fits
    }

    fn trim_front(&mut self, count: usize) -> bool {
        let fits = count <= self.0.end - self.0.start;
        if fits {
            self.0.start += count;
        }
        fits
    }

    fn set_len(&mut self, length: usize) -> bool {
        let fits = self.0.start + length <= self.0.bytes.len();
        if fits {
            self.0.end = self.0.start + length;
        }
        fits
    }
}

/// What the queues of one worker share. Locked once per burst, never contended: all of them run on that worker's thread.
struct State {
    script: Script,
    macs: [MacAddr; 2],
    free: Vec<SlotBuffer>,
    phase: usize,
    generated: u64,
    finished: u64,
    order: Shuffle,
    /// Outside endpoint of each flow, learned while they are established.
    outside: Vec<(u32, u16)>,
    measured: [Measured; Phase::COUNT],
    began: Option<(u64, u64)>,
    wrong: u64,
    clock: Clock,
    barrier: Arc<Barrier>,
    stop: Arc<AtomicBool>,
    running: Arc<AtomicUsize>,
    done: Option<Sender<Outcome>>,
}

type Shared = Arc<Mutex<State>>;

/// The receive side of one port.
pub struct Generator {
    state: Shared,
    inside: bool,
}

struct Checker {
    state: Shared,
    inside: bool,
}

struct Pool {
    state: Shared,
}

/// Buffers in circulation for one worker: enough for both directions' bursts.
const BUFFERS: usize = 8 * BURST;

/// In the timed outbound phase every 16th frame is compared with its flow's outside endpoint.
const CHECK_EVERY: u32 = 16;

impl Generator {
    /// The queues, the pool, and where the outcome will appear.
    #[allow(clippy::type_complexity)]
    pub fn build(
        script: Script,
        barrier: Arc<Barrier>,
        stop: Arc<AtomicBool>,
        running: Arc<AtomicUsize>,
        macs: [MacAddr; 2],
    ) -> (
        Vec<PortQueues<SlotBuffer>>,
        Box<dyn BufferPool<SlotBuffer>>,
        Receiver<Outcome>,
    ) {
        let (done, outcome) = crossbeam_channel::bounded(1);
        let flows = script.flows.len() as u32;
        let state = Arc::new(Mutex::new(State {
            macs,
            free: (0..BUFFERS).map(|_| SlotBuffer::new()).collect(),
            phase: 0,
            generated: 0,
            finished: 0,
            order: Shuffle::new(flows),
            outside: vec![(0, 0); flows as usize],
            measured: [Measured::default(); Phase::COUNT],
            began: None,
            wrong: 0,
            clock: Clock::start(),
            barrier,
            stop,
            running,
            done: Some(done),
            script,
        }));
        let ports = PORTS
            .iter()
            .enumerate()
            .map(|(i, port)| PortQueues {
                port: *port,
                rx: vec![Numbered::new(
                    0,
                    Box::new(Generator {
                        state: state.clone(),
                        inside: i == 0,
                    }) as Box<dyn RxQueue<SlotBuffer>>,
                )],
                tx: Numbered::new(
                    0,
                    Box::new(Checker {
                        state: state.clone(),
                        inside: i == 0,
                    }),
                ),
                link: Arc::new(AtomicBool::new(true)),
            })
            .collect();
        (ports, Box::new(Pool { state }), outcome)
    }
}

fn lock(state: &Shared) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RxQueue<SlotBuffer> for Generator {
    fn receive(&mut self, burst: &mut Burst<SlotBuffer>) -> usize {
        let mut state = lock(&self.state);
        if self.inside {
            state.step();
        }
        let Some(phase) = state.running_phase() else {
            return 0;
        };
        let mine = match phase {
            Phase::Generator => false,
            Phase::Establish | Phase::Outbound => self.inside,
            Phase::Inbound => !self.inside,
            Phase::Both => true,
        };
        if mine {
            state.generate(burst, self.inside, phase);
        }
        burst.len()
    }
}

impl TxQueue<SlotBuffer> for Checker {
    fn transmit(&mut self, burst: &mut Burst<SlotBuffer>) -> usize {
        let mut state = lock(&self.state);
        let count = burst.len();
        let phase = state.running_phase();
        for buffer in burst.drain(..) {
            // The gateway announces itself at start; that is no flow's packet.
            if read_u16(buffer.bytes(), 12) == ETHERTYPE_IPV4 {
                // A frame that leaves on the inside port travelled inwards.
                state.check(buffer.bytes(), self.inside, phase);
                state.finished += 1;
            }
            state.free.push(buffer);
        }
        count
    }
}

impl BufferPool<SlotBuffer> for Pool {
    fn allocate(&mut self) -> Option<SlotBuffer> {
        let mut buffer = lock(&self.state).free.pop()?;
        buffer.reset(0);
        Some(buffer)
    }

    fn free(&mut self, burst: &mut Burst<SlotBuffer>) {
        let mut state = lock(&self.state);
        state.finished += burst.len() as u64;
        state.free.extend(burst.drain(..));
    }
}

impl State {
    fn running_phase(&self) -> Option<Phase> {
        Phase::ALL.get(self.phase).copied()
    }

    fn target(&self, phase: Phase) -> u64 {
        match phase {
            Phase::Establish => self.script.flows.len() as u64,
            _ => self.script.packets,
        }
    }

    /// Begins and ends phases.
    fn step(&mut self) {
        let Some(phase) = self.running_phase() else {
            return;
        };
        if self.began.is_none() {
            self.barrier.wait();
            self.began = Some((crate::arch::cycles(), self.clock.nanos()));
            if phase == Phase::Generator {
                self.generator_alone();
            }
        }
        if self.finished < self.target(phase) {
            return;
        }
        if let Some((cycles, nanos)) = self.began.take() {
            self.measured[self.phase] = Measured {
                packets: self.finished,
                cycles: crate::arch::cycles() - cycles,
                nanos: self.clock.nanos() - nanos,
            };
        }
        self.phase += 1;
        (self.generated, self.finished) = (0, 0);
        self.order = Shuffle::new(self.script.flows.len() as u32);
        if self.phase == Phase::COUNT
            && let Some(done) = self.done.take()
        {
            let _ = done.send(Outcome {
                measured: self.measured,
                wrong: self.wrong,
            });
            if self.running.fetch_sub(1, Ordering::AcqRel) == 1 {
                self.stop.store(true, Ordering::Release);
            }
        }
    }

    /// Generates and recycles without any translation.
    fn generator_alone(&mut self) {
        let mut burst = Burst::new();
        while self.finished < self.script.packets {
            self.generate(&mut burst, true, Phase::Outbound);
            self.finished += burst.len() as u64;
            for buffer in burst.drain(..) {
                std::hint::black_box(flow_of(buffer.bytes()));
                self.free.push(buffer);
            }
            self.generated = 0;
        }
    }

    #[inline]
    fn generate(&mut self, burst: &mut Burst<SlotBuffer>, inside: bool, phase: Phase) {
        let left = self
            .target(phase)
            .saturating_sub(self.generated)
            .min(BURST as u64);
        for _ in 0..left {
            let Some(mut buffer) = self.free.pop() else {
                break;
            };
            let local = if phase == Phase::Establish {
                self.generated as u32
            } else {
                self.order.next_flow()
            };
            let flow = self.script.flows[local as usize];
            let tuple = self.script.population.tuple(flow);
            let (tuple, to) = if inside {
                (tuple, self.macs[0])
            } else {
                (self.answer(local, &tuple), self.macs[1])
            };
            buffer.reset(self.script.frame_bytes);
            write_frame(
                buffer.bytes_mut(),
                to,
                MacAddr([2, 0, 0, 0, 0, 2]),
                &tuple,
                local,
            );
            burst.push(buffer);
            self.generated += 1;
        }
    }

    fn answer(&self, local: u32, tuple: &Tuple<u32>) -> Tuple<u32> {
        let (destination, destination_port) = self.outside[local as usize];
        Tuple {
            source: tuple.destination,
            destination,
            source_port: tuple.destination_port,
            destination_port,
        }
    }

    #[inline]
    fn check(&mut self, frame: &[u8], inwards: bool, phase: Option<Phase>) {
        let local = flow_of(frame);
        let Some(&flow) = self.script.flows.get(local as usize) else {
            self.wrong += 1;
            return;
        };
        if inwards {
            let tuple = self.script.population.tuple(flow);
            let right =
                read_u32(frame, 30) == tuple.source && read_u16(frame, 36) == tuple.source_port;
            self.wrong += u64::from(!right);
            return;
        }
        let seen = (read_u32(frame, 26), read_u16(frame, 34));
        if phase == Some(Phase::Establish) {
            self.outside[local as usize] = seen;
        } else if local.is_multiple_of(CHECK_EVERY) {
            self.wrong += u64::from(self.outside[local as usize] != seen);
        }
    }
}
