//! One record per trial: a phase of a procedure in one round, with everything that is needed to judge it later.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::bench::family::Family;
use crate::bench::order::Pattern;
use crate::bench::phase::{Measured, Phase};
use crate::bench::procedure::Procedure;
use crate::bench::rig::{Outcome, Rig};
use crate::bench::traffic::Purpose;
use crate::bench::{Options, machine};

/// A phase of a procedure in one round. Of several workers, rates are sums and costs are averages over packets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// The procedure.
    pub procedure: Procedure,
    /// The phase.
    pub phase: String,
    /// What the packets are.
    #[serde(default)]
    pub family: Family,
    /// Workers.
    pub workers: u8,
    /// Sessions established before, or attempted, over all workers.
    pub sessions: u64,
    /// Frame sizes: a number of bytes with the wire's checksum, or `imix`.
    pub frame: String,
    /// Order of established flows.
    pub pattern: Pattern,
    /// Which repetition.
    pub round: u32,
    /// Frames sent.
    pub packets: u64,
    /// How long it took.
    pub seconds: f64,
    /// Frames per second, all workers together.
    pub packets_per_second: f64,
    /// Established flows' frames per second that came back.
    pub established_per_second: f64,
    /// Sessions opened (`teardown`: ended) per second.
    pub sessions_per_second: f64,
    /// Frames refused per second: first packets of flows, scans.
    pub refused_per_second: f64,
    /// Time stamp counter cycles per frame, generator and check included: the mean, …
    pub cycles_per_packet: f64,
    /// … the median over slices of 16,384 frames, …
    pub cycles_per_packet_median: f64,
    /// … and the tenth part that was fastest.
    pub cycles_per_packet_p10: f64,
    /// Cycles per frame of generator and check alone.
    pub generator_cycles_per_packet: f64,
    /// Last-level cache misses per frame; `None`: the machine does not count them.
    pub cache_misses_per_packet: Option<f64>,
    /// Frames that had to come back and did not.
    pub lost: u64,
    /// Frames that came back translated wrongly.
    pub wrong: u64,
    /// Frames that came back after a later one of their flow.
    pub reordered: u64,
    /// Packets of natgate's own: ARP, ICMP.
    pub generated: u64,
    /// How long a burst was in natgate's hands, nanoseconds.
    pub residence: Percentiles,
    /// Memory of all tables and port state by sessions there is room for.
    pub bytes_per_session: f64,
    /// Packets dropped in the whole run, by reason.
    pub drops_of_run: BTreeMap<String, u64>,
    /// Where and with what.
    pub circumstances: Circumstances,
}

/// A distribution in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Half are shorter.
    pub p50_nanos: f64,
    /// 99 % are shorter.
    pub p99_nanos: f64,
    /// 99.9 % are shorter.
    pub p99_9_nanos: f64,
    /// The longest.
    pub max_nanos: f64,
}

impl Percentiles {
    /// Of a histogram of cycles.
    pub fn of(histogram: &Histogram<u64>, cycles_per_nano: f64) -> Percentiles {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / cycles_per_nano;
        Percentiles {
            p50_nanos: at(0.5),
            p99_nanos: at(0.99),
            p99_9_nanos: at(0.999),
            max_nanos: histogram.max() as f64 / cycles_per_nano,
        }
    }
}

/// What a figure depends on besides the program.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Circumstances {
    /// Version and source revision of natgate.
    pub revision: String,
    /// What random choices start from.
    pub seed: u64,
    /// Processor.
    pub cpu_model: String,
    /// Huge pages.
    pub huge_pages: String,
    /// Frequency the core really ran at, before the run and after.
    pub gigahertz_before: f64,
    /// See `gigahertz_before`.
    pub gigahertz_after: f64,
    /// Frequency of the time stamp counter, in which cycles are given.
    pub cycle_gigahertz: f64,
}

impl Circumstances {
    /// Those of a run that has just ended.
    pub fn now(seed: u64) -> Circumstances {
        let gigahertz_after = machine::gigahertz();
        Circumstances {
            revision: revision(),
            seed,
            cpu_model: machine::cpu_model(),
            huge_pages: machine::huge_pages(),
            gigahertz_before: gigahertz_after,
            gigahertz_after,
            cycle_gigahertz: machine::cycles_per_nano(),
        }
    }
}

/// Version, and the source revision where whoever built it says so in the environment.
pub fn revision() -> String {
    let version = env!("CARGO_PKG_VERSION");
    match std::env::var("NATGATE_REVISION") {
        Ok(revision) => format!("{version} ({revision})"),
        Err(_) => version.to_owned(),
    }
}

impl Trial {
    /// Whether every frame came back as it should have.
    pub fn is_faultless(&self) -> bool {
        self.lost == 0 && self.wrong == 0
    }
}

