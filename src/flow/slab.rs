//! The slab: a fixed arena of sessions, mappings or subscribers, named by `u32` numbers.
//!
//! Free entries form a list threaded through the entries themselves, so the slab adds nothing to their size. Entries
//! that were never used are handed out in order, after the list: a half-empty slab stays dense at the front, and
//! a sweep ends at the [high-water mark](Slab::high_water). Last released is first reused: its line is warm.

use crate::arch::{HugeVec, OutOfMemory, Pages, prefetch_lines};

/// No entry: the end of a list, an unset link.
pub const NONE: u32 = u32::MAX;

/// What a slab must know of its entries. `Default` is a free entry.
pub trait SlabEntry: Copy + Default + Send + Sync {
    /// Cache lines that [`Slab::prefetch`] fetches: as many as are needed at first.
    const LINES: usize = 1;

    /// True from [`Slab::allocate`] to [`Slab::release`]. False for `Self::default()`, whatever its link.
    fn is_live(&self) -> bool;

    /// The link last set; asked of free entries only.
    fn next_free(&self) -> u32;

    /// Stores a link in a free entry, in any field a free entry does not need; it stays free.
    fn set_next_free(&mut self, next: u32);
}

/// A fixed number of entries of `T`, on huge pages, all memory touched at construction.
#[derive(Debug)]
pub struct Slab<T: SlabEntry> {
    entries: HugeVec<T>,
    /// First of the free list, or [`NONE`].
    free: u32,
    /// Entries from here on were never handed out.
    high_water: u32,
    len: u32,
}

impl<T: SlabEntry> Slab<T> {
    /// A slab of `capacity` free entries on transparent huge pages.
    ///
    /// # Errors
    /// [`OutOfMemory`] if the memory is not there or `capacity` reaches 2³² − 1, the number kept for [`NONE`].
    pub fn with_capacity(capacity: usize) -> Result<Slab<T>, OutOfMemory> {
        Slab::with_pages(capacity, Pages::Transparent)
    }

    /// As [`Slab::with_capacity`], with a choice of pages.
    ///
    /// # Errors
    /// As [`Slab::with_capacity`].
    pub fn with_pages(capacity: usize, pages: Pages) -> Result<Slab<T>, OutOfMemory> {
        if capacity >= NONE as usize {
            return Err(OutOfMemory {
                bytes: capacity.saturating_mul(size_of::<T>()),
                reason: "a slab has fewer than 2^32 - 1 entries".to_owned(),
            });
        }
        Ok(Slab {
            entries: HugeVec::new(capacity, pages)?,
            free: NONE,
            high_water: 0,
            len: 0,
        })
    }

    /// Stores `value`, which must be live, in a free entry and names it; `None` if there is none.
    #[inline]
    pub fn allocate(&mut self, value: T) -> Option<u32> {
        debug_assert!(value.is_live(), "a free value cannot be allocated");
        let recycled = self.free != NONE;
        let index = if recycled { self.free } else { self.high_water };
        let entry = self.entries.get_mut(index as usize)?;
        if recycled {
            self.free = entry.next_free();
        } else {
            self.high_water += 1;
        }
        *entry = value;
        self.len += 1;
        Some(index)
    }

    /// Frees an entry and clears its content; false, and nothing changed, if it is not live.
    #[inline]
    pub fn release(&mut self, index: u32) -> bool {
        let Some(entry) = self.entries.get_mut(index as usize) else {
            return false;
        };
        if !entry.is_live() {
            return false;
        }
        *entry = T::default();
        entry.set_next_free(self.free);
        self.free = index;
        self.len -= 1;
        true
    }

    /// The entry at `index`, live or free; `None` past the end.
    #[inline(always)]
    pub fn get(&self, index: u32) -> Option<&T> {
        self.entries.get(index as usize)
    }

