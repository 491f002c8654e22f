//! The data plane against a naive NAT made of ordinary maps, over random operations: packets both ways, time, reloads.
//!
//! The reference does not choose ports: it learns them from the first translated packet and from then on insists. What
//! it insists on are the invariants a NAT stands for: one outside endpoint for as much of a flow as mappings depend on, never
//! two mappings on one outside endpoint that a packet from outside could mean, nothing delivered that was not admitted, no
//! port refused while one is left, exact expiry, no packet unaccounted for.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
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

/// What mappings and filters may depend on, in the words of the configuration; from little to much.
const DEPENDS: [&str; 3] = ["endpoint", "address", "address-port"];

/// As much of a remote as a behaviour looks at.
fn part(depends: usize, remote: Endpoint) -> (Option<Ipv4Addr>, Option<u16>) {
    (
        (depends > 0).then_some(remote.0),
        (depends > 1).then_some(remote.1),
    )
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    seen: u64,
    replied: bool,
    /// An outside host opened it through a mapping.
    from_outside: bool,
    mapping: u32,
}

impl Flow {
    fn deadline(&self) -> u64 {
        self.seen + if self.replied { UDP } else { UDP_UNREPLIED }
    }
}

#[derive(Clone, Copy, Debug)]
struct Mapping {
    inside: Endpoint,
    outside: Endpoint,
    /// The remote it was made for, as far as it depends on that; none once the last flow to it is gone.
    for_remote: Option<(Option<Ipv4Addr>, Option<u16>)>,
}

/// The executable specification: UDP through one address, mapping and filtering by RFC 4787 §4.1 and §5.
struct Reference {
    now: u64,
    mapping: usize,
    filtering: usize,
    mappings: BTreeMap<u32, Mapping>,
    made: u32,
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
        let depends = self.mapping;
        self.mappings.retain(|id, mapping| {
            let own = || flows.iter().filter(|(_, f)| f.mapping == *id);
            let wanted = mapping.for_remote;
            if !own().any(|((_, remote), _)| Some(part(depends, *remote)) == wanted) {
                mapping.for_remote = None;
            }
            own().next().is_some()
        });
    }

    /// Whether some flow is so close to its timeout that both answers are right.
    fn near_deadline(&self) -> bool {
        self.flows
            .values()
            .any(|f| f.deadline().abs_diff(self.now) <= GRAIN)
    }

    fn outbound(&mut self, inside: Endpoint, remote: Endpoint) -> Expect {
        self.purge();
        match self.used_by(inside, remote) {
            Some(id) => Expect::Translated(self.mappings[&id].outside),
            None => Expect::NewMapping,
        }
    }

    /// The mapping that a packet from inside uses.
    fn used_by(&self, inside: Endpoint, remote: Endpoint) -> Option<u32> {
        if let Some(flow) = self.flows.get(&(inside, remote)) {
            return Some(flow.mapping);
        }
        let wanted = Some(part(self.mapping, remote));
        let fits = |m: &Mapping| m.inside == inside && m.for_remote == wanted;
        let found = self.mappings.iter().find(|(_, m)| fits(m));
        found.map(|(id, _)| *id)
    }

    /// Whether a new mapping may be refused: every one of the ports serves a mapping that must not meet this remote. With
    /// several workers a port is of no use to others than the one that has it.
    fn may_refuse(&self, remote: Endpoint, workers: u8) -> bool {
        let sharing = self.mapping.min(self.filtering);
        let bars = |id: u32, m: &Mapping| {
            let mut own = self.flows.iter().filter(|(_, f)| f.mapping == id);
            let meets = own.any(|((_, r), _)| part(sharing, *r) == part(sharing, remote));
            meets.then_some(m.outside.1)
        };
        let all = self.mappings.iter();
        let barred: BTreeSet<u16> = match workers {
            1 => all.filter_map(|(id, m)| bars(*id, m)).collect(),
            _ => all.map(|(_, m)| m.outside.1).collect(),
        };
        barred.len() == PORTS
    }

    fn sent(&mut self, inside: Endpoint, remote: Endpoint, outside: Endpoint) {
        let id = self.used_by(inside, remote).unwrap_or(self.made);
        for (other, mapping) in self.mappings.iter().filter(|(i, _)| **i != id) {
            if mapping.outside != outside {
                continue;
            }
            assert!(
                self.mapping.min(self.filtering) > 0,
                "{outside:?} stands for {mapping:?} and {inside:?}, and the filter would not tell them apart"
            );
            let filtering = self.filtering;
            let mut own = self.flows.iter().filter(|(_, f)| f.mapping == *other);
            let clash = own.find(|((_, r), _)| part(filtering, *r) == part(filtering, remote));
            assert!(
                clash.is_none(),
                "{outside:?} meets {remote:?} for {mapping:?} and {inside:?}: return traffic of one would reach the other"
            );
        }
        self.made = self.made.max(id + 1);
        self.mappings.entry(id).or_insert(Mapping {
            inside,
            outside,
            for_remote: Some(part(self.mapping, remote)),
        });
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
                mapping: id,
            });
    }

    fn inbound(&mut self, remote: Endpoint, outside: Endpoint) -> Expect {
        self.purge();
        let here = |id: &u32| self.mappings.get(id).is_some_and(|m| m.outside == outside);
        let known = self
            .flows
            .iter_mut()
            .find(|((_, r), flow)| *r == remote && here(&flow.mapping));
        if let Some(((inside, _), flow)) = known {
            // Answers do not keep a UDP session alive, but they tell an answered one from an unanswered one.
            flow.replied |= !flow.from_outside;
            return Expect::Translated(*inside);
        }
        let filtering = self.filtering;
        let mut talks = self.flows.iter().filter(|((_, r), f)| {
            here(&f.mapping) && part(filtering, *r) == part(filtering, remote)
        });
        let Some(((inside, _), flow)) = talks.next() else {
            return Expect::Nothing;
        };
        let (inside, mapping) = (*inside, flow.mapping);
        if self.flows.contains_key(&(inside, remote)) {
            // The host calls this remote through another mapping: its answers could not be told apart.
            return Expect::Nothing;
        }
        self.flows.insert(
            (inside, remote),
            Flow {
                seen: self.now,
                replied: false,
                from_outside: true,
                mapping,
            },
        );
        Expect::Translated(inside)
    }
}

