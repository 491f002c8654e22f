//! Packets for the gateway itself: ARP, echo, and everything it does not offer.

use std::net::IpAddr;

use crate::base::time::Now;
use crate::base::{DropReason, InterfaceId};
use crate::dataplane::buffer::{Buffer, Incoming, Message, Sink};
use crate::dataplane::egress::v4;
use crate::dataplane::shard::{Parked, Shard, WAITING_PER_NEIGHBOUR};
use crate::gateway::errors::ErrorKind;
use crate::gateway::neighbour::{Learned, NeighbourId};
use crate::nat::policy::Policy;
use crate::wire::parse::{Parsed, Transport};
use crate::wire::{ETHERTYPE_ARP, MacAddr, arp, icmp, tcp};

impl<B: Buffer> Shard<B> {
    /// ARP: learn the sender, answer for our addresses and those we stand for.
    pub(super) fn arp(
        &mut self,
        policy: &Policy,
        now: Now,
        incoming: Incoming<B>,
        packet: &Parsed,
        sink: &mut impl Sink<B>,
    ) {
        let Incoming {
            buffer, ingress, ..
        } = incoming;
        let Some(on) = policy.interfaces.get(ingress) else {
            return self.discard(buffer, DropReason::ConfigChanged, sink);
        };
        let Some(message) = arp::Arp::read(buffer.bytes(), usize::from(packet.l3)) else {
            return self.discard(buffer, DropReason::FrameShort, sink);
        };
        let ours =
            on.owns_v4(message.target_ip) || policy.proxy.answers(ingress, v4(message.target_ip));
        let valid_sender = message.sender_ip != 0 && !message.sender_mac.is_group();
        if valid_sender
            && policy
                .routes
                .local_v4(on.realm, message.sender_ip)
                .is_none()
        {
            let how = match message.operation {
                arp::REPLY => Learned::Solicited,
                _ if ours => Learned::Request,
                _ => Learned::Unsolicited,
            };
            self.neighbour_learned(
                policy,
                now,
                ingress,
                v4(message.sender_ip),
                message.sender_mac,
                how,
                sink,
            );
        }
        if message.operation == arp::REQUEST && ours {
            let reply = arp::Arp {
                operation: arp::REPLY,
                sender_mac: on.mac,
                sender_ip: message.target_ip,
                target_mac: message.sender_mac,
                target_ip: message.sender_ip,
            };
            self.send_frame(on, message.sender_mac, ETHERTYPE_ARP, sink, |out| {
                reply.write(out)
            });
        }
        self.probe_answered(on, &message, sink);
        self.counters.consumed += 1;
        sink.discard(buffer);
    }

    /// A neighbour showed its MAC address to this worker: learn it, let waiting packets go, tell the other workers.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn neighbour_learned(
        &mut self,
        policy: &Policy,
        now: Now,
        interface: InterfaceId,
        address: IpAddr,
        mac: MacAddr,
        how: Learned,
        sink: &mut impl Sink<B>,
    ) {
        let Some(on) = policy.interfaces.get(interface) else {
            return;
        };
        let ready = self.neighbours.learn(on, address, mac, how, now);
        if let Some(ready) = ready {
            self.release_waiting(ready, sink);
        } else if how == Learned::Unsolicited {
            return;
        }
        // Whoever asked may be another worker: only one of them hears the answer.
        for worker in (0..policy.workers).filter(|w| *w != self.id.0) {
            let message = Message::Neighbour {
                interface,
                address,
                mac,
                how,
            };
            // A full ring only delays the other worker: it asks for itself.
            let _ = sink.hand_over(crate::base::WorkerId(worker), message);
        }
    }

    /// Another worker heard from a neighbour.
    pub(super) fn neighbour_heard(
        &mut self,
        policy: &Policy,
        now: Now,
        heard: (InterfaceId, IpAddr, MacAddr, Learned),
        sink: &mut impl Sink<B>,
    ) {
        let (interface, address, mac, how) = heard;
        let Some(on) = policy.interfaces.get(interface) else {
            return;
        };
        if let Some(ready) = self.neighbours.learn(on, address, mac, how, now) {
            self.release_waiting(ready, sink);
        }
    }

    fn release_waiting(&mut self, id: NeighbourId, sink: &mut impl Sink<B>) {
        let mut waited = arrayvec::ArrayVec::<Parked<B>, WAITING_PER_NEIGHBOUR>::new();
        self.waiting.drain(id, |packet| waited.push(packet));
        for packet in waited {
            self.emit_ready(id, packet, sink);
        }
    }

    /// An IPv4 packet for one of our addresses that no session, forward or mapping claims.
    // Implements: I10.
    pub(super) fn local_v4(
        &mut self,
        policy: &Policy,
        now: Now,
        mut incoming: Incoming<B>,
        packet: &Parsed,
        sink: &mut impl Sink<B>,
    ) {
        if packet.transport == Transport::IcmpQuery
            && icmp::turn_echo_request_into_reply(incoming.buffer.bytes_mut(), packet)
        {
            if !self.echo_limiter.allow(v4(packet.source), now) {
                return self.discard(incoming.buffer, DropReason::OwnService, sink);
            }
            self.counters.consumed += 1;
            self.counters.generated += 1;
            let frame = incoming.buffer.bytes_mut();
            let l3 = usize::from(packet.l3);
            self.identification.renew(policy, frame, l3);
            let realm = policy.realm_of(incoming.ingress);
            return self.route_rewritten(
                policy,
                now,
                realm,
                packet.source,
                0,
                incoming.buffer,
                packet.l3,
                packet.ip_length,
                sink,
            );
        }
        if matches!(
            packet.transport,
            Transport::IcmpReply | Transport::IcmpError | Transport::IcmpOther
        ) {
            self.counters.consumed += 1;
            return sink.discard(incoming.buffer);
        }
        let kind = match packet.transport {
            Transport::Tcp | Transport::Udp | Transport::Sctp => ErrorKind::PortUnreachable,
            _ => ErrorKind::ProtocolUnreachable { pointer: 0 },
        };
        if self.is_unsolicited_syn(policy, &incoming, packet) {
            return self.wait(now, incoming, DropReason::OwnService, sink);
        }
        if !is_reset(packet) {
            self.send_error(policy, now, kind, &incoming, packet, sink);
        }
        self.discard(incoming.buffer, DropReason::OwnService, sink);
    }
}

/// A reset, to which a host without such a connection says nothing (RFC 9293 section 3.10.7.1).
pub(super) fn is_reset(packet: &Parsed) -> bool {
    packet.transport == Transport::Tcp && packet.tcp_flags & tcp::RST != 0
}
