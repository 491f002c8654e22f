//! Everything that is not a plain packet of a known flow: fragments, ICMP errors, packets for ourselves, and what is looked up by
//! hand. New flows are in [`super::admit`].

use crate::base::time::Now;
use crate::base::{DropReason, InterfaceId};
use crate::dataplane::buffer::{Buffer, Incoming, Message, Sink};
use crate::dataplane::client::is_for_client;
use crate::dataplane::egress::{arrival, clamp_mss, is_syn};
use crate::dataplane::family::Ip;
use crate::dataplane::shard::{MAX_HOPS, Shard};
use crate::dataplane::steering::{self, Steer};
use crate::flow::key::{FlowKey, Tuple};
use crate::flow::session::{Direction, Egress, SessionIndex};
use crate::gateway::errors::ErrorKind;
use crate::gateway::sanity;
use crate::nat::ahead::Hashes;
use crate::nat::icmp::{self, Complaint};
use crate::nat::policy::Policy;
use crate::nat::rewrite;
use crate::nat::rules::Facts;
use crate::wire::GRE;
use crate::wire::parse::{Network, Parsed, Transport, parse};

impl<B: Buffer> Shard<B> {
    /// A packet that was handed over, looped or held: parsed anew, because its headers may have changed since.
    pub(super) fn process(
        &mut self,
        policy: &Policy,
        now: Now,
        incoming: Incoming<B>,
        sink: &mut impl Sink<B>,
    ) {
        if policy.interfaces.get(incoming.ingress).is_none() {
            return self.discard(incoming.buffer, DropReason::ConfigChanged, sink);
        }
        match parse(incoming.buffer.bytes()) {
            Ok(parsed) => self.slow_path(policy, now, incoming, &parsed, sink),
            Err(reason) => self.discard(incoming.buffer, reason, sink),
        }
    }

    /// Sorts packets that the fast path does not handle.
    pub(super) fn slow_path(
        &mut self,
        policy: &Policy,
        now: Now,
        incoming: Incoming<B>,
        packet: &Parsed,
        sink: &mut impl Sink<B>,
    ) {
        match packet.network {
            Network::Arp => self.arp(policy, now, incoming, packet, sink),
            Network::Ipv6 => self.ipv6(policy, now, incoming, packet, sink),
            Network::Ipv4 => self.ipv4(policy, now, incoming, packet, sink),
        }
    }

    fn ipv4(
        &mut self,
        policy: &Policy,
        now: Now,
        incoming: Incoming<B>,
        packet: &Parsed,
        sink: &mut impl Sink<B>,
    ) {
        if is_for_client(policy, &incoming, packet) {
            return self.for_client(incoming, packet, sink);
        }
        if let Some(reason) = self.insane_v4(policy, &incoming, packet) {
            return self.discard(incoming.buffer, reason, sink);
        }
        if !policy.stateful {
            return self.route_plain(policy, now, incoming, packet, sink);
        }
        self.tracked::<u32>(policy, now, incoming, packet, sink);
    }

    /// A packet of a family whose flows are tracked.
    pub(super) fn tracked<A: Ip>(
        &mut self,
        policy: &Policy,
        now: Now,
        incoming: Incoming<B>,
        packet: &Parsed,
        sink: &mut impl Sink<B>,
    ) {
        if packet.fragment.is_fragment() {
            return self.fragment::<A>(policy, now, incoming, packet, sink);
        }
        match packet.transport {
            Transport::IcmpError => self.icmp_error::<A>(policy, now, incoming, packet, sink),
            _ => self.lookup::<A>(policy, now, incoming, packet, sink),
        }
    }

