//! Layer-3 interfaces: a port, or a VLAN of one, with its addresses.
//!
//! The configuration builds [`Interfaces`] once per policy. A received frame finds its interface with one load
//! ([`Interfaces::lookup`]); everything the gateway sends itself takes its source address from the interface it leaves by
//! ([`Interface::source_v4`], [`Interface::source_v6`]).

use crate::base::{InterfaceId, PortId, RealmId, VlanId};
use crate::wire::MacAddr;
use ipnet::{Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// VLAN tags a port can carry; tag 0 stands for "untagged" (and priority-tagged, IEEE 802.1Q 6.9).
const TAGS: usize = 4096;
/// No interface has this tag.
const NOBODY: u16 = u16::MAX;

/// Source verification by the routing table (RFC 3704).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Urpf {
    /// None.
    #[default]
    Off,
    /// The route back to the source leaves through the interface the packet came in on (RFC 3704 §2.2).
    Strict,
    /// There is a route back to the source; the default route is one (RFC 3704 §2.4).
    Loose,
}

impl Urpf {
    /// Whether a packet may come in on `ingress` from a source to which `back` is the interface of the route.
    pub fn admits(self, ingress: InterfaceId, back: impl FnOnce() -> Option<InterfaceId>) -> bool {
        match self {
            Urpf::Off => true,
            Urpf::Strict => back() == Some(ingress),
            Urpf::Loose => back().is_some(),
        }
    }
}

/// One layer-3 interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its number, stable across reloads.
    pub id: InterfaceId,
    /// Its name in the configuration.
    pub name: String,
    /// The device its frames use.
    pub port: PortId,
    /// The 802.1Q tag its frames carry.
    pub vlan: Option<VlanId>,
    /// The gateway's own MAC address on it.
    pub mac: MacAddr,
    /// Largest IP packet it sends, in bytes (the Ethernet header does not count).
    pub mtu: u16,
    /// The address realm (`vrf`) it belongs to.
    pub realm: RealmId,
    /// Whether transit packets that arrive here are forwarded.
    pub forward: bool,
    /// How sources of packets that arrive here are verified.
    pub urpf: Urpf,
    /// Largest TCP MSS option let through; 0 leaves it alone.
    pub clamp_mss: u16,
    /// Whether its IPv4 address is leased: what a DHCP server says here is for the client.
    pub dhcp: bool,
    /// Whether the link works; routes through an interface that is down are not used.
    pub up: bool,
    /// IPv4 addresses, each with its subnet; the first is the primary one.
    pub v4: Vec<Ipv4Net>,
    /// IPv6 addresses other than the link-local one, each with its subnet; the first is the primary one.
    pub v6: Vec<Ipv6Net>,
    /// The IPv6 link-local address, see [`link_local`].
    pub link_local: u128,
}

/// The link-local address a MAC address yields: `fe80::/64` and the modified EUI-64 identifier (RFC 4291 appendix A).
pub fn link_local(mac: MacAddr) -> u128 {
    let [a, b, c, d, e, f] = mac.0;
    let identifier = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    0xfe80 << 112 | u128::from(identifier)
}

/// Whether an IPv6 address is link-local (`fe80::/10`).
pub fn is_link_local(address: u128) -> bool {
    address >> 118 == 0xfe80 >> 6
}

impl Interface {
    /// The source of a packet the gateway itself sends to `towards` through this interface: the address whose subnet
    /// holds it, else the primary one (RFC 1812 §4.3.2.4). `None` if the interface has no IPv4 address: the caller
    /// must not borrow another interface's.
    pub fn source_v4(&self, towards: u32) -> Option<u32> {
        let towards = Ipv4Addr::from(towards);
        let near = self.v4.iter().find(|net| net.contains(&towards));
        near.or(self.v4.first()).map(|net| net.addr().into())
    }

    /// Like [`source_v4`](Self::source_v4): the link-local address towards link-local addresses and link-local
    /// multicast, else the address whose subnet holds `towards`, else the primary one. `None` towards a wider scope if
    /// there is only the link-local address, which no router would carry (RFC 4007 §9).
    pub fn source_v6(&self, towards: u128) -> Option<u128> {
        if is_link_local(towards) || towards >> 112 == 0xff02 {
            return Some(self.link_local);
        }
        let towards = Ipv6Addr::from(towards);
        let near = self.v6.iter().find(|net| net.contains(&towards));
        near.or(self.v6.first()).map(|net| net.addr().into())
    }

