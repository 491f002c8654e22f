//! The port state of an address whose ports are leased in blocks.
//!
//! A block is `size` contiguous ports of every space and belongs to one subscriber. Blocks are claimed from a shared
//! bitmap; inside a block only the owning worker writes, so that its words need no read-modify-write:
//!
//! ```text
//! per block and space:  free ← old ← middle ← young        one bit a port in one of them, or none: in use
//! ```
//!
//! A port given back goes to `young`. Every half hold time all sets move one step left, so that a port rests for
//! 1 to 1.5 hold times (RFC 6888 REQ-8) and no timer is needed: the sets move when the block is used next.

mod sets;

use super::bitmap::Bitmap;
use super::blockmap::BlockMap;
use super::external::{BlockUsage, Counters, ExternalIndex, Usage};
use super::{Allowed, HostPlan, MAX_WORKERS, PortRange, PortRanges, PortSpace, Preference};
use crate::arch::prefetch_index;
use crate::base::{PoolId, Random, Tick, WorkerId};
use sets::{FREE, SETS, YOUNG, bump, place};
use std::sync::atomic::{
    AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst,
};

/// The number of a block within its address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct BlockIndex(pub u16);

impl BlockIndex {
    /// The value as a vector index.
    #[inline]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A block among all addresses, or the end of a list of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct BlockLink(u32);

impl BlockLink {
    /// The end of a list.
    pub const END: BlockLink = BlockLink(u32::MAX);

    /// The link to a block. Index 65,535 is no address ([`super::Externals`] never gives it out).
    #[inline]
    pub fn new(external: ExternalIndex, block: BlockIndex) -> BlockLink {
        BlockLink(u32::from(external.0) << 16 | u32::from(block.0))
    }

    /// The block, or `None` at the end.
    #[inline]
    pub fn get(self) -> Option<(ExternalIndex, BlockIndex)> {
        let parts = (
            ExternalIndex((self.0 >> 16) as u16),
            BlockIndex(self.0 as u16),
        );
        (self != BlockLink::END).then_some(parts)
    }
}

/// Who claims a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The worker that will own the block.
    pub worker: WorkerId,
    /// What `show` and `lookup` are told about the subscriber: the inside address.
    pub subscriber: u128,
    /// The pool the block counts for.
    pub pool: PoolId,
    /// Which blocks suit the worker.
    pub preference: Preference,
    /// The time of the claim.
    pub now: Tick,
}

/// State of a block besides its ports. Written by the owning worker, read by anybody.
#[derive(Default)]
struct Meta {
    /// Worker + 1, 0 = free.
    owner: AtomicU8,
    pool: AtomicU16,
    in_use: [AtomicU16; PortSpace::COUNT],
    held: [AtomicU16; PortSpace::COUNT],
    /// Both halves of the inside address; only listings read it.
    subscriber: [AtomicU64; 2],
    next: AtomicU32,
    last_used: AtomicU32,
    /// When the resting sets last moved.
    moved: AtomicU32,
    /// Ticks without use after which the block is given back.
    idle: AtomicU32,
    /// Where its sets begin in the words of the address.
    at: u32,
    /// Words of one of its sets.
    words: u16,
}

/// The blocks of one external address.
pub struct BlockPorts {
    map: BlockMap,
    /// The lowest block that anybody may have; those below belong to the hosts of a deterministic pool.
    first_open: u16,
    /// Ports of all blocks.
    ports: u32,
    free_blocks: Bitmap,
    blocks: Box<[Meta]>,
    bits: Box<[AtomicU64]>,
    counters: [Counters; PortSpace::COUNT],
    used: AtomicU32,
    used_high: AtomicU32,
    errors: AtomicU64,
}

