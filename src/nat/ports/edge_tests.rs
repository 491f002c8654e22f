//! Tests of what lies at the edges of port allocation: the last block, the port a rest ends on, a call that makes no sense.

use super::allocator_tests::{Lab, blocks, policy};
use super::shared::View;
use super::*;
use crate::base::{DropReason, PoolId, Random, RealmId, Tick, WorkerId};
use crate::flow::hash::Hasher;
use crate::nat::behaviour::{Behaviour, Remote};
use crate::nat::subscriber::SubscriberIndex;
use std::collections::BTreeSet;
use std::net::IpAddr;

const UDP: PortSpace = PortSpace::Udp;

fn preserving(ports: &str, size: u16, max_per_host: u16) -> PoolPolicy {
    PoolPolicy {
        select: Select::Preserve,
        ..blocks(ports, size, max_per_host, 50)
    }
}

fn claim(worker: u8, workers: u8, now: u32) -> Claim {
    Claim {
        worker: WorkerId(worker),
        subscriber: 0x2001_0db8_0000_0000_0000_0000_0000_0007,
        pool: PoolId(3),
        preference: Preference { shift: 9, workers },
        now: Tick(now),
    }
}

fn everything(space: PortSpace) -> Allowed<'static> {
    Allowed::all(PortMask::none(), space)
}

fn block_ports(size: u16, ports: &str) -> BlockPorts {
    BlockPorts::new(size, &ports.parse().unwrap())
}

#[test]
fn who_is_paired_with_which_address_is_the_same_in_every_release() {
    let mut lab = Lab::new(policy("1024-65535"), 200);
    let hosts = [
        (0x0a00_0001, 197),
        (0x0a00_0002, 62),
        (0x2001_0db8 << 96 | 1, 153),
        (0x2001_0db8_0001_0002 << 64 | 0xfffe_0000_0001, 41),
    ];
    for (inside, last) in hosts {
        let host = lab.subscribers.enter(inside, RealmId(0)).unwrap();
        let address = lab.allocator.address(&lab.subscribers, &lab.pool, host);
        assert_eq!(address, Some(IpAddr::from([203, 0, 113, last])));
        assert_eq!(
            lab.ask(host, 4000).map(|lease| Some(lease.address)),
            Ok(address)
        );
    }
    let spread = PoolPolicy {
        pairing: Pairing::Spread,
        ..policy("1024-65535")
    };
    let mut lab = Lab::new(spread, 200);
    let host = lab.host(1);
    for (port, last) in [(1000, 123), (1001, 73), (65535, 133)] {
        let address = lab.ask(host, port).unwrap().address;
        assert_eq!(address, IpAddr::from([203, 0, 113, last]));
    }
    let inside = 0x2001_0db8_0001_0002 << 64 | 0xfffe_0000_0001;
    let host = lab.subscribers.enter(inside, RealmId(0)).unwrap();
    let address = lab.ask(host, 65535).unwrap().address;
    assert_eq!(address, IpAddr::from([203, 0, 113, 4]));
}

#[test]
fn spaces_have_the_names_of_their_protocols() {
    let names = [(6, "tcp"), (17, "udp"), (1, "icmp"), (132, "sctp")];
    for (protocol, name) in names {
        let space = PortSpace::from_protocol(protocol);
        assert_eq!(space.map(PortSpace::name), Some(name));
    }
}

#[test]
fn every_rest_cut_short_counts_be_it_of_a_port_or_of_a_remote() {
    let short = PoolPolicy {
        hold_max: 2,
        low_ports: false,
        ..policy("2000-2010")
    };
    let mut lab = Lab::new(short, 1);
    let host = lab.host(1);
    let leases = [2000, 2001, 2002, 2003].map(|port| lab.ask(host, port).unwrap());
    for lease in &leases {
        lab.give_back(host, lease, 480);
    }
    assert_eq!(lab.allocator.hold_overflows(), 2);
    // The first of these mappings stays on the port, so that only the remotes of the others rest.
    for address in 0..4 {
        lab.share = Share::new(Behaviour::Address, Remote { address, port: 0 });
        let lease = lab.ask(host, 2005).unwrap();
        assert_eq!(lease.port, 2005);
        if address > 0 {
            lab.give_back(host, &lease, 480);
        }
    }
    assert_eq!(lab.allocator.hold_overflows(), 2 + 1);
    assert_eq!(lab.errors(), 0);
}

