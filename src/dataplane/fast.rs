//! The fast path: a batch in blocks of a few frames through four stages, so that every memory access is under way before its
//! result is needed, and the processor works on other blocks meanwhile.
//!
//! ```text
//!  1  read headers, hash    frame ─▶ key, slot, hash     prefetch headers further on, home buckets
//!  2  look at the tags      bucket ─▶ candidate          prefetch sessions, or away buckets
//!  3  the same, away        bucket ─▶ candidate          prefetch sessions
//!  4  translate and send    session, neighbour ─▶ frame
//! ```
//!
//! While one block is read, the one before it is in stage 2, the next older one in stage 3, the oldest in stage 4.
//!
//! A batch is of one family: that of its first packet. Those of the other, if there are any, are a batch of their own
//! afterwards; nothing ties a packet of one to a packet of the other.
//!
//! A packet stays on this way while everything about it is ordinary: a [plain](crate::wire::plain) packet of a flow that
//! lives, is up to date and knows its next hop, small enough, with hops left. Whatever is not leaves it, in the first
//! stage or the last, for [`Shard::by_hand`], which treats every kind of packet, these too, one by one.

use std::ops::Range;

use arrayvec::ArrayVec;

use crate::base::time::Now;
use crate::base::{DropReason, InterfaceId, PortId};
use crate::dataplane::buffer::{BURST, Buffer, Burst, Incoming, Sink};
use crate::dataplane::egress::{arrival, clamp_mss, frame, is_syn};
use crate::dataplane::family::Ip;
use crate::dataplane::identification::number_piece;
use crate::dataplane::new_flows::Knocks;
use crate::dataplane::shard::Shard;
use crate::flow::hash::Hash;
use crate::flow::key::{of_port_word, port_word};
use crate::flow::session::{Egress, FlowEntry, NONE, SessionIndex};
use crate::gateway::interface::Interface;
use crate::gateway::neighbour::NeighbourId;
use crate::nat::ahead::Hashes;
use crate::nat::policy::Policy;
use crate::nat::revalidate::revalidate;
use crate::nat::rewrite;
use crate::nat::state::Nat;
use crate::nat::window::Numbers;
use crate::wire::parse::{Network, Parsed, Transport, parse};
use crate::wire::plain::Plain;
use crate::wire::tcp::SYN;
use crate::wire::{ETHERTYPE_IPV6, ETHERTYPE_VLAN, TCP, mac_word, read_u16};

/// What the first stage found out about a packet, besides its key.
#[derive(Clone, Copy, Default)]
struct Slot {
    ip_length: u16,
    /// 0 unless the packet is plain and for the gateway's MAC address.
    ttl: u8,
    tcp_flags: u8,
    tagged: bool,
}

/// What became of a packet in the last stage.
enum Express<B> {
    /// Translated and sent.
    Done,
    /// Something about it, or its session, is out of the ordinary. Unchanged.
    Unusual(B),
    /// No session has it. Unchanged.
    New(B),
    /// It is of the other family. Unchanged.
    Other(B),
}

/// The stages' results, by position in the batch. Kept with the shard, so that a batch need not clear them.
pub(super) struct Batch<A: Ip> {
    pub(super) keys: [A::Block; BURST],
    pub(super) hashes: [Hash; BURST],
    /// Flow-table values that are probably right, or [`NONE`].
    candidates: [u32; BURST],
    /// Positions of the packets whose table entry may be displaced, of the block that has just been through stage 2.
    displaced: ArrayVec<u8, MAX_BLOCK>,
    slots: [Slot; BURST],
    /// Positions of the packets for [`Shard::new_flows`], those not for a new flow with [`BY_HAND`].
    pub(super) later: [u8; BURST],
    pub(super) knocks: Knocks,
    /// What was found out about the flows that the others of them may open.
    pub(super) ahead: [Hashes; BURST],
}

impl<A: Ip> Batch<A> {
    pub(super) fn new() -> Batch<A> {
        Batch {
            keys: [A::Block::default(); BURST],
            hashes: [Hash(0); BURST],
            candidates: [NONE; BURST],
            displaced: ArrayVec::new(),
            slots: [Slot::default(); BURST],
            later: [0; BURST],
            knocks: [None; BURST],
            ahead: [Hashes::default(); BURST],
        }
    }
}

