//! What differs between IPv4 and IPv6 on a packet's way through a shard.

use crate::base::time::Now;
use crate::base::{DropReason, InterfaceId};
use crate::dataplane::buffer::{Buffer, Incoming, Sink};
use crate::dataplane::help::Helped;
use crate::dataplane::shard::Shard;
use crate::flow::key::Tuple;
use crate::flow::session::Session;
use crate::nat::family::Family;
use crate::nat::helpers;
use crate::nat::icmp::Complaint;
use crate::nat::policy::Policy;
use crate::wire::parse::Parsed;
use crate::wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, ipv6};

/// An address family, as packets have it.
pub(super) trait Ip: Family {
    /// Its EtherType.
    const ETHERTYPE: u16;

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

    /// Does what a session's helper does with a packet. There are helpers for IPv4 alone.
    ///
    /// # Errors
    /// The reason to drop the packet.
    fn help<B: Buffer>(shard: &mut Shard<B>, helped: Helped<'_, Self, B>)
    -> Result<(), DropReason>;
    /// Marks a session that gets help.
    fn mark_helped(policy: &Policy, session: &mut Session<Self>);

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
    const ETHERTYPE: u16 = ETHERTYPE_IPV4;

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

    fn help<B: Buffer>(shard: &mut Shard<B>, helped: Helped<'_, u32, B>) -> Result<(), DropReason> {
        shard.help(helped)
    }

    fn mark_helped(policy: &Policy, session: &mut Session<u32>) {
        helpers::mark(policy, session);
    }
}

impl Ip for u128 {
    const ETHERTYPE: u16 = ETHERTYPE_IPV6;

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

    fn help<B: Buffer>(_: &mut Shard<B>, _: Helped<'_, u128, B>) -> Result<(), DropReason> {
        Ok(())
    }

    fn mark_helped(_: &Policy, _: &mut Session<u128>) {}
}
