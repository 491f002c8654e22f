//! The classifier against the definition: rules asked one after the other.

use std::sync::Arc;

use proptest::prelude::*;

use super::classifier::Classifier;
use super::conditions::{Conditions, Crossing, IcmpKind, States};
use crate::base::InterfaceId;
use crate::flow::key::{Address, Tuple};
use crate::nat::matcher::{RangeSet, Value};

/// What a rule's conditions mean.
fn holds<A: Address>(c: &Conditions<A>, p: &Crossing<A>) -> bool {
    let port =
        |set: &RangeSet<u16>, port: u16| !set.is_constrained() || p.has_ports && set.contains(port);
    c.ingress.contains(p.ingress.0)
        && c.egress.contains(p.egress.0)
        && c.source.contains(p.tuple.source)
        && c.destination.contains(p.tuple.destination)
        && c.original.contains(p.original.0)
        && c.protocol.contains(u16::from(p.protocol))
        && port(&c.source_port, p.tuple.source_port)
        && port(&c.destination_port, p.tuple.destination_port)
        && port(&c.original_port, p.original.1)
        && match p.icmp {
            Some(icmp) => c.icmp.contains(icmp.number()),
            None => !c.icmp.is_constrained(),
        }
        && c.states.contains(p.states.bits())
}

/// Few values, so that rules overlap, touch and meet packets.
fn small() -> impl Strategy<Value = u16> {
    prop_oneof![0u16..12, Just(u16::MAX), Just(u16::MAX - 1)]
}

fn set<T: Copy + Ord + std::fmt::Debug>(
    of: impl Fn(u16) -> T + Copy,
) -> impl Strategy<Value = Arc<RangeSet<T>>> {
    let ranges = prop::collection::vec((small(), small()), 0..4);
    prop_oneof![
        2 => Just(Arc::new(RangeSet::any())),
        1 => ranges.prop_map(move |ranges| {
            Arc::new(RangeSet::of(ranges.into_iter().map(|(a, b)| (of(a), of(b)))))
        }),
    ]
}

/// Addresses at both ends of the range and in the middle, in the order of their seeds.
fn v4(seed: u16) -> u32 {
    match seed {
        0..2 => u32::from(seed),
        2..100 => 0x0a00_0000 + u32::from(seed),
        _ => u32::MAX - u32::from(u16::MAX - seed),
    }
}

fn v6(seed: u16) -> u128 {
    match seed {
        0..2 => u128::from(seed),
        2..100 => (0x2001_0db8 << 96) + u128::from(seed),
        _ => u128::MAX - u128::from(u16::MAX - seed),
    }
}

fn conditions<A: Address>(of: impl Fn(u16) -> A + Copy) -> impl Strategy<Value = Conditions<A>> {
    let number = |n| n;
    let states = prop_oneof![
        2 => Just(Arc::new(RangeSet::any())),
        1 => (0usize..6, 0usize..6).prop_map(|(i, j)| {
            let without = if i == j { States::default() } else { States::ALL[j].1 };
            Arc::new(States::ALL[i].1.matching(without))
        }),
    ];
    (
        (set(number), set(number), set(of), set(of), set(of)),
        (set(number), set(number), set(number), set(number)),
        (set(number), states),
    )
        .prop_map(
            |((i, e, s, d, o), (p, sp, dp, op), (icmp, states))| Conditions {
                ingress: i,
                egress: e,
                source: s,
                destination: d,
                original: o,
                protocol: p,
                source_port: sp,
                destination_port: dp,
                original_port: op,
                icmp,
                states,
            },
        )
}

fn crossing<A: Address>(of: impl Fn(u16) -> A + Copy) -> impl Strategy<Value = Crossing<A>> {
    let v = small;
    (
        (v(), v(), v(), v(), v()),
        (v(), v(), v(), 0u8..12),
        (any::<bool>(), v(), 0u8..3, 0usize..6, 0usize..6),
    )
        .prop_map(
            move |(
                (ingress, egress, s, d, o),
                (sp, dp, op, protocol),
                (has_ports, icmp, code, a, b),
            )| Crossing {
                ingress: InterfaceId(ingress),
                egress: InterfaceId(egress),
                tuple: Tuple {
                    source: of(s),
                    destination: of(d),
                    source_port: sp,
                    destination_port: dp,
                },
                original: (of(o), op),
                protocol,
                has_ports,
                icmp: (icmp > 5).then_some(IcmpKind { kind: 0, code }),
                states: States::ALL[a].1 | States::ALL[b].1,
            },
        )
}

fn agrees<A: Address + Value>(
    rules: &[Conditions<A>],
    packets: &[Crossing<A>],
) -> Result<(), TestCaseError> {
    let classifier = Classifier::new(rules);
    for packet in packets {
        let expected = rules.iter().position(|rule| holds(rule, packet));
        prop_assert_eq!(classifier.first_match(packet), expected, "{:?}", packet);
    }
    Ok(())
}

