//! Next hops on a link and the Ethernet header that reaches them: ARP (RFC 826) and neighbour discovery (RFC 4861 §7.3)
//! as one state machine without packets.
//!
//! A flow keeps the [`NeighbourId`] it resolved once; sending is then a look at the entry and a copy of its header. An id
//! holds the entry's generation, so an id of an entry that was reused finds nothing and the flow resolves anew.
//!
//! ```text
//!              resolve                    answer                   30 s
//!   (nothing) ─────────> Incomplete ────────────────> Reachable ──────────> Stale
//!       │                    │ 3 tries    answer          ^                   │ used
//!       │ a request to us    v          ┌─────────────────┴──────── Probe <───┘
//!       └──────> Stale     Failed <─────┴──── 3 unicast tries ───────┘
//! ```
//!
//! Stale and Probe entries still send. [`Neighbours::sweep`] moves a clock hand and asks for solicitations; who calls it,
//! sends them. Entries nobody used for five minutes vanish; when the table is full the longest idle go first.
//!
//! [`Interface`] is passed in wherever it is needed; the table holds no reference to the policy.

mod entry;

pub use entry::{
    Event, FAILED_HOLD_MILLIS, Neighbour, REACHABLE_MILLIS, RETRY_MILLIS, State, TRIES,
};

use super::{Interface, Interfaces, mapped, mix};
use crate::base::InterfaceId;
use crate::base::time::Now;
use crate::wire::MacAddr;
use std::net::IpAddr;

/// Entries by default.
pub const CAPACITY: usize = 4096;
/// Entries at most: an id's index has 16 bits, one value of which ends chains.
pub const CAPACITY_MAX: usize = u16::MAX as usize;
/// Milliseconds after which an unused entry vanishes.
pub const IDLE_MILLIS: u64 = 300_000;

/// Ends a chain of slots.
const END: u16 = u16::MAX;
/// Slots looked at to find one to evict.
const EVICTION_SCAN: usize = 64;

/// Names an entry: index in the low 16 bits, generation in the high 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct NeighbourId(pub u32);

impl NeighbourId {
    /// Names no entry ever: generations start at 1.
    pub const NONE: NeighbourId = NeighbourId(0);

    /// The entry's position in the table.
    #[inline]
    pub fn index(self) -> usize {
        (self.0 & 0xffff) as usize
    }

    #[inline]
    fn generation(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

/// The answer to [`Neighbours::resolve`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Send with the entry's header.
    Ready,
    /// Let the packet wait; if `solicit`, ask for the neighbour now (broadcast or multicast).
    Pending {
        /// Nobody asked yet.
        solicit: bool,
    },
    /// It did not answer lately: drop with `neighbour_unresolved`, host unreachable.
    Failed,
}

/// No entry is free and none can be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// How a neighbour's MAC address came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// An answer to the gateway: an ARP reply to its MAC address, a solicited advertisement.
    Solicited,
    /// An announcement to all: gratuitous ARP, an unsolicited advertisement.
    Unsolicited,
    /// The sender of a request for one of the gateway's addresses.
    Request,
}

/// A worker's neighbours. Nothing is allocated after construction.
#[derive(Debug)]
pub struct Neighbours {
    /// Entries ever used; grows within its capacity.
    slots: Vec<Option<Neighbour>>,
    /// The generation each slot's next owner gets.
    generations: Box<[u16]>,
    /// Free slots below `slots.len()`, oldest first so that generations last.
    free: std::collections::VecDeque<u16>,
    /// First slot of each hash chain.
    heads: Box<[u16]>,
    secret: u64,
    incomplete: usize,
    sweep_hand: usize,
    evict_hand: usize,
}

impl Neighbours {
    /// A table of `capacity` entries (at least 1, at most [`CAPACITY_MAX`]); `secret` is random.
    pub fn new(capacity: usize, secret: u64) -> Neighbours {
        let capacity = capacity.clamp(1, CAPACITY_MAX);
        Neighbours {
            slots: Vec::with_capacity(capacity),
            generations: vec![1; capacity].into_boxed_slice(),
            free: std::collections::VecDeque::with_capacity(capacity),
            heads: vec![END; capacity.next_power_of_two()].into_boxed_slice(),
            secret,
            incomplete: 0,
            sweep_hand: 0,
            evict_hand: 0,
        }
    }

