//! Tests of the allocator: pairing, classes, quotas, hold, draining, random histories of several workers.

use super::*;
use crate::base::{DropReason, PoolId, Random, RealmId, Tick, WorkerId};
use crate::flow::hash::Hasher;
use crate::nat::behaviour::{Behaviour, Behaviours};
use crate::nat::subscriber::{SubscriberIndex, Subscribers};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// One worker and a policy of one pool.
pub(super) struct Lab {
    pub(super) externals: Externals,
    pub(super) pool: Pool,
    pub(super) subscribers: Subscribers,
    pub(super) allocator: Allocator,
    random: Random,
    pub(super) now: Tick,
    /// How far the next mappings share their ports.
    pub(super) share: Option<Share>,
}

pub(super) fn policy(ports: &str) -> PoolPolicy {
    PoolPolicy {
        id: PoolId(0),
        name: "lab".to_owned(),
        ports: ports.parse().unwrap(),
        low_ports: true,
        select: Select::Preserve,
        parity: false,
        pairing: Pairing::Paired,
        block: None,
        deterministic: None,
        hold: 0,
        hold_max: 1000,
        behaviours: [Behaviours {
            mapping: Behaviour::Endpoint,
            filtering: Behaviour::AddressPort,
        }; PortSpace::COUNT],
        exhaustion: Exhaustion::Drop,
        helpers: Default::default(),
    }
}

pub(super) fn blocks(ports: &str, size: u16, max_per_host: u16, idle: u32) -> PoolPolicy {
    let block = BlockPolicy {
        size,
        max_per_host,
        idle,
    };
    PoolPolicy {
        low_ports: false,
        select: Select::Random,
        block: Some(block),
        ..policy(ports)
    }
}

fn pool(externals: &mut Externals, policy: PoolPolicy, addresses: &[(u8, bool)]) -> Pool {
    let layout = match policy.block {
        None => Layout::Ports,
        Some(block) => Layout::Blocks {
            size: block.size,
            ranges: policy.ports.clone(),
        },
    };
    let mut external = |&(n, draining): &(u8, bool)| {
        let index = externals
            .intern(IpAddr::from([203, 0, 113, n]), &layout, |_| false)
            .unwrap();
        ExternalRef {
            index,
            external: externals.handle(index).unwrap(),
            draining,
            reserved: Arc::new(PortMask::new()),
        }
    };
    let refs = addresses.iter().map(&mut external).collect();
    Pool::new(policy, refs, MAX_WORKERS as u8)
}

impl Lab {
    pub(super) fn new(policy: PoolPolicy, addresses: u8) -> Lab {
        let mut externals = Externals::new();
        let list: Vec<(u8, bool)> = (1..=addresses).map(|n| (n, false)).collect();
        let pool = pool(&mut externals, policy, &list);
        Lab::worker(externals, pool, 0)
    }

    pub(super) fn worker(externals: Externals, pool: Pool, worker: u8) -> Lab {
        let preference = Preference {
            shift: 9,
            workers: 2,
        };
        let hold_max = pool.policy().hold_max as usize;
        Lab {
            externals,
            pool,
            subscribers: Subscribers::new(1000, 11),
            allocator: Allocator::new(
                WorkerId(worker),
                preference,
                hold_max,
                SharedPorts::new(4096, hold_max, Hasher::new([8, 9])).unwrap(),
            ),
            share: None,
            random: Random::from_seed(u64::from(worker) + 1),
            now: Tick(1000),
        }
    }

    pub(super) fn host(&mut self, n: u32) -> SubscriberIndex {
        let address = u128::from(0x0a00_0000 + n);
        self.subscribers.enter(address, RealmId(0)).unwrap()
    }

    pub(super) fn ask(
        &mut self,
        subscriber: SubscriberIndex,
        port: u16,
    ) -> Result<Lease, DropReason> {
        self.ask_for(subscriber, PortSpace::Udp, port, None)
    }

    pub(super) fn ask_for(
        &mut self,
        subscriber: SubscriberIndex,
        space: PortSpace,
        inside_port: u16,
        ports: Option<&PortRanges>,
    ) -> Result<Lease, DropReason> {
        let request = Request {
            select: None,
            exactly: None,
            pool: &self.pool,
            ports,
            subscriber,
            inside_port,
            space,
            share: self.share,
            now: self.now,
        };
        let (externals, subscribers) = (&self.externals, &mut self.subscribers);
        self.allocator
            .allocate(externals, subscribers, &request, &mut self.random)
    }

