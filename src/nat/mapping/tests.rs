use super::*;
use crate::base::Random;
use crate::flow::session::State;

const OUTSIDE: u32 = 0xcb00_7101;
const ALONE: MappingKind = MappingKind(0);
const ANY: (Behaviour, Remote<u32>) = (
    Behaviour::Endpoint,
    Remote {
        address: 0,
        port: 0,
    },
);

fn inside(port: u16) -> InsideEndpoint<u32> {
    InsideEndpoint {
        address: 0x0a00_0002,
        port,
        space: PortSpace::Udp,
        realm: RealmId(0),
    }
}

fn outside(port: u16) -> OutsideEndpoint<u32> {
    OutsideEndpoint {
        address: OUTSIDE,
        port,
        space: PortSpace::Udp,
    }
}

/// A session from inside port `port`, or, to the same mapping, from an outside host.
fn session(port: u16, remote: u32, inbound: bool) -> Session<u32> {
    let out = Session {
        before: Tuple {
            source: 0x0a00_0002,
            destination: remote,
            source_port: port,
            destination_port: 53,
        },
        after: Tuple {
            source: OUTSIDE,
            destination: remote,
            source_port: port,
            destination_port: 53,
        },
        protocol: crate::wire::UDP,
        state: State::Udp,
        ..Session::default()
    };
    if !inbound {
        return out;
    }
    Session {
        before: out.after.reversed(),
        after: out.before.reversed(),
        flags: FLAG_INBOUND,
        ..out
    }
}

fn world() -> (Mappings, Sessions<u32>) {
    let mappings = Mappings::new(100, Pages::Transparent, Hasher::new([1, 2])).unwrap();
    (mappings, Slab::with_capacity(100).unwrap())
}

#[test]
fn both_sides_lead_to_the_mapping_until_its_last_session_ends() {
    let (mut mappings, mut sessions) = world();
    let first = SessionIndex(sessions.allocate(session(40000, 1, false)).unwrap());
    let second = SessionIndex(sessions.allocate(session(40000, 2, true)).unwrap());
    mappings
        .begin(&mut sessions, first, ALONE, &Hashes::default())
        .unwrap();
    mappings.join(&mut sessions, first, second);
    let eligible = |address| address == OUTSIDE;
    assert_eq!(
        mappings.find_inside(&sessions, inside(40000), ANY, &Hashes::default(), eligible),
        Some(first)
    );
    assert_eq!(
        mappings.find_inside(&sessions, inside(40000), ANY, &Hashes::default(), |_| false),
        None,
        "another pool's mapping does not count"
    );
    assert!(mappings.leave(&mut sessions, first).is_none());
    sessions.release(first.0);
    assert_eq!(
        mappings.find_outside(&sessions, outside(40000), Remote::default()),
        Some(second),
        "the session from outside keeps it"
    );
    let gone = mappings
        .leave(&mut sessions, second)
        .expect("the last session takes the mapping along");
    assert_eq!(gone.inside, inside(40000));
    assert_eq!(gone.outside, outside(40000));
    assert_eq!(
        mappings.find_outside(&sessions, outside(40000), Remote::default()),
        None
    );
    assert!(mappings.is_empty());
}

#[test]
fn sessions_may_leave_in_any_order() {
    let mut random = Random::from_seed(5);
    for _ in 0..200 {
        let (mut mappings, mut sessions) = world();
        let mut alive = Vec::new();
        for step in 0..60u32 {
            if alive.is_empty() || random.below(3) > 0 {
                let new = session(7, step, step % 3 == 0 && !alive.is_empty());
                let index = SessionIndex(sessions.allocate(new).unwrap());
                match mappings.find_outside(&sessions, outside(7), Remote::default()) {
                    Some(first) => mappings.join(&mut sessions, first, index),
                    None => mappings
                        .begin(&mut sessions, index, ALONE, &Hashes::default())
                        .unwrap(),
                }
                alive.push(index);
            } else {
                let leaver = alive.swap_remove(random.below(alive.len() as u32) as usize);
                let gone = mappings.leave(&mut sessions, leaver);
                sessions.release(leaver.0);
                assert_eq!(gone.is_some(), alive.is_empty());
            }
            let first = mappings.find_outside(&sessions, outside(7), Remote::default());
            assert_eq!(
                first,
                mappings.find_inside(&sessions, inside(7), ANY, &Hashes::default(), |_| true),
                "both endpoints lead to the same session"
            );
            let count = first.map_or(0, |first| sessions.get(first.0).unwrap().link.back);
            assert_eq!(count as usize, alive.len());
            let mut listed = Vec::new();
            let mut next = first.map_or(NONE, |first| first.0);
            while let Some(session) = sessions.get(next) {
                listed.push(next);
                next = session.link.next;
            }
            listed.sort_unstable();
            let mut expected: Vec<u32> = alive.iter().map(|index| index.0).collect();
            expected.sort_unstable();
            assert_eq!(listed, expected);
        }
    }
}

