//! What the NAT log is told: port blocks leased and given back, sessions opened and ended.
//!
//! Packet code never logs. Where something happens that has to be logged, a [`Journal`] takes down a plain event, and the
//! worker carries what is in it to the management side about every millisecond. A full journal never stops a packet: what
//! it has no room for is counted, and that count is logged in its turn.
//!
//! | mappings | blocks | sessions |
//! |---|---|---|
//! | [`Mappings::Off`] | – | – |
//! | [`Mappings::Block`] | all | – |
//! | [`Mappings::Auto`] | all | those whose outside port is in no block |
//! | [`Mappings::Session`] | all | all that are translated |
//!
//! A block that is a host's own in a deterministic pool is nobody's news: arithmetic says whose it is.

use std::net::IpAddr;

use crate::base::time::Now;
use crate::base::{PoolId, RealmId};
use crate::flow::session::{FLAG_STATIC, Session, SessionIndex, State};
use crate::gateway::lpm::Address as _;
use crate::nat::family::Family;
use crate::nat::mapping::Mapping;
use crate::nat::policy::Policy;
use crate::nat::ports::{Lease, PortRange, PortSpace, ReturnedBlock};
use crate::nat::state::Nat;
use crate::nat::subscriber::SubscriberIndex;

/// Events that wait for the worker to carry them off.
const ROOM: usize = 4096;

/// The part of it that only events of blocks may use: there are few, and each answers for many sessions.
const KEPT_FOR_BLOCKS: usize = ROOM / 8;

/// What of the translation is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mappings {
    /// Nothing.
    #[default]
    Off,
    /// Blocks where a pool has them, else sessions.
    Auto,
    /// Blocks only.
    Block,
    /// Blocks, and every session that is translated.
    Session,
}

/// What a policy wants in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Logging {
    /// Of the translation.
    pub mappings: Mappings,
    /// Sessions also say whom they talk to (RFC 6888 REQ-12 advises against it).
    pub destinations: bool,
}

impl Logging {
    /// Whether blocks are logged.
    pub fn blocks(self) -> bool {
        self.mappings != Mappings::Off
    }

    /// Whether any session is logged.
    #[inline]
    pub fn sessions(self) -> bool {
        matches!(self.mappings, Mappings::Auto | Mappings::Session)
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A subscriber got a block of ports.
    BlockLeased,
    /// A block went back to its pool.
    BlockReturned,
    /// A session began.
    SessionOpened,
    /// A session ended.
    SessionEnded,
}

impl EventKind {
    /// It is about a block.
    pub fn is_of_block(self) -> bool {
        matches!(self, EventKind::BlockLeased | EventKind::BlockReturned)
    }
}

/// Something that has to be logged, as it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Milliseconds since the process's epoch.
    pub millis: u64,
    /// What happened.
    pub kind: EventKind,
    /// Protocol number; 0 stands for all of them.
    pub protocol: u8,
    /// Realm of the inside address.
    pub realm: RealmId,
    /// The pool the outside address is of, if it is of one.
    pub pool: Option<PoolId>,
    /// The subscriber's side.
    pub inside: IpAddr,
    /// Its port or query id; 0 where there is none, and for blocks.
    pub inside_port: u16,
    /// The public side.
    pub outside: IpAddr,
    /// The ports of the block; first and last are the same for a session, 0 where it has none.
    pub ports: PortRange,
    /// Whom the session talks to, if that is to be logged.
    pub remote: Option<(IpAddr, u16)>,
}

impl Event {
    /// What events of several workers are put in order by: a block goes back before somebody else gets it.
    pub fn order(&self) -> (u64, bool) {
        (self.millis, self.kind != EventKind::BlockReturned)
    }
}

/// Events of one worker and family that wait to be carried off.
pub struct Journal {
    events: Vec<Event>,
    lost: u64,
}

impl Default for Journal {
    fn default() -> Journal {
        Journal {
            events: Vec::with_capacity(ROOM),
            lost: 0,
        }
    }
}

impl Journal {
    /// Takes down an event, or counts it as lost.
    fn write(&mut self, event: Event) {
        let kept = match event.kind.is_of_block() {
            true => 0,
            false => KEPT_FOR_BLOCKS,
        };
        if self.events.len() < ROOM - kept {
            self.events.push(event);
        } else {
            self.lost += 1;
        }
    }

