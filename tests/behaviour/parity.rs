//! What a pool says about the outside port: kept, of the same parity, or unpredictable (RFC 4787 REQ-3, REQ-4; RFC 6056).

use std::collections::BTreeSet;

use natgate::base::DropReason;

use crate::common::*;
use crate::*;

// Proves: U4, U11, P8.
#[test]
fn parity_is_kept_whatever_the_load() {
    let kinds = [
        "select = \"preserve\"",
        "select = \"random\"",
        "select = \"sequential\"",
        "block = { size = 10, max_per_host = 2 }",
        "deterministic = { inside = [\"10.0.0.2-10.0.0.3\"], ports_per_host = 20 }",
    ];
    for kind in kinds {
        let keys = format!("ports = \"2000-2039\"\nparity = true\nhold = \"0s\"\n{kind}");
        everywhere(|workers, at| {
            let mut rack = rack(&lab_text(workers, &pool(&keys), ""));
            let mut taken = BTreeSet::new();
            // Every even port of the host can be had, and then there is none: no odd one instead.
            let limit = if kind.starts_with("select") { 20 } else { 10 };
            for n in 0..limit {
                let from = ("10.0.0.2", 5000 + 2 * n);
                let public = one(&mut rack, at, LAN, &call(from)).source;
                assert_eq!(public.1 % 2, 0, "{kind}");
                assert!(taken.insert(public));
            }
            let before = rack.drops(DropReason::NoPort) + rack.drops(DropReason::QuotaBlocks);
            assert!(send(&mut rack, at, LAN, &call(("10.0.0.2", 6000))).is_empty());
            let after = rack.drops(DropReason::NoPort) + rack.drops(DropReason::QuotaBlocks);
            assert_eq!(after, before + 1, "{kind}: {}", drops(&rack));
            for n in 0..limit {
                let from = ("10.0.0.2", 5001 + 2 * n);
                let public = one(&mut rack, at, LAN, &call(from)).source;
                assert_eq!(public.1 % 2, 1, "{kind}");
                assert!(taken.insert(public));
            }
        });
    }
}

// Proves: U3a, P9, G15.
#[test]
fn a_free_port_is_preserved_and_a_random_one_is_not_guessed() {
    everywhere(|workers, at| {
        let mut rack = rack(&lab_text(
            workers,
            &pool("select = \"preserve\"\nparity = true"),
            "",
        ));
        let kept = one(&mut rack, at, LAN, &call(("10.0.0.2", 5001))).source;
        assert_eq!(kept.1, 5001);
        let other = one(&mut rack, at, LAN, &call(("10.0.0.3", 5001))).source;
        assert!(other.1 != 5001 && other.1 % 2 == 1);
        // RFC 4787 REQ-3a: a source port below 1024 stays below it.
        let low = one(&mut rack, at, LAN, &call(("10.0.0.2", 700))).source.1;
        assert_eq!(low, 700);
        let low = one(&mut rack, at, LAN, &call(("10.0.0.3", 700))).source.1;
        assert!((512..1024).contains(&low) && low != 700 && low.is_multiple_of(2));
    });
    let mut rack = lab(1, &pool("select = \"random\""));
    let ports: Vec<i32> = (0..64)
        .map(|n| {
            i32::from(
                one(&mut rack, 0, LAN, &call(("10.0.0.2", 5000 + n)))
                    .source
                    .1,
            )
        })
        .collect();
    let steps: BTreeSet<i32> = ports.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(steps.len() > 60, "steps between ports repeat: {steps:?}");
}
