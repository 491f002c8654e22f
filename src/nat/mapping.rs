//! Mappings: inside endpoint ↔ outside endpoint (RFC 4787 §4.1), the part of a translation that outlives one flow.
//!
//! Only the slow path sees them. A new flow from a known inside endpoint gets the outside port that endpoint already has
//! (endpoint-independent mapping, RFC 4787 REQ-1), and an outside packet that matches no flow is judged against the
//! mapping of its destination port. A mapping lives as long as a session uses it.
//!
//! That is why it has no record of its own. A mapping *is* the list of its sessions, threaded through them
//! ([`MappingLink`]), and a table that leads from either endpoint to the first of the list; both endpoints can be read
//! off any session of it. It costs two table entries, 13 bytes.

use crate::arch::OutOfMemory;
use crate::base::RealmId;
use crate::flow::hash::{Hash, Hasher};
use crate::flow::key::{Address, FlowKey, Tuple};
use crate::flow::session::{
    FLAG_FIRST, FLAG_INBOUND, FLAG_MAPPED, MappingLink, NONE, Session, SessionIndex,
};
use crate::flow::slab::Slab;
use crate::flow::table::BucketTable;
use crate::nat::ports::PortSpace;

/// Load at which the table is sized: it is off the fast path, so memory counts for more than the odd second probe.
const LOAD_PERCENT: u32 = 95;

/// Sessions of a mapping that [`Mappings::any`] asks about. A mapping with more is taken to be in use.
const ASKED: usize = 16;

/// The endpoint on the inside of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InsideEndpoint<A> {
    /// Address.
    pub address: A,
    /// Port or query id.
    pub port: u16,
    /// Port space.
    pub space: PortSpace,
    /// Realm.
    pub realm: RealmId,
}

/// The outside counterpart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OutsideEndpoint<A> {
    /// Address.
    pub address: A,
    /// Port or query id.
    pub port: u16,
    /// Port space.
    pub space: PortSpace,
}

/// What a mapping ties together, read off one of its sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping<A> {
    /// The subscriber's side.
    pub inside: InsideEndpoint<A>,
    /// The public side.
    pub outside: OutsideEndpoint<A>,
}

impl<A: Address> Mapping<A> {
    /// The mapping a session belongs to, if it holds a port of a pool.
    pub fn of(session: &Session<A>) -> Option<Mapping<A>> {
        if session.flags & FLAG_MAPPED == 0 {
            return None;
        }
        let space = PortSpace::from_protocol(session.protocol)?;
        let (before, after) = (&session.before, &session.after);
        let (inside, outside) = if session.flags & FLAG_INBOUND == 0 {
            (
                (before.source, before.source_port),
                (after.source, after.source_port),
            )
        } else {
            (
                (after.destination, after.destination_port),
                (before.destination, before.destination_port),
            )
        };
        Some(Mapping {
            inside: InsideEndpoint {
                address: inside.0,
                port: inside.1,
                space,
                realm: session.realm,
            },
            outside: OutsideEndpoint {
                address: outside.0,
                port: outside.1,
                space,
            },
        })
    }
}

/// The mappings of one worker: the way from an endpoint to the first session of its mapping.
pub struct Mappings {
    entries: BucketTable,
    hasher: Hasher,
}

/// No room for another mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappingsFull;

type Sessions<A> = Slab<Session<A>>;

impl Mappings {
    /// Room for `capacity` mappings.
    ///
    /// # Errors
    /// When the memory cannot be had.
    pub fn new(capacity: u32, hasher: Hasher) -> Result<Mappings, OutOfMemory> {
        Ok(Mappings {
            entries: BucketTable::with_capacity(2 * capacity as usize, LOAD_PERCENT)?,
            hasher,
        })
    }

