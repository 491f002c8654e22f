use super::*;

fn key(id: u32) -> DatagramKey {
    DatagramKey {
        source: 1,
        destination: 2,
        id,
        protocol: 17,
        realm: RealmId(0),
    }
}

/// Some piece behind the first: of 64 bytes, at a place of its own.
fn piece(n: u32) -> Span {
    let start = 64 + n as u16 * 64;
    Span {
        start,
        end: start + 64,
        last: false,
    }
}

const FIRST: Span = Span {
    start: 0,
    end: 64,
    last: false,
};

/// What the first piece of a datagram shows that goes between these ports.
fn upper(protocol: u8, source: u16, destination: u16) -> Upper {
    Upper {
        protocol,
        ports: (source, destination),
    }
}

fn begin(fragments: &mut Fragments<u32>, key: &DatagramKey, now: u64) -> Result<(), DropReason> {
    fragments
        .learn(key, FIRST, upper(17, 1, 2), || 9, now)
        .map(|_| ())
}

fn table(capacity: usize) -> Fragments<u32> {
    Fragments::new(capacity, Hasher::new([3, 4]))
}

#[test]
fn early_fragments_wait_for_the_first_in_order() {
    let mut fragments = table(8);
    for n in [30, 10, 20] {
        assert_eq!(fragments.later(&key(1), piece(n)), Ok(None));
        fragments.hold(&key(1), piece(n), n, 0).unwrap();
    }
    let shown = Shown {
        length: None,
        upper: upper(17, 4000, 53),
        number: 7,
    };
    let learned = fragments.learn(&key(1), FIRST, upper(17, 4000, 53), || 7, 5);
    assert_eq!(learned, Ok(Some(shown)));
    let again = fragments.learn(&key(1), FIRST, upper(17, 4000, 53), || 8, 5);
    assert_eq!(again, Ok(Some(shown)), "an exact duplicate");
    let mut out = Vec::new();
    fragments.release(&key(1), |b| out.push(b));
    assert_eq!((out, fragments.held()), (vec![30, 10, 20], 0));
    assert_eq!(
        fragments.later(&key(1), piece(1)),
        Ok(Some(shown)),
        "later fragments still find the ports"
    );
    assert_eq!(fragments.later(&key(2), piece(1)), Ok(None));
}

#[test]
fn time_runs_out() {
    let mut fragments = table(8);
    fragments.hold(&key(1), piece(0), 7, 100).unwrap();
    begin(&mut fragments, &key(2), 200).unwrap();
    let mut out = Vec::new();
    fragments.expire(99 + LIFETIME_MILLIS, 10, |b| out.push(b));
    assert!(out.is_empty());
    fragments.expire(100 + LIFETIME_MILLIS, 10, |b| out.push(b));
    assert_eq!(
        (out, fragments.held(), fragments.pending()),
        (vec![7], 0, 1)
    );
}

/// A datagram of another source.
fn of(source: u128, id: u32) -> DatagramKey {
    DatagramKey { source, ..key(id) }
}

#[test]
fn bounds_hold_under_flood_and_slots_come_back() {
    let mut fragments = table(8);
    // Half of the table for datagrams without their first fragment, whoever sends them.
    for id in 0..4 {
        fragments.hold(&of(id.into(), id), piece(0), id, 0).unwrap();
    }
    assert_eq!(
        fragments.hold(&of(9, 9), piece(0), 9, 0),
        Err((9, DropReason::FragmentBudget))
    );
    for id in 4..8 {
        begin(&mut fragments, &of(id.into(), id), 0).unwrap();
    }
    assert_eq!(
        begin(&mut fragments, &of(9, 9), 0),
        Err(DropReason::FragmentBudget)
    );
    let mut out = 0;
    fragments.expire(LIFETIME_MILLIS, 100, |_| out += 1);
    assert_eq!((out, fragments.sources.len()), (4, 0));
    for id in 10..14 {
        fragments
            .hold(&of(id.into(), id), piece(0), id, LIFETIME_MILLIS)
            .unwrap();
    }
    fragments.clear(|_| out += 1);
    assert_eq!((out, fragments.pending(), fragments.held()), (8, 0, 0));
    assert_eq!((fragments.headless, fragments.sources.len()), (0, 0));
}

#[test]
fn one_datagram_cannot_take_every_slot() {
    let mut fragments = table(1000);
    let taken = (0..1000)
        .take_while(|i| fragments.hold(&key(1), piece(*i), *i, 0).is_ok())
        .count();
    assert_eq!(taken, HELD_PER_DATAGRAM);
}

