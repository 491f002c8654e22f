//! Longest-prefix match, compiled once into one flat array.
//!
//! The first 16 bits of the address index the root; every further 8 bits index a chunk of 256 entries. Prefixes
//! that end inside a level are copied to all entries they cover (leaf pushing), so a lookup follows children until it
//! meets a leaf and never looks back: at most 3 loads for IPv4, and as many for an IPv6 /32.
//!
//! ```text
//! nodes: | root: 65,536 entries | chunk: 256 | chunk: 256 | …      entry: nothing, leaf (value, length), child
//! ```
//!
//! A table that knows nothing but the default route (or nothing at all) has no array.

use std::fmt::Debug;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Entries of the root: one per value of the first 16 bits.
const ROOT: usize = 1 << 16;
/// Entries of a chunk: one per value of 8 bits.
const CHUNK: usize = 1 << 8;

/// An address family's number type, host order.
pub trait Address: Copy + Eq + Ord + Hash + Debug {
    /// Bits of an address.
    const BITS: u8;

    /// The address of zero bits.
    const ZERO: Self;

    /// The index at `level`: the first 16 bits at level 0, then one byte a level.
    fn stride(self, level: usize) -> usize;

    /// The address with everything behind the first `length` bits cleared. `length` is at most [`Self::BITS`].
    fn network(self, length: u8) -> Self;

    /// The number of an address of this family; `None` for the other family.
    fn from_ip(address: IpAddr) -> Option<Self>;

    /// Back to the form that prints.
    fn to_ip(self) -> IpAddr;
}

impl Address for u32 {
    const BITS: u8 = 32;
    const ZERO: u32 = 0;

    #[inline]
    fn stride(self, level: usize) -> usize {
        if level == 0 {
            (self >> 16) as usize
        } else {
            usize::from(self.to_be_bytes()[level + 1])
        }
    }

    fn network(self, length: u8) -> u32 {
        self & u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
    }

    fn from_ip(address: IpAddr) -> Option<u32> {
        match address {
            IpAddr::V4(v4) => Some(v4.into()),
            IpAddr::V6(_) => None,
        }
    }

    fn to_ip(self) -> IpAddr {
        Ipv4Addr::from(self).into()
    }
}

impl Address for u128 {
    const BITS: u8 = 128;
    const ZERO: u128 = 0;

    #[inline]
    fn stride(self, level: usize) -> usize {
        if level == 0 {
            (self >> 112) as usize
        } else {
            usize::from(self.to_be_bytes()[level + 1])
        }
    }

    fn network(self, length: u8) -> u128 {
        self & u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
    }

    fn from_ip(address: IpAddr) -> Option<u128> {
        match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => Some(v6.into()),
        }
    }

    fn to_ip(self) -> IpAddr {
        Ipv6Addr::from(self).into()
    }
}

#[derive(Clone, Copy, Debug)]
enum Entry<V> {
    Nothing,
    Leaf { length: u8, value: V },
    Child(u32),
}

/// A compiled table of prefixes. `V` of up to 4 bytes makes entries of 8 bytes: a filled root takes 512 KiB.
#[derive(Clone, Debug)]
pub struct Lpm<A, V> {
    /// Root and chunks; empty while no prefix is longer than 0.
    nodes: Vec<Entry<V>>,
    /// The answer while `nodes` is empty.
    default: Entry<V>,
    family: std::marker::PhantomData<A>,
}

impl<A: Address, V: Copy> Default for Lpm<A, V> {
    fn default() -> Self {
        Self::build(std::iter::empty())
    }
}

impl<A: Address, V: Copy> Lpm<A, V> {
    /// Compiles prefixes given as (address, length, value). Bits behind the length are ignored, a length beyond the
    /// address counts as a host prefix, and of equal prefixes the last one stays.
    pub fn build(entries: impl Iterator<Item = (A, u8, V)>) -> Lpm<A, V> {
        let mut entries: Vec<_> = entries
            .map(|(address, length, value)| (address, length.min(A::BITS), value))
            .collect();
        // Shorter prefixes first: a longer one overwrites the leaves it covers and never meets children in its range.
        entries.sort_by_key(|&(_, length, _)| length);
        let mut table = Lpm {
            nodes: Vec::new(),
            default: Entry::Nothing,
            family: std::marker::PhantomData,
        };
        for (address, length, value) in entries {
            if length == 0 {
                table.default = Entry::Leaf { length, value };
                continue;
            }
            if table.nodes.is_empty() {
                table.nodes = vec![table.default; ROOT];
            }
            table.insert(address.network(length), length, value);
        }
        table.nodes.shrink_to_fit();
        table
    }

