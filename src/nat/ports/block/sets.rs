//! The words of a block: which of its ports are free, resting or in use.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};

use super::{BlockIndex, BlockPorts};
use crate::base::{Random, Tick};
use crate::nat::ports::{Allowed, PortRange, PortSpace};

/// Sets of ports per block and space; see the picture in [`super`].
pub(super) const SETS: usize = 4;
pub(super) const FREE: usize = 0;
pub(super) const YOUNG: usize = SETS - 1;

impl BlockPorts {
    /// A uniformly drawn offset, then the next available port in its word, then in the next words.
    pub(super) fn random_free(
        &self,
        block: BlockIndex,
        ports: PortRange,
        allowed: &Allowed<'_>,
        random: &mut Random,
    ) -> Option<u16> {
        let start = random.below(ports.size());
        let first = start as usize / 64;
        let words = self.words(block);
        for i in 0..words {
            let word = (first + i) % words;
            let available = self.available(block, ports, allowed, word);
            if available != 0 {
                let bit = (available.rotate_right(start).trailing_zeros() + start) % 64;
                return Some(ports.first + (word as u16) * 64 + bit as u16);
            }
        }
        None
    }

    /// Free and allowed ports of one word of a block.
    #[inline]
    pub(super) fn available(
        &self,
        block: BlockIndex,
        ports: PortRange,
        allowed: &Allowed<'_>,
        word: usize,
    ) -> u64 {
        match self.load(block, allowed.space(), FREE, word) {
            0 => 0,
            free => free & allowed.bits_at(ports.first + (word as u16) * 64),
        }
    }

    /// Moves the resting sets as many steps as half hold times have passed.
    #[inline]
    pub(in crate::nat::ports) fn rest(&self, block: BlockIndex, now: Tick, hold: u32) {
        let Some(meta) = self.meta(block) else { return };
        // Rounded up and one more: coarse ticks must not shorten the hold.
        let step = hold / 2 + 1;
        let moved = meta.moved.load(Relaxed);
        let steps = now.since(Tick(moved)) / step;
        if steps == 0 {
            return;
        }
        meta.moved
            .store(moved.saturating_add(steps * step), Relaxed);
        for space in PortSpace::ALL {
            for _ in 0..steps.min(SETS as u32 - 1) {
                if meta.held[space.index()].load(Relaxed) > 0 {
                    let freed = self.move_sets(block, space);
                    bump(&meta.held[space.index()], -(freed as i32));
                    self.counters[space.index()].held_sub(freed);
                }
            }
        }
    }

    /// One step: `old` becomes free, `middle` old, `young` middle. Returns the number of ports that became free.
    pub(super) fn move_sets(&self, block: BlockIndex, space: PortSpace) -> u32 {
        let mut freed = 0;
        for word in 0..self.words(block) {
            freed += self.shift_word(block, space, FREE + 1, word);
            for set in FREE + 2..SETS {
                self.shift_word(block, space, set, word);
            }
        }
        freed
    }

    /// Moves one word of `set` into the set before it; returns the number of ports moved.
    #[inline]
    pub(super) fn shift_word(
        &self,
        block: BlockIndex,
        space: PortSpace,
        set: usize,
        word: usize,
    ) -> u32 {
        let from = self.cell(block, space, set, word);
        let moved = from.load(Relaxed);
        if moved != 0 {
            from.store(0, Relaxed);
            let to = self.cell(block, space, set - 1, word);
            to.store(to.load(Relaxed) | moved, Relaxed);
        }
        moved.count_ones()
    }

    #[inline]
    pub(super) fn clear(
        &self,
        block: BlockIndex,
        space: PortSpace,
        set: usize,
        word: usize,
        mask: u64,
    ) {
        let cell = self.cell(block, space, set, word);
        cell.store(cell.load(Relaxed) & !mask, Relaxed);
    }

    #[inline]
    pub(super) fn load(&self, block: BlockIndex, space: PortSpace, set: usize, word: usize) -> u64 {
        self.cell(block, space, set, word).load(Relaxed)
    }

    /// One word of a set. Only for blocks that exist: callers have looked their metadata or ports up.
    #[inline]
    pub(super) fn cell(
        &self,
        block: BlockIndex,
        space: PortSpace,
        set: usize,
        word: usize,
    ) -> &AtomicU64 {
        let meta = &self.blocks[block.index()];
        let row = space.index() * SETS + set;
        &self.bits[meta.at as usize + row * usize::from(meta.words) + word]
    }
}

/// Word and mask of a port by its offset in the block.
#[inline]
pub(super) fn place(offset: u16) -> (usize, u64) {
    (usize::from(offset / 64), 1 << (offset % 64))
}

/// Adds to a counter with one writer.
#[inline]
pub(super) fn bump(counter: &AtomicU16, by: i32) {
    counter.store(counter.load(Relaxed).wrapping_add(by as u16), Relaxed);
}
