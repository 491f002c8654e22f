//! Network cards that steer as [`owner`](mod@crate::dataplane::steering) does: Toeplitz keys and redirection tables.
//!
//! A card's receive-side scaling hashes header fields with a 320-bit key and looks the low bits of the hash up in a
//! redirection table. The hash is linear: input bit `j` contributes the 32 key bits from `j` on, so bits of the key decide
//! which input bits the *low* hash bits depend on at all. Two keys follow:
//!
//! * **inside**: key bits from 64 − r on are zero, so that the low r bits depend on the source address alone (input bits 0 to
//!   31) and a subscriber stays on one worker;
//! * **outside**: exactly one key bit is set, so that the low r bits *are* bits of the destination port, reversed, and
//!   the table becomes a demultiplexer by port range (`superblock`). Port allocation prefers ranges that lead home.

use crate::base::{Random, WorkerId};

/// Low hash bits used: redirection tables have 128 entries or a multiple.
const BITS: u32 = 7;
/// Entries of the smallest redirection table.
pub const ENTRIES: usize = 1 << BITS;
/// log₂ of the ports in a superblock.
pub const SUPERBLOCK_SHIFT: u32 = 9;
/// Bytes of a Toeplitz key for IPv6 tuples; the common size.
pub const KEY_BYTES: usize = 40;
/// Where the destination port ends in the hashed IPv4 tuple, in bits.
const PORT_END: u32 = 96;

/// Which worker a source address belongs to, and the key that makes a card agree. Fixed for the life of the process.
#[derive(Clone)]
pub struct SourceSteering {
    key: [u8; KEY_BYTES],
    /// Low hash bits by byte position and value: the hash is the exclusive or of four of them.
    parts: Box<[[u8; 256]; 4]>,
}

impl SourceSteering {
    /// Draws the key window, so that nobody outside can aim at one worker.
    pub fn new(random: &mut Random) -> SourceSteering {
        let mut key = [0; KEY_BYTES];
        // Any window spreads, unless its low bits are linearly dependent on few address bits; ones at both ends keep
        // consecutive addresses apart.
        let window = random.next_u64() | 1 << 63 | 1 << BITS;
        key[..8].copy_from_slice(&window.to_be_bytes());
        for bit in (64 - BITS)..64 {
            key[(bit / 8) as usize] &= !(0x80 >> (bit % 8));
        }
        // The bits that the last address bits land on must not all be zero.
        key[7] |= 0x80 >> ((64 - BITS - 1) % 8);
        let mut parts = Box::new([[0u8; 256]; 4]);
        for (position, table) in parts.iter_mut().enumerate() {
            for (value, entry) in table.iter_mut().enumerate() {
                let mut input = [0u8; 12];
                input[position] = value as u8;
                *entry = (toeplitz(&key, &input) & (ENTRIES as u32 - 1)) as u8;
            }
        }
        SourceSteering { key, parts }
    }

    /// The key for cards on the inside.
    pub fn key(&self) -> &[u8; KEY_BYTES] {
        &self.key
    }

    /// The redirection-table entry of an address.
    #[inline]
    pub fn entry(&self, address: u32) -> usize {
        let bytes = address.to_be_bytes();
        let folded = (0..4).fold(0, |sum, i| sum ^ self.parts[i][usize::from(bytes[i])]);
        usize::from(folded)
    }

    /// The worker of an address.
    #[inline]
    pub fn worker(&self, address: u32, workers: u8) -> WorkerId {
        worker_of_entry(self.entry(address), workers)
    }
}

/// The redirection table for cards on the inside, for a table of `entries`.
pub fn inside_table(entries: usize, workers: u8) -> Vec<u16> {
    (0..entries)
        .map(|i| u16::from(worker_of_entry(i % ENTRIES, workers).0))
        .collect()
}

