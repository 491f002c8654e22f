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
use crate::wire::checksum::Delta;
use crate::wire::{ICMP, ICMPV6};

/// An address family: `u32` for IPv4, `u128` for IPv6.
pub trait Family:
    Address
    + lpm::Address
    + Value
    + Into<u128>
    + BitAnd<Output = Self>
    + BitOr<Output = Self>
    + Not<Output = Self>
{
    /// Protocol number of its ICMP.
    const ICMP: u8;
    /// Its echo request.
    const ECHO: IcmpKind;

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
}

impl Family for u32 {
    const ICMP: u8 = ICMP;
    const ECHO: IcmpKind = IcmpKind { kind: 8, code: 0 };

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
}

impl Family for u128 {
    const ICMP: u8 = ICMPV6;
    const ECHO: IcmpKind = IcmpKind { kind: 128, code: 0 };

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
}
