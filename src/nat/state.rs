//! A worker's translation state: sessions, the flow table, mappings, subscribers, and how a session ends.

use crate::arch::{OutOfMemory, Pages};
use crate::base::time::Now;
use crate::base::{RealmId, Stamp, Tick, WorkerId};
use crate::flow::hash::{Hash, Hasher};
use crate::flow::key::{Address, FlowKey};
use crate::flow::session::{
    Direction, FLAG_HELPED, FLAG_INBOUND, FlowEntry, NONE, Session, SessionIndex, State,
};
use crate::flow::slab::Slab;
use crate::flow::sweep::ClockHand;
use crate::flow::table::{BucketTable, MAX_LOAD};
use crate::nat::ahead::{Hashes, Newest};
use crate::nat::at_limit::AtLimit;
use crate::nat::behaviour::Remote;
use crate::nat::contacts::Contacts;
use crate::nat::family::Family;
use crate::nat::helpers::control::Controls;
use crate::nat::journal::{EventKind, Journal};
use crate::nat::mapping::{Mapping, Mappings, OutsideEndpoint};
use crate::nat::policy::Policy;
use crate::nat::ports::{Allocator, Preference, Returned, Share, SharedPorts};
use crate::nat::rss;
use crate::nat::services::affinity::Affinity;
use crate::nat::subscriber::{SubscriberIndex, Subscribers};
use crate::nat::tcp;
use crate::nat::window::{Numbers, Windows};
use crate::wire::parse::Transport;

/// Why a session ended; one counter each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EndCause {
    /// Idle for its timeout.
    Expired,
    /// Cleared by the operator.
    Cleared,
    /// The policy no longer has its address, route or rule.
    ConfigChanged,
    /// The flow it expected came.
    Met,
}

impl EndCause {
    /// Every cause, in counter order.
    pub const ALL: [EndCause; 4] = [
        EndCause::Expired,
        EndCause::Cleared,
        EndCause::ConfigChanged,
        EndCause::Met,
    ];

    /// Name in metrics and listings.
    pub fn name(self) -> &'static str {
        match self {
            EndCause::Expired => "expired",
            EndCause::Cleared => "cleared",
            EndCause::ConfigChanged => "config_changed",
            EndCause::Met => "met",
        }
    }
}

/// Sizes of the tables, fixed at start.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Sessions of this worker.
    pub sessions: u32,
    /// Subscribers of this worker.
    pub subscribers: u32,
    /// Ports in hold-down at a time.
    pub held_ports: u32,
    /// Pairs of mapping and remote address remembered for address-dependent filtering; 0 where no pool asks for it.
    pub contacts: u32,
    /// Mappings on ports that several mappings share; 0 where no pool shares ports.
    pub shared: u32,
    /// Workers the gateway has in all.
    pub workers: u8,
    /// What the large tables lie on.
    pub pages: Pages,
}

/// Counts the state keeps of itself.
#[derive(Clone, Debug, Default)]
pub struct NatCounts {
    /// Live sessions by state.
    pub live: [u64; State::COUNT],
    /// Sessions created since start.
    pub created: u64,
    /// Sessions ended since start, by cause.
    pub ended: [u64; EndCause::ALL.len()],
    /// Mappings created since start.
    pub mappings_created: u64,
    /// TCP segments since start that would have changed the state of a session, but do not lie where its connection is.
    pub tcp_disbelieved: u64,
    /// Flows since start that a helper wanted to expect, and that were refused as new flows of the host are.
    pub expectations_refused: u64,
    /// Flows since start that got another source port, because their answers would have been those of a living flow.
    pub told_apart: u64,
}

impl NatCounts {
    /// Adds the counts of another state.
    pub fn add(&mut self, other: &NatCounts) {
        for (sum, n) in self.live.iter_mut().zip(other.live) {
            *sum += n;
        }
        for (sum, n) in self.ended.iter_mut().zip(other.ended) {
            *sum += n;
        }
        self.created += other.created;
        self.mappings_created += other.mappings_created;
        self.tcp_disbelieved += other.tcp_disbelieved;
        self.expectations_refused += other.expectations_refused;
        self.told_apart += other.told_apart;
    }
}

