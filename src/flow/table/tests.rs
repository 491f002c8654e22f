//! The table against a plain map, at high load, and under keys chosen to collide.

use super::*;
use crate::base::Random;
use std::collections::HashMap;

/// Percent; far from the highest.
const LOAD: u32 = 84;

/// A hash with this tag whose home is `home` in `table`.
fn aimed(table: &BucketTable, home: u32, tag: u16) -> Hash {
    let count = table.buckets.len() as u64;
    let low = ((u64::from(home) << 32).div_ceil(count)) & 0xffff_ffff;
    let hash = Hash(u64::from(tag) << 48 | low);
    assert_eq!((table.home(hash), tag_of(hash)), (home, tag));
    hash
}

/// Recounts everything the table keeps counts of.
fn check(table: &BucketTable) {
    let mut overflow = vec![0u16; table.buckets.len()];
    let mut entries = table.stash.len();
    for &(hash, _) in &table.stash {
        overflow[table.home(hash) as usize] += 1;
    }
    for (at, bucket) in table.buckets.iter().enumerate() {
        for (slot, &tag) in bucket.tags.iter().enumerate() {
            let displaced = bucket.displaced >> slot & 1 == 1;
            assert!(tag != 0 || !displaced, "a free slot is marked");
            entries += usize::from(tag != 0);
            if displaced {
                overflow[table.other(at as u32, tag) as usize] += 1;
            }
        }
        assert_eq!(bucket.displaced >> WAYS, 0);
    }
    let kept: Vec<u16> = table.buckets.iter().map(|b| b.overflow).collect();
    assert_eq!(kept, overflow);
    assert_eq!(entries, table.len());
}

fn share_of_displaced(table: &BucketTable) -> f64 {
    let away: u32 = table.buckets.iter().map(|b| b.displaced.count_ones()).sum();
    f64::from(away) / table.len() as f64
}

#[test]
fn the_other_bucket_of_the_other_bucket_is_the_first() {
    for entries in [0, 17, 100, 1000, 12_345, 1_000_003] {
        let table = BucketTable::with_capacity(entries, 84).unwrap();
        let count = table.buckets.len() as u32;
        let mut random = Random::from_seed(entries as u64);
        for _ in 0..5000 {
            let (bucket, tag) = (random.below(count), random.below(0xffff) as u16 + 1);
            let other = table.other(bucket, tag);
            assert!(other < count);
            assert_eq!(table.other(other, tag), bucket);
        }
    }
}

#[test]
fn random_histories_agree_with_a_map() {
    for (seed, entries, load) in [
        (1, 3, 84),
        (2, 150, 84),
        (3, 1000, 95),
        (4, 4000, 84),
        (5, 20_000, 95),
    ] {
        let mut random = Random::from_seed(seed);
        let mut table = BucketTable::with_capacity(entries, load).unwrap();
        let mut model: HashMap<u32, Hash> = HashMap::new();
        let mut known: Vec<u32> = Vec::new();
        let mut fresh = 0;
        for step in 0..entries as u32 * 12 {
            // Fill for a while, then drain, so that both full and sparse tables are seen.
            let fill = if (step / (entries as u32 * 3)).is_multiple_of(2) {
                75
            } else {
                35
            };
            if random.below(100) < fill {
                let hash = Hash(random.next_u64());
                let expected = if model.len() < entries {
                    Ok(())
                } else {
                    Err(Full)
                };
                assert_eq!(table.insert(hash, fresh), expected, "{} held", model.len());
                if expected.is_ok() {
                    model.insert(fresh, hash);
                    known.push(fresh);
                }
                fresh += 1;
            } else if !known.is_empty() {
                let value = known.swap_remove(random.below(known.len() as u32) as usize);
                let hash = model.remove(&value).unwrap();
                assert!(table.remove(hash, value));
                assert!(!table.remove(hash, value), "a second removal finds nothing");
                assert_eq!(table.find(hash, |v| v == value), None);
            }
            assert_eq!(table.len(), model.len());
            if step.is_multiple_of(entries as u32 * 2) {
                check(&table);
                for (&value, &hash) in &model {
                    assert_eq!(table.find(hash, |v| v == value), Some(value));
                }
            }
        }
    }
}

#[test]
fn a_full_table_holds_exactly_its_capacity_without_the_stash() {
    for (entries, load, displaced) in [(60_000, LOAD, 0.10), (60_000, MAX_LOAD, 0.30)] {
        let mut random = Random::from_seed(9);
        let mut table = BucketTable::with_capacity(entries, load).unwrap();
        let hashes: Vec<Hash> = (0..entries).map(|_| Hash(random.next_u64())).collect();
        for (i, &hash) in hashes.iter().enumerate() {
            table.insert(hash, i as u32).unwrap();
        }
        assert_eq!(table.insert(Hash(1), 0), Err(Full));
        assert!(table.stash.is_empty());
        check(&table);
        assert!(
            share_of_displaced(&table) < displaced,
            "{}",
            share_of_displaced(&table)
        );
        for (i, &hash) in hashes.iter().enumerate() {
            assert_eq!(table.find(hash, |v| v == i as u32), Some(i as u32));
            if let Some(value) = table.candidate(hash) {
                assert_eq!(tag_of(hashes[value as usize]), tag_of(hash));
            }
            assert!(table.remove(hash, i as u32));
        }
        assert!(table.is_empty());
        check(&table);
        assert!(
            table
                .buckets
                .iter()
                .all(|b| b.overflow == 0 && b.displaced == 0)
        );
    }
}

