//! The session line: everything the packet path needs to know about one flow, in one cache line.
//!
//! A session is the finished answer for both directions of a flow. `before` is the tuple of the initiator's packets
//! as they arrive, `after` the same tuple as they leave:
//!
//! ```text
//!             before                               after
//!   forward   10.0.0.2:4000 → 203.0.113.9:53   ⇒   192.0.2.1:61000 → 203.0.113.9:53
//!   reverse   10.0.0.2:4000 ← 203.0.113.9:53   ⇐   192.0.2.1:61000 ← 203.0.113.9:53
//! ```
//!
//! A forward packet matches `before` and leaves as `after`; a reverse packet matches `after` reversed and leaves as
//! `before` reversed. Source NAT, port forwards, static NAT and plain forwarding differ only in which fields of the two
//! tuples are equal. Both tuples are entries of the same flow table, so one lookup serves both directions.

use crate::arch::CACHE_LINE;
use crate::base::{InterfaceId, RealmId, RuleId, Stamp, Tick};
use crate::flow::key::{Address, FlowKey, Tuple, port_word};
use crate::flow::slab::SlabEntry;

/// Which way a packet travels through its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// As the flow's first packet.
    Forward = 0,
    /// The answer.
    Reverse = 1,
}

impl Direction {
    /// Position in a pair of per-direction values.
    #[inline]
    pub fn index(self) -> usize {
        self as usize
    }

    /// The other way.
    #[inline]
    pub fn opposite(self) -> Direction {
        match self {
            Direction::Forward => Direction::Reverse,
            Direction::Reverse => Direction::Forward,
        }
    }
}

/// Position of a session in its slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct SessionIndex(pub u32);

/// A value of the flow table: which session, and which of its two tuples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct FlowEntry(pub u32);

impl FlowEntry {
    /// The table value for one direction of a session.
    #[inline]
    pub fn new(session: SessionIndex, direction: Direction) -> FlowEntry {
        FlowEntry(session.0 << 1 | direction as u32)
    }

    /// The session it leads to.
    #[inline]
    pub fn session(self) -> SessionIndex {
        SessionIndex(self.0 >> 1)
    }

    /// The direction whose tuple it stands for.
    #[inline]
    pub fn direction(self) -> Direction {
        if self.0 & 1 == 0 {
            Direction::Forward
        } else {
            Direction::Reverse
        }
    }
}

/// The life of a flow; selects its idle timeout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// The slab slot is free.
    #[default]
    Free = 0,
    /// UDP, no answer seen yet.
    UdpUnreplied,
    /// UDP, answered.
    Udp,
    /// An ICMP query.
    Icmp,
    /// A protocol without ports.
    Other,
    /// TCP: the opener's SYN was seen (RFC 7857 §2: INIT).
    TcpOpening,
    /// TCP: SYN answered by SYN+ACK, the opener's ACK outstanding.
    TcpAnswered,
    /// TCP: established.
    TcpEstablished,
    /// TCP: the client sent FIN (C FIN RCV).
    TcpClientFin,
    /// TCP: the server sent FIN (S FIN RCV).
    TcpServerFin,
    /// TCP: both sent FIN.
    TcpClosing,
    /// TCP: a reset was seen (TRANS); a later segment shows the connection alive.
    TcpReset,
    /// SCTP: not answered yet.
    SctpOpening,
    /// SCTP: answered.
    SctpEstablished,
    /// SCTP: ABORT or SHUTDOWN COMPLETE was seen.
    SctpClosing,
    /// A flow that another announced; its remote port, 0, stands for any.
    Expected,
}

impl State {
    /// Number of states: the length of a table by state.
    pub const COUNT: usize = State::Expected as usize + 1;

    /// Every state that a live session can have.
    pub const LIVE: [State; State::COUNT - 1] = [
        State::UdpUnreplied,
        State::Udp,
        State::Icmp,
        State::Other,
        State::TcpOpening,
        State::TcpAnswered,
        State::TcpEstablished,
        State::TcpClientFin,
        State::TcpServerFin,
        State::TcpClosing,
        State::TcpReset,
        State::SctpOpening,
        State::SctpEstablished,
        State::SctpClosing,
        State::Expected,
    ];

    /// Whether it is a TCP connection that is not established yet.
    #[inline]
    pub fn is_half_open(self) -> bool {
        matches!(self, State::TcpOpening | State::TcpAnswered)
    }

