//! Both ends of the wire for one worker: devices in memory whose receive queues compute frames and whose transmit queues
//! examine and recycle them.
//!
//! All queues of a worker run on that worker's thread, so what they share lives in that thread: no lock, no atomic.

use std::cell::RefCell;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Barrier};

use crate::base::{PortId, Random};
use crate::bench::BenchError;
use crate::bench::buffer::SlotBuffer;
use crate::bench::ledger::Ledger;
use crate::bench::order::{Ahead, Order, Pattern};
use crate::bench::phase::{Extra, Length, MOST_SLICES, Measured, Phase, SLICE};
use crate::bench::script::{Course, Script, Templates};
use crate::bench::traffic::{Purpose, Seen};
use crate::dataplane::buffer::{BURST, Buffer, Burst};
use crate::dataplane::clock::Clock;
use crate::dataplane::worker::{BufferPool, Numbered, PortQueues, RxQueue, TxQueue};

thread_local! {
    static STATION: RefCell<Option<Station>> = const { RefCell::new(None) };
}

/// Puts a station into this thread, for [`queues`] to work with.
pub fn install(station: Station) {
    STATION.with_borrow_mut(|place| *place = Some(station));
}

/// Takes it out again: what was measured, by phase.
pub fn results() -> Vec<Measured> {
    STATION
        .with_borrow_mut(Option::take)
        .map(|station| station.results)
        .unwrap_or_default()
}

/// A worker's queues on the inside and the outside port.
pub fn queues() -> Vec<PortQueues<SlotBuffer>> {
    let port = |at: u16| PortQueues {
        port: PortId(at),
        rx: vec![Numbered::new(0, Box::new(End { inside: at == 0 }))],
        tx: Numbered::new(0, Box::new(End { inside: at == 0 })),
        link: Arc::new(AtomicBool::new(true)),
    };
    vec![port(0), port(1)]
}

/// The buffers of this thread's station.
pub struct Buffers;

/// One port of this thread's station.
struct End {
    inside: bool,
}

impl RxQueue<SlotBuffer> for End {
    fn receive(&mut self, burst: &mut Burst<SlotBuffer>) -> usize {
        STATION.with_borrow_mut(|place| {
            if let Some(station) = place {
                station.receive(burst, self.inside);
            }
        });
        burst.len()
    }
}

impl TxQueue<SlotBuffer> for End {
    fn transmit(&mut self, burst: &mut Burst<SlotBuffer>) -> usize {
        let count = burst.len();
        STATION.with_borrow_mut(|place| {
            if let Some(station) = place {
                station.take_back(burst, self.inside);
            }
        });
        count
    }
}

impl BufferPool<SlotBuffer> for Buffers {
    fn allocate(&mut self) -> Option<SlotBuffer> {
        STATION.with_borrow_mut(|place| {
            let mut buffer = place.as_mut()?.free.pop()?;
            buffer.reset(0);
            // What natgate writes here may be longer than a template.
            buffer.soil();
            Some(buffer)
        })
    }

    fn free(&mut self, burst: &mut Burst<SlotBuffer>) {
        STATION.with_borrow_mut(|place| {
            if let Some(station) = place {
                station.free.extend(burst.drain(..));
            }
        });
    }
}

/// Buffers in circulation: enough for both directions' bursts, and for fragments that wait.
const BUFFERS: usize = 16 * BURST;

/// How long a phase waits for frames that are held (fragments: two seconds).
const PATIENCE_NANOS: u64 = 3_000_000_000;

/// Frames for which generator and check are measured alone.
const ALONE: u64 = 1 << 19;

/// One worker's share of a benchmark under way.
pub struct Station {
    script: Script,
    course: Arc<Course>,
    barrier: Arc<Barrier>,
    clock: Clock,
    templates: Templates,
    free: Vec<SlotBuffer>,
    ledger: Ledger,
    /// The established flows in the wanted order, and every one of them in turn for phases that are thorough.
    order: Ahead,
    turn: Ahead,
    random: Random,
    results: Vec<Measured>,
    current: Measured,
    progress: Progress,
}

/// How far the current phase is.
#[derive(Clone, Debug, Default)]
struct Progress {
    running: bool,
    generated: u64,
    /// No more frames are wanted, since when.
    full: Option<u64>,
    began_cycles: u64,
    began_nanos: u64,
    slice_cycles: u64,
    slice_generated: u64,
    /// Cycles between frames when paced, else 0.
    interval: f64,
    /// Frames of the port that sends extra ones, and those.
    frames: f64,
    extra: f64,
    /// When the last burst was handed over, from outside and from inside, and when the last one came back.
    received_at: [u64; 2],
    returned_at: u64,
}

