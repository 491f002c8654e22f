//! The keyed hash of flow keys: a secret decides where a key lands, so that no sender can aim at one bucket.
//!
//! Linear functions (CRC32C, the Toeplitz hash of network cards) cannot do this: keys that collide under one seed
//! collide under all. Here three AES rounds under secret round keys mix each 16-byte block where the processor
//! has AESENC (about one cycle per key in a batch); elsewhere two folded 64×64-bit multiplications do. The choice is
//! made once per [`Hasher`]; the two give different values, so hashes must not leave the process.

use super::key::{Address, FlowKey};
use crate::arch::{Aes, RoundKeys};

/// A keyed hash value. The bucket table reads the bucket from the low half, the tag from the top 16 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Hash(pub u64);

/// Hashes keys under one secret. Every worker may have its own; a table must always see the same.
#[derive(Clone)]
pub struct Hasher {
    keys: RoundKeys,
    aes: Option<Aes>,
}

impl Hasher {
    /// A hasher for a secret drawn at start from the operating system (tests: a constant).
    pub fn new(secret: [u64; 2]) -> Hasher {
        Hasher {
            keys: round_keys(secret),
            aes: Aes::detect(),
        }
    }

    /// As [`Hasher::new`], but never with AES instructions: for tests and comparisons.
    pub fn portable(secret: [u64; 2]) -> Hasher {
        Hasher {
            aes: None,
            ..Hasher::new(secret)
        }
    }

    /// True if AES instructions compute the hash.
    pub fn uses_aes(&self) -> bool {
        self.aes.is_some()
    }

    /// The hash of a key of either family.
    #[inline(always)]
    pub fn hash<A: Address>(&self, key: &FlowKey<A>) -> Hash {
        A::hash_key(self, key)
    }

    /// The hash of a key's block.
    #[inline]
    pub(super) fn hash_block<const N: usize>(&self, block: [u128; N]) -> Hash {
        self.digest(block)
    }

    /// The hashes of blocks, one for one.
    #[inline]
    pub(super) fn hash_blocks<const N: usize>(&self, blocks: &[[u128; N]], hashes: &mut [Hash]) {
        match self.aes {
            Some(aes) => {
                let digests = blocks.iter().zip(hashes.iter_mut().map(|hash| &mut hash.0));
                aes.digest_each(&self.keys, digests);
            }
            None => {
                for (hash, block) in hashes.iter_mut().zip(blocks) {
                    hash.0 = folded_digest(&self.keys, *block);
                }
            }
        }
    }

    /// The hash of any other key, given as words. Sequences of different length hash differently even if one
    /// is the other with zeros appended.
    #[inline]
    pub fn hash_words(&self, words: &[u64]) -> Hash {
        let mut state = Hash(words.len() as u64);
        for pair in words.chunks(2) {
            let second = pair.get(1).copied().unwrap_or(0);
            state = self.digest([block(pair[0], second), block(state.0, 0)]);
        }
        state
    }

    #[inline(always)]
    fn digest<const N: usize>(&self, blocks: [u128; N]) -> Hash {
        Hash(match self.aes {
            Some(aes) => aes.digest(&self.keys, blocks),
            None => folded_digest(&self.keys, blocks),
        })
    }
}

/// The secret does not belong in logs.
impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hasher(aes: {})", self.uses_aes())
    }
}

/// The portable digest: products of keyed words, high half folded onto low half. A sender who does not know the
/// keys cannot tell which inputs give equal products.
#[inline]
fn folded_digest<const N: usize>(keys: &RoundKeys, blocks: [u128; N]) -> u64 {
    let halves = keys.map(|key| [key as u64, (key >> 64) as u64]);
    let mut state = halves[0][0];
    for block in blocks {
        let (low, high) = (block as u64, (block >> 64) as u64);
        let product = fold(low ^ state, high ^ halves[1][0]);
        // The added second product keeps blocks apart whose first one vanishes with a zero factor.
        let second = fold(low ^ halves[1][1], high ^ halves[2][0] ^ state);
        state = product.wrapping_add(second);
    }
    fold(state ^ halves[2][1], halves[3][0] ^ state.rotate_left(32))
}

/// Two words as one block.
#[inline(always)]
fn block(low: u64, high: u64) -> u128 {
    u128::from(low) | u128::from(high) << 64
}

