//! What the flow table's structures cost: lookups one by one and in prefetched groups, inserts, removals, sweep.
//!
//! Sizes 1 k, 64 k and 1 M entries; `NATGATE_BENCH_MILLIONS=4` replaces the largest by that many millions. Keys are asked for
//! in random order, so large tables show memory latency, and groups show how much of it overlaps.

use criterion::{BenchmarkId, Criterion, Throughput};
use natgate::base::{Random, RealmId};
use natgate::flow::{BucketTable, ClockHand, FlowKey, Hash, Hasher, Slab, SlabEntry, Tuple};
use std::hint::black_box;
use std::time::Duration;

/// Percent of the slots in use: a table that is far from full.
const LOAD: u32 = 84;

/// Keys looked up per measured iteration.
const KEYS: usize = 1024;

/// Stands for a session: one line with its key.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
struct Session {
    key: FlowKey<u32>,
    link: u32,
    last_seen: u32,
    live: bool,
}

impl SlabEntry for Session {
    fn is_live(&self) -> bool {
        self.live
    }
    fn next_free(&self) -> u32 {
        self.link
    }
    fn set_next_free(&mut self, next: u32) {
        self.link = next;
    }
}

/// A filled table with its sessions.
struct Flows {
    hasher: Hasher,
    table: BucketTable,
    slab: Slab<Session>,
}

/// The `i`th key: distinct for distinct `i`.
fn key(i: u32) -> FlowKey<u32> {
    let tuple = Tuple {
        source: 0x0a00_0000 | i >> 6,
        destination: 0xc633_6401,
        source_port: 1024 + (i & 63) as u16,
        destination_port: 443,
    };
    FlowKey::new(tuple, 17, RealmId(0))
}

impl Flows {
    fn filled(entries: u32) -> Flows {
        let (table, slab) = (
            BucketTable::with_capacity(entries as usize + KEYS, LOAD),
            Slab::with_capacity(entries as usize),
        );
        let (Ok(table), Ok(slab)) = (table, slab) else {
            eprintln!("not enough memory for {entries} entries");
            std::process::exit(1);
        };
        let hasher = Hasher::new([1, 2]);
        let mut flows = Flows {
            hasher,
            table,
            slab,
        };
        for i in 0..entries {
            let session = Session {
                key: key(i),
                live: true,
                ..Session::default()
            };
            let index = flows.slab.allocate(session);
            let entered = index.map(|index| flows.table.insert(flows.hasher.hash(&key(i)), index));
            assert_eq!(entered, Some(Ok(())));
        }
        flows
    }

    #[inline]
    fn find(&self, hash: Hash, key: &FlowKey<u32>) -> Option<u32> {
        let same = |index| self.slab.get(index).is_some_and(|s| s.key == *key);
        self.table.find(hash, same)
    }

    fn one_by_one(&self, keys: &[FlowKey<u32>]) -> u32 {
        let found = keys
            .iter()
            .filter_map(|k| self.find(self.hasher.hash(k), k));
        found.fold(0, u32::wrapping_add)
    }

    /// The worker's passes: hash and prefetch buckets, prefetch sessions, compare.
    fn in_groups<const GROUP: usize>(&self, keys: &[FlowKey<u32>]) -> u32 {
        let mut sum = 0u32;
        for group in keys.as_chunks::<GROUP>().0 {
            let hashes = group.each_ref().map(|k| self.hasher.hash(k));
            for &hash in &hashes {
                self.table.prefetch(hash);
            }
            for &hash in &hashes {
                match self.table.candidate(hash) {
                    Some(index) => self.slab.prefetch(index),
                    None => {
                        self.table.prefetch_away(hash);
                    }
                }
            }
            for (key, &hash) in group.iter().zip(&hashes) {
                sum = sum.wrapping_add(self.find(hash, key).unwrap_or(0));
            }
        }
        sum
    }
}

/// Key lists that together go through the table in random order, one list per iteration.
fn key_lists(random: &mut Random, entries: u32, first: u32) -> Vec<Vec<FlowKey<u32>>> {
    let lists = (entries as usize / KEYS).clamp(1, 512);
    let mut list = || {
        (0..KEYS)
            .map(|_| key(first + random.below(entries)))
            .collect()
    };
    (0..lists).map(|_| list()).collect()
}

