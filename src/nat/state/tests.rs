//! Sessions as they come, live and go, without a policy.

use super::*;
use crate::flow::key::{Tuple, port_word};
use crate::wire::{TCP, UDP};

const NOW: Tick = Tick(100);

fn capacity(sessions: u32) -> Capacity {
    Capacity {
        sessions,
        subscribers: 8,
        held_ports: 8,
        contacts: 0,
        shared: 0,
        workers: 1,
        pages: Pages::Transparent,
    }
}

fn nat(sessions: u32) -> Nat<u32> {
    Nat::new(WorkerId(0), capacity(sessions), [1, 2]).unwrap()
}

/// A flow from port `port` of an inside host, seen from outside at `outside`.
fn session(port: u16, outside: u16, state: State) -> Session<u32> {
    let before = Tuple {
        source: 0x0a00_0002,
        destination: 0xcb00_7109,
        source_port: port,
        destination_port: 80,
    };
    Session {
        before,
        after: Tuple {
            source: 0xcb00_7101,
            source_port: outside,
            ..before
        },
        protocol: if state == State::Udp { UDP } else { TCP },
        state,
        ..blank_session(RealmId(0), Stamp::default(), Now::at(0))
    }
}

#[test]
fn a_session_is_found_by_what_its_packets_carry_and_by_nothing_else() {
    let mut nat = nat(16);
    let one = session(1, 1001, State::Udp);
    let index = nat.insert(one, &Hashes::default()).unwrap();
    for direction in [Direction::Forward, Direction::Reverse] {
        let key = one.key(direction);
        let found = nat.lookup(&key).unwrap();
        assert_eq!((found.session(), found.direction()), (index, direction));
        let other_tuple = Tuple {
            destination_port: 81,
            ..key.tuple
        };
        for other in [
            FlowKey::new(key.tuple, TCP, RealmId(0)),
            FlowKey::new(key.tuple, UDP, RealmId(1)),
            FlowKey::new(other_tuple, UDP, RealmId(0)),
        ] {
            assert_eq!(nat.lookup(&other), None, "{other:?}");
        }
    }
}

#[test]
fn a_session_in_the_way_of_another_is_refused_and_nothing_is_left_of_it() {
    let mut nat = nat(16);
    nat.insert(session(1, 1001, State::Udp), &Hashes::default())
        .unwrap();
    let before = (nat.sessions.len(), nat.table.len(), nat.counts.created);
    // Its answers would be those of the first, or its own packets.
    let same_outside = session(2, 1001, State::Udp);
    let itself = Session {
        before: Tuple {
            source: 7,
            destination: 7,
            source_port: 9,
            destination_port: 9,
        },
        after: Tuple {
            source: 7,
            destination: 7,
            source_port: 9,
            destination_port: 9,
        },
        ..same_outside
    };
    for refused in [same_outside, itself] {
        assert_eq!(
            nat.insert(refused, &Hashes::default()),
            Err(NotEntered::Taken)
        );
        assert_eq!(nat.lookup(&refused.key(Direction::Forward)), None);
        let after = (nat.sessions.len(), nat.table.len(), nat.counts.created);
        assert_eq!(after, before);
        assert_eq!(nat.counts.live[State::Udp as usize], 1);
    }
}

#[test]
fn full_is_a_value_and_changes_nothing() {
    let mut nat = nat(4);
    for port in 0..4 {
        nat.insert(session(port, 1000 + port, State::Udp), &Hashes::default())
            .unwrap();
    }
    assert_eq!(
        nat.insert(session(9, 1009, State::Udp), &Hashes::default()),
        Err(NotEntered::Full)
    );
    assert_eq!((nat.sessions.len(), nat.table.len()), (4, 8));
    assert_eq!(
        (nat.counts.created, nat.counts.live[State::Udp as usize]),
        (4, 4)
    );
}