#[test]
fn keys_aimed_at_one_bucket_end_in_full() {
    let mut table = BucketTable::with_capacity(10_000, 84).unwrap();
    let hash = aimed(&table, 7, 0x1234);
    assert_ne!(table.other(7, 0x1234), 7);
    let held = (0..100)
        .take_while(|&i| table.insert(hash, i).is_ok())
        .count();
    assert_eq!(held, 2 * WAYS + STASH);
    check(&table);
    assert!((0..held as u32).all(|i| table.find(hash, |v| v == i) == Some(i)));

    // A hash of the same home that is not here looks at the stash and finds nothing.
    assert_eq!(table.find(aimed(&table, 7, 0x1235), |_| true), None);

    // Every removal from a bucket lets a stashed entry in.
    for i in 0..held as u32 {
        assert!(table.remove(hash, i));
        check(&table);
        let left = held - 1 - i as usize;
        assert_eq!(table.stash.len(), left.saturating_sub(2 * WAYS));
    }
    assert_eq!(table.find(hash, |_| true), None);
}

#[test]
fn an_entry_with_only_one_bucket_is_kept_there() {
    let mut table = BucketTable::with_capacity(1000, 84).unwrap();
    let count = table.buckets.len() as u32;
    let own = |tag: u16| {
        (0..count)
            .find(|&b| table.other(b, tag) == b)
            .map(|b| (b, tag))
    };
    let (bucket, tag) = (1..u16::MAX).find_map(own).unwrap();
    let hash = aimed(&table, bucket, tag);
    let held = (0..100)
        .take_while(|&i| table.insert(hash, i).is_ok())
        .count();
    assert_eq!(held, WAYS + STASH);
    check(&table);
    assert!((0..held as u32).all(|i| table.find(hash, |v| v == i) == Some(i)));
    assert!((0..held as u32).all(|i| table.remove(hash, i)));
    check(&table);
}

#[test]
fn chains_of_displacement_keep_every_entry() {
    // Few buckets, all slots but few taken: nearly every insert must move others, often several.
    let mut random = Random::from_seed(77);
    let mut table = BucketTable::with_capacity(380, 95).unwrap();
    let mut held: Vec<Hash> = Vec::new();
    while held.len() < 380 {
        let hash = Hash(random.next_u64());
        table.insert(hash, held.len() as u32).unwrap();
        held.push(hash);
        check(&table);
        for (i, &hash) in held.iter().enumerate() {
            assert_eq!(table.find(hash, |v| v == i as u32), Some(i as u32));
        }
    }
}

#[test]
fn misses_mostly_end_at_home() {
    let mut random = Random::from_seed(5);
    let mut table = BucketTable::with_capacity(50_000, LOAD).unwrap();
    for i in 0..50_000 {
        table.insert(Hash(random.next_u64()), i).unwrap();
    }
    let closed = table.buckets.iter().filter(|b| b.overflow == 0).count();
    let share = closed as f64 / table.buckets.len() as f64;
    assert!(share > 0.6, "{share}");
    let mut asked = 0;
    for _ in 0..100_000 {
        table.find(Hash(random.next_u64()), |_| {
            asked += 1;
            false
        });
    }
    assert!(asked < 40, "{asked} foreign candidates, expected 13");
}

#[test]
fn an_overflow_count_at_its_limit_stays_there() {
    let mut table = BucketTable::with_capacity(100, 84).unwrap();
    table.buckets[3].overflow = u16::MAX - 1;
    for _ in 0..3 {
        table.count_overflow(3, true);
    }
    table.count_overflow(3, false);
    assert_eq!(table.buckets[3].overflow, u16::MAX);
}

#[test]
fn memory_follows_the_capacity() {
    let table = BucketTable::with_capacity(1 << 20, LOAD).unwrap();
    let per_entry = table.memory_bytes() as f64 / (1 << 20) as f64;
    assert!((7.6..10.0).contains(&per_entry), "{per_entry}");
    assert!(BucketTable::with_capacity(usize::MAX, 84).is_err());
    let mut empty = BucketTable::with_capacity(0, 84).unwrap();
    assert_eq!(empty.insert(Hash(1), 1), Err(Full));
    assert_eq!(empty.find(Hash(1), |_| true), None);
}

