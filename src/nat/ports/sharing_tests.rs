//! Tests of shared ports: no combination is refused while one is left, none is given twice, all of them rest.

use super::allocator_tests::{Lab, blocks, policy};
use super::shared::View;
use super::sharing::{BlockSearch, SingleSearch};
use super::*;
use crate::base::{DropReason, PoolId, Random, Tick, WorkerId};
use crate::flow::hash::Hasher;
use crate::nat::behaviour::{Behaviour, Remote};
use std::collections::{BTreeMap, BTreeSet};

fn to(scope: Behaviour, address: u128, port: u16) -> Option<Share> {
    Share::new(scope, Remote { address, port })
}

/// No card steers.
const ANY: Preference = Preference {
    workers: 1,
    shift: 9,
};

fn view(remote: u128) -> View {
    View {
        external: ExternalIndex(0),
        space: PortSpace::Udp,
        share: to(Behaviour::Address, remote, 0).unwrap(),
    }
}

fn random_policy(ports: &str) -> PoolPolicy {
    PoolPolicy {
        low_ports: false,
        select: Select::Random,
        ..policy(ports)
    }
}

#[test]
fn every_port_serves_every_remote() {
    // 100 ports, three of them out of the window the others are in; three remotes: 300 mappings, and not one more.
    let mut lab = Lab::new(random_policy("2000-2096,5000-5002"), 1);
    let hosts = [lab.host(1), lab.host(2), lab.host(3)];
    let mut given = BTreeSet::new();
    for n in 0..300u16 {
        lab.share = to(Behaviour::AddressPort, 7, n % 3);
        let lease = lab.ask(hosts[usize::from(n) % 2], 40_000).unwrap();
        assert!(given.insert((lease.port, n % 3)), "{lease:?} twice");
    }
    for remote in 0..3 {
        lab.share = to(Behaviour::AddressPort, 7, remote);
        assert_eq!(lab.ask(hosts[2], 1), Err(DropReason::NoPort));
    }
    let usage = lab.externals.get(ExternalIndex(0)).unwrap();
    assert_eq!(
        usage.usage(PortSpace::Udp).in_use,
        100,
        "ports, not mappings"
    );
    // One combination comes back: the only one there is, from wherever the search starts.
    lab.share = to(Behaviour::AddressPort, 7, 1);
    let lease = Lease {
        external: ExternalIndex(0),
        address: usage.address(),
        port: 5001,
        opened: None,
    };
    for _ in 0..50 {
        lab.give_back(hosts[0], &lease, 0);
        assert_eq!(lab.ask(hosts[0], 40_000), Ok(lease));
    }
    assert_eq!(lab.errors(), 0);
}

#[test]
fn a_kept_port_is_kept_by_everybody_whose_remote_is_another() {
    let mut lab = Lab::new(policy("1024-65535"), 1);
    let (a, b) = (lab.host(1), lab.host(2));
    for (host, address, kept) in [(a, 1, true), (b, 2, true), (b, 1, false), (a, 3, true)] {
        lab.share = to(Behaviour::Address, address, 53);
        let port = lab.ask(host, 4000).unwrap().port;
        assert_eq!(port == 4000, kept, "remote {address}: {port}");
    }
}

#[test]
fn a_kept_port_is_the_one_that_is_leased() {
    let mut lab = Lab::new(policy("1024-65535"), 1);
    let host = lab.host(1);
    lab.share = to(Behaviour::Address, 7, 0);
    for port in [1024, 4000, 40_001, 65_535] {
        let lease = lab.ask(host, port).unwrap();
        assert_eq!(lease.port, port);
        let external = lab.externals.get(lease.external).unwrap();
        let owner = external.owner(PortSpace::Udp, port);
        assert_eq!(owner, Some(WorkerId(0)), "port {port}");
        lab.give_back(host, &lease, 0);
    }
    assert!(lab.externals.get(ExternalIndex(0)).unwrap().is_idle());
    assert_eq!(lab.errors(), 0);
}

