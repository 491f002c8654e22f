//! The fast path: a batch in passes, so that every memory access is under way before its result is needed.

use crate::base::time::Now;
use crate::base::{DropReason, InterfaceId, PortId, Tick};
use crate::dataplane::buffer::{Buffer, Burst, Incoming, Sink};
use crate::dataplane::egress::{arrival, clamp_mss, frame, is_syn};
use crate::dataplane::shard::Shard;
use crate::flow::hash::Hash;
use crate::flow::key::{FlowKey, Tuple};
use crate::flow::session::{
    Direction, Egress, FLAG_INBOUND, FLAG_MAPPED, FlowEntry, SessionIndex, State,
};
use crate::gateway::neighbour::NeighbourId;
use crate::nat::open::revalidate;
use crate::nat::policy::Policy;
use crate::nat::{rewrite, tcp};
use crate::wire::ETHERTYPE_IPV4;
use crate::wire::parse::{Network, Parsed, Transport, parse_into};

/// What the first pass found out about a packet.
#[derive(Clone, Copy, Default)]
enum Lane {
    /// An IPv4 packet of a flow: look it up.
    Flow,
    /// Everything else.
    #[default]
    Slow,
    /// Not to be handled at all.
    Drop(DropReason),
}

/// A parsed packet of the batch.
#[derive(Clone, Copy, Default)]
pub(super) struct Slot {
    lane: Lane,
    parsed: Parsed,
    ingress: InterfaceId,
    hash: Hash,
}

/// Frames ahead of the one being parsed whose first line is fetched.
const AHEAD: usize = 8;

