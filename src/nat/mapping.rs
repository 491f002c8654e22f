//! Mappings: inside endpoint ↔ outside endpoint (RFC 4787 §4.1), the part of a translation that outlives one flow.
//!
//! Only the slow path sees them. A new flow from a known inside endpoint gets the outside port that endpoint already has
//! (endpoint-independent mapping, RFC 4787 REQ-1), and an outside packet that matches no flow is judged against the
//! mapping of its destination port. A mapping lives as long as a session uses it.
//!
//! A pool may have mappings depend on the remote, too ([`behaviour`](crate::nat::behaviour)): then an inside endpoint has a
//! mapping for each remote address, or for each remote endpoint, and several mappings may share an outside port.
//!
//! That is why it has no record of its own. A mapping *is* the list of its sessions, threaded through them
//! ([`MappingLink`]), and a table that leads from either endpoint to the first of the list; both endpoints can be read
//! off any session of it. It costs two table entries, 13 bytes.

use crate::arch::{OutOfMemory, Pages};
use crate::base::RealmId;
use crate::flow::hash::{Hash, Hasher};
use crate::flow::key::{Address, FlowKey, Tuple};
use crate::flow::session::{
    FLAG_FIRST, FLAG_INBOUND, FLAG_MAPPED, MappingKind, MappingLink, NONE, Session, SessionIndex,
};
use crate::flow::slab::Slab;
use crate::flow::table::{BucketTable, MAX_LOAD};
use crate::nat::ahead::Hashes;
use crate::nat::behaviour::{Behaviour, Remote};
use crate::nat::ports::PortSpace;

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
    /// The session's remote.
    pub remote: Remote<A>,
    /// What it depends on.
    pub kind: MappingKind,
}

impl<A: Address> Mapping<A> {
    /// The mapping a session belongs to, if it holds a port of a pool.
    pub fn of(session: &Session<A>) -> Option<Mapping<A>> {
        if session.flags & FLAG_MAPPED == 0 {
            return None;
        }
        let space = PortSpace::from_protocol(session.protocol)?;
        let (before, after) = (&session.before, &session.after);
        let (inside, outside, remote) = if session.flags & FLAG_INBOUND == 0 {
            (
                (before.source, before.source_port, session.realm),
                (after.source, after.source_port),
                (after.destination, after.destination_port),
            )
        } else {
            (
                (after.destination, after.destination_port, session.far_realm),
                (before.destination, before.destination_port),
                (before.source, before.source_port),
            )
        };
        Some(Mapping {
            inside: InsideEndpoint {
                address: inside.0,
                port: inside.1,
                space,
                realm: inside.2,
            },
            outside: OutsideEndpoint {
                address: outside.0,
                port: outside.1,
                space,
            },
            remote: Remote {
                address: remote.0,
                port: remote.1,
            },
            kind: session.mapping,
        })
    }
}

/// The mappings of one worker: the way from an endpoint to the first session of its mapping.
pub struct Mappings {
    entries: BucketTable,
    hasher: Hasher,
    alive: usize,
    /// How many of them share their outside port by remote address.
    by_address: usize,
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
    pub fn new(capacity: u32, pages: Pages, hasher: Hasher) -> Result<Mappings, OutOfMemory> {
        Ok(Mappings {
            entries: BucketTable::with_pages(2 * capacity as usize, MAX_LOAD, pages)?,
            hasher,
            alive: 0,
            by_address: 0,
        })
    }