/// Marks a position whose packet goes by hand.
pub(super) const BY_HAND: u8 = 0x80;
const _: () = assert!(BURST <= BY_HAND as usize);

/// Most frames that are in one stage together. Fewer cost more in loops; with more, so many prefetches follow each other that
/// the processor drops some (measured at a million IPv4 sessions: 4, 8, 16, 64 together cost 178, 153, 205, 197 cycles a
/// packet; at a million of IPv6, two lines each, 4 and 8 cost 200 and 230).
pub(super) const MAX_BLOCK: usize = 8;

/// Stages after the first.
const STAGES: usize = 3;

/// The positions of a batch of `count` that block number `block` has: none when it is past the end, or missing.
#[inline(always)]
fn lanes<A: Ip>(block: Option<usize>, count: usize) -> Range<usize> {
    let start = block.map_or(count, |block| (block * A::BLOCK).min(count));
    start..(start + A::BLOCK).min(count)
}

/// Frames ahead of the one being read whose first line is fetched.
const AHEAD: usize = 8;

/// An interface and its MAC address as [`mac_word`] would read it.
#[derive(Clone, Copy)]
struct Station<'a> {
    interface: &'a Interface,
    mac: u64,
}

impl<'a> Station<'a> {
    #[inline(always)]
    fn of(interface: &'a Interface) -> Station<'a> {
        Station {
            interface,
            mac: interface.mac.word(),
        }
    }
}

/// Reads a frame that arrived on `port`; writes key and slot if it is a plain packet for the gateway, else says no.
#[inline(always)]
fn read<A: Ip, B: Buffer>(
    policy: &Policy,
    port: PortId,
    untagged: Option<Station<'_>>,
    buffer: &B,
    key: &mut A::Block,
    slot: &mut Slot,
) -> Option<()> {
    let bytes = buffer.bytes();
    let plain = Plain::<A::Pair>::read(bytes)?;
    let to = match plain.vlan {
        None => untagged?,
        tagged if A::is_stateful(policy) => Station::of(policy.receiving(port, tagged)?),
        _ => return None,
    };
    // Ours by destination, and the source is no group.
    let ours = mac_word(bytes)? & 0x0001_ffff_ffff_ffff == to.mac;
    if !ours || buffer.checksum_bad() || !buffer.is_whole() {
        return None;
    }
    *key = A::block(
        plain.addresses,
        port_word(plain.ports, plain.protocol, to.interface.realm),
    );
    *slot = Slot {
        ip_length: plain.ip_length,
        ttl: plain.ttl,
        tcp_flags: plain.tcp_flags,
        tagged: plain.vlan.is_some(),
    };
    Some(())
}

/// Whether a frame carries IPv6.
#[inline]
fn is_ipv6(frame: &[u8]) -> bool {
    match read_u16(frame, 12) {
        ETHERTYPE_VLAN => read_u16(frame, 16) == ETHERTYPE_IPV6,
        ethertype => ethertype == ETHERTYPE_IPV6,
    }
}

impl<B: Buffer> Shard<B> {
    pub(super) fn fast_path(
        &mut self,
        policy: &Policy,
        now: Now,
        port: PortId,
        burst: &mut Burst<B>,
        sink: &mut impl Sink<B>,
    ) {
        for ahead in burst.iter().take(AHEAD) {
            crate::arch::prefetch_index(ahead.bytes(), 0);
        }
        let mut v6 = burst.first().is_some_and(|b| is_ipv6(b.bytes()));
        while !burst.is_empty() {
            let frames = std::mem::take(burst);
            match v6 {
                false => self.stages::<u32>(policy, now, port, frames, burst, sink),
                true => self.stages::<u128>(policy, now, port, frames, burst, sink),
            }
            v6 = !v6;
        }
    }

