//! Fragments of translated packets: virtual reassembly (RFC 4787 REQ-14, RFC 6888).
//!
//! Only the first fragment of a datagram carries ports. It teaches the table which ports the datagram has; every other
//! fragment is then looked up as if it carried them, and only its addresses are rewritten. Fragments that come before the
//! first one wait, within bounds, so order does not matter and nothing is reassembled.
//!
//! The table has its own memory and its own drop reasons: a flood of fragments costs other fragments, never other
//! traffic (RFC 4787 REQ-14a).

use std::collections::VecDeque;

use hashbrown::HashTable;

use crate::base::{DropReason, RealmId};
use crate::flow::hash::{Hash, Hasher};
use crate::wire::parse::Parsed;

/// How long a datagram's fragments belong together, from the first one seen. RFC 6146's FRAGMENT_MIN is 2 s.
pub const LIFETIME_MILLIS: u64 = 2_000;

/// Fragments of one datagram that may wait for the first one: 64 KiB in pieces of 1,480 bytes are 45.
const HELD_PER_DATAGRAM: u16 = 48;

/// What identifies the datagram a fragment belongs to (RFC 791: source, destination, protocol, identification).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramKey {
    /// Source address; IPv4 ones are below 2³².
    pub source: u128,
    /// Destination address.
    pub destination: u128,
    /// Identification.
    pub id: u32,
    /// Protocol.
    pub protocol: u8,
    /// Realm.
    pub realm: RealmId,
}

impl DatagramKey {
    /// The key of a parsed IPv4 fragment.
    pub fn of(packet: &Parsed, realm: RealmId) -> DatagramKey {
        DatagramKey::of_v6(
            packet,
            (packet.source.into(), packet.destination.into()),
            realm,
        )
    }

    /// The key of a parsed IPv6 fragment between these addresses.
    pub fn of_v6(
        packet: &Parsed,
        (source, destination): (u128, u128),
        realm: RealmId,
    ) -> DatagramKey {
        DatagramKey {
            source,
            destination,
            id: packet.fragment.id,
            protocol: packet.protocol,
            realm,
        }
    }

    fn hash(&self, hasher: &Hasher) -> Hash {
        hasher.hash_words(&[
            self.source as u64,
            (self.source >> 64) as u64,
            self.destination as u64,
            (self.destination >> 64) as u64,
            u64::from(self.id) << 32 | u64::from(self.protocol) << 8 | u64::from(self.realm.0),
        ])
    }
}

/// The ports of a datagram (source, destination), as its first fragment shows them.
pub type Ports = (u16, u16);

const NOTHING: u32 = u32::MAX;

struct Datagram {
    key: DatagramKey,
    ports: Option<Ports>,
    held_first: u32,
    held_last: u32,
    held: u16,
}

struct Held<B> {
    buffer: Option<B>,
    next: u32,
}

/// The fragment table of one worker.
pub struct Fragments<B> {
    datagrams: HashTable<Datagram>,
    /// Keys by age; all live equally long, so the oldest is always in front.
    by_age: VecDeque<(u64, DatagramKey)>,
    arena: Vec<Held<B>>,
    free: u32,
    held: u32,
    capacity: usize,
    hasher: Hasher,
}

impl<B> Fragments<B> {
    /// Room for `capacity` datagrams and as many waiting fragments.
    pub fn new(capacity: usize, hasher: Hasher) -> Fragments<B> {
        let last = capacity.saturating_sub(1);
        let arena = (0..capacity)
            .map(|i| Held {
                buffer: None,
                next: if i == last { NOTHING } else { i as u32 + 1 },
            })
            .collect();
        Fragments {
            datagrams: HashTable::with_capacity(capacity),
            by_age: VecDeque::with_capacity(capacity),
            arena,
            free: if capacity == 0 { NOTHING } else { 0 },
            held: 0,
            capacity,
            hasher,
        }
    }