#[test]
fn full_is_a_value_and_changes_nothing() {
    let mut mappings = Mappings::new(10, Pages::Transparent, Hasher::new([1, 2])).unwrap();
    let mut sessions: Sessions<u32> = Slab::with_capacity(100).unwrap();
    for port in 0..10 {
        let index = SessionIndex(sessions.allocate(session(port, 1, false)).unwrap());
        mappings
            .begin(&mut sessions, index, ALONE, &Hashes::default())
            .unwrap();
    }
    let index = SessionIndex(sessions.allocate(session(99, 1, false)).unwrap());
    assert_eq!(
        mappings.begin(&mut sessions, index, ALONE, &Hashes::default()),
        Err(MappingsFull)
    );
    assert_eq!(
        mappings.find_outside(&sessions, outside(99), Remote::default()),
        None
    );
    assert_eq!(sessions.get(index.0).unwrap().flags, 0);
    assert_eq!(mappings.len(), 10);
}

/// A session of inside port 7 on outside port 7 with a remote; `inbound`: the remote opened it.
fn with(remote: (u32, u16), inbound: bool) -> Session<u32> {
    let mut session = session(7, remote.0, inbound);
    if inbound {
        session.before.source_port = remote.1;
        session.after.source_port = remote.1;
    } else {
        session.before.destination_port = remote.1;
        session.after.destination_port = remote.1;
    }
    session
}

fn remote(address: u32, port: u16) -> Remote<u32> {
    Remote { address, port }
}

#[test]
fn a_mapping_by_address_is_joined_by_flows_to_that_address_alone() {
    use crate::nat::behaviour::Behaviours;
    for filtering in Behaviour::ALL {
        let kind = Behaviours {
            mapping: Behaviour::Address,
            filtering,
        }
        .kind();
        let (mut mappings, mut sessions) = world();
        let first = SessionIndex(sessions.allocate(with((1, 53), false)).unwrap());
        mappings
            .begin(&mut sessions, first, kind, &Hashes::default())
            .unwrap();
        let find = |mappings: &Mappings, sessions: &Sessions<u32>, to| {
            mappings.find_inside(
                sessions,
                inside(7),
                (Behaviour::Address, to),
                &Hashes::default(),
                |_| true,
            )
        };
        assert_eq!(find(&mappings, &sessions, remote(1, 99)), Some(first));
        assert_eq!(find(&mappings, &sessions, remote(2, 53)), None);
        let from = |to| mappings.find_outside(&sessions, outside(7), to);
        assert_eq!(from(remote(1, 99)), Some(first), "{filtering:?}");
        let alone = kind.sharing() == Behaviour::Endpoint;
        assert_eq!(from(remote(2, 53)), alone.then_some(first), "{filtering:?}");
    }
}

#[test]
fn what_an_outside_host_opened_holds_the_port_but_not_the_way_from_inside() {
    use crate::nat::behaviour::Behaviours;
    let kind = Behaviours {
        mapping: Behaviour::Address,
        filtering: Behaviour::Endpoint,
    }
    .kind();
    let by = |to| (Behaviour::Address, to);
    let (mut mappings, mut sessions) = world();
    let add = |sessions: &mut Sessions<u32>, s| SessionIndex(sessions.allocate(s).unwrap());
    let first = add(&mut sessions, with((1, 53), false));
    mappings
        .begin(&mut sessions, first, kind, &Hashes::default())
        .unwrap();
    // Newest first in the list: a stranger's, another one to the same address, another stranger's.
    let mut joined = Vec::new();
    for s in [with((3, 9), true), with((1, 54), false), with((2, 9), true)] {
        let index = add(&mut sessions, s);
        mappings.join(&mut sessions, first, index);
        joined.push(index);
    }
    assert!(mappings.leave(&mut sessions, first).is_none());
    sessions.release(first.0);
    let known = mappings.find_inside(
        &sessions,
        inside(7),
        by(remote(1, 1)),
        &Hashes::default(),
        |_| true,
    );
    assert_eq!(known, Some(joined[1]), "the one that has the remote");
    assert_eq!(sessions.get(joined[1].0).unwrap().link.back, 3);
    assert!(mappings.leave(&mut sessions, joined[1]).is_none());
    sessions.release(joined[1].0);
    for to in [remote(1, 1), remote(2, 1), remote(3, 1)] {
        let known =
            mappings.find_inside(&sessions, inside(7), by(to), &Hashes::default(), |_| true);
        assert_eq!(known, None, "{to:?}");
    }
    assert!(
        mappings
            .find_outside(&sessions, outside(7), remote(9, 9))
            .is_some()
    );
    assert_eq!(mappings.len(), 1);
    assert!(mappings.leave(&mut sessions, joined[0]).is_none());
    sessions.release(joined[0].0);
    assert!(mappings.leave(&mut sessions, joined[2]).is_some());
    assert!(mappings.is_empty() && mappings.entries.is_empty());
}

