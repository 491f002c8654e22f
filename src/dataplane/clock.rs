//! The only place on the packet side that reads a clock.

use std::time::Instant;

use crate::base::time::Now;

/// Monotonic time since the process's epoch.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    epoch: Instant,
}

impl Clock {
    /// A clock that starts at one second: moments shortly before the epoch can then still be expressed.
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the clock everybody else is given"
    )]
    pub fn start() -> Clock {
        Clock {
            epoch: Instant::now(),
        }
    }

    /// Nanoseconds since the epoch.
    #[inline]
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the clock everybody else is given"
    )]
    pub fn nanos(&self) -> u64 {
        Instant::now().duration_since(self.epoch).as_nanos() as u64
    }

    /// Now, for the packet path.
    #[inline]
    pub fn now(&self) -> Now {
        Clock::at(self.nanos())
    }

    /// That many nanoseconds after the epoch, for the packet path.
    #[inline]
    pub fn at(nanos: u64) -> Now {
        Now::at(1_000 + nanos / 1_000_000)
    }
}
