//! The data plane against a naive NAT made of ordinary maps, over random operations: packets both ways, time, reloads.
//!
//! The reference does not choose ports: it learns them from the first translated packet and from then on insists. What
//! it insists on are the invariants a NAT stands for: one outside endpoint for an inside endpoint, never two inside
//! endpoints on one outside endpoint, nothing delivered that was not admitted, exact expiry, no packet unaccounted for.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod common;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use common::*;
use natgate::base::{DropReason, PortId, Random, WorkerId};
use natgate::dataplane::rack::Rack;
use natgate::dataplane::shard::ShardSize;

type Endpoint = (Ipv4Addr, u16);

const UDP: u64 = 300_000;
const UDP_UNREPLIED: u64 = 120_000;
/// Time in the data plane is in quarter seconds; near a deadline both answers are right.
const GRAIN: u64 = 500;

#[derive(Clone, Copy, Debug)]
struct Flow {
    seen: u64,
    replied: bool,
    /// An outside host opened it through a mapping.
    from_outside: bool,
}

impl Flow {
    fn deadline(&self) -> u64 {
        self.seen + if self.replied { UDP } else { UDP_UNREPLIED }
    }
}

/// The executable specification: UDP through one masqueraded address.
#[derive(Default)]
struct Reference {
    now: u64,
    /// Inside endpoint → outside endpoint.
    mappings: BTreeMap<Endpoint, Endpoint>,
    /// (inside, remote) → flow.
    flows: BTreeMap<(Endpoint, Endpoint), Flow>,
}

/// What may happen to a packet.
#[derive(Debug, PartialEq)]
enum Expect {
    Translated(Endpoint),
    /// A translated packet whose outside endpoint is up to the gateway.
    NewMapping,
    Nothing,
}

impl Reference {
    fn purge(&mut self) {
        let now = self.now;
        self.flows.retain(|_, flow| flow.deadline() > now);
        let flows = &self.flows;
        self.mappings
            .retain(|inside, _| flows.keys().any(|(i, _)| i == inside));
    }

    /// Whether some flow is so close to its timeout that both answers are right.
    fn near_deadline(&self) -> bool {
        self.flows
            .values()
            .any(|f| f.deadline().abs_diff(self.now) <= GRAIN)
    }

    fn outbound(&mut self, inside: Endpoint) -> Expect {
        self.purge();
        match self.mappings.get(&inside) {
            Some(outside) => Expect::Translated(*outside),
            None => Expect::NewMapping,
        }
    }

    fn sent(&mut self, inside: Endpoint, remote: Endpoint, outside: Endpoint) {
        if let Some((other, _)) = self
            .mappings
            .iter()
            .find(|(i, o)| **o == outside && **i != inside)
        {
            panic!(
                "{outside:?} stands for {other:?} and {inside:?}: return traffic of one would reach the other"
            );
        }
        self.mappings.insert(inside, outside);
        let now = self.now;
        self.flows
            .entry((inside, remote))
            .and_modify(|f| {
                f.seen = now;
                f.replied |= f.from_outside;
            })
            .or_insert(Flow {
                seen: now,
                replied: false,
                from_outside: false,
            });
    }

    fn inbound(&mut self, remote: Endpoint, outside: Endpoint, independent: bool) -> Expect {
        self.purge();
        let Some((&inside, _)) = self.mappings.iter().find(|(_, o)| **o == outside) else {
            return Expect::Nothing;
        };
        let now = self.now;
        match self.flows.get_mut(&(inside, remote)) {
            // Answers do not keep a UDP session alive, but they tell an answered one from an unanswered one.
            Some(flow) => flow.replied |= !flow.from_outside,
            None if independent => {
                self.flows.insert(
                    (inside, remote),
                    Flow {
                        seen: now,
                        replied: false,
                        from_outside: true,
                    },
                );
            }
            None => return Expect::Nothing,
        }
        Expect::Translated(inside)
    }
}

/// Narrow ranges, so that everything collides.
struct Dice(Random);

impl Dice {
    fn host(&mut self) -> &'static str {
        ["10.0.0.2", "10.0.0.3", "10.0.0.4"][self.0.below(3) as usize]
    }

    fn remote(&mut self) -> End {
        (
            ["203.0.113.9", "203.0.113.10"][self.0.below(2) as usize],
            5000 + self.0.below(2) as u16,
        )
    }

    fn port(&mut self) -> u16 {
        2000 + self.0.below(6) as u16
    }
}

fn endpoint(end: End) -> Endpoint {
    (ip(end.0), end.1)
}