#[test]
fn a_mapping_is_read_off_a_session_from_either_side() {
    let out = Session {
        flags: FLAG_MAPPED,
        realm: RealmId(1),
        far_realm: RealmId(2),
        ..with((9, 53), false)
    };
    let inbound = Session {
        before: out.after.reversed(),
        after: out.before.reversed(),
        flags: FLAG_MAPPED | FLAG_INBOUND,
        realm: RealmId(2),
        far_realm: RealmId(1),
        ..out
    };
    let expected = Mapping {
        inside: InsideEndpoint {
            realm: RealmId(1),
            ..inside(7)
        },
        outside: outside(7),
        remote: remote(9, 53),
        kind: ALONE,
    };
    assert_eq!(Mapping::of(&out), Some(expected));
    assert_eq!(Mapping::of(&inbound), Some(expected));
    let unmapped = Session { flags: 0, ..out };
    assert_eq!(Mapping::of(&unmapped), None);
    let portless = Session {
        protocol: 47,
        ..out
    };
    assert_eq!(Mapping::of(&portless), None);
}

#[test]
fn a_few_sessions_are_asked_and_very_many_count_as_one_that_holds() {
    let (mut mappings, mut sessions) = world();
    let mut add = |n: u32| SessionIndex(sessions.allocate(session(7, n, false)).unwrap());
    let all: Vec<SessionIndex> = (0..ASKED as u32 + 1).map(&mut add).collect();
    mappings
        .begin(&mut sessions, all[0], ALONE, &Hashes::default())
        .unwrap();
    let any = |mappings: &Mappings, sessions: &Sessions<u32>, remote: u32| {
        mappings.any(sessions, all[0], |s| s.before.destination == remote)
    };
    for (n, index) in (1..).zip(&all[1..ASKED]) {
        mappings.join(&mut sessions, all[0], *index);
        assert!(any(&mappings, &sessions, 0) && any(&mappings, &sessions, n));
        assert!(!any(&mappings, &sessions, 99), "{n}");
    }
    mappings.join(&mut sessions, all[0], all[ASKED]);
    assert!(
        any(&mappings, &sessions, 99),
        "there are more than are asked"
    );
}

/// The first session that has the remote is looked for among a few; beyond them the mapping is closed to the inside.
#[test]
fn an_heir_is_found_among_the_first_sixteen() {
    use crate::nat::behaviour::Behaviours;
    let kind = Behaviours {
        mapping: Behaviour::Address,
        filtering: Behaviour::Endpoint,
    }
    .kind();
    for strangers in [ASKED as u32 - 1, ASKED as u32] {
        let (mut mappings, mut sessions) = world();
        let add = |sessions: &mut Sessions<u32>, s| SessionIndex(sessions.allocate(s).unwrap());
        let first = add(&mut sessions, with((1, 53), false));
        mappings
            .begin(&mut sessions, first, kind, &Hashes::default())
            .unwrap();
        let second = add(&mut sessions, with((1, 54), false));
        mappings.join(&mut sessions, first, second);
        for n in 0..strangers {
            let stranger = add(&mut sessions, with((100 + n, 9), true));
            mappings.join(&mut sessions, first, stranger);
        }
        mappings.leave(&mut sessions, first);
        sessions.release(first.0);
        let known = mappings.find_inside(
            &sessions,
            inside(7),
            (Behaviour::Address, remote(1, 1)),
            &Hashes::default(),
            |_| true,
        );
        let found = (strangers as usize) < ASKED;
        assert_eq!(known, found.then_some(second), "{strangers}");
        // Whoever follows, the list is whole.
        let head = mappings
            .find_outside(&sessions, outside(7), remote(1, 1))
            .unwrap();
        let (mut next, mut back, mut length) = (head.0, None, 0);
        while let Some(session) = sessions.get(next) {
            if let Some(back) = back {
                assert_eq!(session.link.back, back);
            }
            (back, length, next) = (Some(next), length + 1, session.link.next);
        }
        assert_eq!(length, strangers + 1);
        assert_eq!(sessions.get(head.0).unwrap().link.back, length);
    }
}