    /// The name used by `show sessions` and the metrics.
    pub fn name(self) -> &'static str {
        match self {
            State::Free => "free",
            State::UdpUnreplied => "unreplied",
            State::Udp => "replied",
            State::Icmp => "query",
            State::Other => "other",
            State::TcpOpening => "opening",
            State::TcpAnswered => "answered",
            State::TcpEstablished => "established",
            State::TcpClientFin => "client-fin",
            State::TcpServerFin => "server-fin",
            State::TcpClosing => "closing",
            State::TcpReset => "reset",
            State::SctpOpening => "sctp-opening",
            State::SctpEstablished => "sctp-established",
            State::SctpClosing => "sctp-closing",
            State::Expected => "expected",
        }
    }
}

/// No session, no subscriber, no egress.
pub use crate::flow::slab::NONE;

/// Where a direction's packets leave: a neighbour of the shard, or one of the special values below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Egress(pub u32);

impl Egress {
    /// Not known (yet, or any more): route again.
    pub const UNKNOWN: Egress = Egress(NONE);
    /// Back into the translator: the translated destination is an external address (hairpinning, RFC 4787 REQ-9).
    pub const LOOP: Egress = Egress(NONE - 1);
    /// Nowhere: the filter judges answers and refuses those of this flow.
    pub const BARRED: Egress = Egress(NONE - 2);
}

/// Flag: the session came into being by a static rule (port forward, static NAT) that needs no port of a pool.
pub const FLAG_STATIC: u8 = 1 << 0;
/// Flag: translated to an interface's own address; ends when that address goes (masquerade).
pub const FLAG_MASQUERADE: u8 = 1 << 1;
/// Flag: opened by an outside host through an existing mapping.
pub const FLAG_INBOUND: u8 = 1 << 2;
/// Flag: holds, with others or alone, the outside port of a mapping; see [`MappingLink`].
pub const FLAG_MAPPED: u8 = 1 << 3;
/// Flag: the first session of its mapping's list.
pub const FLAG_FIRST: u8 = 1 << 4;
/// Flag: a port forward with `allow` made it; the filter is not asked, neither about its answers.
pub const FLAG_ALLOWED: u8 = 1 << 5;
/// Flag: a helper looks at its packets. Such a session never learns its egress, which keeps it off the fast path.
pub const FLAG_HELPED: u8 = 1 << 6;

/// A session's place in the list of sessions that share a mapping. The list is the mapping: it has no record of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct MappingLink {
    /// The next session of the list, or [`NONE`].
    pub next: u32,
    /// Of the first session: how many the list has. Of the others: the session before.
    pub back: u32,
}

impl Default for MappingLink {
    fn default() -> MappingLink {
        MappingLink {
            next: NONE,
            back: NONE,
        }
    }
}

/// What the mapping of a session depends on, and what tells apart the mappings that share its port; the NAT numbers it. 0:
/// on the inside endpoint alone, and it has the port to itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct MappingKind(pub u8);

/// One flow. 64 bytes for IPv4, one cache line; 128 for IPv6, two neighbouring ones.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub struct Session<A: Copy> {
    /// The initiator's tuple as received.
    pub before: Tuple<A>,
    /// The initiator's tuple as sent on.
    pub after: Tuple<A>,
    /// Tick of the last packet that counts as activity; on a free slot the next free index.
    pub last_seen: u32,
    /// Where each direction's packets leave.
    pub egress: [Egress; 2],
    /// Policy under which it was last validated.
    pub generation: Stamp,
    /// The kind of its mapping.
    pub mapping: MappingKind,
    /// Realm of the side that answers: that of the initiator's, unless the flow crosses from one to another.
    pub far_realm: RealmId,
    /// Checksum delta of the forward direction for the addresses (IPv4 header; reverse is its inverse).
    pub address_delta: u16,
    /// Checksum delta of the forward direction for addresses and ports (transport checksum).
    pub transport_delta: u16,
    /// Counted rule that decided it.
    pub rule: RuleId,
    /// Interface on which the first packet came in.
    pub ingress: InterfaceId,
    /// IP protocol.
    pub protocol: u8,
    /// Realm of the initiator's side.
    pub realm: RealmId,
    /// Where the flow is in its life.
    pub state: State,
    /// `FLAG_…` bits.
    pub flags: u8,
    /// Its place among the sessions of its mapping.
    pub link: MappingLink,
    /// Index of the subscriber it is charged to, or [`NONE`].
    pub subscriber: u32,
}

