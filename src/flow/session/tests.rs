//! What a session says of the packets of both its directions.

use super::*;
use crate::base::RealmId;
use crate::flow::hash::{Hash, Hasher};

const BOTH: [Direction; 2] = [Direction::Forward, Direction::Reverse];

fn tuple(source: u32, source_port: u16, destination: u32, destination_port: u16) -> Tuple<u32> {
    Tuple {
        source,
        destination,
        source_port,
        destination_port,
    }
}

/// Source NAT from realm 1 to realm 2.
fn outbound() -> Session<u32> {
    Session {
        before: tuple(0x0a00_0002, 4000, 0xcb00_7109, 53),
        after: tuple(0xc000_0201, 61000, 0xcb00_7109, 53),
        protocol: 17,
        state: State::Udp,
        realm: RealmId(1),
        far_realm: RealmId(2),
        last_seen: 77,
        ..Session::default()
    }
}

/// A port forward: an outside host calls an address of the gateway's.
fn inbound() -> Session<u32> {
    Session {
        before: tuple(0xcb00_7109, 5000, 0xc000_0201, 80),
        after: tuple(0xcb00_7109, 5000, 0x0a00_0002, 8080),
        ..outbound()
    }
}

#[test]
fn an_entry_of_the_table_names_session_and_direction() {
    for session in [0, 1, 2, 0x7fff_ffff] {
        for direction in BOTH {
            let entry = FlowEntry::new(SessionIndex(session), direction);
            assert_eq!(
                (entry.session(), entry.direction()),
                (SessionIndex(session), direction)
            );
        }
    }
    assert_eq!(BOTH.map(Direction::index), [0, 1]);
    assert_eq!(
        BOTH.map(Direction::opposite),
        [Direction::Reverse, Direction::Forward]
    );
}

#[test]
fn answers_arrive_as_the_reverse_of_what_left() {
    let session = outbound();
    assert_eq!(session.arriving(Direction::Forward), session.before);
    assert_eq!(session.leaving(Direction::Forward), session.after);
    assert_eq!(
        session.arriving(Direction::Reverse),
        tuple(0xcb00_7109, 53, 0xc000_0201, 61000)
    );
    assert_eq!(
        session.leaving(Direction::Reverse),
        tuple(0xcb00_7109, 53, 0x0a00_0002, 4000)
    );
    assert_eq!(BOTH.map(|d| session.realm_of(d)), [RealmId(1), RealmId(2)]);
    assert_eq!(
        session.key(Direction::Reverse),
        FlowKey::new(session.after.reversed(), 17, RealmId(2))
    );
    assert_eq!(
        session.key(Direction::Forward),
        FlowKey::new(session.before, 17, RealmId(1))
    );
}

#[test]
fn words_and_blocks_say_what_tuples_and_keys_say() {
    let mut six = Session::<u128> {
        protocol: 6,
        realm: RealmId(1),
        far_realm: RealmId(2),
        ..Session::default()
    };
    (six.before.source, six.before.destination) = (1 << 100, 2);
    (six.after.source, six.after.destination) = (3, 4 << 90);
    (six.before.source_port, six.before.destination_port) = (5, 6);
    (six.after.source_port, six.after.destination_port) = (7, 8);
    check_words(&six);
    check_words(&outbound());
    check_words(&inbound());
}

fn check_words<A: Address>(session: &Session<A>) {
    let hasher = Hasher::new([1, 2]);
    for direction in BOTH {
        let leaving = session.leaving(direction);
        assert_eq!(
            session.leaving_words(direction),
            (leaving.addresses(), leaving.ports())
        );
        let mut hash = [Hash::default()];
        A::hash_blocks(&hasher, &[session.key_block(direction)], &mut hash);
        assert_eq!(hash, [hasher.hash(&session.key(direction))]);
    }
}

#[test]
fn the_inside_is_where_the_initiator_is_unless_it_called_the_gateway() {
    let (out, back) = (Direction::Forward, Direction::Reverse);
    assert!(outbound().from_inside(out) && !outbound().from_inside(back));
    assert!(!inbound().from_inside(out) && inbound().from_inside(back));
    assert_eq!(BOTH.map(|d| outbound().routed_in(d)), [RealmId(1); 2]);
    assert_eq!(
        BOTH.map(|d| inbound().routed_in(d)),
        [RealmId(2), RealmId(1)]
    );
    let plain = Session {
        after: outbound().before,
        ..outbound()
    };
    assert!(plain.is_untranslated() && !outbound().is_untranslated());
}

#[test]
fn only_the_inside_keeps_a_port_of_a_pool() {
    // By flags: who keeps the flow alive, the initiator's packets and the answers.
    for (flags, keep) in [
        (0, [true, true]),
        (FLAG_MAPPED, [true, false]),
        (FLAG_INBOUND, [true, true]),
        (FLAG_INBOUND | FLAG_MAPPED, [false, true]),
        (FLAG_MAPPED | FLAG_FIRST, [true, false]),
        (FLAG_STATIC | FLAG_ALLOWED, [true, true]),
    ] {
        let session = Session {
            flags,
            ..outbound()
        };
        let kept = BOTH.map(|direction| session.is_kept_alive(direction));
        assert_eq!(kept, keep, "flags {flags:#x}");
    }
}

#[test]
fn every_state_has_a_name_of_its_own() {
    let mut names: Vec<&str> = State::LIVE.iter().map(|state| state.name()).collect();
    names.push(State::Free.name());
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), State::COUNT);
    assert!(names.iter().all(|name| !name.is_empty()));
    let half_open = State::LIVE.into_iter().filter(|s| s.is_half_open());
    assert!(half_open.eq([State::TcpOpening, State::TcpAnswered]));
}

#[test]
fn a_free_session_holds_the_next_free_one() {
    let mut session = outbound();
    assert!(session.is_live());
    assert_eq!(session.seen(), Tick(77));
    session = Session::default();
    session.set_next_free(9);
    assert_eq!((session.is_live(), session.next_free()), (false, 9));
}
