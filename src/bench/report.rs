//! Figures of a benchmark run, as a table and as JSON.

use serde::{Deserialize, Serialize};

use crate::bench::device::{Measured, Outcome, Phase};

/// The figures of one round.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    cycles: [f64; Phase::COUNT],
    millions: [f64; Phase::COUNT],
    sessions: u64,
    memory: usize,
}

impl Figures {
    /// Adds up the workers of a round: rates are summed, cycles per packet averaged over all packets.
    pub fn from_outcomes(outcomes: &[Outcome], memory: usize) -> Figures {
        let mut figures = Figures {
            memory,
            ..Figures::default()
        };
        for phase in 0..Phase::COUNT {
            let all: Vec<Measured> = outcomes.iter().map(|o| o.measured[phase]).collect();
            let packets: u64 = all.iter().map(|m| m.packets).sum();
            let cycles: u64 = all.iter().map(|m| m.cycles).sum();
            figures.cycles[phase] = cycles as f64 / packets.max(1) as f64;
            figures.millions[phase] = all
                .iter()
                .map(|m| m.packets as f64 * 1000.0 / m.nanos.max(1) as f64)
                .sum();
        }
        figures.sessions = outcomes
            .iter()
            .map(|o| o.measured[Phase::Establish as usize].packets)
            .sum();
        figures
    }
}

/// One line of the report: medians over the rounds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Workers.
    pub workers: u8,
    /// Sessions.
    pub sessions: u64,
    /// Cycles a packet for making and checking frames alone; contained in the figures below.
    pub generator_cycles: f64,
    /// New sessions per second, millions.
    pub establish_millions_per_second: f64,
    /// Cycles per new session.
    pub establish_cycles: f64,
    /// Established flows outwards, million packets per second.
    pub outbound_mpps: f64,
    /// Cycles per packet outwards.
    pub outbound_cycles: f64,
    /// Established flows inwards, million packets per second.
    pub inbound_mpps: f64,
    /// Cycles per packet inwards.
    pub inbound_cycles: f64,
    /// Both directions, million packets per second.
    pub both_mpps: f64,
    /// Cycles per packet, both directions.
    pub both_cycles: f64,
    /// Memory of all tables and port state, per session.
    pub bytes_per_session: f64,
}

impl Row {
    /// The medians of several rounds.
    pub fn median(workers: u8, sessions: u32, rounds: Vec<Figures>) -> Row {
        let of = |value: &dyn Fn(&Figures) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or_default()
        };
        let cycles = |phase: Phase| of(&|f: &Figures| f.cycles[phase as usize]);
        let millions = |phase: Phase| of(&|f: &Figures| f.millions[phase as usize]);
        Row {
            workers,
            sessions: u64::from(sessions),
            generator_cycles: cycles(Phase::Generator),
            establish_millions_per_second: millions(Phase::Establish),
            establish_cycles: cycles(Phase::Establish),
            outbound_mpps: millions(Phase::Outbound),
            outbound_cycles: cycles(Phase::Outbound),
            inbound_mpps: millions(Phase::Inbound),
            inbound_cycles: cycles(Phase::Inbound),
            both_mpps: millions(Phase::Both),
            both_cycles: cycles(Phase::Both),
            bytes_per_session: of(&|f: &Figures| f.memory as f64 / f.sessions.max(1) as f64),
        }
    }

    /// The heading of the table.
    pub fn heading() -> String {
        format!(
            "{:>7} {:>9} {:>9} {:>13} {:>9} {:>13} {:>13} {:>13} {:>13}",
            "workers",
            "sessions",
            "generator",
            "new M/s",
            "(cycles)",
            "out Mpps",
            "in Mpps",
            "both Mpps",
            "bytes/session"
        )
    }

    /// One line of the table; cycles per packet in parentheses, generator included.
    pub fn line(&self) -> String {
        let rate = |mpps: f64, cycles: f64| format!("{mpps:.2} ({cycles:.0})");
        format!(
            "{:>7} {:>9} {:>9.0} {:>13.2} {:>9.0} {:>13} {:>13} {:>13} {:>13.1}",
            self.workers,
            self.sessions,
            self.generator_cycles,
            self.establish_millions_per_second,
            self.establish_cycles,
            rate(self.outbound_mpps, self.outbound_cycles),
            rate(self.inbound_mpps, self.inbound_cycles),
            rate(self.both_mpps, self.both_cycles),
            self.bytes_per_session
        )
    }
}
