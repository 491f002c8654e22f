//! `[[interface]]`, without errors.

use std::net::IpAddr;

use ipnet::{Ipv4Net, Ipv6Net};

use super::validated::{Grant, Label};
use crate::base::{PortId, RealmId, VlanId};
use crate::nat::helpers::Helpers;

/// `[[interface]]`: where addresses, routes and rules live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Name, comment, origin.
    pub label: Label,
    /// The port below.
    pub port: PortId,
    /// The VLAN on that port; `None` is untagged.
    pub vlan: Option<VlanId>,
    /// Configured IPv4 addresses with their subnets; the first is the primary one.
    pub v4: Vec<Ipv4Net>,
    /// A DHCP server gives the IPv4 address; none is configured then.
    pub dhcp: bool,
    /// What it gave, for now. No part of the configuration: it comes and goes while this one is in force.
    pub grant: Option<Grant>,
    /// IPv6 addresses with their subnets; link-local ones are added by the gateway.
    pub v6: Vec<Ipv6Net>,
    /// The realm (vrf) the interface's addresses live in.
    pub realm: RealmId,
    /// Carry transit traffic arriving here.
    pub forward: bool,
    /// Source address verification.
    pub urpf: Urpf,
    /// Clamp the MSS of TCP SYNs to this; 0 is off.
    pub clamp_mss: u16,
    /// Application helpers for flows that are translated to its addresses without a pool of the configuration.
    pub helpers: Helpers,
    /// Largest IP packet, in bytes; never above the port's.
    pub mtu: u16,
}

impl Interface {
    /// The host addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let v4 = self.nets_v4().map(|net| IpAddr::V4(net.addr()));
        v4.chain(self.v6.iter().map(|net| IpAddr::V6(net.addr())))
    }

    /// The IPv4 addresses with their subnets, the leased one included.
    pub fn nets_v4(&self) -> impl Iterator<Item = Ipv4Net> + '_ {
        let leased = self.grant.iter().map(|grant| grant.net);
        self.v4.iter().copied().chain(leased)
    }

    /// Addresses it has, or will have.
    pub fn address_count(&self) -> usize {
        self.v4.len() + self.v6.len() + usize::from(self.dhcp)
    }

    /// The MTU, as far as a DHCP server does not lower it; IPv6 needs its least (RFC 8200 section 5).
    pub fn link_mtu(&self) -> u16 {
        let least = if self.v6.is_empty() { 0 } else { 1280 };
        let of_lease = self.grant.as_ref().and_then(|grant| grant.mtu);
        of_lease.map_or(self.mtu, |mtu| mtu.max(least).min(self.mtu))
    }

    /// Whether `address` is on a subnet of this interface.
    pub fn is_connected(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.nets_v4().any(|net| net.contains(&v4)),
            IpAddr::V6(v6) => self.v6.iter().any(|net| net.contains(&v6)),
        }
    }
}

/// Source address verification (RFC 3704).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urpf {
    /// Off.
    Off,
    /// The route back to the source must leave through the receiving interface.
    Strict,
    /// There must be a route back to the source.
    Loose,
}