#[test]
fn query_id_0_is_kept_and_port_0_is_not() {
    let mut lab = Lab::new(policy("2000-2100"), 1);
    let host = lab.host(1);
    for id in [0, 1, 600, 50_000] {
        let lease = lab.ask_for(host, PortSpace::Icmp, id, None).unwrap();
        assert_eq!(lease.port, id, "ids know no classes and no ranges");
    }
    let anything = "0,5000-5099".parse().unwrap();
    let lease = lab.ask_for(host, UDP, 0, Some(&anything)).unwrap();
    assert!(lease.port >= 5000, "one of a hundred: {}", lease.port);
    let mut lab = Lab::new(preserving("0-99", 100, 1), 1);
    let host = lab.host(1);
    assert_ne!(lab.ask(host, 0).unwrap().port, 0);
    assert_eq!(lab.ask(host, 77).unwrap().port, 77);
    let drawn = Lab::new(blocks("0-99", 100, 1, 50), 1);
    let mut lab = drawn;
    let host = lab.host(1);
    assert_ne!(lab.ask(host, 77).unwrap().port, 77, "this pool keeps none");
}

#[test]
fn a_lease_says_its_address_in_one_family() {
    let lease = |address| Lease {
        external: ExternalIndex(0),
        address,
        port: 1,
        opened: None,
    };
    let four = lease(IpAddr::from([203, 0, 113, 9]));
    assert_eq!((four.v4(), four.v6()), (0xcb00_7109, 0));
    let six = lease(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 9]));
    assert_eq!((six.v4(), six.v6()), (0, 0x2001_0db8 << 96 | 9));
}

#[test]
fn a_question_for_one_port_alone_does_not_count_as_a_refusal() {
    let mut lab = Lab::new(policy("2000-2000"), 1);
    let host = lab.host(1);
    let mut counted = |exactly, result: Result<u16, DropReason>| {
        let request = Request {
            exactly,
            ..request(&lab.pool, host)
        };
        let (externals, subscribers) = (&lab.externals, &mut lab.subscribers);
        let mut random = Random::from_seed(1);
        let lease = lab
            .allocator
            .allocate(externals, subscribers, &request, &mut random);
        assert_eq!(lease.map(|lease| lease.port), result);
        let refused: u64 = lab.pool.counts().refused(UDP).map(|(_, n)| n).sum();
        (lab.pool.counts().created(UDP), refused)
    };
    assert_eq!(counted(Some(1999), Err(DropReason::NoPort)), (0, 0));
    assert_eq!(counted(Some(2000), Ok(2000)), (1, 0));
    assert_eq!(counted(None, Err(DropReason::NoPort)), (1, 1));
}

fn request(pool: &Pool, subscriber: SubscriberIndex) -> Request<'_> {
    Request {
        select: None,
        exactly: None,
        pool,
        ports: None,
        subscriber,
        inside_port: 4000,
        space: UDP,
        share: None,
        now: Tick(1000),
    }
}

#[test]
fn calls_that_make_no_sense_are_counted() {
    let mut lab = Lab::new(policy("2000-2100"), 1);
    let host = lab.host(1);
    let held = |external, port, due| Held {
        external: ExternalIndex(external),
        space: UDP,
        port,
        due: Tick(due),
    };
    let lease = Lease {
        external: ExternalIndex(9),
        address: IpAddr::from([203, 0, 113, 9]),
        port: 2000,
        opened: None,
    };
    lab.subscribers
        .lease_begun(host, PoolId(0), ExternalIndex(9));
    lab.give_back(host, &lease, 0);
    assert_eq!(lab.errors(), 1, "there is no such address");
    lab.allocator.take_over(&lab.externals, &[held(9, 1, 5)]);
    assert_eq!((lab.allocator.held(), lab.errors()), (1, 1));
    assert_eq!(lab.allocator.release_due(&lab.externals, Tick(5), 10), 1);
    assert_eq!(lab.errors(), 2);
    // The thousand and first pushes out the first, which does not exist either.
    let many: Vec<Held> = (0..1001).map(|n| held(9, n, 7)).collect();
    lab.allocator.take_over(&lab.externals, &many);
    assert_eq!((lab.allocator.held(), lab.errors()), (1000, 3));
    assert_eq!(lab.allocator.hold_overflows(), 1);

    for layout in [policy("2000-2009"), blocks("2000-2009", 10, 1, 50)] {
        let mut lab = Lab::new(layout, 1);
        let host = lab.host(1);
        let lease = lab.ask(host, 2005).unwrap();
        lab.subscribers.lease_begun(host, PoolId(0), lease.external);
        lab.give_back(host, &lease, 0);
        let external = lab.externals.get(lease.external).unwrap();
        assert_eq!(external.errors(), 0);
        lab.give_back(host, &lease, 0);
        let external = lab.externals.get(lease.external).unwrap();
        assert_eq!(external.errors(), 1, "given back twice");
    }
}

