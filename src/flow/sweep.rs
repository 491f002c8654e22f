//! The clock hand: expiry looks at a slice of the slab per worker loop, instead of a timer per session.
//!
//! **Cost model.** A session is looked at once per turn, a sequential read of its line: 12–18 cycles. At 1 M sessions
//! and a turn of 2 s that is 0.3 % of a 2.6 GHz core, at 16 M 5 %; a turn of 10 s costs a fifth. Refreshing a session
//! costs nothing (the packet path stores `last_seen` anyway), where timer wheels and LRU lists write on
//! every packet. In exchange a session leaves up to one turn after its time; lookups check the age themselves, so
//! only its memory and port are late.
//!
//! **Pace.** A turn takes at most the configured time however busy the worker is: the hand owes
//! `limit × elapsed ÷ turn` entries, exactly, fractions carried over. One call visits at most [`MAX_SLICE`] entries,
//! so a stall or an expiry storm is worked off in slices between bursts: no packet waits longer than one slice. An
//! idle worker visits at least [`IDLE_SLICE`] per loop, as nobody else wants the time.

use std::ops::Range;
use std::time::Duration;

/// Entries a loop without packets visits, if the slab has them: a few microseconds.
pub const IDLE_SLICE: u32 = 512;

/// Entries one call visits at most. Estimated: under 20 µs when nothing has expired, about 100 µs when all have.
pub const MAX_SLICE: u32 = 1024;

/// The turn, when nothing else is said: the lateness of ports and memory.
pub const DEFAULT_TURN: Duration = Duration::from_secs(2);

/// Entries, times milliseconds of a turn, that a hand owes after `elapsed_millis` over `entries` entries: divided by
/// the turn it is the minimum to visit. Kept undivided so that loops shorter than an entry's share add up.
#[inline]
fn debt(elapsed_millis: u64, entries: u32, turn_millis: u64) -> u64 {
    u64::from(entries) * elapsed_millis.min(turn_millis)
}

/// The least number of entries to visit after `elapsed_millis` so that a turn over `entries` entries takes at most
/// `turn_millis`; rounded up, at most one turn.
#[inline]
pub fn budget(elapsed_millis: u64, entries: u32, turn_millis: u64) -> u32 {
    let turn = turn_millis.max(1);
    debt(elapsed_millis, entries, turn).div_ceil(turn) as u32
}

/// A sweep position over a slab, and what it owes.
#[derive(Clone, Debug)]
pub struct ClockHand {
    position: u32,
    turns: u64,
    turn_millis: u64,
    /// The moment up to which `owed` is charged; `None` before the first call.
    charged: Option<u64>,
    owed: u64,
}

impl Default for ClockHand {
    fn default() -> ClockHand {
        ClockHand::new(DEFAULT_TURN)
    }
}

impl ClockHand {
    /// A hand at entry 0 whose full turn takes at most `turn` (1 ms to about an hour; clamped).
    pub fn new(turn: Duration) -> ClockHand {
        ClockHand {
            position: 0,
            turns: 0,
            turn_millis: turn.as_millis().clamp(1, 1 << 22) as u64,
            charged: None,
            owed: 0,
        }
    }

    /// The slice to visit in a loop at `now_millis`, as the pace demands: empty in most loops of a busy worker with
    /// few sessions. `limit` is the slab's high-water mark; `idle` says that the loop saw no packets.
    ///
    /// The rate holds as long as calls come often enough for [`MAX_SLICE`] each: every 0.12 ms at 16 M entries
    /// and 2 s. What is owed is never more than one turn.
    #[inline]
    pub fn due(&mut self, now_millis: u64, limit: u32, idle: bool) -> Range<u32> {
        let elapsed = now_millis.saturating_sub(self.charged.unwrap_or(now_millis));
        self.charged = Some(now_millis);
        let turn = self.turn_millis;
        self.owed = (self.owed + debt(elapsed, limit, turn)).min(u64::from(limit) * turn);
        if !idle && self.owed < turn {
            return self.position..self.position;
        }
        let owed = (self.owed / turn) as u32;
        let count = owed.max(if idle { IDLE_SLICE } else { 0 }).min(MAX_SLICE);
        let slice = self.next_slice(limit, count);
        let visited = u64::from(slice.end - slice.start);
        self.owed = self.owed.saturating_sub(visited * turn);
        slice
    }