/// The 128-bit product of two words, folded to 64 bits.
#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// Stretches the secret to four round keys. The first key is a bijection of the secret, so no entropy is lost.
fn round_keys(secret: [u64; 2]) -> RoundKeys {
    std::array::from_fn(|round| {
        let half = |half: usize| {
            let mut x = secret[half];
            if round > 0 {
                x ^= secret[half ^ 1].rotate_left(17 * round as u32);
            }
            let step = (2 * round + half + 1) as u64;
            x = x.wrapping_add(step.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
            x = (x ^ (x >> 29)).wrapping_mul(0xa3b1_9535_4a39_b70d);
            x ^ (x >> 32)
        };
        block(half(0), half(1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::RealmId;
    use crate::flow::key::{Tuple, port_word};

    const SECRET: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfeed_face_cafe_beef];

    fn both() -> [Hasher; 2] {
        [Hasher::new(SECRET), Hasher::portable(SECRET)]
    }

    /// A key from 96 bits: addresses in the low 64, ports above.
    fn key(bits: u128) -> FlowKey<u32> {
        let tuple = Tuple {
            source: bits as u32,
            destination: (bits >> 32) as u32,
            source_port: (bits >> 64) as u16,
            destination_port: (bits >> 80) as u16,
        };
        FlowKey::new(tuple, 17, RealmId(0))
    }

    /// Pearson's χ² of `values` over 1024 equal classes; 1023 ± 45 for a random function.
    fn chi_square(values: impl Iterator<Item = u32>) -> f64 {
        let mut classes = vec![0f64; 1024];
        let mut count = 0f64;
        for value in values {
            classes[(value % 1024) as usize] += 1.0;
            count += 1.0;
        }
        let mean = count / 1024.0;
        classes.iter().map(|c| (c - mean).powi(2) / mean).sum()
    }

    /// The parts a table uses: top and bottom of the bucket half, the tag.
    fn parts(hash: Hash) -> [u32; 3] {
        [
            hash.0 as u32 >> 22,
            hash.0 as u32 & 0x3ff,
            (hash.0 >> 48) as u32,
        ]
    }

    #[test]
    fn neighbouring_keys_spread_evenly() {
        for hasher in both() {
            for part in 0..3 {
                for shift in [0, 32, 64, 80] {
                    let values =
                        (0..40_000u128).map(|i| parts(hasher.hash(&key(i << shift)))[part]);
                    let chi = chi_square(values);
                    assert!(
                        (800.0..1250.0).contains(&chi),
                        "{hasher:?} {part} {shift}: {chi}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_input_bit_moves_half_of_the_output() {
        for hasher in both() {
            for bit in 0..96 {
                let flips = |i: u128| {
                    let base = i * 0x1_0001_0000_0001_0003;
                    let (a, b) = (
                        hasher.hash(&key(base)),
                        hasher.hash(&key(base ^ (1 << bit))),
                    );
                    (a.0 ^ b.0).count_ones()
                };
                let mean = f64::from((0..500).map(flips).sum::<u32>()) / 500.0;
                assert!((30.5..33.5).contains(&mean), "{hasher:?} bit {bit}: {mean}");
            }
        }
    }

    #[test]
    fn every_bit_of_an_ipv6_key_counts() {
        for hasher in both() {
            let base = FlowKey::<u128>::default();
            let mut seen = vec![hasher.hash(&base)];
            for bit in 0..128 {
                let (mut a, mut b) = (base, base);
                a.tuple.source = 1 << bit;
                b.tuple.destination = 1 << bit;
                seen.extend([hasher.hash(&a), hasher.hash(&b)]);
            }
            for bit in 0..16 {
                let (mut a, mut b) = (base, base);
                a.tuple.source_port = 1 << bit;
                b.tuple.destination_port = 1 << bit;
                seen.extend([hasher.hash(&a), hasher.hash(&b)]);
            }
            for bit in 0..8 {
                let (mut a, mut b) = (base, base);
                a.protocol = 1 << bit;
                b.realm = 1 << bit;
                seen.extend([hasher.hash(&a), hasher.hash(&b)]);
            }
            let count = seen.len();
            seen.sort();
            seen.dedup();
            assert_eq!(seen.len(), count);
        }
    }

    #[test]
    fn a_secret_reproduces_and_another_one_reorders() {
        for (same, [one, other]) in [
            (
                both(),
                [Hasher::new(SECRET), Hasher::new([SECRET[0] ^ 1, SECRET[1]])],
            ),
            (
                both(),
                [
                    Hasher::new(SECRET),
                    Hasher::new([SECRET[0], SECRET[1] ^ 1 << 63]),
                ],
            ),
        ] {
            assert_eq!(same[0].hash(&key(5)), one.hash(&key(5)));
            let equal =
                |i: &u128| one.hash(&key(*i)).0 as u32 >> 24 == other.hash(&key(*i)).0 as u32 >> 24;
            let collisions = (0..10_000u128).filter(equal).count();
            assert!(collisions < 100, "{collisions} of 10000, expected 39");
        }
        let text = format!("{:?}", Hasher::new(SECRET));
        assert!(!text.contains("81985529216486895"), "{text}");
    }

    /// CRC32C of the 12 address and port bytes, bit by bit, any start value.
    fn crc32c(bits: u128, start: u32) -> u32 {
        (0..96).fold(start, |crc, i| {
            let low = (crc ^ (bits >> i) as u32) & 1;
            (crc >> 1) ^ (low * 0x82f6_3b78)
        })
    }

    /// A basis of key differences that leave CRC32C unchanged whatever its seed: the kernel of a linear map.
    fn crc_kernel() -> Vec<u128> {
        let mut pivots: Vec<(u32, u128)> = Vec::new();
        let mut kernel = Vec::new();
        for bit in 0..96 {
            let (mut image, mut vector) = (crc32c(1 << bit, 0), 1u128 << bit);
            for &(pivot, source) in &pivots {
                if image & (1 << pivot.ilog2()) != 0 {
                    image ^= pivot;
                    vector ^= source;
                }
            }
            if image == 0 {
                kernel.push(vector);
            } else {
                pivots.push((image, vector));
            }
        }
        kernel
    }

    #[test]
    fn keys_that_collide_under_every_crc_seed_spread_here() {
        let kernel = crc_kernel();
        assert!(kernel.len() >= 17);
        let crafted = |i: u32| {
            let chosen = kernel
                .iter()
                .take(17)
                .enumerate()
                .filter(|(bit, _)| i >> bit & 1 == 1);
            chosen.fold(0u128, |key, (_, vector)| key ^ vector)
        };
        for seed in [0, 1, 0xdead_beef] {
            assert!((0..1000).all(|i| crc32c(crafted(i), seed) == crc32c(0, seed)));
        }
        for hasher in both() {
            for part in 0..3 {
                let values = (0..100_000).map(|i| parts(hasher.hash(&key(crafted(i))))[part]);
                let chi = chi_square(values);
                assert!((800.0..1250.0).contains(&chi), "{hasher:?} {part}: {chi}");
            }
        }
    }

    #[test]
    fn word_sequences_differ_by_content_order_and_length() {
        for hasher in both() {
            let sequences: [&[u64]; 8] = [
                &[],
                &[0],
                &[0, 0],
                &[0, 0, 0],
                &[1, 2],
                &[2, 1],
                &[1, 2, 3, 4],
                &[3, 4, 1, 2],
            ];
            let mut hashes = sequences.map(|s| hasher.hash_words(s));
            hashes.sort();
            assert!(hashes.windows(2).all(|w| w[0] != w[1]), "{hashes:?}");
        }
    }

    /// Computed by a second implementation, of the definitions above alone: a weaker mix may pass every statistic.
    #[test]
    fn known_values_without_aes() {
        let keys = round_keys(SECRET);
        assert_eq!(
            keys,
            [
                0x3cbf_3e27_b62c_9a88_3996_9852_69b3_8c02,
                0x3915_af73_3bc9_d5f2_21bd_e2eb_6cb8_a001,
                0x674c_c0ab_b0d9_7c66_e4b8_2008_1987_5fae,
                0x51b5_e3a4_e004_c765_8580_be30_20e8_91b8,
            ]
        );
        assert_eq!(folded_digest(&keys, []), 0xa829_4eb6_d0c6_2669);
        assert_eq!(folded_digest(&keys, [0]), 0xdac9_0149_42a4_aa74);
        assert_eq!(
            folded_digest(&keys, [0x0011_2233_4455_6677_8899_aabb_ccdd_eeff]),
            0xfb01_53d4_f923_3995
        );
        assert_eq!(folded_digest(&keys, [1, 2, 3]), 0xc34f_d722_82a3_b468);
    }

    #[test]
    fn a_batch_is_hashed_as_its_keys_are_one_by_one() {
        for hasher in both() {
            let keys: Vec<FlowKey<u32>> = (0..5).map(|i| key(i << 60 | 7)).collect();
            let blocks: Vec<_> = keys
                .iter()
                .map(|key| u32::block(key.tuple.addresses(), rest_of(key)))
                .collect();
            let mut hashes = [Hash::default(); 5];
            u32::hash_blocks(&hasher, &blocks, &mut hashes);
            assert_eq!(
                hashes.to_vec(),
                keys.iter().map(|k| hasher.hash(k)).collect::<Vec<_>>()
            );

            let mut six = FlowKey::<u128>::default();
            (six.tuple.source, six.tuple.destination) = (1 << 127 | 5, 3 << 64);
            (six.protocol, six.tuple.source_port) = (6, 0x1234);
            let block = u128::block(six.tuple.addresses(), rest_of(&six));
            let mut hashes = [Hash::default()];
            u128::hash_blocks(&hasher, &[block], &mut hashes);
            assert_eq!(hashes, [hasher.hash(&six)]);
        }
    }

    fn rest_of<A: Address>(key: &FlowKey<A>) -> u64 {
        port_word(key.tuple.ports(), key.protocol, key.realm_id())
    }

    #[test]
    fn aes_is_used_where_the_processor_has_it_and_not_asked_otherwise() {
        let [best, portable] = both();
        assert_eq!(best.uses_aes(), Aes::detect().is_some());
        assert!(!portable.uses_aes());
        assert_eq!(format!("{portable:?}"), "Hasher(aes: false)");
        assert_eq!(
            best.hash(&key(3)) == portable.hash(&key(3)),
            !best.uses_aes()
        );
    }
}