#[test]
fn mappings_that_share_a_port_by_address_are_looked_for_while_there_are_some() {
    use crate::nat::behaviour::Behaviours;
    let by = Behaviours {
        mapping: Behaviour::Address,
        filtering: Behaviour::Address,
    };
    let (mut mappings, mut sessions) = world();
    let add = |sessions: &mut Sessions<u32>, s| SessionIndex(sessions.allocate(s).unwrap());
    let one = add(&mut sessions, with((1, 53), false));
    let two = add(&mut sessions, with((2, 53), false));
    mappings
        .begin(&mut sessions, one, by.kind(), &Hashes::default())
        .unwrap();
    mappings
        .begin(&mut sessions, two, by.kind(), &Hashes::default())
        .unwrap();
    let alone = add(&mut sessions, session(8, 1, false));
    mappings
        .begin(&mut sessions, alone, ALONE, &Hashes::default())
        .unwrap();
    assert_eq!((mappings.len(), mappings.by_address), (3, 2));
    let found = mappings.find_outside(&sessions, outside(8), remote(1, 53));
    assert_eq!(found, Some(alone), "one that has its port to itself");
    assert!(mappings.leave(&mut sessions, alone).is_some());
    sessions.release(alone.0);
    assert!(mappings.leave(&mut sessions, one).is_some());
    sessions.release(one.0);
    let at = |mappings: &Mappings, sessions: &Sessions<u32>, to| {
        mappings.find_outside(sessions, outside(7), to)
    };
    assert_eq!(at(&mappings, &sessions, remote(1, 53)), None);
    assert_eq!(at(&mappings, &sessions, remote(2, 99)), Some(two));
    assert!(mappings.leave(&mut sessions, two).is_some());
    assert_eq!((mappings.len(), mappings.by_address), (0, 0));
    assert!(mappings.is_empty());
}

#[test]
fn a_mapping_to_itself_is_found_by_the_hash_of_its_endpoint() {
    let (mut mappings, mut sessions) = world();
    let first = SessionIndex(sessions.allocate(session(7, 1, false)).unwrap());
    mappings
        .begin(&mut sessions, first, ALONE, &Hashes::default())
        .unwrap();
    let hash = mappings.hash_outside(outside(7), Remote::<u32>::default());
    assert_eq!(
        mappings.find_alone(&sessions, hash, outside(7)),
        Some(first)
    );
    assert_eq!(mappings.find_alone(&sessions, hash, outside(8)), None);
    assert_eq!(mappings.guess_at(hash), Some(first.0));
    let bytes = |capacity| {
        Mappings::new(capacity, Pages::Transparent, Hasher::new([1, 2]))
            .unwrap()
            .memory_bytes()
    };
    assert!(
        bytes(2000) >= bytes(1000) + 8 * 1000,
        "two places of 4 bytes each"
    );
}

#[test]
fn among_many_mappings_only_an_endpoints_own_is_found() {
    use crate::nat::behaviour::Behaviours;
    const MANY: u16 = 2000;
    for depends in [Behaviour::Endpoint, Behaviour::Address] {
        let kind = Behaviours {
            mapping: depends,
            filtering: depends,
        }
        .kind();
        let mut mappings =
            Mappings::new(MANY.into(), Pages::Transparent, Hasher::new([1, 2])).unwrap();
        let mut sessions: Sessions<u32> = Slab::with_capacity(MANY.into()).unwrap();
        for port in 0..MANY {
            let index = SessionIndex(sessions.allocate(session(port, 1, false)).unwrap());
            mappings
                .begin(&mut sessions, index, kind, &Hashes::default())
                .unwrap();
        }
        assert!(!mappings.is_empty());
        let to = remote(1, 53);
        let inside = |port| {
            mappings.find_inside(
                &sessions,
                inside(port),
                (depends, to),
                &Hashes::default(),
                |_| true,
            )
        };
        let from = |port| mappings.find_outside(&sessions, outside(port), to);
        for port in 0..MANY {
            let (known, unknown) = (port, port + MANY);
            assert!(inside(known).is_some() && from(known).is_some());
            assert_eq!((inside(unknown), from(unknown)), (None, None), "{port}");
            let hash = mappings.hash_outside(outside(unknown), depends.part_of(to));
            assert_eq!(mappings.find_alone(&sessions, hash, outside(unknown)), None);
        }
    }
}
