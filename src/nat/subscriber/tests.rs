use super::*;
use crate::base::Random;
use crate::nat::ports::BlockIndex;
use std::collections::BTreeMap;

#[test]
fn agrees_with_a_map_under_random_histories() {
    let mut table = Subscribers::new(50, 42);
    let mut model: BTreeMap<(u128, u8), (SubscriberIndex, u32)> = BTreeMap::new();
    let mut random = Random::from_seed(5);
    let mut refused = 0;
    for _ in 0..100_000 {
        let key = (u128::from(random.below(40)), random.below(2) as u8);
        let realm = RealmId(key.1);
        let known = model.get(&key).copied();
        assert_eq!(table.find(key.0, realm), known.map(|k| k.0));
        if random.below(20) < 11 {
            match table.enter(key.0, realm) {
                Ok(index) => {
                    model.entry(key).or_insert((index, 0)).1 += 1;
                }
                Err(reason) => {
                    assert_eq!(reason, DropReason::SubscriberLimit);
                    assert_eq!((model.len(), known), (50, None));
                    refused += 1;
                }
            }
        } else if let Some((index, count)) = known {
            // Drop all references at times, so that records come and go.
            let drops = if random.below(2) == 0 { count } else { 1 };
            (0..drops).for_each(|_| table.leave(index));
            match count - drops {
                0 => model.remove(&key),
                rest => model.insert(key, (index, rest)),
            };
        }
        assert_eq!(table.len(), model.len());
    }
    assert!(refused > 0, "the limit was reached");
}

#[test]
fn sessions_are_limited() {
    let mut table = Subscribers::new(4, 1);
    let a = table.enter(1, RealmId(0)).unwrap();
    let limits = |sessions| HostLimits {
        sessions,
        half_open: 1,
        new_per_second: 4,
        ..HostLimits::default()
    };
    let now = Now::at(1000);
    let mut open = |sessions, opens| table.open_session(a, opens, &limits(sessions), now);
    assert_eq!(open(2, Some(true)), Ok(()));
    assert_eq!(open(2, Some(true)), Err(DropReason::QuotaHalfOpen));
    assert_eq!(open(2, Some(false)), Ok(()));
    assert_eq!(open(2, Some(false)), Err(DropReason::SessionLimit));
    assert_eq!(open(0, Some(false)), Ok(()));
    assert_eq!(open(0, Some(false)), Ok(()));
    assert_eq!(open(0, Some(false)), Err(DropReason::QuotaRate));
    assert_eq!(open(0, None), Ok(()), "opened by others");
    assert_eq!((table.sessions(a), table.half_open(a)), (5, 1));
    table.close_session(a, true);
    assert_eq!((table.sessions(a), table.half_open(a)), (4, 0));
    table.close_session(a, false);
    table.close_session(a, false);
    assert_eq!(table.sessions(a), 2);
}

#[test]
fn pairings_are_kept_per_pool_while_something_is_held() {
    let (one, two) = (ExternalIndex(1), ExternalIndex(2));
    let mut table = Subscribers::new(4, 1);
    let a = table.enter(1, RealmId(0)).unwrap();
    table.lease_begun(a, PoolId(0), one);
    table.lease_begun(a, PoolId(0), one);
    table.lease_begun(a, PoolId(1), two);
    assert_eq!(table.paired(a, PoolId(0)), Some(one));
    assert_eq!(table.paired(a, PoolId(1)), Some(two));
    table.leave(a);
    assert_eq!(table.len(), 1, "leases keep the record");
    table.lease_ended(a, one);
    table.lease_ended(a, two);
    assert_eq!(table.paired(a, PoolId(0)), Some(one));
    assert_eq!(table.paired(a, PoolId(1)), None);
    table.lease_ended(a, one);
    assert!(table.is_empty());
}

#[test]
fn a_table_knows_its_size_and_who_is_in_it() {
    let mut table = Subscribers::new(4, 1);
    assert_eq!((table.len(), table.capacity()), (0, 4));
    assert!(table.is_empty());
    let a = table.enter(7, RealmId(3)).unwrap();
    assert_eq!((table.len(), table.is_empty()), (1, false));
    let known = |i| {
        table
            .at(i)
            .and_then(|s| table.address(s).zip(table.realm(s)))
    };
    let all: Vec<_> = (0..5).filter_map(known).collect();
    assert_eq!(all, [(7, RealmId(3))]);
    assert_eq!(table.at(a.0 as usize), Some(a));
    assert_eq!(table.find(7, RealmId(2)), None);
    assert_eq!(Subscribers::new(0, 1).capacity(), 1);
    let unknown = SubscriberIndex(9);
    assert_eq!((table.address(unknown), table.realm(unknown)), (None, None));
}

#[test]
fn memory_grows_by_about_eighty_bytes_a_subscriber() {
    let bytes = |capacity| Subscribers::new(capacity, 1).memory_bytes();
    let more = bytes(2048) - bytes(1024);
    assert!((84 * 1024..100 * 1024).contains(&more), "{more}");
}

