//! Session affinity: a client comes back to the backend it had, for a while after its last new flow.
//!
//! One worker has all flows of a client to a service, so its memory of them is exact. The size is fixed. A client that
//! does not fit any more, although every new one lets go of some whose time is over, is not remembered and served by the
//! hash alone.

use hashbrown::HashTable;

use crate::base::{RealmId, RuleId, Tick};
use crate::flow::hash::Hasher;
use crate::flow::key::{Address, FlowKey, Tuple};

/// Entries looked at for each new client, so that those whose time is over make room.
const SWEPT: usize = 4;

/// Whose choice is remembered: a client of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client<A> {
    /// The client's address.
    pub address: A,
    /// Where it is.
    pub realm: RealmId,
    /// The service, by its stable number.
    pub service: u16,
}

/// A remembered choice.
#[derive(Clone, Copy, Debug)]
struct Entry<A> {
    client: Client<A>,
    backend: RuleId,
    /// When it is forgotten.
    until: Tick,
}

/// The clients one worker remembers.
pub struct Affinity<A> {
    entries: Vec<Entry<A>>,
    index: HashTable<u32>,
    hand: usize,
    capacity: usize,
    hasher: Hasher,
}

impl<A: Address> Affinity<A> {
    /// Room for `capacity` clients.
    pub fn new(capacity: usize, hasher: Hasher) -> Affinity<A> {
        Affinity {
            entries: Vec::with_capacity(capacity),
            index: HashTable::with_capacity(capacity),
            hand: 0,
            capacity,
            hasher,
        }
    }

    /// The backend a client had last, if it is still to be remembered.
    pub fn backend(&self, client: &Client<A>, now: Tick) -> Option<RuleId> {
        let at = self.position(client)?;
        let entry = self.entries.get(at as usize)?;
        (!over(entry, now)).then_some(entry.backend)
    }

    /// Remembers a client's backend until `timeout` ticks have passed without another flow.
    pub fn remember(&mut self, client: Client<A>, backend: RuleId, timeout: u32, now: Tick) {
        let entry = Entry {
            client,
            backend,
            until: Tick(now.0.saturating_add(timeout)),
        };
        if let Some(at) = self.position(&client) {
            if let Some(known) = self.entries.get_mut(at as usize) {
                *known = entry;
            }
            return;
        }
        self.sweep(now);
        if self.entries.len() == self.capacity {
            return;
        }
        let at = self.entries.len() as u32;
        self.entries.push(entry);
        let (entries, hasher) = (&self.entries, &self.hasher);
        let rehash = |at: &u32| {
            let entry = entries.get(*at as usize);
            entry.map_or(0, |entry| hash(hasher, &entry.client))
        };
        self.index.insert_unique(hash(hasher, &client), at, rehash);
    }

    /// Clients remembered.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn position(&self, client: &Client<A>) -> Option<u32> {
        let same = |at: &u32| {
            let entry = self.entries.get(*at as usize);
            entry.is_some_and(|entry| entry.client == *client)
        };
        self.index.find(hash(&self.hasher, client), same).copied()
    }

    /// Lets go of entries whose time is over, as far as the hand meets them.
    fn sweep(&mut self, now: Tick) {
        for _ in 0..SWEPT {
            if self.hand >= self.entries.len() {
                self.hand = 0;
            }
            match self.entries.get(self.hand) {
                Some(entry) if over(entry, now) => self.forget(self.hand),
                _ => self.hand += 1,
            }
        }
    }

    /// Takes an entry out; the last one moves to its place.
    fn forget(&mut self, at: usize) {
        let last = self.entries.len().saturating_sub(1);
        for (from, to) in [(at, None), (last, Some(at))] {
            let Some(client) = self.entries.get(from).map(|entry| entry.client) else {
                continue;
            };
            let hash = hash(&self.hasher, &client);
            match (self.index.find_entry(hash, |i| *i as usize == from), to) {
                (Ok(found), None) => drop(found.remove()),
                (Ok(mut found), Some(to)) => *found.get_mut() = to as u32,
                (Err(_), _) => {}
            }
        }
        self.entries.swap_remove(at);
    }
}