proptest! {
    #[test]
    fn finds_what_asking_in_order_finds_v4(
        rules in prop::collection::vec(conditions(v4), 0..150),
        packets in prop::collection::vec(crossing(v4), 1..40),
    ) {
        agrees(&rules, &packets)?;
    }

    #[test]
    fn finds_what_asking_in_order_finds_v6(
        rules in prop::collection::vec(conditions(v6), 0..150),
        packets in prop::collection::vec(crossing(v6), 1..40),
    ) {
        agrees(&rules, &packets)?;
    }
}

fn packet(source: u32, port: u16) -> Crossing<u32> {
    Crossing {
        ingress: InterfaceId(0),
        egress: InterfaceId(1),
        tuple: Tuple {
            source,
            destination: 7,
            source_port: 1024,
            destination_port: port,
        },
        original: (7, port),
        protocol: 6,
        has_ports: true,
        icmp: None,
        states: States::NEW,
    }
}

/// Thousands of rules: more than one word of summaries, and every rule is found.
#[test]
fn every_one_of_ten_thousand_disjoint_rules_is_found() {
    let rule = |i: u32| Conditions {
        source: Arc::new(RangeSet::of([(16 * i, 16 * i + 7)])),
        destination_port: Arc::new(RangeSet::of([(80, 80), (443, 443)])),
        ..Conditions::default()
    };
    let mut rules: Vec<Conditions<u32>> = (0..10_000).map(rule).collect();
    // What all of them leave, in one rule in the middle and one at the end.
    rules.insert(
        5_000,
        Conditions {
            destination_port: Arc::new(RangeSet::of([(53, 53)])),
            ..Conditions::default()
        },
    );
    rules.push(Conditions {
        protocol: Arc::new(RangeSet::of([(6, 6)])),
        ..Conditions::default()
    });
    let classifier = Classifier::new(&rules);
    for i in 0..10_000u32 {
        let number = (i + u32::from(i >= 5_000)) as usize;
        assert_eq!(
            classifier.first_match(&packet(16 * i + 7, 443)),
            Some(number)
        );
        assert_eq!(
            classifier.first_match(&packet(16 * i + 8, 443)),
            Some(10_001)
        );
        assert_eq!(classifier.first_match(&packet(16 * i, 53)), Some(5_000));
    }
}

/// A set that thousands of rules share is cut once; building takes no longer for it.
#[test]
fn shared_sets_are_cut_once() {
    let set = Arc::new(RangeSet::of((0..200_000u32).map(|i| (32 * i, 32 * i + 15))));
    let rules: Vec<Conditions<u32>> = (0..5_000)
        .map(|port| Conditions {
            source: set.clone(),
            destination_port: Arc::new(RangeSet::of([(port, port)])),
            ..Conditions::default()
        })
        .collect();
    let classifier = Classifier::new(&rules);
    assert_eq!(classifier.first_match(&packet(32 * 7, 4_999)), Some(4_999));
    assert_eq!(classifier.first_match(&packet(32 * 7 + 16, 4_999)), None);
}

#[test]
fn no_rules_and_rules_without_conditions() {
    assert_eq!(Classifier::new(&[]).first_match(&packet(1, 1)), None);
    let any = [Conditions::default(), Conditions::default()];
    assert_eq!(Classifier::new(&any).first_match(&packet(1, 1)), Some(0));
    let never = Conditions {
        source: Arc::new(RangeSet::of([])),
        ..Conditions::default()
    };
    let rules = [never, Conditions::default()];
    assert_eq!(Classifier::new(&rules).first_match(&packet(1, 1)), Some(1));
}

#[test]
fn a_filter_is_in_use_when_it_can_refuse_or_count() {
    use super::{Action, Answer, Filter, Rule, Verdict};
    use crate::base::RuleId;
    use crate::gateway::errors::ErrorKind;
    let verdict = |action| Verdict {
        action,
        rule: RuleId(7),
    };
    let reset = verdict(Action::Reject(Answer::Reset));
    let error = verdict(Action::Reject(Answer::Error(ErrorKind::TimeExceeded)));
    let (drop, accept) = (verdict(Action::Drop), verdict(Action::Accept));
    let told = [accept, drop, reset, error].map(|v| (v.passes(), v.rejects()));
    assert_eq!(
        told,
        [(true, false), (false, false), (false, true), (false, true)]
    );
    let rule = || Rule {
        conditions: Conditions::default(),
        verdict: accept,
    };
    let wide = || Rule {
        conditions: Conditions::default(),
        verdict: accept,
    };
    for (v4, v6, default, active) in [
        (vec![], vec![], Verdict::PASS, false),
        (vec![], vec![], drop, true),
        (vec![rule()], vec![], Verdict::PASS, true),
        (vec![], vec![wide()], Verdict::PASS, true),
    ] {
        for established in [true, false] {
            let filter = Filter::new(v4.clone(), v6.clone(), default, established);
            assert_eq!(filter.is_active(), active);
            assert_eq!(filter.judges_answers(), active && !established);
            assert_eq!(filter.default(), default);
            let judged = filter.judge_v4(&packet(1, 1));
            assert_eq!(judged, if v4.is_empty() { default } else { accept });
        }
    }
    let none: Filter = Default::default();
    assert!(!none.is_active());
}
