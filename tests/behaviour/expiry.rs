//! Expiry in bounded steps: a sweep looks at so many sessions, ends so many, and goes on where it stopped.

use std::sync::Arc;

use natgate::base::WorkerId;
use natgate::dataplane::rack::Rack;
use natgate::nat::expiry::SweepBudget;

use crate::common::*;

const RULES: &str = "[[source-nat]]\nout = \"wan0\"\nvia = \"interface\"\n";

/// A hundred sessions; their time comes after two minutes.
fn with_sessions() -> Rack {
    let mut rack = lab(1, RULES);
    for port in 10_000..10_100 {
        let datagram = udp(LAN, ("10.0.0.2", port), ("203.0.113.9", 53), b"question");
        rack.receive(WorkerId(0), LAN, &[&datagram]);
    }
    assert_eq!(rack.sessions(), 100);
    rack
}

fn sweep(rack: &mut Rack, sessions: u32, ended: u32) -> u32 {
    let (policy, now) = (Arc::clone(&rack.policy), rack.now);
    let budget = SweepBudget {
        sessions,
        ended,
        subscribers: 0,
    };
    rack.shards[0].nat.sweep(&policy, now, budget, |_| true)
}

#[test]
fn a_sweep_ends_no_more_than_it_may() {
    let mut rack = with_sessions();
    assert_eq!(sweep(&mut rack, u32::MAX, u32::MAX), 0, "nobody's time");
    rack.advance(121_000);
    assert_eq!(sweep(&mut rack, u32::MAX, 0), 0);
    // By groups of 32; the rest is put back.
    assert_eq!(sweep(&mut rack, u32::MAX, 1), 32);
    assert_eq!(sweep(&mut rack, u32::MAX, 32), 32);
    assert_eq!(rack.sessions(), 36);
    assert_eq!(sweep(&mut rack, u32::MAX, 33), 36);
    assert_eq!(rack.sessions(), 0);
}

#[test]
fn a_sweep_looks_at_no_more_than_it_may() {
    let mut rack = with_sessions();
    rack.advance(121_000);
    for left in (0..100).rev().step_by(10) {
        assert_eq!(sweep(&mut rack, 10, u32::MAX), 10);
        assert_eq!(rack.sessions() as u32, left - left % 10);
    }
}
