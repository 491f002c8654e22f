//! One external address and the registry of all of them.

use super::{BlockPorts, HostPlan, PortRanges, PortSpace, SinglePorts};
use crate::base::WorkerId;
use hashbrown::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The number of an external address: index into [`Externals`]. It belongs to the address as long as any lease
/// exists, across reloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct ExternalIndex(pub u16);

impl ExternalIndex {
    /// The value as a vector index.
    #[inline]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// How the ports of an address are leased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One port of one space at a time: masquerade and pools without blocks.
    Ports,
    /// Blocks of contiguous ports of all spaces.
    Blocks {
        /// Ports in a block, at least 1.
        size: u16,
        /// Where blocks lie: from the low end of each range; a remainder that fills no block is unused.
        ranges: PortRanges,
    },
    /// A block for each host of a deterministic pool, and blocks for overflow.
    Planned(HostPlan),
}

/// What has become of the ports of one space of an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Ports that mappings use.
    pub in_use: u32,
    /// Ports that rest until their hold time is over. In blocks the count falls lazily, with the block's next use.
    pub held: u32,
    /// Ports free to be leased (blocks layout: in all blocks, leased or not).
    pub free: u32,
    /// The most ports ever in use at once.
    pub high_water: u32,
}

/// What has become of the blocks of an address; all 0 for single ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockUsage {
    /// Blocks that subscribers hold.
    pub used: u32,
    /// Blocks free to be leased.
    pub free: u32,
    /// The most blocks ever held at once.
    pub high_water: u32,
}

/// Port counters of one space, on a cache line of their own.
#[derive(Default)]
#[repr(align(64))]
pub(super) struct Counters {
    in_use: AtomicU32,
    held: AtomicU32,
    high_water: AtomicU32,
}

impl Counters {
    #[inline]
    pub(super) fn in_use_up(&self) {
        self.in_use.fetch_add(1, Relaxed);
    }

    /// One less. The most there ever were can only have been before one less: to note it here alone spares everything that
    /// grows a second wait.
    #[inline]
    pub(super) fn in_use_down(&self) {
        let before = self.in_use.fetch_sub(1, Relaxed);
        if before > self.high_water.load(Relaxed) {
            self.high_water.fetch_max(before, Relaxed);
        }
    }

    #[inline]
    pub(super) fn held_add(&self, n: u32) {
        self.held.fetch_add(n, Relaxed);
    }

    #[inline]
    pub(super) fn held_sub(&self, n: u32) {
        self.held.fetch_sub(n, Relaxed);
    }

    pub(super) fn usage(&self, total: u32) -> Usage {
        let (in_use, held) = (self.in_use.load(Relaxed), self.held.load(Relaxed));
        Usage {
            in_use,
            held,
            free: total.saturating_sub(in_use + held),
            high_water: self.high_water.load(Relaxed).max(in_use),
        }
    }
}

/// One public address with the state of all its ports, shared by every worker and every policy that uses it.
pub struct External {
    address: IpAddr,
    layout: Layout,
    state: State,
}

enum State {
    Ports(SinglePorts),
    Blocks(BlockPorts),
}

impl External {
    /// The address with every port free. Allocates all memory it will ever need (about 290 KiB for single ports).
    pub fn new(address: IpAddr, layout: Layout) -> External {
        let state = match &layout {
            Layout::Ports => State::Ports(SinglePorts::new()),
            Layout::Blocks { size, ranges } => State::Blocks(BlockPorts::new(*size, ranges)),
            Layout::Planned(plan) => State::Blocks(BlockPorts::planned(plan)),
        };
        External {
            address,
            layout,
            state,
        }
    }

    /// The public address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How ports are leased.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The single ports, if the address is laid out so.
    #[inline]
    pub fn single(&self) -> Option<&SinglePorts> {
        match &self.state {
            State::Ports(ports) => Some(ports),
            State::Blocks(_) => None,
        }
    }

    /// The blocks, if the address is laid out so.
    #[inline]
    pub fn blocks(&self) -> Option<&BlockPorts> {
        match &self.state {
            State::Ports(_) => None,
            State::Blocks(blocks) => Some(blocks),
        }
    }

