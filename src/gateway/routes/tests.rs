//! Tests of the routes: who wins, who is skipped, what is refused.

use super::*;
use crate::gateway::interface::tests::{sample, v4, v6};
use proptest::prelude::*;

const MAIN: RealmId = RealmId(0);

fn route(prefix: &str, via: Option<&str>, interface: Option<u16>) -> StaticRoute {
    StaticRoute {
        realm: MAIN,
        prefix: prefix.parse().unwrap(),
        via: via.map(|via| via.parse().unwrap()),
        interface: interface.map(InterfaceId),
    }
}

fn three() -> Vec<Interface> {
    vec![
        sample(0, &["10.0.0.1/24", "2001:db8:a::1/64"]),
        sample(1, &["203.0.113.1/24", "203.0.113.2/24", "2001:db8:b::1/64"]),
        sample(2, &["198.51.100.1/24"]),
    ]
}

fn build(routes: &[StaticRoute]) -> Routes {
    Routes::build(&Interfaces::new(three()), routes).unwrap()
}

/// The reasons a single route is refused for.
fn refused(route: StaticRoute) -> Option<RouteErrorReason> {
    let errors = Routes::build(&Interfaces::new(three()), &[route]).err()?;
    assert_eq!(errors.len(), 1);
    Some(errors[0].reason)
}

fn connected_hop<A>(interface: u16, next_hop: A) -> Option<Hop<A>> {
    Some(Hop {
        interface: InterfaceId(interface),
        next_hop,
        kind: HopKind::Connected,
    })
}

fn gateway_hop<A>(interface: u16, next_hop: A) -> Option<Hop<A>> {
    Some(Hop {
        interface: InterfaceId(interface),
        next_hop,
        kind: HopKind::Gateway,
    })
}

#[test]
fn the_longest_prefix_decides() {
    let routes = build(&[
        route("0.0.0.0/0", Some("203.0.113.254"), None),
        route("10.0.0.0/8", Some("198.51.100.9"), None),
        route("10.7.0.0/16", None, Some(2)),
        route("::/0", Some("fe80::9"), Some(1)),
    ]);
    let go = |to| routes.route_v4(MAIN, v4(to), 7);
    assert_eq!(go("8.8.8.8"), gateway_hop(1, v4("203.0.113.254")));
    assert_eq!(go("10.9.0.1"), gateway_hop(2, v4("198.51.100.9")));
    assert_eq!(go("10.7.0.1"), connected_hop(2, v4("10.7.0.1")));
    assert_eq!(go("10.0.0.9"), connected_hop(0, v4("10.0.0.9")));
    assert_eq!(
        routes.route_v6(MAIN, v6("2001:db8:b::9"), 7),
        connected_hop(1, v6("2001:db8:b::9"))
    );
    assert_eq!(
        routes.route_v6(MAIN, v6("2001:db8:c::9"), 7),
        gateway_hop(1, v6("fe80::9"))
    );
    assert_eq!(
        routes.route_v4(RealmId(3), v4("8.8.8.8"), 7),
        None,
        "no such realm"
    );
    assert_eq!(build(&[]).route_v4(MAIN, v4("8.8.8.8"), 7), None);
}

#[test]
fn realms_do_not_see_each_other() {
    let mut all = three();
    all.push(Interface {
        realm: RealmId(2),
        ..sample(3, &["10.0.0.1/24"])
    });
    let other = StaticRoute {
        realm: RealmId(2),
        ..route("0.0.0.0/0", Some("10.0.0.254"), None)
    };
    let routes = Routes::build(&Interfaces::new(all), &[other]).unwrap();
    assert_eq!(
        routes.route_v4(RealmId(2), v4("10.0.0.9"), 0),
        connected_hop(3, v4("10.0.0.9"))
    );
    assert_eq!(
        routes.route_v4(RealmId(2), v4("8.8.8.8"), 0),
        gateway_hop(3, v4("10.0.0.254"))
    );
    assert_eq!(routes.route_v4(MAIN, v4("8.8.8.8"), 0), None);
    assert_eq!(
        routes
            .local_v4(RealmId(2), v4("10.0.0.1"))
            .map(|l| l.interface.0),
        Some(3)
    );
    assert_eq!(routes.local_v4(RealmId(2), v4("203.0.113.1")), None);
    assert_eq!(
        routes.route_v4(RealmId(1), v4("10.0.0.9"), 0),
        None,
        "a realm without interfaces"
    );
}

