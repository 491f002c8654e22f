//! Limits of one host (RFC 6888 REQ-4, REQ-5): exact with any number of workers, and nobody else's business.

use natgate::base::DropReason;
use natgate::dataplane::rack::Rack;

use crate::common::*;
use crate::*;

fn limited(workers: u8, system: &str) -> Rack {
    rack(&lab_text(workers, MASQUERADE, system))
}

/// A connection attempt of 10.0.0.2.
fn syn(port: u16) -> Vec<u8> {
    tcp(LAN, ("10.0.0.2", port), SERVER, "S")
}

/// The server's segment to a public endpoint.
fn answer(to: (std::net::Ipv4Addr, u16), flags: &str) -> Vec<u8> {
    let address: &'static str = Box::leak(to.0.to_string().into_boxed_str());
    tcp(WAN, SERVER, (address, to.1), flags)
}

// Proves: G4c, G5b.
#[test]
fn new_sessions_a_second_are_limited() {
    everywhere(|workers, at| {
        let mut rack = limited(workers, "new_sessions_per_host = 5");
        let mut port = 5000;
        let mut burst = |rack: &mut Rack, allowed: u16| {
            for _ in 0..allowed {
                one(rack, at, LAN, &call(("10.0.0.2", port)));
                port += 1;
            }
            for late in 60000..60010 {
                let late = call(("10.0.0.2", late));
                dropped(rack, at, LAN, &late, DropReason::QuotaRate);
            }
        };
        burst(&mut rack, 5);
        let first = one(&mut rack, at, LAN, &call(("10.0.0.2", 5000))).source;
        works(&mut rack, at, ("10.0.0.2", 5000), first);
        one(&mut rack, at, LAN, &call(("10.0.0.3", 5000)));
        rack.advance(200);
        burst(&mut rack, 1);
        rack.advance(600);
        burst(&mut rack, 3);
        rack.advance(60_000);
        burst(&mut rack, 5);
        assert_eq!(rack.sessions(), 15, "a refusal leaves nothing behind");
    });
}

// Proves: G4c.
#[test]
fn half_open_connections_are_limited() {
    everywhere(|workers, at| {
        let mut rack = limited(workers, "half_open_per_host = 2");
        let refused =
            |rack: &mut Rack| dropped(rack, at, LAN, &syn(60000), DropReason::QuotaHalfOpen);
        let first = one(&mut rack, at, LAN, &syn(5000)).source;
        let second = one(&mut rack, at, LAN, &syn(5001)).source;
        refused(&mut rack);
        one(&mut rack, at, LAN, &call(("10.0.0.2", 5000)));
        one(
            &mut rack,
            at,
            LAN,
            &tcp(LAN, ("10.0.0.3", 5000), SERVER, "S"),
        );
        one(&mut rack, at, LAN, &syn(5000));

        // Answered, but not by both: still half-open. Then established: one more may open.
        one(&mut rack, at, WAN, &answer(first, "SA"));
        refused(&mut rack);
        one(
            &mut rack,
            at,
            LAN,
            &tcp(LAN, ("10.0.0.2", 5000), SERVER, "A"),
        );
        one(&mut rack, at, LAN, &syn(5002));
        refused(&mut rack);

        // Refused by the server: one more.
        one(&mut rack, at, WAN, &answer(second, "RA"));
        one(&mut rack, at, LAN, &syn(5003));
        refused(&mut rack);

        // Never answered: they count until they expire.
        rack.advance(239_000);
        rack.maintain();
        refused(&mut rack);
        rack.advance(2_000);
        rack.maintain();
        one(&mut rack, at, LAN, &syn(5004));
        one(&mut rack, at, LAN, &syn(5005));
        refused(&mut rack);
    });
}

#[test]
fn a_host_that_others_call_keeps_its_own_tokens() {
    everywhere(|workers, at| {
        let text = lab_text(
            workers,
            &pool("filtering = \"endpoint\""),
            "new_sessions_per_host = 1\nhalf_open_per_host = 1",
        );
        let mut rack = rack(&text);
        let public = one(&mut rack, at, LAN, &syn(5000)).source;
        one(&mut rack, at, WAN, &answer(public, "SA"));
        one(
            &mut rack,
            at,
            LAN,
            &tcp(LAN, ("10.0.0.2", 5000), SERVER, "A"),
        );
        for port in 7000..7010 {
            let knock = tcp(WAN, ("203.0.113.10", port), ("203.0.113.20", public.1), "S");
            assert_eq!(one(&mut rack, at, WAN, &knock).port, LAN);
        }
        rack.advance(1_000);
        one(&mut rack, at, LAN, &syn(5001));
        dropped(&mut rack, at, LAN, &syn(5002), DropReason::QuotaHalfOpen);
    });
}

// Proves: G11b.
#[test]
fn a_refused_host_is_told_as_configured_and_not_too_often() {
    for (error, code) in [("host-unreachable", 1), ("admin-prohibited", 13)] {
        let system = format!("new_sessions_per_host = 1\nquota_error = \"{error}\"");
        let mut rack = limited(2, &system);
        one(&mut rack, 0, LAN, &call(("10.0.0.2", 5000)));
        let refused = call(("10.0.0.2", 5001));
        let told = one(&mut rack, 0, LAN, &refused);
        assert_eq!(
            (told.port, told.source.0, told.destination.0),
            (LAN, ip("10.0.0.1"), ip("10.0.0.2"))
        );
        assert_eq!(told.payload[..2], [3, code]);
        assert_eq!(
            told.payload[8..],
            refused[14..],
            "quoting the packet as sent"
        );
        let errors: usize = (0..200)
            .map(|_| send(&mut rack, 0, LAN, &refused).len())
            .sum();
        assert_eq!(errors, 39, "a burst of 40 to one host");
        assert_eq!(rack.drops(DropReason::QuotaRate), 201);
    }
}

// Proves: G11c, D8.
#[test]
fn a_host_at_its_limit_is_told_at_both_edges() {
    everywhere(|workers, at| {
        let mut rack = rack(&lab_text(workers, MASQUERADE, "sessions_per_host = 3"));
        for n in 0..9 {
            let frame = call(("10.0.0.2", 5000 + n));
            match n < 3 {
                true => drop(one(&mut rack, at, LAN, &frame)),
                false => dropped(&mut rack, at, LAN, &frame, DropReason::SessionLimit),
            }
        }
        let told = |rack: &mut Rack| {
            let mut edges = Vec::with_capacity(16);
            for shard in &mut rack.shards {
                shard.nat.at_limit.fetch(&mut edges);
            }
            edges
        };
        let edges = told(&mut rack);
        assert_eq!(edges.len(), 1, "{edges:?}");
        assert!(edges[0].begins && edges[0].reason == DropReason::SessionLimit);
        assert_eq!(edges[0].address, 0x0a00_0002);
        rack.advance(20_000);
        rack.maintain();
        assert!(told(&mut rack).is_empty());
        rack.advance(10_250);
        rack.maintain();
        let edges = told(&mut rack);
        assert_eq!(edges.len(), 1, "{edges:?}");
        assert!(!edges[0].begins);
        assert_eq!(edges[0].refused, 6);
    });
}