/// Why a session was not entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotEntered {
    /// The tuple of its replies belongs to another session, or is its own.
    Taken,
    /// No room.
    Full,
}

/// The translation state of one worker.
pub struct Nat<A: Family> {
    /// The worker it belongs to.
    pub worker: WorkerId,
    /// Every session.
    pub sessions: Slab<Session<A>>,
    /// Both tuples of every session.
    pub table: BucketTable,
    /// Keyed hash; its secret is drawn at start.
    pub hasher: Hasher,
    /// Inside endpoint ↔ outside endpoint.
    pub mappings: Mappings,
    /// Which remote addresses each mapping talks to.
    pub contacts: Contacts<A>,
    /// The backends clients come back to.
    pub affinity: Affinity<A>,
    /// Inside hosts.
    pub subscribers: Subscribers,
    /// Port allocation and hold-down.
    pub allocator: Allocator,
    /// Control connections whose texts helpers changed.
    pub controls: Controls,
    /// Where TCP connections are.
    pub windows: Windows,
    /// Subscribers at one of their limits.
    pub at_limit: AtLimit,
    /// What is to be logged.
    pub journal: Journal,
    /// Flows entered since the burst began that is being handled.
    pub newest: Newest,
    /// Counts.
    pub counts: NatCounts,
    pub(super) hand: ClockHand,
}

impl<A: Family> Nat<A> {
    /// Empty state of the given size.
    ///
    /// # Errors
    /// When the memory cannot be had.
    pub fn new(
        worker: WorkerId,
        capacity: Capacity,
        secret: [u64; 2],
    ) -> Result<Nat<A>, OutOfMemory> {
        let hasher = Hasher::new(secret);
        Ok(Nat {
            worker,
            sessions: Slab::with_pages(capacity.sessions as usize, capacity.pages)?,
            table: BucketTable::with_pages(
                2 * capacity.sessions as usize,
                MAX_LOAD,
                capacity.pages,
            )?,
            mappings: Mappings::new(capacity.sessions, capacity.pages, hasher.clone())?,
            hasher: hasher.clone(),
            affinity: Affinity::new(capacity.sessions as usize, hasher.clone()),
            contacts: Contacts::new(capacity.contacts),
            subscribers: Subscribers::new(capacity.subscribers as usize, secret[0] ^ secret[1]),
            allocator: Allocator::new(
                worker,
                preference(capacity.workers),
                capacity.held_ports as usize,
                SharedPorts::new(
                    capacity.shared as usize,
                    capacity.held_ports as usize,
                    hasher.clone(),
                )?,
            ),
            controls: Controls::default(),
            windows: Windows::new(capacity.sessions as usize, capacity.pages)?,
            at_limit: AtLimit::default(),
            journal: Journal::default(),
            newest: Newest::default(),
            counts: NatCounts::default(),
            hand: ClockHand::default(),
        })
    }

    /// Hash of a key under this worker's secret.
    #[inline]
    pub fn hash(&self, key: &FlowKey<A>) -> Hash {
        A::hash_key(&self.hasher, key)
    }

    /// The flow a packet belongs to.
    #[inline]
    pub fn find(&self, hash: Hash, key: &FlowKey<A>) -> Option<FlowEntry> {
        self.table
            .find(hash, |value| {
                let entry = FlowEntry(value);
                self.sessions.get(entry.session().0).is_some_and(|s| {
                    s.arriving(entry.direction()) == key.tuple
                        && s.protocol == key.protocol
                        && s.realm_of(entry.direction()) == key.realm_id()
                })
            })
            .map(FlowEntry)
    }

    /// [`Nat::find`] with the hash computed here; for the slow path.
    pub fn lookup(&self, key: &FlowKey<A>) -> Option<FlowEntry> {
        self.find(self.hash(key), key)
    }

    /// The session at `index`.
    #[inline]
    pub fn session(&self, index: SessionIndex) -> Option<&Session<A>> {
        self.sessions.get(index.0)
    }

