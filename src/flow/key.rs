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
    /// The keyed hash of a key of this family; callers say [`Hasher::hash`].
    fn hash_key(hasher: &Hasher, key: &FlowKey<Self>) -> Hash;
}

impl Address for u32 {
    #[inline(always)]
    fn hash_key(hasher: &Hasher, key: &FlowKey<u32>) -> Hash {
        hasher.hash4(key)
    }
}

impl Address for u128 {
    #[inline(always)]
    fn hash_key(hasher: &Hasher, key: &FlowKey<u128>) -> Hash {
        hasher.hash6(key)
    }
}

/// The two endpoints of a packet. Ports are host order; for ICMP queries the identifier stands in both port
/// fields or in the one the caller defines, for protocols without ports both are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Tuple<A> {
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
/// 16 bytes for IPv4, so that two keys fill half a session line. 64 for IPv6: 40 bytes of content, the rest is
/// the alignment of `u128`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct FlowKey<A> {
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
const _: () = assert!(size_of::<FlowKey<u128>>() == 64);

impl Tuple<u32> {
    /// Both addresses as one number, the source in the low half.
    #[inline(always)]
    pub fn addresses(&self) -> u64 {
        u64::from(self.source) | u64::from(self.destination) << 32
    }

    /// Both ports as one number, the source port in the low half.
    #[inline(always)]
    pub fn ports(&self) -> u32 {
        u32::from(self.source_port) | u32::from(self.destination_port) << 16
    }
}

/// An IPv4 flow key as one number: what is hashed, and what the packet path compares.
#[inline(always)]
pub fn key_block(addresses: u64, ports: u32, protocol: u8, realm: RealmId) -> u128 {
    let rest = u64::from(ports) | u64::from(protocol) << 32 | u64::from(realm.0) << 40;
    u128::from(addresses) | u128::from(rest) << 64
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

    /// Ports, protocol and realm as one word: the part that is the same size in both families.
    #[inline(always)]
    pub(super) fn port_word(&self) -> u64 {
        u64::from(self.tuple.source_port)
            | u64::from(self.tuple.destination_port) << 16
            | u64::from(self.protocol) << 32
            | u64::from(self.realm) << 40
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
}
