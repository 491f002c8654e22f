//! Tests of blocks: exact filling, resting, accounting, steering preference, threads.

use super::*;
use crate::base::{PoolId, Random, Tick, WorkerId};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};

const ANY: Preference = Preference {
    shift: 9,
    workers: 1,
};

fn claim(worker: u8) -> Claim {
    Claim {
        worker: WorkerId(worker),
        subscriber: 0x0a00_0001,
        pool: PoolId(0),
        preference: ANY,
        now: Tick(0),
    }
}

fn everything(space: PortSpace) -> Allowed<'static> {
    Allowed::all(PortMask::none(), space)
}

// Proves: G13.
#[test]
fn a_block_is_filled_to_the_last_port_in_every_space() {
    for size in [1, 4, 63, 64, 100, 512] {
        let blocks = BlockPorts::new(size, &"1024-65535".parse().unwrap());
        let mut random = Random::from_seed(size.into());
        let tcp = everything(PortSpace::Tcp);
        let block = blocks.claim_block(&claim(1), &tcp, &mut random).unwrap();
        let ports = blocks.ports_of(block).unwrap();
        for space in PortSpace::ALL {
            let allowed = everything(space);
            let got: BTreeSet<u16> = std::iter::from_fn(|| {
                blocks.allocate(block, None, &allowed, &mut random, Tick(0), 480)
            })
            .collect();
            assert_eq!(got, (ports.first..=ports.last).collect::<BTreeSet<_>>());
            assert_eq!(blocks.in_use(block, space), size);
            assert!(!blocks.has_free(block, &allowed, Tick(0), 480));
        }
        blocks.release_block(block);
        assert_eq!(blocks.errors(), 1, "a block in use is not given back");
        for space in PortSpace::ALL {
            (ports.first..=ports.last).for_each(|p| blocks.free(space, p, Tick(1), 0));
        }
        blocks.free(PortSpace::Tcp, ports.first, Tick(1), 0);
        assert_eq!(blocks.errors(), 2, "a port is given back once");
        blocks.release_block(block);
        blocks.release_block(block);
        assert_eq!(blocks.errors(), 3, "and so is a block");
        assert_eq!(blocks.block_usage().used, 0);
    }
}

#[test]
fn a_block_takes_two_bytes_a_port_and_less_than_that_beside() {
    let bytes = |ports: &str| BlockPorts::new(64, &ports.parse().unwrap()).memory_bytes();
    let (ten, twenty) = (bytes("1024-1663"), bytes("1024-2303"));
    assert!((2 * 640 + 1..4 * 640).contains(&ten), "{ten}");
    assert_eq!(twenty, 2 * ten);
}

#[test]
fn reserved_ports_are_never_handed_out_and_useless_blocks_not_opened() {
    let blocks = BlockPorts::new(10, &"1000-1099".parse().unwrap());
    let mut mask = PortMask::new();
    mask.reserve(PortSpace::Tcp, PortRange::new(1005, 1094));
    let allowed = Allowed::all(&mask, PortSpace::Tcp);
    let mut random = Random::from_seed(3);
    let mut got = BTreeSet::new();
    while let Some(block) = blocks.claim_block(&claim(0), &allowed, &mut random) {
        let take = || blocks.allocate(block, Some(1007), &allowed, &mut random, Tick(0), 0);
        got.extend(std::iter::from_fn(take));
    }
    let want: BTreeSet<u16> = (1000..1005).chain(1095..1100).collect();
    assert_eq!(got, want);
    assert_eq!(blocks.block_usage().used, 2);
}

// Proves: G15, D4.
#[test]
fn port_choice_within_a_block_is_spread_and_not_sequential() {
    let blocks = BlockPorts::new(512, &"1024-65535".parse().unwrap());
    let mut random = Random::from_seed(4);
    let udp = everything(PortSpace::Udp);
    let block = blocks.claim_block(&claim(0), &udp, &mut random).unwrap();
    let first = blocks.ports_of(block).unwrap().first;
    let mut counts = [0u32; 512];
    let (mut last, mut near) = (0i32, 0);
    for _ in 0..51_200 {
        let port = blocks
            .allocate(block, None, &udp, &mut random, Tick(0), 0)
            .unwrap();
        counts[usize::from(port - first)] += 1;
        near += u32::from((i32::from(port) - last).abs() <= 4);
        last = port.into();
        blocks.free(PortSpace::Udp, port, Tick(0), 0);
    }
    // 511 degrees of freedom: mean 511, standard deviation 32.
    let chi: f64 = counts
        .iter()
        .map(|&n| (f64::from(n) - 100.0).powi(2) / 100.0)
        .sum();
    assert!((350.0..680.0).contains(&chi), "chi-square {chi}");
    assert!(
        near < 51_200 / 30,
        "neighbours follow each other {near} times"
    );
}

#[test]
fn blocks_the_card_steers_to_the_worker_come_first() {
    let blocks = BlockPorts::new(128, &"1024-65535".parse().unwrap());
    let mut random = Random::from_seed(5);
    let udp = everything(PortSpace::Udp);
    let claim = Claim {
        preference: Preference {
            shift: 10,
            workers: 3,
        },
        ..claim(2)
    };
    let suits = |block| blocks.ports_of(block).unwrap().first / 1024 % 3 == 2;
    let all: Vec<bool> = std::iter::from_fn(|| blocks.claim_block(&claim, &udp, &mut random))
        .map(suits)
        .collect();
    assert_eq!(all.len(), 504, "every block is found in the end");
    let suiting = all.iter().filter(|&&s| s).count();
    assert_eq!(suiting, 21 * 8);
    assert!(all[..suiting].iter().all(|&s| s), "suiting ones first");
}

