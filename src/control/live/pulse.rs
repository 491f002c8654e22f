//! Rates: what changed between the last two looks, some seconds apart.

use super::counts::Snapshot;
use super::{Live, lock};
use crate::control::api::Rates;
use std::sync::atomic::Ordering;

/// The last look and what it showed.
#[derive(Clone, Debug, Default)]
pub struct Pulse {
    nanos: u64,
    totals: [u64; 4],
    busy_nanos: Vec<u64>,
    rates: Rates,
    busy: Vec<f64>,
}

impl Pulse {
    /// Rates between the last two looks.
    pub fn rates(&self) -> Rates {
        self.rates
    }

    /// Share of time a worker spent on packets between the last two looks, 0–1.
    pub fn busy_ratio(&self, worker: u8) -> f64 {
        self.busy.get(usize::from(worker)).copied().unwrap_or(0.0)
    }

    /// Looks again. `totals`: received, sent, dropped, sessions created.
    fn look(&mut self, nanos: u64, totals: [u64; 4], busy_nanos: Vec<u64>) {
        let elapsed = nanos.saturating_sub(self.nanos).max(1) as f64;
        let mut per_second = [0.0; 4];
        for (rate, (now, before)) in per_second.iter_mut().zip(totals.iter().zip(&self.totals)) {
            *rate = now.saturating_sub(*before) as f64 * 1e9 / elapsed;
        }
        let [received, sent, dropped, created] = per_second;
        self.rates = Rates {
            received_packets_per_second: received,
            sent_packets_per_second: sent,
            dropped_packets_per_second: dropped,
            sessions_created_per_second: created,
        };
        let before = |worker: usize| self.busy_nanos.get(worker).copied().unwrap_or(0);
        let share = |(worker, now): (usize, &u64)| {
            (now.saturating_sub(before(worker)) as f64 / elapsed).min(1.0)
        };
        self.busy = busy_nanos.iter().enumerate().map(share).collect();
        (self.nanos, self.totals, self.busy_nanos) = (nanos, totals, busy_nanos);
    }
}

impl Live {
    /// Looks at the workers' counters and renews the rates; the housekeeping calls it every few seconds.
    pub fn renew_rates(&self) {
        let (snapshots, stalled) = super::counts::snapshots(&self.workers);
        if !stalled.is_empty() {
            // Totals without a worker would look like a fall, and its return like a burst.
            return;
        }
        let sum = |of: fn(&Snapshot) -> u64| snapshots.iter().map(of).sum::<u64>();
        let totals = [
            sum(|s| s.counters.received),
            sum(|s| s.counters.sent),
            sum(|s| s.counters.dropped()),
            sum(|s| s.nat.created),
        ];
        let busy = self
            .workers
            .iter()
            .map(|w| w.numbers.busy_nanos.load(Ordering::Relaxed))
            .collect();
        lock(&self.pulse).look(self.clock.nanos(), totals, busy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_differences_over_time() {
        let mut pulse = Pulse::default();
        pulse.look(1_000_000_000, [0, 0, 0, 0], vec![0, 0]);
        pulse.look(
            3_000_000_000,
            [2000, 1000, 10, 4],
            vec![1_000_000_000, 9_000_000_000],
        );
        assert_eq!(pulse.rates().received_packets_per_second, 1000.0);
        assert_eq!(pulse.rates().sessions_created_per_second, 2.0);
        assert_eq!(
            (
                pulse.busy_ratio(0),
                pulse.busy_ratio(1),
                pulse.busy_ratio(7)
            ),
            (0.5, 1.0, 0.0)
        );
    }
}