/// Ports of the pool.
const PORTS: usize = 32;

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

fn run(workers: u8, (mapping, filtering): (usize, usize), seed: u64, steps: u32) {
    let (m, f) = (DEPENDS[mapping], DEPENDS[filtering]);
    let rules = format!(
        "[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.20\"]\nports = \"2000-2031\"\nhold = \"0s\"\nmapping = \"{m}\"\nfiltering = \"{f}\"\nselect = \"preserve\"\n\
         [[source-nat]]\nout = \"wan0\"\nvia = \"pool:p\"\n"
    );
    let mut rack = Rack::new(lab_policy(workers, &rules), ShardSize::small(), seed).unwrap();
    let mut model = Reference {
        now: rack.now.millis,
        mapping,
        filtering,
        mappings: BTreeMap::new(),
        made: 0,
        flows: BTreeMap::new(),
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
            || format!("seed {seed}, workers {workers}, mapping {m}, filtering {f}, step {step}");
        match dice.0.below(100) {
            0..45 => outbound(&mut rack, &mut model, &mut dice, at, &context()),
            45..90 => inbound(&mut rack, &mut model, &mut dice, at, &context()),
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
        assert!(shard.nat.allocator.shared().is_empty(), "seed {seed}");
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
    let expect = model.outbound(endpoint(from), endpoint(to));
    let refused = rack.drops(DropReason::NoPort);
    let sent = rack.receive(WorkerId(at), LAN, &[&udp(LAN, from, to, b"out")]);
    if sent.is_empty() && rack.drops(DropReason::NoPort) == refused + 1 {
        assert_eq!(
            expect,
            Expect::NewMapping,
            "{context}: a living mapping needs no port"
        );
        let may = model.may_refuse(endpoint(to), rack.policy.workers);
        assert!(may, "{context}: refused while a port was left for {to:?}");
        return;
    }
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
        Expect::Translated(outside) => assert_eq!(out.source, outside, "{context}: RFC 4787 §4.1"),
        Expect::NewMapping => {}
        Expect::Nothing => unreachable!("outbound packets are always expected to leave"),
    }
    model.sent(endpoint(from), endpoint(to), out.source);
}

fn inbound(rack: &mut Rack, model: &mut Reference, dice: &mut Dice, at: u8, context: &str) {
    let (from, port) = (dice.remote(), 2000 + dice.0.below(32) as u16);
    let to = ("203.0.113.20", port);
    let expect = model.inbound(endpoint(from), endpoint(to));
    let refusals = |rack: &Rack| {
        let reasons = [
            DropReason::Filtered,
            DropReason::NoMapping,
            DropReason::MappingConflict,
        ];
        reasons.map(|reason| rack.drops(reason)).iter().sum::<u64>()
    };
    let before = refusals(rack);
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
            assert_eq!(
                refusals(rack),
                before + 1,
                "{context}: the drop has its reason"
            );
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
        for mapping in 0..DEPENDS.len() {
            for filtering in 0..DEPENDS.len() {
                for seed in 0..2 {
                    run(workers, (mapping, filtering), seed, steps / 8);
                }
            }
        }
    }
}