impl BlockPorts {
    /// Bytes of the port state.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.blocks) + size_of_val(&*self.bits)
    }

    /// Blocks of `size` ports (0 counts as 1) from the low end of each of the ranges, all free.
    pub(super) fn new(size: u16, ranges: &PortRanges) -> BlockPorts {
        BlockPorts::of(BlockMap::new(size, ranges), ranges, 0)
    }

    /// The blocks of a deterministic pool, all free.
    pub(super) fn planned(plan: &HostPlan) -> BlockPorts {
        BlockPorts::of(BlockMap::planned(plan), &plan.ports, plan.hosts)
    }

    fn of(map: BlockMap, usable: &PortRanges, first_open: u16) -> BlockPorts {
        let mut blocks = Vec::new();
        let mut bits: Vec<u64> = Vec::new();
        let mut total = 0;
        for block in (0..map.count()).map(|number| BlockIndex(number as u16)) {
            let Some(ports) = map.ports_of(block) else {
                break;
            };
            let words = ports.size().div_ceil(64) as usize;
            let at = bits.len();
            bits.resize(at + words * SETS * PortSpace::COUNT, 0);
            for range in usable.ranges() {
                let Some(range) = range.intersect(ports) else {
                    continue;
                };
                total += range.size();
                for port in range.first..=range.last {
                    let (word, mask) = place(port - ports.first);
                    for space in 0..PortSpace::COUNT {
                        bits[at + (space * SETS + FREE) * words + word] |= mask;
                    }
                }
            }
            blocks.push(Meta {
                at: at as u32,
                words: words as u16,
                ..Meta::default()
            });
        }
        BlockPorts {
            free_blocks: Bitmap::free(map.count()),
            map,
            first_open,
            ports: total,
            blocks: blocks.into(),
            bits: bits.into_iter().map(AtomicU64::new).collect(),
            counters: Default::default(),
            used: AtomicU32::new(0),
            used_high: AtomicU32::new(0),
            errors: AtomicU64::new(0),
        }
    }

    /// Ports in a block; in the largest, where sizes differ.
    pub fn size(&self) -> u16 {
        self.map.size()
    }

    /// Number of blocks of the address.
    pub fn count(&self) -> u32 {
        self.map.count()
    }

    /// The block `port` lies in.
    #[inline]
    pub fn block_of(&self, port: u16) -> Option<BlockIndex> {
        self.map.block_of(port)
    }

    /// The ports of a block.
    #[inline]
    pub fn ports_of(&self, block: BlockIndex) -> Option<PortRange> {
        self.map.ports_of(block)
    }

    /// The worker that has leased the block of `port`.
    #[inline]
    pub fn owner(&self, port: u16) -> Option<WorkerId> {
        self.block_owner(self.block_of(port)?)
    }

    /// Fetches the line that says who has leased the block of `port`.
    #[inline]
    pub fn prefetch_owner(&self, port: u16) {
        if let Some(block) = self.block_of(port) {
            prefetch_index(&self.blocks, block.index());
        }
    }

    /// The worker that has leased `block`.
    #[inline]
    pub fn block_owner(&self, block: BlockIndex) -> Option<WorkerId> {
        let owner = self.meta(block)?.owner.load(SeqCst);
        owner.checked_sub(1).map(WorkerId)
    }

    /// The inside address that holds `block`.
    pub fn subscriber(&self, block: BlockIndex) -> Option<u128> {
        let meta = self.meta(block)?;
        let leased = meta.owner.load(SeqCst) != 0;
        let [low, high] = &meta.subscriber;
        let half = |half: &AtomicU64| u128::from(half.load(Relaxed));
        leased.then(|| half(low) | half(high) << 64)
    }

    /// Leases a random free block that has a port of `allowed`, one that suits the worker if there is one; `None` if all
    /// are taken.
    pub fn claim_block(
        &self,
        claim: &Claim,
        allowed: &Allowed<'_>,
        random: &mut Random,
    ) -> Option<BlockIndex> {
        if self.used.load(Relaxed) >= self.count() {
            return None;
        }
        let everywhere = |random: &mut Random| {
            let last = self.count().checked_sub(1)?;
            self.claim_between(self.first_open.into(), last, allowed, random)
        };
        let number = self
            .claim_preferred(claim, allowed, random)
            .or_else(|| everywhere(random))?;
        self.lease(BlockIndex(number as u16), claim)
    }

    /// The lowest block that anybody may have: 0, but behind the hosts' own in a deterministic pool.
    pub fn first_open(&self) -> u16 {
        self.first_open
    }

    /// Leases this very block; `None` if it is taken.
    // Implements: D4.
    pub(super) fn claim_own(&self, block: BlockIndex, claim: &Claim) -> Option<BlockIndex> {
        let exists = u32::from(block.0) < self.count();
        (exists && self.free_blocks.claim(block.0.into()))
            .then(|| self.lease(block, claim))
            .flatten()
    }

    /// Notes whose a block is that was just taken from the free ones.
    // Implements: B1.
    fn lease(&self, block: BlockIndex, claim: &Claim) -> Option<BlockIndex> {
        let meta = self.meta(block)?;
        debug_assert!(claim.worker.index() < MAX_WORKERS);
        let [low, high] = &meta.subscriber;
        low.store(claim.subscriber as u64, Relaxed);
        high.store((claim.subscriber >> 64) as u64, Relaxed);
        meta.pool.store(claim.pool.0, Relaxed);
        meta.next.store(BlockLink::END.0, Relaxed);
        meta.last_used.store(claim.now.0, Relaxed);
        // Ports of a block that nobody had rest since the start of the process.
        if meta.held.iter().all(|held| held.load(Relaxed) == 0) {
            meta.moved.store(claim.now.0, Relaxed);
        }
        meta.owner.store(claim.worker.0 + 1, SeqCst);
        let used = self.used.fetch_add(1, Relaxed) + 1;
        self.used_high.fetch_max(used, Relaxed);
        Some(block)
    }

    /// A free block in one of the superblocks that are steered to the worker.
    fn claim_preferred(
        &self,
        claim: &Claim,
        allowed: &Allowed<'_>,
        random: &mut Random,
    ) -> Option<u32> {
        let workers = u32::from(claim.preference.workers);
        let shift = u32::from(claim.preference.shift.min(16));
        let worker = u32::from(claim.worker.0);
        let superblocks = 65_536 >> shift;
        if workers < 2 || worker >= superblocks {
            return None;
        }
        let mine = (superblocks - 1 - worker) / workers + 1;
        let start = random.below(mine);
        for i in 0..mine {
            let first = (worker + (start + i) % mine * workers) << shift;
            let ports = PortRange::new(first as u16, (first + (1 << shift) - 1) as u16);
            for (low, high) in self.map.starting_in(ports) {
                let found =
                    self.claim_between(low.max(self.first_open.into()), high, allowed, random);
                if found.is_some() {
                    return found;
                }
            }
        }
        None
    }

    /// A free block in `low..=high`: the first from a random one on, around the end.
    fn claim_between(
        &self,
        low: u32,
        high: u32,
        allowed: &Allowed<'_>,
        random: &mut Random,
    ) -> Option<u32> {
        let start = low + random.below((high + 1).checked_sub(low)?);
        let useful = |word| self.useful_blocks(word, allowed);
        let claim = |from, to| self.free_blocks.claim_in(from, to, useful);
        claim(start, high).or_else(|| (low < start).then(|| claim(low, start - 1)).flatten())
    }

    /// The blocks of a word of the bitmap that have an allowed port: all, unless ports are reserved or a rule has ports
    /// of its own.
    fn useful_blocks(&self, word: usize, allowed: &Allowed<'_>) -> u64 {
        if allowed.is_everything() {
            return u64::MAX;
        }
        let numbers = word as u32 * 64..(word as u32 * 64 + 64).min(self.count());
        numbers.fold(0, |useful, number| {
            let has_port = self
                .ports_of(BlockIndex(number as u16))
                .is_some_and(|ports| {
                    let mut starts = (ports.first..=ports.last).step_by(64);
                    starts.any(|at| allowed.clip(ports).bits_at(at) != 0)
                });
            useful | u64::from(has_port) << (number % 64)
        })
    }

    /// Gives a block back. It must have no port in use; ports still in hold are free at once, so the caller lets the
    /// block rest as a whole first ([`BlockPorts::is_expired`]). Otherwise nothing happens but an error being counted.
    pub fn release_block(&self, block: BlockIndex) {
        let Some(meta) = self.meta(block) else {
            return self.error();
        };
        if meta.owner.load(Relaxed) == 0 || !self.is_idle(block) {
            return self.error();
        }
        for space in PortSpace::ALL {
            let held = meta.held[space.index()].swap(0, Relaxed);
            self.counters[space.index()].held_sub(held.into());
            if held > 0 {
                // Everything may go at once: each step empties one resting set into the next.
                for _ in FREE..YOUNG {
                    self.move_sets(block, space);
                }
            }
        }
        meta.owner.store(0, SeqCst);
        self.used.fetch_sub(1, Relaxed);
        self.free_blocks.release(block.0.into());
    }

    /// Takes an allowed free port of a block the worker owns: `wanted` if it is free, else a random one. Every port of
    /// the block can be taken before `None`. `hold` is the hold time in ticks.
    #[inline]
    pub fn allocate(
        &self,
        block: BlockIndex,
        wanted: Option<u16>,
        allowed: &Allowed<'_>,
        random: &mut Random,
        now: Tick,
        hold: u32,
    ) -> Option<u16> {
        let ports = self.ports_of(block)?;
        let space = allowed.space();
        self.rest(block, now, hold);
        let port = wanted
            .filter(|&port| self.can_take(block, port, allowed))
            .or_else(|| self.random_free(block, ports, allowed, random))?;
        self.take_port(block, port, space, now);
        Some(port)
    }

    /// Takes a port of the block that is free.
    #[inline]
    pub(super) fn take_port(&self, block: BlockIndex, port: u16, space: PortSpace, now: Tick) {
        let (Some(ports), Some(meta)) = (self.ports_of(block), self.meta(block)) else {
            return;
        };
        let (word, mask) = place(port - ports.first);
        self.clear(block, space, FREE, word, mask);
        bump(&meta.in_use[space.index()], 1);
        meta.last_used.store(now.0, Relaxed);
        self.counters[space.index()].in_use_up();
    }

    /// Makes a free port rest in its block, which nobody has yet; false if it is not free.
    pub(super) fn rest_port(&self, space: PortSpace, port: u16, now: Tick) -> bool {
        let block = self.block_of(port);
        let place_of = block.and_then(|b| Some((b, self.ports_of(b)?, self.meta(b)?)));
        let Some((block, ports, meta)) = place_of else {
            return false;
        };
        let (word, mask) = place(port - ports.first);
        if self.load(block, space, FREE, word) & mask == 0 {
            return false;
        }
        self.clear(block, space, FREE, word, mask);
        let cell = self.cell(block, space, YOUNG, word);
        cell.store(cell.load(Relaxed) | mask, Relaxed);
        bump(&meta.held[space.index()], 1);
        self.counters[space.index()].held_add(1);
        meta.moved.store(now.0, Relaxed);
        true
    }

    /// Notes that a port of the block in use was taken once more.
    pub(super) fn touch(&self, block: BlockIndex, now: Tick) {
        if let Some(meta) = self.meta(block) {
            meta.last_used.store(now.0, Relaxed);
        }
    }

    /// One word of a block, bit set = the port is free.
    pub(super) fn free_in(&self, block: BlockIndex, space: PortSpace, word: usize) -> u64 {
        self.load(block, space, FREE, word)
    }

    /// The first port of the word that `port` is in: of its block, or of the address where it is in none.
    pub(super) fn window_of(&self, port: u16) -> u16 {
        let ports = self.block_of(port).and_then(|block| self.ports_of(block));
        ports.map_or(port & !63, |ports| port - (port - ports.first) % 64)
    }

    /// True if `port` is a free, allowed port of the block.
    #[inline]
    pub fn can_take(&self, block: BlockIndex, port: u16, allowed: &Allowed<'_>) -> bool {
        let ports = self.ports_of(block).filter(|p| p.contains(port));
        ports.is_some_and(|ports| {
            let (word, mask) = place(port - ports.first);
            self.load(block, allowed.space(), FREE, word) & mask != 0 && allowed.contains(port)
        })
    }

    /// True if an allowed port of the block is free.
    pub fn has_free(&self, block: BlockIndex, allowed: &Allowed<'_>, now: Tick, hold: u32) -> bool {
        self.rest(block, now, hold);
        self.ports_of(block).is_some_and(|ports| {
            (0..self.words(block)).any(|word| self.available(block, ports, allowed, word) != 0)
        })
    }

    /// Gives a port back; it rests for `hold` ticks (0: reusable at once). A port not in use is counted as an error.
    #[inline]
    pub fn free(&self, space: PortSpace, port: u16, now: Tick, hold: u32) {
        let Some((block, ports)) = self
            .block_of(port)
            .and_then(|b| Some((b, self.ports_of(b)?)))
        else {
            return self.error();
        };
        let Some(meta) = self.meta(block).filter(|m| m.owner.load(Relaxed) != 0) else {
            return self.error();
        };
        let (word, mask) = place(port - ports.first);
        let known = (0..SETS).any(|set| self.load(block, space, set, word) & mask != 0);
        if known {
            return self.error();
        }
        if hold > 0 {
            // Others may rest in the block: only their own hold time may move them.
            self.rest(block, now, hold);
        }
        let set = if hold > 0 { YOUNG } else { FREE };
        let cell = self.cell(block, space, set, word);
        cell.store(cell.load(Relaxed) | mask, Relaxed);
        bump(&meta.in_use[space.index()], -1);
        self.counters[space.index()].in_use_down();
        if hold > 0 {
            bump(&meta.held[space.index()], 1);
            self.counters[space.index()].held_add(1);
        }
        meta.last_used.store(now.0, Relaxed);
    }

    /// Ports of the block in use in one space.
    pub fn in_use(&self, block: BlockIndex, space: PortSpace) -> u16 {
        self.meta(block)
            .map_or(0, |m| m.in_use[space.index()].load(Relaxed))
    }

    /// Ports of the block in use or at rest in one space.
    pub(super) fn busy(&self, block: BlockIndex, space: PortSpace) -> u32 {
        self.meta(block).map_or(0, |meta| {
            let counts = [&meta.in_use, &meta.held];
            let of = |count: &[AtomicU16; PortSpace::COUNT]| count[space.index()].load(Relaxed);
            counts.into_iter().map(|count| u32::from(of(count))).sum()
        })
    }

    /// True if no port of the block is in use.
    #[inline]
    pub fn is_idle(&self, block: BlockIndex) -> bool {
        PortSpace::ALL
            .iter()
            .all(|&space| self.in_use(block, space) == 0)
    }

    /// When a port of the block was last taken or given back.
    #[inline]
    pub fn last_used(&self, block: BlockIndex) -> Tick {
        Tick(self.meta(block).map_or(0, |m| m.last_used.load(Relaxed)))
    }

    /// True if the block is idle and has been for as long as its pool wants it kept.
    #[inline]
    pub fn is_expired(&self, block: BlockIndex, now: Tick) -> bool {
        let idle = self.meta(block).map_or(u32::MAX, |m| m.idle.load(Relaxed));
        self.is_idle(block) && now.since(self.last_used(block)) > idle
    }

    /// Notes how long the block may be idle, in ticks.
    #[inline]
    pub(super) fn set_idle(&self, block: BlockIndex, ticks: u32) {
        if let Some(meta) = self.meta(block) {
            meta.idle.store(ticks, Relaxed);
        }
    }

    /// The pool the block counts for.
    #[inline]
    pub(super) fn pool(&self, block: BlockIndex) -> Option<PoolId> {
        Some(PoolId(self.meta(block)?.pool.load(Relaxed)))
    }

    /// The next block of the same subscriber.
    #[inline]
    pub(super) fn next(&self, block: BlockIndex) -> BlockLink {
        self.meta(block)
            .map_or(BlockLink::END, |m| BlockLink(m.next.load(Relaxed)))
    }

    /// Links the block to the next one of the same subscriber.
    #[inline]
    pub(super) fn set_next(&self, block: BlockIndex, next: BlockLink) {
        if let Some(meta) = self.meta(block) {
            meta.next.store(next.0, Relaxed);
        }
    }

    /// Port counts of one space.
    pub fn usage(&self, space: PortSpace) -> Usage {
        self.counters[space.index()].usage(self.ports)
    }

    /// Block counts.
    pub fn block_usage(&self) -> BlockUsage {
        let used = self.used.load(Relaxed);
        BlockUsage {
            used,
            free: self.count().saturating_sub(used),
            high_water: self.used_high.load(Relaxed),
        }
    }

    /// Calls that made no sense (a port or block given back twice). Stays 0 unless the caller has a bug.
    pub fn errors(&self) -> u64 {
        self.errors.load(Relaxed)
    }

    /// Words of one set of a block that exists.
    #[inline]
    pub(super) fn words(&self, block: BlockIndex) -> usize {
        usize::from(self.blocks[block.index()].words)
    }

    #[inline]
    fn meta(&self, block: BlockIndex) -> Option<&Meta> {
        self.blocks.get(block.index())
    }

    #[cold]
    fn error(&self) {
        self.errors.fetch_add(1, Relaxed);
    }
}
