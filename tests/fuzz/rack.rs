//! The whole data plane: scripts of mutated bursts on both ports, time, maintenance, reloads and failing memory.
//!
//! After every step each worker's books must balance and every frame sent must be one a receiver accepts. In a `sound`
//! script every frame that goes in has correct checksums, so every packet that comes out must have them too.

use std::sync::Arc;

use natgate::base::{DropReason, PortId, Random, WorkerId};
use natgate::config;
use natgate::dataplane::rack::Rack;
use natgate::dataplane::shard::ShardSize;
use natgate::nat::policy::Policy;

use crate::common::corpus::{self, RULES, check_sent};
use crate::common::{self, balanced, lab_policy, mutate};
use crate::engine::{Target, fuzz, signature};

/// One step of a script.
#[derive(Clone, Debug)]
enum Step {
    /// Worker, port, frames.
    Burst(u8, u8, Vec<Vec<u8>>),
    /// Milliseconds pass.
    Advance(u32),
    Maintain,
    /// Buffers the worker may still allocate; 255 is no limit.
    Buffers(u8, u8),
    Reload,
}

/// A life of a gateway, as a file holds it.
#[derive(Clone, Debug, Default)]
struct Script {
    workers: u8,
    sound: bool,
    steps: Vec<Step>,
}

/// Reads a script's bytes; what is missing is zero, so that every file is a script.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> u32 {
        u32::from_be_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = (self.word() as usize).min(self.0.len());
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken.to_vec()
    }
}

impl Script {
    fn read(bytes: &[u8]) -> Script {
        let mut reader = Reader(bytes);
        let mut script = Script {
            workers: 1 + reader.byte() % 2,
            sound: reader.byte() % 2 == 1,
            steps: Vec::new(),
        };
        while !reader.0.is_empty() {
            script.steps.push(match reader.byte() {
                0 => {
                    let (worker, port, count) = (reader.byte(), reader.byte(), reader.byte());
                    Step::Burst(worker, port, (0..count).map(|_| reader.bytes()).collect())
                }
                1 => Step::Advance(reader.word()),
                2 => Step::Maintain,
                3 => Step::Buffers(reader.byte(), reader.byte()),
                _ => Step::Reload,
            });
        }
        script
    }

    fn write(&self) -> Vec<u8> {
        let mut out = vec![self.workers - 1, u8::from(self.sound)];
        for step in &self.steps {
            match step {
                Step::Burst(worker, port, frames) => {
                    out.extend([0, *worker, *port, frames.len() as u8]);
                    for frame in frames {
                        out.extend((frame.len() as u32).to_be_bytes());
                        out.extend(frame);
                    }
                }
                Step::Advance(millis) => {
                    out.push(1);
                    out.extend(millis.to_be_bytes());
                }
                Step::Maintain => out.push(2),
                Step::Buffers(worker, left) => out.extend([3, *worker, *left]),
                Step::Reload => out.push(4),
            }
        }
        out
    }
}

struct Gateway {
    frames: Vec<Vec<u8>>,
    /// By number of workers.
    policies: [Arc<Policy>; 2],
}

impl Gateway {
    fn play(&self, script: &Script) -> Rack {
        let policy = Arc::clone(&self.policies[usize::from(script.workers) - 1]);
        let mut rack = Rack::new(policy, ShardSize::small(), 1).unwrap();
        for step in &script.steps {
            let sent = match step {
                Step::Burst(worker, port, frames) => {
                    let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
                    let worker = WorkerId(worker % script.workers);
                    rack.receive(worker, PortId(u16::from(port % 2)), &frames)
                }
                Step::Advance(millis) => {
                    rack.advance(u64::from(*millis));
                    Vec::new()
                }
                Step::Maintain => rack.maintain(),
                Step::Buffers(worker, left) => {
                    let left = (*left != 255).then_some(u64::from(*left));
                    rack.limit_buffers(WorkerId(worker % script.workers), left);
                    Vec::new()
                }
                Step::Reload => {
                    let text = text(script.workers);
                    rack.reload(
                        config::compile::recompile_text("test", &text, &rack.policy).unwrap(),
                    );
                    Vec::new()
                }
            };
            balanced(&rack);
            for (port, frame) in &sent {
                check_sent(*port, frame, script.sound);
            }
        }
        assert_eq!(
            rack.drops(DropReason::Internal),
            0,
            "a state that must not occur"
        );
        rack
    }
}