#[test]
fn what_is_undone_never_was() {
    let mut nat = nat(4);
    let index = nat
        .insert(session(1, 1001, State::TcpOpening), &Hashes::default())
        .unwrap();
    assert_eq!(nat.counts.created, 1);
    nat.undo(index);
    nat.undo(index);
    assert_eq!(
        (nat.counts.created, nat.sessions.len(), nat.table.len()),
        (0, 0, 0)
    );
    assert_eq!(nat.counts.live, [0; State::COUNT]);
}

#[test]
fn only_a_known_flow_in_this_tick_without_an_opening_or_an_end_is_settled() {
    let seen = |state, last_seen| Session {
        last_seen,
        ..session(1, 1001, state)
    };
    for state in State::LIVE {
        let known = matches!(state, State::Udp | State::TcpEstablished);
        let settled = |flags| Nat::is_settled(&seen(state, NOW.0), flags, NOW);
        assert_eq!(settled(tcp::ACK), known, "{state:?}");
        assert_eq!(settled(0), known, "{state:?}");
        for flags in [tcp::SYN, tcp::FIN, tcp::RST, tcp::FIN | tcp::ACK] {
            assert!(!settled(flags), "{state:?} {flags:#x}");
        }
        assert!(!Nat::is_settled(&seen(state, NOW.0 - 1), tcp::ACK, NOW));
    }
}

// Proves: U6, P7.1.
#[test]
fn activity_counts_from_where_it_keeps_a_session_alive() {
    use Direction::{Forward, Reverse};
    use Transport::{Tcp, Udp};
    let mapped = FLAG_INBOUND | crate::flow::session::FLAG_MAPPED;
    let outbound = crate::flow::session::FLAG_MAPPED;
    for (state, flags, transport, way, tcp_flags, counts) in [
        (State::Udp, outbound, Udp, Forward, 0, true),
        (State::Udp, outbound, Udp, Reverse, 0, false),
        (State::Udp, mapped, Udp, Forward, 0, false),
        (State::Udp, mapped, Udp, Reverse, 0, true),
        (State::Udp, 0, Udp, Reverse, 0, true),
        (
            State::TcpEstablished,
            outbound,
            Tcp,
            Forward,
            tcp::ACK,
            true,
        ),
        (
            State::TcpEstablished,
            outbound,
            Tcp,
            Reverse,
            tcp::ACK,
            true,
        ),
        (
            State::TcpEstablished,
            outbound,
            Tcp,
            Forward,
            tcp::RST,
            true,
        ),
        (State::TcpReset, outbound, Tcp, Forward, tcp::RST, false),
        (State::TcpReset, outbound, Tcp, Reverse, tcp::RST, false),
    ] {
        let mut nat = nat(4);
        let index = nat
            .insert(
                Session {
                    flags,
                    ..session(1, 1001, state)
                },
                &Hashes::default(),
            )
            .unwrap();
        nat.touch(index, way, transport, tcp_flags, NOW, Numbers::default);
        let seen = nat.session(index).unwrap().last_seen;
        assert_eq!(
            seen == NOW.0,
            counts,
            "{state:?} {flags:#x} {way:?} {tcp_flags:#x}"
        );
    }
}

#[test]
fn packets_move_a_session_from_state_to_state() {
    use Direction::{Forward, Reverse};
    use Transport::{IcmpQuery, Tcp, Udp};
    for (state, transport, way, flags, next) in [
        (State::UdpUnreplied, Udp, Forward, 0, State::UdpUnreplied),
        (State::UdpUnreplied, Udp, Reverse, 0, State::Udp),
        (State::Udp, Udp, Forward, 0, State::Udp),
        (State::Expected, Udp, Reverse, 0, State::Expected),
        (State::Icmp, IcmpQuery, Reverse, 0, State::Icmp),
        (
            State::TcpOpening,
            Tcp,
            Reverse,
            tcp::SYN | tcp::ACK,
            State::TcpAnswered,
        ),
        (
            State::TcpAnswered,
            Tcp,
            Forward,
            tcp::ACK,
            State::TcpEstablished,
        ),
    ] {
        let mut nat = nat(4);
        let index = nat
            .insert(session(1, 1001, state), &Hashes::default())
            .unwrap();
        nat.touch(index, way, transport, flags, NOW, Numbers::default);
        assert_eq!(nat.session(index).unwrap().state, next, "{state:?} {way:?}");
        assert_eq!(nat.counts.live[next as usize], 1);
        assert_eq!(nat.counts.live.iter().sum::<u64>(), 1);
    }
}

