//! IPv6: sorted, forwarded as it is where flows are not tracked, and answered like any router.

use std::net::{IpAddr, Ipv6Addr};

use crate::base::time::Now;
use crate::base::{DropReason, InterfaceId};
use crate::dataplane::buffer::{Buffer, Incoming, Sink};
use crate::dataplane::egress::{clamp_mss, is_syn, parked};
use crate::dataplane::family::Ip;
use crate::dataplane::generate::L3;
use crate::dataplane::local::is_reset;
use crate::dataplane::prefix::Crossing;
use crate::dataplane::shard::Shard;
use crate::gateway::errors::ErrorKind;
use crate::gateway::interface::is_link_local;
use crate::gateway::neighbour::Learned;
use crate::gateway::sanity;
use crate::nat::open::flow_hash;
use crate::nat::policy::Policy;
use crate::wire::parse::{Parsed, Transport};
use crate::wire::{ETHERTYPE_IPV6, icmp, ipv6, nd};

impl<B: Buffer> Shard<B> {
    pub(super) fn ipv6(
        &mut self,
        policy: &Policy,
        now: Now,
        incoming: Incoming<B>,
        packet: &Parsed,
        sink: &mut impl Sink<B>,
    ) {
        if packet.transport == Transport::IcmpOther && is_discovery(incoming.buffer.bytes(), packet)
        {
            return self.discovery(policy, now, incoming, packet, sink);
        }
        if let Some(reason) = self.insane_v6(policy, &incoming, packet) {
            return self.discard(incoming.buffer, reason, sink);
        }
        if policy.stateful_v6 {
            return self.tracked::<u128>(policy, now, incoming, packet, sink);
        }
        self.route_plain_v6(policy, now, incoming, packet, sink);
    }

    /// Checks that only the first packet of a flow needs, because a session stands for their result.
    pub(super) fn insane_v6(
        &self,
        policy: &Policy,
        incoming: &Incoming<B>,
        packet: &Parsed,
    ) -> Option<DropReason> {
        if incoming.looped {
            return None;
        }
        let (source, destination) = u128::ends(incoming.buffer.bytes(), packet);
        if let Some(reason) = sanity::source_v6(source, destination) {
            return Some(reason);
        }
        if policy.local_v6(incoming.ingress, source).is_some() {
            return Some(DropReason::MartianSource);
        }
        if policy.local_v6(incoming.ingress, destination).is_some() {
            return None;
        }
        sanity::destination_v6(destination)
            .or_else(|| sanity::transit_v6(source, destination))
            .or_else(|| self.barred_v6(policy, incoming.ingress, source))
    }