    /// Whether `address` is one of this interface's own.
    pub fn owns_v4(&self, address: u32) -> bool {
        self.v4.iter().any(|net| u32::from(net.addr()) == address)
    }

    /// Whether `address` is one of this interface's own, the link-local one included.
    pub fn owns_v6(&self, address: u128) -> bool {
        address == self.link_local || self.v6.iter().any(|net| u128::from(net.addr()) == address)
    }

    /// Whether `address` is one of this interface's own, either family.
    pub fn owns(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.owns_v4(v4.into()),
            IpAddr::V6(v6) => self.owns_v6(v6.into()),
        }
    }

    /// Whether `address` lies in one of this interface's subnets (link-local IPv6 always does).
    pub fn on_link(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.v4.iter().any(|net| net.contains(&v4)),
            IpAddr::V6(v6) => {
                is_link_local(v6.into()) || self.v6.iter().any(|net| net.contains(&v6))
            }
        }
    }

    /// Whether `address` means everybody on this link: 255.255.255.255, or the all-ones or all-zeros host part of a
    /// subnet (RFC 1812 §4.2.3.1). Subnets of /31 and /32 have neither (RFC 3021).
    pub fn is_broadcast(&self, address: u32) -> bool {
        address == u32::MAX
            || self
                .v4
                .iter()
                .any(|&net| broadcasts(net).is_some_and(|ends| ends.contains(&address)))
    }
}

/// A subnet's network and broadcast address, if it is wide enough to have them.
pub(super) fn broadcasts(net: Ipv4Net) -> Option<[u32; 2]> {
    (net.prefix_len() <= 30).then(|| [net.network().into(), net.broadcast().into()])
}

/// All interfaces of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interfaces {
    /// Indexed by id; ids of removed interfaces leave holes.
    slots: Vec<Option<Interface>>,
    /// Indexed by port and tag.
    by_tag: Vec<u16>,
}

impl Interfaces {
    /// Collects interfaces. Of two with the same id, or the same port and tag, the later one stays; the configuration
    /// refuses both cases beforehand.
    pub fn new(list: impl IntoIterator<Item = Interface>) -> Interfaces {
        let mut all = Interfaces::default();
        for interface in list {
            let at = tag_index(interface.port, interface.vlan);
            if all.by_tag.len() <= at {
                let ports = interface.port.index() + 1;
                all.by_tag.resize(ports * TAGS, NOBODY);
            }
            all.by_tag[at] = interface.id.0;
            let slot = interface.id.index();
            if all.slots.len() <= slot {
                all.slots.resize(slot + 1, None);
            }
            all.slots[slot] = Some(interface);
        }
        all
    }

    /// The interface with this id.
    #[inline]
    pub fn get(&self, id: InterfaceId) -> Option<&Interface> {
        self.slots.get(id.index())?.as_ref()
    }

    /// The interface with this name.
    pub fn by_name(&self, name: &str) -> Option<&Interface> {
        self.iter().find(|interface| interface.name == name)
    }

    /// Whose a frame is that arrived at `port` with this tag (tag 0 counts as none). One load.
    #[inline]
    pub fn lookup(&self, port: PortId, vlan: Option<VlanId>) -> Option<InterfaceId> {
        match self.by_tag.get(tag_index(port, vlan)) {
            Some(&id) if id != NOBODY => Some(InterfaceId(id)),
            _ => None,
        }
    }

    /// Every interface, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Interface> + Clone {
        self.slots.iter().flatten()
    }

    /// Records that a port's link came or went; routes must be built anew afterwards. Says whether anything changed.
    pub fn set_port_up(&mut self, port: PortId, up: bool) -> bool {
        let mut changed = false;
        for interface in self.slots.iter_mut().flatten() {
            if interface.port == port && interface.up != up {
                interface.up = up;
                changed = true;
            }
        }
        changed
    }
}