// Proves: P2.2.
#[test]
fn what_does_not_lie_where_the_connection_is_is_counted_and_changes_nothing() {
    let mut nat = nat(4);
    let index = nat
        .insert(session(1, 1001, State::TcpEstablished), &Hashes::default())
        .unwrap();
    let (here, far) = (1u32 << 20, 1u32 << 30);
    let see = |nat: &mut Nat<u32>, direction, flags, (sequence, acknowledgment)| {
        let numbers = || Numbers {
            sequence,
            acknowledgment,
        };
        nat.touch(index, direction, Transport::Tcp, flags, NOW, numbers);
    };
    // The inside shows where the outside is.
    see(&mut nat, Direction::Forward, tcp::ACK, (5, here));
    see(&mut nat, Direction::Reverse, tcp::RST, (far, 5));
    assert_eq!(nat.counts.tcp_disbelieved, 1);
    assert_eq!(nat.session(index).unwrap().state, State::TcpEstablished);
    see(&mut nat, Direction::Reverse, tcp::RST, (here, 5));
    assert_eq!(nat.counts.tcp_disbelieved, 1);
    assert_eq!(nat.session(index).unwrap().state, State::TcpReset);
    // The inside is believed whatever it says, and what it says is noted at once.
    let fin = tcp::FIN | tcp::ACK;
    see(&mut nat, Direction::Forward, fin, (7, far));
    assert_eq!(nat.session(index).unwrap().state, State::TcpClientFin);
    see(&mut nat, Direction::Reverse, fin, (far, 8));
    assert_eq!(nat.session(index).unwrap().state, State::TcpClosing);
    assert_eq!(nat.counts.tcp_disbelieved, 1);
}

#[test]
fn half_open_connections_count_on_the_host_that_opened_them() {
    for (flags, counted) in [(0, 1), (FLAG_INBOUND, 0)] {
        let mut nat = nat(4);
        let host = nat.subscribers.enter(0x0a00_0002, RealmId(0)).unwrap();
        let index = nat
            .insert(
                Session {
                    subscriber: host.0,
                    flags,
                    ..session(1, 1001, State::TcpEstablished)
                },
                &Hashes::default(),
            )
            .unwrap();
        for (state, half_open) in [
            (State::TcpOpening, counted),
            (State::TcpAnswered, counted),
            (State::TcpEstablished, 0),
            (State::TcpClosing, 0),
            (State::TcpOpening, counted),
        ] {
            nat.set_state(index, state);
            assert_eq!(nat.subscribers.half_open(host), half_open, "{state:?}");
            assert_eq!(nat.counts.live[state as usize], 1);
        }
        let session = *nat.session(index).unwrap();
        nat.discharge(&session);
        assert!(nat.subscribers.is_empty());
    }
}

#[test]
fn counts_of_workers_add_up() {
    let mut one = NatCounts {
        live: [1; State::COUNT],
        created: 2,
        ended: [3; EndCause::ALL.len()],
        mappings_created: 4,
        tcp_disbelieved: 5,
        expectations_refused: 6,
        told_apart: 7,
    };
    let other = NatCounts {
        live: [10; State::COUNT],
        created: 20,
        ended: [30; EndCause::ALL.len()],
        mappings_created: 40,
        tcp_disbelieved: 50,
        expectations_refused: 60,
        told_apart: 70,
    };
    one.add(&other);
    assert_eq!(
        (one.live, one.ended),
        ([11; State::COUNT], [33; EndCause::ALL.len()])
    );
    assert_eq!((one.created, one.mappings_created), (22, 44));
    assert_eq!((one.tcp_disbelieved, one.expectations_refused), (55, 66));
    assert_eq!(one.told_apart, 77);
}