#[test]
fn a_route_that_names_an_interface_leads_out_of_its_realm() {
    let mut all = three();
    all.push(Interface {
        realm: RealmId(2),
        ..sample(3, &["10.0.0.1/24"])
    });
    let out = StaticRoute {
        realm: RealmId(2),
        ..route("0.0.0.0/0", Some("203.0.113.9"), Some(1))
    };
    let routes = Routes::build(&Interfaces::new(all.clone()), std::slice::from_ref(&out)).unwrap();
    assert_eq!(
        routes.route_v4(RealmId(2), v4("8.8.8.8"), 0),
        gateway_hop(1, v4("203.0.113.9"))
    );
    assert_eq!(
        routes.route_v4(RealmId(2), v4("10.0.0.9"), 0),
        connected_hop(3, v4("10.0.0.9")),
        "its own subnet is nearer"
    );
    assert_eq!(routes.route_v4(MAIN, v4("8.8.8.8"), 0), None);
    let gateway = StaticRoute {
        via: Some("203.0.113.1".parse().unwrap()),
        ..out
    };
    let errors = Routes::build(&Interfaces::new(all), &[gateway])
        .err()
        .unwrap();
    assert_eq!(errors[0].reason, RouteErrorReason::OwnAddress);
}

#[test]
fn own_addresses_and_broadcasts() {
    let routes = build(&[]);
    for (address, owner) in [
        ("10.0.0.1", Some(0)),
        ("203.0.113.2", Some(1)),
        ("10.0.0.2", None),
    ] {
        assert_eq!(
            routes.local_v4(MAIN, v4(address)).map(|l| l.interface.0),
            owner,
            "{address}"
        );
    }
    assert_eq!(
        routes
            .local_v6(MAIN, v6("2001:db8:b::1"))
            .map(|l| l.interface.0),
        Some(1)
    );
    assert_eq!(routes.local_v6(MAIN, sample(0, &[]).link_local), None);
    for (address, owner) in [
        ("10.0.0.255", Some(0)),
        ("198.51.100.0", Some(2)),
        ("10.0.0.9", None),
    ] {
        assert_eq!(
            routes.broadcast_v4(MAIN, v4(address)).map(|i| i.0),
            owner,
            "{address}"
        );
    }
    let all = Interfaces::new(three());
    assert!(Routes::is_broadcast(&all, InterfaceId(0), v4("10.0.0.255")));
    assert!(!Routes::is_broadcast(
        &all,
        InterfaceId(2),
        v4("10.0.0.255")
    ));
    assert!(!Routes::is_broadcast(&all, InterfaceId(9), u32::MAX));
}

#[test]
fn a_route_that_cannot_be_resolved_says_why() {
    use RouteErrorReason as No;
    let rows = [
        (route("10.0.0.0/8", None, None), No::NoNextHop),
        (
            route("10.0.0.0/8", Some("fe80::1"), Some(0)),
            No::FamilyMismatch,
        ),
        (
            route("10.0.0.0/8", Some("192.0.2.1"), None),
            No::NotConnected,
        ),
        (
            route("::/0", Some("fe80::1"), None),
            No::LinkLocalNeedsInterface,
        ),
        (
            route("10.0.0.0/8", Some("203.0.113.2"), None),
            No::OwnAddress,
        ),
        (
            route("::/0", Some("fe80::ff:fe00:1"), Some(1)),
            No::OwnAddress,
        ),
        (
            route("10.0.0.0/8", Some("203.0.113.255"), None),
            No::NotAHost,
        ),
        (
            route("10.0.0.0/8", Some("224.0.0.1"), Some(1)),
            No::NotAHost,
        ),
        (route("::/0", Some("ff02::1"), Some(1)), No::NotAHost),
        (route("10.0.0.0/8", None, Some(9)), No::UnknownInterface),
    ];
    for (bad, reason) in rows {
        assert_eq!(refused(bad.clone()), Some(reason), "{bad:?}");
    }
    assert_eq!(
        refused(route("10.0.0.0/8", Some("192.0.2.1"), Some(1))),
        None,
        "on link by decree"
    );
    assert_eq!(
        sample(1, &[]).link_local,
        v6("fe80::ff:fe00:1"),
        "the row above names interface 1's own"
    );
}