    /// Checks that only the first packet of a flow needs, because a session stands for their result.
    pub(super) fn insane_v4(
        &self,
        policy: &Policy,
        incoming: &Incoming<B>,
        packet: &Parsed,
    ) -> Option<DropReason> {
        if incoming.looped {
            return None;
        }
        if let Some(reason) = sanity::source_v4(packet.source) {
            return Some(reason);
        }
        let realm = policy.realm_of(incoming.ingress);
        if policy.routes.local_v4(realm, packet.source).is_some() {
            return Some(DropReason::MartianSource);
        }
        let group = incoming.buffer.bytes().first().is_some_and(|b| b & 1 != 0);
        if group
            || is_group(packet.destination)
            || policy
                .routes
                .broadcast_v4(realm, packet.destination)
                .is_some()
        {
            return Some(DropReason::Multicast);
        }
        if let Some(reason) = sanity::destination_v4(packet.destination) {
            return Some(reason);
        }
        let interface = policy.interfaces.get(incoming.ingress)?;
        let back = || Some(policy.routes.route_v4(realm, packet.source, 0)?.interface);
        (!interface.urpf.admits(interface.id, back)).then_some(DropReason::Urpf)
    }

    /// Looks the flow of a packet up, with what the headers (or an earlier fragment) say of its ports.
    pub(super) fn lookup<A: Ip>(
        &mut self,
        policy: &Policy,
        now: Now,
        incoming: Incoming<B>,
        packet: &Parsed,
        sink: &mut impl Sink<B>,
    ) {
        let realm = policy.realm_of(incoming.ingress);
        let tuple = A::tuple(incoming.buffer.bytes(), packet);
        let key = FlowKey::new(tuple, packet.protocol, realm);
        let nat = A::nat(&self.nat, &self.nat_v6);
        let hash = nat.hash(&key);
        match nat.find(hash, &key) {
            Some(_) if incoming.waited => {
                self.discard(incoming.buffer, DropReason::TcpSynCrossed, sink)
            }
            Some(entry) => self.hit::<A>(policy, now, entry, incoming, packet, sink),
            None if key.protocol == GRE && tuple.destination_port != 0 => {
                self.lookup_uncalled(policy, now, incoming, packet, &key, sink);
            }
            None => {
                let of = (&key, Hashes::of_forward(hash));
                self.miss(policy, now, incoming, packet, of, sink);
            }
        }
    }

    /// A packet of a call that is not known here: the worker that would know it is asked first. If it does not, the packet is
    /// one of GRE like any other, and goes by its addresses.
    #[cold]
    fn lookup_uncalled<A: Ip>(
        &mut self,
        policy: &Policy,
        now: Now,
        mut incoming: Incoming<B>,
        packet: &Parsed,
        key: &FlowKey<A>,
        sink: &mut impl Sink<B>,
    ) {
        let owner = steering::call_owner(policy, &steer_of(key, &incoming));
        match owner.filter(|_| !incoming.no_call) {
            Some(owner) if owner != self.id => return self.hand_over(owner, incoming, sink),
            _ => incoming.no_call = true,
        }
        let key = without_call(key);
        match A::nat(&self.nat, &self.nat_v6).lookup(&key) {
            Some(entry) => self.hit::<A>(policy, now, entry, incoming, packet, sink),
            None => {
                let unknown = Hashes::default();
                self.miss(policy, now, incoming, packet, (&key, unknown), sink);
            }
        }
    }

    /// Hands the packet to its owner, or gives it back when that is this worker.
    pub(super) fn steer<A: Ip>(
        &mut self,
        policy: &Policy,
        key: &FlowKey<A>,
        mut incoming: Incoming<B>,
        sink: &mut impl Sink<B>,
    ) -> Option<Incoming<B>> {
        let mut steer = steer_of(key, &incoming);
        let Some(mut owner) = steering::owner(policy, &steer) else {
            return Some(incoming);
        };
        if owner == self.id && !incoming.not_a_reply {
            // This worker holds the port and knows no such flow.
            incoming.not_a_reply = true;
            steer.not_a_reply = true;
            owner = steering::owner(policy, &steer).unwrap_or(self.id);
        }
        if owner == self.id {
            return Some(incoming);
        }
        self.hand_over(owner, incoming, sink);
        None
    }