    /// Whether there is nothing to carry off.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.lost == 0
    }

    /// Hands out what has happened, in order, and how many events found no room since the last time.
    pub fn take(&mut self, mut each: impl FnMut(Event)) -> u64 {
        self.events.drain(..).for_each(&mut each);
        std::mem::take(&mut self.lost)
    }
}

/// An address of a subscriber, kept wide, in its own family.
fn inside_address<A: Family>(wide: u128) -> IpAddr {
    match A::HEADER == u32::HEADER {
        true => (wide as u32).to_ip(),
        false => wide.to_ip(),
    }
}

impl<A: Family> Nat<A> {
    /// Takes down that a subscriber got a block, if it got one with this lease.
    // Implements: B1, D5.
    #[cold]
    pub fn log_leased(
        &mut self,
        policy: &Policy,
        subscriber: SubscriberIndex,
        pool: PoolId,
        lease: &Lease,
        now: Now,
    ) {
        let blocks = policy.nat.external(lease.external).and_then(|e| e.blocks());
        let opened = lease.opened.zip(blocks);
        let Some((block, blocks)) = opened.filter(|_| policy.logging.blocks()) else {
            return;
        };
        let inside = self.subscribers.address(subscriber);
        let realm = self.subscribers.realm(subscriber);
        if let (Some(ports), Some(inside), Some(realm)) = (blocks.ports_of(block), inside, realm)
            && block.0 >= blocks.first_open()
        {
            self.journal.write(Event {
                millis: now.millis,
                kind: EventKind::BlockLeased,
                protocol: 0,
                realm,
                pool: Some(pool),
                inside: inside_address::<A>(inside),
                inside_port: 0,
                outside: lease.address,
                ports,
                remote: None,
            });
        }
    }

    /// Takes down that a session began.
    // Implements: G12, G16.
    #[cold]
    pub fn log_opened(&mut self, policy: &Policy, index: SessionIndex, now: Now) {
        if let Some(session) = self.session(index).copied() {
            self.log_session(policy, &session, EventKind::SessionOpened, now);
        }
    }

    /// Takes down that a session began or ended, if it is one of those to be logged.
    #[cold]
    pub(super) fn log_session(
        &mut self,
        policy: &Policy,
        session: &Session<A>,
        kind: EventKind,
        now: Now,
    ) {
        let pool = match Mapping::of(session) {
            Some(mapping) => {
                let external = policy.nat.external_of(mapping.outside.address);
                let in_block = external.is_some_and(|(_, e)| e.blocks().is_some());
                if in_block && policy.logging.mappings == Mappings::Auto {
                    return;
                }
                external.and_then(|(index, _)| policy.nat.pool_of(index))
            }
            // What static rules, forwards and services do is in the configuration.
            None if policy.logging.mappings == Mappings::Auto && !takes_address(session) => return,
            None => None,
        };
        let pool = pool.map(|pool| pool.policy().id);
        // A placeholder carries nothing; the flow it waits for is a session of its own.
        if session.state != State::Expected
            && let Some(event) = event_of(session, kind, pool, policy.logging.destinations, now)
        {
            self.journal.write(event);
        }
    }
}

/// Whether the session of a protocol without ports got its outside address of a pool.
fn takes_address<A: Family>(session: &Session<A>) -> bool {
    let (before, after) = (session.before.source, session.after.source);
    PortSpace::from_protocol(session.protocol).is_none()
        && session.flags & FLAG_STATIC == 0
        && before != after
}

/// The event about a session that is translated.
fn event_of<A: Family>(
    session: &Session<A>,
    kind: EventKind,
    pool: Option<PoolId>,
    destinations: bool,
    now: Now,
) -> Option<Event> {
    let (before, after) = (&session.before, &session.after);
    let source = (before.source, before.source_port) != (after.source, after.source_port);
    let destination = (before.destination, before.destination_port)
        != (after.destination, after.destination_port);
    let (inside, outside, remote, realm) = if source {
        (
            (before.source, before.source_port),
            (after.source, after.source_port),
            (after.destination, after.destination_port),
            session.realm,
        )
    } else if destination {
        (
            (after.destination, after.destination_port),
            (before.destination, before.destination_port),
            (before.source, before.source_port),
            session.far_realm,
        )
    } else {
        return None;
    };
    Some(Event {
        millis: now.millis,
        kind,
        protocol: session.protocol,
        realm,
        pool,
        inside: inside.0.to_ip(),
        inside_port: inside.1,
        outside: outside.0.to_ip(),
        ports: PortRange::new(outside.1, outside.1),
        remote: destinations.then(|| (remote.0.to_ip(), remote.1)),
    })
}

