//! Packets the gateway makes itself: ICMP errors, ARP and neighbour discovery.

use std::net::{IpAddr, Ipv4Addr};

use crate::base::InterfaceId;
use crate::base::time::Now;
use crate::dataplane::buffer::{Buffer, Incoming, Sink};
use crate::dataplane::egress::v4;
use crate::dataplane::shard::Shard;
use crate::gateway::errors::{ErrorKind, Offender, may_send_error};
use crate::gateway::interface::{Interface, is_link_local};
use crate::nat::filter::Answer;
use crate::nat::policy::Policy;
use crate::wire::parse::{Network, Parsed, Transport};
use crate::wire::{
    ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ICMP, ICMPV6, MacAddr, arp, ethernet, icmp,
    ipv6, nd, reset, write_u16,
};

/// Where the IP header of a packet of our own starts; the Ethernet header is put in front when the next hop is known.
pub(super) const L3: usize = 14;

/// Largest ICMP error: RFC 1812 §4.3.2.3 for IPv4, the minimum MTU for IPv6.
const ERROR_MAX: usize = 1280;

impl<B: Buffer> Shard<B> {
    /// Tells the sender of `packet` what became of it, unless RFC 1812 §4.3.2.7 or the rate limit forbids. The packet
    /// must still be as its sender sent it, as far as this stage of a hairpin knows.
    pub(super) fn send_error(
        &mut self,
        policy: &Policy,
        now: Now,
        kind: ErrorKind,
        incoming: &Incoming<B>,
        packet: &Parsed,
        sink: &mut impl Sink<B>,
    ) {
        self.tell(policy, now, Answer::Error(kind), incoming, packet, sink);
    }

    /// [`Shard::send_error`], or a TCP reset under the same conditions.
    // Implements: F3, I10.
    pub(super) fn tell(
        &mut self,
        policy: &Policy,
        now: Now,
        answer: Answer,
        incoming: &Incoming<B>,
        packet: &Parsed,
        sink: &mut impl Sink<B>,
    ) {
        if packet.network == Network::Ipv6 {
            return self.tell_v6(policy, now, answer, incoming, packet, sink);
        }
        let realm = policy.realm_of(incoming.ingress);
        let (source, destination) = (v4(packet.source), v4(packet.destination));
        let to_broadcast = policy
            .routes
            .broadcast_v4(realm, packet.destination)
            .is_some();
        let offender = offender(
            incoming.buffer.bytes(),
            packet,
            source,
            destination,
            to_broadcast,
        );
        if packet.network != Network::Ipv4 || !may_send_error(&offender) {
            return;
        }
        if !self.limiter.allow(source, now) {
            self.counters.icmp_suppressed += 1;
            return;
        }
        // The sender may be one of our own external addresses: the error then goes back through the translator.
        let home = policy
            .home_of(realm, packet.source)
            .filter(|_| policy.is_translated_address(packet.source));
        let Some(hop) = policy.routes.route_v4(realm, packet.source, 0) else {
            return;
        };
        let towards = home.unwrap_or(hop.interface);
        let source = policy
            .interfaces
            .get(towards)
            .and_then(|i| i.source_v4(packet.source));
        let Some(source) = source.or_else(|| {
            policy
                .interfaces
                .get(incoming.ingress)?
                .source_v4(packet.source)
        }) else {
            return;
        };
        let bytes = incoming.buffer.bytes();
        let quote = bytes
            .get(usize::from(packet.l3)..packet.end())
            .unwrap_or_default();
        let written = self.build(sink, |out| match answer {
            Answer::Error(kind) => icmp::error_v4(out, source, packet.source, head_v4(kind), quote),
            Answer::Reset => reset::reset_v4(out, bytes, packet),
        });
        let Some((buffer, written)) = written else {
            return;
        };
        self.counters.icmp_errors += u64::from(answer != Answer::Reset);
        match home {
            Some(home) => self.loop_own(policy, incoming, buffer, home, sink),
            None => self.route_rewritten(
                policy,
                now,
                realm,
                packet.source,
                0,
                buffer,
                L3 as u16,
                written,
                sink,
            ),
        }
    }

