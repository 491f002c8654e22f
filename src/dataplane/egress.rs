//! The way out: route, next hop, Ethernet header, fragments.

use std::net::{IpAddr, Ipv4Addr};

use crate::base::time::Now;
use crate::base::{DropReason, InterfaceId, RealmId};
use crate::dataplane::buffer::{Buffer, Incoming, Sink};
use crate::dataplane::family::Ip;
use crate::dataplane::help::Helped;
use crate::dataplane::identification::number_piece;
use crate::dataplane::services::towards;
use crate::dataplane::shard::{Parked, Shard};
use crate::flow::session::{Direction, Egress, FLAG_HELPED, SessionIndex, State};
use crate::gateway::errors::ErrorKind;
use crate::gateway::neighbour::{Neighbour, NeighbourId, Resolution};
use crate::gateway::routes::Hop;
use crate::nat::open::flow_hash;
use crate::nat::policy::Policy;
use crate::nat::rewrite;
use crate::wire::parse::Parsed;
use crate::wire::{ETHERTYPE_IPV4, ipv4, tcp};

/// Puts the Ethernet header of a frame to `neighbour` in front of the IP packet that starts at `l3`, and cuts padding off
/// its end. False if there is no room for it.
#[inline(always)]
pub(super) fn frame(
    buffer: &mut impl Buffer,
    l3: u16,
    ip_length: u16,
    neighbour: &Neighbour,
    ethertype: u16,
) -> bool {
    let (have, want) = (usize::from(l3), neighbour.frame_header_length());
    if have != want && !make_room(buffer, have, want) {
        return false;
    }
    let frame = buffer.bytes_mut();
    let length = want + usize::from(ip_length);
    let (written, cut) = (
        neighbour.write_frame_header(frame, ethertype),
        frame.len() != length,
    );
    written && (!cut || buffer.set_len(length))
}

/// Makes the Ethernet header `want` bytes long instead of `have`. False if there is no room in front.
#[cold]
fn make_room(buffer: &mut impl Buffer, have: usize, want: usize) -> bool {
    if have < want {
        buffer.prepend(want - have)
    } else {
        buffer.trim_front(have - want)
    }
}

/// Lowers the MSS a SYN announces to what the interfaces it crosses let through. Later segments keep to what was
/// announced, so only SYNs ever get here.
// Implements: F12.
#[cold]
pub(super) fn clamp_mss(
    policy: &Policy,
    frame: &mut [u8],
    packet: &Parsed,
    crossed: [Option<InterfaceId>; 2],
) {
    let limits = crossed.into_iter().flatten();
    let limit = limits
        .filter_map(|id| policy.interfaces.get(id))
        .map(|interface| interface.clamp_mss)
        .filter(|limit| *limit > 0)
        .min();
    let end = usize::from(packet.l3) + usize::from(packet.ip_length);
    if let (Some(limit), Some(segment)) = (limit, frame.get_mut(..end)) {
        tcp::clamp_mss(segment, usize::from(packet.l4), limit);
    }
}

/// Whether [`clamp_mss`] concerns a packet. The flags are those of TCP headers alone, 0 elsewhere.
#[inline]
pub(super) fn is_syn(packet: &Parsed) -> bool {
    packet.tcp_flags & tcp::SYN != 0
}

/// The interface a packet really arrived on: a looped one only pretends.
pub(super) fn arrival<B>(incoming: &Incoming<B>) -> Option<InterfaceId> {
    (!incoming.looped).then_some(incoming.ingress)
}

/// A next hop, as far as it is known.
pub(super) enum NextHop {
    /// Its MAC address is known.
    Ready(NeighbourId),
    /// It is being asked for.
    Pending(NeighbourId),
    /// It does not answer, or there is no room to ask.
    Dead,
}

impl<B: Buffer> Shard<B> {
    /// Finds, or starts to find, the neighbour with `address` on `interface`.
    pub(super) fn next_hop(
        &mut self,
        policy: &Policy,
        now: Now,
        interface: InterfaceId,
        address: IpAddr,
        sink: &mut impl Sink<B>,
    ) -> NextHop {
        let Some(on) = policy.interfaces.get(interface) else {
            return NextHop::Dead;
        };
        match self.neighbours.resolve(on, address, now) {
            Ok((id, Resolution::Ready)) => NextHop::Ready(id),
            Ok((id, Resolution::Pending { solicit })) => {
                if solicit {
                    self.solicit(policy, interface, address, None, sink);
                }
                NextHop::Pending(id)
            }
            Ok((_, Resolution::Failed)) | Err(_) => NextHop::Dead,
        }
    }