    /// The mapping of an inside endpoint whose outside address satisfies `eligible` (one endpoint may have a mapping in
    /// each of several pools when rules tell its flows apart by destination): its first session.
    pub fn find_inside<A: Address>(
        &self,
        sessions: &Sessions<A>,
        endpoint: InsideEndpoint<A>,
        eligible: impl Fn(A) -> bool,
    ) -> Option<SessionIndex> {
        let fits = |m: Mapping<A>| m.inside == endpoint && eligible(m.outside.address);
        self.find(sessions, self.hash_inside(endpoint), fits)
    }

    /// The mapping that owns an outside endpoint: its first session.
    pub fn find_outside<A: Address>(
        &self,
        sessions: &Sessions<A>,
        endpoint: OutsideEndpoint<A>,
    ) -> Option<SessionIndex> {
        let fits = |m: Mapping<A>| m.outside == endpoint;
        self.find(sessions, self.hash_outside(endpoint), fits)
    }

    fn find<A: Address>(
        &self,
        sessions: &Sessions<A>,
        hash: Hash,
        fits: impl Fn(Mapping<A>) -> bool,
    ) -> Option<SessionIndex> {
        let first = self.entries.find(hash, |index| {
            let mapping = sessions.get(index).and_then(Mapping::of);
            mapping.is_some_and(&fits)
        });
        first.map(SessionIndex)
    }

    /// Begins a mapping with the session that holds its port.
    ///
    /// # Errors
    /// [`MappingsFull`] when there is no room; nothing is changed then.
    pub fn begin<A: Address>(
        &mut self,
        sessions: &mut Sessions<A>,
        index: SessionIndex,
    ) -> Result<(), MappingsFull> {
        let session = sessions.get_mut(index.0).ok_or(MappingsFull)?;
        session.flags |= FLAG_MAPPED;
        let mapping = Mapping::of(session);
        session.flags &= !FLAG_MAPPED;
        let mapping = mapping.ok_or(MappingsFull)?;
        let by_inside = self.hash_inside(mapping.inside);
        let by_outside = self.hash_outside(mapping.outside);
        let inserted = self.entries.insert(by_inside, index.0);
        inserted.map_err(|_| MappingsFull)?;
        if self.entries.insert(by_outside, index.0).is_err() {
            self.entries.remove(by_inside, index.0);
            return Err(MappingsFull);
        }
        session.flags |= FLAG_MAPPED | FLAG_FIRST;
        session.link = MappingLink {
            next: NONE,
            back: 1,
        };
        Ok(())
    }

    /// Adds a session to the mapping that begins with `first`.
    pub fn join<A: Address>(
        &mut self,
        sessions: &mut Sessions<A>,
        first: SessionIndex,
        index: SessionIndex,
    ) {
        let Some(head) = sessions.get_mut(first.0) else {
            return;
        };
        let second = std::mem::replace(&mut head.link.next, index.0);
        head.link.back += 1;
        if let Some(session) = sessions.get_mut(index.0) {
            session.flags |= FLAG_MAPPED;
            session.link = MappingLink {
                next: second,
                back: first.0,
            };
        }
        if let Some(session) = sessions.get_mut(second) {
            session.link.back = index.0;
        }
    }

    /// Takes a session out of its mapping. The last one takes the mapping with it, which is then returned so that its
    /// port can be given back.
    pub fn leave<A: Address>(
        &mut self,
        sessions: &mut Sessions<A>,
        index: SessionIndex,
    ) -> Option<Mapping<A>> {
        let session = *sessions.get(index.0)?;
        let mapping = Mapping::of(&session)?;
        let MappingLink { next, back } = session.link;
        if session.flags & FLAG_FIRST == 0 {
            let first = self.find_outside(sessions, mapping.outside);
            if let Some(head) = first.and_then(|first| sessions.get_mut(first.0)) {
                head.link.back -= 1;
            }
            if let Some(before) = sessions.get_mut(back) {
                before.link.next = next;
            }
            if let Some(behind) = sessions.get_mut(next) {
                behind.link.back = back;
            }
            return None;
        }
        let by_inside = self.hash_inside(mapping.inside);
        let by_outside = self.hash_outside(mapping.outside);
        let Some(heir) = sessions.get_mut(next) else {
            self.entries.remove(by_inside, index.0);
            self.entries.remove(by_outside, index.0);
            return Some(mapping);
        };
        heir.flags |= FLAG_FIRST;
        heir.link.back = back - 1;
        self.entries.replace(by_inside, index.0, next);
        self.entries.replace(by_outside, index.0, next);
        None
    }