/// Where a port's tag stands in [`Interfaces::by_tag`].
#[inline]
fn tag_index(port: PortId, vlan: Option<VlanId>) -> usize {
    port.index() * TAGS + vlan.map_or(0, |vlan| vlan.index() % TAGS)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An interface on a port of its own: `sample(1, &["10.0.0.1/24", "2001:db8::1/64"])`.
    pub(crate) fn sample(id: u16, addresses: &[&str]) -> Interface {
        let mac = MacAddr([0x02, 0, 0, 0, 0, id as u8]);
        Interface {
            id: InterfaceId(id),
            name: format!("if{id}"),
            port: PortId(id),
            vlan: None,
            mac,
            mtu: 1500,
            realm: RealmId(0),
            forward: true,
            urpf: Urpf::Off,
            clamp_mss: 0,
            dhcp: false,
            up: true,
            v4: addresses.iter().filter_map(|a| a.parse().ok()).collect(),
            v6: addresses.iter().filter_map(|a| a.parse().ok()).collect(),
            link_local: link_local(mac),
        }
    }

    /// An IPv4 address as the packet path writes it.
    pub(crate) fn v4(text: &str) -> u32 {
        text.parse::<Ipv4Addr>().unwrap().into()
    }

    /// An IPv6 address as the packet path writes it.
    pub(crate) fn v6(text: &str) -> u128 {
        text.parse::<Ipv6Addr>().unwrap().into()
    }

    #[test]
    fn link_local_is_the_modified_eui_64() {
        let mac = MacAddr([0x00, 0x1b, 0x21, 0x3c, 0x4d, 0x5e]);
        assert_eq!(link_local(mac), v6("fe80::21b:21ff:fe3c:4d5e"));
        assert!(is_link_local(v6("febf::1")) && !is_link_local(v6("fec0::1")));
    }

    #[test]
    fn sources_come_from_the_subnet_of_the_receiver() {
        let lan = sample(
            1,
            &[
                "10.0.0.1/24",
                "10.1.0.1/16",
                "2001:db8:1::1/64",
                "2001:db8:2::1/64",
            ],
        );
        assert_eq!(lan.source_v4(v4("10.1.9.9")), Some(v4("10.1.0.1")));
        assert_eq!(lan.source_v4(v4("192.0.2.1")), Some(v4("10.0.0.1")));
        assert_eq!(
            lan.source_v6(v6("2001:db8:2::9")),
            Some(v6("2001:db8:2::1"))
        );
        assert_eq!(
            lan.source_v6(v6("2001:db8:9::9")),
            Some(v6("2001:db8:1::1"))
        );
        assert_eq!(lan.source_v6(v6("fe80::9")), Some(lan.link_local));
        assert_eq!(lan.source_v6(v6("ff02::1")), Some(lan.link_local));
        let bare = sample(2, &[]);
        assert_eq!(bare.source_v4(v4("10.0.0.9")), None, "never borrowed");
        assert_eq!(bare.source_v6(v6("2001:db8::9")), None);
    }

    #[test]
    fn broadcasts_depend_on_the_subnet() {
        let lan = sample(1, &["10.0.0.1/24", "192.0.2.0/31", "192.0.2.9/32"]);
        for everybody in ["255.255.255.255", "10.0.0.255", "10.0.0.0"] {
            assert!(lan.is_broadcast(v4(everybody)), "{everybody}");
        }
        for host in [
            "10.0.0.1",
            "10.0.1.255",
            "192.0.2.0",
            "192.0.2.1",
            "192.0.2.9",
        ] {
            assert!(!lan.is_broadcast(v4(host)), "{host}");
        }
    }

    #[test]
    fn frames_find_their_interface_by_port_and_tag() {
        let mut tagged = sample(3, &[]);
        tagged.port = PortId(1);
        tagged.vlan = Some(VlanId(4094));
        let mut all = Interfaces::new([tagged, sample(1, &[])]);
        let find = |all: &Interfaces, port, vlan: Option<u16>| {
            all.lookup(PortId(port), vlan.map(VlanId)).map(|id| id.0)
        };
        assert_eq!(find(&all, 1, None), Some(1));
        assert_eq!(find(&all, 1, Some(0)), Some(1), "a priority tag is no VLAN");
        assert_eq!(find(&all, 1, Some(4094)), Some(3));
        assert_eq!(find(&all, 1, Some(7)), None);
        assert_eq!(find(&all, 0, None), None);
        assert_eq!(find(&all, 2, None), None, "beyond the array");
        assert_eq!(all.by_name("if3").map(|i| i.id), Some(InterfaceId(3)));
        assert!(all.get(InterfaceId(0)).is_none() && all.get(InterfaceId(9)).is_none());
        assert_eq!(all.iter().count(), 2);
        assert!(all.set_port_up(PortId(1), false) && !all.set_port_up(PortId(1), false));
        assert!(all.iter().all(|i| !i.up), "both live on the port");
    }
}
