//! The bucket table: from a hash to the few numbers that may belong to it, in one cache line.
//!
//! A bucket is one 64-byte line of ten 16-bit tags and ten 32-bit values. The key is not here: a matching tag is a
//! candidate, and the caller compares the key where the value points. An entry lives in its *home* bucket,
//! or, when that was full, in its *away* bucket, which follows from the bucket it is in and its tag alone:
//! `away = (f(tag) − home) mod n`, which is its own inverse. So entries move without their keys, and `n` need not
//! be a power of two: memory follows the configured capacity.
//!
//! **Home first.** An insert goes away only when home is full. Choosing the emptier of two buckets would
//! balance better, but puts nearly half of the entries where a lookup finds them second; the displacement search
//! makes up for the balance. Each bucket counts the entries that live away from it, so a lookup that finds
//! nothing at home and a count of zero ends after one line: what scans and new flows cost.
//!
//! **Never stuck.** When both buckets are full, a breadth-first search moves entries to their other bucket,
//! looking at a bounded number of buckets; then a stash of sixteen takes the entry; then the table says
//! [`Full`]. There is one writer, a fixed capacity, and no growth.

use super::hash::Hash;
use crate::arch::{HugeVec, OutOfMemory, Pages, match_tags, prefetch_index};
use arrayvec::ArrayVec;

/// Entries of a bucket.
const WAYS: usize = 10;

/// Entries that found no bucket. Sixteen are more than a keyed hash ever needs below the default load.
const STASH: usize = 16;

/// Buckets the displacement search looks at before it gives up: two levels are 220, and with one bucket in twenty
/// not full, 256 of them miss with probability 2·10⁻⁶.
const SEARCH: usize = 256;

/// The highest share of slots, in percent, that a table is built to fill: 6.7 bytes per entry, of which a seventh then live
/// away from home. Above it, displacement searches become long.
pub const MAX_LOAD: u32 = 95;

/// No room: the capacity is reached, or (under colliding keys only) no bucket and no stash slot is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the flow table is full")]
pub struct Full;

/// One cache line.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
struct Bucket {
    /// Tag of each slot; 0 = the slot is free.
    tags: [u16; WAYS],
    /// Bit i: the entry in slot i is away from home.
    displaced: u16,
    /// Entries whose home is this bucket and which live in their away bucket or the stash. Sticks at the maximum,
    /// which costs lookups a second line but never loses an entry.
    overflow: u16,
    /// Value of each slot.
    values: [u32; WAYS],
}

const _: () = assert!(size_of::<Bucket>() == 64 && align_of::<Bucket>() == 64);

impl Bucket {
    /// Slots whose entry has this tag and lives here as `displaced` says.
    #[inline(always)]
    fn matching(&self, tag: u16, displaced: bool) -> u32 {
        let away = u32::from(self.displaced);
        match_tags(&self.tags, tag) & if displaced { away } else { !away }
    }

    /// The first free slot.
    #[inline]
    fn free_slot(&self) -> Option<usize> {
        let free = match_tags(&self.tags, 0);
        (free != 0).then(|| free.trailing_zeros() as usize)
    }

    /// The first value in the slots of `mask` the caller accepts, with its slot.
    #[inline(always)]
    fn pick(&self, mut mask: u32, mut accept: impl FnMut(u32) -> bool) -> Option<(usize, u32)> {
        while mask != 0 {
            let slot = mask.trailing_zeros() as usize;
            let value = self.values[slot];
            if accept(value) {
                return Some((slot, value));
            }
            mask &= mask - 1;
        }
        None
    }
}

/// An entry on its way from one slot to another.
#[derive(Clone, Copy)]
struct Entry {
    tag: u16,
    value: u32,
    displaced: bool,
}

/// One bucket the displacement search reached: by moving the entry in `slot` of `parent`'s bucket.
#[derive(Clone, Copy)]
struct Step {
    bucket: u32,
    parent: u16,
    slot: u16,
}

/// The parent of the search's two roots.
const ROOT: u16 = u16::MAX;

/// A set of (hash, value) pairs of fixed capacity. Values are the caller's: a session number with a direction bit.
///
/// The same value may be entered under several hashes (a session under both directions), but each pair only
/// once: the table does not look for duplicates.
pub struct BucketTable {
    buckets: HugeVec<Bucket>,
    stash: ArrayVec<(Hash, u32), STASH>,
    len: usize,
    capacity: usize,
}