/// The worker that an entry of the smallest table leads to. The entry's highest bit is the one the last address bit always
/// reaches, its lowest bit depends on prefixes of 26 bits only; read backwards, neighbouring addresses take turns.
#[inline]
fn worker_of_entry(entry: usize, workers: u8) -> WorkerId {
    let backwards = (entry as u32).reverse_bits() >> (32 - BITS);
    WorkerId((backwards % u32::from(workers.max(1))) as u8)
}

/// The worker whose port range `port` lies in.
#[inline]
pub fn worker_of_port(port: u16, workers: u8) -> WorkerId {
    WorkerId(((u32::from(port) >> SUPERBLOCK_SHIFT) % u32::from(workers.max(1))) as u8)
}

/// The key for cards on the outside.
pub fn outside_key() -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    let bit = PORT_END - SUPERBLOCK_SHIFT + 31 - BITS;
    key[(bit / 8) as usize] = 0x80 >> (bit % 8);
    key
}

/// The redirection table for cards on the outside, for a table of `entries`.
pub fn outside_table(entries: usize, workers: u8) -> Vec<u16> {
    (0..entries)
        .map(|i| {
            let superblock = ((i % ENTRIES) as u32).reverse_bits() >> (32 - BITS);
            (superblock % u32::from(workers.max(1))) as u16
        })
        .collect()
}

