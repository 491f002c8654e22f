//! Coarse time of the packet path. Nothing below the worker loop reads a clock: `Tick` is an argument.

use std::time::Duration;

/// A moment in quarter seconds since the process's epoch; 34 years fit. Session ages need no finer grain,
/// and a coarse tick keeps `last_seen` to one store per session and tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Tick(pub u32);

impl Tick {
    /// Ticks per second.
    pub const PER_SECOND: u32 = 4;

    /// The tick that contains the moment `millis` after the epoch.
    #[inline]
    pub fn from_millis(millis: u64) -> Tick {
        Tick((millis / (1000 / u64::from(Self::PER_SECOND))) as u32)
    }

    /// A duration in ticks, rounded up so that nothing expires early.
    pub fn span(duration: Duration) -> u32 {
        let ticks = duration
            .as_millis()
            .div_ceil(1000 / u128::from(Self::PER_SECOND));
        u32::try_from(ticks).unwrap_or(u32::MAX / 2)
    }

    /// Ticks passed since `earlier` (0 if `earlier` lies ahead).
    #[inline]
    pub fn since(self, earlier: Tick) -> u32 {
        self.0.saturating_sub(earlier.0)
    }
}

/// "Now" as the packet path sees it: sampled once per batch by whoever owns the clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since the process's epoch (neighbour retries, rate limits, fragment timers).
    pub millis: u64,
    /// The same moment as a coarse tick (session ages).
    pub tick: Tick,
}

impl Now {
    /// The moment `millis` after the epoch.
    pub fn at(millis: u64) -> Now {
        Now {
            millis,
            tick: Tick::from_millis(millis),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_round_up_and_never_wrap() {
        assert_eq!(Tick::span(Duration::from_millis(1)), 1);
        assert_eq!(Tick::span(Duration::from_secs(2)), 8);
        assert_eq!(Tick::span(Duration::MAX), u32::MAX / 2);
        assert_eq!(Tick(3).since(Tick(5)), 0, "a future stamp has age zero");
    }
}
