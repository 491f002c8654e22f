//! Addresses the gateway answers ARP and neighbour solicitations for although no interface has them: pool addresses in
//! a connected subnet. Without the answer no reply would ever reach the translator.

use super::Interfaces;
use super::mapped;
use crate::base::InterfaceId;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A run of addresses that is answered for on one interface. Both ends belong to it and to one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyRange {
    /// Where the addresses are on link.
    pub interface: InterfaceId,
    /// The lowest address.
    pub first: IpAddr,
    /// The highest address.
    pub last: IpAddr,
}

/// The addresses answered for, as sorted runs that do not overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxy {
    /// (interface, first, last), both families in one key space.
    runs: Vec<(InterfaceId, u128, u128)>,
}

impl Proxy {
    /// Finds where each range of pool addresses (first, last) is on link; a range that spans subnets is cut. Returns
    /// the positions of ranges that are on link nowhere as well: their replies come only if an upstream router has a
    /// route, which is worth a warning. A reversed or mixed range is on link nowhere.
    pub fn build(interfaces: &Interfaces, ranges: &[(IpAddr, IpAddr)]) -> (Proxy, Vec<usize>) {
        let mut runs = Vec::new();
        let mut unrouted = Vec::new();
        for (position, &(first, last)) in ranges.iter().enumerate() {
            let before = runs.len();
            if first.is_ipv4() == last.is_ipv4() {
                let (first, last) = (mapped(first), mapped(last));
                for interface in interfaces.iter() {
                    for (low, high) in subnets(interface) {
                        let (low, high) = (low.max(first), high.min(last));
                        if low <= high {
                            runs.push((interface.id, low, high));
                        }
                    }
                }
            }
            if runs.len() == before {
                unrouted.push(position);
            }
        }
        runs.sort_unstable();
        // Join what overlaps, so that one probe of a binary search decides.
        runs.dedup_by(|next, kept| {
            let joins = next.0 == kept.0 && next.1 <= kept.2;
            if joins {
                kept.2 = kept.2.max(next.2);
            }
            joins
        });
        (Proxy { runs }, unrouted)
    }

    /// Whether `interface` answers for `address`. Its own addresses are not in here: ask
    /// [`Interface::owns`](super::Interface::owns) first.
    // Implements: F13.
    pub fn answers(&self, interface: InterfaceId, address: IpAddr) -> bool {
        let key = mapped(address);
        let behind = self
            .runs
            .partition_point(|&(id, first, _)| (id, first) <= (interface, key));
        behind > 0 && {
            let (id, _, last) = self.runs[behind - 1];
            id == interface && key <= last
        }
    }

    /// Every run, for gratuitous ARP and for display.
    pub fn ranges(&self) -> impl Iterator<Item = ProxyRange> {
        self.runs
            .iter()
            .map(|&(interface, first, last)| ProxyRange {
                interface,
                first: unmapped(first),
                last: unmapped(last),
            })
    }
}

/// First and last address of an interface's subnets.
fn subnets(interface: &super::Interface) -> impl Iterator<Item = (u128, u128)> {
    let v4 = interface.v4.iter().map(|&net| IpNet::V4(net));
    let v6 = interface.v6.iter().map(|&net| IpNet::V6(net));
    v4.chain(v6)
        .map(|net| (mapped(net.network()), mapped(net.broadcast())))
}

/// Undoes [`mapped`].
fn unmapped(key: u128) -> IpAddr {
    match key >> 32 {
        0xffff => Ipv4Addr::from(key as u32).into(),
        _ => Ipv6Addr::from(key).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::interface::tests::sample;
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn pools_are_answered_where_they_are_on_link() {
        let all = Interfaces::new([
            sample(1, &["203.0.113.1/25", "2001:db8::1/64"]),
            sample(2, &["203.0.113.129/25"]),
        ]);
        let pools = [
            (ip("203.0.113.120"), ip("203.0.113.140")),
            (ip("198.51.100.0"), ip("198.51.100.255")),
            (ip("2001:db8::100"), ip("2001:db8::1ff")),
            (ip("203.0.113.9"), ip("203.0.113.2")),
        ];
        let (proxy, unrouted) = Proxy::build(&all, &pools);
        assert_eq!(unrouted, [1, 3]);
        let answers = |id, text| proxy.answers(InterfaceId(id), ip(text));
        assert!(answers(1, "203.0.113.120") && answers(1, "203.0.113.127"));
        assert!(!answers(1, "203.0.113.119") && !answers(1, "203.0.113.128"));
        assert!(answers(2, "203.0.113.128") && answers(2, "203.0.113.140"));
        assert!(!answers(2, "203.0.113.120") && !answers(2, "203.0.113.141"));
        assert!(answers(1, "2001:db8::1ff") && !answers(2, "2001:db8::1ff"));
        assert!(!answers(0, "203.0.113.120") && !answers(9, "203.0.113.120"));
        assert!(!answers(1, "198.51.100.7"));
        assert_eq!(
            proxy.ranges().map(|r| r.last).max(),
            Some(ip("2001:db8::1ff"))
        );
    }

    #[test]
    fn overlapping_ranges_are_joined() {
        let all = Interfaces::new([sample(1, &["10.0.0.1/8"])]);
        let pools = [
            (ip("10.0.0.5"), ip("10.0.0.90")),
            (ip("10.0.0.10"), ip("10.0.0.20")),
            (ip("10.0.0.80"), ip("10.0.0.99")),
        ];
        let (proxy, _) = Proxy::build(&all, &pools);
        assert_eq!(proxy.ranges().count(), 1);
        for last in 0..=255 {
            let address = IpAddr::V4([10, 0, 0, last].into());
            let inside = (5..=99).contains(&last);
            assert_eq!(proxy.answers(InterfaceId(1), address), inside, "{address}");
        }
    }
}