    /// Whether a session of the mapping that begins with `first` satisfies `holds`. Asks about a few; a mapping with
    /// very many sessions counts as having one.
    pub fn any<A: Address>(
        &self,
        sessions: &Sessions<A>,
        first: SessionIndex,
        holds: impl Fn(&Session<A>) -> bool,
    ) -> bool {
        let mut next = first.0;
        for _ in 0..ASKED {
            let Some(session) = sessions.get(next) else {
                return false;
            };
            if holds(session) {
                return true;
            }
            next = session.link.next;
        }
        next != NONE
    }

    /// Fetches the table line of an inside endpoint ahead of [`Mappings::find_inside`].
    #[inline]
    pub fn prefetch_inside<A: Address>(&self, endpoint: InsideEndpoint<A>) {
        self.entries.prefetch(self.hash_inside(endpoint));
    }

    /// Fetches the table lines of a session's mapping ahead of [`Mappings::leave`].
    pub fn prefetch<A: Address>(&self, session: &Session<A>) {
        if let Some(mapping) = Mapping::of(session) {
            self.entries.prefetch(self.hash_inside(mapping.inside));
            self.entries.prefetch(self.hash_outside(mapping.outside));
        }
    }

    /// Mappings alive.
    pub fn len(&self) -> usize {
        self.entries.len() / 2
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes taken by the table.
    pub fn memory_bytes(&self) -> usize {
        self.entries.memory_bytes()
    }

    /// An inside endpoint is hashed as a key that has only a source, an outside endpoint as one that has only a
    /// destination.
    fn hash_inside<A: Address>(&self, e: InsideEndpoint<A>) -> Hash {
        let tuple = Tuple {
            source: e.address,
            source_port: e.port,
            ..Tuple::default()
        };
        let key = FlowKey::new(tuple, e.space as u8 + 1, e.realm);
        A::hash_key(&self.hasher, &key)
    }

    fn hash_outside<A: Address>(&self, e: OutsideEndpoint<A>) -> Hash {
        let tuple = Tuple {
            destination: e.address,
            destination_port: e.port,
            ..Tuple::default()
        };
        let key = FlowKey::new(tuple, e.space as u8 + 1, RealmId::default());
        A::hash_key(&self.hasher, &key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Random;
    use crate::flow::session::State;

    const OUTSIDE: u32 = 0xcb00_7101;

    fn inside(port: u16) -> InsideEndpoint<u32> {
        InsideEndpoint {
            address: 0x0a00_0002,
            port,
            space: PortSpace::Udp,
            realm: RealmId(0),
        }
    }

    fn outside(port: u16) -> OutsideEndpoint<u32> {
        OutsideEndpoint {
            address: OUTSIDE,
            port,
            space: PortSpace::Udp,
        }
    }

    /// A session from inside port `port`, or, to the same mapping, from an outside host.
    fn session(port: u16, remote: u32, inbound: bool) -> Session<u32> {
        let out = Session {
            before: Tuple {
                source: 0x0a00_0002,
                destination: remote,
                source_port: port,
                destination_port: 53,
            },
            after: Tuple {
                source: OUTSIDE,
                destination: remote,
                source_port: port,
                destination_port: 53,
            },
            protocol: crate::wire::UDP,
            state: State::Udp,
            ..Session::default()
        };
        if !inbound {
            return out;
        }
        Session {
            before: out.after.reversed(),
            after: out.before.reversed(),
            flags: FLAG_INBOUND,
            ..out
        }
    }

    fn world() -> (Mappings, Sessions<u32>) {
        let mappings = Mappings::new(100, Hasher::new([1, 2])).unwrap();
        (mappings, Slab::with_capacity(100).unwrap())
    }

    #[test]
    fn both_sides_lead_to_the_mapping_until_its_last_session_ends() {
        let (mut mappings, mut sessions) = world();
        let first = SessionIndex(sessions.allocate(session(40000, 1, false)).unwrap());
        let second = SessionIndex(sessions.allocate(session(40000, 2, true)).unwrap());
        mappings.begin(&mut sessions, first).unwrap();
        mappings.join(&mut sessions, first, second);
        let eligible = |address| address == OUTSIDE;
        assert_eq!(
            mappings.find_inside(&sessions, inside(40000), eligible),
            Some(first)
        );
        assert_eq!(
            mappings.find_inside(&sessions, inside(40000), |_| false),
            None,
            "another pool's mapping does not count"
        );
        assert!(mappings.leave(&mut sessions, first).is_none());
        sessions.release(first.0);
        assert_eq!(
            mappings.find_outside(&sessions, outside(40000)),
            Some(second),
            "the session from outside keeps it"
        );
        let gone = mappings
            .leave(&mut sessions, second)
            .expect("the last session takes the mapping along");
        assert_eq!(gone.inside, inside(40000));
        assert_eq!(gone.outside, outside(40000));
        assert_eq!(mappings.find_outside(&sessions, outside(40000)), None);
        assert!(mappings.is_empty());
    }

    #[test]
    fn sessions_may_leave_in_any_order() {
        let mut random = Random::from_seed(5);
        for _ in 0..200 {
            let (mut mappings, mut sessions) = world();
            let mut alive = Vec::new();
            for step in 0..60u32 {
                if alive.is_empty() || random.below(3) > 0 {
                    let new = session(7, step, step % 3 == 0 && !alive.is_empty());
                    let index = SessionIndex(sessions.allocate(new).unwrap());
                    match mappings.find_outside(&sessions, outside(7)) {
                        Some(first) => mappings.join(&mut sessions, first, index),
                        None => mappings.begin(&mut sessions, index).unwrap(),
                    }
                    alive.push(index);
                } else {
                    let leaver = alive.swap_remove(random.below(alive.len() as u32) as usize);
                    let gone = mappings.leave(&mut sessions, leaver);
                    sessions.release(leaver.0);
                    assert_eq!(gone.is_some(), alive.is_empty());
                }
                let first = mappings.find_outside(&sessions, outside(7));
                assert_eq!(
                    first,
                    mappings.find_inside(&sessions, inside(7), |_| true),
                    "both endpoints lead to the same session"
                );
                let count = first.map_or(0, |first| sessions.get(first.0).unwrap().link.back);
                assert_eq!(count as usize, alive.len());
                let mut listed = Vec::new();
                let mut next = first.map_or(NONE, |first| first.0);
                while let Some(session) = sessions.get(next) {
                    listed.push(next);
                    next = session.link.next;
                }
                listed.sort_unstable();
                let mut expected: Vec<u32> = alive.iter().map(|index| index.0).collect();
                expected.sort_unstable();
                assert_eq!(listed, expected);
            }
        }
    }

    #[test]
    fn full_is_a_value_and_changes_nothing() {
        let mut mappings = Mappings::new(10, Hasher::new([1, 2])).unwrap();
        let mut sessions: Sessions<u32> = Slab::with_capacity(100).unwrap();
        for port in 0..10 {
            let index = SessionIndex(sessions.allocate(session(port, 1, false)).unwrap());
            mappings.begin(&mut sessions, index).unwrap();
        }
        let index = SessionIndex(sessions.allocate(session(99, 1, false)).unwrap());
        assert_eq!(mappings.begin(&mut sessions, index), Err(MappingsFull));
        assert_eq!(mappings.find_outside(&sessions, outside(99)), None);
        assert_eq!(sessions.get(index.0).unwrap().flags, 0);
        assert_eq!(mappings.len(), 10);
    }
}
