//! What identifies a packet's flow: addresses, ports, protocol and realm, as the packet carries them.
//!
//! A flow has two keys, one per direction, and each is the packet's own tuple: the key of the reply is not the
//! reverse of the request's once addresses are translated. IPv4 and IPv6 differ only in the address type, so
//! everything above is written once over [`Address`].

use super::hash::{Hash, Hasher};
use crate::base::RealmId;
use std::fmt::Debug;

/// An IP address in host order: `u32` for IPv4, `u128` for IPv6.
pub trait Address:
    Copy + Eq + Ord + std::hash::Hash + Debug + Default + Send + Sync + 'static
{
    /// Two addresses as the packet path moves them about.
    type Pair: Copy + Debug + Default + PartialEq;
    /// A flow key as the packet path hashes and compares it.
    type Block: Copy + Eq + Debug + Default + Send;

    /// Source and destination as a pair.
    fn pair(source: Self, destination: Self) -> Self::Pair;
    /// The pair of a packet that goes back where this one came from.
    fn swapped(pair: Self::Pair) -> Self::Pair;
    /// A key's block; `rest` is its ports, protocol and realm ([`port_word`]).
    fn block(pair: Self::Pair, rest: u64) -> Self::Block;
    /// Whether two blocks are equal.
    #[inline(always)]
    fn same(one: Self::Block, other: Self::Block) -> bool {
        one == other
    }
    /// The source address and the rest of a block.
    fn source_of(block: Self::Block) -> (Self, u64);

    /// The keyed hash of a key of this family; callers say [`Hasher::hash`].
    fn hash_key(hasher: &Hasher, key: &FlowKey<Self>) -> Hash;
    /// The hashes of keys' blocks, one for one: what [`Address::hash_key`] says of each. A batch costs one call, and the
    /// processor works on several keys at a time.
    fn hash_blocks(hasher: &Hasher, blocks: &[Self::Block], hashes: &mut [Hash]);
}

impl Address for u32 {
    /// One number, the source in the low half.
    type Pair = u64;
    /// One number: the addresses in the low half.
    type Block = [u128; 1];

    #[inline(always)]
    fn pair(source: u32, destination: u32) -> u64 {
        u64::from(source) | u64::from(destination) << 32
    }

    #[inline(always)]
    fn swapped(pair: u64) -> u64 {
        pair.rotate_left(32)
    }

    #[inline(always)]
    fn block(pair: u64, rest: u64) -> [u128; 1] {
        [u128::from(pair) | u128::from(rest) << 64]
    }

    #[inline(always)]
    fn source_of([block]: [u128; 1]) -> (u32, u64) {
        (block as u32, (block >> 64) as u64)
    }

    #[inline(always)]
    fn hash_key(hasher: &Hasher, key: &FlowKey<u32>) -> Hash {
        hasher.hash_block(key.block())
    }

    #[inline(always)]
    fn hash_blocks(hasher: &Hasher, blocks: &[[u128; 1]], hashes: &mut [Hash]) {
        hasher.hash_blocks(blocks, hashes);
    }
}

impl Address for u128 {
    /// Source, destination.
    type Pair = [u128; 2];
    /// Source, destination, rest.
    type Block = [u128; 3];

    #[inline(always)]
    fn pair(source: u128, destination: u128) -> [u128; 2] {
        [source, destination]
    }

    #[inline(always)]
    fn swapped([source, destination]: [u128; 2]) -> [u128; 2] {
        [destination, source]
    }

    #[inline(always)]
    fn block([source, destination]: [u128; 2], rest: u64) -> [u128; 3] {
        [source, destination, u128::from(rest)]
    }

    // Word by word in registers: for arrays of more than one word memcmp is called, which waits until what has just been put
    // together is in memory (measured: 12 cycles a packet).
    #[inline(always)]
    fn same(one: [u128; 3], other: [u128; 3]) -> bool {
        (one[0] ^ other[0]) | (one[1] ^ other[1]) | (one[2] ^ other[2]) == 0
    }

    #[inline(always)]
    fn source_of([source, _, rest]: [u128; 3]) -> (u128, u64) {
        (source, rest as u64)
    }

    #[inline(always)]
    fn hash_key(hasher: &Hasher, key: &FlowKey<u128>) -> Hash {
        hasher.hash_block(key.block())
    }

    #[inline(always)]
    fn hash_blocks(hasher: &Hasher, blocks: &[[u128; 3]], hashes: &mut [Hash]) {
        hasher.hash_blocks(blocks, hashes);
    }
}

/// The two endpoints of a packet. Ports are host order; for ICMP queries the identifier stands in both port
/// fields or in the one the caller defines, for protocols without ports both are 0.
///
/// Without the alignment of `u128`, which would make 48 bytes of the 36 that IPv6 needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C, packed(4))]
pub struct Tuple<A: Copy> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
}

impl<A: Address> Tuple<A> {
    /// The tuple of a packet that goes back where this one came from.
    #[inline]
    #[must_use]
    pub fn reversed(self) -> Tuple<A> {
        Tuple {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }
}

/// The exact-match key of a flow table: a tuple, its protocol, and the realm it was seen in.
///
/// 16 bytes for IPv4, so that two keys fill half a session line; 40 for IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct FlowKey<A: Copy> {
    /// Addresses and ports.
    pub tuple: Tuple<A>,
    /// IP protocol number (IPv6: the transport header's).
    pub protocol: u8,
    /// The realm's number; [`FlowKey::realm_id`] gives it its type back.
    pub realm: u8,
    /// Always 0. Explicit, so that equality compares whole words and a key has no undefined bytes.
    pad: [u8; 2],
}

