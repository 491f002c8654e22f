//! What one subscriber may use at most, so that one that scans or is infected does not cost the others anything
//! (RFC 6888 REQ-4, REQ-5). Exact with any number of workers, because a subscriber lives on one.

use crate::base::DropReason;
use crate::base::time::Now;
use crate::gateway::errors::ErrorKind;

/// The limits of every subscriber; 0 is no limit.
// Implements: G4, G4a, G4c, G5, G5a, G5b.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostLimits {
    /// Sessions at a time, whoever opened them.
    pub sessions: u32,
    /// Sessions it may open a second, and at once.
    pub new_per_second: u32,
    /// TCP connections it opened that are not established yet, at a time.
    pub half_open: u32,
    /// What the subscriber hears of a refusal (RFC 6888 REQ-11b), as far as the rate limit on errors allows.
    pub error: Option<ErrorKind>,
}

impl HostLimits {
    /// Whether a drop was for one of the limits.
    pub fn refuses(reason: DropReason) -> bool {
        matches!(
            reason,
            DropReason::QuotaBlocks
                | DropReason::SessionLimit
                | DropReason::QuotaRate
                | DropReason::QuotaHalfOpen
        )
    }
}

/// When a subscriber may open its next session: a token bucket of one second's tokens, kept as the time at which it would
/// be full again. A subscriber that opened nothing for a second has all its tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Pace(u64);

const SECOND_NANOS: u64 = 1_000_000_000;

impl Pace {
    /// Takes a token of `per_second` (0: there is no limit); false if there is none.
    // Implements: G4c, G5b.
    #[inline]
    pub fn take(&mut self, per_second: u32, now: Now) -> bool {
        if per_second == 0 {
            return true;
        }
        let token = (SECOND_NANOS / u64::from(per_second)).max(1);
        let now = now.millis.saturating_mul(1_000_000);
        // A limit lowered by a reload must not make anybody wait longer than its own second.
        let full = self.0.clamp(now, now.saturating_add(SECOND_NANOS));
        if full - now > SECOND_NANOS - token {
            return false;
        }
        self.0 = full + token;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(pace: &mut Pace, rate: u32, millis: u64, wishes: u32) -> u32 {
        (0..wishes)
            .map(|_| u32::from(pace.take(rate, Now::at(millis))))
            .sum()
    }

    #[test]
    fn a_burst_is_a_second_of_tokens_and_then_the_rate_holds() {
        for rate in [1, 2, 3, 7, 10, 999, 1000, 5000] {
            let mut pace = Pace::default();
            assert_eq!(
                taken(&mut pace, rate, 5_000, rate + 5),
                rate,
                "burst of {rate}"
            );
            // Ten seconds of greed, a hundred times a second.
            let greedy: u32 = (1..=1000)
                .map(|i| taken(&mut pace, rate, 5_000 + i * 10, rate))
                .sum();
            assert!(
                (10 * rate - 1..=10 * rate + 1).contains(&greedy),
                "{greedy} in 10 s at {rate}"
            );
            assert_eq!(taken(&mut pace, rate, 17_000, rate + 5), rate, "full again");
        }
    }

    #[test]
    fn no_limit_is_none_and_a_lower_one_waits_a_second_at_most() {
        let mut pace = Pace::default();
        assert_eq!(taken(&mut pace, 0, 1_000, 10_000), 10_000);
        assert_eq!(taken(&mut pace, 1000, 1_000, 2_000), 1000);
        assert_eq!(taken(&mut pace, 1, 1_500, 1), 0);
        assert_eq!(taken(&mut pace, 1, 2_000, 2), 1);
    }

    #[test]
    fn refusals_for_a_limit_are_told_from_others() {
        let of_limits = [
            DropReason::QuotaBlocks,
            DropReason::SessionLimit,
            DropReason::QuotaRate,
            DropReason::QuotaHalfOpen,
        ];
        for reason in DropReason::ALL {
            let expected = of_limits.contains(reason);
            assert_eq!(HostLimits::refuses(*reason), expected, "{reason}");
        }
    }

    #[test]
    fn more_tokens_a_second_than_it_has_nanoseconds_are_given_one_by_one() {
        let mut pace = Pace::default();
        assert_eq!(taken(&mut pace, u32::MAX, 1_000, 100), 100);
        assert_eq!(pace.0, 1_000_000_100);
    }
}