    /// The worker that has leased `port` (or its block), and so gets packets to it.
    #[inline]
    pub fn owner(&self, space: PortSpace, port: u16) -> Option<WorkerId> {
        match &self.state {
            State::Ports(ports) => ports.owner(space, port),
            State::Blocks(blocks) => blocks.owner(port),
        }
    }

    /// Fetches what says who has leased a port, ahead of [`External::owner`].
    #[inline]
    pub fn prefetch_owner(&self, space: PortSpace, port: u16) {
        match &self.state {
            State::Ports(ports) => ports.prefetch_owner(space, port),
            State::Blocks(blocks) => blocks.prefetch_owner(port),
        }
    }

    /// Port counts of one space.
    pub fn usage(&self, space: PortSpace) -> Usage {
        match &self.state {
            State::Ports(ports) => ports.usage(space),
            State::Blocks(blocks) => blocks.usage(space),
        }
    }

    /// Block counts; all 0 for single ports.
    pub fn block_usage(&self) -> BlockUsage {
        match &self.state {
            State::Ports(_) => BlockUsage::default(),
            State::Blocks(blocks) => blocks.block_usage(),
        }
    }

    /// Accounting errors (a port given back twice, and the like). Stays 0.
    pub fn errors(&self) -> u64 {
        match &self.state {
            State::Ports(ports) => ports.errors(),
            State::Blocks(blocks) => blocks.errors(),
        }
    }

    /// Bytes of its port state.
    pub fn memory_bytes(&self) -> usize {
        match &self.state {
            State::Ports(ports) => ports.memory_bytes(),
            State::Blocks(blocks) => blocks.memory_bytes(),
        }
    }

    /// True if no unit is leased or in hold. It stays true only if no pool offers the address any more.
    pub fn is_idle(&self) -> bool {
        match &self.state {
            State::Ports(ports) => PortSpace::ALL.iter().all(|&space| {
                let usage = ports.usage(space);
                usage.in_use == 0 && usage.held == 0
            }),
            State::Blocks(blocks) => blocks.block_usage().used == 0,
        }
    }
}

/// Every external address of a snapshot by its index, those that only drain included.
///
/// The management thread derives the next snapshot's registry from the current one (`clone`, [`Externals::intern`],
/// [`Externals::retire`]), so that an address keeps its state and its index.
#[derive(Clone, Default)]
pub struct Externals {
    slots: Vec<Option<Arc<External>>>,
    by_address: HashMap<IpAddr, ExternalIndex>,
    /// No slot below this one is free.
    first_gap: usize,
}

/// Why an address could not be registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InternError {
    /// The address is in use with another layout, or may be by the policy in force.
    #[error(
        "{0} is in use with other blocks (list it under drain and reload; change them when `natgate show pools` \
         says it is drained)"
    )]
    LayoutChanged(IpAddr),
    /// All 65,535 indices are taken.
    #[error("more than 65535 external addresses")]
    TooMany,
}

impl Externals {
    /// An empty registry.
    pub fn new() -> Externals {
        Externals::default()
    }

    /// The address at `index`, if there is one.
    #[inline]
    pub fn get(&self, index: ExternalIndex) -> Option<&External> {
        self.slots.get(index.index())?.as_deref()
    }

    /// The shared handle at `index`.
    pub fn handle(&self, index: ExternalIndex) -> Option<Arc<External>> {
        self.slots.get(index.index())?.clone()
    }