    /// Entries the table can hold.
    pub fn capacity(&self) -> usize {
        self.generations.len()
    }

    /// Entries in the table.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entry with this id, if it still is the same.
    #[inline]
    pub fn get(&self, id: NeighbourId) -> Option<&Neighbour> {
        let entry = self.slots.get(id.index())?.as_ref()?;
        (entry.generation == id.generation()).then_some(entry)
    }

    /// Like [`get`](Self::get), for sending a packet: the entry counts as used, which keeps it alive and confirmed.
    /// If it is not [ready](Neighbour::is_ready), [`resolve`](Self::resolve) says what to do.
    #[inline]
    pub fn touch(&mut self, id: NeighbourId, now: Now) -> Option<&Neighbour> {
        let entry = self.slots.get_mut(id.index())?.as_mut()?;
        if entry.generation != id.generation() {
            return None;
        }
        if entry.used != now.millis {
            entry.used = now.millis;
        }
        Some(entry)
    }

    /// The entry for an address on an interface, without making one.
    pub fn find(&self, interface: InterfaceId, address: IpAddr) -> Option<NeighbourId> {
        let mut at = self.heads[self.chain(interface, address)];
        while let Some(entry) = self.slots.get(usize::from(at)).and_then(Option::as_ref) {
            if entry.interface == interface && entry.address == address {
                return Some(id_of(at, entry));
            }
            at = entry.next;
        }
        None
    }

    /// [`Neighbours::find`] where `guess` may be the entry.
    #[inline]
    pub fn find_near(
        &self,
        guess: NeighbourId,
        interface: InterfaceId,
        address: IpAddr,
    ) -> Option<NeighbourId> {
        match self.get(guess) {
            Some(entry) if entry.interface == interface && entry.address == address => Some(guess),
            _ => self.find(interface, address),
        }
    }

    /// Every entry.
    pub fn iter(&self) -> impl Iterator<Item = (NeighbourId, &Neighbour)> {
        let slots = (0u16..).zip(&self.slots);
        slots.filter_map(|(at, slot)| slot.as_ref().map(|entry| (id_of(at, entry), entry)))
    }

    /// The neighbour a packet is to be sent to, which counts as used.
    ///
    /// # Errors
    /// [`Full`] if it is unknown and there is no room. Unanswered entries may fill half of the table only, so that a
    /// scan of a subnet leaves room for hosts that exist.
    pub fn resolve(
        &mut self,
        interface: &Interface,
        address: IpAddr,
        now: Now,
    ) -> Result<(NeighbourId, Resolution), Full> {
        let id = match self.find(interface.id, address) {
            Some(id) => id,
            None if self.incomplete >= self.capacity().div_ceil(2) => return Err(Full),
            None => {
                let id = self.insert(interface, address, State::Failed, now)?;
                // Never asked: no reason to hold back.
                self.update(id, |entry| entry.due = now.millis);
                id
            }
        };
        let room = self.incomplete < self.capacity().div_ceil(2);
        let answer = self.update(id, |entry| {
            entry.used = now.millis;
            match entry.state {
                State::Incomplete => Resolution::Pending { solicit: false },
                State::Failed if now.millis < entry.due || !room => Resolution::Failed,
                State::Failed => {
                    entry.enter(State::Incomplete, now.millis + RETRY_MILLIS);
                    entry.tries = 1;
                    Resolution::Pending { solicit: true }
                }
                _ => Resolution::Ready,
            }
        });
        Ok((id, answer.unwrap_or(Resolution::Failed)))
    }