const _: () = assert!(
    size_of::<Session<u32>>() == 64,
    "an IPv4 session is one cache line"
);
const _: () = assert!(
    size_of::<Session<u128>>() == 128,
    "an IPv6 session is two cache lines"
);

impl<A: Address> Session<A> {
    /// The tuple that packets of `direction` carry when they arrive.
    #[inline]
    pub fn arriving(&self, direction: Direction) -> Tuple<A> {
        match direction {
            Direction::Forward => self.before,
            Direction::Reverse => self.after.reversed(),
        }
    }

    /// The tuple that packets of `direction` carry when they leave.
    #[inline]
    pub fn leaving(&self, direction: Direction) -> Tuple<A> {
        match direction {
            Direction::Forward => self.after,
            Direction::Reverse => self.before.reversed(),
        }
    }

    /// The flow-table key of one direction.
    #[inline]
    pub fn key(&self, direction: Direction) -> FlowKey<A> {
        FlowKey::new(
            self.arriving(direction),
            self.protocol,
            self.realm_of(direction),
        )
    }

    /// The realm that packets of `direction` arrive in.
    #[inline(always)]
    pub fn realm_of(&self, direction: Direction) -> RealmId {
        match direction {
            Direction::Forward => self.realm,
            Direction::Reverse => self.far_realm,
        }
    }

    /// The realm whose routes packets of `direction` follow, their destination translated. Answers follow those of whom they
    /// go to. What the initiator sends follows its own, which may lead into another realm, unless it called an address that
    /// stands for a host of the other realm.
    #[inline]
    pub fn routed_in(&self, direction: Direction) -> RealmId {
        match direction {
            Direction::Forward if !self.calls_out() => self.far_realm,
            _ => self.realm,
        }
    }

    /// Whether packets of `direction` come from the side the session stands for: its initiator's, unless that called
    /// an address of the gateway's that leads to an inside host.
    #[inline]
    pub fn from_inside(&self, direction: Direction) -> bool {
        (direction == Direction::Forward) == self.calls_out()
    }

    /// Whether the initiator called the address its packets go to.
    #[inline]
    fn calls_out(&self) -> bool {
        let (called, leads_to) = (self.before.destination, self.after.destination);
        called == leads_to
    }

    /// Whether a packet of `direction` shows that the flow is alive, in protocols other than TCP: the inside sent it, or
    /// no port of a pool is held.
    #[inline(always)]
    pub fn is_kept_alive(&self, direction: Direction) -> bool {
        let inside_opened = self.flags & FLAG_INBOUND == 0;
        let from_inside = (direction == Direction::Forward) == inside_opened;
        from_inside || self.flags & FLAG_MAPPED == 0
    }

    /// Whether the flow is forwarded as it is.
    #[inline]
    pub fn is_untranslated(&self) -> bool {
        self.before == self.after
    }

    /// Tick of the last activity.
    #[inline]
    pub fn seen(&self) -> Tick {
        Tick(self.last_seen)
    }
}

impl<A: Address> Session<A> {
    /// [`Session::leaving`] as addresses and ports, the source port in the low half.
    #[inline(always)]
    pub fn leaving_words(&self, direction: Direction) -> (A::Pair, u32) {
        match direction {
            Direction::Forward => (self.after.addresses(), self.after.ports()),
            Direction::Reverse => (
                A::swapped(self.before.addresses()),
                self.before.ports().rotate_left(16),
            ),
        }
    }

    /// The block of [`Session::key`].
    #[inline(always)]
    pub fn key_block(&self, direction: Direction) -> A::Block {
        let (addresses, ports) = match direction {
            Direction::Forward => (self.before.addresses(), self.before.ports()),
            Direction::Reverse => (
                A::swapped(self.after.addresses()),
                self.after.ports().rotate_left(16),
            ),
        };
        A::block(
            addresses,
            port_word(ports, self.protocol, self.realm_of(direction)),
        )
    }
}

impl<A: Address> SlabEntry for Session<A> {
    const LINES: usize = size_of::<Session<A>>() / CACHE_LINE;

    fn is_live(&self) -> bool {
        self.state != State::Free
    }

    fn next_free(&self) -> u32 {
        self.last_seen
    }

    fn set_next_free(&mut self, next: u32) {
        self.last_seen = next;
    }
}

#[cfg(test)]
mod tests;
