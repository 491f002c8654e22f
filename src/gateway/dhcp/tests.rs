use super::message::tests::{MAC, reply};
use super::*;
use ipnet::Ipv4Net;
use proptest::prelude::*;

/// A client with its clock and its luck.
struct Desk {
    client: Client,
    now: u64,
    random: Random,
}

const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const OFFER: u8 = 2;
const ACK: u8 = 5;
const NAK: u8 = 6;

/// Options of an ordinary lease of an hour.
const HOUR: &[u8] = &[
    1, 4, 255, 255, 255, 0, 3, 4, 198, 51, 100, 1, 51, 4, 0, 0, 14, 16,
];

impl Desk {
    fn new(remembered: Option<Lease>) -> Desk {
        let now = 1_000_000;
        Desk {
            client: Client::new(MAC, remembered, now),
            now,
            random: Random::from_seed(7),
        }
    }

    fn poll(&mut self) -> Vec<Action> {
        self.client.poll(self.now, &mut self.random)
    }

    /// Lets time pass until something is due, and does it.
    fn next(&mut self) -> Vec<Action> {
        self.now = self.now.max(self.client.due());
        self.poll()
    }

    /// The server's answer to what was asked last.
    fn answer(&mut self, kind: u8, options: &[u8]) -> Vec<Action> {
        let mut all = vec![53, 1, kind, 54, 4, 198, 51, 100, 1];
        all.extend(options);
        let mut bytes = reply(&all);
        bytes[4..8].copy_from_slice(&self.client.transaction.to_be_bytes());
        self.client.receive(self.now, &mut self.random, &bytes)
    }

    /// Gets an address the ordinary way.
    fn bound(options: &[u8]) -> (Desk, Lease) {
        let mut desk = Desk::new(None);
        desk.poll();
        desk.answer(OFFER, options);
        desk.answer(ACK, options);
        for _ in 0..PROBES {
            desk.next();
        }
        match &desk.next()[..] {
            [Action::Use(lease)] => (desk, lease.clone()),
            other => panic!("no lease: {other:?}"),
        }
    }
}

/// The kind of the only message, its ciaddr, and the options 50 and 54.
fn said(actions: &[Action]) -> (u8, Ipv4Addr, Option<Ipv4Addr>, Option<Ipv4Addr>) {
    let [Action::Broadcast { message, .. } | Action::Unicast { message, .. }] = actions else {
        panic!("no message: {actions:?}");
    };
    let at = |at: usize| {
        Ipv4Addr::new(
            message[at],
            message[at + 1],
            message[at + 2],
            message[at + 3],
        )
    };
    let mut options = &message[240..];
    let (mut kind, mut wants, mut server) = (0, None, None);
    while let [number, length, rest @ ..] = options {
        match (number, &rest[..usize::from(*length)]) {
            (53, [value]) => kind = *value,
            (50, &[a, b, c, d]) => wants = Some(Ipv4Addr::new(a, b, c, d)),
            (54, &[a, b, c, d]) => server = Some(Ipv4Addr::new(a, b, c, d)),
            (255, _) => break,
            _ => {}
        }
        options = &rest[usize::from(*length)..];
        if options.first() == Some(&255) {
            break;
        }
    }
    (kind, at(12), wants, server)
}

const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

#[test]
fn an_address_is_found_asked_for_probed_and_used() {
    let mut desk = Desk::new(None);
    assert_eq!(said(&desk.poll()), (1, NOBODY, None, None), "discover");
    let request = desk.answer(OFFER, HOUR);
    assert_eq!(said(&request), (3, NOBODY, Some(ADDRESS), Some(SERVER)));
    assert_eq!(desk.answer(ACK, HOUR), []);
    assert_eq!(desk.client.state(), State::Probing);
    for _ in 0..PROBES {
        assert_eq!(desk.next(), [Action::Probe(ADDRESS)]);
    }
    assert_eq!(desk.client.lease(), None, "not before the probes");
    let began = desk.now;
    let [Action::Use(lease)] = &desk.next()[..] else {
        panic!("no lease");
    };
    assert_eq!(desk.now - began, PROBE_WAIT);
    assert_eq!(lease.grant.net.to_string(), "198.51.100.7/24");
    assert_eq!(lease.grant.routes, [(Ipv4Net::default(), Some(SERVER))]);
    assert_eq!(desk.client.lease(), Some(lease));
}