    pub(super) fn give_back(&mut self, subscriber: SubscriberIndex, lease: &Lease, hold: u32) {
        let returned = Returned {
            subscriber,
            external: lease.external,
            space: PortSpace::Udp,
            port: lease.port,
            share: self.share,
            hold,
        };
        let (externals, subscribers) = (&self.externals, &mut self.subscribers);
        self.allocator
            .release(externals, subscribers, &returned, self.now);
    }

    fn sweep(&mut self) -> Vec<ReturnedBlock> {
        let mut out = Vec::new();
        let (externals, subscribers) = (&self.externals, &mut self.subscribers);
        self.allocator
            .sweep(externals, subscribers, self.now, 1000, |r| out.push(*r));
        out
    }

    pub(super) fn errors(&self) -> u64 {
        let own = self.allocator.errors();
        own + self.externals.iter().map(|(_, e)| e.errors()).sum::<u64>()
    }
}

#[test]
fn a_free_source_port_is_kept_and_a_taken_one_moves_within_its_class() {
    let mut lab = Lab::new(policy("1024-65535"), 1);
    let (a, b) = (lab.host(1), lab.host(2));
    for (wanted, class) in [(40000, 1024..=65535), (300, 1..=511), (600, 512..=1023)] {
        assert_eq!(lab.ask(a, wanted).unwrap().port, wanted);
        let moved = lab.ask(b, wanted).unwrap().port;
        assert!(
            moved != wanted && class.contains(&moved),
            "{wanted}: {moved}"
        );
    }
    assert!(lab.ask(a, 0).unwrap().port >= 1024, "0 is no port");
    let ping = lab.ask_for(a, PortSpace::Icmp, 5, None).unwrap();
    assert_eq!(ping.port, 5, "query ids have no classes");
}

#[test]
fn a_full_class_overflows_into_the_pools_ports_and_then_refuses() {
    let mut lab = Lab::new(policy("2000-2001"), 1);
    let a = lab.host(1);
    let low: BTreeSet<u16> = (0..511).map(|_| lab.ask(a, 53).unwrap().port).collect();
    assert_eq!(
        (low.len(), low.first(), low.last()),
        (511, Some(&1), Some(&511))
    );
    let high: BTreeSet<u16> = (0..2).map(|_| lab.ask(a, 53).unwrap().port).collect();
    assert_eq!(high, BTreeSet::from([2000, 2001]));
    assert_eq!(lab.ask(a, 53), Err(DropReason::NoPort));
    assert_eq!(lab.ask(a, 5353), Err(DropReason::NoPort));
}

#[test]
fn without_low_ports_or_with_a_rules_own_everything_comes_from_the_range() {
    let own = PoolPolicy {
        low_ports: false,
        ..policy("1024-65535")
    };
    let mut lab = Lab::new(own, 1);
    let a = lab.host(1);
    assert!(lab.ask(a, 300).unwrap().port >= 1024);
    let mut lab = Lab::new(policy("1024-65535"), 1);
    let a = lab.host(1);
    let rule: PortRanges = "2000-2001".parse().unwrap();
    let mut ask = |port| lab.ask_for(a, PortSpace::Udp, port, Some(&rule));
    let got = BTreeSet::from([ask(300).unwrap().port, ask(45000).unwrap().port]);
    assert_eq!(got, BTreeSet::from([2000, 2001]));
    assert_eq!(ask(2000), Err(DropReason::NoPort));
}

#[test]
fn random_never_prefers_the_source_port_and_sequential_counts() {
    let random = PoolPolicy {
        select: Select::Random,
        ..policy("1024-65535")
    };
    let mut lab = Lab::new(random, 1);
    let a = lab.host(1);
    let kept = (0..1000).filter(|i| lab.ask(a, 30_000 + i).unwrap().port == 30_000 + i);
    assert!(kept.count() < 5);
    let sequential = PoolPolicy {
        select: Select::Sequential,
        ..policy("5000-5002")
    };
    let mut lab = Lab::new(sequential, 1);
    let a = lab.host(1);
    let got: Vec<u16> = (0..3).map(|_| lab.ask(a, 40000).unwrap().port).collect();
    assert_eq!(got, [5000, 5001, 5002]);
}