    pub(super) fn hand_over(
        &mut self,
        to: crate::base::WorkerId,
        mut incoming: Incoming<B>,
        sink: &mut impl Sink<B>,
    ) {
        incoming.hops += 1;
        if incoming.hops > MAX_HOPS {
            return self.discard(incoming.buffer, DropReason::HairpinLoop, sink);
        }
        match sink.hand_over(to, Message::Packet(incoming)) {
            Ok(()) => self.counters.handoff_out += 1,
            Err(Message::Packet(incoming)) => {
                self.discard(incoming.buffer, DropReason::HandoffFull, sink)
            }
            Err(Message::Neighbour { .. }) => {}
        }
    }

    // Implements: F2, I10.
    #[cold]
    pub(super) fn ttl_expired(
        &mut self,
        policy: &Policy,
        now: Now,
        incoming: Incoming<B>,
        packet: &Parsed,
        sink: &mut impl Sink<B>,
    ) {
        self.send_error(
            policy,
            now,
            ErrorKind::TimeExceeded,
            &incoming,
            packet,
            sink,
        );
        self.discard(incoming.buffer, DropReason::TtlExpired, sink);
    }

    /// An ICMP error: for a flow's sender, or for the gateway itself.
    // Implements: I4, I5.
    fn icmp_error<A: Ip>(
        &mut self,
        policy: &Policy,
        now: Now,
        incoming: Incoming<B>,
        packet: &Parsed,
        sink: &mut impl Sink<B>,
    ) {
        let complaint = match A::complaint(incoming.buffer.bytes(), packet) {
            Ok(complaint) => complaint,
            Err(reason) => return self.discard(incoming.buffer, reason, sink),
        };
        let realm = policy.realm_of(incoming.ingress);
        let key = complaint.key(realm);
        let nat = A::nat(&self.nat, &self.nat_v6);
        let known = nat.lookup(&key).or_else(|| nat.lookup(&without_call(&key)));
        if let Some(entry) = known {
            return self.translate_error(
                policy,
                now,
                entry.session(),
                entry.direction(),
                &complaint,
                incoming,
                packet,
                sink,
            );
        }
        let Some(incoming) = self.steer(policy, &key, incoming, sink) else {
            return;
        };
        let to = A::ends(incoming.buffer.bytes(), packet).1;
        if A::local(&policy.routes, realm, to).is_some() || A::on_link(policy, incoming.ingress, to)
        {
            // About something the gateway itself sent.
            self.counters.consumed += 1;
            return sink.discard(incoming.buffer);
        }
        self.discard(incoming.buffer, DropReason::IcmpNoSession, sink);
    }

    #[allow(clippy::too_many_arguments)]
    fn translate_error<A: Ip>(
        &mut self,
        policy: &Policy,
        now: Now,
        index: SessionIndex,
        direction: Direction,
        complaint: &Complaint<A>,
        mut incoming: Incoming<B>,
        packet: &Parsed,
        sink: &mut impl Sink<B>,
    ) {
        let nat = A::nat(&self.nat, &self.nat_v6);
        let Some(session) = nat.session(index).copied() else {
            return self.discard(incoming.buffer, DropReason::Internal, sink);
        };
        let ends = A::ends(incoming.buffer.bytes(), packet);
        if policy
            .timeouts
            .expired(session.state, session.seen(), now.tick)
        {
            return self.discard(incoming.buffer, DropReason::IcmpNoSession, sink);
        }
        if packet.ttl <= 1 {
            return self.discard(incoming.buffer, DropReason::TtlExpired, sink);
        }
        let verdict = self.judge_error::<A>(policy, &session, direction, &incoming, packet);
        if !verdict.passes() {
            return self.refused(policy, now, verdict, incoming, packet, sink);
        }
        let source = match icmp::translate(
            incoming.buffer.bytes_mut(),
            packet,
            ends,
            complaint,
            &session,
            direction,
        ) {
            Ok(source) => source,
            Err(reason) => return self.discard(incoming.buffer, reason, sink),
        };
        let to = session.leaving(direction).destination;
        let realm = session.routed_in(direction);
        let here = session.realm_of(direction);
        if incoming.looped && A::local(&policy.routes, here, ends.0).is_some() {
            // Our own error about a packet that was translated already: it speaks from the receiver's side.
            let hop = A::route(&policy.routes, realm, to, 0);
            let on = hop.and_then(|hop| policy.interfaces.get(hop.interface));
            if let Some(own) = on.and_then(|on| A::source(on, to)) {
                rewrite::set_source(incoming.buffer.bytes_mut(), packet, (source, to), own);
            }
        }
        if session.egress[direction.index()] == Egress::LOOP {
            return match policy.home_of(realm, to) {
                Some(home) => self.loop_back(policy, incoming, home, sink),
                None => self.discard(incoming.buffer, DropReason::ConfigChanged, sink),
            };
        }
        self.route_rewritten(
            policy,
            now,
            realm,
            to,
            0,
            incoming.buffer,
            packet.l3,
            packet.ip_length,
            sink,
        );
    }