fn text(workers: u8) -> String {
    format!(
        "{}{}{RULES}\n[system]\nworkers = {workers}\n",
        common::LAB,
        common::neighbours()
    )
}

impl Target for Gateway {
    fn run(&self, input: &[u8]) -> Vec<u64> {
        let script = Script::read(input);
        let rack = self.play(&script);
        let totals = rack.totals();
        let more = [
            totals.sent,
            totals.looped,
            totals.handoff_in,
            totals.icmp_errors,
            totals.icmp_suppressed,
            rack.sessions() as u64,
        ];
        // What happened, and roughly how often: more of the same is a new thing at every power of four.
        let counts = totals.drops.iter().chain(&more).enumerate();
        counts
            .filter(|(_, n)| **n > 0)
            .map(|(i, n)| signature((script.workers, script.sound, i, n.ilog2() / 2)))
            .collect()
    }

    fn next(&self, corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
        let mut script = match random.below(3) {
            // Go on from a life that was interesting.
            0 => Script::read(&corpus[random.below(corpus.len() as u32) as usize]),
            _ => Script::default(),
        };
        if script.steps.is_empty() {
            script.workers = 1 + random.below(2) as u8;
            script.sound = random.below(2) == 0;
        }
        script.steps.truncate(48);
        for _ in 0..=random.below(32) {
            let worker = random.below(2) as u8;
            let step = match random.below(20) {
                0 => Step::Advance(1 + random.below(400)),
                1 => Step::Advance(random.below(4_000_000)),
                2 | 3 => Step::Maintain,
                4 => Step::Buffers(
                    worker,
                    *[0, 1, 2, 255, 255].get(random.below(5) as usize).unwrap(),
                ),
                5 if random.below(4) == 0 => Step::Reload,
                _ => {
                    let most = if random.below(8) == 0 { 130 } else { 6 };
                    let count = 1 + random.below(most);
                    let one = |_| mutate::frame(&self.frames, script.sound, random);
                    let frames = (0..count).map(one).collect();
                    Step::Burst(worker, random.below(2) as u8, frames)
                }
            };
            script.steps.push(step);
        }
        script.write()
    }

    fn smaller(&self, input: &[u8]) -> Vec<Vec<u8>> {
        let script = Script::read(input);
        let mut all = Vec::new();
        for (i, step) in script.steps.iter().enumerate().rev() {
            let mut without = script.clone();
            without.steps.remove(i);
            all.push(without.write());
            if let Step::Burst(worker, port, frames) = step
                && frames.len() > 1
            {
                let (first, second) = frames.split_at(frames.len() / 2);
                for half in [first, second] {
                    let mut less = script.clone();
                    less.steps[i] = Step::Burst(*worker, *port, half.to_vec());
                    all.push(less.write());
                }
            }
        }
        all
    }
}

/// The corpus once on each port, through both kinds of gateway.
fn starts(frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for workers in [1, 2] {
        let mut script = Script {
            workers,
            sound: false,
            steps: Vec::new(),
        };
        for (port, worker) in [(0, 0), (1, 1), (0, 1), (1, 0)] {
            script.steps.push(Step::Burst(
                worker,
                port,
                frames.iter().take(255).cloned().collect(),
            ));
            script.steps.push(Step::Maintain);
        }
        script
            .steps
            .extend([Step::Reload, Step::Advance(3_000), Step::Maintain]);
        all.push(script.write());
    }
    all
}

#[test]
fn data_plane() {
    let frames = corpus::frames();
    let starts = starts(&frames);
    let gateway = Gateway {
        frames,
        policies: [lab_policy(1, RULES), lab_policy(2, RULES)],
    };
    // What the plain corpus alone must reach: many reasons to drop, hairpins, hand-overs, errors.
    let totals = gateway.play(&Script::read(&starts[1])).totals();
    let reasons = totals.drops.iter().filter(|n| **n > 0).count();
    assert!(
        totals.sent > 40 && totals.looped > 0 && totals.handoff_in > 0 && totals.icmp_errors > 0
    );
    assert!(reasons >= 10, "{reasons} reasons to drop reached");
    fuzz("data_plane", &gateway, starts, 80);
}