    /// Every registered address with its index.
    pub fn iter(&self) -> impl Iterator<Item = (ExternalIndex, &Arc<External>)> + '_ {
        let index = |i: usize| ExternalIndex(i as u16);
        let slots = self.slots.iter().enumerate();
        slots.filter_map(move |(i, slot)| Some((index(i), slot.as_ref()?)))
    }

    /// The index of an address: the one it has, or a new one with fresh ports. `offered` says whether the policy in
    /// force gives out ports of an address: a worker may lease one at this very moment.
    ///
    /// # Errors
    /// [`InternError::LayoutChanged`] if the address is busy or offered under another layout; [`InternError::TooMany`].
    pub fn intern(
        &mut self,
        address: IpAddr,
        layout: &Layout,
        offered: impl Fn(ExternalIndex) -> bool,
    ) -> Result<ExternalIndex, InternError> {
        let known = self.by_address.get(&address).copied();
        let known = known.and_then(|index| Some((index, self.get(index)?)));
        let free = |index, e: &External| e.is_idle() && !offered(index);
        let place = match known.map(|(index, e)| (index, e.layout() == layout, free(index, e))) {
            Some((index, true, _)) => return Ok(index),
            Some((_, false, false)) => return Err(InternError::LayoutChanged(address)),
            Some((index, false, true)) => index.index(),
            None => {
                let gap = self.slots[self.first_gap..]
                    .iter()
                    .position(Option::is_none);
                self.first_gap = gap.map_or(self.slots.len(), |gap| self.first_gap + gap);
                self.first_gap
            }
        };
        if place >= usize::from(u16::MAX) {
            return Err(InternError::TooMany);
        }
        if place == self.slots.len() {
            self.slots.push(None);
        }
        let index = ExternalIndex(place as u16);
        self.slots[place] = Some(Arc::new(External::new(address, layout.clone())));
        self.by_address.insert(address, index);
        Ok(index)
    }

    /// Drops every idle address that `wanted` does not want. Call it only when every worker has left the snapshots
    /// that offered the address: an index must not change its meaning under a lease.
    pub fn retire(&mut self, wanted: impl Fn(ExternalIndex) -> bool) {
        for (i, slot) in self.slots.iter_mut().enumerate() {
            if wanted(ExternalIndex(i as u16)) {
                continue;
            }
            if let Some(gone) = slot.take_if(|e| e.is_idle()) {
                self.by_address.remove(&gone.address());
                self.first_gap = self.first_gap.min(i);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_that_of_the_state_of_all_ports() {
        let bytes = |layout| External::new(IpAddr::from([203, 0, 113, 1]), layout).memory_bytes();
        // Who has a port is a byte, and whether it is free a bit.
        assert_eq!(bytes(Layout::Ports), 4 * (65_536 + 65_536 / 8));
        let blocks = Layout::Blocks {
            size: 64,
            ranges: PortRanges::single(1024, 65535),
        };
        assert!(bytes(blocks) > 2 * 64_512);
    }

    #[test]
    fn an_address_keeps_its_index_and_state() {
        let address = |n| IpAddr::from([203, 0, 113, n]);
        let blocks = Layout::Blocks {
            size: 64,
            ranges: PortRanges::single(1024, 65535),
        };
        let mut first = Externals::new();
        let one = first.intern(address(1), &Layout::Ports, |_| true).unwrap();
        let two = first.intern(address(2), &blocks, |_| true).unwrap();
        let held = first.get(one).unwrap().single().unwrap();
        assert!(held.claim(PortSpace::Tcp, 80, WorkerId(1)));

        let mut next = first.clone();
        assert_eq!(next.intern(address(1), &Layout::Ports, |_| true), Ok(one));
        let owner = next.get(one).unwrap().owner(PortSpace::Tcp, 80);
        assert_eq!(owner, Some(WorkerId(1)), "the state is shared");
        let busy = next.intern(address(1), &blocks, |_| false);
        assert_eq!(busy, Err(InternError::LayoutChanged(address(1))));
        let offered = next.intern(address(2), &Layout::Ports, |index| index == two);
        assert_eq!(offered, Err(InternError::LayoutChanged(address(2))));
        let idle = next.intern(address(2), &Layout::Ports, |_| false);
        assert_eq!(idle, Ok(two), "idle and not offered");

        next.retire(|_| false);
        assert!(next.get(one).is_some(), "a leased port keeps the address");
        assert!(next.get(two).is_none());
        assert_eq!(next.intern(address(3), &Layout::Ports, |_| true), Ok(two));
    }
}