#[test]
fn a_port_that_finds_no_room_stays_with_whom_it_was() {
    let single = SinglePorts::new();
    let mut shared = SharedPorts::new(1, 0, Hasher::new([8, 9])).unwrap();
    let ports: PortRanges = "2048-2050".parse().unwrap();
    let allowed = Allowed::new(&ports, PortMask::none(), PortSpace::Udp);
    let mut take = |remote| {
        let search = SingleSearch {
            single: &single,
            worker: WorkerId(3),
            preference: ANY,
            allowed: &allowed,
            view: &view(remote),
        };
        let port = search.take_from(&mut shared, 2048);
        let owner = |port| single.owner(PortSpace::Udp, port).map(|w| w.0);
        (port, [2048, 2049].map(owner))
    };
    let first = [Some(3), None];
    assert_eq!(take(1), (Some(2048), first));
    assert_eq!(take(2), (None, first), "the port has a mapping");
    assert_eq!(take(1), (None, first), "the next port goes back");
    assert_eq!(single.errors(), 0);
}

#[test]
fn ports_lead_home_also_when_they_are_shared() {
    for worker in 0..2 {
        let (externals, pool) = {
            let lab = Lab::new(random_policy("1024-65535"), 1);
            (lab.externals, lab.pool)
        };
        let mut lab = Lab::worker(externals, pool, worker);
        let host = lab.host(1);
        for n in 0..2000 {
            lab.share = to(Behaviour::AddressPort, 7, n % 4);
            let port = lab.ask(host, 1).unwrap().port;
            assert_eq!(port >> 9 & 1, u16::from(worker), "of half of the ports");
        }
    }
}

#[test]
fn a_block_serves_its_host_until_no_port_is_left_for_the_remote() {
    let mut lab = Lab::new(blocks("2000-2999", 70, 2, 50), 1);
    let (host, other) = (lab.host(1), lab.host(2));
    let mut opened = 0;
    let mut take = |lab: &mut Lab, host, remote| {
        lab.share = to(Behaviour::AddressPort, 7, remote);
        let lease = lab.ask(host, 1);
        opened += u32::from(lease.is_ok_and(|l| l.opened.is_some()));
        lease.map(|l| (l.port - 2000) / 70)
    };
    let mut blocks_of = BTreeSet::new();
    for remote in 0..5 {
        for _ in 0..70 {
            blocks_of.insert(take(&mut lab, host, remote).unwrap());
        }
    }
    assert_eq!(blocks_of.len(), 1, "350 mappings in one block of 70");
    let foreign = take(&mut lab, other, 9).unwrap();
    assert!(!blocks_of.contains(&foreign), "a block is one host's");
    for _ in 0..70 {
        blocks_of.insert(take(&mut lab, host, 3).unwrap());
    }
    assert_eq!(blocks_of.len(), 2);
    assert_eq!(take(&mut lab, host, 3), Err(DropReason::QuotaBlocks));
    assert!(
        take(&mut lab, host, 4).is_ok(),
        "for another remote there is room"
    );
    assert_eq!(opened, 3);
    assert_eq!(lab.errors(), 0);
}

#[test]
fn a_wanted_port_of_a_block_is_taken_while_it_is_left_for_the_remote() {
    let blocks = BlockPorts::new(100, &"2000-2099".parse().unwrap());
    let mut reserved = PortMask::new();
    reserved.reserve(PortSpace::Udp, PortRange::new(2064, 2065));
    let allowed = Allowed::all(&reserved, PortSpace::Udp);
    let mut random = Random::from_seed(1);
    let claim = Claim {
        worker: WorkerId(0),
        subscriber: 1,
        pool: PoolId(0),
        preference: ANY,
        now: Tick(0),
    };
    let block = blocks.claim_block(&claim, &allowed, &mut random).unwrap();
    let mut shared = SharedPorts::new(100, 0, Hasher::new([8, 9])).unwrap();
    let wanted = [2003, 2063, 2066, 2070, 2099];
    for (remote, now) in [(1, Tick(10)), (2, Tick(50))] {
        let search = BlockSearch {
            blocks: &blocks,
            allowed: &allowed,
            view: &view(remote),
            now,
            hold: 0,
        };
        for port in wanted {
            let got = search.take(&mut shared, block, Some(port), &mut random);
            assert_eq!(got, Some(port), "remote {remote}");
        }
        let left = (1900..2200).filter(|&port| search.has_port(&shared, block, port));
        let others = (2000..2100).filter(|port| !wanted.contains(port) && port / 2 != 1032);
        assert!(left.eq(others), "remote {remote}");
        let in_use = blocks.in_use(block, PortSpace::Udp);
        assert_eq!(in_use, 5, "ports, not mappings");
        assert_eq!(blocks.last_used(block), now, "sharing is a use");
    }
    assert_eq!(blocks.errors(), 0);
}

