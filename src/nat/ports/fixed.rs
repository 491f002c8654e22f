//! A map of fixed size: all memory is there from the start, and nothing is ever moved because it grew.

use crate::arch::OutOfMemory;
use crate::flow::hash::{Hash, Hasher};
use crate::flow::slab::{NONE, Slab, SlabEntry};
use crate::flow::table::BucketTable;

/// Load at which the index is sized.
const LOAD_PERCENT: u32 = 90;

/// What a [`FixedMap`] is looked up by.
pub(super) trait Key: Copy + Eq + Default + Send + Sync {
    /// All of it, as words to hash.
    fn words(&self) -> [u64; 4];
}

#[derive(Clone, Copy, Default)]
struct Entry<K, V> {
    key: K,
    value: V,
    /// The next free entry, or [`LIVE`].
    next: u32,
}

/// No entry has this number: a slab has fewer.
const LIVE: u32 = NONE - 1;

impl<K: Key, V: Copy + Default + Send + Sync> SlabEntry for Entry<K, V> {
    fn is_live(&self) -> bool {
        self.next == LIVE
    }

    fn next_free(&self) -> u32 {
        self.next
    }

    fn set_next_free(&mut self, next: u32) {
        self.next = next;
    }
}

/// Values by key, at most a fixed number.
pub(super) struct FixedMap<K: Key, V: Copy + Default + Send + Sync> {
    index: BucketTable,
    entries: Slab<Entry<K, V>>,
    hasher: Hasher,
}

/// There is no room for another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl<K: Key, V: Copy + Default + Send + Sync + PartialEq> FixedMap<K, V> {
    /// Room for `capacity` keys.
    pub(super) fn new(capacity: usize, hasher: Hasher) -> Result<FixedMap<K, V>, OutOfMemory> {
        Ok(FixedMap {
            index: BucketTable::with_capacity(capacity, LOAD_PERCENT)?,
            entries: Slab::with_capacity(capacity)?,
            hasher,
        })
    }

    /// The value of a key; the default where there is none.
    #[inline]
    pub(super) fn get(&self, key: &K) -> V {
        let found = self.find(self.hash(key), key);
        let entry = found.and_then(|at| self.entries.get(at));
        entry.map_or_else(V::default, |entry| entry.value)
    }

    /// Changes the value of a key, which is the default at first; the default takes no room.
    pub(super) fn update(&mut self, key: &K, change: impl FnOnce(&mut V)) -> Result<(), Full> {
        let hash = self.hash(key);
        match self.find(hash, key) {
            Some(at) => {
                if let Some(entry) = self.entries.get_mut(at) {
                    change(&mut entry.value);
                    if entry.value == V::default() {
                        self.index.remove(hash, at);
                        self.entries.release(at);
                    }
                }
            }
            None => {
                let mut value = V::default();
                change(&mut value);
                if value == V::default() {
                    return Ok(());
                }
                let entry = Entry {
                    key: *key,
                    value,
                    next: LIVE,
                };
                let at = self.entries.allocate(entry).ok_or(Full)?;
                if self.index.insert(hash, at).is_err() {
                    self.entries.release(at);
                    return Err(Full);
                }
            }
        }
        Ok(())
    }

    /// Keys with a value.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes taken.
    pub(super) fn memory_bytes(&self) -> usize {
        self.index.memory_bytes() + self.entries.memory_bytes()
    }

    fn hash(&self, key: &K) -> Hash {
        self.hasher.hash_words(&key.words())
    }

    #[inline]
    fn find(&self, hash: Hash, key: &K) -> Option<u32> {
        self.index.find(hash, |at| {
            self.entries.get(at).is_some_and(|entry| entry.key == *key)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Random;
    use std::collections::BTreeMap;

    impl Key for u64 {
        fn words(&self) -> [u64; 4] {
            [*self, 0, 0, 0]
        }
    }

    #[test]
    fn memory_is_that_of_the_entries_and_their_index() {
        let map: FixedMap<u64, u32> = FixedMap::new(10_000, Hasher::new([1, 2])).unwrap();
        // An entry has 16 bytes, and its place in the index 7.
        let each = map.memory_bytes() / 10_000;
        assert!((22..26).contains(&each), "{each}");
    }

    #[test]
    fn agrees_with_a_map_and_says_when_it_is_full() {
        let mut map: FixedMap<u64, u32> = FixedMap::new(50, Hasher::new([1, 2])).unwrap();
        let mut model: BTreeMap<u64, u32> = BTreeMap::new();
        let mut random = Random::from_seed(4);
        let mut refused = 0;
        for _ in 0..50_000 {
            let (key, value) = (u64::from(random.below(80)), random.below(3));
            let done = map.update(&key, |v| *v = value);
            let known = model.contains_key(&key);
            if value == 0 {
                model.remove(&key);
                assert_eq!(done, Ok(()));
            } else if known || model.len() < 50 {
                model.insert(key, value);
                assert_eq!(done, Ok(()));
            } else {
                refused += 1;
                assert_eq!(done, Err(Full));
            }
            let asked = u64::from(random.below(80));
            assert_eq!(map.get(&asked), model.get(&asked).copied().unwrap_or(0));
            assert_eq!(map.len(), model.len());
        }
        assert!(refused > 0);
    }
}