impl BucketTable {
    /// A table for `entries` entries at `load` percent (clamped to 10–[`MAX_LOAD`]), on
    /// transparent huge pages.
    ///
    /// # Errors
    /// [`OutOfMemory`] if the memory is not there or `entries` needs more than 2³² buckets.
    pub fn with_capacity(entries: usize, load: u32) -> Result<BucketTable, OutOfMemory> {
        BucketTable::with_pages(entries, load, Pages::Transparent)
    }

    /// As [`BucketTable::with_capacity`], with a choice of pages.
    ///
    /// # Errors
    /// As [`BucketTable::with_capacity`].
    pub fn with_pages(entries: usize, load: u32, pages: Pages) -> Result<BucketTable, OutOfMemory> {
        let load = load.clamp(10, MAX_LOAD) as usize;
        let count = entries.saturating_mul(100).div_ceil(WAYS * load).max(2);
        if u32::try_from(count).is_err() {
            return Err(OutOfMemory {
                bytes: count.saturating_mul(size_of::<Bucket>()),
                reason: "a flow table has at most 2^32 buckets".to_owned(),
            });
        }
        Ok(BucketTable {
            buckets: HugeVec::new(count, pages)?,
            stash: ArrayVec::new(),
            len: 0,
            capacity: entries,
        })
    }

    /// Fetches the home bucket of `hash` ahead of [`BucketTable::candidate`] or [`BucketTable::find`].
    #[inline(always)]
    pub fn prefetch(&self, hash: Hash) {
        prefetch_index(&self.buckets, self.home(hash) as usize);
    }

    /// Fetches both buckets of `hash` ahead of [`BucketTable::insert`].
    #[inline]
    pub fn prefetch_both(&self, hash: Hash) {
        let home = self.home(hash);
        prefetch_index(&self.buckets, home as usize);
        prefetch_index(&self.buckets, self.other(home, tag_of(hash)) as usize);
    }

    /// After [`BucketTable::prefetch`], fetches the away bucket ahead of [`BucketTable::insert`] if there is no room at home.
    #[inline]
    pub fn prefetch_room(&self, hash: Hash) {
        let home = self.home(hash);
        if self.buckets[home as usize].free_slot().is_none() {
            prefetch_index(&self.buckets, self.other(home, tag_of(hash)) as usize);
        }
    }

    /// A guess at what [`BucketTable::find`] will ask about first, so that its session can be prefetched: the first
    /// value at home with the right tag.
    #[inline(always)]
    pub fn candidate(&self, hash: Hash) -> Option<u32> {
        let bucket = &self.buckets[self.home(hash) as usize];
        let first = bucket.pick(bucket.matching(tag_of(hash), false), |_| true);
        first.map(|(_, value)| value)
    }

    /// For a hash without a [`BucketTable::candidate`]: whether an entry may live away from its home. If so, fetches the
    /// away bucket ahead of [`BucketTable::candidate_away`].
    #[inline]
    pub fn prefetch_away(&self, hash: Hash) -> bool {
        let home = self.home(hash);
        let away = self.buckets[home as usize].overflow != 0;
        if away {
            prefetch_index(&self.buckets, self.other(home, tag_of(hash)) as usize);
        }
        away
    }

    /// As [`BucketTable::candidate`], in the away bucket.
    #[inline]
    pub fn candidate_away(&self, hash: Hash) -> Option<u32> {
        let tag = tag_of(hash);
        let bucket = &self.buckets[self.other(self.home(hash), tag) as usize];
        let first = bucket.pick(bucket.matching(tag, true), |_| true);
        first.map(|(_, value)| value)
    }

    /// The value under `hash` for which `matches` holds. `matches` compares the key the value stands for; it
    /// is asked about a foreign value once in some 7000 lookups.
    #[inline]
    pub fn find(&self, hash: Hash, mut matches: impl FnMut(u32) -> bool) -> Option<u32> {
        let tag = tag_of(hash);
        let home = self.home(hash);
        let bucket = &self.buckets[home as usize];
        if let Some((_, value)) = bucket.pick(bucket.matching(tag, false), &mut matches) {
            return Some(value);
        }
        if bucket.overflow == 0 {
            return None;
        }
        let bucket = &self.buckets[self.other(home, tag) as usize];
        if let Some((_, value)) = bucket.pick(bucket.matching(tag, true), &mut matches) {
            return Some(value);
        }
        let mut stashed = self.stash.iter();
        let found = stashed.find(|&&(h, value)| h == hash && matches(value));
        found.map(|&(_, value)| value)
    }