#[test]
fn whoever_takes_an_old_place_starts_with_all_tokens() {
    let mut table = Subscribers::new(1, 1);
    let limits = HostLimits {
        new_per_second: 2,
        ..HostLimits::default()
    };
    let now = Now::at(1000);
    for address in [1, 2] {
        let host = table.enter(address, RealmId(0)).unwrap();
        let opened = [0; 3].map(|_| table.open_session(host, Some(false), &limits, now));
        assert_eq!(opened, [Ok(()), Ok(()), Err(DropReason::QuotaRate)]);
        table.leave(host);
    }
    let nobody = table.open_session(SubscriberIndex(0), None, &limits, now);
    assert_eq!(nobody, Err(DropReason::Internal));
}

#[test]
fn half_open_connections_are_counted_as_they_come_and_go() {
    let mut table = Subscribers::new(1, 1);
    let a = table.enter(1, RealmId(0)).unwrap();
    let limits = HostLimits {
        half_open: 2,
        ..HostLimits::default()
    };
    let mut open = |opens| table.open_session(a, opens, &limits, Now::at(1000));
    assert_eq!(open(Some(true)), Ok(()));
    assert_eq!(open(Some(true)), Ok(()));
    assert_eq!(open(Some(true)), Err(DropReason::QuotaHalfOpen));
    table.half_open_changed(a, false);
    assert_eq!(table.half_open(a), 1);
    table.half_open_changed(a, true);
    assert_eq!((table.half_open(a), table.sessions(a)), (2, 2));
    let none = HostLimits::default();
    assert_eq!(
        table.open_session(a, Some(true), &none, Now::at(1000)),
        Ok(())
    );
    assert_eq!(table.half_open(a), 3);
}

#[test]
fn blocks_keep_a_subscriber_and_its_address() {
    let (one, two) = (ExternalIndex(1), ExternalIndex(2));
    let (low, high) = (
        BlockLink::new(one, BlockIndex(5)),
        BlockLink::new(two, BlockIndex(6)),
    );
    let mut table = Subscribers::new(2, 1);
    let a = table.enter(1, RealmId(0)).unwrap();
    assert_eq!(
        (table.first_block(a), table.block_count(a)),
        (BlockLink::END, 0)
    );
    table.block_added(a, PoolId(0), one, low);
    table.block_added(a, PoolId(1), two, high);
    assert_eq!((table.first_block(a), table.block_count(a)), (high, 2));
    assert_eq!(table.paired(a, PoolId(0)), Some(one));
    table.leave(a);
    // Not the first of the list, then the first.
    table.block_removed(a, one, None);
    assert_eq!((table.first_block(a), table.block_count(a)), (high, 1));
    assert_eq!(table.paired(a, PoolId(0)), None);
    table.free_if_idle(a);
    assert_eq!(table.len(), 1, "it still has a block");
    table.block_removed(a, two, Some(BlockLink::END));
    assert_eq!(
        (table.first_block(a), table.block_count(a)),
        (BlockLink::END, 0)
    );
    table.free_if_idle(a);
    assert!(table.is_empty());
}

#[test]
fn three_pairings_are_remembered_and_another_address_takes_the_place_of_the_first() {
    let mut table = Subscribers::new(2, 1);
    let a = table.enter(1, RealmId(0)).unwrap();
    for pool in 0..PAIRINGS as u16 {
        assert!(table.can_pair(a));
        table.lease_begun(a, PoolId(pool), ExternalIndex(pool));
    }
    assert!(!table.can_pair(a));
    table.lease_begun(a, PoolId(9), ExternalIndex(9));
    assert_eq!((table.paired(a, PoolId(9)), table.leases(a)), (None, 4));
    // The address of a pool is draining: new ports come from another one, old ones go back to the first.
    table.lease_begun(a, PoolId(0), ExternalIndex(0));
    table.lease_begun(a, PoolId(0), ExternalIndex(7));
    assert_eq!(table.paired(a, PoolId(0)), Some(ExternalIndex(7)));
    table.lease_ended(a, ExternalIndex(0));
    assert_eq!(table.paired(a, PoolId(0)), Some(ExternalIndex(7)));
    table.lease_ended(a, ExternalIndex(7));
    assert_eq!(table.paired(a, PoolId(0)), None);
    assert!(table.can_pair(a));
    assert_eq!(table.leases(a), 4);
}

/// Neighbours, prefixes, realms: whatever part of them differs, subscribers lie all over the index, and elsewhere in every
/// table.
#[test]
fn subscribers_spread_over_the_index() {
    let homes = |of: &dyn Fn(u64) -> (u64, u128, u8)| {
        let slots = (0..256).map(|n| {
            let (secret, address, realm) = of(n);
            Subscribers::new(256, secret).home(address, RealmId(realm))
        });
        slots.collect::<std::collections::BTreeSet<usize>>().len()
    };
    for (name, distinct) in [
        ("hosts", homes(&|n| (5, n.into(), 0))),
        ("subnets", homes(&|n| (5, u128::from(n) << 24, 0))),
        ("prefixes", homes(&|n| (5, u128::from(n) << 64 | 1, 0))),
        ("long prefixes", homes(&|n| (5, u128::from(n) << 96 | 1, 0))),
        ("realms", homes(&|n| (5, 9, n as u8))),
        ("secrets", homes(&|n| (n << 40, 9, 0))),
    ] {
        // Of 512 places drawn at random 256 times 201 are different ones.
        assert!(distinct > 170, "{name}: {distinct}");
    }
}