    /// Enters a session: slab, both tuples, its counts. `hashes` are its own, as far as they are known.
    ///
    /// # Errors
    /// [`NotEntered`]; nothing is changed then. The caller has looked the forward tuple up: no session has it.
    pub fn insert(
        &mut self,
        session: Session<A>,
        hashes: &Hashes,
    ) -> Result<SessionIndex, NotEntered> {
        let (forward, reverse) = (
            session.key(Direction::Forward),
            session.key(Direction::Reverse),
        );
        if forward == reverse {
            return Err(NotEntered::Taken);
        }
        let forward_hash = hashes.forward.unwrap_or_else(|| self.hash(&forward));
        let reverse_hash = hashes.reverse.unwrap_or_else(|| self.hash(&reverse));
        debug_assert_eq!(
            (forward_hash, reverse_hash),
            (self.hash(&forward), self.hash(&reverse))
        );
        let index = self.sessions.allocate(session).ok_or(NotEntered::Full)?;
        let entry = |direction| FlowEntry::new(SessionIndex(index), direction).0;
        let entered = self.table.insert(forward_hash, entry(Direction::Forward));
        if entered.is_err() {
            self.sessions.release(index);
            return Err(NotEntered::Full);
        }
        // The reverse way is looked at last: its line has been on the way since the outside port is known.
        let refused = match self.find(reverse_hash, &reverse) {
            Some(_) => Some(NotEntered::Taken),
            None => {
                let entered = self.table.insert(reverse_hash, entry(Direction::Reverse));
                entered.is_err().then_some(NotEntered::Full)
            }
        };
        if let Some(refusal) = refused {
            self.table.remove(forward_hash, entry(Direction::Forward));
            self.sessions.release(index);
            return Err(refusal);
        }
        self.newest.note(forward_hash);
        self.newest.note(reverse_hash);
        self.counts.live[session.state as usize] += 1;
        self.counts.created += 1;
        Ok(SessionIndex(index))
    }

    /// Whether [`Nat::touch`] has nothing to do for a packet of `session` with these TCP flags (0 in UDP): an answered flow
    /// or an established connection whose activity in this tick is noted, and no segment that opens or ends anything.
    #[inline(always)]
    pub fn is_settled(session: &Session<A>, tcp_flags: u8, tick: Tick) -> bool {
        session.last_seen == tick.0
            && matches!(session.state, State::Udp | State::TcpEstablished)
            && tcp_flags & (tcp::FIN | tcp::SYN | tcp::RST) == 0
    }

    /// Records a packet in its session: state, and activity at most once a tick.
    ///
    /// Only what the inside sends keeps a UDP or ICMP session on a mapping alive (RFC 4787 REQ-6), whoever opened it, so
    /// that an outsider cannot hold ports for ever; in TCP, and where no port is held, either side does. A reset refreshes
    /// nothing (RFC 7857 REQ-7); one that is believed starts the reset timer. `numbers` reads a TCP segment's.
    // Implements: U6, P7, P7.1.
    #[inline(always)]
    pub fn touch(
        &mut self,
        index: SessionIndex,
        direction: Direction,
        transport: Transport,
        tcp_flags: u8,
        tick: Tick,
        numbers: impl Fn() -> Numbers,
    ) {
        let Some(session) = self.sessions.get_mut(index.0) else {
            return;
        };
        let state = session.state;
        if session.last_seen != tick.0 && tcp_flags & tcp::RST == 0 {
            if transport == Transport::Tcp {
                session.last_seen = tick.0;
                let from_inside = session.from_inside(direction);
                self.windows.note(index, from_inside, tcp_flags, numbers());
            } else if session.is_kept_alive(direction) {
                session.last_seen = tick.0;
            }
        }
        let next = match transport {
            Transport::Tcp => tcp::advance(state, tcp_flags, direction),
            Transport::Udp if direction == Direction::Reverse => State::Udp,
            _ => state,
        };
        if next == state {
            return;
        }
        if transport == Transport::Tcp {
            self.tcp_moves(index, direction, tcp_flags, numbers(), next, tick);
        } else if state != State::Expected {
            self.set_state(index, next);
        }
    }

