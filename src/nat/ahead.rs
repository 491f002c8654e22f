//! Fetching ahead what new flows need, each line of memory before it is read or written.

use crate::base::RealmId;
use crate::flow::hash::Hash;
use crate::flow::key::of_port_word;
use crate::flow::session::{Direction, Session};
use crate::nat::family::Family;
use crate::nat::mapping::{InsideEndpoint, OutsideEndpoint};
use crate::nat::ports::PortSpace;
use crate::nat::state::Nat;

impl<A: Family> Nat<A> {
    /// Fetches where a session and its mapping will be found from outside, as soon as its outside endpoint is known.
    #[inline]
    pub(super) fn prefetch_way_back(&self, session: &Session<A>) {
        let back = session.key(Direction::Reverse);
        self.table.prefetch_both(self.hash(&back));
        if let Some(space) = PortSpace::from_protocol(session.protocol) {
            self.mappings.prefetch_outside(OutsideEndpoint {
                address: back.tuple.destination,
                port: back.tuple.destination_port,
                space,
            });
        }
    }

    /// Fetches what a new flow with this key needs first: its source's mapping and subscriber, and the lines its session will
    /// lie in if `ahead` others are opened before.
    #[inline]
    pub fn prefetch_new(&self, key: A::Block, ahead: u32) {
        let (inside, realm) = inside_of::<A>(key);
        let (address, _) = A::source_of(key);
        self.subscribers.prefetch_index(address.into(), realm);
        if let Some(inside) = inside {
            self.mappings.prefetch_inside(inside);
        }
        self.sessions.prefetch_fresh(ahead);
    }

    /// After [`Nat::prefetch_new`]: fetches the source's subscriber, and where flow and mapping will be entered if there is no
    /// room at home. `hash` is that of `key`.
    #[inline]
    pub fn prefetch_room(&self, key: A::Block, hash: Hash) {
        let (inside, realm) = inside_of::<A>(key);
        let (address, _) = A::source_of(key);
        self.subscribers.prefetch_record(address.into(), realm);
        self.table.prefetch_room(hash);
        if let Some(inside) = inside {
            self.mappings.prefetch_room(inside);
        }
    }
}

/// The endpoint that sent a packet with this key, if its protocol has ports, and its realm.
#[inline]
fn inside_of<A: Family>(key: A::Block) -> (Option<InsideEndpoint<A>>, RealmId) {
    let (address, rest) = A::source_of(key);
    let (port, protocol, realm) = of_port_word(rest);
    let inside = PortSpace::from_protocol(protocol).map(|space| InsideEndpoint {
        address,
        port,
        space,
        realm,
    });
    (inside, realm)
}