#[test]
fn unanswered_questions_are_repeated_ever_more_slowly() {
    let mut desk = Desk::new(None);
    desk.poll();
    let mut waits = Vec::new();
    for _ in 0..7 {
        let before = desk.now;
        assert_eq!(said(&desk.next()).0, 1);
        waits.push(desk.now - before);
    }
    for (wait, expected) in waits.iter().zip([4, 8, 16, 32, 64, 64, 64]) {
        let near = expected * SECOND - SECOND..=expected * SECOND + SECOND;
        assert!(near.contains(wait), "{waits:?}");
    }
    // A server that offers and then falls silent is left after some tries.
    desk.answer(OFFER, HOUR);
    for _ in 1..REQUESTS {
        assert_eq!(said(&desk.next()).0, 3);
    }
    assert_eq!(said(&desk.next()).0, 1, "discover anew");
}

#[test]
fn a_lease_is_renewed_by_unicast_then_by_broadcast_then_ends() {
    let options: Vec<u8> = [HOUR, &[58, 4, 0, 0, 2, 88, 59, 4, 0, 0, 4, 176]].concat();
    let (mut desk, lease) = Desk::bound(&options);
    let start = desk.now - 500;
    let renewal = desk.next();
    assert!(
        (550_000..=600_000).contains(&(desk.now - start)),
        "T1, less a little"
    );
    assert!(matches!(renewal[..], [Action::Unicast { to: SERVER, .. }]));
    assert_eq!(said(&renewal), (3, ADDRESS, None, None));
    assert_eq!(desk.client.state(), State::Renewing);
    let [Action::Extend(longer)] = &desk.answer(ACK, &options)[..] else {
        panic!("not extended");
    };
    assert!(longer.expire > lease.expire);
    // Nobody answers from now on.
    let mut kinds = Vec::new();
    loop {
        match &desk.next()[..] {
            [Action::Unicast { .. }] => kinds.push('u'),
            [Action::Broadcast { from, .. }] if *from == ADDRESS => kinds.push('b'),
            [
                Action::Stop(Lost::Expired),
                Action::Broadcast { from: NOBODY, .. },
            ] => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(desk.now, longer.expire);
    let kinds: String = kinds.into_iter().collect();
    assert!(
        kinds.starts_with("uu") && kinds.trim_start_matches('u').starts_with("bb"),
        "{kinds}"
    );
    assert!(!kinds.contains("bu") && kinds.len() < 40, "{kinds}");
    assert_eq!(desk.client.state(), State::Selecting);
}

#[test]
fn another_grant_replaces_the_old_one() {
    let (mut desk, _) = Desk::bound(HOUR);
    desk.next();
    let other: Vec<u8> = [HOUR, &[26, 2, 5, 120]].concat();
    let actions = desk.answer(ACK, &other);
    assert!(matches!(&actions[..], [Action::Use(l)] if l.grant.mtu == Some(1400)));
}

#[test]
fn after_a_restart_the_old_address_is_confirmed_refused_or_used_up() {
    let (desk, lease) = Desk::bound(HOUR);
    let restart = || {
        let mut next = Desk::new(Some(lease.clone()));
        next.now = desk.now;
        next.client = Client::new(MAC, Some(lease.clone()), next.now);
        let asked = next.poll();
        assert_eq!(
            said(&asked),
            (3, NOBODY, Some(ADDRESS), None),
            "init-reboot"
        );
        next
    };
    let mut confirmed = restart();
    let actions = confirmed.answer(ACK, HOUR);
    assert!(matches!(actions[..], [Action::Use(_)]), "without probes");

    let mut refused = restart();
    let mut nak = refused.answer(NAK, &[]);
    assert_eq!(nak, [], "it was not in force");
    nak.extend(refused.poll());
    assert_eq!(said(&nak).0, 1, "discovers at once");

    let mut silent = restart();
    assert_eq!(said(&silent.next()).0, 3, "once more");
    assert_eq!(silent.next(), [Action::Use(lease.clone())], "what is left");
    let late = Client::new(MAC, Some(lease.clone()), lease.expire);
    assert_eq!(late.state(), State::Init);
}

#[test]
fn a_link_that_was_away_makes_it_ask_and_keep_the_address_meanwhile() {
    let (mut desk, lease) = Desk::bound(HOUR);
    desk.client.link_is_back(desk.now);
    assert_eq!(said(&desk.poll()), (3, NOBODY, Some(ADDRESS), None));
    assert_eq!(desk.client.lease(), Some(&lease));
    assert!(matches!(desk.answer(ACK, HOUR)[..], [Action::Extend(_)]));
    desk.client.link_is_back(desk.now);
    desk.poll();
    let words = [56, 4, b'a', b'w', b'a', b'y'];
    assert_eq!(
        desk.answer(NAK, &words),
        [Action::Stop(Lost::Refused("away".into()))]
    );
    assert_eq!(said(&desk.poll()).0, 1);
}

#[test]
fn an_address_somebody_has_is_declined() {
    let mut desk = Desk::new(None);
    desk.poll();
    desk.answer(OFFER, HOUR);
    desk.answer(ACK, HOUR);
    desk.next();
    let other = MacAddr([2, 9, 9, 9, 9, 9]);
    assert_eq!(
        desk.client.heard(SERVER, other, desk.now),
        [],
        "another address"
    );
    assert_eq!(desk.client.heard(ADDRESS, MAC, desk.now), [], "itself");
    let actions = desk.client.heard(ADDRESS, other, desk.now);
    assert_eq!(actions[0], Action::Conflict(ADDRESS, other));
    assert_eq!(
        said(&actions[1..]),
        (4, NOBODY, Some(ADDRESS), Some(SERVER))
    );
    let declined = desk.now;
    assert_eq!(said(&desk.next()).0, 1);
    assert_eq!(desk.now - declined, AFTER_DECLINE);
    assert_eq!(desk.client.refuse(desk.now), [], "nothing to decline");
}

#[test]
fn a_server_that_refuses_what_it_offers_is_not_asked_all_the_time() {
    let mut desk = Desk::new(None);
    let mut pauses = Vec::new();
    desk.poll();
    for _ in 0..4 {
        desk.answer(OFFER, HOUR);
        desk.answer(NAK, &[]);
        let refused = desk.now;
        assert_eq!(said(&desk.next()).0, 1);
        pauses.push(desk.now - refused);
    }
    assert_eq!(pauses, [0, 2000, 4000, 8000]);
}

#[test]
fn what_it_did_not_ask_for_is_ignored_and_counted() {
    let mut desk = Desk::new(None);
    desk.poll();
    let hostile: [(u8, &[u8]); 6] = [
        (ACK, HOUR),
        (OFFER, &[51, 4, 0, 0, 0, 0]),
        (OFFER, &[]),
        (OFFER, &[1, 4, 254, 0, 0, 0, 51, 4, 0, 0, 1, 0]),
        (OFFER, &[1, 4, 255, 255, 255, 248, 51, 4, 0, 0, 1]),
        (NAK, &[]),
    ];
    for (n, (kind, options)) in (1..).zip(hostile) {
        assert_eq!(desk.answer(kind, options), []);
        assert_eq!(desk.client.ignored(), n, "{options:?}");
    }
    // The address is its subnet's broadcast address.
    assert_eq!(
        desk.answer(OFFER, &[1, 4, 255, 255, 255, 248, 51, 4, 0, 0, 1, 0]),
        []
    );
    let mut foreign = reply(&[53, 1, 2, 54, 4, 1, 1, 1, 1, 51, 4, 0, 0, 1, 0]);
    assert_eq!(
        desk.client.receive(desk.now, &mut desk.random, &foreign),
        [],
        "another's transaction"
    );
    foreign[4..8].copy_from_slice(&desk.client.transaction.to_be_bytes());
    foreign[28] = 4;
    assert_eq!(
        desk.client.receive(desk.now, &mut desk.random, &foreign),
        [],
        "for another MAC"
    );
    assert_eq!(desk.client.state(), State::Selecting);
}

#[test]
fn routes_with_masks_win_and_only_routers_of_the_subnet_count() {
    let route = |options: &[u8]| {
        let options = [HOUR, options].concat();
        let (_, lease) = Desk::bound(&options);
        lease.grant.routes
    };
    let net = |text: &str| text.parse::<Ipv4Net>().unwrap();
    assert_eq!(
        route(&[
            121, 19, 8, 10, 198, 51, 100, 9, 16, 172, 16, 9, 9, 9, 9, 8, 11, 0, 0, 0, 0
        ]),
        [
            (net("10.0.0.0/8"), Some(Ipv4Addr::new(198, 51, 100, 9))),
            (net("11.0.0.0/8"), None)
        ],
        "no default route"
    );
    let twice = [121, 12, 8, 10, 198, 51, 100, 9, 8, 10, 198, 51, 100, 8];
    assert_eq!(route(&twice).len(), 1);
    let far = [
        1, 4, 255, 255, 255, 0, 3, 8, 9, 9, 9, 9, 198, 51, 100, 2, 51, 4, 0, 0, 1, 0,
    ];
    let (_, lease) = Desk::bound(&far);
    assert_eq!(
        lease.grant.routes,
        [(Ipv4Net::default(), Some(Ipv4Addr::new(198, 51, 100, 2)))]
    );
    let (_, ever) = Desk::bound(&[51, 4, 255, 255, 255, 255]);
    assert_eq!((ever.renew, ever.expire), (u64::MAX, u64::MAX));
    assert_eq!(ever.grant.net.prefix_len(), 24, "by class");
}

proptest! {
    /// Whatever a server says and however time passes: no panic, a lease in force has not ended, and what is sent is bounded.
    #[test]
    fn any_server_is_survived(
        seed in any::<u64>(),
        steps in proptest::collection::vec((0u8..8, 0u64..200_000, proptest::collection::vec(any::<u8>(), 0..40)), 0..60),
        seconds in prop_oneof![1u32..200, any::<u32>()],
    ) {
        let mut desk = Desk::new(None);
        desk.random = Random::from_seed(seed);
        let mut sent = desk.poll().len();
        let mut elapsed = 0;
        for (what, wait, junk) in steps {
            let lease = [&[51, 4][..], &seconds.to_be_bytes(), &[1, 4, 255, 255, 255, 0]].concat();
            let actions = match what {
                0 => desk.answer(OFFER, &lease),
                1 | 2 => desk.answer(ACK, &lease),
                3 => desk.answer(NAK, &junk),
                4 => desk.answer(ACK, &junk),
                5 => { desk.client.link_is_back(desk.now); Vec::new() }
                6 => desk.client.heard(ADDRESS, MacAddr([1; 6]), desk.now),
                _ => desk.client.refuse(desk.now),
            };
            sent += actions.len();
            desk.now += wait;
            elapsed += wait;
            while desk.client.due() <= desk.now {
                let due = desk.client.due();
                sent += desk.client.poll(desk.now, &mut desk.random).len();
                prop_assert!(desk.client.due() > due, "time goes on");
            }
            if let Some(lease) = desk.client.lease() {
                prop_assert!(lease.expire > desk.now);
            }
        }
        prop_assert!(sent as u64 <= 20 + 8 * 60 + elapsed / 100, "{sent} in {elapsed} ms");
    }
}