fn lookups(c: &mut Criterion, flows: &Flows, entries: u32) {
    let mut random = Random::from_seed(7);
    let cases = [
        ("hit", key_lists(&mut random, entries, 0)),
        ("miss", key_lists(&mut random, entries, entries)),
    ];
    for (name, lists) in &cases {
        let mut group = c.benchmark_group(format!("lookup-{name}"));
        group.throughput(Throughput::Elements(KEYS as u64));
        type Lookup = fn(&Flows, &[FlowKey<u32>]) -> u32;
        let ways: [(&str, Lookup); 6] = [
            ("scalar", Flows::one_by_one),
            ("b8", Flows::in_groups::<8>),
            ("b16", Flows::in_groups::<16>),
            ("b32", Flows::in_groups::<32>),
            ("b64", Flows::in_groups::<64>),
            ("b128", Flows::in_groups::<128>),
        ];
        for (way, lookup) in ways {
            let mut next = lists.iter().cycle();
            group.bench_function(BenchmarkId::new(way, entries), |b| {
                b.iter(|| next.next().map(|keys| lookup(flows, black_box(keys))));
            });
        }
        group.finish();
    }
}

fn changes(c: &mut Criterion, flows: &mut Flows, entries: u32) {
    let mut group = c.benchmark_group("change");
    group.throughput(Throughput::Elements(KEYS as u64));
    let table = &mut flows.table;
    let mut random = Random::from_seed(8);
    // Insert and removal of the same 1024 entries, so that the table stays as full as it is.
    group.bench_function(BenchmarkId::new("insert+remove", entries), |b| {
        b.iter(|| {
            let hashes: [Hash; KEYS] = std::array::from_fn(|_| Hash(random.next_u64()));
            for ahead in hashes.chunks(32) {
                ahead.iter().for_each(|&hash| table.prefetch(hash));
                for &hash in ahead {
                    let _ = black_box(table.insert(hash, 0));
                }
            }
            for ahead in hashes.chunks(32) {
                ahead.iter().for_each(|&hash| table.prefetch(hash));
                for &hash in ahead {
                    black_box(table.remove(hash, 0));
                }
            }
        });
    });
    group.finish();
}

/// Entries of a slice.
const SLICE: u32 = 512;

fn sweep(c: &mut Criterion, flows: &Flows, entries: u32) {
    let mut group = c.benchmark_group("sweep");
    group.throughput(Throughput::Elements(u64::from(SLICE)));
    let mut hand = ClockHand::default();
    group.bench_function(BenchmarkId::new("slice", entries), |b| {
        b.iter(|| {
            let slice = hand.next_slice(flows.slab.high_water(), SLICE);
            let old = |&index: &u32| {
                let session = flows.slab.get(index);
                session.is_some_and(|s| s.live && s.last_seen > 5)
            };
            black_box(slice.filter(old).count())
        });
    });
    group.finish();
}

fn hashes(c: &mut Criterion) {
    let mut group = c.benchmark_group("hash");
    group.throughput(Throughput::Elements(KEYS as u64));
    let keys: Vec<FlowKey<u32>> = (0..KEYS as u32).map(key).collect();
    for (name, hasher) in [
        ("best", Hasher::new([1, 2])),
        ("portable", Hasher::portable([1, 2])),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| {
                black_box(&keys)
                    .iter()
                    .fold(0, |sum, k| sum ^ hasher.hash(k).0)
            });
        });
    }
    group.finish();
}

fn main() {
    let millions = std::env::var("NATGATE_BENCH_MILLIONS");
    let millions: u32 = millions.ok().and_then(|m| m.parse().ok()).unwrap_or(1);
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
        .configure_from_args();
    hashes(&mut criterion);
    for entries in [1000, 64_512, millions.clamp(1, 64) << 20] {
        let mut flows = Flows::filled(entries);
        lookups(&mut criterion, &flows, entries);
        changes(&mut criterion, &mut flows, entries);
        sweep(&mut criterion, &flows, entries);
    }
    criterion.final_summary();
}