#[test]
fn ports_that_rest_since_before_the_start_come_back_when_due() {
    let mut lab = Lab::new(policy("2000-2000"), 1);
    let host = lab.host(1);
    let external = lab.externals.handle(ExternalIndex(0)).unwrap();
    let rest = external.rest(UDP, 2000, WorkerId(0), Tick(1000));
    assert_eq!(rest, Rest::UntilReleased);
    let entry = Held {
        external: ExternalIndex(0),
        space: UDP,
        port: 2000,
        due: Tick(1100),
    };
    lab.allocator.take_over(&lab.externals, &[entry]);
    assert_eq!(lab.allocator.release_due(&lab.externals, Tick(1099), 10), 0);
    assert_eq!(lab.ask(host, 2000), Err(DropReason::NoPort));
    assert_eq!(lab.allocator.release_due(&lab.externals, Tick(1100), 10), 1);
    assert_eq!(lab.ask(host, 2000).map(|lease| lease.port), Ok(2000));
    assert_eq!(lab.errors(), 0);
}

#[test]
fn a_block_says_whose_it_is() {
    let blocks = block_ports(100, "1000-2099");
    let mut random = Random::from_seed(1);
    assert_eq!(blocks.size(), 100);
    let block = blocks.claim_block(&claim(2, 1, 0), &everything(UDP), &mut random);
    let block = block.unwrap();
    assert_eq!(blocks.subscriber(block), Some(claim(2, 1, 0).subscriber));
    assert_eq!(blocks.pool(block), Some(PoolId(3)));
    assert_eq!(blocks.block_owner(block), Some(WorkerId(2)));
    let usage = blocks.block_usage();
    assert_eq!((usage.used, usage.free, usage.high_water), (1, 10, 1));
    blocks.release_block(block);
    assert_eq!(
        (blocks.subscriber(block), blocks.block_owner(block)),
        (None, None)
    );
    let usage = blocks.block_usage();
    assert_eq!((usage.used, usage.free, usage.high_water), (0, 11, 1));
}

#[test]
fn hosts_own_blocks_end_where_the_plan_does() {
    let plan = HostPlan {
        ports: "1024-1087".parse().unwrap(),
        hosts: 64,
        ports_per_host: 1,
        overflow: None,
    };
    let blocks = BlockPorts::planned(&plan);
    assert_eq!(blocks.count(), 64);
    assert_eq!(blocks.claim_own(BlockIndex(64), &claim(0, 1, 0)), None);
    let last = BlockIndex(63);
    assert_eq!(blocks.claim_own(last, &claim(0, 1, 0)), Some(last));
    assert_eq!(blocks.claim_own(last, &claim(0, 1, 0)), None, "it is taken");
}

// The promise of the steering: as long as there is one, a worker gets a block whose answers come to it.
#[test]
fn a_worker_gets_every_block_that_is_steered_to_it_first() {
    for workers in [2u8, 3, 5] {
        for worker in 0..workers {
            let blocks = block_ports(512, "0-65535");
            let own = (0..128).filter(|n| n % u32::from(workers) == u32::from(worker));
            let mut random = Random::from_seed(7);
            let got: BTreeSet<u32> = own
                .clone()
                .map(|_| {
                    let claim = claim(worker, workers, 0);
                    let block = blocks.claim_block(&claim, &everything(UDP), &mut random);
                    u32::from(blocks.ports_of(block.unwrap()).unwrap().first) >> 9
                })
                .collect();
            assert_eq!(got, own.collect(), "worker {worker} of {workers}");
        }
    }
}

