//! Deterministic pools (RFC 7422): every host gets its own address and ports, whichever worker it lives on.

use std::net::IpAddr;

use natgate::base::DropReason;
use natgate::config::deterministic::lookup;

use crate::common::*;
use crate::*;

/// Eight hosts, four an address, 100 ports each of the second and fourth thousand.
const SHARED: &str = "ports = \"2000-2199,4000-4299\"\nhold = \"0s\"\n\
                      deterministic = { inside = [\"10.0.0.2-10.0.0.9\"], ports_per_host = 100, overflow = { block = 50 } }";

fn shared() -> String {
    format!(
        "[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.20-203.0.113.21\"]\n{SHARED}\n\
         [[source-nat]]\nout = \"wan0\"\nvia = \"pool:p\"\n"
    )
}

/// What `natgate lookup` says of a host: its outside address and port ranges.
fn expected(text: &str, host: &str) -> (IpAddr, Vec<(u16, u16)>) {
    let loaded = natgate::config::parse_str("test", text).unwrap();
    let answers = lookup(&loaded.validated, ip(host).into(), None);
    assert_eq!(answers.len(), 1);
    (answers[0].outside, answers[0].ports.clone())
}

// Proves: D1, D2.
#[test]
fn hosts_use_their_own_ports_on_any_worker() {
    everywhere(|workers, at| {
        let text = lab_text(workers, &shared(), "");
        let loaded = natgate::config::parse_str("test", &text).unwrap();
        let mut rack = rack(&text);
        let mut seen = std::collections::BTreeSet::new();
        for n in 2..10u8 {
            let host: &'static str = Box::leak(format!("10.0.0.{n}").into_boxed_str());
            let (address, ranges) = expected(&text, host);
            for port in 0..100 {
                let public = one(&mut rack, at, LAN, &call((host, 5000 + port))).source;
                assert_eq!(public.0, address);
                let own = ranges.iter().any(|r| (r.0..=r.1).contains(&public.1));
                assert!(own, "{host} got {} instead of {ranges:?}", public.1);
                assert!(seen.insert(public), "no endpoint serves two");
                let found = lookup(&loaded.validated, public.0.into(), Some(public.1));
                assert_eq!(found[0].subscriber, Some(ip(host)));
                if port % 25 == 0 {
                    works(&mut rack, at, (host, 5000 + port), public);
                }
            }
        }
        assert_eq!(seen.len(), 800);
        // The next ones are of an overflow block, which no arithmetic can attribute; then it is over.
        for port in 0..50 {
            let public = one(&mut rack, at, LAN, &call(("10.0.0.2", 6000 + port))).source;
            assert!((4200..4250).contains(&public.1) || (4250..4300).contains(&public.1));
            let found = lookup(&loaded.validated, public.0.into(), Some(public.1));
            assert_eq!(found[0].subscriber, None);
            works(&mut rack, at, ("10.0.0.2", 6000 + port), public);
        }
        dropped(
            &mut rack,
            at,
            LAN,
            &call(("10.0.0.2", 7000)),
            DropReason::QuotaBlocks,
        );
        assert_eq!(rack.sessions(), 850);
        rack.advance(400_000);
        rack.maintain();
        rack.maintain();
        assert_eq!(rack.sessions(), 0);
        let again = one(&mut rack, at, LAN, &call(("10.0.0.5", 9))).source;
        assert_eq!(again.0, expected(&text, "10.0.0.5").0);
    });
}

#[test]
fn a_host_outside_the_mapping_is_refused() {
    let keys = "deterministic = { inside = [\"10.0.0.2-10.0.0.5\"], ratio = 4 }";
    let mut rack = lab(1, &pool(keys));
    one(&mut rack, 0, LAN, &call(("10.0.0.5", 5000)));
    dropped(
        &mut rack,
        0,
        LAN,
        &call(("10.0.0.6", 5000)),
        DropReason::NoAddress,
    );
}

/// Another order of hosts: who still has ports elsewhere keeps them until their sessions end, and nobody gets a port
/// that somebody has.
#[test]
fn a_changed_mapping_takes_no_port_from_anybody() {
    everywhere(|workers, at| {
        let text = |inside: &str| {
            let keys = format!("deterministic = {{ inside = {inside}, ports_per_host = 30000 }}");
            lab_text(workers, &pool(&keys), "")
        };
        let (before, after) = (
            text("[\"10.0.0.2\", \"10.0.0.3\"]"),
            text("[\"10.0.0.3\", \"10.0.0.2\"]"),
        );
        let mut rack = rack(&before);
        let two = one(&mut rack, at, LAN, &call(("10.0.0.2", 5000))).source;
        assert!(two.1 < 31024);
        reload(&mut rack, &after);
        works(&mut rack, at, ("10.0.0.2", 5000), two);
        dropped(
            &mut rack,
            at,
            LAN,
            &call(("10.0.0.3", 1)),
            DropReason::NoPort,
        );
        let new = one(&mut rack, at, LAN, &call(("10.0.0.2", 5001))).source;
        assert!(new.1 >= 31024, "its new ports");
        rack.advance(301_000);
        rack.maintain();
        rack.advance(301_000);
        rack.maintain();
        let three = one(&mut rack, at, LAN, &call(("10.0.0.3", 1))).source;
        assert!(three.1 < 31024);
    });
}