#[test]
fn all_errors_are_reported_at_once() {
    let good = route("0.0.0.0/0", Some("203.0.113.254"), None);
    let list = [
        route("10.0.0.0/8", None, None),
        good,
        route("10.0.0.0/8", None, Some(9)),
    ];
    let errors = Routes::build(&Interfaces::new(three()), &list).unwrap_err();
    assert_eq!(errors.iter().map(|e| e.index).collect::<Vec<_>>(), [0, 2]);
}

#[test]
fn interfaces_that_are_down_are_skipped() {
    let mut all = three();
    all[1].up = false;
    let list = [
        route("0.0.0.0/0", Some("203.0.113.254"), None),
        route("0.0.0.0/0", Some("198.51.100.9"), None),
        route("203.0.113.0/24", Some("10.0.0.7"), None),
    ];
    let routes = Routes::build(&Interfaces::new(all), &list).unwrap();
    for hash in 0..99 {
        assert_eq!(
            routes.route_v4(MAIN, v4("8.8.8.8"), hash),
            gateway_hop(2, v4("198.51.100.9"))
        );
    }
    let backup = routes.route_v4(MAIN, v4("203.0.113.9"), 0);
    assert_eq!(
        backup,
        gateway_hop(0, v4("10.0.0.7")),
        "the static route steps in"
    );
    assert!(
        routes.local_v4(MAIN, v4("203.0.113.1")).is_some(),
        "the address is still ours"
    );
    let up = build(&list).route_v4(MAIN, v4("203.0.113.9"), 0);
    assert_eq!(
        up,
        connected_hop(1, v4("203.0.113.9")),
        "connected beats static"
    );
}

#[test]
fn entries_show_what_is_used() {
    let routes = build(&[
        route("203.0.113.77/24", Some("10.0.0.7"), None),
        route("0.0.0.0/0", Some("10.0.0.7"), None),
    ]);
    let shown: Vec<_> = routes
        .entries()
        .iter()
        .filter(|e| e.prefix.addr().is_ipv4())
        .map(|e| (e.prefix.to_string(), e.configured, e.active))
        .collect();
    let row = |prefix: &str, configured, active| (prefix.to_string(), configured, active);
    assert_eq!(
        shown,
        [
            row("0.0.0.0/0", Some(1), true),
            row("10.0.0.0/24", None, true),
            row("198.51.100.0/24", None, true),
            row("203.0.113.0/24", None, true),
            // The second address in the same subnet, then the overruled static route.
            row("203.0.113.0/24", None, false),
            row("203.0.113.0/24", Some(0), false),
        ]
    );
}

#[test]
fn several_next_hops_share_flows_and_a_lost_one_moves_only_its_own() {
    let list: Vec<_> = (2..6)
        .map(|host| route("0.0.0.0/0", Some(&format!("203.0.113.{host}0")), None))
        .chain([route("0.0.0.0/0", Some("203.0.113.20"), None)])
        .collect();
    let all = build(&list);
    let fewer = build(&list[1..4]);
    let mut counts = HashMap::new();
    for flow in 0..4000u32 {
        let hash = flow.wrapping_mul(0x9e37_79b9);
        let hop = all.route_v4(MAIN, v4("8.8.8.8"), hash).unwrap();
        *counts.entry(hop.next_hop).or_insert(0) += 1;
        if hop.next_hop != v4("203.0.113.20") {
            assert_eq!(fewer.route_v4(MAIN, v4("8.8.8.8"), hash), Some(hop));
        }
    }
    assert_eq!(counts.len(), 4, "the repeated route counts once");
    assert!(
        counts.values().all(|n| (800..1200).contains(n)),
        "{counts:?}"
    );
}

