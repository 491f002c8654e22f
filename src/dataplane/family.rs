//! What differs between IPv4 and IPv6 on a packet's way through a shard.

use crate::base::time::Now;
use crate::base::{DropReason, InterfaceId};
use crate::dataplane::buffer::{Buffer, Incoming, Sink};
use crate::dataplane::fast::{Batch, MAX_BLOCK};
use crate::dataplane::shard::Shard;
use crate::flow::key::Tuple;
use crate::gateway::interface::Interface;
use crate::nat::family::Family;
use crate::nat::icmp::Complaint;
use crate::nat::knock::Knock;
use crate::nat::policy::Policy;
use crate::nat::state::Nat;
use crate::wire::checksum::{self, Delta};
use crate::wire::parse::Parsed;
use crate::wire::plain::Ends;
use crate::wire::{datagram, ipv4, ipv6};

/// An address family, as packets have it.
pub(super) trait Ip: Family {
    /// Its EtherType.
    const ETHERTYPE: u16 = <Self::Pair as Ends>::ETHERTYPE;
    /// Frames that are in one stage of a batch together, at most [`MAX_BLOCK`].
    const BLOCK: usize;

    /// Whether the policy has flows of it.
    fn is_stateful(policy: &Policy) -> bool;
    /// What the stages of a batch of this family leave for each other.
    fn batch<'a>(v4: &'a mut Batch<u32>, v6: &'a mut Batch<u128>) -> &'a mut Batch<Self>;

    /// The knock that a packet with this key is that arrived `on` an interface, if it is one. IPv6 has none: its pools are
    /// seldom scanned.
    fn knock<'a>(
        nat: &Nat<Self>,
        policy: &Policy,
        on: impl FnOnce() -> Option<&'a Interface>,
        key: Self::Block,
    ) -> Option<Knock>;

    /// Source and destination of a packet.
    fn ends(frame: &[u8], packet: &Parsed) -> (Self, Self);
    /// What an ICMP error is about.
    ///
    /// # Errors
    /// The reason to drop it.
    fn complaint(frame: &[u8], packet: &Parsed) -> Result<Complaint<Self>, DropReason>;
    /// Why the first packet of a flow is dropped whatever the rules say, if it is.
    fn insane<B: Buffer>(
        shard: &Shard<B>,
        policy: &Policy,
        incoming: &Incoming<B>,
        packet: &Parsed,
    ) -> Option<DropReason>;
    /// Whether an address is one the gateway has on this link alone.
    fn on_link(policy: &Policy, ingress: InterfaceId, address: Self) -> bool;
    /// A packet for the gateway itself.
    fn deliver<B: Buffer>(
        shard: &mut Shard<B>,
        policy: &Policy,
        now: Now,
        incoming: Incoming<B>,
        packet: &Parsed,
        sink: &mut impl Sink<B>,
    );

    /// Writes the length of an IP packet, which was `old` and is `new` from the IP header on.
    fn set_ip_length(frame: &mut [u8], l3: usize, old: u16, new: u16);
    /// The checksum over a transport segment and its pseudo header: 0 if its checksum field is right.
    fn transport_checksum(source: Self, destination: Self, protocol: u8, segment: &[u8]) -> u16;
    /// Writes an IP packet with a datagram from and to an address and a port; `id` numbers it where IP does.
    fn write_datagram(out: &mut [u8], ends: [(Self, u16); 2], id: u16, payload: &[u8]) -> usize;

    /// The tuple of a parsed packet.
    #[inline]
    fn tuple(frame: &[u8], packet: &Parsed) -> Tuple<Self> {
        let (source, destination) = Self::ends(frame, packet);
        Tuple {
            source,
            destination,
            source_port: packet.source_port,
            destination_port: packet.destination_port,
        }
    }
}

impl Ip for u32 {
    const BLOCK: usize = MAX_BLOCK;

    #[inline(always)]
    fn is_stateful(policy: &Policy) -> bool {
        policy.stateful
    }

    #[inline(always)]
    fn batch<'a>(v4: &'a mut Batch<u32>, _: &'a mut Batch<u128>) -> &'a mut Batch<u32> {
        v4
    }