#[test]
fn a_rule_of_its_own_ports_finds_the_one_block_that_has_some() {
    let blocks = block_ports(10, "1000-2999");
    let ports = "2304-2306".parse().unwrap();
    let allowed = Allowed::new(&ports, PortMask::none(), UDP);
    let mut random = Random::from_seed(2);
    let block = blocks.claim_block(&claim(0, 1, 0), &allowed, &mut random);
    assert_eq!(block, Some(BlockIndex(130)));
    let mut take = || blocks.allocate(BlockIndex(130), None, &allowed, &mut random, Tick(0), 0);
    let got: BTreeSet<u16> = std::iter::from_fn(&mut take).collect();
    assert_eq!(got, BTreeSet::from([2304, 2305, 2306]));
    let other = blocks.claim_block(&claim(0, 1, 0), &allowed, &mut random);
    assert_eq!(other, None, "no other block has one");

    let wide = block_ports(512, "1024-1535");
    let ports = "1300-1310".parse().unwrap();
    let allowed = Allowed::new(&ports, PortMask::none(), UDP);
    let block = wide.claim_block(&claim(0, 1, 0), &allowed, &mut random);
    let block = block.unwrap();
    let take = || wide.allocate(block, None, &allowed, &mut random, Tick(0), 0);
    let got: BTreeSet<u16> = std::iter::from_fn(take).collect();
    assert_eq!(got, (1300..=1310).collect());
}

#[test]
fn windows_of_a_block_begin_with_it() {
    let blocks = block_ports(100, "1000-1199");
    let begins = [
        (1000, 1000),
        (1063, 1000),
        (1064, 1064),
        (1099, 1064),
        (1100, 1100),
        (1199, 1164),
    ];
    for (port, window) in begins {
        assert_eq!(blocks.window_of(port), window, "port {port}");
    }
    assert_eq!(blocks.window_of(500), 448, "in no block");
}

#[test]
fn a_port_rests_for_its_hold_time_and_is_counted_until_it_is_back() {
    let blocks = block_ports(200, "1000-1199");
    let mut random = Random::from_seed(3);
    let block = blocks.claim_block(&claim(0, 1, 1000), &everything(UDP), &mut random);
    let block = block.unwrap();
    let busy = || {
        (
            blocks.busy(block, UDP),
            blocks.usage(UDP).in_use,
            blocks.usage(UDP).held,
        )
    };
    assert_eq!(busy(), (0, 0, 0));
    let at = |now: u32| Tick(1000 + now);
    for port in [1003, 1150] {
        blocks.take_port(block, port, UDP, at(0));
    }
    assert_eq!(busy(), (2, 2, 0));
    assert!(!blocks.rest_port(UDP, 1003, at(0)), "it is in use");
    blocks.free(UDP, 1150, at(0), 0);
    assert_eq!(busy(), (1, 1, 0), "no rest, nothing held");
    blocks.free(UDP, 1003, at(0), 480);
    assert_eq!(busy(), (1, 0, 1));
    let free = |now| {
        blocks.has_free(block, &everything(UDP), at(now), 480);
        blocks.can_take(block, 1003, &everything(UDP))
    };
    // Three steps of half the time, each rounded up and one more.
    assert!(!free(3 * 241 - 1));
    assert_eq!(busy(), (1, 0, 1));
    assert!(free(3 * 241));
    assert_eq!(busy(), (0, 0, 0));
    assert_eq!(blocks.errors(), 0);
}

#[test]
fn ports_that_rest_in_a_block_nobody_had_come_back_when_they_would_have() {
    let blocks = block_ports(10, "1000-1009");
    for space in PortSpace::ALL {
        assert!(blocks.rest_port(space, 1000, Tick(0)));
        assert!(!blocks.rest_port(space, 999, Tick(0)), "no port of a block");
    }
    let mut random = Random::from_seed(4);
    let block = blocks.claim_block(&claim(0, 1, 700), &everything(UDP), &mut random);
    for space in PortSpace::ALL {
        let allowed = everything(space);
        let got = blocks.allocate(
            block.unwrap(),
            Some(1000),
            &allowed,
            &mut random,
            Tick(723),
            480,
        );
        assert_eq!(
            got,
            Some(1000),
            "its rest began before the block was opened"
        );
    }
}

#[test]
fn a_range_smaller_than_a_block_has_none() {
    let blocks = block_ports(100, "0-49,1000-1099");
    assert_eq!(blocks.count(), 1);
    assert_eq!(
        (blocks.block_of(10), blocks.block_of(1000)),
        (None, Some(BlockIndex(0)))
    );
}