    /// A neighbour told its MAC address. Returns its id if it can be sent to now: packets that waited may go.
    ///
    /// Announcements change known entries only. A request makes an entry, if the sender is on link, since an answer is
    /// due to it anyway. Group and zero MAC addresses and the gateway's own addresses teach nothing, and configured
    /// entries cannot be changed.
    pub fn learn(
        &mut self,
        interface: &Interface,
        address: IpAddr,
        mac: MacAddr,
        how: Learned,
        now: Now,
    ) -> Option<NeighbourId> {
        if mac.is_group() || mac == MacAddr::ZERO || interface.owns(address) {
            return None;
        }
        let id = match self.find(interface.id, address) {
            Some(id) => id,
            None if how != Learned::Request || !interface.on_link(address) => return None,
            None => self.insert(interface, address, State::Stale, now).ok()?,
        };
        self.update(id, |entry| {
            if entry.state == State::Static {
                return;
            }
            let news = entry.mac != mac || !entry.is_ready();
            entry.mac = mac;
            entry.bind(interface);
            match how {
                Learned::Solicited => entry.enter(State::Reachable, now.millis + REACHABLE_MILLIS),
                // Unconfirmed both ways: believed, and verified once used (RFC 4861 §7.2.3, §7.2.5).
                _ if news => entry.enter(State::Stale, now.millis),
                _ => {}
            }
        });
        Some(id)
    }

    /// Enters a configured neighbour, which neither ages nor learns.
    ///
    /// # Errors
    /// [`Full`] if there is no room.
    pub fn set_static(
        &mut self,
        interface: &Interface,
        address: IpAddr,
        mac: MacAddr,
        now: Now,
    ) -> Result<NeighbourId, Full> {
        let id = match self.find(interface.id, address) {
            Some(id) => id,
            None => self.insert(interface, address, State::Static, now)?,
        };
        self.update(id, |entry| {
            entry.enter(State::Static, 0);
            entry.mac = mac;
            entry.bind(interface);
        });
        Ok(id)
    }

    /// Removes the configured neighbours that `keep` no longer wants. No packet waits for one.
    pub fn retain_static(&mut self, mut keep: impl FnMut(InterfaceId, IpAddr) -> bool) {
        self.remove_where(
            |e| e.state == State::Static && !keep(e.interface, e.address),
            |_| {},
        );
    }

    /// Something else proved that the neighbour receives, such as an acknowledgement (RFC 4861 §7.3.1).
    pub fn confirm(&mut self, id: NeighbourId, now: Now) {
        self.update(id, |entry| {
            if matches!(entry.state, State::Reachable | State::Stale | State::Probe) {
                entry.enter(State::Reachable, now.millis + REACHABLE_MILLIS);
            }
        });
    }

    /// Visits the next `budget` entries and reports what is due. A full turn should take well below a second, the
    /// interval of retries; one call never makes more than one turn.
    pub fn sweep(&mut self, now: Now, budget: usize, report: &mut impl FnMut(Event)) {
        for _ in 0..budget.min(self.slots.len()) {
            self.sweep_hand = (self.sweep_hand + 1) % self.slots.len();
            let at = self.sweep_hand as u16;
            let Some(entry) = &self.slots[self.sweep_hand] else {
                continue;
            };
            let id = id_of(at, entry);
            let idle = entry.idle_millis(now) >= IDLE_MILLIS;
            if idle
                && !matches!(
                    entry.state,
                    State::Static | State::Incomplete | State::Probe
                )
            {
                self.remove(id);
                continue;
            }
            if let Some(Some(event)) = self.update(id, |entry| entry.advance(id, now)) {
                report(event);
            }
        }
    }

    /// Forgets an interface's learned neighbours, as when its link came back; `gone` hears of each, for its waiting
    /// packets.
    pub fn flush_interface(&mut self, interface: InterfaceId, gone: &mut impl FnMut(NeighbourId)) {
        self.remove_where(
            |e| e.interface == interface && e.state != State::Static,
            gone,
        );
    }

    /// Adapts to a new policy: entries of interfaces that are no more go (`gone` hears of each, for its waiting
    /// packets), the others get headers that fit. Who moved to another port or VLAN is verified when next used.
    pub fn rebind(
        &mut self,
        interfaces: &Interfaces,
        now: Now,
        gone: &mut impl FnMut(NeighbourId),
    ) {
        let lost = |e: &Neighbour| {
            interfaces
                .get(e.interface)
                .is_none_or(|i| i.owns(e.address))
        };
        self.remove_where(lost, gone);
        for entry in self.slots.iter_mut().flatten() {
            let moved = interfaces
                .get(entry.interface)
                .is_some_and(|i| entry.bind(i));
            if moved && matches!(entry.state, State::Reachable | State::Probe) {
                entry.enter(State::Stale, now.millis);
            }
        }
    }