    /// Enters `value` under `hash`.
    ///
    /// # Errors
    /// [`Full`] at capacity, or when colliding hashes have filled both buckets, all within reach, and the stash.
    /// The table is unchanged then.
    pub fn insert(&mut self, hash: Hash, value: u32) -> Result<(), Full> {
        if self.len >= self.capacity {
            return Err(Full);
        }
        let tag = tag_of(hash);
        let home = self.home(hash);
        let away = self.other(home, tag);
        let place = self
            .free_slot(home)
            .or_else(|| self.free_slot(away))
            .or_else(|| self.make_room(home, away));
        if let Some((bucket, slot)) = place {
            let displaced = bucket != home;
            let entry = Entry {
                tag,
                value,
                displaced,
            };
            self.put(bucket, slot, entry);
        } else {
            self.stash.try_push((hash, value)).map_err(|_| Full)?;
            self.count_overflow(home, true);
        }
        self.len += 1;
        Ok(())
    }

    /// Removes `value` under `hash`; false if that pair is not here.
    pub fn remove(&mut self, hash: Hash, value: u32) -> bool {
        let tag = tag_of(hash);
        let home = self.home(hash);
        let away = self.other(home, tag);
        for (at, displaced) in [(home, false), (away, true)] {
            let bucket = &self.buckets[at as usize];
            let mask = bucket.matching(tag, displaced);
            if let Some((slot, _)) = bucket.pick(mask, |v| v == value) {
                self.take(at, slot);
                self.len -= 1;
                if !self.stash.is_empty() {
                    self.unstash(at, slot);
                }
                return true;
            }
            if self.buckets[home as usize].overflow == 0 {
                return false;
            }
        }
        let Some(i) = self.stash.iter().position(|&pair| pair == (hash, value)) else {
            return false;
        };
        self.stash.swap_remove(i);
        self.count_overflow(home, false);
        self.len -= 1;
        true
    }

    /// Gives the entry (`hash`, `old`) the value `new`; false if that pair is not here.
    pub fn replace(&mut self, hash: Hash, old: u32, new: u32) -> bool {
        let tag = tag_of(hash);
        let home = self.home(hash);
        let away = self.other(home, tag);
        for (at, displaced) in [(home, false), (away, true)] {
            let bucket = &mut self.buckets[at as usize];
            if let Some((slot, _)) = bucket.pick(bucket.matching(tag, displaced), |v| v == old) {
                bucket.values[slot] = new;
                return true;
            }
        }
        let stashed = self.stash.iter_mut().find(|pair| **pair == (hash, old));
        stashed.map(|pair| pair.1 = new).is_some()
    }