#[test]
fn paired_subscribers_stay_on_an_address_that_survives_a_restart() {
    let homes = |seed: u64| {
        let mut lab = Lab::new(policy("1024-65535"), 10);
        lab.random = Random::from_seed(seed);
        let mut homes = Vec::new();
        for n in 0..500 {
            let host = lab.host(n);
            let got: BTreeSet<u32> = (0..5)
                .map(|i| lab.ask(host, 4000 + i).unwrap().v4())
                .collect();
            assert_eq!(got.len(), 1, "one address for all sockets");
            homes.extend(got);
        }
        homes
    };
    let first = homes(1);
    assert_eq!(first, homes(2));
    let mut load = BTreeMap::new();
    first.iter().for_each(|a| *load.entry(a).or_insert(0) += 1);
    assert_eq!(load.len(), 10);
    assert!(load.values().all(|n| (25..80).contains(n)), "{load:?}");
}

// Proves: P4.
#[test]
fn paired_and_full_is_refused_but_a_newcomer_goes_where_there_is_room() {
    let mut lab = Lab::new(
        PoolPolicy {
            low_ports: false,
            ..policy("2000-2003")
        },
        2,
    );
    let a = lab.host(1);
    let leases: Vec<Lease> = (0..4).map(|_| lab.ask(a, 9).unwrap()).collect();
    assert_eq!(lab.ask(a, 9), Err(DropReason::NoPort), "no soft-APP");
    for n in 2..6 {
        let host = lab.host(n);
        assert_ne!(lab.ask(host, 9).unwrap().external, leases[0].external);
    }
    let late = lab.host(6);
    assert_eq!(lab.ask(late, 9), Err(DropReason::NoPort));
    lab.give_back(a, &leases[2], 0);
    assert_eq!(lab.ask(late, 9).unwrap().port, leases[2].port);
    assert_eq!(lab.errors(), 0);
}

#[test]
fn newcomers_whose_address_is_full_take_the_next_in_order() {
    let single = PoolPolicy {
        low_ports: false,
        ..policy("2000-2000")
    };
    let mut lab = Lab::new(single, 5);
    let hosts: Vec<SubscriberIndex> = (0..60).map(|n| lab.host(n)).collect();
    let home = |host| lab.allocator.address(&lab.subscribers, &lab.pool, host);
    let neighbours = |&host: &SubscriberIndex| home(host) == home(hosts[0]);
    let same: Vec<SubscriberIndex> = hosts.iter().copied().filter(neighbours).collect();
    let mut took = same.iter().map(|&host| lab.ask(host, 9));
    let first = took.next().unwrap().unwrap().external.0;
    for turn in 1..5 {
        let lease = took.next().unwrap().unwrap();
        assert_eq!(lease.external.0, (first + turn) % 5);
    }
    assert_eq!(took.next(), Some(Err(DropReason::NoPort)));
}

#[test]
fn spread_uses_every_address_and_refuses_only_when_all_are_full() {
    let spread = PoolPolicy {
        pairing: Pairing::Spread,
        low_ports: false,
        ..policy("2000-2009")
    };
    let mut lab = Lab::new(spread, 4);
    let a = lab.host(1);
    let got: BTreeSet<(ExternalIndex, u16)> = (0..40)
        .map(|i| lab.ask(a, i).unwrap())
        .map(|lease| (lease.external, lease.port))
        .collect();
    assert_eq!(got.len(), 40);
    assert_eq!(lab.ask(a, 77), Err(DropReason::NoPort));
}

#[test]
fn draining_addresses_get_nothing_new() {
    let mut lab = Lab::new(policy("1024-65535"), 2);
    let hosts: Vec<SubscriberIndex> = (0..20).map(|n| lab.host(n)).collect();
    let before: Vec<Lease> = hosts.iter().map(|&h| lab.ask(h, 4000).unwrap()).collect();
    assert!(before.iter().any(|l| l.external == ExternalIndex(0)));
    let list = [(1, true), (2, false)];
    lab.pool = pool(&mut lab.externals, policy("1024-65535"), &list);
    for (&host, old) in hosts.iter().zip(&before) {
        assert_eq!(lab.ask(host, 5000).unwrap().external, ExternalIndex(1));
        lab.give_back(host, old, 0);
        assert_eq!(lab.ask(host, 5001).unwrap().external, ExternalIndex(1));
    }
    assert!(lab.externals.get(ExternalIndex(0)).unwrap().is_idle());
    lab.pool = pool(&mut lab.externals, policy("1024-65535"), &[(1, true)]);
    assert_eq!(lab.ask(hosts[0], 1), Err(DropReason::PoolDraining));
    assert_eq!(lab.errors(), 0);
}