#[test]
fn a_flood_leaves_others_as_much_as_it_takes() {
    let mut fragments = table(1200);
    let flood = |fragments: &mut Fragments<u32>, source| {
        let refused = (0..1200)
            .filter_map(|id| begin(fragments, &of(source, id), 0).err())
            .collect::<Vec<_>>();
        assert!(refused.iter().all(|r| *r == DropReason::FragmentSource));
        1200 - refused.len()
    };
    assert_eq!(flood(&mut fragments, 1), 600);
    // The first one is over its share now, and the second gets half of what was left.
    assert_eq!(flood(&mut fragments, 2), 300);
    for id in 0..150 {
        begin(&mut fragments, &of(3, id), 0).unwrap();
    }
    // Fragments that wait: a source has at most as many as there are slots left.
    let mut fragments = table(96);
    let mut waiting = 0;
    for id in 0..4 {
        for n in 0..40 {
            waiting += u32::from(fragments.hold(&of(1, id), piece(n), n, 0).is_ok());
        }
    }
    assert_eq!((waiting, fragments.held()), (48, 48));
    assert_eq!(
        fragments.hold(&of(1, 9), piece(0), 1, 0),
        Err((1, DropReason::FragmentSource))
    );
    fragments.hold(&of(2, 1), piece(0), 7, 0).unwrap();
    begin(&mut fragments, &of(1, 0), 0).unwrap();
    fragments.release(&of(1, 0), |_| ());
    let used = fragments.used_by(&of(1, 0));
    assert_eq!((used.datagrams, used.headless, used.held), (2, 1, 8));
    fragments.hold(&of(1, 3), piece(0), 1, 0).unwrap();
}

#[test]
fn an_overlap_takes_the_datagram_with_it() {
    let over = |n| Span {
        start: piece(n).start + 8,
        ..piece(n)
    };
    // Behind the first one, and before it.
    let mut fragments = table(8);
    begin(&mut fragments, &key(1), 0).unwrap();
    assert!(fragments.later(&key(1), piece(0)).is_ok());
    let refused = Err(DropReason::FragmentOverlap);
    assert_eq!(fragments.later(&key(1), over(0)), refused);
    assert_eq!(fragments.later(&key(1), piece(1)), refused);
    fragments.hold(&key(2), piece(0), 1, 0).unwrap();
    let reason = DropReason::FragmentOverlap;
    assert_eq!(fragments.hold(&key(2), over(0), 2, 0), Err((2, reason)));
    assert_eq!(begin(&mut fragments, &key(2), 0), Err(reason));
    // Another first one with other ports.
    begin(&mut fragments, &key(3), 0).unwrap();
    let other = fragments.learn(&key(3), FIRST, upper(17, 1, 3), || 9, 0);
    assert_eq!(other, Err(reason));
    // The same number again once the datagram is complete is another datagram.
    begin(&mut fragments, &key(4), 0).unwrap();
    let last = Span {
        last: true,
        ..piece(0)
    };
    assert!(fragments.later(&key(4), last).is_ok());
    let next = fragments.learn(&key(4), FIRST, upper(17, 1, 3), || 10, 0);
    assert_eq!(
        next.map(|shown| shown.map(|s| (s.upper.ports, s.number))),
        Ok(Some(((1, 3), 10)))
    );
}

#[test]
fn pieces_of_sctp_wait_for_the_first_and_the_last() {
    let key = DatagramKey {
        protocol: 132,
        ..key(1)
    };
    let last = Span {
        last: true,
        ..piece(1)
    };
    let shown = Some(Shown {
        upper: upper(132, 1, 2),
        number: 9,
        length: Some(last.end),
    });
    let mut fragments = table(8);
    // The second one, then the first with a duplicate of its own, which go ahead.
    assert_eq!(fragments.later(&key, piece(0)), Ok(None));
    fragments.hold(&key, piece(0), 2, 0).unwrap();
    for n in [1, 0] {
        assert_eq!(
            fragments.learn(&key, FIRST, upper(132, 1, 2), || 9, 0),
            Ok(None)
        );
        fragments.hold(&key, FIRST, n, 0).unwrap();
    }
    assert_eq!(fragments.later(&key, last), Ok(shown));
    let mut out = Vec::new();
    fragments.release(&key, |b| out.push(b));
    assert_eq!((out, fragments.held()), (vec![0, 1, 2], 0));
    // The next datagram with the number of the last one, which was complete, is of another length.
    assert_eq!(
        fragments.learn(&key, FIRST, upper(132, 1, 2), || 9, 0),
        Ok(None)
    );
    // The last one first.
    let key = DatagramKey { id: 2, ..key };
    fragments.hold(&key, last, 3, 0).unwrap();
    assert_eq!(
        fragments.learn(&key, FIRST, upper(132, 1, 2), || 9, 0),
        Ok(shown)
    );
    assert_eq!(fragments.later(&key, piece(0)), Ok(shown));
}

/// A parsed fragment of a datagram.
fn fragment(network: Network, protocol: u8, id: u32) -> Parsed {
    Parsed {
        network,
        protocol,
        fragment: crate::wire::parse::Fragment {
            id,
            ..Default::default()
        },
        ..Parsed::default()
    }
}

