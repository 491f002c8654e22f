//! The price of a port: one lease and its return at several degrees of fill, and of a refusal.

#![allow(
    missing_docs,
    clippy::expect_used,
    reason = "a benchmark may stop on a broken set-up; criterion's macro makes an undocumented function"
)]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use natgate::base::{PoolId, Random, RealmId, Tick, WorkerId};
use natgate::flow::hash::Hasher;
use natgate::nat::behaviour::{Behaviour, Behaviours};
use natgate::nat::ports::{
    Allocator, BlockPolicy, Exhaustion, ExternalRef, Externals, Layout, Pairing, Pool, PoolPolicy,
    PortMask, PortSpace, Preference, Request, Returned, Select, SharedPorts,
};
use natgate::nat::subscriber::{SubscriberIndex, Subscribers};
use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;

/// One worker, one address, one subscriber that has taken a share of what it may have.
struct Lab {
    externals: Externals,
    pool: Pool,
    subscribers: Subscribers,
    subscriber: SubscriberIndex,
    allocator: Allocator,
    random: Random,
}

impl Lab {
    fn new(block: Option<BlockPolicy>) -> Lab {
        let policy = PoolPolicy {
            id: PoolId(0),
            name: "bench".to_owned(),
            ports: "1024-65535".parse().expect("a valid list"),
            low_ports: false,
            select: Select::Random,
            parity: false,
            pairing: Pairing::Paired,
            block,
            hold: 0,
            hold_max: 0,
            behaviours: [Behaviours {
                mapping: Behaviour::Endpoint,
                filtering: Behaviour::Endpoint,
            }; PortSpace::COUNT],
            exhaustion: Exhaustion::Drop,
            helpers: Default::default(),
            deterministic: None,
        };
        let layout = match block {
            None => Layout::Ports,
            Some(block) => Layout::Blocks {
                size: block.size,
                ranges: policy.ports.clone(),
            },
        };
        let mut externals = Externals::new();
        let index = externals
            .intern(IpAddr::from([203, 0, 113, 1]), &layout, |_| false)
            .expect("the first address");
        let external = ExternalRef {
            index,
            external: externals.handle(index).expect("just added"),
            draining: false,
            reserved: Arc::new(PortMask::new()),
        };
        let preference = Preference {
            shift: 9,
            workers: 1,
        };
        let mut subscribers = Subscribers::new(1024, 1);
        let subscriber = subscribers.enter(0x0a00_0001, RealmId(0)).expect("room");
        Lab {
            pool: Pool::new(policy, vec![external], 1),
            externals,
            subscribers,
            subscriber,
            allocator: Allocator::new(
                WorkerId(0),
                preference,
                0,
                SharedPorts::new(0, 0, Hasher::new([1, 2])).expect("nothing"),
            ),
            random: Random::from_seed(1),
        }
    }

    fn take(&mut self) -> Option<Returned> {
        let request = Request {
            select: None,
            exactly: None,
            pool: &self.pool,
            ports: None,
            subscriber: self.subscriber,
            inside_port: 40_000,
            space: PortSpace::Udp,
            share: None,
            now: Tick(1),
        };
        let (externals, subscribers) = (&self.externals, &mut self.subscribers);
        let lease = self
            .allocator
            .allocate(externals, subscribers, &request, &mut self.random)
            .ok()?;
        Some(Returned {
            subscriber: self.subscriber,
            external: lease.external,
            space: PortSpace::Udp,
            port: lease.port,
            share: None,
            hold: 0,
        })
    }

    fn give_back(&mut self, returned: &Returned) {
        let (externals, subscribers) = (&self.externals, &mut self.subscribers);
        self.allocator
            .release(externals, subscribers, returned, Tick(1));
    }

    /// A lab with `percent` of `total` ports taken, picked at random.
    fn filled(block: Option<BlockPolicy>, total: u32, percent: u32) -> Lab {
        let mut lab = Lab::new(block);
        let mut taken: Vec<Returned> = (0..total).filter_map(|_| lab.take()).collect();
        assert_eq!(taken.len() as u32, total);
        let mut random = Random::from_seed(2);
        while taken.len() as u32 > total * percent / 100 {
            let at = random.below(taken.len() as u32) as usize;
            let returned = taken.swap_remove(at);
            lab.give_back(&returned);
        }
        lab
    }
}

fn ports(c: &mut Criterion) {
    let four = BlockPolicy {
        size: 512,
        max_per_host: 4,
        idle: 2400,
    };
    let layouts = [("single", None, 64_512), ("blocks", Some(four), 4 * 512)];
    for (name, block, total) in layouts {
        let mut group = c.benchmark_group(name);
        for percent in [0, 50, 95] {
            let mut lab = Lab::filled(block, total, percent);
            group.bench_function(BenchmarkId::new("lease_and_return", percent), |b| {
                b.iter(|| {
                    if let Some(returned) = black_box(lab.take()) {
                        lab.give_back(&returned);
                    }
                })
            });
        }
        let mut lab = Lab::filled(block, total, 100);
        group.bench_function(BenchmarkId::new("refusal", 100), |b| {
            b.iter(|| black_box(lab.take()).is_none())
        });
        group.finish();
    }
}

criterion_group!(benches, ports);
criterion_main!(benches);