    /// Takes the frames of one family through the stages, and leaves the others.
    #[inline(always)]
    fn stages<A: Ip>(
        &mut self,
        policy: &Policy,
        now: Now,
        port: PortId,
        frames: Burst<B>,
        others: &mut Burst<B>,
        sink: &mut impl Sink<B>,
    ) {
        let count = frames.len();
        let untagged = policy
            .receiving(port, None)
            .filter(|_| A::is_stateful(policy))
            .map(Station::of);
        let mut frames = frames.into_iter();
        let mut later = Burst::new();
        for step in 0..count.div_ceil(A::BLOCK) + STAGES {
            let block = |stage: usize| lanes::<A>(step.checked_sub(stage), count);
            let sent = count - frames.len();
            if let Some(unread) = frames.as_slice().get(block(0).start - sent..) {
                self.read_headers::<A>(policy, port, untagged, unread, block(0));
            }
            self.guess_away::<A>();
            self.guess_home::<A>(block(1));
            for (lane, buffer) in block(STAGES).zip(&mut frames) {
                let (buffer, how) = match self.express::<A>(policy, now, lane, buffer, sink) {
                    Express::Done => continue,
                    Express::Other(buffer) => {
                        others.push(buffer);
                        continue;
                    }
                    Express::Unusual(buffer) if later.is_empty() => {
                        self.by_hand(policy, now, port, buffer, sink);
                        continue;
                    }
                    Express::Unusual(buffer) => (buffer, BY_HAND),
                    Express::New(buffer) => (buffer, 0),
                };
                let batch = A::batch(&mut self.batch, &mut self.batch_v6);
                batch.later[later.len()] = lane as u8 | how;
                later.push(buffer);
            }
        }
        if !later.is_empty() {
            self.new_flows::<A>(policy, now, port, later, sink);
        }
    }

    /// Second stage.
    #[inline(always)]
    fn guess_home<A: Ip>(&mut self, lanes: Range<usize>) {
        let nat = A::nat(&self.nat, &self.nat_v6);
        let (table, batch) = (&nat.table, A::batch(&mut self.batch, &mut self.batch_v6));
        for lane in lanes {
            let lane = lane % BURST;
            let candidate = table.candidate(batch.hashes[lane]);
            batch.candidates[lane] = candidate.unwrap_or(NONE);
            match candidate {
                Some(value) => nat.sessions.prefetch(FlowEntry(value).session().0),
                None if table.prefetch_away(batch.hashes[lane]) => {
                    batch.displaced.push(lane as u8);
                }
                None => {}
            }
        }
    }

    /// Third stage: the entries that live away from their home bucket, a seventh in a full table.
    #[inline(always)]
    fn guess_away<A: Ip>(&mut self) {
        let nat = A::nat(&self.nat, &self.nat_v6);
        let batch = A::batch(&mut self.batch, &mut self.batch_v6);
        for lane in batch.displaced.drain(..) {
            let lane = usize::from(lane) % BURST;
            if let Some(value) = nat.table.candidate_away(batch.hashes[lane]) {
                batch.candidates[lane] = value;
                nat.sessions.prefetch(FlowEntry(value).session().0);
            }
        }
    }

    /// First stage: the frames of `lanes`, with which `unread` begins.
    #[inline(always)]
    fn read_headers<A: Ip>(
        &mut self,
        policy: &Policy,
        port: PortId,
        untagged: Option<Station<'_>>,
        unread: &[B],
        lanes: Range<usize>,
    ) {
        let nat = A::nat(&self.nat, &self.nat_v6);
        let batch = A::batch(&mut self.batch, &mut self.batch_v6);
        let Some(keys) = batch.keys.get_mut(lanes.clone()) else {
            return;
        };
        let slots = batch.slots[lanes.clone()].iter_mut();
        for (i, (buffer, (key, slot))) in unread.iter().zip(keys.iter_mut().zip(slots)).enumerate()
        {
            if let Some(ahead) = unread.get(i + AHEAD) {
                crate::arch::prefetch_index(ahead.bytes(), 0);
            }
            if read::<A, B>(policy, port, untagged, buffer, key, slot).is_none() {
                slot.ttl = 0;
            }
        }
        let hashes = &mut batch.hashes[lanes];
        A::hash_blocks(&nat.hasher, keys, hashes);
        for hash in hashes {
            nat.table.prefetch(*hash);
        }
    }