    #[inline]
    fn knock<'a>(
        nat: &Nat<u32>,
        policy: &Policy,
        on: impl FnOnce() -> Option<&'a Interface>,
        [key]: [u128; 1],
    ) -> Option<Knock> {
        Knock::of(nat, policy, on, key)
    }

    #[inline]
    fn ends(_: &[u8], packet: &Parsed) -> (u32, u32) {
        (packet.source, packet.destination)
    }

    fn complaint(frame: &[u8], packet: &Parsed) -> Result<Complaint<u32>, DropReason> {
        Complaint::read_v4(frame, packet)
    }

    #[inline]
    fn insane<B: Buffer>(
        shard: &Shard<B>,
        policy: &Policy,
        incoming: &Incoming<B>,
        packet: &Parsed,
    ) -> Option<DropReason> {
        shard.insane_v4(policy, incoming, packet)
    }

    #[inline]
    fn on_link(_: &Policy, _: InterfaceId, _: u32) -> bool {
        false
    }

    fn deliver<B: Buffer>(
        shard: &mut Shard<B>,
        policy: &Policy,
        now: Now,
        incoming: Incoming<B>,
        packet: &Parsed,
        sink: &mut impl Sink<B>,
    ) {
        shard.local_v4(policy, now, incoming, packet, sink);
    }

    fn set_ip_length(frame: &mut [u8], l3: usize, old: u16, new: u16) {
        ipv4::set_total_length(frame, l3, new);
        ipv4::apply_checksum(frame, l3, Delta::u16(old, new));
    }

    fn transport_checksum(source: u32, destination: u32, protocol: u8, segment: &[u8]) -> u16 {
        checksum::transport_v4(source, destination, protocol, segment)
    }

    fn write_datagram(out: &mut [u8], ends: [(u32, u16); 2], id: u16, payload: &[u8]) -> usize {
        datagram::write_v4(out, ends[0], ends[1], Some(id), payload)
    }
}

impl Ip for u128 {
    // A session is two lines to fetch.
    const BLOCK: usize = MAX_BLOCK / 2;

    #[inline(always)]
    fn is_stateful(policy: &Policy) -> bool {
        policy.stateful_v6
    }

    #[inline(always)]
    fn batch<'a>(_: &'a mut Batch<u32>, v6: &'a mut Batch<u128>) -> &'a mut Batch<u128> {
        v6
    }

    #[inline]
    fn knock<'a>(
        _: &Nat<u128>,
        _: &Policy,
        _: impl FnOnce() -> Option<&'a Interface>,
        _: [u128; 3],
    ) -> Option<Knock> {
        None
    }

    #[inline]
    fn ends(frame: &[u8], packet: &Parsed) -> (u128, u128) {
        let l3 = usize::from(packet.l3);
        (ipv6::source(frame, l3), ipv6::destination(frame, l3))
    }

    fn complaint(frame: &[u8], packet: &Parsed) -> Result<Complaint<u128>, DropReason> {
        Complaint::read_v6(frame, packet)
    }

    fn insane<B: Buffer>(
        shard: &Shard<B>,
        policy: &Policy,
        incoming: &Incoming<B>,
        packet: &Parsed,
    ) -> Option<DropReason> {
        shard.insane_v6(policy, incoming, packet)
    }

    fn on_link(policy: &Policy, ingress: InterfaceId, address: u128) -> bool {
        policy
            .interfaces
            .get(ingress)
            .is_some_and(|on| on.link_local == address)
    }

    fn deliver<B: Buffer>(
        shard: &mut Shard<B>,
        policy: &Policy,
        now: Now,
        incoming: Incoming<B>,
        packet: &Parsed,
        sink: &mut impl Sink<B>,
    ) {
        shard.local_v6(policy, now, incoming, packet, sink);
    }

    fn set_ip_length(frame: &mut [u8], l3: usize, _: u16, new: u16) {
        ipv6::set_payload_length(frame, l3, new - ipv6::HEADER as u16);
    }

    fn transport_checksum(source: u128, destination: u128, protocol: u8, segment: &[u8]) -> u16 {
        checksum::transport_v6(source, destination, protocol, segment)
    }

    fn write_datagram(out: &mut [u8], ends: [(u128, u16); 2], _: u16, payload: &[u8]) -> usize {
        datagram::write_v6(out, ends[0], ends[1], payload)
    }
}