    /// Forwards without state: the policy translates nothing.
    fn route_plain(
        &mut self,
        policy: &Policy,
        now: Now,
        mut incoming: Incoming<B>,
        packet: &Parsed,
        sink: &mut impl Sink<B>,
    ) {
        let realm = policy.realm_of(incoming.ingress);
        if let Some(local) = policy.routes.local_v4(realm, packet.destination) {
            debug_assert!(policy.interfaces.get(local.interface).is_some());
            return self.local_v4(policy, now, incoming, packet, sink);
        }
        if !self.may_transit(policy, &incoming, packet.destination) {
            return self.discard(incoming.buffer, DropReason::ForwardDisabled, sink);
        }
        if packet.ttl <= 1 {
            return self.ttl_expired(policy, now, incoming, packet, sink);
        }
        let hash = crate::nat::open::flow_hash(&u32::tuple(incoming.buffer.bytes(), packet));
        let Some(hop) = policy.routes.route_v4(realm, packet.destination, hash) else {
            return self.refuse::<u32>(policy, now, incoming, packet, DropReason::NoRoute, sink);
        };
        if self.too_big(policy, now, &incoming, packet, hop.interface, sink) {
            return self.discard(incoming.buffer, DropReason::MtuDf, sink);
        }
        if is_syn(packet) {
            let crossed = [arrival(&incoming), Some(hop.interface)];
            clamp_mss(policy, incoming.buffer.bytes_mut(), packet, crossed);
        }
        rewrite::decrement_ttl(incoming.buffer.bytes_mut(), usize::from(packet.l3));
        self.route_rewritten(
            policy,
            now,
            realm,
            packet.destination,
            hash,
            incoming.buffer,
            packet.l3,
            packet.ip_length,
            sink,
        );
    }

    /// Whether the packet exceeds the MTU and forbids fragments; the sender is told then.
    // Implements: U13, F6.
    pub(super) fn too_big(
        &mut self,
        policy: &Policy,
        now: Now,
        incoming: &Incoming<B>,
        packet: &Parsed,
        egress: InterfaceId,
        sink: &mut impl Sink<B>,
    ) -> bool {
        let mtu = policy.interfaces.get(egress).map_or(u16::MAX, |i| i.mtu);
        if packet.ip_length <= mtu || !packet.fragment.dont_fragment {
            return false;
        }
        self.send_error(
            policy,
            now,
            ErrorKind::FragmentationNeeded { mtu },
            incoming,
            packet,
            sink,
        );
        true
    }
}

/// What steering looks at in a packet.
fn steer_of<A: Ip, B>(key: &FlowKey<A>, incoming: &Incoming<B>) -> Steer<A> {
    Steer {
        facts: Facts {
            ingress: incoming.ingress,
            tuple: key.tuple,
            protocol: key.protocol,
        },
        realm: key.realm_id(),
        looped: incoming.looped,
        not_a_reply: incoming.not_a_reply,
    }
}

/// The key of a packet of GRE that belongs to no call; other keys as they are.
fn without_call<A: Ip>(key: &FlowKey<A>) -> FlowKey<A> {
    if key.protocol != GRE {
        return *key;
    }
    let tuple = Tuple {
        source_port: 0,
        destination_port: 0,
        ..key.tuple
    };
    FlowKey::new(tuple, GRE, key.realm_id())
}

/// Multicast or limited broadcast.
fn is_group(address: u32) -> bool {
    address >> 28 == 0xe || address == u32::MAX
}
