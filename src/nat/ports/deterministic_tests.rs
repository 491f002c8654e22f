//! Tests of the allocator with deterministic pools.

use super::allocator_tests::{Lab, blocks};
use super::*;
use crate::base::{DropReason, Tick};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// A pool of two addresses for 10.0.0.1 to 10.0.0.6, three on each with 40 ports of their own, and overflow.
fn deterministic(overflow: Option<u16>, max_per_host: u16) -> (Externals, Pool) {
    let plan = HostPlan {
        // Reserved ports in the middle of the second host's.
        ports: "2000-2059,2070-2169,3000-3063".parse().unwrap(),
        hosts: 3,
        ports_per_host: 40,
        overflow,
    };
    let map = Deterministic::new(&[(0x0a00_0001, 0x0a00_0006)], plan.clone());
    let policy = PoolPolicy {
        block: Some(BlockPolicy {
            size: overflow.unwrap_or(1),
            max_per_host,
            idle: 100,
        }),
        deterministic: Some(Arc::new(map)),
        ..blocks("2000-3063", 1, 1, 0)
    };
    let mut externals = Externals::new();
    let layout = Layout::Planned(plan);
    let refs = [1, 2].map(|n| {
        let index = externals
            .intern(IpAddr::from([203, 0, 113, n]), &layout, |_| false)
            .unwrap();
        ExternalRef {
            index,
            external: externals.handle(index).unwrap(),
            draining: false,
            reserved: Arc::new(PortMask::new()),
        }
    });
    (externals, Pool::new(policy, refs.into(), 2))
}

// Proves: D4.
#[test]
fn a_deterministic_host_gets_exactly_its_own_ports() {
    let (externals, pool) = deterministic(None, 0);
    let map = pool.policy().deterministic.clone().unwrap();
    let mut lab = Lab::worker(externals, pool, 0);
    for round in 0..2 {
        for n in (1..=6).rev() {
            let host = lab.host(n);
            let place = map.place(0x0a00_0000 + n).unwrap();
            let own: BTreeSet<u16> = map
                .plan()
                .own_ports(place.slot)
                .iter()
                .flat_map(|r| r.first..=r.last)
                .collect();
            assert_eq!(own.len(), 40);
            let leases: Vec<Lease> = (0..40).map(|i| lab.ask(host, 5000 + i).unwrap()).collect();
            let got: BTreeSet<u16> = leases.iter().map(|lease| lease.port).collect();
            assert_eq!(got, own, "host {n}");
            for lease in &leases {
                let address = [203, 0, 113, place.address as u8 + 1];
                assert_eq!(lease.address, IpAddr::from(address));
                assert_eq!(lease.opened, None, "nothing to log");
            }
            assert_eq!(lab.ask(host, 1), Err(DropReason::NoPort));
            for lease in &leases {
                lab.give_back(host, lease, 0);
            }
            lab.subscribers.leave(host);
        }
        // The blocks go back, and come again the same.
        lab.now = Tick(lab.now.0 + 1000 * (round + 1));
        let (externals, subscribers) = (&lab.externals, &mut lab.subscribers);
        let mut returned = 0;
        lab.allocator
            .sweep(externals, subscribers, lab.now, 1000, |_| returned += 1);
        assert_eq!(returned, 6);
        assert!(lab.subscribers.is_empty());
    }
    let stranger = lab.host(7);
    assert_eq!(lab.ask(stranger, 1), Err(DropReason::NoAddress));
    assert!(lab.externals.iter().all(|(_, e)| e.errors() == 0));
}

// Proves: D4, D3.
#[test]
fn overflow_comes_after_the_own_ports_and_within_its_limit() {
    let (externals, pool) = deterministic(Some(16), 2);
    let rest = pool.policy().deterministic.clone().unwrap();
    let mut lab = Lab::worker(externals, pool, 0);
    let host = lab.host(2);
    let mut opened = 0;
    let mut ports = BTreeSet::new();
    for i in 0..40 + 2 * 16 {
        let lease = lab.ask(host, i).unwrap();
        let expected = match i < 40 {
            true => Holder::Host(0x0a00_0002),
            false => Holder::Overflow,
        };
        assert_eq!(rest.holder(0, lease.port), expected, "port {i}");
        opened += u32::from(lease.opened.is_some());
        ports.insert(lease.port);
    }
    assert_eq!((ports.len(), opened), (72, 2), "each block is logged once");
    assert_eq!(lab.ask(host, 1), Err(DropReason::QuotaBlocks));
    // Six blocks of 16 on an address: two more hosts take two each, and what is left is nobody's.
    let (one, three) = (lab.host(1), lab.host(3));
    for host in [one, three] {
        for i in 0..72 {
            lab.ask(host, i).unwrap();
        }
    }
    let usage = lab.externals.get(ExternalIndex(0)).unwrap().block_usage();
    assert_eq!((usage.used, usage.free), (9, 0));
    let usage = lab.externals.get(ExternalIndex(0)).unwrap();
    assert_eq!(usage.usage(PortSpace::Udp).free, 0);
    assert_eq!(usage.errors(), 0);
}

#[test]
fn a_host_whose_number_changed_takes_no_more_of_the_ports_it_had() {
    let (externals, pool) = deterministic(Some(16), 2);
    let mut lab = Lab::worker(externals, pool, 0);
    let (one, two) = (lab.host(1), lab.host(2));
    for host in [one, two] {
        assert_eq!(lab.ask(host, 1).unwrap().opened, None);
    }
    // The two change places while both have a mapping.
    let policy = lab.pool.policy().clone();
    let plan = policy.deterministic.as_ref().unwrap().plan().clone();
    let [a, b] = [0x0a00_0002, 0x0a00_0001];
    let map = Deterministic::new(&[(a, a), (b, b), (0x0a00_0003, 0x0a00_0006)], plan);
    let map = Arc::new(map);
    let policy = PoolPolicy {
        deterministic: Some(map.clone()),
        ..policy
    };
    lab.pool = Pool::new(policy, lab.pool.externals().to_vec(), 2);
    for host in [one, two] {
        let lease = lab.ask(host, 1).unwrap();
        assert_eq!(map.holder(0, lease.port), Holder::Overflow, "{lease:?}");
        assert!(lease.opened.is_some());
    }
    assert_eq!(lab.errors(), 0);
}

#[test]
fn protocols_without_ports_leave_with_the_own_address_unless_it_drains() {
    let (externals, pool) = deterministic(None, 0);
    let mut refs = pool.externals().to_vec();
    refs[0].draining = true;
    let pool = Pool::new(pool.policy().clone(), refs, 2);
    let mut lab = Lab::worker(externals, pool, 0);
    let (first, last, stranger) = (lab.host(1), lab.host(6), lab.host(7));
    let address = |host| lab.allocator.address(&lab.subscribers, &lab.pool, host);
    assert_eq!(address(first), None, "its address drains");
    assert_eq!(address(last), Some(IpAddr::from([203, 0, 113, 2])));
    assert_eq!(address(stranger), None);
    assert_eq!(lab.ask(first, 1), Err(DropReason::PoolDraining));
}