    /// The entry at `index`, live or free, to change; `None` past the end. A live entry must stay live and
    /// a free one free.
    #[inline(always)]
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.entries.get_mut(index as usize)
    }

    /// True if `index` names an allocated entry.
    #[inline]
    pub fn is_live(&self, index: u32) -> bool {
        self.get(index).is_some_and(T::is_live)
    }

    /// Fetches the first cache lines of an entry ahead of its use; harmless for any index.
    #[inline(always)]
    pub fn prefetch(&self, index: u32) {
        prefetch_lines(&self.entries, index as usize, T::LINES);
    }

    /// Fetches the line of the entry that the `n`-th next [`Slab::allocate`] takes, if it was never used before: a line
    /// that nobody read lately. Released entries are reused first, and warm.
    #[inline(always)]
    pub fn prefetch_fresh(&self, n: u32) {
        self.prefetch(self.high_water.wrapping_add(n));
    }

    /// The live entries with their numbers, in order: for listings and audits, not for packets.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let used = (0..self.high_water).zip(self.entries.iter());
        used.filter(|(_, entry)| entry.is_live())
    }

    /// One past the highest entry ever allocated: where a sweep may stop.
    #[inline]
    pub fn high_water(&self) -> u32 {
        self.high_water
    }

    /// Live entries.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// True if no entry is live.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Entries there are in all.
    pub fn capacity(&self) -> usize {
        self.entries.len()
    }

    /// Memory taken in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.entries.bytes() + size_of::<Self>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Random;
    use std::collections::HashMap;

    /// 0 = free, and then the link; else the content.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    struct Item {
        content: u32,
        link: u32,
    }

    impl SlabEntry for Item {
        fn is_live(&self) -> bool {
            self.content != 0
        }
        fn next_free(&self) -> u32 {
            self.link
        }
        fn set_next_free(&mut self, next: u32) {
            self.link = next;
        }
    }

    fn item(content: u32) -> Item {
        Item { content, link: 0 }
    }

    #[test]
    fn fresh_entries_come_in_order_and_released_ones_first() {
        let mut slab = Slab::with_capacity(4).unwrap();
        assert_eq!(
            [1, 2, 3].map(|i| slab.allocate(item(i))),
            [Some(0), Some(1), Some(2)]
        );
        assert!(slab.release(0) && slab.release(1));
        assert_eq!((slab.len(), slab.high_water(), slab.capacity()), (1, 3, 4));
        let next: Vec<_> = (4..8).map(|i| slab.allocate(item(i))).collect();
        assert_eq!(next, [Some(1), Some(0), Some(3), None]);
        assert_eq!(slab.high_water(), 4);
    }

    #[test]
    fn what_is_not_live_is_not_released() {
        let mut slab = Slab::with_capacity(2).unwrap();
        assert!(!slab.release(0), "never allocated");
        slab.allocate(item(1));
        assert!(slab.is_live(0) && !slab.is_live(1) && !slab.is_live(NONE));
        assert!(slab.release(0));
        assert!(!slab.release(0), "twice");
        assert!(!slab.release(2) && !slab.release(NONE), "past the end");
        assert_eq!(slab.len(), 0);
        assert_eq!(
            slab.get(0).map(|e| e.content),
            Some(0),
            "content is cleared"
        );
        assert!(slab.get(2).is_none() && slab.get_mut(NONE).is_none());
    }

    #[test]
    fn random_histories_agree_with_a_map() {
        let mut random = Random::from_seed(3);
        let mut slab = Slab::with_capacity(500).unwrap();
        let mut model: HashMap<u32, u32> = HashMap::new();
        for step in 1..50_000 {
            let index = random.below(510);
            if random.below(2) == 0 {
                match slab.allocate(item(step)) {
                    Some(i) => assert_eq!(model.insert(i, step), None, "{i} was handed out twice"),
                    None => assert_eq!(model.len(), 500),
                }
            } else {
                assert_eq!(slab.release(index), model.remove(&index).is_some());
            }
            assert_eq!(slab.len(), model.len());
        }
        let listed: HashMap<u32, u32> = slab.iter().map(|(i, e)| (i, e.content)).collect();
        assert_eq!(listed, model);
    }

    #[test]
    fn impossible_capacities_are_errors() {
        assert!(Slab::<Item>::with_capacity(usize::MAX).is_err());
        let mut none = Slab::with_capacity(0).unwrap();
        assert_eq!(none.allocate(item(1)), None);
    }

    #[test]
    fn what_a_slab_says_of_itself() {
        let mut slab = Slab::with_capacity(1000).unwrap();
        assert!(slab.is_empty());
        let least = 1000 * size_of::<Item>();
        assert!((least..least + 8192).contains(&slab.memory_bytes()));
        assert!(slab.memory_bytes() > slab.entries.bytes());
        let index = slab.allocate(item(5)).unwrap();
        assert!(!slab.is_empty());
        slab.get_mut(index).unwrap().content = 6;
        assert_eq!(slab.get(index), Some(&item(6)));
        assert!(slab.release(index) && slab.is_empty());
        assert_eq!(slab.iter().count(), 0);
    }
}