/// The Toeplitz hash as cards compute it: the reference for the tests and the source of the tables here.
pub fn toeplitz(key: &[u8; KEY_BYTES], input: &[u8]) -> u32 {
    let mut window = u64::from_be_bytes([
        key[0], key[1], key[2], key[3], key[4], key[5], key[6], key[7],
    ]);
    let mut hash = 0;
    for (i, byte) in input.iter().enumerate() {
        for bit in 0..8 {
            if byte & (0x80 >> bit) != 0 {
                hash ^= (window >> 32) as u32;
            }
            window <<= 1;
        }
        window |= u64::from(key.get(i + 8).copied().unwrap_or(0));
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(source: u32, destination: u32, source_port: u16, destination_port: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(source.to_be_bytes());
        bytes.extend(destination.to_be_bytes());
        bytes.extend(source_port.to_be_bytes());
        bytes.extend(destination_port.to_be_bytes());
        bytes
    }

    #[test]
    fn toeplitz_agrees_with_the_published_vector() {
        let key = [
            0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3,
            0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3,
            0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
        ];
        // 66.9.149.187:2794 → 161.142.100.80:1766, from the specification of receive-side scaling.
        let input = input(0x4209_95bb, 0xa18e_6450, 2794, 1766);
        assert_eq!(toeplitz(&key, &input), 0x51cc_c178);
        assert_eq!(toeplitz(&key, &input[..8]), 0x323e_8fc2);
    }

    #[test]
    fn inside_key_depends_on_the_source_alone_and_spreads() {
        let mut random = Random::from_seed(3);
        let steering = SourceSteering::new(&mut random);
        let mut seen = [0; ENTRIES];
        for host in 0..4096u32 {
            let source = 0x0a00_0000 + host;
            let entry = steering.entry(source);
            seen[entry] += 1;
            for _ in 0..4 {
                let rest = random.next_u64();
                let tuple = input(
                    source,
                    rest as u32,
                    (rest >> 32) as u16,
                    (rest >> 48) as u16,
                );
                assert_eq!(
                    toeplitz(steering.key(), &tuple) as usize & (ENTRIES - 1),
                    entry,
                    "the card must agree"
                );
            }
        }
        let most = seen.iter().max().unwrap();
        assert!(
            *most <= 3 * 4096 / ENTRIES,
            "one entry got {most} of 4096 consecutive sources"
        );
    }

    #[test]
    fn a_small_network_uses_every_worker() {
        for seed in 0..50 {
            let steering = SourceSteering::new(&mut Random::from_seed(seed));
            for workers in [2u8, 4, 8] {
                let mut hosts = vec![0; usize::from(workers)];
                for host in 0..16u32 {
                    hosts[steering.worker(0x0a00_0010 + host, workers).index()] += 1;
                }
                let fair = 16 / usize::from(workers);
                assert!(
                    hosts.iter().all(|h| *h == fair),
                    "16 neighbouring hosts on {workers} workers: {hosts:?}"
                );
            }
        }
    }

    #[test]
    fn outside_key_reads_the_port() {
        let mut random = Random::from_seed(4);
        for (port, entry) in [(1024, 32), (1535, 32), (1536, 96), (33000, 1), (65535, 127)] {
            let rest = random.next_u64();
            let tuple = input(rest as u32, (rest >> 32) as u32, rest as u16, port);
            assert_eq!(toeplitz(&outside_key(), &tuple) & 127, entry, "port {port}");
        }
    }

    #[test]
    fn tables_lead_to_the_worker_that_owns() {
        let steering = SourceSteering::new(&mut Random::from_seed(5));
        for workers in [1u8, 2, 3, 4, 14] {
            for entries in [128, 512] {
                let (inside, outside) = (
                    inside_table(entries, workers),
                    outside_table(entries, workers),
                );
                for port in 0..=u16::MAX {
                    let hash = toeplitz(&outside_key(), &input(1, 2, 3, port)) as usize;
                    assert_eq!(
                        outside[hash & (entries - 1)] as u8,
                        worker_of_port(port, workers).0,
                        "port {port}"
                    );
                    let address = u32::from(port) * 77;
                    let hash = toeplitz(steering.key(), &input(address, 2, 3, 4)) as usize;
                    assert_eq!(
                        inside[hash & (entries - 1)] as u8,
                        steering.worker(address, workers).0
                    );
                }
            }
        }
    }

    #[test]
    fn tables_of_any_size_repeat_the_smallest() {
        for workers in [1, 2, 3, 14] {
            for table in [inside_table, outside_table] {
                let (small, large) = (table(ENTRIES, workers), table(4 * ENTRIES, workers));
                assert_eq!((small.len(), large.len()), (ENTRIES, 4 * ENTRIES));
                assert!(large.chunks(ENTRIES).all(|part| part == small));
            }
        }
        assert_eq!(outside_table(8, 200), [0, 64, 32, 96, 16, 80, 48, 112]);
        assert_eq!(inside_table(8, 200), [0, 64, 32, 96, 16, 80, 48, 112]);
        assert_eq!(inside_table(4, 0), [0; 4]);
    }

    #[test]
    fn ports_go_round_the_workers_in_ranges_of_512() {
        for (port, workers, worker) in [
            (0, 4, 0),
            (511, 4, 0),
            (512, 4, 1),
            (2047, 4, 3),
            (2048, 4, 0),
            (u16::MAX, 14, 127 % 14),
            (u16::MAX, 0, 0),
        ] {
            assert_eq!(worker_of_port(port, workers), WorkerId(worker), "{port}");
        }
    }

    /// What of the key is fixed: ones at both ends of the window, and zeros where ports and the other address would count.
    #[test]
    fn every_drawn_key_hashes_all_of_the_source_and_nothing_else() {
        for seed in 0..200 {
            let key = *SourceSteering::new(&mut Random::from_seed(seed)).key();
            assert_eq!((key[0] & 0x80, key[7]), (0x80, 0x80), "{key:02x?}");
            assert!(key[8..].iter().all(|byte| *byte == 0));
        }
        let mut random = Random::from_seed(6);
        let keys = [0; 20].map(|_| *SourceSteering::new(&mut random).key());
        assert!(
            keys.iter()
                .all(|key| key[1..7] != keys[0][1..7] || *key == keys[0])
        );
        assert_ne!(keys[0], keys[1]);
        let set: u32 = outside_key().iter().map(|byte| byte.count_ones()).sum();
        assert_eq!((set, outside_key()[13]), (1, 0x80 >> 7));
    }
}