    /// Notes the next hop that the first packet of a new session was routed to, if it is known and ready; else the packet
    /// asks for it, in [`Shard::hit_unresolved`].
    #[inline]
    pub(super) fn note_way_out<A: Ip>(&mut self, index: SessionIndex, hop: &Hop<A>) {
        let (latest, address) = (self.latest_hop, hop.next_hop.to_ip());
        let Some(id) = self.neighbours.find_near(latest, hop.interface, address) else {
            return;
        };
        self.latest_hop = id;
        let nat = A::nat_mut(&mut self.nat, &mut self.nat_v6);
        let ready = self.neighbours.get(id).is_some_and(Neighbour::is_ready);
        if let Some(session) = nat.sessions.get_mut(index.0)
            && ready
            && session.flags & FLAG_HELPED == 0
        {
            session.egress[Direction::Forward.index()] = Egress(id.0);
        }
    }

    /// A flow whose next hop is not (or no longer) known, or a packet that exceeds its MTU: route by the translated
    /// destination and remember; tell the sender, or leave it to fragments. Never on the path of ordinary traffic.
    #[cold]
    #[allow(clippy::too_many_arguments)]
    pub(super) fn hit_unresolved<A: Ip>(
        &mut self,
        policy: &Policy,
        now: Now,
        index: SessionIndex,
        direction: Direction,
        mut incoming: Incoming<B>,
        packet: &Parsed,
        sink: &mut impl Sink<B>,
    ) {
        let nat = A::nat(&self.nat, &self.nat_v6);
        let Some(session) = nat.session(index).copied() else {
            return self.discard(incoming.buffer, DropReason::Internal, sink);
        };
        if session.egress[direction.index()] == Egress::BARRED {
            return self.barred(policy, now, &session, incoming, packet, sink);
        }
        if session.state == State::Expected {
            // Its remote stands for others: nobody has port 0.
            return self.discard(incoming.buffer, DropReason::Filtered, sink);
        }
        let mut packet = *packet;
        if session.flags & FLAG_HELPED != 0 {
            let helped = Helped {
                policy,
                now,
                index,
                session: &session,
                direction,
                buffer: &mut incoming.buffer,
                packet: &mut packet,
            };
            if let Err(reason) = self.help(helped) {
                return self.discard(incoming.buffer, reason, sink);
            }
        }
        let packet = &packet;
        let to = towards(policy, &session, direction);
        let realm = session.routed_in(direction);
        let hash = flow_hash(&session.before);
        let Some(hop) = A::route(&policy.routes, realm, to, hash) else {
            self.send_error(
                policy,
                now,
                ErrorKind::NetUnreachable,
                &incoming,
                packet,
                sink,
            );
            return self.discard(incoming.buffer, DropReason::NoRoute, sink);
        };
        if self.too_big(policy, now, &incoming, packet, hop.interface, sink) {
            return self.discard(incoming.buffer, DropReason::MtuDf, sink);
        }
        let next_hop = self.next_hop(policy, now, hop.interface, hop.next_hop.to_ip(), sink);
        let nat = A::nat_mut(&mut self.nat, &mut self.nat_v6);
        match next_hop {
            NextHop::Ready(id) => {
                let session = nat.sessions.get_mut(index.0);
                if let Some(session) = session.filter(|s| s.flags & FLAG_HELPED == 0) {
                    session.egress[direction.index()] = Egress(id.0);
                }
            }
            NextHop::Pending(_) => {}
            NextHop::Dead => {
                self.send_error(
                    policy,
                    now,
                    ErrorKind::HostUnreachable,
                    &incoming,
                    packet,
                    sink,
                );
                return self.discard(incoming.buffer, DropReason::NeighbourUnresolved, sink);
            }
        }
        if is_syn(packet) {
            let crossed = [arrival(&incoming), Some(hop.interface)];
            clamp_mss(policy, incoming.buffer.bytes_mut(), packet, crossed);
        }
        rewrite::forward(incoming.buffer.bytes_mut(), packet, &session, direction);
        number_piece(policy, &mut incoming, packet);
        let bytes = incoming.buffer.bytes();
        A::nat_mut(&mut self.nat, &mut self.nat_v6).saw(index, direction, packet, bytes, now.tick);
        self.accounts.packet(session.rule, packet.ip_length);
        self.emit(
            policy,
            next_hop,
            hop.interface,
            parked::<A, B>(incoming.buffer, packet.l3, packet.ip_length),
            sink,
        );
    }

