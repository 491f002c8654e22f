//! What mappings and filters depend on (RFC 4787 §4.1, §5), and which mappings may share an outside port.
//!
//! Both are chosen for each pool and each port space, apart from each other (RFC 7857 §5, §6). Together they say how many
//! mappings one outside port can serve. A port is shared exactly as far as the remote endpoint of every packet that the
//! filter lets in still names one of them:
//!
//! | mapping ↓ filtering → | endpoint | address | address-port |
//! |---|---|---|---|
//! | endpoint | one | one | one |
//! | address | one | one for each remote address | one for each remote address |
//! | address-port | one | one for each remote address | one for each remote endpoint |
//!
//! So with `address-port` for both, one public address carries 64 k sessions *to each remote endpoint*. What else a port
//! means does not change when it is shared:
//!
//! - it is leased to one worker, which owns every packet that comes to it; only hosts of that worker share it;
//! - of a pool with blocks, it belongs to the subscriber that has the block: only mappings of this host share it, a further
//!   block is opened when none of the host's ports is left *for this remote*, and quotas of blocks count blocks as ever;
//! - it is in use from its first mapping to its last, and rests then (RFC 6888 REQ-8), as long as the youngest of its
//!   mappings asks for; while it is in use, the remote of a mapping that ended rests in the same way.

use crate::flow::key::Address;
use crate::flow::session::MappingKind;

/// What a mapping (or filter) depends on (RFC 4787 §4.1, §5). Ordered by how much it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Behaviour {
    /// On the inside endpoint alone.
    Endpoint,
    /// Also on the remote address.
    Address,
    /// Also on the remote address and port.
    AddressPort,
}

impl Behaviour {
    /// Every behaviour.
    pub const ALL: [Behaviour; 3] = [
        Behaviour::Endpoint,
        Behaviour::Address,
        Behaviour::AddressPort,
    ];

    /// The word of the configuration and of listings.
    pub fn name(self) -> &'static str {
        match self {
            Behaviour::Endpoint => "endpoint",
            Behaviour::Address => "address",
            Behaviour::AddressPort => "address-port",
        }
    }

    /// As much of a remote endpoint as this depends on; the rest is 0.
    #[inline]
    pub fn part_of<A: Address>(self, remote: Remote<A>) -> Remote<A> {
        match self {
            Behaviour::Endpoint => Remote::default(),
            Behaviour::Address => Remote { port: 0, ..remote },
            Behaviour::AddressPort => remote,
        }
    }

    #[inline]
    fn of(number: u8) -> Behaviour {
        match number {
            0 => Behaviour::Endpoint,
            1 => Behaviour::Address,
            _ => Behaviour::AddressPort,
        }
    }
}

/// The remote end of a session on a mapping: the outside host as the inside one calls it. Port 0 for ICMP queries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Remote<A> {
    /// Address.
    pub address: A,
    /// Port.
    pub port: u16,
}

/// What the mappings of one pool and port space depend on, and what may come in through them.
// Implements: U8a, T3a, T3b, P5, P6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behaviours {
    /// When a mapping is used again.
    pub mapping: Behaviour,
    /// Which remotes a mapping admits.
    pub filtering: Behaviour,
}

impl Behaviours {
    /// The kind of the mappings made so.
    #[inline]
    pub fn kind(self) -> MappingKind {
        MappingKind::new(self.mapping, self.mapping.min(self.filtering))
    }
}

impl MappingKind {
    #[inline]
    fn new(mapping: Behaviour, sharing: Behaviour) -> MappingKind {
        MappingKind(mapping as u8 | (sharing as u8) << 2)
    }

    /// What the mapping depends on.
    #[inline]
    pub fn mapping(self) -> Behaviour {
        Behaviour::of(self.0 & 3)
    }

    /// What tells apart the mappings that share its outside port; [`Behaviour::Endpoint`]: it has the port to itself.
    // Implements: U3, T7, P3.
    #[inline]
    pub fn sharing(self) -> Behaviour {
        Behaviour::of(self.0 >> 2)
    }

    /// The same port, but for this one remote endpoint only: no further flow from inside joins.
    #[inline]
    #[must_use]
    pub fn closed(self) -> MappingKind {
        MappingKind::new(Behaviour::AddressPort, self.sharing())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_shared_as_far_as_mapping_and_filter_tell_remotes_apart() {
        use Behaviour::{Address, AddressPort, Endpoint};
        for (mapping, shared) in [
            (Endpoint, [Endpoint, Endpoint, Endpoint]),
            (Address, [Endpoint, Address, Address]),
            (AddressPort, [Endpoint, Address, AddressPort]),
        ] {
            for (filtering, sharing) in Behaviour::ALL.into_iter().zip(shared) {
                let kind = Behaviours { mapping, filtering }.kind();
                assert_eq!((kind.mapping(), kind.sharing()), (mapping, sharing));
                assert_eq!(kind.closed().sharing(), sharing);
                assert_eq!(kind.closed().mapping(), AddressPort);
                assert_eq!(kind == MappingKind::default(), mapping == Endpoint);
            }
        }
        let remote = Remote {
            address: 7u32,
            port: 9,
        };
        assert_eq!(Endpoint.part_of(remote), Remote::default());
        assert_eq!(Address.part_of(remote), Remote { port: 0, ..remote });
        assert_eq!(AddressPort.part_of(remote), remote);
        let names = Behaviour::ALL.map(Behaviour::name);
        assert_eq!(names, ["endpoint", "address", "address-port"]);
    }
}