impl Station {
    /// A station that will run `script` in step with those of the other workers.
    ///
    /// # Errors
    /// When memory is short.
    pub fn new(
        script: Script,
        course: Arc<Course>,
        barrier: Arc<Barrier>,
    ) -> Result<Station, BenchError> {
        Ok(Station {
            templates: Templates::new(&script),
            free: (0..BUFFERS).map(|_| SlotBuffer::default()).collect(),
            ledger: Ledger::new(script.family, script.population.clone(), script.flows)?,
            order: Ahead::new(Order::new(script.pattern, script.established, script.seed)),
            turn: Ahead::new(Order::new(Pattern::Random, script.established, script.seed)),
            random: Random::from_seed(script.seed),
            results: Vec::new(),
            current: Measured::new()?,
            progress: Progress::default(),
            clock: Clock::start(),
            barrier,
            course,
            script,
        })
    }

    fn phase(&self) -> Option<&Phase> {
        self.script.phases.get(self.results.len())
    }

    /// Begins and ends phases. Once per loop.
    fn step(&mut self) {
        if !self.progress.running {
            return self.begin();
        }
        let Some(phase) = self.phase() else { return };
        let progress = &self.progress;
        let now = self.clock.nanos();
        if let Some(since) = progress.full {
            // Everything sent has come back, or will not.
            if self.free.len() == BUFFERS || now - since > PATIENCE_NANOS {
                self.end(now);
            }
            return;
        }
        let done = match phase.length {
            Length::Frames(frames) => progress.generated >= frames,
            Length::Seconds(seconds) => (now - progress.began_nanos) as f64 >= seconds * 1e9,
        };
        let cycles = crate::arch::cycles();
        let frames = progress.generated - progress.slice_generated;
        if frames >= SLICE && self.current.slices.len() < MOST_SLICES {
            let spent = (cycles - progress.slice_cycles) as f32;
            self.current.slices.push(spent / frames as f32);
            self.progress.slice_cycles = cycles;
            self.progress.slice_generated = self.progress.generated;
        }
        if done {
            self.progress.full = Some(now);
        }
    }

    fn begin(&mut self) {
        let Some(phase) = self.phase().cloned() else {
            return;
        };
        let frames = match phase.length {
            Length::Frames(frames) => frames.min(ALONE),
            Length::Seconds(_) => ALONE,
        };
        self.current.generator = self.alone(frames);
        crate::bench::misses::start();
        self.barrier.wait();
        self.course.enter(self.results.len());
        let cycles = crate::arch::cycles();
        let interval = phase.pace.and_then(|pace| {
            let earlier = self.results.get(pace.of)?;
            Some(earlier.cycles as f64 / earlier.sent().max(1) as f64 / pace.share)
        });
        self.progress = Progress {
            running: true,
            began_cycles: cycles,
            slice_cycles: cycles,
            began_nanos: self.clock.nanos(),
            interval: interval.unwrap_or_default(),
            ..Progress::default()
        };
    }

    fn end(&mut self, now: u64) {
        // What natgate still held at the end came back late, or was dropped: that wait is not part of the phase.
        let (began, last) = (self.progress.began_cycles, self.progress.returned_at);
        let all = crate::arch::cycles() - began;
        let busy = if last > began { last - began } else { all };
        let share = busy as f64 / all.max(1) as f64;
        self.current.cycles = busy;
        self.current.nanos = ((now - self.progress.began_nanos) as f64 * share) as u64;
        self.current.cache_misses = crate::bench::misses::stop();
        self.progress = Progress::default();
        let mut next = self.current.clone();
        next.clear();
        self.results
            .push(std::mem::replace(&mut self.current, next));
        if self.results.len() == self.script.phases.len() {
            self.course.finish();
        }
    }

    /// Generates and examines frames with no translation between; cycles per frame. Leaves everything as it was.
    fn alone(&mut self, frames: u64) -> f64 {
        let kept = (
            self.templates.clone(),
            self.order.clone(),
            self.turn.clone(),
            self.progress.clone(),
        );
        let scratch = self.current.clone();
        let current = std::mem::replace(&mut self.current, scratch);
        self.ledger.learning = false;
        let mut burst = Burst::new();
        let began = crate::arch::cycles();
        while self.progress.generated < frames {
            for inside in [true, false] {
                self.generate(&mut burst, inside);
                self.take_back(&mut burst, !inside);
            }
        }
        let cycles = crate::arch::cycles() - began;
        let cost = cycles as f64 / self.progress.generated.max(1) as f64;
        self.ledger.learning = true;
        (self.templates, self.order, self.turn, self.progress) = kept;
        self.current = current;
        self.ledger.forget_order();
        cost
    }

    fn receive(&mut self, burst: &mut Burst<SlotBuffer>, inside: bool) {
        if inside {
            self.step();
        }
        if self.progress.running && self.progress.full.is_none() {
            self.generate(burst, inside);
        }
    }

