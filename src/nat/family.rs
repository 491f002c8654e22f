//! What differs between IPv4 and IPv6 where new flows are decided.
//!
//! Rules, mappings, sessions and the slow path are written once over [`Family`]: a worker has one table of sessions for each,
//! a policy one list of rules for each, and pools hold addresses of both.

use std::ops::{BitAnd, BitOr, Not};

use crate::base::RealmId;
use crate::flow::key::Address;
use crate::gateway::interface::Interface;
use crate::gateway::lpm;
use crate::gateway::routes::{Hop, Local, Routes};
use crate::nat::filter::conditions::{Crossing, IcmpKind};
use crate::nat::filter::{Filter, Verdict};
use crate::nat::matcher::Value;
use crate::nat::policy::{NatPolicy, Translation};
use crate::nat::rewrite;
use crate::nat::state::Nat;
use crate::wire::checksum::Delta;
use crate::wire::plain::{Ends, LEAST_V4, LEAST_V6};
use crate::wire::{ICMP, ICMPV6, ipv6};

/// An address family: `u32` for IPv4, `u128` for IPv6.
pub trait Family:
    Address<Pair: Ends>
    + lpm::Address
    + Value
    + Into<u128>
    + BitAnd<Output = Self>
    + BitOr<Output = Self>
    + Not<Output = Self>
{
    /// Bytes of its IP header without options.
    const HEADER: usize;
    /// Protocol number of its ICMP.
    const ICMP: u8;
    /// Its echo request.
    const ECHO: IcmpKind;

    /// The sessions of this family.
    fn nat<'a>(v4: &'a Nat<u32>, v6: &'a Nat<u128>) -> &'a Nat<Self>;
    /// The same, to change.
    fn nat_mut<'a>(v4: &'a mut Nat<u32>, v6: &'a mut Nat<u128>) -> &'a mut Nat<Self>;
    /// The rules for it.
    fn translation(nat: &NatPolicy) -> &Translation<Self>;
    /// Where packets to `destination` leave.
    fn route(routes: &Routes, realm: RealmId, destination: Self, hash: u32) -> Option<Hop<Self>>;
    /// Whose an address of the gateway's own is; link-local ones are not known here.
    fn local(routes: &Routes, realm: RealmId, address: Self) -> Option<Local>;
    /// An interface's own address towards another.
    fn source(interface: &Interface, towards: Self) -> Option<Self>;
    /// The filter's word.
    fn judge(filter: &Filter, packet: &Crossing<Self>) -> Verdict;
    /// What changing an address does to a checksum.
    fn delta(old: Self, new: Self) -> Delta;
    /// The address as 32 bits, for choices that shall come out alike everywhere.
    fn fold(self) -> u32;
    /// Writes source and destination into the IP header at `l3`, repairs its checksum by `delta` where it has one, and
    /// returns what that does to a sum over the checksum.
    fn write_ends(frame: &mut [u8], l3: usize, source: Self, to: Self, delta: Delta) -> Delta;
    /// Writes addresses and ports (the source port in the low half) into the plain packet at `l3`, takes one hop off, and
    /// repairs the header's checksum, where it has one, by that and by `delta`.
    fn write_plain(
        head: &mut <Self::Pair as Ends>::Head,
        l3: usize,
        ends: Self::Pair,
        ports: u32,
        delta: Delta,
    );
    /// Takes one hop off the IP header at `l3`. The caller has seen to more than one.
    fn lower_hops(frame: &mut [u8], l3: usize);
}

impl Family for u32 {
    const HEADER: usize = 20;
    const ICMP: u8 = ICMP;
    const ECHO: IcmpKind = IcmpKind { kind: 8, code: 0 };

    #[inline(always)]
    fn nat<'a>(v4: &'a Nat<u32>, _: &'a Nat<u128>) -> &'a Nat<u32> {
        v4
    }

    #[inline(always)]
    fn nat_mut<'a>(v4: &'a mut Nat<u32>, _: &'a mut Nat<u128>) -> &'a mut Nat<u32> {
        v4
    }

    #[inline]
    fn translation(nat: &NatPolicy) -> &Translation<u32> {
        &nat.v4
    }

