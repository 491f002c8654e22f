//! The pools of a policy, and what each has counted since it first appeared.

use super::{Pool, PortSpace};
use crate::base::{DropReason, PoolId, WorkerId};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The pools of a policy in their order, found by id.
#[derive(Default)]
pub struct Pools {
    list: Vec<Pool>,
    /// Where the pool with an id is in `list`, by [`PoolId`]; ids of pools that are gone leave holes.
    places: Vec<Option<u16>>,
}

impl Pools {
    /// These pools; no two have the same id.
    pub fn new(list: Vec<Pool>) -> Pools {
        let mut places = Vec::new();
        for (at, pool) in list.iter().enumerate() {
            let id = pool.policy().id.index();
            if places.len() <= id {
                places.resize(id + 1, None);
            }
            places[id] = Some(at as u16);
        }
        Pools { list, places }
    }

    /// The pool with this id.
    #[inline]
    pub fn get(&self, id: PoolId) -> Option<&Pool> {
        let place = (*self.places.get(id.index())?)?;
        self.list.get(usize::from(place))
    }

    /// Every pool, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Pool> {
        self.list.iter()
    }
}

/// Mappings a pool gave a port to, and those it could not, by port space. Each worker counts for itself, because what several
/// add to costs each of them a wait for all it has written before.
#[derive(Debug)]
pub struct PoolCounts {
    workers: Box<[Tally]>,
}

/// The part of one worker, which alone writes it.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Tally {
    created: [AtomicU64; PortSpace::COUNT],
    refused: [[AtomicU64; PoolCounts::REASONS.len()]; PortSpace::COUNT],
}

impl PoolCounts {
    /// Why a pool refuses a mapping.
    pub const REASONS: [DropReason; 5] = [
        DropReason::NoAddress,
        DropReason::PoolDraining,
        DropReason::NoPort,
        DropReason::NoBlock,
        DropReason::QuotaBlocks,
    ];

    /// Nothing counted, by so many workers.
    pub(super) fn new(workers: u8) -> PoolCounts {
        PoolCounts {
            workers: (0..workers.max(1)).map(|_| Tally::default()).collect(),
        }
    }

    /// Counts a mapping that got its port, or was refused it.
    #[inline]
    pub(super) fn count(&self, worker: WorkerId, space: PortSpace, refused: Option<DropReason>) {
        let Some(tally) = self.workers.get(worker.index()) else {
            return;
        };
        let Some(reason) = refused else {
            return one_more(&tally.created[space.index()]);
        };
        if let Some(at) = Self::REASONS.iter().position(|&r| r == reason) {
            one_more(&tally.refused[space.index()][at]);
        }
    }

    /// Mappings created.
    pub fn created(&self, space: PortSpace) -> u64 {
        let of = |tally: &Tally| tally.created[space.index()].load(Relaxed);
        self.workers.iter().map(of).sum()
    }

    /// Mappings refused, by reason.
    pub fn refused(&self, space: PortSpace) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        (Self::REASONS.into_iter().enumerate()).map(move |(at, reason)| {
            let of = |tally: &Tally| tally.refused[space.index()][at].load(Relaxed);
            (reason, self.workers.iter().map(of).sum())
        })
    }
}

/// Adds one to a count with one writer.
#[inline]
fn one_more(count: &AtomicU64) {
    count.store(count.load(Relaxed) + 1, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_apart_by_space_and_reason() {
        let counts = PoolCounts::new(2);
        let [one, two] = [WorkerId(0), WorkerId(1)];
        counts.count(one, PortSpace::Tcp, None);
        counts.count(one, PortSpace::Udp, Some(DropReason::NoPort));
        counts.count(two, PortSpace::Udp, Some(DropReason::NoPort));
        counts.count(two, PortSpace::Udp, Some(DropReason::QuotaBlocks));
        let of = |space| counts.refused(space).map(|(_, n)| n).collect::<Vec<_>>();
        assert_eq!(
            PortSpace::ALL.map(|space| counts.created(space)),
            [1, 0, 0, 0]
        );
        assert_eq!(of(PortSpace::Udp), [0, 0, 2, 0, 1]);
        assert_eq!(of(PortSpace::Tcp), [0; 5]);
    }
}