const _: () = assert!(size_of::<Tuple<u32>>() == 12);
const _: () = assert!(size_of::<FlowKey<u32>>() == 16);
const _: () = assert!(size_of::<Tuple<u128>>() == 36);
const _: () = assert!(size_of::<FlowKey<u128>>() == 40);

impl<A: Address> Tuple<A> {
    /// Both addresses.
    #[inline(always)]
    pub fn addresses(&self) -> A::Pair {
        A::pair(self.source, self.destination)
    }

    /// Both ports as one number, the source port in the low half.
    #[inline(always)]
    pub fn ports(&self) -> u32 {
        u32::from(self.source_port) | u32::from(self.destination_port) << 16
    }
}

/// Ports, protocol and realm as one word: the part of a key that is the same size in both families.
#[inline(always)]
pub fn port_word(ports: u32, protocol: u8, realm: RealmId) -> u64 {
    u64::from(ports) | u64::from(protocol) << 32 | u64::from(realm.0) << 40
}

/// What [`port_word`] was made of: source port, protocol, realm.
#[inline(always)]
pub fn of_port_word(word: u64) -> (u16, u8, RealmId) {
    (word as u16, (word >> 32) as u8, RealmId((word >> 40) as u8))
}

impl<A: Address> FlowKey<A> {
    /// The key of a packet with this tuple and protocol seen in `realm`.
    #[inline]
    pub fn new(tuple: Tuple<A>, protocol: u8, realm: RealmId) -> FlowKey<A> {
        FlowKey {
            tuple,
            protocol,
            realm: realm.0,
            pad: [0; 2],
        }
    }

    /// The realm this key belongs to.
    #[inline]
    pub fn realm_id(&self) -> RealmId {
        RealmId(self.realm)
    }

    /// The same flow seen from the other side, when nothing is translated: endpoints swapped, rest as it is.
    #[inline]
    #[must_use]
    pub fn reversed(self) -> FlowKey<A> {
        FlowKey {
            tuple: self.tuple.reversed(),
            ..self
        }
    }

    /// What is hashed.
    #[inline(always)]
    fn block(&self) -> A::Block {
        let rest = port_word(self.tuple.ports(), self.protocol, self.realm_id());
        A::block(self.tuple.addresses(), rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reversing_swaps_both_ends_and_nothing_else() {
        let tuple = Tuple {
            source: 1u32,
            destination: 2,
            source_port: 3,
            destination_port: 4,
        };
        let key = FlowKey::new(tuple, 17, RealmId(9));
        let back = key.reversed();
        assert_eq!((back.tuple.source, back.tuple.destination), (2, 1));
        assert_eq!(
            (back.tuple.source_port, back.tuple.destination_port),
            (4, 3)
        );
        assert_eq!((back.protocol, back.realm_id()), (17, RealmId(9)));
        assert_eq!(back.reversed(), key);
    }

    #[test]
    fn every_field_tells_keys_apart() {
        let key = FlowKey::<u128>::default();
        let mut others = [key; 6];
        others[0].tuple.source = 1 << 127;
        others[1].tuple.destination = 1;
        others[2].tuple.source_port = 1;
        others[3].tuple.destination_port = 1;
        others[4].protocol = 1;
        others[5].realm = 1;
        for (i, other) in others.iter().enumerate() {
            assert_ne!(*other, key, "field {i}");
        }
    }

    #[test]
    fn a_v4_key_is_one_number() {
        let tuple = Tuple {
            source: 0x0102_0304u32,
            destination: 0x8506_0708,
            source_port: 0x1112,
            destination_port: 0x9314,
        };
        assert_eq!(tuple.addresses(), 0x8506_0708_0102_0304);
        assert_eq!(u32::swapped(tuple.addresses()), 0x0102_0304_8506_0708);
        assert_eq!(tuple.ports(), 0x9314_1112);
        let key = FlowKey::new(tuple, 0xe1, RealmId(0x84));
        let block = key.block();
        assert_eq!(block, [0x84e1_9314_1112_8506_0708_0102_0304]);
        let (source, rest) = u32::source_of(block);
        assert_eq!(source, 0x0102_0304);
        assert_eq!(rest, port_word(tuple.ports(), 0xe1, RealmId(0x84)));
        assert_eq!(of_port_word(rest), (0x1112, 0xe1, RealmId(0x84)));
    }

    #[test]
    fn a_v6_key_is_three_numbers() {
        let tuple = Tuple {
            source: 0x2001u128 << 112 | 1,
            destination: 0xff02 << 112 | 2,
            source_port: 3,
            destination_port: 0x8004,
        };
        let (source, destination) = (tuple.source, tuple.destination);
        assert_eq!(u128::swapped(tuple.addresses()), [destination, source]);
        let key = FlowKey::new(tuple, 6, RealmId(0x90));
        assert_eq!(key.block(), [source, destination, 0x9006_8004_0003]);
        assert_eq!(u128::source_of(key.block()), (source, 0x9006_8004_0003));
    }

    #[test]
    fn blocks_are_the_same_if_every_word_is() {
        let block = [1u128 << 127 | 5, 2, 3];
        assert!(u128::same(block, block) && u32::same([7], [7]));
        assert!(!u32::same([7], [7 | 1 << 127]));
        // One word differs, two by the same bits, all three.
        for flipped in 1..8 {
            let other = [0, 1, 2].map(|word| block[word] ^ u128::from(flipped >> word & 1 == 1));
            assert!(!u128::same(block, other), "{flipped:03b}");
        }
    }
}
