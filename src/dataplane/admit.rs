//! New flows: from a packet that no session claims to the session it opens, or to its refusal.

use crate::base::DropReason;
use crate::base::time::Now;
use crate::dataplane::buffer::{Buffer, Incoming, Sink};
use crate::dataplane::client::is_for_client;
use crate::dataplane::family::Ip;
use crate::dataplane::judge::icmp_kind;
use crate::dataplane::shard::Shard;
use crate::flow::key::FlowKey;
use crate::flow::session::{Direction, FlowEntry, SessionIndex};
use crate::gateway::errors::ErrorKind;
use crate::nat::ahead::Hashes;
use crate::nat::limits::HostLimits;
use crate::nat::open::{NewFlow, Opened, open};
use crate::nat::policy::Policy;
use crate::nat::rules::Facts;
use crate::nat::trace::Trace;
use crate::nat::window::Numbers;
use crate::wire::parse::{Network, Parsed, Transport};

impl<B: Buffer> Shard<B> {
    /// No flow here: another worker's, a new one, or none at all.
    pub(super) fn miss<A: Ip>(
        &mut self,
        policy: &Policy,
        now: Now,
        incoming: Incoming<B>,
        packet: &Parsed,
        of: (&FlowKey<A>, Hashes),
        sink: &mut impl Sink<B>,
    ) {
        if let Some((incoming, index)) = self.admit(policy, now, incoming, packet, of, sink) {
            let entry = FlowEntry::new(index, Direction::Forward);
            self.hit::<A>(policy, now, entry, incoming, packet, sink);
        }
    }

    /// [`Shard::miss`] up to the session: gives the packet back if it has opened one, to be sent through it.
    #[inline(always)]
    pub(super) fn admit<A: Ip>(
        &mut self,
        policy: &Policy,
        now: Now,
        incoming: Incoming<B>,
        packet: &Parsed,
        (key, hashes): (&FlowKey<A>, Hashes),
        sink: &mut impl Sink<B>,
    ) -> Option<(Incoming<B>, SessionIndex)> {
        if packet.network == Network::Ipv4 && is_for_client(policy, &incoming, packet) {
            self.for_client(incoming, packet, sink);
            return None;
        }
        if let Some(reason) = A::insane(self, policy, &incoming, packet) {
            self.discard(incoming.buffer, reason, sink);
            return None;
        }
        if A::on_link(policy, incoming.ingress, key.tuple.destination) {
            A::deliver(self, policy, now, incoming, packet, sink);
            return None;
        }
        let incoming = self.steer(policy, key, incoming, sink)?;
        let flow = NewFlow {
            facts: Facts {
                ingress: incoming.ingress,
                tuple: key.tuple,
                protocol: key.protocol,
            },
            transport: packet.transport,
            tcp_flags: packet.tcp_flags,
            icmp: icmp_kind(incoming.buffer.bytes(), packet),
            realm: key.realm_id(),
            looped: incoming.looped,
            hashes,
        };
        let refusal = match packet.transport {
            Transport::LaterFragment => Some(DropReason::FragmentNoFirst),
            _ if !self.may_transit(policy, &incoming, key.tuple.destination) => {
                Some(DropReason::ForwardDisabled)
            }
            _ => None,
        };
        if let Some(reason) = refusal {
            self.discard(incoming.buffer, reason, sink);
            return None;
        }
        let mut trace = Trace::default();
        let opened = open(
            A::nat_mut(&mut self.nat, &mut self.nat_v6),
            policy,
            &flow,
            now,
            &mut self.random,
            &mut trace,
        );
        let verdict = trace.verdict();
        self.traces[usize::from(incoming.looped)] = trace;
        match opened {
            Ok(Opened::Local(_)) => A::deliver(self, policy, now, incoming, packet, sink),
            Ok(Opened::Session(index, hop)) => {
                let numbers = (packet.transport == Transport::Tcp)
                    .then(|| Numbers::read(incoming.buffer.bytes(), usize::from(packet.l4)));
                self.opened(policy, index, &flow, verdict, numbers);
                if let Some(hop) = hop {
                    self.note_way_out(index, &hop);
                }
                return Some((incoming, index));
            }
            Err(DropReason::PolicyFilter) => {
                self.refused(policy, now, verdict, incoming, packet, sink)
            }
            Err(reason) => self.refuse::<A>(policy, now, incoming, packet, reason, sink),
        }
        None
    }

    /// Whether a packet from this interface may pass through at all (`forward = false` carries only our own traffic).
    pub(super) fn may_transit<A: Ip>(
        &self,
        policy: &Policy,
        incoming: &Incoming<B>,
        to: A,
    ) -> bool {
        let Some(interface) = policy.interfaces.get(incoming.ingress) else {
            return false;
        };
        interface.forward || A::local(&policy.routes, interface.realm, to).is_some()
    }

    /// A new flow that cannot be had: tell the sender where an RFC or the pool says so, and count it.
    // Implements: G11a, G11b.
    pub(super) fn refuse<A: Ip>(
        &mut self,
        policy: &Policy,
        now: Now,
        incoming: Incoming<B>,
        packet: &Parsed,
        reason: DropReason,
        sink: &mut impl Sink<B>,
    ) {
        if matches!(reason, DropReason::VipUnmatched | DropReason::NoBackend) {
            return self.refuse_service::<A>(policy, now, incoming, packet, reason, sink);
        }
        let kind = match reason {
            DropReason::NoRoute => Some(ErrorKind::NetUnreachable),
            DropReason::OwnService => Some(ErrorKind::PortUnreachable),
            // As a gateway whose filter rejects answers for ports nobody has (E16).
            DropReason::Filtered | DropReason::NoMapping if policy.filter.default().rejects() => {
                Some(ErrorKind::PortUnreachable)
            }
            // To the host its pool is exhausted.
            DropReason::QuotaBlocks if policy.tells_exhaustion => {
                policy.limits.error.or(Some(ErrorKind::HostUnreachable))
            }
            reason if HostLimits::refuses(reason) => policy.limits.error,
            DropReason::NoPort | DropReason::NoBlock | DropReason::PoolDraining
                if policy.tells_exhaustion =>
            {
                // RFC 6888 REQ-11b: host unreachable is a soft error, a connection attempt goes on.
                Some(ErrorKind::HostUnreachable)
            }
            _ => None,
        };
        if kind == Some(ErrorKind::PortUnreachable)
            && self.is_unsolicited_syn(policy, &incoming, packet)
        {
            return self.wait(now, incoming, reason, sink);
        }
        if let Some(kind) = kind {
            self.send_error(policy, now, kind, &incoming, packet, sink);
        }
        self.discard(incoming.buffer, reason, sink);
    }
}