    /// The ports of a later fragment's datagram, if its first fragment was seen.
    pub fn ports(&self, key: &DatagramKey) -> Option<Ports> {
        self.datagrams
            .find(key.hash(&self.hasher).0, |d| d.key == *key)?
            .ports
    }

    /// Takes the ports from a first fragment. Fragments that waited for it come out of [`Fragments::release`] then.
    ///
    /// # Errors
    /// [`DropReason::FragmentBudget`] when the table is full.
    pub fn learn(
        &mut self,
        key: &DatagramKey,
        ports: Ports,
        now_millis: u64,
    ) -> Result<(), DropReason> {
        self.entry(key, now_millis)?.ports = Some(ports);
        Ok(())
    }

    /// Keeps a later fragment until the first one arrives.
    ///
    /// # Errors
    /// The fragment itself and the reason when there is no room.
    pub fn hold(
        &mut self,
        key: &DatagramKey,
        buffer: B,
        now_millis: u64,
    ) -> Result<(), (B, DropReason)> {
        let slot = self.free;
        let Some(next_free) = self.arena.get(slot as usize).map(|h| h.next) else {
            return Err((buffer, DropReason::FragmentBudget));
        };
        let datagram = match self.entry(key, now_millis) {
            Ok(datagram) if datagram.held < HELD_PER_DATAGRAM => datagram,
            Ok(_) => return Err((buffer, DropReason::FragmentBudget)),
            Err(reason) => return Err((buffer, reason)),
        };
        let last = datagram.held_last;
        datagram.held += 1;
        datagram.held_last = slot;
        if datagram.held_first == NOTHING {
            datagram.held_first = slot;
        }
        if let Some(previous) = self.arena.get_mut(last as usize) {
            previous.next = slot;
        }
        self.free = next_free;
        self.arena[slot as usize] = Held {
            buffer: Some(buffer),
            next: NOTHING,
        };
        self.held += 1;
        Ok(())
    }

    /// Hands out the fragments that waited for `key`'s first fragment, in order of arrival.
    pub fn release(&mut self, key: &DatagramKey, mut out: impl FnMut(B)) {
        let hash = key.hash(&self.hasher).0;
        let Some(datagram) = self.datagrams.find_mut(hash, |d| d.key == *key) else {
            return;
        };
        let first = datagram.held_first;
        (datagram.held_first, datagram.held_last, datagram.held) = (NOTHING, NOTHING, 0);
        self.unlink(first, &mut out);
    }

    /// Forgets datagrams whose time is up, at most `budget`; fragments still waiting come out for dropping.
    pub fn expire(&mut self, now_millis: u64, budget: usize, mut out: impl FnMut(B)) {
        for _ in 0..budget {
            match self.by_age.front() {
                Some((born, _)) if now_millis.saturating_sub(*born) >= LIFETIME_MILLIS => {}
                _ => return,
            }
            self.forget_oldest(&mut out);
        }
    }

    /// Forgets everything; fragments still waiting come out for dropping.
    pub fn clear(&mut self, mut out: impl FnMut(B)) {
        while !self.by_age.is_empty() {
            self.forget_oldest(&mut out);
        }
    }

    /// Fragments waiting now.
    pub fn held(&self) -> u32 {
        self.held
    }

    /// Datagrams in the table.
    pub fn pending(&self) -> usize {
        self.by_age.len()
    }

    fn forget_oldest(&mut self, out: &mut impl FnMut(B)) {
        let Some((_, key)) = self.by_age.pop_front() else {
            return;
        };
        let hash = key.hash(&self.hasher).0;
        if let Ok(found) = self.datagrams.find_entry(hash, |d| d.key == key) {
            let (datagram, _) = found.remove();
            self.unlink(datagram.held_first, out);
        }
    }