    /// What the phase sends from this side.
    #[inline]
    fn generate(&mut self, burst: &mut Burst<SlotBuffer>, inside: bool) {
        let Some(phase) = self.phase() else { return };
        let established = phase.direction.sends(inside);
        let extra = phase.extra.filter(|(kind, _)| kind.from_inside() == inside);
        let thorough = phase.thorough;
        let count = match (established, extra) {
            (false, None) => 0,
            _ => self.wanted(phase, inside).min(self.free.len()),
        };
        let mut flows = [(0, 0); BURST];
        if established {
            for flow in flows.iter_mut().take(count) {
                let order = match thorough {
                    false => &mut self.order,
                    true => &mut self.turn,
                };
                *flow = order.next_flow();
            }
        }
        let mut owed = 0;
        for (at, &(flow, later)) in flows.iter().enumerate().take(count) {
            let Some(mut buffer) = self.free.pop() else {
                break;
            };
            // One at a time: the processor drops prefetches when too many are under way.
            self.ledger.prefetch(later, inside);
            if let Some((kind, share)) = extra
                && owed == 0
            {
                owed = match established {
                    true => self.due(kind, share, count - at),
                    false => 1,
                };
            }
            match extra {
                Some((kind, _)) if owed > 0 => {
                    owed -= 1;
                    self.write_extra(kind, &mut buffer);
                }
                _ => self.write_established(flow, inside, &mut buffer),
            }
            burst.push(buffer);
        }
        self.progress.generated += count as u64;
        self.progress.received_at[usize::from(inside)] = crate::arch::cycles();
    }

    /// Frames the phase wants now from one side: at most a burst, fewer at its end or before their time. What is due is
    /// shared out where both sides send; the inside is asked first.
    fn wanted(&self, phase: &Phase, inside: bool) -> usize {
        let progress = &self.progress;
        let mut wanted = BURST as u64;
        if let Length::Frames(frames) = phase.length {
            wanted = wanted.min(frames.saturating_sub(progress.generated));
        }
        if progress.interval > 0.0 {
            let elapsed = crate::arch::cycles() - progress.began_cycles;
            let due = (elapsed as f64 / progress.interval) as u64;
            let due = due.saturating_sub(progress.generated);
            wanted = wanted.min(match inside && phase.sends(false) {
                true => due.div_ceil(2),
                false => due,
            });
        }
        wanted as usize
    }

    /// How many of the next frames are extra ones, of at most `room`.
    fn due(&mut self, kind: Extra, share: f64, room: usize) -> usize {
        let together = kind.together();
        self.progress.frames += 1.0;
        // What is short by a rounding error is not short.
        let wanted = self.progress.frames * share + 1e-6;
        if wanted < self.progress.extra + together as f64 || together > room {
            return 0;
        }
        self.progress.extra += together as f64;
        self.progress.frames += together as f64 - 1.0;
        together
    }

    #[inline]
    fn write_established(&mut self, flow: u32, inside: bool, buffer: &mut SlotBuffer) {
        let tuple = match inside {
            true => self.script.population.tuple(flow),
            false => self.ledger.answer(flow),
        };
        let (template, sequence) = self.templates.datagram(inside);
        buffer.reset(template.length());
        template.write(buffer.bytes_mut(), &tuple, flow, sequence);
        self.current.tallies[Purpose::Established as usize].sent += 1;
    }

    fn write_extra(&mut self, kind: Extra, buffer: &mut SlotBuffer) {
        let frame = self.templates.extra(kind, &self.script, &mut self.random);
        buffer.reset(frame.template.length());
        frame.template.write_kind(
            buffer.bytes_mut(),
            &frame.tuple,
            frame.flow,
            frame.sequence,
            frame.id,
        );
        self.current.tallies[kind.purpose() as usize].sent += 1;
    }

    /// Examines what came out of a port, and recycles it.
    fn take_back(&mut self, burst: &mut Burst<SlotBuffer>, to_inside: bool) {
        let since = self.progress.received_at[usize::from(!to_inside)];
        let now = crate::arch::cycles();
        self.progress.returned_at = now;
        self.current
            .residence
            .saturating_record_n(now.saturating_sub(since), burst.len() as u64);
        let thorough = self.phase().is_some_and(|p| p.thorough);
        for buffer in burst.drain(..) {
            let frame = buffer.bytes();
            let current = &mut self.current;
            match Seen::read(self.script.family, frame) {
                Some(seen) => {
                    current.tallies[seen.purpose as usize].returned += 1;
                    if seen.purpose != Purpose::Scan {
                        self.ledger
                            .examine(&seen, frame, to_inside, thorough, current);
                    }
                }
                // The gateway announces itself at start, and sends errors.
                None => current.others += 1,
            }
            self.free.push(buffer);
        }
    }
}