#[test]
fn a_combination_rests_and_a_port_with_the_last_of_them() {
    let mut lab = Lab::new(random_policy("2000-2000"), 1);
    let host = lab.host(1);
    let (a, b) = (
        to(Behaviour::AddressPort, 1, 1),
        to(Behaviour::AddressPort, 2, 2),
    );
    let ask = |lab: &mut Lab, share| {
        lab.share = share;
        lab.ask(host, 1)
    };
    let lease = ask(&mut lab, a).unwrap();
    ask(&mut lab, b).unwrap();
    lab.share = a;
    lab.give_back(host, &lease, 100);
    assert_eq!(ask(&mut lab, a), Err(DropReason::NoPort), "it rests");
    lab.now = Tick(lab.now.0 + 60);
    lab.share = b;
    lab.give_back(host, &lease, 0);
    for share in [a, b, None] {
        let refused = ask(&mut lab, share);
        assert_eq!(
            refused,
            Err(DropReason::NoPort),
            "the port rests for a's sake"
        );
    }
    lab.now = Tick(lab.now.0 + 42);
    lab.allocator.release_due(&lab.externals, lab.now, 10);
    assert!(ask(&mut lab, a).is_ok() && ask(&mut lab, b).is_ok());
    assert_eq!(ask(&mut lab, None), Err(DropReason::NoPort), "it is shared");
    assert_eq!(lab.errors(), 0);
}

/// Random histories of one worker against a plain set of combinations.
fn history(policy: PoolPolicy, ports: u32, seed: u64) {
    let block = policy.block;
    let mut lab = Lab::new(policy, 1);
    let hosts = [lab.host(1), lab.host(2)];
    let mut random = Random::from_seed(seed);
    let mut live: Vec<(usize, Option<Share>, Lease)> = Vec::new();
    let mut remotes: BTreeMap<u128, BTreeSet<u16>> = BTreeMap::new();
    for _ in 0..6000 {
        let remote = u128::from(random.below(3));
        lab.share = to(Behaviour::Address, remote, 0);
        if random.below(5) < 3 {
            let who = random.below(2) as usize;
            let used = remotes.entry(remote).or_default();
            match lab.ask(hosts[who], 2000 + random.below(50) as u16) {
                Ok(lease) => {
                    assert!(used.insert(lease.port), "given twice");
                    live.push((who, lab.share, lease));
                }
                Err(DropReason::NoPort) => {
                    assert!(
                        block.is_none() && used.len() as u32 == ports,
                        "refused with one left"
                    );
                }
                Err(DropReason::QuotaBlocks) => {
                    let own = live.iter().filter(|(w, s, _)| (*w, *s) == (who, lab.share));
                    let most = block.map_or(0, |b| u32::from(b.size) * u32::from(b.max_per_host));
                    assert_eq!(own.count() as u32, most, "refused with one left");
                }
                Err(other) => panic!("{other}"),
            }
        } else if !live.is_empty() {
            let (who, share, lease) = live.swap_remove(random.below(live.len() as u32) as usize);
            lab.share = share;
            lab.give_back(hosts[who], &lease, 0);
            let address = (0..3)
                .find(|&a| to(Behaviour::Address, a, 0) == share)
                .unwrap();
            assert!(remotes.get_mut(&address).unwrap().remove(&lease.port));
        }
        let distinct: BTreeSet<u16> = live.iter().map(|(_, _, lease)| lease.port).collect();
        let usage = lab.externals.get(ExternalIndex(0)).unwrap();
        assert_eq!(usage.usage(PortSpace::Udp).in_use as usize, distinct.len());
        assert_eq!(lab.allocator.shared().len(), distinct.len());
    }
    for (who, share, lease) in live {
        lab.share = share;
        lab.give_back(hosts[who], &lease, 0);
    }
    assert!(lab.allocator.shared().is_empty());
    assert_eq!(lab.errors(), 0);
}

#[test]
fn random_histories_of_shared_ports_are_exact() {
    for seed in 0..3 {
        history(random_policy("2000-2049"), 50, seed);
        history(policy("2000-2049"), 50, seed);
        history(blocks("2000-2999", 20, 2, 1000), 0, seed);
    }
}