    /// A TCP segment whose flags change the state of its session, if it is to be believed.
    // Implements: P2.2, T12.
    #[cold]
    fn tcp_moves(
        &mut self,
        index: SessionIndex,
        direction: Direction,
        flags: u8,
        numbers: Numbers,
        next: State,
        tick: Tick,
    ) {
        let Some(session) = self.sessions.get_mut(index.0) else {
            return;
        };
        let from_inside = session.from_inside(direction);
        if !from_inside && !self.windows.believes(index, flags, numbers) {
            self.counts.tcp_disbelieved += 1;
            return;
        }
        if flags & tcp::RST != 0 {
            session.last_seen = tick.0;
        } else {
            self.windows.note(index, from_inside, flags, numbers);
        }
        self.set_state(index, next);
    }

    /// Moves a session to another state, keeping the counts.
    #[inline]
    pub fn set_state(&mut self, index: SessionIndex, state: State) {
        if let Some(session) = self.sessions.get_mut(index.0) {
            self.counts.live[session.state as usize] -= 1;
            self.counts.live[state as usize] += 1;
            let before = std::mem::replace(&mut session.state, state);
            let opened_inside = session.flags & FLAG_INBOUND == 0;
            if before.is_half_open() != state.is_half_open() && opened_inside {
                let subscriber = SubscriberIndex(session.subscriber);
                self.subscribers
                    .half_open_changed(subscriber, state.is_half_open());
            }
        }
    }

    /// Takes a session out again: both tuples, the slab slot, its place in the counts. Its mapping must be gone.
    fn remove(&mut self, index: SessionIndex) -> Option<Session<A>> {
        let session = *self.session(index).filter(|s| s.state != State::Free)?;
        for direction in [Direction::Forward, Direction::Reverse] {
            let hash = self.hash(&session.key(direction));
            self.table.remove(hash, FlowEntry::new(index, direction).0);
        }
        if session.flags & FLAG_HELPED != 0 {
            self.controls.forget(index);
        }
        self.sessions.release(index.0);
        self.counts.live[session.state as usize] -= 1;
        Some(session)
    }

    /// Takes out a session that never carried a packet, because its mapping had no room.
    pub fn undo(&mut self, index: SessionIndex) {
        if self.remove(index).is_some() {
            self.counts.created -= 1;
        }
    }

    /// Ends a session: both tuples, the slab slot, and, with its last session, the mapping and its outside port.
    pub fn end(&mut self, policy: &Policy, index: SessionIndex, cause: EndCause, now: Now) {
        let gone = self.mappings.leave(&mut self.sessions, index);
        let Some(session) = self.remove(index) else {
            return;
        };
        self.counts.ended[cause as usize] += 1;
        if policy.logging.sessions() {
            self.log_session(policy, &session, EventKind::SessionEnded, now);
        }
        if let Some(mapping) = Mapping::of(&session) {
            let remote = remote_of(&session);
            self.contacts.forget(mapping.outside, remote);
        }
        if let Some(mapping) = gone {
            // RFC 6888 REQ-8 (a): a port whose TCP connection was seen to close needs no rest.
            let rests = session.state != State::TcpClosing;
            self.give_back(
                policy,
                &mapping,
                SubscriberIndex(session.subscriber),
                rests,
                now,
            );
        }
        self.discharge(&session);
    }

    /// Takes back a session that was entered just now and carried nothing, as if it had never been: its port does not rest.
    pub fn withdraw(&mut self, policy: &Policy, index: SessionIndex, now: Now) {
        let gone = self.mappings.leave(&mut self.sessions, index);
        let Some(session) = self.remove(index) else {
            return;
        };
        self.counts.created -= 1;
        if let Some(mapping) = Mapping::of(&session) {
            let remote = remote_of(&session);
            self.contacts.forget(mapping.outside, remote);
        }
        if let Some(mapping) = gone {
            self.counts.mappings_created -= 1;
            let subscriber = SubscriberIndex(session.subscriber);
            self.give_back(policy, &mapping, subscriber, false, now);
        }
        self.discharge(&session);
    }

