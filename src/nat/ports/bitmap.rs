//! A bitmap of free units that many threads claim from at once: two levels, no locks.
//!
//! Bit set = free. A summary bit says "this word has a free bit", so that a search skips full words 64 at a
//! time: 65,536 ports are 1024 words under 16 summary words.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Free units `0..bits`, claimed and released with atomic operations.
///
/// The word decides who got a unit; the summary is a hint that is repaired after every change. A search may
/// therefore miss a unit that is released in the same instant, never one that lay free before.
pub(super) struct Bitmap {
    words: Box<[AtomicU64]>,
    summary: Box<[AtomicU64]>,
}

impl Bitmap {
    /// All of `bits` units free.
    pub(super) fn free(bits: u32) -> Bitmap {
        Bitmap {
            words: filled(bits),
            summary: filled(bits.div_ceil(64)),
        }
    }

    /// Takes `bit` if it is free.
    #[inline]
    pub(super) fn claim(&self, bit: u32) -> bool {
        let (word, mask) = split(bit);
        let before = self.words[word].fetch_and(!mask, SeqCst);
        if before == mask {
            self.word_emptied(word);
        }
        before & mask != 0
    }

    /// The word `bit` is in, bit set = free.
    #[inline]
    pub(super) fn word(&self, bit: u32) -> u64 {
        self.words[split(bit).0].load(SeqCst)
    }

    /// Gives `bit` back.
    #[inline]
    pub(super) fn release(&self, bit: u32) {
        let (word, mask) = split(bit);
        if self.words[word].fetch_or(mask, SeqCst) == 0 {
            let (top, top_mask) = split(word as u32);
            self.summary[top].fetch_or(top_mask, SeqCst);
        }
    }

    /// Clears the summary bit of an empty word, and sets it again if a release came between: a release that
    /// the second look does not see sets the bit after we cleared it.
    #[cold]
    fn word_emptied(&self, word: usize) {
        let (top, mask) = split(word as u32);
        self.summary[top].fetch_and(!mask, SeqCst);
        if self.words[word].load(SeqCst) != 0 {
            self.summary[top].fetch_or(mask, SeqCst);
        }
    }

    /// Takes the lowest free unit in `first..=last` for which `filter(word)` has the bit set.
    #[inline]
    pub(super) fn claim_in(
        &self,
        first: u32,
        last: u32,
        filter: impl Fn(usize) -> u64,
    ) -> Option<u32> {
        let (first_word, last_word) = (first as usize / 64, last as usize / 64);
        let mut from = first_word;
        while let Some(word) = self.next_word(from, last_word) {
            let mut mask = filter(word);
            if word == first_word {
                mask &= u64::MAX << (first % 64);
            }
            if word == last_word {
                mask &= u64::MAX >> (63 - last % 64);
            }
            loop {
                let free = self.words[word].load(SeqCst) & mask;
                if free == 0 {
                    break;
                }
                let bit = word as u32 * 64 + free.trailing_zeros();
                if self.claim(bit) {
                    return Some(bit);
                }
            }
            from = word + 1;
        }
        None
    }

    /// The first word in `from..=last` that the summary calls non-empty.
    #[inline]
    fn next_word(&self, from: usize, last: usize) -> Option<usize> {
        let mut at = from;
        while at <= last {
            let rest = self.summary[at / 64].load(SeqCst) >> (at % 64);
            if rest != 0 {
                let word = at + rest.trailing_zeros() as usize;
                return (word <= last).then_some(word);
            }
            at = (at / 64 + 1) * 64;
        }
        None
    }
}

/// Words with the lowest `bits` bits set.
pub(super) fn filled(bits: u32) -> Box<[AtomicU64]> {
    let words = bits.div_ceil(64);
    let word = |i: u32| match bits - i * 64 {
        n @ 1..64 => (1 << n) - 1,
        _ => u64::MAX,
    };
    (0..words).map(|i| AtomicU64::new(word(i))).collect()
}

/// The numbers of the bits of a word that are set, ascending.
#[inline]
pub(super) fn set_bits(mut word: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros())?;
        word &= word - 1;
        Some(bit)
    })
}

/// Word index and mask of a bit.
#[inline]
fn split(bit: u32) -> (usize, u64) {
    (bit as usize / 64, 1 << (bit % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Random;
    use std::collections::BTreeSet;

    #[test]
    fn words_without_a_free_unit_are_skipped() {
        let map = Bitmap::free(200);
        assert_eq!(map.next_word(0, 3), Some(0));
        assert!((0..64).all(|bit| map.claim(bit)));
        assert_eq!(map.next_word(0, 3), Some(1));
        assert!((128..200).all(|bit| map.claim(bit)));
        assert_eq!(map.next_word(2, 3), None);
        map.release(199);
        assert_eq!(map.next_word(2, 3), Some(3));
        assert_eq!(map.word(199), 1 << 7, "and none beyond the last unit");
    }

    #[test]
    fn bits_of_a_word_come_in_order_and_once() {
        for bits in [vec![], vec![0], vec![63], vec![0, 1, 4, 31, 32, 62, 63]] {
            let word = bits.iter().fold(0, |word, bit| word | 1 << bit);
            assert_eq!(set_bits(word).take(65).collect::<Vec<u32>>(), bits);
        }
    }

    #[test]
    fn agrees_with_a_set_under_random_histories() {
        for bits in [1u32, 63, 64, 65, 4096, 5000] {
            let map = Bitmap::free(bits);
            let mut free: BTreeSet<u32> = (0..bits).collect();
            let mut random = Random::from_seed(u64::from(bits));
            // Phases of mostly claiming and mostly releasing cross empty and full words.
            for step in 0..40_000u32 {
                let (a, b) = (random.below(bits), random.below(bits));
                let (first, last) = (a.min(b), a.max(b));
                if random.below(100) < if step / 10_000 % 2 == 0 { 70 } else { 30 } {
                    let want = free.range(first..=last).next().copied();
                    assert_eq!(map.claim_in(first, last, |_| u64::MAX), want);
                    want.map(|bit| free.remove(&bit));
                } else if free.insert(a) {
                    map.release(a);
                } else {
                    assert!(map.claim(a), "a free unit can be claimed");
                    free.remove(&a);
                    assert!(!map.claim(a), "but only once");
                }
            }
        }
    }
}