    /// The IPv6 counterpart of [`Shard::tell`].
    fn tell_v6(
        &mut self,
        policy: &Policy,
        now: Now,
        answer: Answer,
        incoming: &Incoming<B>,
        packet: &Parsed,
        sink: &mut impl Sink<B>,
    ) {
        let l3 = usize::from(packet.l3);
        let bytes = incoming.buffer.bytes();
        let (sender, target) = (ipv6::source(bytes, l3), ipv6::destination(bytes, l3));
        let (source, destination) = (IpAddr::V6(sender.into()), IpAddr::V6(target.into()));
        if !may_send_error(&offender(bytes, packet, source, destination, false)) {
            return;
        }
        if !self.limiter.allow(source, now) {
            self.counters.icmp_suppressed += 1;
            return;
        }
        let realm = policy.realm_of(incoming.ingress);
        // The sender may be one of our own external addresses: the error then goes back through the translator.
        let home = policy
            .home_of(realm, sender)
            .filter(|_| policy.is_translated_address(sender));
        let interface = match policy.routes.route_v6(realm, sender, 0) {
            _ if is_link_local(sender) => incoming.ingress,
            Some(hop) => home.unwrap_or(hop.interface),
            None => return,
        };
        let Some(source) = policy
            .interfaces
            .get(interface)
            .and_then(|i| i.source_v6(sender))
        else {
            return;
        };
        let quote = bytes.get(l3..packet.end()).unwrap_or_default();
        let built = self.build(sink, |out| match answer {
            Answer::Error(kind) => icmp::error_v6(out, source, sender, head_v6(kind), quote),
            Answer::Reset => reset::reset_v6(out, bytes, packet),
        });
        let Some((buffer, written)) = built else {
            return;
        };
        self.counters.icmp_errors += u64::from(answer != Answer::Reset);
        match home {
            Some(home) => self.loop_own(policy, incoming, buffer, home, sink),
            None => self.send_v6(policy, now, interface, sender, buffer, written, sink),
        }
    }

    /// Puts an error about a packet of ours that was translated already before the translator.
    fn loop_own(
        &mut self,
        policy: &Policy,
        about: &Incoming<B>,
        buffer: B,
        home: InterfaceId,
        sink: &mut impl Sink<B>,
    ) {
        let incoming = Incoming {
            buffer,
            ingress: home,
            looped: true,
            shown: None,
            not_a_reply: false,
            no_call: false,
            waited: false,
            hops: about.hops,
        };
        self.loop_back(policy, incoming, home, sink);
    }

    /// Allocates a buffer and lets `fill` write an IP packet into it. Counts it as generated; `None` when there is no
    /// buffer or nothing was written.
    fn build(
        &mut self,
        sink: &mut impl Sink<B>,
        fill: impl FnOnce(&mut [u8]) -> usize,
    ) -> Option<(B, u16)> {
        let Some(mut buffer) = sink.allocate() else {
            // Nothing was received that could be counted as dropped; the error is only not sent.
            self.counters.icmp_suppressed += 1;
            return None;
        };
        let written = if buffer.set_len(L3 + ERROR_MAX) {
            fill(&mut buffer.bytes_mut()[L3..])
        } else {
            0
        };
        if written == 0 || !buffer.set_len(L3 + written) {
            sink.discard(buffer);
            return None;
        }
        // What goes back through the translator is parsed like any frame.
        let ethertype = match buffer.bytes()[L3] >> 4 {
            4 => ETHERTYPE_IPV4,
            _ => ETHERTYPE_IPV6,
        };
        write_u16(buffer.bytes_mut(), L3 - 2, ethertype);
        self.counters.generated += 1;
        Some((buffer, written as u16))
    }

    /// Asks for a neighbour's MAC address: by broadcast or multicast, or by unicast to see whether it still answers.
    pub(super) fn solicit(
        &mut self,
        policy: &Policy,
        interface: InterfaceId,
        address: IpAddr,
        unicast: Option<MacAddr>,
        sink: &mut impl Sink<B>,
    ) {
        let Some(on) = policy.interfaces.get(interface) else {
            return;
        };
        match address {
            IpAddr::V4(address) => self.solicit_v4(on, u32::from(address), unicast, sink),
            IpAddr::V6(address) => self.solicit_v6(on, u128::from(address), unicast, sink),
        }
    }

    fn solicit_v4(
        &mut self,
        on: &Interface,
        address: u32,
        unicast: Option<MacAddr>,
        sink: &mut impl Sink<B>,
    ) {
        let Some(source) = on.source_v4(address) else {
            return;
        };
        let request = arp::Arp {
            operation: arp::REQUEST,
            sender_mac: on.mac,
            sender_ip: source,
            target_mac: MacAddr::ZERO,
            target_ip: address,
        };
        self.send_frame(
            on,
            unicast.unwrap_or(MacAddr::BROADCAST),
            ETHERTYPE_ARP,
            sink,
            |out| request.write(out),
        );
    }