#[test]
fn causes_have_names_of_their_own() {
    let names = EndCause::ALL.map(EndCause::name);
    assert_eq!(names, ["expired", "cleared", "config_changed", "met"]);
}

#[test]
fn every_table_counts_in_the_memory_that_is_told() {
    let bytes = |capacity| {
        Nat::<u32>::new(WorkerId(0), capacity, [1, 2])
            .unwrap()
            .memory_bytes()
    };
    let (small, large) = (capacity(1 << 12), capacity(1 << 13));
    // A session with its mapping: 64 bytes, four places in tables of at least 4 bytes each, and a note of 4.
    let more = bytes(large) - bytes(small);
    assert!((84 << 12..256 << 12).contains(&more), "{more}");
    let hosts = Capacity {
        subscribers: 1 << 12,
        ..small
    };
    assert!(bytes(hosts) - bytes(small) > 64 << 12);
    let shared = Capacity {
        shared: 1 << 12,
        ..small
    };
    assert!(bytes(shared) > bytes(small));
}

#[test]
fn the_remote_is_the_outside_host_whoever_opened_the_session() {
    let out = session(1, 1001, State::Udp);
    assert_eq!(remote_of(&out), 0xcb00_7109);
    let inbound = Session {
        before: out.after.reversed(),
        after: out.before.reversed(),
        flags: FLAG_INBOUND,
        ..out
    };
    assert_eq!(remote_of(&inbound), 0xcb00_7109);
    let remote = Remote {
        address: 0xcb00_7109u32,
        port: 80,
    };
    let wide = wide(remote);
    assert_eq!((wide.address, wide.port), (0xcb00_7109, 80));
}

/// A key as the packet path compares it.
fn block(key: &FlowKey<u32>) -> [u128; 1] {
    let rest = port_word(key.tuple.ports(), key.protocol, key.realm_id());
    u32::block(key.tuple.addresses(), rest)
}

#[test]
fn what_helpers_remember_of_a_session_goes_with_it() {
    let mut nat = nat(4);
    let helped = Session {
        flags: FLAG_HELPED,
        ..session(1, 1001, State::TcpOpening)
    };
    let index = nat.insert(helped, &Hashes::default()).unwrap();
    assert!(nat.controls.changed(index, true, 1, 1, Default::default()));
    nat.undo(index);
    assert!(nat.controls.get(index).is_none());
}

#[test]
fn among_many_sessions_only_a_packets_own_is_found() {
    const MANY: u16 = 2000;
    let mut nat = nat(MANY.into());
    for port in 0..MANY {
        nat.insert(session(port, 30000 + port, State::Udp), &Hashes::default())
            .unwrap();
    }
    for port in 0..MANY {
        let known = session(port, 30000 + port, State::Udp);
        let forward = known.key(Direction::Forward);
        assert!(nat.lookup(&forward).is_some());
        for unknown in [
            session(port + MANY, 30000 + port, State::Udp).key(Direction::Forward),
            session(port, 50000 + port, State::Udp).key(Direction::Reverse),
            FlowKey::new(forward.tuple, TCP, RealmId(0)),
            FlowKey::new(forward.tuple, UDP, RealmId(1)),
        ] {
            assert_eq!(nat.lookup(&unknown), None, "{unknown:?}");
            let hash = nat.hash(&unknown);
            assert!(nat.find_block(NONE, hash, block(&unknown)).is_none());
        }
        let (hash, block) = (nat.hash(&forward), block(&forward));
        let (entry, found) = nat.find_block(NONE, hash, block).unwrap();
        assert_eq!(
            (entry.direction(), found.before),
            (Direction::Forward, known.before)
        );
    }
}