    fn chain(&self, interface: InterfaceId, address: IpAddr) -> usize {
        let hash = mix(mapped(address), self.secret ^ u64::from(interface.0) << 48);
        hash as usize & (self.heads.len() - 1)
    }

    /// Changes an entry and keeps count of the incomplete ones.
    fn update<T>(
        &mut self,
        id: NeighbourId,
        change: impl FnOnce(&mut Neighbour) -> T,
    ) -> Option<T> {
        let entry = self.slots.get_mut(id.index())?.as_mut()?;
        if entry.generation != id.generation() {
            return None;
        }
        let before = usize::from(entry.state == State::Incomplete);
        let result = change(entry);
        let after = usize::from(entry.state == State::Incomplete);
        self.incomplete = self.incomplete + after - before;
        Some(result)
    }

    /// Makes an entry, evicting another if need be.
    fn insert(
        &mut self,
        interface: &Interface,
        address: IpAddr,
        state: State,
        now: Now,
    ) -> Result<NeighbourId, Full> {
        if self.len() == self.capacity() {
            let victim = self.victim(now).ok_or(Full)?;
            self.remove(victim);
        }
        let at = match self.free.pop_front() {
            Some(at) => at,
            None => {
                self.slots.push(None);
                (self.slots.len() - 1) as u16
            }
        };
        let chain = self.chain(interface.id, address);
        let generation = self.generations[usize::from(at)];
        let mut entry = Neighbour::new(interface, address, state, now);
        entry.generation = generation;
        entry.next = self.heads[chain];
        let id = id_of(at, &entry);
        self.heads[chain] = at;
        self.slots[usize::from(at)] = Some(entry);
        Ok(id)
    }

    /// The most dispensable of the next entries: those that do not answer, then the longest idle. Packets may wait for
    /// an incomplete one, so it is never chosen, nor is one used within the retry interval.
    fn victim(&mut self, now: Now) -> Option<NeighbourId> {
        let mut best = None;
        for _ in 0..EVICTION_SCAN.min(self.slots.len()) {
            self.evict_hand = (self.evict_hand + 1) % self.slots.len();
            let Some(entry) = &self.slots[self.evict_hand] else {
                continue;
            };
            let failed = entry.state == State::Failed;
            let idle = entry.idle_millis(now);
            let fixed = matches!(entry.state, State::Static | State::Incomplete);
            if !fixed && (failed || idle > RETRY_MILLIS) {
                best = best.max(Some((failed, idle, id_of(self.evict_hand as u16, entry))));
            }
        }
        best.map(|(_, _, id)| id)
    }

    fn remove(&mut self, id: NeighbourId) {
        let at = id.index();
        let Some(entry) = self.slots[at].take() else {
            return;
        };
        self.incomplete -= usize::from(entry.state == State::Incomplete);
        let generation = &mut self.generations[at];
        *generation = generation.checked_add(1).unwrap_or(1);
        self.free.push_back(at as u16);
        // Take it out of its chain.
        let chain = self.chain(entry.interface, entry.address);
        if usize::from(self.heads[chain]) == at {
            self.heads[chain] = entry.next;
            return;
        }
        let mut before = usize::from(self.heads[chain]);
        while let Some(other) = self.slots.get_mut(before).and_then(Option::as_mut) {
            if usize::from(other.next) == at {
                other.next = entry.next;
                return;
            }
            before = usize::from(other.next);
        }
    }

    fn remove_where(
        &mut self,
        mut which: impl FnMut(&Neighbour) -> bool,
        mut gone: impl FnMut(NeighbourId),
    ) {
        for at in 0..self.slots.len() {
            if let Some(entry) = self.slots[at].as_ref().filter(|entry| which(entry)) {
                let id = id_of(at as u16, entry);
                self.remove(id);
                gone(id);
            }
        }
    }
}

fn id_of(at: u16, entry: &Neighbour) -> NeighbourId {
    NeighbourId(u32::from(entry.generation) << 16 | u32::from(at))
}

#[cfg(test)]
mod tests;