    /// Writes one prefix (host bits clear, length above 0) into root or chunk, making chunks on the way.
    fn insert(&mut self, network: A, length: u8, value: V) {
        let mut base = 0;
        for level in 0.. {
            let slot = base + network.stride(level);
            let end = 16 + 8 * level;
            if usize::from(length) <= end {
                let covered = 1 << (end - usize::from(length));
                self.nodes[slot..slot + covered].fill(Entry::Leaf { length, value });
                return;
            }
            base = match self.nodes[slot] {
                Entry::Child(at) => at as usize,
                inherited => {
                    let at = self.nodes.len();
                    self.nodes.resize(at + CHUNK, inherited);
                    self.nodes[slot] = Entry::Child(at as u32);
                    at
                }
            };
        }
    }

    /// The value of the longest prefix that holds `address`.
    #[inline]
    pub fn lookup(&self, address: A) -> Option<V> {
        self.lookup_prefix(address).map(|(value, _)| value)
    }

    /// Like [`lookup`](Self::lookup), with the prefix's length: where two tables compete the longer one wins.
    #[inline]
    pub fn lookup_prefix(&self, address: A) -> Option<(V, u8)> {
        let mut entry = match self.nodes.get(address.stride(0)) {
            Some(&entry) => entry,
            None => self.default,
        };
        let mut level = 1;
        loop {
            match entry {
                Entry::Nothing => return None,
                Entry::Leaf { length, value } => return Some((value, length)),
                Entry::Child(at) => entry = self.nodes[at as usize + address.stride(level)],
            }
            level += 1;
        }
    }

    /// Bytes the table occupies on the heap.
    pub fn memory_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Entry<V>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the table promises, the slow way.
    fn scan<A: Address>(entries: &[(A, u8, u16)], address: A) -> Option<(u16, u8)> {
        entries
            .iter()
            .filter(|(net, length, _)| net.network(*length) == address.network(*length))
            // max_by_key keeps the last of equals, as the table does.
            .max_by_key(|(_, length, _)| *length)
            .map(|&(_, length, value)| (value, length))
    }

    #[test]
    fn nothing_and_a_default_route_need_no_array() {
        let empty = Lpm::<u32, u16>::default();
        assert_eq!(empty.lookup(0), None);
        assert_eq!(empty.lookup(u32::MAX), None);
        assert_eq!(empty.memory_bytes(), 0);
        let default = Lpm::build([(7u128, 0, 9u16)].into_iter());
        assert_eq!(default.lookup_prefix(u128::MAX), Some((9, 0)));
        assert_eq!(default.memory_bytes(), 0);
    }

    #[test]
    fn entries_are_eight_bytes_and_a_host_prefix_costs_two_chunks() {
        let table = Lpm::build([(0x0a00_0001u32, 32, 1u32)].into_iter());
        assert_eq!(table.memory_bytes(), (ROOT + 2 * CHUNK) * 8);
        assert_eq!(table.lookup_prefix(0x0a00_0001), Some((1, 32)));
        assert_eq!(table.lookup(0x0a00_0002), None);
    }

    #[test]
    fn the_last_of_equal_prefixes_stays_and_lengths_are_capped() {
        let table = Lpm::build([(0x0a01_0203u32, 8, 1u8), (0x0a00_0000, 8, 2)].into_iter());
        assert_eq!(table.lookup(0x0aff_ffff), Some(2));
        let table = Lpm::build([(5u32, 200, 1u8)].into_iter());
        assert_eq!(table.lookup_prefix(5), Some((1, 32)));
    }

    /// Addresses from a few bits at each level's edges, so that prefixes nest and collide.
    fn narrow_v4() -> impl Strategy<Value = u32> {
        any::<u32>().prop_map(|x| x & 0x0301_8303)
    }

    fn narrow_v6() -> impl Strategy<Value = u128> {
        any::<u128>().prop_map(|x| x & (0x0003_8181 << 96 | 0x0101 << 48 | 0x8003))
    }

    proptest! {
        #[test]
        fn agrees_with_a_scan_v4(
            entries in prop::collection::vec((narrow_v4(), 0u8..=32, any::<u16>()), 0..40),
            probes in prop::collection::vec(prop_oneof![narrow_v4(), any::<u32>()], 40),
        ) {
            let table = Lpm::build(entries.iter().copied());
            for address in probes.into_iter().chain(entries.iter().map(|e| e.0)) {
                prop_assert_eq!(table.lookup_prefix(address), scan(&entries, address));
            }
        }

        #[test]
        fn agrees_with_a_scan_v6(
            entries in prop::collection::vec((narrow_v6(), 0u8..=128, any::<u16>()), 0..30),
            probes in prop::collection::vec(narrow_v6(), 30),
        ) {
            let table = Lpm::build(entries.iter().copied());
            for address in probes.into_iter().chain(entries.iter().map(|e| e.0)) {
                prop_assert_eq!(table.lookup_prefix(address), scan(&entries, address));
            }
        }
    }
}