    /// The mapping that a flow from an inside endpoint to `remote` may join, if mappings depend on that much of it, and whose
    /// outside address satisfies `eligible` (one endpoint may have a mapping in each of several pools when rules tell its
    /// flows apart by destination): its first session. A mapping that depends on the remote's port is joined by none: its
    /// only flow from inside is a session already. `hashes` are those of the flow, as far as they are known.
    // Implements: U1, T1, I1a.
    pub fn find_inside<A: Address>(
        &self,
        sessions: &Sessions<A>,
        endpoint: InsideEndpoint<A>,
        (depends, remote): (Behaviour, Remote<A>),
        hashes: &Hashes,
        eligible: impl Fn(A) -> bool,
    ) -> Option<SessionIndex> {
        if depends == Behaviour::AddressPort {
            return None;
        }
        let part = depends.part_of(remote);
        let hash = self.hash_inside_known(endpoint, (depends, remote), hashes);
        let fits = |m: Mapping<A>| {
            m.inside == endpoint
                && m.kind.mapping() == depends
                && depends.part_of(m.remote) == part
                && eligible(m.outside.address)
        };
        self.find(sessions, hash, fits)
    }

    /// The mapping that owns an outside endpoint, or owns it where it meets `remote`: its first session. Mappings that share
    /// a port by remote endpoint are not found: they admit nobody but their sessions' remotes.
    pub fn find_outside<A: Address>(
        &self,
        sessions: &Sessions<A>,
        endpoint: OutsideEndpoint<A>,
        remote: Remote<A>,
    ) -> Option<SessionIndex> {
        let alone = self.find_shared(sessions, endpoint, Behaviour::Endpoint, remote);
        if alone.is_some() || self.by_address == 0 {
            return alone;
        }
        self.find_shared(sessions, endpoint, Behaviour::Address, remote)
    }