impl Journal {
    /// Takes down that a block went back to its pool.
    // Implements: B1, D5.
    pub(super) fn returned<A: Family>(&mut self, policy: &Policy, block: &ReturnedBlock, now: Now) {
        let Some(external) = policy.nat.external(block.external) else {
            return;
        };
        let first_open = external.blocks().map_or(0, |blocks| blocks.first_open());
        if policy.logging.blocks() && block.block.0 >= first_open {
            self.write(Event {
                millis: now.millis,
                kind: EventKind::BlockReturned,
                protocol: 0,
                realm: block.realm,
                pool: block.pool,
                inside: inside_address::<A>(block.inside),
                inside_port: 0,
                outside: external.address(),
                ports: block.ports,
                remote: None,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventKind, millis: u64) -> Event {
        Event {
            millis,
            kind,
            protocol: 0,
            realm: RealmId(0),
            pool: None,
            inside: [10, 0, 0, 2].into(),
            inside_port: 0,
            outside: [203, 0, 113, 1].into(),
            ports: PortRange::new(1024, 1535),
            remote: None,
        }
    }

    #[test]
    fn the_last_room_is_kept_for_blocks_and_what_has_none_is_counted() {
        let mut journal = Journal::default();
        assert!(journal.is_empty());
        for _ in 0..ROOM {
            journal.write(event(EventKind::SessionOpened, 1));
        }
        assert!(!journal.is_empty());
        for _ in 0..KEPT_FOR_BLOCKS + 3 {
            journal.write(event(EventKind::BlockLeased, 2));
        }
        let mut blocks = 0;
        let mut sessions = 0;
        let lost = journal.take(|event| match event.kind.is_of_block() {
            true => blocks += 1,
            false => sessions += 1,
        });
        assert_eq!(
            (sessions, blocks),
            (ROOM - KEPT_FOR_BLOCKS, KEPT_FOR_BLOCKS)
        );
        assert_eq!(lost, KEPT_FOR_BLOCKS as u64 + 3);
        assert!(journal.is_empty());
        assert_eq!(journal.take(|_| ()), 0);
        journal.lost = 1;
        assert!(!journal.is_empty(), "what was lost is to be told");
    }

    #[test]
    fn a_block_goes_back_before_somebody_else_gets_it() {
        use EventKind::{BlockLeased, BlockReturned, SessionEnded, SessionOpened};
        let mut events = [
            event(SessionOpened, 6),
            event(BlockLeased, 5),
            event(SessionEnded, 5),
            event(BlockReturned, 5),
        ];
        events.sort_by_key(Event::order);
        let kinds = events.map(|event| event.kind);
        assert_eq!(
            kinds,
            [BlockReturned, BlockLeased, SessionEnded, SessionOpened]
        );
        assert_eq!(
            kinds.map(EventKind::is_of_block),
            [true, true, false, false]
        );
    }

    #[test]
    fn each_choice_logs_what_it_says() {
        for (mappings, blocks, sessions) in [
            (Mappings::Off, false, false),
            (Mappings::Auto, true, true),
            (Mappings::Block, true, false),
            (Mappings::Session, true, true),
        ] {
            let logging = Logging {
                mappings,
                destinations: false,
            };
            assert_eq!((logging.blocks(), logging.sessions()), (blocks, sessions));
        }
    }

    #[test]
    fn a_protocol_without_ports_may_take_an_address_of_a_pool() {
        let session = |protocol, flags, outside| {
            let mut session = Session::<u32> {
                protocol,
                flags,
                ..Session::default()
            };
            session.before.source = 7;
            session.after.source = outside;
            session
        };
        let esp = 50;
        for (protocol, flags, outside, takes) in [
            (esp, 0, 9, true),
            (esp, FLAG_STATIC, 9, false),
            (esp, 0, 7, false),
            (crate::wire::UDP, 0, 9, false),
        ] {
            let session = session(protocol, flags, outside);
            assert_eq!(
                takes_address(&session),
                takes,
                "{protocol} {flags} {outside}"
            );
        }
    }
}