/// The tuple of a parsed IPv4 packet.
#[inline]
pub(super) fn tuple_of(packet: &Parsed) -> Tuple<u32> {
    Tuple {
        source: packet.source,
        destination: packet.destination,
        source_port: packet.source_port,
        destination_port: packet.destination_port,
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
        // Taken out for the time of the batch: the passes below need the rest of the shard.
        let mut slots = std::mem::take(&mut self.slots);
        for ahead in burst.iter().take(AHEAD) {
            crate::arch::prefetch_index(ahead.bytes(), 0);
        }
        for (i, slot) in slots.iter_mut().enumerate().take(burst.len()) {
            if let Some(ahead) = burst.get(i + AHEAD) {
                crate::arch::prefetch_index(ahead.bytes(), 0);
            }
            slot.lane = self.classify(policy, port, &burst[i], slot);
            if let Lane::Flow = slot.lane {
                self.nat.table.prefetch(slot.hash);
            }
        }
        for slot in slots.iter().take(burst.len()) {
            if let Lane::Flow = slot.lane
                && let Some(candidate) = self.nat.table.candidate(slot.hash)
            {
                self.nat.sessions.prefetch(FlowEntry(candidate).session().0);
            }
        }
        for (buffer, slot) in burst.drain(..).zip(&slots) {
            match slot.lane {
                Lane::Drop(reason) => self.discard(buffer, reason, sink),
                Lane::Slow => self.slow_path(
                    policy,
                    now,
                    incoming(buffer, slot.ingress),
                    &slot.parsed,
                    sink,
                ),
                Lane::Flow => self.flow(policy, now, buffer, slot, sink),
            }
        }
        self.slots = slots;
    }

    /// First pass: parse, find the interface, decide the lane, hash.
    #[inline(always)]
    fn classify(&self, policy: &Policy, port: PortId, buffer: &B, slot: &mut Slot) -> Lane {
        let frame = buffer.bytes();
        if let Some(reason) = parse_into(frame, &mut slot.parsed) {
            return Lane::Drop(reason);
        }
        let packet = &slot.parsed;
        let Some(interface) = policy.receiving(port, packet.vlan) else {
            return Lane::Drop(DropReason::UnknownVlan);
        };
        slot.ingress = interface.id;
        let ours = frame[..6] == interface.mac.0;
        if frame[6] & 1 != 0 || (!ours && frame[0] & 1 == 0) {
            return Lane::Drop(DropReason::FrameMac);
        }
        if buffer.checksum_bad() {
            return Lane::Drop(DropReason::L4Checksum);
        }
        let whole = !packet.fragment.more && packet.fragment.offset == 0;
        let tracked = matches!(
            packet.transport,
            Transport::Tcp | Transport::Udp | Transport::IcmpQuery | Transport::IcmpReply
        );
        if packet.network == Network::Ipv4 && ours && whole && tracked && policy.stateful {
            let key = FlowKey::new(tuple_of(packet), packet.protocol, interface.realm);
            slot.hash = self.nat.hash(&key);
            return Lane::Flow;
        }
        Lane::Slow
    }

    /// Last pass for a packet of a flow.
    #[inline]
    fn flow(&mut self, policy: &Policy, now: Now, buffer: B, slot: &Slot, sink: &mut impl Sink<B>) {
        let realm = policy.realm_of(slot.ingress);
        let key = FlowKey::new(tuple_of(&slot.parsed), slot.parsed.protocol, realm);
        let incoming = incoming(buffer, slot.ingress);
        match self.nat.find(slot.hash, &key) {
            Some(entry) => self.hit(policy, now, entry, incoming, &slot.parsed, sink),
            None => self.miss(policy, now, incoming, &slot.parsed, &key, sink),
        }
    }

    /// A packet whose flow is known.
    #[inline]
    pub(super) fn hit(
        &mut self,
        policy: &Policy,
        now: Now,
        entry: FlowEntry,
        mut incoming: Incoming<B>,
        packet: &Parsed,
        sink: &mut impl Sink<B>,
    ) {
        let (index, direction) = (entry.session(), entry.direction());
        let Some(session) = self.nat.sessions.get(index.0) else {
            return self.discard(incoming.buffer, DropReason::Internal, sink);
        };
        if session.generation != policy.generation
            || policy
                .timeouts
                .expired(session.state, session.seen(), now.tick)
        {
            return self.doubtful(policy, now, index, incoming, packet, sink);
        }
        let egress = session.egress[direction.index()];
        if egress == Egress::LOOP {
            return self.hit_loop(policy, now, index, direction, incoming, packet, sink);
        }
        if packet.ttl <= 1 {
            return self.ttl_expired(policy, now, incoming, packet, sink);
        }
        let neighbour = self
            .neighbours
            .touch(NeighbourId(egress.0), now)
            .filter(|n| n.is_ready());
        let Some(neighbour) = neighbour else {
            return self.hit_unresolved(policy, now, index, direction, incoming, packet, sink);
        };
        if packet.ip_length > neighbour.mtu {
            return self.hit_too_big(policy, now, index, direction, incoming, packet, sink);
        }
        if is_syn(packet) {
            let crossed = [arrival(&incoming), Some(neighbour.interface)];
            clamp_mss(policy, incoming.buffer.bytes_mut(), packet, crossed);
        }
        rewrite::forward(incoming.buffer.bytes_mut(), packet, session, direction);
        let rule = session.rule;
        let port = neighbour.port;
        let framed = frame(
            &mut incoming.buffer,
            packet.l3,
            packet.ip_length,
            neighbour.header(),
            ETHERTYPE_IPV4,
        );
        self.touch(index, direction, packet, now.tick);
        self.counters.rule_packet(rule, packet.ip_length);
        if framed {
            sink.transmit(port, incoming.buffer);
        } else {
            self.discard(incoming.buffer, DropReason::Internal, sink);
        }
    }

    /// Records a packet in its session: state, and activity at most once a tick.
    ///
    /// Only what the inside sends keeps a UDP or ICMP session on a mapping alive (RFC 4787 REQ-6), whoever opened it, so
    /// that an outsider cannot hold ports for ever; in TCP, and where no port is held, either side does.
    #[inline]
    pub(super) fn touch(
        &mut self,
        index: SessionIndex,
        direction: Direction,
        packet: &Parsed,
        tick: Tick,
    ) {
        let Some(session) = self.nat.sessions.get_mut(index.0) else {
            return;
        };
        let state = session.state;
        let inside_opened = session.flags & FLAG_INBOUND == 0;
        let from_inside = (direction == Direction::Forward) == inside_opened;
        let refreshes =
            from_inside || packet.transport == Transport::Tcp || session.flags & FLAG_MAPPED == 0;
        if refreshes && session.last_seen != tick.0 {
            session.last_seen = tick.0;
        }
        let next = match packet.transport {
            Transport::Tcp => tcp::advance(state, packet.tcp_flags, direction),
            Transport::Udp if direction == Direction::Reverse => State::Udp,
            _ => state,
        };
        if next != state {
            self.nat.set_state(index, next);
        }
    }

    /// The session is of an older policy, or timed out and not yet swept.
    #[cold]
    fn doubtful(
        &mut self,
        policy: &Policy,
        now: Now,
        index: SessionIndex,
        incoming: Incoming<B>,
        packet: &Parsed,
        sink: &mut impl Sink<B>,
    ) {
        let expired = self
            .nat
            .session(index)
            .is_none_or(|s| policy.timeouts.expired(s.state, s.seen(), now.tick));
        if expired {
            // Expiry is effective before lookup: no packet matches a session whose time is over.
            self.nat
                .end(policy, index, crate::nat::state::EndCause::Expired, now);
        } else {
            revalidate(&mut self.nat, policy, index, now);
        }
        let key = FlowKey::new(
            tuple_of(packet),
            packet.protocol,
            policy.realm_of(incoming.ingress),
        );
        match self.nat.lookup(&key) {
            Some(entry) => self.hit(policy, now, entry, incoming, packet, sink),
            None => self.miss(policy, now, incoming, packet, &key, sink),
        }
    }
}

fn incoming<B>(buffer: B, ingress: InterfaceId) -> Incoming<B> {
    Incoming {
        buffer,
        ingress,
        looped: false,
        ports: None,
        not_a_reply: false,
        hops: 0,
    }
}