    /// Last stage.
    #[inline(always)]
    fn express<A: Ip>(
        &mut self,
        policy: &Policy,
        now: Now,
        lane: usize,
        mut buffer: B,
        sink: &mut impl Sink<B>,
    ) -> Express<B> {
        // The remainder changes nothing, and spares a bounds check for each array.
        let lane = lane % BURST;
        let nat = A::nat(&self.nat, &self.nat_v6);
        let batch = A::batch(&mut self.batch, &mut self.batch_v6);
        let (slot, key) = (batch.slots[lane], batch.keys[lane]);
        if slot.ttl <= 1 {
            return match is_ipv6(buffer.bytes()) == (A::ETHERTYPE == ETHERTYPE_IPV6) {
                true => Express::Unusual(buffer),
                false => Express::Other(buffer),
            };
        }
        let found = nat.find_block(batch.candidates[lane], batch.hashes[lane], key);
        let Some((entry, session)) = found else {
            return Express::New(buffer);
        };
        let (index, direction) = (entry.session(), entry.direction());
        let egress = session.egress[direction.index()];
        let Some(neighbour) = self.neighbours.touch(NeighbourId(egress.0), now) else {
            return Express::Unusual(buffer);
        };
        let settled = Nat::is_settled(session, slot.tcp_flags, now.tick);
        let ordinary = session.generation == policy.epoch
            && egress != Egress::LOOP
            && neighbour.is_ready()
            && slot.ip_length <= neighbour.mtu
            && (settled
                || slot.tcp_flags & SYN == 0
                    && !policy
                        .timeouts
                        .expired(session.state, session.seen(), now.tick));
        if !ordinary {
            return Express::Unusual(buffer);
        }
        let (rule, port) = (session.rule, neighbour.port);
        let (_, protocol, _) = of_port_word(A::source_of(key).1);
        let is_tcp = protocol == TCP;
        rewrite::plain(buffer.bytes_mut(), slot.tagged, is_tcp, session, direction);
        let l3 = if slot.tagged { 18 } else { 14 };
        if !settled {
            let transport = if is_tcp {
                Transport::Tcp
            } else {
                Transport::Udp
            };
            let numbers = || Numbers::read(buffer.bytes(), usize::from(l3) + A::HEADER);
            A::nat_mut(&mut self.nat, &mut self.nat_v6).touch(
                index,
                direction,
                transport,
                slot.tcp_flags,
                now.tick,
                numbers,
            );
        }
        let framed = frame(&mut buffer, l3, slot.ip_length, neighbour, A::ETHERTYPE);
        self.accounts.packet(rule, slot.ip_length);
        if framed {
            sink.transmit(port, buffer);
        } else {
            self.discard(buffer, DropReason::Internal, sink);
        }
        Express::Done
    }

    /// Last stage for the packet at `lane` whose flow has just got a session; gives it back unchanged where that is out of the
    /// ordinary, as a SYN is.
    #[inline]
    pub(super) fn express_first<A: Ip>(
        &mut self,
        policy: &Policy,
        now: Now,
        (lane, entry): (usize, FlowEntry),
        buffer: B,
        sink: &mut impl Sink<B>,
    ) -> Option<B> {
        let batch = A::batch(&mut self.batch, &mut self.batch_v6);
        batch.candidates[lane] = entry.0;
        if batch.slots[lane].tcp_flags & SYN != 0 {
            return Some(buffer);
        }
        match self.express::<A>(policy, now, lane, buffer, sink) {
            Express::Done => None,
            Express::Unusual(buffer) | Express::New(buffer) | Express::Other(buffer) => {
                Some(buffer)
            }
        }
    }

    /// Any packet, by itself: parse, find the interface, look its flow up or sort it.
    #[inline(never)]
    pub(super) fn by_hand(
        &mut self,
        policy: &Policy,
        now: Now,
        port: PortId,
        buffer: B,
        sink: &mut impl Sink<B>,
    ) {
        if !buffer.is_whole() {
            return self.discard(buffer, DropReason::FrameLong, sink);
        }
        let bytes = buffer.bytes();
        let packet = match parse(bytes) {
            Ok(packet) => packet,
            Err(reason) => return self.discard(buffer, reason, sink),
        };
        let Some(interface) = policy.receiving(port, packet.vlan) else {
            return self.discard(buffer, DropReason::UnknownVlan, sink);
        };
        let ours = bytes[..6] == interface.mac.0;
        if bytes[6] & 1 != 0 || (!ours && bytes[0] & 1 == 0) {
            return self.discard(buffer, DropReason::FrameMac, sink);
        }
        if buffer.checksum_bad() {
            return self.discard(buffer, DropReason::L4Checksum, sink);
        }
        let whole = !packet.fragment.is_fragment();
        let tracked = matches!(
            packet.transport,
            Transport::Tcp
                | Transport::Udp
                | Transport::Sctp
                | Transport::IcmpQuery
                | Transport::IcmpReply
        );
        let incoming = incoming(buffer, interface.id);
        match packet.network {
            _ if !(ours && whole && tracked) => {}
            Network::Ipv4 if policy.stateful => {
                return self.lookup::<u32>(policy, now, incoming, &packet, sink);
            }
            Network::Ipv6 if policy.stateful_v6 => {
                return self.lookup::<u128>(policy, now, incoming, &packet, sink);
            }
            _ => {}
        }
        self.slow_path(policy, now, incoming, &packet, sink);
    }