    /// Forwards without state: the policy translates prefixes at most, and filters nothing.
    fn route_plain_v6(
        &mut self,
        policy: &Policy,
        now: Now,
        mut incoming: Incoming<B>,
        packet: &Parsed,
        sink: &mut impl Sink<B>,
    ) {
        let l3 = usize::from(packet.l3);
        let ends = u128::ends(incoming.buffer.bytes(), packet);
        let realm = policy.realm_of(incoming.ingress);
        if policy.local_v6(incoming.ingress, ends.1).is_some() {
            return self.local_v6(policy, now, incoming, packet, sink);
        }
        let mut crossing = Crossing::inward(policy, incoming.ingress, ends);
        if packet.ttl <= 1 {
            self.send_error(
                policy,
                now,
                ErrorKind::TimeExceeded,
                &incoming,
                packet,
                sink,
            );
            return self.discard(incoming.buffer, DropReason::TtlExpired, sink);
        }
        let hash = flow_hash(&u128::tuple(incoming.buffer.bytes(), packet));
        let Some(hop) = policy.routes.route_v6(realm, crossing.destination, hash) else {
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
        if crossing.outward(policy, hop.interface).is_err() {
            self.send_error(
                policy,
                now,
                ErrorKind::HostUnreachable,
                &incoming,
                packet,
                sink,
            );
            return self.discard(incoming.buffer, DropReason::NoAddress, sink);
        }
        let mtu = policy
            .interfaces
            .get(hop.interface)
            .map_or(u16::MAX, |i| i.mtu);
        if packet.ip_length > mtu {
            self.send_error(
                policy,
                now,
                ErrorKind::FragmentationNeeded { mtu },
                &incoming,
                packet,
                sink,
            );
            return self.discard(incoming.buffer, DropReason::MtuDf, sink);
        }
        let next_hop = self.next_hop(policy, now, hop.interface, v6(hop.next_hop), sink);
        if matches!(next_hop, super::egress::NextHop::Dead) {
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
        if is_syn(packet) {
            let crossed = [Some(incoming.ingress), Some(hop.interface)];
            clamp_mss(policy, incoming.buffer.bytes_mut(), packet, crossed);
        }
        self.traces[0] = crossing.trace(hop.interface, packet.destination_port);
        for rule in crossing.rules() {
            self.accounts.single(rule, packet.ip_length);
        }
        crossing.write(incoming.buffer.bytes_mut(), packet);
        ipv6::set_hop_limit(incoming.buffer.bytes_mut(), l3, packet.ttl - 1);
        let parked = parked::<u128, B>(incoming.buffer, packet.l3, packet.ip_length);
        self.emit(policy, next_hop, hop.interface, parked, sink);
    }

    /// Why a packet from `ingress` with this source may not pass through, if it may not.
    fn barred_v6(&self, policy: &Policy, ingress: InterfaceId, source: u128) -> Option<DropReason> {
        let interface = policy.interfaces.get(ingress)?;
        if !interface.forward {
            return Some(DropReason::ForwardDisabled);
        }
        let back = || {
            Some(
                policy
                    .routes
                    .route_v6(interface.realm, source, 0)?
                    .interface,
            )
        };
        (!interface.urpf.admits(ingress, back)).then_some(DropReason::Urpf)
    }

    /// Neighbour solicitations and advertisements (RFC 4861); router discovery and the rest are not for us.
    fn discovery(
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
        let (Some(on), Some(message)) = (
            policy.interfaces.get(ingress),
            nd::read(buffer.bytes(), packet),
        ) else {
            return self.discard(buffer, DropReason::IcmpType, sink);
        };
        let source = ipv6::source(buffer.bytes(), usize::from(packet.l3));
        match message {
            nd::Message::Solicitation { target, source_mac } => {
                let ours = on.owns_v6(target) || policy.proxy.answers(ingress, v6(target));
                if let Some(mac) = source_mac.filter(|m| source != 0 && !m.is_group()) {
                    let how = if ours {
                        Learned::Request
                    } else {
                        Learned::Unsolicited
                    };
                    self.neighbour_learned(policy, now, ingress, v6(source), mac, how, sink);
                    if ours {
                        let flags = nd::Flags {
                            router: true,
                            solicited: true,
                            replace: true,
                        };
                        self.send_frame(on, mac, ETHERTYPE_IPV6, sink, |out| {
                            nd::advertisement(out, target, source, target, on.mac, flags)
                        });
                    }
                } else if ours {
                    // No link-layer option: duplicate detection, or a probe by unicast; all nodes hear the answer.
                    let flags = nd::Flags {
                        router: true,
                        solicited: false,
                        replace: true,
                    };
                    self.send_frame(
                        on,
                        nd::multicast_mac(nd::ALL_NODES),
                        ETHERTYPE_IPV6,
                        sink,
                        |out| nd::advertisement(out, target, nd::ALL_NODES, target, on.mac, flags),
                    );
                }
            }
            nd::Message::Advertisement {
                target,
                target_mac,
                flags,
            } => {
                let how = if flags.solicited {
                    Learned::Solicited
                } else {
                    Learned::Unsolicited
                };
                if let Some(mac) = target_mac {
                    self.neighbour_learned(policy, now, ingress, v6(target), mac, how, sink);
                }
            }
        }
        self.counters.consumed += 1;
        sink.discard(buffer);
    }

    pub(super) fn local_v6(
        &mut self,
        policy: &Policy,
        now: Now,
        mut incoming: Incoming<B>,
        packet: &Parsed,
        sink: &mut impl Sink<B>,
    ) {
        let (source, _) = u128::ends(incoming.buffer.bytes(), packet);
        if packet.transport == Transport::IcmpQuery
            && icmp::turn_echo_request_into_reply(incoming.buffer.bytes_mut(), packet)
        {
            if !self.echo_limiter.allow(v6(source), now) {
                return self.discard(incoming.buffer, DropReason::OwnService, sink);
            }
            self.counters.consumed += 1;
            self.counters.generated += 1;
            let Some((interface, towards)) = self.way_to_v6(policy, incoming.ingress, source)
            else {
                return self.discard(incoming.buffer, DropReason::NoRoute, sink);
            };
            let next_hop = self.next_hop(policy, now, interface, v6(towards), sink);
            let parked = parked::<u128, B>(incoming.buffer, packet.l3, packet.ip_length);
            return self.emit(policy, next_hop, interface, parked, sink);
        }
        if matches!(
            packet.transport,
            Transport::IcmpReply | Transport::IcmpError | Transport::IcmpOther
        ) {
            self.counters.consumed += 1;
            return sink.discard(incoming.buffer);
        }
        if !is_reset(packet) {
            let kind = ErrorKind::PortUnreachable;
            self.send_error(policy, now, kind, &incoming, packet, sink);
        }
        self.discard(incoming.buffer, DropReason::OwnService, sink);
    }

    /// Interface and next hop towards an address; link-local ones live on the interface they were heard on.
    fn way_to_v6(
        &self,
        policy: &Policy,
        ingress: InterfaceId,
        to: u128,
    ) -> Option<(InterfaceId, u128)> {
        if is_link_local(to) {
            return Some((ingress, to));
        }
        let hop = policy.routes.route_v6(policy.realm_of(ingress), to, 0)?;
        Some((hop.interface, hop.next_hop))
    }

    /// Sends an IPv6 packet of our own that starts at [`L3`].
    #[allow(clippy::too_many_arguments)]
    pub(super) fn send_v6(
        &mut self,
        policy: &Policy,
        now: Now,
        on: InterfaceId,
        to: u128,
        buffer: B,
        length: u16,
        sink: &mut impl Sink<B>,
    ) {
        match self.way_to_v6(policy, on, to) {
            Some((interface, towards)) => {
                let next_hop = self.next_hop(policy, now, interface, v6(towards), sink);
                self.emit(
                    policy,
                    next_hop,
                    interface,
                    parked::<u128, B>(buffer, L3 as u16, length),
                    sink,
                );
            }
            None => self.discard(buffer, DropReason::NoRoute, sink),
        }
    }
}

/// An IPv6 address in the form neighbours are known by.
fn v6(address: u128) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(address))
}

/// A neighbour solicitation or advertisement.
fn is_discovery(frame: &[u8], packet: &Parsed) -> bool {
    let kind = icmp::kind(frame, usize::from(packet.l4));
    kind == icmp::V6_NEIGHBOUR_SOLICITATION || kind == icmp::V6_NEIGHBOUR_ADVERTISEMENT
}