#[test]
fn a_replaced_value_is_found_wherever_its_entry_lives() {
    let mut table = BucketTable::with_capacity(1000, 95).unwrap();
    let mut random = Random::from_seed(9);
    let hashes: Vec<Hash> = (0..1000).map(|_| Hash(random.next_u64())).collect();
    for (value, &hash) in (0..).zip(&hashes) {
        table.insert(hash, value).unwrap();
    }
    assert!(
        share_of_displaced(&table) > 0.05,
        "some live away from home"
    );
    for (value, &hash) in (0..).zip(&hashes) {
        assert!(!table.replace(hash, value + 5000, 1), "no such pair");
        assert!(table.replace(hash, value, value + 10_000));
        assert_eq!(table.find(hash, |v| v == value), None);
        assert_eq!(
            table.find(hash, |v| v == value + 10_000),
            Some(value + 10_000)
        );
    }
    check(&table);
}

#[test]
fn a_guess_names_the_first_entry_with_the_tag() {
    let mut table = BucketTable::with_capacity(1000, 84).unwrap();
    let hash = aimed(&table, 7, 0x1234);
    assert_eq!(table.candidate(hash), None);
    assert!(!table.prefetch_away(hash));
    for value in 100..100 + WAYS as u32 {
        table.insert(hash, value).unwrap();
    }
    assert_eq!(table.candidate(hash), Some(100));
    assert_eq!(table.candidate(aimed(&table, 7, 0x1235)), None);
    assert!(!table.prefetch_away(hash), "all are at home");
    // One more lives away, which a foreign hash of the same home learns as well.
    table.insert(hash, 200).unwrap();
    assert!(table.prefetch_away(hash));
    assert!(table.prefetch_away(aimed(&table, 7, 0x1235)));
    assert_eq!(table.candidate_away(hash), Some(200));
    assert_eq!(table.candidate_away(aimed(&table, 7, 0x1235)), None);
    assert_eq!(table.candidate(hash), Some(100));
}

#[test]
fn a_stashed_entry_waits_for_room_in_its_own_buckets() {
    let mut table = BucketTable::with_capacity(10_000, 84).unwrap();
    let hash = aimed(&table, 7, 0x1234);
    let held = (0..100)
        .take_while(|&i| table.insert(hash, i).is_ok())
        .count();
    assert_eq!(held, 2 * WAYS + STASH);
    // The search moved nothing: whatever is not in the stash is in one of two buckets.
    let away = table.other(7, 0x1234);
    let elsewhere = (0..table.buckets.len() as u32)
        .find(|bucket| ![7, away].contains(bucket))
        .unwrap();
    let stranger = aimed(&table, elsewhere, 0x4321);
    table.insert(stranger, 1000).unwrap();
    assert!(table.remove(stranger, 1000));
    assert_eq!(table.stash.len(), STASH, "there was no room for them");
    check(&table);
    // Room away from home and at home lets one in each.
    let displaced = (0..held as u32)
        .find(|&i| {
            let mut here = table.buckets[away as usize].values.iter();
            here.any(|&value| value == i)
        })
        .unwrap();
    assert!(table.remove(hash, displaced));
    assert_eq!(table.stash.len(), STASH - 1);
    assert_eq!(table.buckets[7].overflow as usize, WAYS + STASH - 1);
    check(&table);
    let at_home = table.buckets[7].values[3];
    assert!(table.remove(hash, at_home));
    assert_eq!(table.stash.len(), STASH - 2);
    check(&table);
}

#[test]
fn pairs_that_are_not_there_are_neither_removed_nor_replaced() {
    let mut table = BucketTable::with_capacity(10_000, 84).unwrap();
    let hash = aimed(&table, 7, 0x1234);
    let held = (0..100)
        .take_while(|&i| table.insert(hash, i).is_ok())
        .count();
    let other = aimed(&table, 7, 0x1235);
    let stashed = table.stash[5].1;
    for (hash, value) in [(hash, 100), (other, 0), (other, stashed)] {
        assert!(!table.remove(hash, value));
        assert!(!table.replace(hash, value, 500));
    }
    assert_eq!(table.len(), held);
    assert!(table.replace(hash, stashed, 600));
    assert_eq!(table.find(hash, |v| v == stashed), None);
    assert_eq!(table.find(hash, |v| v == 600), Some(600));
    assert!(table.remove(hash, 600) && !table.remove(hash, 600));
    assert_eq!(table.len(), held - 1);
    check(&table);
}

#[test]
fn what_a_table_says_of_itself() {
    let mut table = BucketTable::with_capacity(500, 84).unwrap();
    assert!(table.is_empty());
    assert!(table.memory_bytes() > table.buckets.bytes());
    table.insert(Hash(1), 1).unwrap();
    assert!(!table.is_empty());
    assert_eq!(format!("{table:?}"), "BucketTable(1 of 500 entries)");
}