#[test]
fn the_block_that_has_the_wanted_port_is_taken_also_when_it_rested_longest() {
    let mut lab = Lab::new(preserving("2000-2199", 100, 2), 1);
    let host = lab.host(1);
    let first = lab.ask(host, 1).unwrap();
    let ports = |lab: &Lab, port| {
        let external = lab.externals.get(ExternalIndex(0)).unwrap();
        let blocks = external.blocks().unwrap();
        blocks.ports_of(blocks.block_of(port).unwrap()).unwrap()
    };
    let block = ports(&lab, first.port);
    let leases: Vec<Lease> = (0..100).map(|_| lab.ask(host, 1).unwrap()).collect();
    let second = leases.iter().find(|lease| lease.opened.is_some());
    assert!(second.is_some(), "the second block is open");
    lab.now = Tick(1001);
    for lease in &leases {
        lab.give_back(host, lease, 0);
    }
    lab.now = Tick(1002);
    let last = lab.ask(host, block.last).unwrap();
    assert_eq!(last.port, block.last);
}

#[test]
fn one_pools_block_serves_no_other_pool_of_the_same_address() {
    let mut lab = Lab::new(blocks("2000-2199", 100, 1, 50), 1);
    let host = lab.host(1);
    let first = lab.ask(host, 1).unwrap();
    let other = PoolPolicy {
        id: PoolId(1),
        ..lab.pool.policy().clone()
    };
    lab.pool = Pool::new(other, lab.pool.externals().to_vec(), 1);
    let second = lab.ask(host, 1).unwrap();
    assert!(second.opened.is_some() && second.opened != first.opened);
}

#[test]
fn sequential_ports_go_on_also_when_they_are_shared() {
    let sequential = PoolPolicy {
        low_ports: false,
        select: Select::Sequential,
        ..policy("2048-2100")
    };
    let mut lab = Lab::new(sequential, 1);
    let host = lab.host(1);
    let mut ports = Vec::new();
    for remote in 0..4 {
        let remote = Remote {
            address: 7,
            port: remote,
        };
        lab.share = Share::new(Behaviour::AddressPort, remote);
        ports.push(lab.ask(host, 1).unwrap().port);
    }
    assert_eq!(ports, [2048, 2049, 2050, 2051]);
}

#[test]
fn shared_ports_of_one_address_and_space_are_no_others() {
    let remote = Remote {
        address: 7,
        port: 53,
    };
    let share = Share::new(Behaviour::Address, remote).unwrap();
    let view = |external, space| View {
        external: ExternalIndex(external),
        space,
        share,
    };
    let mut shared = SharedPorts::new(10, 0, Hasher::new([1, 2])).unwrap();
    let here = view(3, PortSpace::Udp);
    assert!(shared.begin(&here, 2048, 2050).is_ok());
    assert_eq!(
        (shared.leased(&here, 2048), shared.taken(&here, 2048)),
        (4, 4)
    );
    for elsewhere in [view(4, PortSpace::Udp), view(3, PortSpace::Tcp)] {
        assert_eq!(shared.leased(&elsewhere, 2048), 0);
        assert_eq!(shared.taken(&elsewhere, 2048), 0);
    }
}

#[test]
fn indices_of_addresses_that_went_are_given_again() {
    let address = |n| IpAddr::from([203, 0, 113, n]);
    let mut externals = Externals::new();
    let intern = |externals: &mut Externals, n| {
        let index = externals.intern(address(n), &Layout::Ports, |_| true);
        index.map(|index| index.0)
    };
    for n in 0..5 {
        assert_eq!(intern(&mut externals, n), Ok(n.into()));
    }
    externals.retire(|index| index.0 != 1 && index.0 != 3);
    let next: Vec<_> = (10..13).map(|n| intern(&mut externals, n)).collect();
    assert_eq!(next, [Ok(1), Ok(3), Ok(5)]);
}

#[test]
fn busy_ports_of_blocks_are_told_by_windows() {
    let layout = Layout::Blocks {
        size: 100,
        ranges: "2000-2199".parse().unwrap(),
    };
    let external = External::new(IpAddr::from([203, 0, 113, 1]), layout);
    let blocks = external.blocks().unwrap();
    let mut random = Random::from_seed(5);
    for first in [2000, 2100] {
        let ports = PortRanges::single(first, first + 99);
        let allowed = Allowed::new(&ports, PortMask::none(), UDP);
        let block = blocks.claim_block(&claim(0, 1, 0), &allowed, &mut random);
        for port in [first, first + 1, first + 60] {
            blocks.take_port(block.unwrap(), port, UDP, Tick(0));
        }
    }
    let busy = external.busy(UDP);
    assert_eq!(
        busy,
        [(1984, 3 << 16), (2048, 1 << 12 | 3 << 52), (2112, 1 << 48)]
    );
}