    fn find_shared<A: Address>(
        &self,
        sessions: &Sessions<A>,
        endpoint: OutsideEndpoint<A>,
        sharing: Behaviour,
        remote: Remote<A>,
    ) -> Option<SessionIndex> {
        let part = sharing.part_of(remote);
        let fits = |m: Mapping<A>| {
            m.outside == endpoint
                && m.kind.sharing() == sharing
                && sharing.part_of(m.remote) == part
        };
        self.find(sessions, self.hash_outside(endpoint, part), fits)
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

    /// Where a mapping is entered: by its inside endpoint unless no flow can join it, by its outside endpoint unless no
    /// packet needs it.
    fn places<A: Address>(
        &self,
        mapping: &Mapping<A>,
        hashes: &Hashes,
    ) -> (Option<Hash>, Option<Hash>) {
        let (depends, sharing) = (mapping.kind.mapping(), mapping.kind.sharing());
        let inside = (depends != Behaviour::AddressPort)
            .then(|| self.hash_inside_known(mapping.inside, (depends, mapping.remote), hashes));
        let outside = match hashes.outside {
            Some(known) if sharing == Behaviour::Endpoint => {
                debug_assert_eq!(known, self.hash_outside(mapping.outside, Remote::default()));
                Some(known)
            }
            _ => (sharing != Behaviour::AddressPort)
                .then(|| self.hash_outside(mapping.outside, sharing.part_of(mapping.remote))),
        };
        (inside, outside)
    }

    /// Begins a mapping with the session that holds its port; `hashes` are the session's, as far as they are known.
    ///
    /// # Errors
    /// [`MappingsFull`] when there is no room; nothing is changed then.
    pub fn begin<A: Address>(
        &mut self,
        sessions: &mut Sessions<A>,
        index: SessionIndex,
        kind: MappingKind,
        hashes: &Hashes,
    ) -> Result<(), MappingsFull> {
        let session = sessions.get_mut(index.0).ok_or(MappingsFull)?;
        let flags = session.flags;
        session.flags |= FLAG_MAPPED;
        session.mapping = kind;
        let mapping = Mapping::of(session);
        session.flags = flags;
        let mapping = mapping.ok_or(MappingsFull)?;
        let (by_inside, by_outside) = self.places(&mapping, hashes);
        let mut enter = |hash: Option<Hash>| match hash {
            Some(hash) => self.entries.insert(hash, index.0).map_err(|_| MappingsFull),
            None => Ok(()),
        };
        enter(by_inside)?;
        if enter(by_outside).is_err() {
            if let Some(by_inside) = by_inside {
                self.entries.remove(by_inside, index.0);
            }
            return Err(MappingsFull);
        }
        session.flags |= FLAG_MAPPED | FLAG_FIRST;
        session.link = MappingLink {
            next: NONE,
            back: 1,
        };
        self.alive += 1;
        self.by_address += usize::from(kind.sharing() == Behaviour::Address);
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
        let kind = head.mapping;
        if let Some(session) = sessions.get_mut(index.0) {
            session.flags |= FLAG_MAPPED;
            session.mapping = kind;
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
    // Implements: P11.
    pub fn leave<A: Address>(
        &mut self,
        sessions: &mut Sessions<A>,
        index: SessionIndex,
    ) -> Option<Mapping<A>> {
        let session = *sessions.get(index.0)?;
        let mapping = Mapping::of(&session)?;
        let MappingLink { next, back } = session.link;
        if session.flags & FLAG_FIRST == 0 {
            let sharing = mapping.kind.sharing();
            let first = self.find_shared(sessions, mapping.outside, sharing, mapping.remote);
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
        let (by_inside, by_outside) = self.places(&mapping, &Hashes::default());
        if sessions.get(next).is_none() {
            for hash in [by_inside, by_outside].into_iter().flatten() {
                self.entries.remove(hash, index.0);
            }
            self.alive -= 1;
            self.by_address -= usize::from(mapping.kind.sharing() == Behaviour::Address);
            return Some(mapping);
        }
        let (heir, same) = self.heir(sessions, next, &mapping);
        if let Some(session) = sessions.get_mut(heir) {
            session.flags |= FLAG_FIRST;
            session.link.back = back - 1;
            if !same {
                session.mapping = session.mapping.closed();
            }
        }
        if let Some(by_outside) = by_outside {
            self.entries.replace(by_outside, index.0, heir);
        }
        match by_inside {
            Some(by_inside) if same => drop(self.entries.replace(by_inside, index.0, heir)),
            Some(by_inside) => drop(self.entries.remove(by_inside, index.0)),
            None => {}
        }
        None
    }

    /// The session that follows the first of a mapping, moved to the front of the list that begins with `next`; and whether
    /// flows from inside may still join. They may if it has what the mapping depends on: a session that another remote
    /// opened holds the port, but is no reason to meet the old remote from it.
    fn heir<A: Address>(
        &self,
        sessions: &mut Sessions<A>,
        next: u32,
        mapping: &Mapping<A>,
    ) -> (u32, bool) {
        let depends = mapping.kind.mapping();
        let part = depends.part_of(mapping.remote);
        let mut at = next;
        for _ in 0..ASKED {
            let Some(session) = sessions.get(at) else {
                break;
            };
            if Mapping::of(session).is_some_and(|m| depends.part_of(m.remote) == part) {
                if at != next {
                    to_front(sessions, at, next);
                }
                return (at, true);
            }
            at = session.link.next;
        }
        (next, false)
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

    /// Fetches the table line of an inside endpoint ahead of [`Mappings::find_inside`]; under the hash that is returned.
    #[inline]
    pub(super) fn prefetch_inside<A: Address>(&self, endpoint: InsideEndpoint<A>) -> Hash {
        let hash = self.hash_inside(endpoint, Remote::default());
        self.entries.prefetch(hash);
        hash
    }

    /// After [`Mappings::prefetch_inside`]: fetches the other table line if a new mapping has no room in the first.
    #[inline]
    pub(super) fn prefetch_room(&self, inside: Hash) {
        self.entries.prefetch_room(inside);
    }

    /// Fetches the table lines of an outside endpoint that a mapping will have to itself; under the hash that is returned.
    #[inline]
    pub(super) fn prefetch_outside<A: Address>(&self, endpoint: OutsideEndpoint<A>) -> Hash {
        let hash = self.hash_outside(endpoint, Remote::default());
        self.entries.prefetch_both(hash);
        hash
    }

    /// Fetches the table line of a mapping entered under `hash`.
    #[inline]
    pub(super) fn prefetch_at(&self, hash: Hash) {
        self.entries.prefetch(hash);
    }

    /// The session that a mapping entered under `hash` probably begins with.
    #[inline]
    pub(super) fn guess_at(&self, hash: Hash) -> Option<u32> {
        self.entries.candidate(hash)
    }

    /// The mapping that has an outside endpoint to itself: its first session. `hash` is that of the endpoint alone.
    #[inline]
    pub(super) fn find_alone<A: Address>(
        &self,
        sessions: &Sessions<A>,
        hash: Hash,
        endpoint: OutsideEndpoint<A>,
    ) -> Option<SessionIndex> {
        let fits = |m: Mapping<A>| m.outside == endpoint && m.kind.sharing() == Behaviour::Endpoint;
        self.find(sessions, hash, fits)
    }

    /// Fetches the table lines of a session's mapping ahead of [`Mappings::leave`].
    pub fn prefetch<A: Address>(&self, session: &Session<A>) {
        if let Some(mapping) = Mapping::of(session) {
            let (inside, outside) = self.places(&mapping, &Hashes::default());
            for hash in [inside, outside].into_iter().flatten() {
                self.entries.prefetch(hash);
            }
        }
    }

    /// Mappings alive.
    pub fn len(&self) -> usize {
        self.alive
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes taken by the table.
    pub fn memory_bytes(&self) -> usize {
        self.entries.memory_bytes()
    }

    /// An inside endpoint is hashed as a key with that source, an outside endpoint as one with that destination; as much of
    /// the remote as counts is the other end.
    fn hash_inside<A: Address>(&self, e: InsideEndpoint<A>, remote: Remote<A>) -> Hash {
        let tuple = Tuple {
            source: e.address,
            source_port: e.port,
            destination: remote.address,
            destination_port: remote.port,
        };
        let key = FlowKey::new(tuple, e.space as u8 + 1, e.realm);
        A::hash_key(&self.hasher, &key)
    }

    /// The hash of an inside endpoint with as much of the remote as a mapping depends on, which is known if that is nothing.
    #[inline]
    fn hash_inside_known<A: Address>(
        &self,
        endpoint: InsideEndpoint<A>,
        (depends, remote): (Behaviour, Remote<A>),
        hashes: &Hashes,
    ) -> Hash {
        match hashes.inside {
            Some(known) if depends == Behaviour::Endpoint => {
                debug_assert_eq!(known, self.hash_inside(endpoint, Remote::default()));
                known
            }
            _ => self.hash_inside(endpoint, depends.part_of(remote)),
        }
    }

    /// Under what an outside endpoint's mapping is entered, as far as it depends on `remote`.
    pub(super) fn hash_outside<A: Address>(
        &self,
        e: OutsideEndpoint<A>,
        remote: Remote<A>,
    ) -> Hash {
        let tuple = Tuple {
            source: remote.address,
            source_port: remote.port,
            destination: e.address,
            destination_port: e.port,
        };
        let key = FlowKey::new(tuple, e.space as u8 + 1, RealmId::default());
        A::hash_key(&self.hasher, &key)
    }
}

/// Moves a session of a list, not its first, before the one that is.
fn to_front<A: Address>(sessions: &mut Sessions<A>, at: u32, first: u32) {
    let Some(MappingLink { next, back }) = sessions.get(at).map(|s| s.link) else {
        return;
    };
    if let Some(before) = sessions.get_mut(back) {
        before.link.next = next;
    }
    if let Some(behind) = sessions.get_mut(next) {
        behind.link.back = back;
    }
    if let Some(second) = sessions.get_mut(first) {
        second.link.back = at;
    }
    if let Some(session) = sessions.get_mut(at) {
        session.link.next = first;
    }
}

#[cfg(test)]
mod tests;