    /// The next at most `budget` entries below `limit`. A slice ends at `limit`; the one after begins at 0.
    #[inline]
    pub fn next_slice(&mut self, limit: u32, budget: u32) -> Range<u32> {
        let start = if self.position < limit {
            self.position
        } else {
            0
        };
        let end = start.saturating_add(budget).min(limit);
        self.position = end;
        if end == limit && end > start {
            self.position = 0;
            self.turns += 1;
        }
        start..end
    }

    /// Full turns made.
    pub fn turns(&self) -> u64 {
        self.turns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_turn_visits_every_entry_once(limit in 1u32..500, budgets in prop::collection::vec(1u32..60, 600)) {
            let mut hand = ClockHand::default();
            let mut visits = vec![0; limit as usize];
            for budget in budgets {
                for i in hand.next_slice(limit, budget) {
                    visits[i as usize] += 1;
                }
                let turns = hand.turns();
                prop_assert!(visits.iter().all(|&v| v == turns || v == turns + 1));
            }
            prop_assert!(hand.turns() >= 1);
        }

        #[test]
        fn the_budget_covers_a_turn_in_time(limit in 0u32.., turn in 1u64..100_000, step in 1u64..100_000) {
            let steps = turn.div_ceil(step);
            prop_assert!(u64::from(budget(step, limit, turn)) * steps >= u64::from(limit));
            prop_assert!(budget(step, limit, turn) <= limit);
        }

        #[test]
        fn a_changing_limit_never_leaves_the_slab(limits in prop::collection::vec(0u32..3000, 100)) {
            let mut hand = ClockHand::new(Duration::from_millis(5));
            for (now, limit) in limits.into_iter().enumerate() {
                let slice = hand.due(now as u64, limit, now % 3 == 0);
                prop_assert!(slice.is_empty() || slice.end <= limit);
                prop_assert!(slice.start <= slice.end && slice.end - slice.start <= MAX_SLICE);
            }
        }
    }

    /// Entries visited between two moments, calling `per_milli` times each millisecond.
    fn visited(hand: &mut ClockHand, millis: Range<u64>, per_milli: u32, limit: u32) -> u64 {
        let mut sum = 0;
        for now in millis {
            for _ in 0..per_milli {
                sum += hand.due(now, limit, false).len() as u64;
            }
        }
        sum
    }

    #[test]
    fn a_busy_worker_keeps_the_pace_exactly() {
        // 7 entries in 2 s is one in 285.7 ms: fractions must add up, whatever the loop rate.
        for (limit, per_milli) in [(7, 1), (7, 50), (1000, 20), (100_000, 3), (1_000_000, 2)] {
            let mut hand = ClockHand::default();
            let sum = visited(&mut hand, 0..20_001, per_milli, limit);
            let wanted = 10 * u64::from(limit);
            assert!(sum + 1 >= wanted && sum <= wanted, "{sum} of {wanted}");
        }
    }

    #[test]
    fn a_stall_is_caught_up_in_bounded_slices() {
        let mut hand = ClockHand::default();
        hand.due(0, 100_000, false);
        let first = hand.due(60_000, 100_000, false);
        assert_eq!(first.len() as u32, MAX_SLICE);
        let rest = visited(&mut hand, 60_000..60_001, 1000, 100_000);
        assert_eq!(rest + u64::from(MAX_SLICE), 100_000, "one turn, not thirty");
    }

    #[test]
    fn an_idle_worker_does_more_than_it_must() {
        let mut hand = ClockHand::default();
        assert_eq!(hand.due(0, 10_000, true).len() as u32, IDLE_SLICE);
        assert!(hand.due(0, 10_000, false).is_empty());
        assert!(hand.due(1, 0, true).is_empty(), "an empty slab");
    }
}