#[test]
fn blocks_are_drawn_at_random() {
    let udp = everything(PortSpace::Udp);
    let mut random = Random::from_seed(6);
    let mut counts = [0u32; 126];
    let blocks = BlockPorts::new(512, &"1024-65535".parse().unwrap());
    for _ in 0..12_600 {
        let block = blocks.claim_block(&claim(0), &udp, &mut random).unwrap();
        counts[block.index()] += 1;
        blocks.release_block(block);
    }
    let chi: f64 = counts
        .iter()
        .map(|&n| (f64::from(n) - 100.0).powi(2) / 100.0)
        .sum();
    assert!((70.0..200.0).contains(&chi), "chi-square {chi}");
}

#[test]
fn two_workers_never_get_the_same_block() {
    let blocks = BlockPorts::new(512, &"1024-65535".parse().unwrap());
    let holders: Vec<AtomicU8> = (0..126).map(|_| AtomicU8::new(0)).collect();
    std::thread::scope(|scope| {
        for worker in 0..4u8 {
            let (blocks, holders) = (&blocks, &holders);
            scope.spawn(move || {
                let udp = everything(PortSpace::Udp);
                let mut random = Random::from_seed(worker.into());
                let mut mine = Vec::new();
                for _ in 0..50_000 {
                    if mine.len() < 40 && random.below(2) == 0 {
                        if let Some(block) = blocks.claim_block(&claim(worker), &udp, &mut random) {
                            assert_eq!(holders[block.index()].swap(worker + 1, SeqCst), 0);
                            assert_eq!(blocks.block_owner(block), Some(WorkerId(worker)));
                            mine.push(block);
                        }
                    } else if let Some(block) = mine.pop() {
                        let port = blocks.allocate(block, None, &udp, &mut random, Tick(0), 0);
                        blocks.free(PortSpace::Udp, port.unwrap(), Tick(0), 0);
                        holders[block.index()].store(0, SeqCst);
                        blocks.release_block(block);
                    }
                }
                for block in mine {
                    holders[block.index()].store(0, SeqCst);
                    blocks.release_block(block);
                }
            });
        }
    });
    assert_eq!(blocks.block_usage().used, 0);
    assert_eq!(
        (blocks.errors(), blocks.usage(PortSpace::Udp).in_use),
        (0, 0)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    /// A block against a model: where each port is, since when it rests, and what the counters say.
    #[test]
    fn ports_rest_and_return(seed: u64, size in 1u16..150, hold in 0u32..12) {
        let blocks = BlockPorts::new(size, &"2000-2499".parse().unwrap());
        let mut random = Random::from_seed(seed);
        let udp = everything(PortSpace::Udp);
        let block = blocks.claim_block(&claim(0), &udp, &mut random).unwrap();
        let ports = blocks.ports_of(block).unwrap();
        let mut in_use: BTreeSet<u16> = BTreeSet::new();
        let mut freed: BTreeMap<u16, u32> = BTreeMap::new();
        let mut now = 0;
        for _ in 0..600 {
            now += random.below(100) / 97 * random.below(hold + 3);
            let at = Tick(now);
            if random.below(100) < 55 {
                let wanted = ports.first + random.below(size.into()) as u16;
                let wanted = (random.below(2) == 0).then_some(wanted);
                match blocks.allocate(block, wanted, &udp, &mut random, at, hold) {
                    Some(port) => {
                        prop_assert!(ports.contains(port) && in_use.insert(port));
                        let rested = freed.remove(&port).is_none_or(|due| due <= now);
                        prop_assert!(rested, "{} came back too early", port);
                    }
                    None => {
                        // Full: what is not in use rests, and for no longer than three steps of half a hold time.
                        for port in (ports.first..=ports.last).filter(|p| !in_use.contains(p)) {
                            let due = freed.get(&port).copied().unwrap_or(0);
                            prop_assert!(now < due + hold / 2 + 3, "{} is lost", port);
                        }
                    }
                }
            } else if let Some(&port) = in_use.iter().nth(random.below(in_use.len().max(1) as u32) as usize) {
                in_use.remove(&port);
                let rests = random.below(4) > 0 && hold > 0;
                blocks.free(PortSpace::Udp, port, at, if rests { hold } else { 0 });
                freed.insert(port, if rests { now + hold } else { now });
            }
            let usage = blocks.usage(PortSpace::Udp);
            prop_assert_eq!(usage.in_use as usize, in_use.len());
            prop_assert_eq!(usage.free + usage.held + usage.in_use, blocks.count() * u32::from(size));
            let resting = freed.values().filter(|&&due| due > now).count();
            prop_assert!(usage.held as usize >= resting);
        }
        prop_assert_eq!(blocks.errors(), 0);
        // After an idle spell the block goes back whole, whatever rested in it.
        for &port in &in_use {
            blocks.free(PortSpace::Udp, port, Tick(now), hold);
        }
        blocks.release_block(block);
        prop_assert_eq!(blocks.usage(PortSpace::Udp).held, 0);
        prop_assert_eq!(blocks.block_owner(block), None);
        let again = std::iter::repeat_with(|| blocks.claim_block(&claim(0), &udp, &mut random).unwrap());
        let again = again.take(blocks.count() as usize).find(|&b| b == block).unwrap();
        let all = std::iter::from_fn(|| blocks.allocate(again, None, &udp, &mut random, Tick(now), hold));
        prop_assert_eq!(all.count(), usize::from(size));
    }
}