#[test]
fn datagrams_of_ipv6_are_told_apart_without_their_protocol() {
    let of = |network, protocol| {
        DatagramKey::of(&fragment(network, protocol, 7), (1u32, 2u32), RealmId(3))
    };
    let v4 = of(Network::Ipv4, 17);
    assert_eq!((v4.source, v4.destination, v4.id), (1, 2, 7));
    assert_eq!((v4.protocol, v4.realm), (17, RealmId(3)));
    assert_ne!(v4, of(Network::Ipv4, 6));
    assert_eq!(of(Network::Ipv6, 17), of(Network::Ipv6, 6));
}

#[test]
fn every_part_of_its_key_tells_a_datagram_from_others() {
    let mut fragments = table(32);
    let mine = key(1);
    begin(&mut fragments, &mine, 0).unwrap();
    for other in [
        DatagramKey { source: 9, ..mine },
        DatagramKey {
            destination: 9,
            ..mine
        },
        DatagramKey { id: 9, ..mine },
        DatagramKey {
            protocol: 6,
            ..mine
        },
        DatagramKey {
            realm: RealmId(9),
            ..mine
        },
    ] {
        assert_eq!(fragments.later(&other, piece(0)), Ok(None), "{other:?}");
    }
    assert!(fragments.later(&mine, piece(0)).unwrap().is_some());
}

#[test]
fn a_table_without_room_takes_nothing() {
    let mut fragments = table(0);
    let budget = DropReason::FragmentBudget;
    assert_eq!(fragments.hold(&key(1), piece(0), 1, 0), Err((1, budget)));
    assert_eq!(begin(&mut fragments, &key(1), 0), Err(budget));
    assert_eq!((fragments.held(), fragments.pending()), (0, 0));
}

#[test]
fn a_few_datagrams_are_forgotten_at_a_time_and_none_before_its_time() {
    let mut fragments = table(16);
    for id in 0..4 {
        begin(&mut fragments, &of(id.into(), id), u64::from(id)).unwrap();
    }
    fragments.expire(LIFETIME_MILLIS - 1, 100, |_| ());
    assert_eq!(fragments.pending(), 4);
    fragments.expire(LIFETIME_MILLIS + 10, 3, |_| ());
    assert_eq!(fragments.pending(), 1);
    fragments.expire(LIFETIME_MILLIS + 10, 3, |_| ());
    assert_eq!(fragments.pending(), 0);
}

/// Where both a table and its odd half are nearly used up.
#[test]
fn half_of_an_odd_table_is_the_larger_half() {
    let mut fragments = table(7);
    let mut held = |id: u32| fragments.hold(&of(id.into(), id), piece(0), id, 0);
    for id in 0..4 {
        held(id).unwrap();
    }
    assert_eq!(held(4), Err((4, DropReason::FragmentBudget)));
    assert_eq!(fragments.headless, 4);
    let waiting = fragments.used_by(&of(0, 0));
    assert_eq!(
        (waiting.datagrams, waiting.headless, waiting.held),
        (1, 1, 1)
    );
    begin(&mut fragments, &of(0, 0), 0).unwrap();
    begin(&mut fragments, &of(0, 0), 0).unwrap();
    assert_eq!(fragments.headless, 3, "its first fragment came once");
    let known = fragments.used_by(&of(0, 0));
    assert_eq!((known.datagrams, known.headless, known.held), (1, 0, 1));
}

#[test]
fn slots_come_back_and_are_used_again() {
    let mut fragments = table(64);
    for round in 0..100 {
        for n in 0..20 {
            fragments.hold(&key(round), piece(n), n, 0).unwrap();
        }
        let mut out = Vec::new();
        fragments.release(&key(round), |b| out.push(b));
        assert_eq!(out, (0..20).collect::<Vec<u32>>());
        fragments.release(&key(round), |_| panic!("released twice"));
        fragments.clear(|_| panic!("nothing waits"));
    }
    assert_eq!((fragments.held(), fragments.sources.len()), (0, 0));
}

#[test]
fn a_source_is_let_off_what_its_oldest_datagram_had() {
    let mut fragments = table(32);
    for (id, now) in [(1, 0), (2, 100)] {
        fragments.hold(&of(7, id), piece(0), id, now).unwrap();
        fragments.hold(&of(7, id), piece(1), id, now).unwrap();
    }
    let mut out = 0;
    fragments.expire(LIFETIME_MILLIS, 9, |_| out += 1);
    let left = fragments.used_by(&of(7, 2));
    assert_eq!(
        (out, left.datagrams, left.headless, left.held),
        (2, 1, 1, 2)
    );
    assert_eq!((fragments.headless, fragments.held()), (1, 2));
}