/// `gw:5.5` example B in small numbers.
// Proves: B1, G4.
#[test]
fn example_b_blocks_open_on_demand_up_to_the_quota_and_go_back() {
    let mut lab = Lab::new(blocks("1024-1087", 4, 2, 2400), 1);
    let (a, b) = (lab.host(1), lab.host(2));
    let leases: Vec<Lease> = (0..8).map(|i| lab.ask(a, 40000 + i).unwrap()).collect();
    let opened: Vec<bool> = leases.iter().map(|l| l.opened.is_some()).collect();
    assert_eq!(
        opened,
        [true, false, false, false, true, false, false, false]
    );
    assert_eq!(lab.ask(a, 41000), Err(DropReason::QuotaBlocks));
    let tcp = lab.ask_for(a, PortSpace::Tcp, 41000, None).unwrap();
    assert_eq!(tcp.opened, None, "a block serves all protocols");

    let other = lab.ask(b, 40000).unwrap();
    assert!(!leases.iter().any(|l| l.opened == other.opened));
    leases.iter().for_each(|l| lab.give_back(a, l, 0));
    lab.give_back(b, &other, 0);
    lab.subscribers.leave(b);
    lab.now = Tick(1000 + 2400);
    assert_eq!(lab.sweep(), []);
    lab.now = Tick(1000 + 2401);
    let back = lab.sweep();
    assert_eq!(back.len(), 2, "the block with a TCP port stays: {back:?}");
    assert!(back.iter().any(|r| r.inside == 0x0a00_0002));
    assert_eq!(lab.subscribers.block_count(a), 1);
    assert_eq!(
        lab.subscribers.len(),
        1,
        "b is forgotten with its last block"
    );
    assert_eq!(
        lab.externals
            .get(ExternalIndex(0))
            .unwrap()
            .block_usage()
            .used,
        1
    );
    assert_eq!(lab.errors(), 0);
}

// Proves: B1.
#[test]
fn a_pool_without_blocks_refuses_and_the_longest_idle_block_is_spared() {
    let mut lab = Lab::new(blocks("1024-1039", 4, 9, 10), 1);
    let (a, b) = (lab.host(1), lab.host(2));
    let leases: Vec<Lease> = (0..16).map(|_| lab.ask(a, 1).unwrap()).collect();
    assert_eq!(lab.ask(a, 1), Err(DropReason::NoBlock));
    assert_eq!(lab.ask(b, 1), Err(DropReason::NoBlock));
    for (i, lease) in leases.iter().enumerate() {
        lab.now = Tick(2000 + i as u32 * 10);
        lab.give_back(a, lease, 0);
    }
    // Blocks were emptied one after the other, so the first is the longest idle.
    let spared = leases[0].port / 4;
    for _ in 0..12 {
        lab.now.0 += 1;
        assert_ne!(lab.ask(a, 1).unwrap().port / 4, spared);
    }
    assert_eq!(
        lab.ask(a, 1).unwrap().port / 4,
        spared,
        "the others are full"
    );
}

#[test]
fn a_single_port_rests_for_its_hold_time() {
    let rule = PoolPolicy {
        hold: 480,
        hold_max: 2,
        low_ports: false,
        ..policy("2000-2002")
    };
    let mut lab = Lab::new(rule, 1);
    let a = lab.host(1);
    let leases: Vec<Lease> = (2000..2003).map(|p| lab.ask(a, p).unwrap()).collect();
    lab.give_back(a, &leases[0], 480);
    lab.now = Tick(1000 + 480);
    assert_eq!(lab.allocator.release_due(&lab.externals, lab.now, 9), 0);
    assert_eq!(lab.ask(a, 2000), Err(DropReason::NoPort));
    lab.now.0 += 1;
    assert_eq!(lab.allocator.release_due(&lab.externals, lab.now, 9), 1);
    let again = lab.ask(a, 2000).unwrap();
    assert_eq!(again.port, 2000);
    // The third in a hold of two pushes the first out.
    for lease in &leases {
        lab.give_back(a, lease, 480);
    }
    assert_eq!(
        (lab.allocator.held(), lab.allocator.hold_overflows()),
        (2, 1)
    );
    assert_eq!(lab.ask(a, 2002).unwrap().port, 2000);
    assert_eq!(lab.errors(), 0);
}