    /// Returns a mapping's port to its address, to rest there or not.
    // Implements: G8.
    fn give_back(
        &mut self,
        policy: &Policy,
        mapping: &Mapping<A>,
        subscriber: SubscriberIndex,
        rests: bool,
        now: Now,
    ) {
        let OutsideEndpoint {
            address,
            port,
            space,
        } = mapping.outside;
        // An address stays known while ports of it are leased, also when no pool has it any more.
        let Some((external, _)) = policy.nat.external_of(address) else {
            return;
        };
        let pool = policy.nat.pool_of(external).filter(|_| rests);
        let returned = Returned {
            subscriber,
            external,
            space,
            port,
            share: Share::new(mapping.kind.sharing(), wide(mapping.remote)),
            hold: pool.map_or(0, |pool| pool.policy().hold),
        };
        let externals = &policy.nat.externals;
        self.allocator
            .release(externals, &mut self.subscribers, &returned, now.tick);
    }

    /// Counts one session less on its subscriber, if it has one, and forgets that with its last one.
    pub fn discharge(&mut self, session: &Session<A>) {
        if session.subscriber == NONE {
            return;
        }
        let subscriber = SubscriberIndex(session.subscriber);
        let half_open = session.flags & FLAG_INBOUND == 0 && session.state.is_half_open();
        self.subscribers.close_session(subscriber, half_open);
        self.subscribers.leave(subscriber);
    }

    /// Bytes of all tables.
    pub fn memory_bytes(&self) -> usize {
        let tables = [
            self.sessions.memory_bytes(),
            self.table.memory_bytes(),
            self.mappings.memory_bytes(),
            self.subscribers.memory_bytes(),
            self.allocator.shared().memory_bytes(),
            self.windows.memory_bytes(),
        ];
        tables.iter().sum()
    }
}

/// A remote with its address as those of both families are kept.
pub fn wide<A: Family>(remote: Remote<A>) -> Remote<u128> {
    Remote {
        address: remote.address.into(),
        port: remote.port,
    }
}

impl<A: Family> Nat<A> {
    /// [`Nat::find`] for the packet path: the key's block, and a guess (`candidate`, or [`NONE`]) at the answer.
    #[inline(always)]
    pub fn find_block(
        &self,
        candidate: u32,
        hash: Hash,
        key: A::Block,
    ) -> Option<(FlowEntry, &Session<A>)> {
        let guessed = self.fits(candidate, key);
        guessed.or_else(|| self.find_unguessed(hash, key))
    }

    /// The session that a flow-table value names, if `key` is its own.
    #[inline(always)]
    fn fits(&self, value: u32, key: A::Block) -> Option<(FlowEntry, &Session<A>)> {
        let entry = FlowEntry(value);
        let session = self.sessions.get(entry.session().0)?;
        A::same(session.key_block(entry.direction()), key).then_some((entry, session))
    }

    /// [`Nat::find_block`] where the guess was wrong.
    #[inline(never)]
    fn find_unguessed(&self, hash: Hash, key: A::Block) -> Option<(FlowEntry, &Session<A>)> {
        let value = self
            .table
            .find(hash, |value| self.fits(value, key).is_some())?;
        self.fits(value, key)
    }
}

/// The outside host of a session on a mapping.
pub fn remote_of<A: Address>(session: &Session<A>) -> A {
    if session.flags & FLAG_INBOUND == 0 {
        session.after.destination
    } else {
        session.before.source
    }
}

/// Blocks whose ports the network card delivers to the worker that leases them.
fn preference(workers: u8) -> Preference {
    Preference {
        workers,
        shift: rss::SUPERBLOCK_SHIFT as u8,
    }
}

/// The session of a flow that is forwarded as it is; callers fill in what differs.
pub fn blank_session<A: Address>(realm: RealmId, epoch: Stamp, now: Now) -> Session<A> {
    Session {
        last_seen: now.tick.0,
        subscriber: NONE,
        egress: [crate::flow::session::Egress::UNKNOWN; 2],
        generation: epoch,
        rule: crate::base::RuleId::NONE,
        realm,
        far_realm: realm,
        state: State::Other,
        ..Session::default()
    }
}

#[cfg(test)]
mod tests;