fn over<A>(entry: &Entry<A>, now: Tick) -> bool {
    entry.until <= now
}

fn hash<A: Address>(hasher: &Hasher, client: &Client<A>) -> u64 {
    let tuple = Tuple {
        source: client.address,
        source_port: client.service,
        ..Tuple::default()
    };
    A::hash_key(hasher, &FlowKey::new(tuple, 0, client.realm)).0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Random;
    use std::collections::BTreeMap;

    fn client(address: u32, service: u16) -> Client<u32> {
        Client {
            address,
            realm: RealmId(0),
            service,
        }
    }

    fn table(capacity: usize) -> Affinity<u32> {
        Affinity::new(capacity, Hasher::new([1, 2]))
    }

    #[test]
    fn clients_are_remembered_by_service_and_for_their_time() {
        let mut affinity = table(10);
        affinity.remember(client(1, 1), RuleId(7), 100, Tick(0));
        affinity.remember(client(1, 2), RuleId(8), 100, Tick(50));
        assert_eq!(affinity.backend(&client(1, 1), Tick(99)), Some(RuleId(7)));
        assert_eq!(affinity.backend(&client(1, 1), Tick(100)), None);
        assert_eq!(affinity.backend(&client(1, 2), Tick(100)), Some(RuleId(8)));
        affinity.remember(client(1, 1), RuleId(9), 100, Tick(120));
        assert_eq!(affinity.backend(&client(1, 1), Tick(219)), Some(RuleId(9)));
        assert_eq!(affinity.len(), 2);
    }

    #[test]
    fn a_full_table_makes_room_only_by_letting_go_of_the_old() {
        let mut affinity = table(8);
        for address in 0..8 {
            affinity.remember(client(address, 1), RuleId(1), 100, Tick(0));
        }
        affinity.remember(client(8, 1), RuleId(1), 100, Tick(10));
        assert_eq!(affinity.backend(&client(8, 1), Tick(10)), None, "no room");
        affinity.remember(client(9, 1), RuleId(1), 100, Tick(100));
        assert_eq!(affinity.backend(&client(9, 1), Tick(100)), Some(RuleId(1)));
    }

    #[test]
    fn agrees_with_a_plain_map_under_random_use() {
        let mut random = Random::from_seed(11);
        let mut affinity = table(64);
        let mut model: BTreeMap<u32, (u16, u32)> = BTreeMap::new();
        let mut now = 0;
        for _ in 0..20_000 {
            now += random.below(3);
            let (address, backend) = (random.below(40), random.below(9) as u16);
            let timeout = 1 + random.below(60);
            if random.below(2) == 0 {
                affinity.remember(client(address, 3), RuleId(backend), timeout, Tick(now));
                model.insert(address, (backend, now + timeout));
            }
            let known = model.get(&address);
            let known = known.filter(|(_, until)| *until > now);
            assert_eq!(
                affinity.backend(&client(address, 3), Tick(now)),
                known.map(|(backend, _)| RuleId(*backend))
            );
        }
    }

    #[test]
    fn old_clients_make_room_wherever_they_are() {
        let mut affinity = table(8);
        assert!(affinity.is_empty());
        for address in 0..8 {
            // Every other one is over soon.
            let timeout = if address % 2 == 0 { 10 } else { 100 };
            affinity.remember(client(address, 1), RuleId(1), timeout, Tick(0));
        }
        assert!(!affinity.is_empty());
        for address in 8..12 {
            affinity.remember(client(address, 1), RuleId(2), 100, Tick(20));
        }
        let backend = |address| affinity.backend(&client(address, 1), Tick(20));
        let known: Vec<u32> = (0..12)
            .filter(|address| backend(*address).is_some())
            .collect();
        assert_eq!(known, [1, 3, 5, 7, 8, 9, 10, 11]);
        assert_eq!(affinity.len(), 8);
    }
}
