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
    mappings.begin(&mut sessions, first, ALONE).unwrap();
    mappings.join(&mut sessions, first, second);
    let eligible = |address| address == OUTSIDE;
    assert_eq!(
        mappings.find_inside(&sessions, inside(40000), ANY, eligible),
        Some(first)
    );
    assert_eq!(
        mappings.find_inside(&sessions, inside(40000), ANY, |_| false),
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
                    None => mappings.begin(&mut sessions, index, ALONE).unwrap(),
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
                mappings.find_inside(&sessions, inside(7), ANY, |_| true),
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
        mappings.begin(&mut sessions, index, ALONE).unwrap();
    }
    let index = SessionIndex(sessions.allocate(session(99, 1, false)).unwrap());
    assert_eq!(
        mappings.begin(&mut sessions, index, ALONE),
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
        mappings.begin(&mut sessions, first, kind).unwrap();
        let find = |mappings: &Mappings, sessions: &Sessions<u32>, to| {
            mappings.find_inside(sessions, inside(7), (Behaviour::Address, to), |_| true)
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
    mappings.begin(&mut sessions, first, kind).unwrap();
    // Newest first in the list: a stranger's, another one to the same address, another stranger's.
    let mut joined = Vec::new();
    for s in [with((3, 9), true), with((1, 54), false), with((2, 9), true)] {
        let index = add(&mut sessions, s);
        mappings.join(&mut sessions, first, index);
        joined.push(index);
    }
    assert!(mappings.leave(&mut sessions, first).is_none());
    sessions.release(first.0);
    let known = mappings.find_inside(&sessions, inside(7), by(remote(1, 1)), |_| true);
    assert_eq!(known, Some(joined[1]), "the one that has the remote");
    assert_eq!(sessions.get(joined[1].0).unwrap().link.back, 3);
    assert!(mappings.leave(&mut sessions, joined[1]).is_none());
    sessions.release(joined[1].0);
    for to in [remote(1, 1), remote(2, 1), remote(3, 1)] {
        let known = mappings.find_inside(&sessions, inside(7), by(to), |_| true);
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