/// Random histories of three workers on shared addresses: no port has two holders, nothing is refused while there is
/// room, owners are known, and in the end everything is back.
fn history(policy: PoolPolicy, addresses: u8, seed: u64) {
    let mut externals = Externals::new();
    let list: Vec<(u8, bool)> = (1..=addresses).map(|n| (n, false)).collect();
    let first = pool(&mut externals, policy.clone(), &list);
    drop(first);
    let mut labs: Vec<Lab> = (0..3)
        .map(|worker| {
            let same = pool(&mut externals, policy.clone(), &list);
            Lab::worker(externals.clone(), same, worker)
        })
        .collect();
    let mut random = Random::from_seed(seed);
    let mut live: BTreeMap<(ExternalIndex, u16), (usize, SubscriberIndex, Lease)> = BTreeMap::new();
    let mut refused = 0;
    for step in 0..20_000u32 {
        let at = random.below(3) as usize;
        let lab = &mut labs[at];
        lab.now = Tick(1000 + step / 100);
        if random.below(100) < if step / 4000 % 2 == 0 { 75 } else { 25 } {
            let host = random.below(6);
            let subscriber = lab.host(host);
            match lab.ask(subscriber, 1024 + random.below(60_000) as u16) {
                Ok(lease) => {
                    let external = lab.externals.get(lease.external).unwrap();
                    let owner = external.owner(PortSpace::Udp, lease.port);
                    assert_eq!(owner, Some(WorkerId(at as u8)));
                    let before = live.insert((lease.external, lease.port), (at, subscriber, lease));
                    assert_eq!(before.map(|b| b.2), None, "two leases of one port");
                }
                Err(_) => {
                    lab.subscribers.leave(subscriber);
                    refused += 1;
                }
            }
        } else if !live.is_empty() {
            let n = random.below(live.len() as u32) as usize;
            let (&key, &(worker, subscriber, lease)) = live.iter().nth(n).unwrap();
            live.remove(&key);
            let lab = &mut labs[worker];
            lab.now = Tick(1000 + step / 100);
            lab.give_back(subscriber, &lease, policy.hold * random.below(2));
            lab.subscribers.leave(subscriber);
        }
        let lab = &mut labs[at];
        lab.allocator.release_due(&lab.externals, lab.now, 4);
        if step % 50 == 0 {
            lab.sweep();
        }
    }
    assert!(refused > 0, "the history reaches exhaustion");
    for ((_, _), (worker, subscriber, lease)) in live {
        labs[worker].give_back(subscriber, &lease, policy.hold);
        labs[worker].subscribers.leave(subscriber);
    }
    for lab in &mut labs {
        lab.now = Tick(100_000);
        lab.allocator.release_due(&lab.externals, lab.now, 100_000);
        lab.sweep();
        assert!(lab.subscribers.is_empty());
        assert_eq!(lab.errors(), 0);
    }
    assert!(externals.iter().all(|(_, e)| e.is_idle()));
    let high_water = |(_, e): (_, &Arc<External>)| e.usage(PortSpace::Udp).high_water;
    assert!(externals.iter().map(high_water).sum::<u32>() > 80);
    for (_, external) in externals.iter() {
        let usage = external.usage(PortSpace::Udp);
        assert_eq!((usage.in_use, usage.held), (0, 0));
    }
}

#[test]
fn random_histories_keep_every_invariant() {
    for seed in 0..4 {
        let single = PoolPolicy {
            hold: 3,
            ..policy("5000-5099")
        };
        history(single.clone(), 3, seed);
        let spread = PoolPolicy {
            pairing: Pairing::Spread,
            ..single
        };
        history(spread, 3, seed);
        let block = PoolPolicy {
            hold: 3,
            ..blocks("1024-1503", 8, 3, 5)
        };
        history(block.clone(), 2, seed);
        let spread = PoolPolicy {
            pairing: Pairing::Spread,
            ..block
        };
        history(spread, 2, seed);
    }
}

#[test]
fn a_subscriber_of_many_pools_keeps_its_pairing_in_each() {
    let mut externals = Externals::new();
    let list: Vec<(u8, bool)> = (1..=9).map(|n| (n, false)).collect();
    let mut lab = Lab::new(policy("1024-65535"), 9);
    let host = lab.host(7);
    let mut homes = BTreeMap::new();
    let mut random = Random::from_seed(8);
    let mut leases = Vec::new();
    for _ in 0..2000 {
        let id = PoolId(random.below(5) as u16);
        let policy = PoolPolicy {
            id,
            ..policy("1024-65535")
        };
        lab.pool = pool(&mut externals, policy, &list);
        lab.externals = externals.clone();
        let lease = lab.ask(host, 1024 + random.below(60000) as u16).unwrap();
        assert_eq!(*homes.entry(id).or_insert(lease.external), lease.external);
        leases.push(lease);
        if random.below(2) == 0 {
            let at = random.below(leases.len() as u32) as usize;
            let lease = leases.swap_remove(at);
            lab.give_back(host, &lease, 0);
        }
    }
    leases.iter().for_each(|l| lab.give_back(host, l, 0));
    assert_eq!((lab.errors(), lab.subscribers.leases(host)), (0, 0));
}