/// The trials of a run.
pub fn of(
    options: &Options,
    procedure: Procedure,
    round: u32,
    rig: &Rig,
    outcome: &Outcome,
    gigahertz_before: f64,
) -> Vec<Trial> {
    let circumstances = Circumstances {
        gigahertz_before,
        ..Circumstances::now(options.seed)
    };
    let room = f64::from(rig.capacity) * f64::from(rig.workers);
    let mut trials = Vec::new();
    for (at, phase) in rig.phases.iter().enumerate() {
        let of_phase: Vec<&Measured> = outcome.workers.iter().filter_map(|w| w.get(at)).collect();
        if phase.prelude || of_phase.is_empty() {
            continue;
        }
        let mut trial = measured(phase, &of_phase, circumstances.cycle_gigahertz);
        if phase.watched {
            trial.sessions_per_second = ended_per_second(&outcome.timeline);
        }
        let drops = outcome.drops.iter();
        trials.push(Trial {
            procedure,
            family: rig.family,
            workers: rig.workers,
            sessions: u64::from(rig.sessions) * u64::from(rig.workers),
            frame: rig.frame(options),
            pattern: rig.pattern,
            round,
            bytes_per_session: outcome.memory_bytes as f64 / room,
            drops_of_run: drops.map(|(r, n)| ((*r).to_owned(), *n)).collect(),
            circumstances: circumstances.clone(),
            ..trial
        });
    }
    trials
}

/// What a phase came to at all workers.
fn measured(phase: &Phase, workers: &[&Measured], cycles_per_nano: f64) -> Trial {
    let total = |of: &dyn Fn(&Measured) -> u64| workers.iter().map(|w| of(w)).sum::<u64>();
    let per_second = |of: &dyn Fn(&Measured) -> u64| {
        let rate = |w: &&Measured| of(w) as f64 * 1e9 / w.nanos.max(1) as f64;
        workers.iter().map(rate).sum::<f64>()
    };
    let packets = total(&Measured::sent);
    let by_packets = |of: &dyn Fn(&Measured) -> f64| {
        let sum: f64 = workers.iter().map(|w| of(w) * w.sent() as f64).sum();
        sum / packets.max(1) as f64
    };
    let refused = |w: &Measured| {
        let openings = if phase.refusals {
            w.missing(Purpose::Opening)
        } else {
            0
        };
        openings + w.missing(Purpose::Scan)
    };
    let lost = |w: &Measured| {
        let openings = if phase.refusals {
            0
        } else {
            w.missing(Purpose::Opening)
        };
        openings + w.missing(Purpose::Established) + w.missing(Purpose::Fragment)
    };
    let mut slices: Vec<f32> = workers.iter().flat_map(|w| w.slices.clone()).collect();
    slices.sort_by(f32::total_cmp);
    let mean = by_packets(&|w| w.cycles as f64 / w.sent().max(1) as f64);
    // A short phase has no slices.
    let slice = |share: usize| {
        slices
            .get(slices.len() * share / 100)
            .map_or(mean, |&c| f64::from(c))
    };
    let mut residence = workers[0].residence.clone();
    for worker in &workers[1..] {
        // All have the same bounds.
        let _ = residence.add(&worker.residence);
    }
    let misses: Option<u64> = workers.iter().map(|w| w.cache_misses).sum();
    let returned = |purpose: Purpose| move |w: &Measured| w.tallies[purpose as usize].returned;
    Trial {
        procedure: Procedure::Throughput,
        phase: phase.name.to_owned(),
        family: Family::default(),
        workers: 0,
        sessions: 0,
        frame: String::new(),
        pattern: Pattern::Random,
        round: 0,
        packets,
        seconds: total(&|w| w.nanos) as f64 / 1e9 / workers.len() as f64,
        packets_per_second: per_second(&Measured::sent),
        established_per_second: per_second(&returned(Purpose::Established)),
        sessions_per_second: per_second(&returned(Purpose::Opening)),
        refused_per_second: per_second(&refused),
        cycles_per_packet: mean,
        cycles_per_packet_median: slice(50),
        cycles_per_packet_p10: slice(10),
        generator_cycles_per_packet: by_packets(&|w| w.generator),
        cache_misses_per_packet: misses.map(|m| m as f64 / packets.max(1) as f64),
        lost: total(&lost),
        wrong: total(&|w| w.wrong),
        reordered: total(&|w| w.reordered),
        generated: total(&|w| w.others),
        residence: Percentiles::of(&residence, cycles_per_nano),
        bytes_per_session: 0.0,
        drops_of_run: BTreeMap::new(),
        circumstances: Circumstances::default(),
    }
}

/// The rate at which the number of sessions fell, between the first and the last twentieth of the fall.
fn ended_per_second(timeline: &[(u64, u64)]) -> f64 {
    let (most, least) = timeline
        .iter()
        .fold((0, u64::MAX), |(most, least), (_, sessions)| {
            (most.max(*sessions), least.min(*sessions))
        });
    let fall = most.saturating_sub(least);
    let began = timeline.iter().find(|(_, n)| *n < most - fall / 20);
    let ended = timeline.iter().find(|(_, n)| *n <= least + fall / 20);
    match (began, ended) {
        (Some(from), Some(to)) if to.0 > from.0 => {
            from.1.saturating_sub(to.1) as f64 * 1e9 / (to.0 - from.0) as f64
        }
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_of_a_fall_leaves_its_ends_out() {
        // 1000 sessions, level; then 10 a millisecond until 200 are left, level.
        let at = |ms: u64| 1000 - 10 * ms.saturating_sub(50).min(80);
        let timeline: Vec<(u64, u64)> = (0..200).map(|ms| (ms * 1_000_000, at(ms))).collect();
        assert!((ended_per_second(&timeline) - 10_000.0).abs() < 1.0);
        assert_eq!(ended_per_second(&[]), 0.0);
        assert_eq!(ended_per_second(&[(1, 5), (2, 5)]), 0.0);
    }
}