    /// Sends a finished packet towards `destination`.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn route_rewritten<A: Ip>(
        &mut self,
        policy: &Policy,
        now: Now,
        realm: RealmId,
        destination: A,
        hash: u32,
        buffer: B,
        l3: u16,
        ip_length: u16,
        sink: &mut impl Sink<B>,
    ) {
        let Some(hop) = A::route(&policy.routes, realm, destination, hash) else {
            return self.discard(buffer, DropReason::NoRoute, sink);
        };
        let next_hop = self.next_hop(policy, now, hop.interface, hop.next_hop.to_ip(), sink);
        self.emit(
            policy,
            next_hop,
            hop.interface,
            parked::<A, B>(buffer, l3, ip_length),
            sink,
        );
    }

    /// Sends a packet to its next hop, waits for one being asked for, or drops it.
    pub(super) fn emit(
        &mut self,
        policy: &Policy,
        next_hop: NextHop,
        interface: InterfaceId,
        packet: Parked<B>,
        sink: &mut impl Sink<B>,
    ) {
        let mtu = policy.interfaces.get(interface).map_or(u16::MAX, |i| i.mtu);
        if packet.ip_length > mtu && packet.ethertype == ETHERTYPE_IPV4 {
            return self.emit_fragments(policy, &next_hop, interface, mtu, packet, sink);
        }
        match next_hop {
            NextHop::Ready(id) => self.emit_ready(id, packet, sink),
            NextHop::Pending(id) => {
                if let Err(packet) = self.waiting.push(id, packet) {
                    self.discard(packet.buffer, DropReason::NeighbourQueueFull, sink);
                }
            }
            NextHop::Dead => self.discard(packet.buffer, DropReason::NeighbourUnresolved, sink),
        }
    }

    /// Frames a packet for a neighbour that is known, and transmits it.
    pub(super) fn emit_ready(
        &mut self,
        id: NeighbourId,
        mut packet: Parked<B>,
        sink: &mut impl Sink<B>,
    ) {
        let Some(neighbour) = self.neighbours.get(id).filter(|n| n.is_ready()) else {
            return self.discard(packet.buffer, DropReason::NeighbourUnresolved, sink);
        };
        let port = neighbour.port;
        if frame(
            &mut packet.buffer,
            packet.l3,
            packet.ip_length,
            neighbour,
            packet.ethertype,
        ) {
            sink.transmit(port, packet.buffer);
        } else {
            self.discard(packet.buffer, DropReason::Internal, sink);
        }
    }

    /// Cuts an IPv4 packet to the MTU (RFC 791 §3.2). The original counts as consumed, its fragments as generated.
    // Implements: U13a.
    fn emit_fragments(
        &mut self,
        policy: &Policy,
        next_hop: &NextHop,
        interface: InterfaceId,
        mtu: u16,
        mut packet: Parked<B>,
        sink: &mut impl Sink<B>,
    ) {
        const L3: usize = 14;
        let start = usize::from(packet.l3);
        if policy.is_translated_address(ipv4::source(packet.buffer.bytes(), start)) {
            let frame = packet.buffer.bytes_mut();
            self.identification.renew(policy, frame, start);
        }
        let whole = &packet.buffer.bytes()[start..start + usize::from(packet.ip_length)];
        let mut complete = true;
        let Some(pieces) = ipv4::fragment(whole, mtu) else {
            return self.discard(packet.buffer, DropReason::IpTotalLength, sink);
        };
        for piece in pieces {
            let Some(mut buffer) = sink.allocate() else {
                complete = false;
                break;
            };
            let length = usize::from(mtu);
            let written = if buffer.set_len(L3 + length) {
                ipv4::write_fragment(&mut buffer.bytes_mut()[L3..], whole, &piece)
            } else {
                0
            };
            if written == 0 || !buffer.set_len(L3 + written) {
                sink.discard(buffer);
                complete = false;
                break;
            }
            self.counters.generated += 1;
            let next_hop = match next_hop {
                NextHop::Ready(id) => NextHop::Ready(*id),
                NextHop::Pending(id) => NextHop::Pending(*id),
                NextHop::Dead => NextHop::Dead,
            };
            self.emit(
                policy,
                next_hop,
                interface,
                parked::<u32, B>(buffer, L3 as u16, written as u16),
                sink,
            );
        }
        if complete {
            self.counters.consumed += 1;
            sink.discard(packet.buffer);
        } else {
            self.discard(packet.buffer, DropReason::MbufExhausted, sink);
        }
    }
}

/// An IPv4 address in the form neighbours are known by.
#[inline]
pub(super) fn v4(address: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(address))
}

pub(super) fn parked<A: Ip, B>(buffer: B, l3: u16, ip_length: u16) -> Parked<B> {
    Parked {
        buffer,
        l3,
        ip_length,
        ethertype: A::ETHERTYPE,
    }
}
