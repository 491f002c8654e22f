//! IPv4 or IPv6: what generated packets are.
//!
//! Hosts, remotes and external addresses are numbers of 32 bits in both. An IPv4 address is such a number; an IPv6 address
//! has it in its last 32 bits, behind the same 96 for all. So there is one generator, and only headers differ.

use std::net::IpAddr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::wire::checksum;

/// An address family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    #[default]
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// What all IPv6 addresses begin with: 2001:db8::/96 (RFC 3849).
const PREFIX: u128 = 0x2001_0db8 << 96;

impl Family {
    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// The address with this number.
    pub fn address(self, number: u32) -> IpAddr {
        match self {
            Family::Ipv4 => IpAddr::V4(number.into()),
            Family::Ipv6 => IpAddr::V6(long(number).into()),
        }
    }

    /// The prefix length that leaves out as many bits as `length` does in IPv4.
    pub fn prefix_length(self, length: u8) -> u8 {
        match self {
            Family::Ipv4 => length,
            Family::Ipv6 => 96 + length,
        }
    }

    /// The smallest frame with the flow's numbers in it, without the checksum the wire adds: Ethernet's own least, or that
    /// of a UDP datagram with eight bytes.
    pub const fn smallest(self) -> usize {
        match self {
            Family::Ipv4 => 60,
            Family::Ipv6 => 70,
        }
    }

    /// What every pair of addresses adds to the sum over a pseudo header, besides their numbers.
    pub(super) fn addresses_sum(self) -> u64 {
        match self {
            Family::Ipv4 => 0,
            Family::Ipv6 => 2 * u64::from(checksum::sum(&PREFIX.to_be_bytes())),
        }
    }
}

/// The IPv6 address with this number.
#[inline]
pub fn long(number: u32) -> u128 {
    PREFIX | u128::from(number)
}

/// The number of an IPv6 address; `None` for one that is not of the benchmark's.
#[inline]
pub fn number(address: u128) -> Option<u32> {
    (address & !u128::from(u32::MAX) == PREFIX).then_some(address as u32)
}