    #[inline]
    fn route(routes: &Routes, realm: RealmId, destination: u32, hash: u32) -> Option<Hop<u32>> {
        routes.route_v4(realm, destination, hash)
    }

    #[inline]
    fn local(routes: &Routes, realm: RealmId, address: u32) -> Option<Local> {
        routes.local_v4(realm, address)
    }

    fn source(interface: &Interface, towards: u32) -> Option<u32> {
        interface.source_v4(towards)
    }

    fn judge(filter: &Filter, packet: &Crossing<u32>) -> Verdict {
        filter.judge_v4(packet)
    }

    #[inline]
    fn delta(old: u32, new: u32) -> Delta {
        Delta::u32(old, new)
    }

    #[inline]
    fn fold(self) -> u32 {
        self
    }

    #[inline]
    fn write_ends(frame: &mut [u8], l3: usize, source: u32, to: u32, delta: Delta) -> Delta {
        rewrite::write_ends_v4(frame, l3, source, to, delta)
    }

    #[inline(always)]
    fn write_plain(head: &mut [u8; LEAST_V4], l3: usize, ends: u64, ports: u32, delta: Delta) {
        rewrite::write_plain_v4(head, l3, ends, ports, delta);
    }

    #[inline]
    fn lower_hops(frame: &mut [u8], l3: usize) {
        rewrite::decrement_ttl(frame, l3);
    }
}

impl Family for u128 {
    const HEADER: usize = ipv6::HEADER;
    const ICMP: u8 = ICMPV6;
    const ECHO: IcmpKind = IcmpKind { kind: 128, code: 0 };

    #[inline(always)]
    fn nat<'a>(_: &'a Nat<u32>, v6: &'a Nat<u128>) -> &'a Nat<u128> {
        v6
    }

    #[inline(always)]
    fn nat_mut<'a>(_: &'a mut Nat<u32>, v6: &'a mut Nat<u128>) -> &'a mut Nat<u128> {
        v6
    }

    #[inline]
    fn translation(nat: &NatPolicy) -> &Translation<u128> {
        &nat.v6
    }

    #[inline]
    fn route(routes: &Routes, realm: RealmId, destination: u128, hash: u32) -> Option<Hop<u128>> {
        routes.route_v6(realm, destination, hash)
    }

    #[inline]
    fn local(routes: &Routes, realm: RealmId, address: u128) -> Option<Local> {
        routes.local_v6(realm, address)
    }

    fn source(interface: &Interface, towards: u128) -> Option<u128> {
        interface.source_v6(towards)
    }

    fn judge(filter: &Filter, packet: &Crossing<u128>) -> Verdict {
        filter.judge_v6(packet)
    }

    #[inline]
    fn delta(old: u128, new: u128) -> Delta {
        Delta::u128(old, new)
    }

    #[inline]
    fn fold(self) -> u32 {
        let half = (self ^ self >> 64) as u64;
        (half ^ half >> 32) as u32
    }

    #[inline]
    fn write_ends(frame: &mut [u8], l3: usize, source: u128, to: u128, _: Delta) -> Delta {
        ipv6::set_source(frame, l3, source);
        ipv6::set_destination(frame, l3, to);
        Delta::NONE
    }

    #[inline(always)]
    fn write_plain(head: &mut [u8; LEAST_V6], l3: usize, ends: [u128; 2], ports: u32, _: Delta) {
        rewrite::write_plain_v6(head, l3, ends, ports);
    }

    #[inline]
    fn lower_hops(frame: &mut [u8], l3: usize) {
        ipv6::decrement_hop_limit(frame, l3);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Choices among equal routes and targets depend on it, and shall come out alike everywhere.
    #[test]
    fn every_part_of_an_address_counts_when_it_is_folded() {
        let address = 0x2001_0db8_0001_0002_0003_0004_0005_0006u128;
        assert_eq!(address.fold(), 0x2006_0db8);
        assert_eq!((0xfd00_0001u128 << 96 | 9).fold(), 0xfd00_0008);
        assert_eq!(0x0a00_0002u32.fold(), 0x0a00_0002);
        for bit in 0..128 {
            assert_eq!((1u128 << bit).fold(), 1 << (bit % 32));
        }
    }
}
