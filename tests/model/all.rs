//! Every short history: two external addresses with four ports each, three hosts, two remotes. States that differ only by
//! the names of hosts and ports are one.

use std::collections::BTreeSet;

use natgate::dataplane::shard::ShardSize;

use crate::common::*;
use crate::history::{About, Case, Play, Step};
use crate::reference::{Endpoint, Mapping, Reference, UDP_UNREPLIED};
use crate::{setting, shrink};

const ADDRESSES: [&str; 2] = ["203.0.113.20", "203.0.113.21"];
const HOSTS: [&str; 3] = ["10.0.0.2", "10.0.0.3", "10.0.0.4"];
const REMOTES: [End; 2] = [("203.0.113.9", 5000), ("203.0.113.10", 5000)];
/// Of hosts and of external addresses.
const PORTS: [u16; 4] = [2000, 2001, 2002, 2003];
/// Two of them are a flow's life, and a bit.
const TICK: u64 = UDP_UNREPLIED / 2 + 1_000;

/// What may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Out(End, End),
    /// To a mapping's outside endpoint, or to one nobody has.
    In(End, Option<u32>),
    /// About the last packet of a mapping to a remote.
    Error(u32, End),
    Tick,
    Reload,
}

fn case(behaviours: (usize, usize)) -> Case {
    let mut size = ShardSize::small();
    size.nat.sessions = 64;
    size.nat_v6.sessions = 16;
    Case {
        workers: 1,
        seed: 1,
        behaviours,
        addresses: &ADDRESSES,
        ports: PORTS[0]..=PORTS[3],
        more: "",
        timeouts: ("[timeouts]\nudp = \"2m\"\n", UDP_UNREPLIED),
        size,
        fault: None,
    }
}

impl Action {
    /// What that is, where it happens.
    fn step(self, model: &Reference) -> Option<Step> {
        let outside = |id: u32| model.mappings.get(&id).map(|m| written(m.outside));
        let (at, cut) = (0, None);
        Some(match self {
            Action::Out(from, to) => Step::Out { at, from, to, cut },
            Action::In(from, mapping) => {
                let to = mapping.and_then(outside).unwrap_or((ADDRESSES[0], 1999));
                Step::In { at, from, to, cut }
            }
            Action::Error(id, to) => {
                let about = About::Endpoint(outside(id)?);
                Step::Error { at, about, to }
            }
            Action::Tick => Step::Wait(TICK),
            Action::Reload => Step::Reload,
        })
    }
}

struct Pair {
    case: Case,
    play: Play,
    /// Since nothing was left.
    done: Vec<Step>,
}

impl Pair {
    fn new(behaviours: (usize, usize)) -> Pair {
        let case = case(behaviours);
        Pair {
            play: Play::new(&case),
            case,
            done: Vec::new(),
        }
    }

    /// Where a path leads to from a state in which nothing is left of what was before.
    fn go(&mut self, path: &[Action]) {
        self.play.forget();
        self.done.clear();
        path.iter().for_each(|action| self.perform(*action));
    }

    fn perform(&mut self, action: Action) {
        let Some(step) = action.step(&self.play.model) else {
            return;
        };
        self.done.push(step);
        let play = &mut self.play;
        if shrink::caught(|| play.step(step, &String::new)).is_err() {
            // Alone, it is told in full.
            shrink::check(&self.case, &self.done);
            panic!("only after others does this fail: {:?}", self.done);
        }
    }

    /// What may happen in this state: of hosts and ports that are alike, one.
    fn actions(&mut self) -> Vec<Action> {
        self.play.model.purge();
        let mut all = vec![Action::Tick, Action::Reload];
        for remote in REMOTES {
            for host in HOSTS {
                let own = |m: &Mapping| (m.inside.0 == ip(host)).then_some(m.inside.1);
                let used: BTreeSet<u16> =
                    self.play.model.mappings.values().filter_map(own).collect();
                let fresh = PORTS.into_iter().find(|port| !used.contains(port));
                let ports = used.iter().copied().chain(fresh);
                all.extend(ports.map(|port| Action::Out((host, port), remote)));
            }
            all.push(Action::In(remote, None));
            for id in self.play.model.mappings.keys() {
                all.push(Action::In(remote, Some(*id)));
                all.push(Action::Error(*id, remote));
            }
        }
        all
    }

    /// The state, without the names of hosts and ports.
    fn state(&mut self) -> State {
        self.play.model.purge();
        let model = &self.play.model;
        let mut mappings: Vec<_> = model
            .mappings
            .iter()
            .map(|(id, mapping)| {
                let own = model.flows.iter().filter(|(_, flow)| flow.mapping == *id);
                let flows: Vec<_> = own
                    .map(|((_, remote), flow)| {
                        let age = (model.now - flow.seen) / TICK;
                        (*remote, age, flow.from_outside)
                    })
                    .collect();
                let made_for = mapping.for_remote;
                (
                    (mapping.outside.0, made_for, flows),
                    mapping.inside,
                    mapping.outside,
                )
            })
            .collect();
        mappings.sort();
        let (mut hosts, mut insides, mut outsides) = (Vec::new(), Vec::new(), Vec::new());
        mappings
            .into_iter()
            .map(|(plain, inside, outside)| {
                let host = name(&mut hosts, inside.0);
                let ends = (name(&mut insides, inside), name(&mut outsides, outside));
                (plain, host, ends)
            })
            .collect()
    }
}

type Made = Option<(Option<std::net::Ipv4Addr>, Option<u16>)>;
type Plain = (std::net::Ipv4Addr, Made, Vec<(Endpoint, u64, bool)>);
type State = Vec<(Plain, usize, (usize, usize))>;

/// The number of a thing by the order of appearance.
fn name<T: PartialEq>(known: &mut Vec<T>, thing: T) -> usize {
    match known.iter().position(|other| *other == thing) {
        Some(at) => at,
        None => {
            known.push(thing);
            known.len() - 1
        }
    }
}

/// An endpoint of the pool as tests write it.
fn written(end: Endpoint) -> End {
    let address = ADDRESSES.into_iter().find(|address| ip(address) == end.0);
    (address.unwrap(), end.1)
}

/// Everything that can happen within `depth` steps; returns how many states there are.
fn explore(behaviours: (usize, usize), depth: u32) -> usize {
    let mut pair = Pair::new(behaviours);
    let mut known = BTreeSet::new();
    let mut front: Vec<Vec<Action>> = vec![Vec::new()];
    for _ in 0..depth {
        let mut next = Vec::new();
        for path in &front {
            pair.go(path);
            let here = pair.state();
            let mut stayed = true;
            for action in pair.actions() {
                if !stayed {
                    pair.go(path);
                }
                pair.perform(action);
                let state = pair.state();
                stayed = state == here;
                if known.insert(state) {
                    next.push([&path[..], &[action]].concat());
                }
            }
        }
        front = next;
    }
    known.len()
}

// Proves: U1, U3, U8a, U11, G11d, G13.
#[test]
fn every_short_history_agrees_with_the_reference() {
    let depth = setting("NATGATE_MODEL_DEPTH", 5);
    std::thread::scope(|scope| {
        for behaviours in [(0, 0), (0, 2), (2, 2), (2, 0), (1, 1)] {
            scope.spawn(move || {
                let states = explore(behaviours, depth);
                println!("{behaviours:?}: {states} states");
                assert!(states > 10);
            });
        }
    });
}