    /// Returns a chain of arena slots to the free list and hands out what they held.
    fn unlink(&mut self, mut slot: u32, out: &mut impl FnMut(B)) {
        while let Some(held) = self.arena.get_mut(slot as usize) {
            let next = held.next;
            if let Some(buffer) = held.buffer.take() {
                self.held -= 1;
                out(buffer);
            }
            held.next = self.free;
            self.free = slot;
            slot = next;
        }
    }

    fn entry(&mut self, key: &DatagramKey, now_millis: u64) -> Result<&mut Datagram, DropReason> {
        let hash = key.hash(&self.hasher).0;
        let known = self.datagrams.find(hash, |d| d.key == *key).is_some();
        if !known {
            if self.by_age.len() >= self.capacity {
                return Err(DropReason::FragmentBudget);
            }
            self.by_age.push_back((now_millis, *key));
            let hasher = self.hasher.clone();
            let datagram = Datagram {
                key: *key,
                ports: None,
                held_first: NOTHING,
                held_last: NOTHING,
                held: 0,
            };
            self.datagrams
                .insert_unique(hash, datagram, |d| d.key.hash(&hasher).0);
        }
        self.datagrams
            .find_mut(hash, |d| d.key == *key)
            .ok_or(DropReason::Internal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: u32) -> DatagramKey {
        DatagramKey {
            source: 1,
            destination: 2,
            id,
            protocol: 17,
            realm: RealmId(0),
        }
    }

    fn table(capacity: usize) -> Fragments<u32> {
        Fragments::new(capacity, Hasher::new([3, 4]))
    }

    #[test]
    fn early_fragments_wait_for_the_first_in_order() {
        let mut fragments = table(8);
        for piece in [30, 10, 20] {
            fragments.hold(&key(1), piece, 0).unwrap();
        }
        assert_eq!(fragments.ports(&key(1)), None);
        fragments.learn(&key(1), (4000, 53), 5).unwrap();
        let mut out = Vec::new();
        fragments.release(&key(1), |b| out.push(b));
        assert_eq!((out, fragments.held()), (vec![30, 10, 20], 0));
        assert_eq!(
            fragments.ports(&key(1)),
            Some((4000, 53)),
            "later fragments still find the ports"
        );
        assert_eq!(fragments.ports(&key(2)), None);
    }

    #[test]
    fn time_runs_out() {
        let mut fragments = table(8);
        fragments.hold(&key(1), 7, 100).unwrap();
        fragments.learn(&key(2), (1, 2), 200).unwrap();
        let mut out = Vec::new();
        fragments.expire(99 + LIFETIME_MILLIS, 10, |b| out.push(b));
        assert!(out.is_empty());
        fragments.expire(100 + LIFETIME_MILLIS, 10, |b| out.push(b));
        assert_eq!(
            (out, fragments.held(), fragments.pending()),
            (vec![7], 0, 1)
        );
    }

    #[test]
    fn bounds_hold_under_flood_and_slots_come_back() {
        let mut fragments = table(4);
        for id in 0..4 {
            fragments.hold(&key(id), id, 0).unwrap();
        }
        assert_eq!(
            fragments.hold(&key(9), 9, 0),
            Err((9, DropReason::FragmentBudget))
        );
        assert_eq!(
            fragments.learn(&key(9), (1, 1), 0),
            Err(DropReason::FragmentBudget)
        );
        let mut out = 0;
        fragments.expire(LIFETIME_MILLIS, 100, |_| out += 1);
        assert_eq!(out, 4);
        for id in 10..14 {
            fragments.hold(&key(id), id, LIFETIME_MILLIS).unwrap();
        }
        fragments.clear(|_| out += 1);
        assert_eq!((out, fragments.pending(), fragments.held()), (8, 0, 0));
    }

    #[test]
    fn one_datagram_cannot_take_every_slot() {
        let mut fragments = table(1000);
        let taken = (0..1000)
            .take_while(|i| fragments.hold(&key(1), *i, 0).is_ok())
            .count();
        assert_eq!(taken, usize::from(HELD_PER_DATAGRAM));
    }
}