    fn solicit_v6(
        &mut self,
        on: &Interface,
        address: u128,
        unicast: Option<MacAddr>,
        sink: &mut impl Sink<B>,
    ) {
        let Some(source) = on.source_v6(address) else {
            return;
        };
        let to = unicast.unwrap_or_else(|| nd::multicast_mac(nd::solicited_node(address)));
        let ask = unicast.map(|_| address);
        self.send_frame(on, to, ETHERTYPE_IPV6, sink, |out| {
            nd::solicitation(out, source, on.mac, address, ask)
        });
    }

    /// Sends a frame whose destination MAC address is known; it counts as generated.
    pub(super) fn send_frame(
        &mut self,
        on: &Interface,
        to: MacAddr,
        ethertype: u16,
        sink: &mut impl Sink<B>,
        payload: impl FnOnce(&mut [u8]) -> usize,
    ) {
        const LARGEST: usize = 18 + 128;
        let Some(mut buffer) = sink.allocate() else {
            return;
        };
        if !buffer.set_len(LARGEST) {
            return sink.discard(buffer);
        }
        let bytes = buffer.bytes_mut();
        let header = ethernet::header(bytes, to, on.mac, on.vlan, ethertype);
        let written = payload(&mut bytes[header..]);
        if written == 0 || !buffer.set_len(header + written) {
            return sink.discard(buffer);
        }
        self.counters.generated += 1;
        sink.transmit(on.port, buffer);
    }

    /// Tells the neighbourhood our addresses (gratuitous ARP, unsolicited neighbour advertisement): at start all, then
    /// those that the policy `before` did not have, or had on an interface that was down. Pool addresses answered for on a
    /// connected subnet are announced, too.
    pub fn announce(&mut self, policy: &Policy, before: Option<&Policy>, sink: &mut impl Sink<B>) {
        for on in policy.interfaces.iter().filter(|i| i.up) {
            let was = before.and_then(|p| p.interfaces.get(on.id));
            let was = was.filter(|was| was.up && was.mac == on.mac && was.vlan == on.vlan);
            let known = |address: IpAddr| {
                let ours = was.is_some_and(|was| match address {
                    IpAddr::V4(v4) => was.v4.iter().any(|net| net.addr() == v4),
                    IpAddr::V6(v6) => was.v6.iter().any(|net| net.addr() == v6),
                });
                let proxied = before.filter(|_| was.is_some());
                ours || proxied.is_some_and(|p| p.proxy.answers(on.id, address))
            };
            let own = on.v4.iter().map(|net| u32::from(net.addr()));
            let proxied = policy.proxied_on(on.id);
            let new = |address: &u32| !known(IpAddr::V4(Ipv4Addr::from(*address)));
            for address in own.chain(proxied).filter(new) {
                let gratuitous = arp::Arp {
                    operation: arp::REQUEST,
                    sender_mac: on.mac,
                    sender_ip: address,
                    target_mac: MacAddr::ZERO,
                    target_ip: address,
                };
                self.send_frame(on, MacAddr::BROADCAST, ETHERTYPE_ARP, sink, |out| {
                    gratuitous.write(out)
                });
            }
            let own = on.v6.iter().map(|net| u128::from(net.addr()));
            let proxied = policy.proxied_on(on.id);
            let new = |address: &u128| !known(IpAddr::V6((*address).into()));
            for address in own.chain(proxied).filter(new) {
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
                    |out| nd::advertisement(out, address, nd::ALL_NODES, address, on.mac, flags),
                );
            }
        }
    }
}

/// What the rules about ICMP errors look at.
fn offender(
    frame: &[u8],
    packet: &Parsed,
    source: IpAddr,
    destination: IpAddr,
    subnet_broadcast: bool,
) -> Offender {
    let icmp = packet.protocol == ICMP || packet.protocol == ICMPV6;
    Offender {
        source,
        destination,
        link_group: frame.first().is_some_and(|b| b & 1 != 0),
        subnet_broadcast,
        later_fragment: packet.fragment.offset != 0,
        icmp_type: (icmp && packet.transport != Transport::LaterFragment)
            .then(|| icmp::kind(frame, usize::from(packet.l4))),
    }
}

fn head_v4(kind: ErrorKind) -> icmp::ErrorV4 {
    let head = kind.v4();
    icmp::ErrorV4 {
        kind: head.kind,
        code: head.code,
        rest: head.rest,
    }
}

fn head_v6(kind: ErrorKind) -> icmp::ErrorV6 {
    let head = kind.v6();
    icmp::ErrorV6 {
        kind: head.kind,
        code: head.code,
        rest: head.rest,
    }
}