    /// A packet whose flow is known.
    #[inline]
    pub(super) fn hit<A: Ip>(
        &mut self,
        policy: &Policy,
        now: Now,
        entry: FlowEntry,
        mut incoming: Incoming<B>,
        packet: &Parsed,
        sink: &mut impl Sink<B>,
    ) {
        let (index, direction) = (entry.session(), entry.direction());
        let nat = A::nat(&self.nat, &self.nat_v6);
        let Some(session) = nat.sessions.get(index.0) else {
            return self.discard(incoming.buffer, DropReason::Internal, sink);
        };
        if session.generation != policy.epoch
            || policy
                .timeouts
                .expired(session.state, session.seen(), now.tick)
        {
            return self.doubtful::<A>(policy, now, index, incoming, packet, sink);
        }
        let egress = session.egress[direction.index()];
        if egress == Egress::LOOP {
            return self.hit_loop::<A>(policy, now, index, direction, incoming, packet, sink);
        }
        if packet.ttl <= 1 {
            return self.ttl_expired(policy, now, incoming, packet, sink);
        }
        let neighbour = self
            .neighbours
            .touch(NeighbourId(egress.0), now)
            .filter(|n| n.is_ready());
        let Some(neighbour) = neighbour else {
            return self.hit_unresolved::<A>(policy, now, index, direction, incoming, packet, sink);
        };
        if packet.ip_length > neighbour.mtu {
            return self.hit_unresolved::<A>(policy, now, index, direction, incoming, packet, sink);
        }
        if is_syn(packet) {
            let crossed = [arrival(&incoming), Some(neighbour.interface)];
            clamp_mss(policy, incoming.buffer.bytes_mut(), packet, crossed);
        }
        rewrite::forward(incoming.buffer.bytes_mut(), packet, session, direction);
        if incoming.shown.is_some() {
            number_piece(policy, &mut incoming, packet);
        }
        let rule = session.rule;
        let port = neighbour.port;
        let bytes = incoming.buffer.bytes();
        A::nat_mut(&mut self.nat, &mut self.nat_v6).saw(index, direction, packet, bytes, now.tick);
        let framed = frame(
            &mut incoming.buffer,
            packet.l3,
            packet.ip_length,
            neighbour,
            A::ETHERTYPE,
        );
        self.accounts.packet(rule, packet.ip_length);
        if framed {
            sink.transmit(port, incoming.buffer);
        } else {
            self.discard(incoming.buffer, DropReason::Internal, sink);
        }
    }

    /// The session is of an older policy, or timed out and not yet swept.
    #[cold]
    fn doubtful<A: Ip>(
        &mut self,
        policy: &Policy,
        now: Now,
        index: SessionIndex,
        incoming: Incoming<B>,
        packet: &Parsed,
        sink: &mut impl Sink<B>,
    ) {
        let nat = A::nat_mut(&mut self.nat, &mut self.nat_v6);
        let expired = nat
            .session(index)
            .is_none_or(|s| policy.timeouts.expired(s.state, s.seen(), now.tick));
        if expired {
            // Expiry is effective before lookup: no packet matches a session whose time is over.
            nat.end(policy, index, crate::nat::state::EndCause::Expired, now);
        } else {
            revalidate(nat, policy, index, now);
        }
        self.lookup::<A>(policy, now, incoming, packet, sink);
    }
}

pub(super) fn incoming<B>(buffer: B, ingress: InterfaceId) -> Incoming<B> {
    Incoming {
        buffer,
        ingress,
        looped: false,
        shown: None,
        not_a_reply: false,
        no_call: false,
        waited: false,
        hops: 0,
    }
}
