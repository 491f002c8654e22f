//! What happens, step by step, to the data plane and to the reference alike.

use std::ops::RangeInclusive;

use natgate::base::{PortId, WorkerId};
use natgate::dataplane::rack::Rack;
use natgate::dataplane::shard::ShardSize;

use crate::common::*;
use crate::packets::{Cut, endpoint, error, inbound, outbound};
use crate::reference::{DEPENDS, GRAIN, Pool, Reference};

/// One thing that happens; `at` is the worker that receives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A datagram of an inside host.
    Out {
        at: u8,
        from: End,
        to: End,
        cut: Cut,
    },
    /// A datagram of an outside host.
    In {
        at: u8,
        from: End,
        to: End,
        cut: Cut,
    },
    /// A router tells what became of a datagram.
    Error { at: u8, about: About, to: End },
    /// Milliseconds pass.
    Wait(u64),
    /// The same configuration once more.
    Reload,
}

/// Whose datagram an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// What this host sent, by whatever it left; if it did not, by a port nobody has.
    Sender(End),
    /// What left by this outside endpoint.
    Endpoint(End),
}

/// Spoils what the data plane sends, before anybody looks: the time in milliseconds since the start, the port, the frame.
pub type Fault = fn(u64, PortId, &mut [u8]);

/// A data plane, and what is expected of it.
#[derive(Clone)]
pub struct Case {
    pub workers: u8,
    pub seed: u64,
    /// Of mapping and filtering: places in [`DEPENDS`].
    pub behaviours: (usize, usize),
    pub addresses: &'static [&'static str],
    pub ports: RangeInclusive<u16>,
    /// More of the configuration's pool.
    pub more: &'static str,
    /// The configuration's timeouts, and how long an answered flow lives by them, in milliseconds.
    pub timeouts: (&'static str, u64),
    pub size: ShardSize,
    /// None but in tests of the tests.
    pub fault: Option<Fault>,
}

impl Case {
    /// What the configuration has beyond the lab.
    pub fn rules(&self) -> String {
        let (m, f) = (DEPENDS[self.behaviours.0], DEPENDS[self.behaviours.1]);
        let (first, last) = (self.ports.start(), self.ports.end());
        format!(
            "[[pool]]\nname = \"p\"\naddresses = {:?}\nports = \"{first}-{last}\"\nhold = \"0s\"\nmapping = \"{m}\"\nfiltering = \"{f}\"\n{}\
             [[source-nat]]\nout = \"wan0\"\nvia = \"pool:p\"\n{}",
            self.addresses, self.more, self.timeouts.0
        )
    }

    pub fn pool(&self) -> Pool {
        Pool {
            addresses: self.addresses.iter().map(|address| ip(address)).collect(),
            ports: self.ports.clone(),
        }
    }
}

/// The data plane.
pub struct Gateway {
    pub rack: Rack,
    began: u64,
    fault: Option<Fault>,
}

impl Gateway {
    /// Receives one frame; returns what is sent in consequence.
    pub fn receive(&mut self, at: u8, port: PortId, frame: &[u8]) -> Vec<(PortId, Vec<u8>)> {
        let mut sent = self.rack.receive(WorkerId(at), port, &[frame]);
        if let Some(fault) = self.fault {
            let millis = self.rack.now.millis - self.began;
            sent.iter_mut()
                .for_each(|(port, frame)| fault(millis, *port, frame));
        }
        sent
    }
}

/// A case while it is played.
pub struct Play {
    pub gateway: Gateway,
    pub model: Reference,
    text: String,
}

impl Play {
    /// Before anything happened.
    pub fn new(case: &Case) -> Play {
        let text = lab_text(case.workers, &case.rules(), "");
        let policy = natgate::config::compile::compile_text("test", &text).unwrap();
        let rack = Rack::new(policy, case.size, case.seed).unwrap();
        let began = rack.now.millis;
        let mut model = Reference::new(began, case.behaviours, case.pool());
        model.answered = case.timeouts.1;
        Play {
            gateway: Gateway {
                rack,
                began,
                fault: case.fault,
            },
            model,
            text,
        }
    }

    /// Milliseconds since the start.
    pub fn millis(&self) -> u64 {
        self.model.now - self.gateway.began
    }

    /// Time passes for both.
    pub fn wait(&mut self, millis: u64) {
        self.gateway.rack.advance(millis);
        self.model.now += millis;
        // A mapping ends with the sweep that takes its last session, a turn after the timeout at most.
        self.gateway.rack.maintain();
    }

    /// Lets time pass until no flow is so close to its timeout that both answers are right.
    pub fn settle(&mut self) {
        while self.model.near_deadline() {
            self.wait(GRAIN);
        }
    }

    /// Nothing is left of what was before.
    pub fn forget(&mut self) {
        self.wait(2 * self.model.answered);
        assert_eq!(self.gateway.rack.sessions(), 0);
        self.model.forget();
    }

    /// One thing happens to both; panics where they differ.
    pub fn step(&mut self, step: Step, context: &dyn Fn() -> String) {
        self.settle();
        let (gateway, model) = (&mut self.gateway, &mut self.model);
        match step {
            Step::Out { at, from, to, cut } => {
                outbound(gateway, model, at, (from, to), cut, context);
            }
            Step::In { at, from, to, cut } => {
                inbound(gateway, model, at, (from, to), cut, context);
            }
            Step::Error { at, about, to } => {
                let outside = about.outside(model, to);
                error(gateway, model, at, (outside, endpoint(to)), context);
            }
            Step::Wait(millis) => self.wait(millis),
            Step::Reload => reload(&mut gateway.rack, &self.text),
        }
        balanced(&self.gateway.rack);
    }

    /// After the last timeout nothing is left.
    pub fn end(&mut self) {
        self.wait(self.model.answered + crate::reference::UDP_UNREPLIED);
        let rack = &self.gateway.rack;
        assert_eq!(rack.sessions(), 0, "after the last timeout");
        for shard in &rack.shards {
            assert!(shard.nat.mappings.is_empty());
            assert!(shard.nat.allocator.shared().is_empty());
            assert_eq!(shard.held(), 0);
        }
    }
}

impl About {
    /// The endpoint that the datagram left by.
    pub fn outside(self, model: &Reference, to: End) -> crate::reference::Endpoint {
        match self {
            About::Endpoint(outside) => endpoint(outside),
            About::Sender(from) => {
                let flow = model.flows.get(&(endpoint(from), endpoint(to)));
                let mapping = flow.and_then(|flow| model.mappings.get(&flow.mapping));
                mapping.map_or((model.pool.addresses[0], 1999), |mapping| mapping.outside)
            }
        }
    }
}
