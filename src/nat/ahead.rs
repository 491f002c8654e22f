//! What a new flow needs, made ready before it is needed: lines of memory fetched before they are read or written, hashes that
//! were computed for that, and which flows are so new that a packet of the same burst may be theirs.

use crate::flow::hash::Hash;
use crate::flow::key::of_port_word;
use crate::flow::session::{Direction, Session};
use crate::nat::family::Family;
use crate::nat::mapping::{InsideEndpoint, OutsideEndpoint};
use crate::nat::ports::PortSpace;
use crate::nat::state::Nat;

/// Under what a new session and its mapping are entered, as far as it is known before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hashes {
    /// The hash of the session's forward key.
    pub forward: Option<Hash>,
    /// The hash of its reverse key.
    pub reverse: Option<Hash>,
    /// The hash of its mapping's inside endpoint, without any remote.
    pub inside: Option<Hash>,
    /// The hash of its mapping's outside endpoint, without any remote.
    pub outside: Option<Hash>,
}

impl Hashes {
    /// Those of a flow of which only its own key was hashed.
    pub fn of_forward(hash: Hash) -> Hashes {
        Hashes {
            forward: Some(hash),
            ..Hashes::default()
        }
    }
}

impl<A: Family> Nat<A> {
    /// Fetches where a session and its mapping will be found from outside, as soon as its outside endpoint is known; with its
    /// hashes there.
    #[inline]
    pub(super) fn prefetch_way_back(&self, session: &Session<A>, hashes: &Hashes) -> Hashes {
        let back = session.key(Direction::Reverse);
        let reverse = self.hash(&back);
        self.table.prefetch_both(reverse);
        let space = PortSpace::from_protocol(session.protocol);
        let outside = space.map(|space| {
            self.mappings.prefetch_outside(OutsideEndpoint {
                address: back.tuple.destination,
                port: back.tuple.destination_port,
                space,
            })
        });
        Hashes {
            reverse: Some(reverse),
            outside,
            ..*hashes
        }
    }

    /// Fetches what a new flow with this key needs first: its source's mapping and subscriber, and the lines its session will
    /// lie in if `ahead` others are opened before. `hash` is that of `key`.
    #[inline]
    pub fn prefetch_new(&self, key: A::Block, hash: Hash, ahead: u32) -> Hashes {
        let (address, rest) = A::source_of(key);
        let (port, protocol, realm) = of_port_word(rest);
        self.subscribers.prefetch_index(address.into(), realm);
        self.sessions.prefetch_fresh(ahead);
        let inside = PortSpace::from_protocol(protocol).map(|space| {
            self.mappings.prefetch_inside(InsideEndpoint {
                address,
                port,
                space,
                realm,
            })
        });
        Hashes {
            inside,
            ..Hashes::of_forward(hash)
        }
    }

    /// After [`Nat::prefetch_new`], which gave `hashes`: fetches the source's subscriber, and where flow and mapping will be
    /// entered if there is no room at home.
    #[inline]
    pub fn prefetch_room(&self, key: A::Block, hashes: &Hashes) {
        let (address, rest) = A::source_of(key);
        let (_, _, realm) = of_port_word(rest);
        self.subscribers.prefetch_record(address.into(), realm);
        if let Some(forward) = hashes.forward {
            self.table.prefetch_room(forward);
        }
        if let Some(inside) = hashes.inside {
            self.mappings.prefetch_room(inside);
        }
    }
}

/// Words of [`Newest`].
const WORDS: usize = 16;

/// The flows entered since a burst began: says of few others, but of all of these, that they may be among them. It spares
/// the other packets of the burst a second look into the flow table.
#[derive(Debug, Default)]
pub struct Newest {
    bits: [u64; WORDS],
}

impl Newest {
    /// A burst begins.
    #[inline]
    pub fn clear(&mut self) {
        self.bits = [0; WORDS];
    }

    /// Notes that a flow was entered under this hash.
    #[inline]
    pub(super) fn note(&mut self, hash: Hash) {
        let (word, bit) = place(hash);
        self.bits[word] |= bit;
    }

    /// Whether a flow with this hash may have been entered since.
    #[inline]
    pub fn may_hold(&self, hash: Hash) -> bool {
        let (word, bit) = place(hash);
        self.bits[word] & bit != 0
    }
}

/// Word and bit of a hash, by bits that have no part in its tag.
#[inline]
fn place(hash: Hash) -> (usize, u64) {
    ((hash.0 >> 6) as usize % WORDS, 1 << (hash.0 % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_known_and_few_others_are_taken_for_them() {
        let mut random = crate::base::Random::from_seed(3);
        let mut newest = Newest::default();
        let hashes: [Hash; 128] = std::array::from_fn(|_| Hash(random.next_u64()));
        for hash in hashes {
            newest.note(hash);
        }
        assert!(hashes.iter().all(|hash| newest.may_hold(*hash)));
        let others = (0..10_000).filter(|_| newest.may_hold(Hash(random.next_u64())));
        let taken = others.count();
        assert!((800..1_600).contains(&taken), "{taken} of 10000, a ninth");
        newest.clear();
        assert!(!hashes.iter().any(|hash| newest.may_hold(*hash)));
    }
}