#[test]
fn reverse_paths_accept_any_member() {
    let routes = build(&[
        route("0.0.0.0/0", Some("203.0.113.254"), None),
        route("0.0.0.0/0", Some("198.51.100.9"), None),
    ]);
    let reaches = |from, id| routes.reaches_v4(MAIN, v4(from), InterfaceId(id));
    assert!(reaches("8.8.8.8", 1) && reaches("8.8.8.8", 2) && !reaches("8.8.8.8", 0));
    assert!(reaches("10.0.0.9", 0) && !reaches("10.0.0.9", 1));
    assert!(routes.reaches_v6(MAIN, v6("fe80::1"), InterfaceId(2)));
    assert!(!routes.reaches_v6(MAIN, v6("2001:db8:a::9"), InterfaceId(1)));
}

#[test]
fn many_routes_through_few_routers_share_groups() {
    let list: Vec<_> = (0..70_000u32)
        .map(|n| StaticRoute {
            prefix: IpNet::new(IpAddr::V4((0x1400_0000 + (n << 8)).into()), 24).unwrap(),
            ..route("0.0.0.0/0", Some("203.0.113.254"), None)
        })
        .collect();
    let routes = build(&list);
    assert_eq!(
        routes.route_v4(MAIN, 0x1400_0000 + (69_999 << 8), 0),
        gateway_hop(1, v4("203.0.113.254"))
    );
}

proptest! {
    /// Against a scan over the entries: the longest active prefix, through one of its members.
    #[test]
    fn lookups_agree_with_the_list(
        nets in prop::collection::vec((any::<u32>(), 0u8..=32, 0u16..3, any::<bool>()), 0..30),
        up in prop::array::uniform3(any::<bool>()),
        probes in prop::collection::vec((any::<u32>(), any::<u32>()), 20),
    ) {
        let mut all = three();
        for (interface, up) in all.iter_mut().zip(up) {
            interface.up = up;
        }
        let vias = ["10.0.0.77", "203.0.113.77", "198.51.100.77"];
        let list: Vec<_> = nets
            .iter()
            .map(|&(net, length, interface, gateway)| {
                let prefix = IpNet::new(IpAddr::V4((net & 0xc0c0_0003).into()), length).unwrap();
                let via = gateway.then(|| vias[usize::from(interface)]);
                StaticRoute { prefix, ..route("0.0.0.0/0", via, Some(interface)) }
            })
            .collect();
        let routes = Routes::build(&Interfaces::new(all), &list).unwrap();
        for (probe, hash) in probes {
            let to = probe & 0xc0c0_0003;
            let holds = |e: &&RouteEntry| e.active && e.prefix.contains(&to.to_ip());
            let longest = routes.entries().iter().filter(holds).map(|e| e.prefix.prefix_len()).max();
            let hop = routes.route_v4(MAIN, to, hash);
            prop_assert_eq!(hop.is_some(), longest.is_some());
            if let (Some(hop), Some(longest)) = (hop, longest) {
                let matches = |e: &RouteEntry| {
                    let next = e.via.and_then(u32::from_ip).unwrap_or(to);
                    e.interface == hop.interface && next == hop.next_hop
                };
                let best = |e: &&RouteEntry| e.prefix.prefix_len() == longest;
                prop_assert!(routes.entries().iter().filter(holds).filter(best).any(matches));
                prop_assert!(up[hop.interface.index()]);
            }
        }
    }
}
