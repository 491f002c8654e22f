//! Which ports suit a worker: those whose replies the network card brings to it.

use super::Allowed;
use crate::base::{Random, WorkerId};

/// Which blocks a worker would rather have: those the network card steers to it, superblock
/// `port >> shift` to worker `superblock % workers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preference {
    /// log2 of the ports of a superblock, 0–16.
    pub shift: u8,
    /// Number of workers; below 2 there is nothing to prefer.
    pub workers: u8,
}

impl Preference {
    /// The port at the same place of the nearest superblock that is steered to `worker`; `port` itself where there is none.
    #[inline]
    pub fn home(self, worker: WorkerId, port: u16) -> u16 {
        let (workers, shift) = (u32::from(self.workers), u32::from(self.shift.min(16)));
        if workers < 2 {
            return port;
        }
        let (superblock, place) = (
            u32::from(port) >> shift,
            u32::from(port) & ((1 << shift) - 1),
        );
        let own = superblock - superblock % workers + u32::from(worker.0);
        u16::try_from(own << shift | place).unwrap_or(port)
    }

    /// Where a random search for a port starts: at a port drawn uniformly, moved home if it is allowed there.
    #[inline]
    pub(super) fn start(
        self,
        worker: WorkerId,
        allowed: &Allowed<'_>,
        random: &mut Random,
    ) -> Option<u16> {
        let drawn = allowed.nth(random.below(allowed.size()))?;
        let home = self.home(worker, drawn);
        Some(if allowed.contains(home) { home } else { drawn })
    }
}
