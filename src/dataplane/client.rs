//! What is for the DHCP client: it lives with management, so a worker passes messages on, and what answers its ARP probes.

use arrayvec::ArrayVec;

use crate::base::DropReason;
use crate::dataplane::buffer::{Buffer, Heard, Incoming, Sink};
use crate::dataplane::shard::Shard;
use crate::gateway::Interface;
use crate::gateway::dhcp::message::{CLIENT_PORT, SERVER_PORT};
use crate::nat::policy::Policy;
use crate::wire::parse::{Parsed, Transport};
use crate::wire::{arp, udp};

/// Whether an IPv4 packet that belongs to no session is an answer to the DHCP client of the interface it came in on. Before
/// there is an address a server may send to the one it offers.
pub(super) fn is_for_client<B>(policy: &Policy, incoming: &Incoming<B>, packet: &Parsed) -> bool {
    let ports = packet.transport == Transport::Udp
        && packet.destination_port == CLIENT_PORT
        && packet.source_port == SERVER_PORT;
    if !ports || incoming.looped || packet.fragment.is_fragment() {
        return false;
    }
    let to = packet.destination;
    policy
        .interfaces
        .get(incoming.ingress)
        .is_some_and(|on| on.dhcp && (on.v4.is_empty() || on.owns_v4(to) || on.is_broadcast(to)))
}

impl<B: Buffer> Shard<B> {
    /// Passes a DHCP message on.
    #[cold]
    pub(super) fn for_client(
        &mut self,
        incoming: Incoming<B>,
        packet: &Parsed,
        sink: &mut impl Sink<B>,
    ) {
        let from = usize::from(packet.l4) + udp::HEADER;
        let payload = incoming.buffer.bytes().get(from..packet.end());
        let message = payload.and_then(|payload| ArrayVec::try_from(payload).ok());
        let Some(message) = message else {
            return self.discard(incoming.buffer, DropReason::OwnService, sink);
        };
        let interface = incoming.ingress;
        if sink.tell_control(Heard::Dhcp { interface, message }) {
            self.counters.consumed += 1;
            sink.discard(incoming.buffer);
        } else {
            self.discard(incoming.buffer, DropReason::ControlFull, sink);
        }
    }

    /// Passes on who answers a probe for an address (RFC 5227): such an answer is for nobody's address.
    pub(super) fn probe_answered(
        &mut self,
        on: &Interface,
        answer: &arp::Arp,
        sink: &mut impl Sink<B>,
    ) {
        if on.dhcp && on.v4.is_empty() && answer.operation == arp::REPLY && answer.target_ip == 0 {
            // Not to be heard is no loss that counts: the frame was for the gateway, and a probe is made twice.
            sink.tell_control(Heard::Arp {
                interface: on.id,
                address: answer.sender_ip,
                mac: answer.sender_mac,
            });
        }
    }
}