fn run(workers: u8, independent: bool, seed: u64, steps: u32) {
    let filtering = if independent {
        "endpoint"
    } else {
        "address-port"
    };
    let rules = format!(
        "[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.20\"]\nports = \"2000-2031\"\nhold = \"0s\"\nfiltering = \"{filtering}\"\nselect = \"preserve\"\n\
         [[source-nat]]\nout = \"wan0\"\nvia = \"pool:p\"\n"
    );
    let mut rack = Rack::new(lab_policy(workers, &rules), ShardSize::small(), seed).unwrap();
    let mut model = Reference {
        now: rack.now.millis,
        ..Reference::default()
    };
    let mut dice = Dice(Random::from_seed(seed));
    for step in 0..steps {
        while model.near_deadline() {
            rack.advance(GRAIN);
            rack.maintain();
            model.now += GRAIN;
        }
        let at = dice.0.below(u32::from(workers)) as u8;
        let context =
            || format!("seed {seed}, workers {workers}, independent {independent}, step {step}");
        match dice.0.below(100) {
            0..45 => outbound(&mut rack, &mut model, &mut dice, at, &context()),
            45..90 => inbound(
                &mut rack,
                &mut model,
                &mut dice,
                at,
                independent,
                &context(),
            ),
            90..97 => {
                let millis = u64::from(dice.0.below(90_000));
                rack.advance(millis);
                model.now += millis;
                // A mapping ends with the sweep that takes its last session, a turn after the timeout at most.
                rack.maintain();
            }
            _ => {
                let next = natgate::config::compile::recompile_text(
                    "test",
                    &text(workers, &rules),
                    &rack.policy,
                )
                .unwrap();
                rack.reload(next);
            }
        }
        balanced(&rack);
    }
    rack.advance(UDP + UDP_UNREPLIED);
    rack.maintain();
    assert_eq!(
        rack.sessions(),
        0,
        "after the last timeout nothing is left (seed {seed})"
    );
    for shard in &rack.shards {
        assert!(shard.nat.mappings.is_empty(), "seed {seed}");
    }
}

fn text(workers: u8, rules: &str) -> String {
    format!(
        "{LAB}{}{rules}\n[system]\nworkers = {workers}\n",
        neighbours()
    )
}

fn outbound(rack: &mut Rack, model: &mut Reference, dice: &mut Dice, at: u8, context: &str) {
    let (from, to) = ((dice.host(), dice.port()), dice.remote());
    let expect = model.outbound(endpoint(from));
    let sent = rack.receive(WorkerId(at), LAN, &[&udp(LAN, from, to, b"out")]);
    let [packet] = &sent[..] else {
        panic!(
            "{context}: {from:?} → {to:?}: {} packets, drops {}",
            sent.len(),
            drops(rack)
        );
    };
    let out = seen(packet);
    assert_eq!(
        (out.port, out.destination),
        (WAN, endpoint(to)),
        "{context}"
    );
    assert_eq!(out.source.0, ip("203.0.113.20"), "{context}");
    assert!(
        (2000..=2031).contains(&out.source.1),
        "{context}: port {} is outside the pool",
        out.source.1
    );
    match expect {
        Expect::Translated(outside) => assert_eq!(out.source, outside, "{context}: RFC 4787 REQ-1"),
        Expect::NewMapping => {}
        Expect::Nothing => unreachable!("outbound packets are always expected to leave"),
    }
    model.sent(endpoint(from), endpoint(to), out.source);
}

fn inbound(
    rack: &mut Rack,
    model: &mut Reference,
    dice: &mut Dice,
    at: u8,
    independent: bool,
    context: &str,
) {
    let (from, port) = (dice.remote(), 2000 + dice.0.below(32) as u16);
    let to = ("203.0.113.20", port);
    let expect = model.inbound(endpoint(from), endpoint(to), independent);
    let before = rack.drops(DropReason::Filtered) + rack.drops(DropReason::NoMapping);
    let sent = rack.receive(WorkerId(at), WAN, &[&udp(WAN, from, to, b"in")]);
    match expect {
        Expect::Translated(inside) => {
            assert_eq!(
                sent.len(),
                1,
                "{context}: {from:?} → {to:?} must arrive; drops {}",
                drops(rack)
            );
            let back = seen(&sent[0]);
            assert_eq!(
                (back.port, back.source, back.destination),
                (LAN, endpoint(from), inside),
                "{context}"
            );
        }
        Expect::Nothing => {
            assert_eq!(
                sent,
                Vec::<(PortId, Vec<u8>)>::new(),
                "{context}: {from:?} → {to:?} must not arrive"
            );
            let after = rack.drops(DropReason::Filtered) + rack.drops(DropReason::NoMapping);
            assert_eq!(after, before + 1, "{context}: the drop has its reason");
        }
        Expect::NewMapping => unreachable!("outside packets make no mapping"),
    }
}

#[test]
fn random_histories_agree_with_the_reference() {
    let steps: u32 = std::env::var("NATGATE_MODEL_STEPS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(20_000);
    for workers in [1, 2, 4] {
        for independent in [false, true] {
            for seed in 0..4 {
                run(workers, independent, seed, steps / 4);
            }
        }
    }
}