    /// Entries held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if no entry is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Memory taken in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.buckets.bytes() + size_of::<Self>()
    }

    /// The home bucket: the hash's low half scaled to the bucket count, which takes no division.
    #[inline(always)]
    fn home(&self, hash: Hash) -> u32 {
        let low = hash.0 & u64::from(u32::MAX);
        ((low * self.buckets.len() as u64) >> 32) as u32
    }

    /// The other bucket of an entry with this tag in `bucket`; twice is the identity.
    #[inline(always)]
    fn other(&self, bucket: u32, tag: u16) -> u32 {
        let count = self.buckets.len() as u64;
        // An odd factor near 2³²/φ spreads the tags over the whole range before it is scaled to the bucket count.
        let spread = u32::from(tag).wrapping_mul(0x9e37_79b1);
        let sum = (u64::from(spread) * count) >> 32;
        let bucket = u64::from(bucket);
        let borrow = if sum < bucket { count } else { 0 };
        (sum + borrow - bucket) as u32
    }

    #[inline]
    fn free_slot(&self, bucket: u32) -> Option<(u32, usize)> {
        let slot = self.buckets[bucket as usize].free_slot()?;
        Some((bucket, slot))
    }

    /// Adds an entry to the count of its home, or takes it off.
    fn count_overflow(&mut self, home: u32, add: bool) {
        let overflow = &mut self.buckets[home as usize].overflow;
        *overflow = match (*overflow, add) {
            (u16::MAX, _) => u16::MAX,
            (n, true) => n + 1,
            (n, false) => n.saturating_sub(1),
        };
    }

    /// Writes an entry to a free slot. With [`BucketTable::take`] the only code that touches slots, so the counts
    /// of displaced entries cannot come apart from the entries.
    fn put(&mut self, bucket: u32, slot: usize, entry: Entry) {
        let line = &mut self.buckets[bucket as usize];
        line.tags[slot] = entry.tag;
        line.values[slot] = entry.value;
        line.displaced |= u16::from(entry.displaced) << slot;
        if entry.displaced {
            self.count_overflow(self.other(bucket, entry.tag), true);
        }
    }

    /// Empties a slot.
    fn take(&mut self, bucket: u32, slot: usize) -> Entry {
        let line = &mut self.buckets[bucket as usize];
        let entry = Entry {
            tag: std::mem::take(&mut line.tags[slot]),
            value: line.values[slot],
            displaced: line.displaced >> slot & 1 == 1,
        };
        line.displaced &= !(1 << slot);
        if entry.displaced {
            self.count_overflow(self.other(bucket, entry.tag), false);
        }
        entry
    }

    /// Frees a slot in `home` or `away`, both full, by moving entries along the shortest chain that ends in a
    /// bucket with room.
    #[cold]
    #[inline(never)]
    fn make_room(&mut self, home: u32, away: u32) -> Option<(u32, usize)> {
        let mut steps: ArrayVec<Step, SEARCH> = ArrayVec::new();
        for bucket in [home, away] {
            steps.push(Step {
                bucket,
                parent: ROOT,
                slot: 0,
            });
        }
        let mut next = 0;
        while let Some(&Step { bucket, .. }) = steps.get(next) {
            let tags = self.buckets[bucket as usize].tags;
            let others = tags.map(|tag| self.other(bucket, tag));
            for &other in &others {
                prefetch_index(&self.buckets, other as usize);
            }
            for (slot, &other) in others.iter().enumerate() {
                if let Some((_, free)) = self.free_slot(other) {
                    return Some(self.shift(&steps, next, slot, (other, free)));
                }
                let step = Step {
                    bucket: other,
                    parent: next as u16,
                    slot: slot as u16,
                };
                steps.try_push(step).ok()?;
            }
            next += 1;
        }
        None
    }

    /// Moves entries back to front along the chain that ends with the entry in `slot` of step `at` going to `free`.
    /// The slot that is free in the end belongs to a root.
    ///
    /// No bucket occurs twice in the chain: the search would have found the shorter one first.
    fn shift(
        &mut self,
        steps: &[Step],
        mut at: usize,
        mut slot: usize,
        mut free: (u32, usize),
    ) -> (u32, usize) {
        loop {
            let step = steps[at];
            let mut entry = self.take(step.bucket, slot);
            entry.displaced = !entry.displaced;
            self.put(free.0, free.1, entry);
            free = (step.bucket, slot);
            if step.parent == ROOT {
                return free;
            }
            at = usize::from(step.parent);
            slot = usize::from(step.slot);
        }
    }

    /// Gives a slot that became free to a stashed entry that may live there.
    #[cold]
    fn unstash(&mut self, bucket: u32, slot: usize) {
        let fits = |&(hash, _): &(Hash, u32)| {
            let home = self.home(hash);
            home == bucket || self.other(home, tag_of(hash)) == bucket
        };
        let Some(i) = self.stash.iter().position(fits) else {
            return;
        };
        let (hash, value) = self.stash.swap_remove(i);
        let home = self.home(hash);
        self.count_overflow(home, false);
        let entry = Entry {
            tag: tag_of(hash),
            value,
            displaced: bucket != home,
        };
        self.put(bucket, slot, entry);
    }
}

impl std::fmt::Debug for BucketTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (len, capacity) = (self.len, self.capacity);
        write!(f, "BucketTable({len} of {capacity} entries)")
    }
}

/// The tag: the hash's top bits, which have no part in the bucket, without the value that means "free".
#[inline(always)]
fn tag_of(hash: Hash) -> u16 {
    ((hash.0 >> 48) as u16).max(1)
}

#[cfg(test)]
mod tests;
