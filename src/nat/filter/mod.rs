//! The filter: which flows may pass, asked once for each flow when it is opened.
//!
//! It stands where FORWARD stands on Linux: behind destination NAT and routing, before source NAT. Rules are ordered and the
//! first that matches decides; the default decides the rest. Later packets of a flow that was let through, its answers
//! and ICMP errors about it pass without being asked again, so that rules cost an established flow nothing.
//!
//! With `established = "filter"` answers and ICMP errors are judged, too, as stateless rules on Linux judge them: answers
//! still once, when the flow is opened or revalidated ([`flows`]); the verdict stands in the session as
//! [`Egress::BARRED`](crate::flow::session::Egress::BARRED).

pub mod classifier;
pub mod conditions;
pub mod flows;
#[cfg(test)]
mod tests;

use crate::base::RuleId;
use crate::flow::key::Address;
use crate::gateway::errors::ErrorKind;
use crate::nat::matcher::Value;
use classifier::Classifier;
use conditions::{Conditions, Crossing};

/// The kind of filter rules in [`RuleInfo`](crate::nat::policy::RuleInfo).
pub const KIND: &str = "filter";

/// What the sender of a refused packet is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An ICMP or ICMPv6 error.
    Error(ErrorKind),
    /// A TCP reset, as if the port were closed.
    Reset,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It passes.
    Accept,
    /// It is dropped in silence.
    Drop,
    /// It is dropped and its sender told.
    Reject(Answer),
}

/// The filter's word on one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What becomes of it.
    pub action: Action,
    /// The rule that decided, or the number under which the default is counted.
    pub rule: RuleId,
}

impl Verdict {
    /// For packets that no filter is asked about.
    pub const PASS: Verdict = Verdict {
        action: Action::Accept,
        rule: RuleId::NONE,
    };

    /// Whether the packet passes.
    pub fn passes(&self) -> bool {
        self.action == Action::Accept
    }

    /// Whether the packet is dropped and its sender told.
    pub fn rejects(&self) -> bool {
        matches!(self.action, Action::Reject(_))
    }
}

/// The rules of one address family.
#[derive(Debug)]
struct Family<A> {
    classifier: Classifier<A>,
    /// What each of the classifier's rules decides.
    verdicts: Vec<Verdict>,
}

/// A rule for one address family.
#[derive(Clone, Debug)]
pub struct Rule<A> {
    /// When it decides.
    pub conditions: Conditions<A>,
    /// What it decides.
    pub verdict: Verdict,
}

/// `[filter]`, compiled.
#[derive(Debug)]
pub struct Filter {
    v4: Family<u32>,
    v6: Family<u128>,
    default: Verdict,
    /// Answers and ICMP errors of flows that were let through pass unseen.
    established: bool,
    active: bool,
}

impl Default for Filter {
    /// No rules, everything passes.
    fn default() -> Filter {
        Filter::new(Vec::new(), Vec::new(), Verdict::PASS, true)
    }
}

impl Filter {
    /// A filter of rules in order, for IPv4 and for IPv6.
    pub fn new(
        v4: Vec<Rule<u32>>,
        v6: Vec<Rule<u128>>,
        default: Verdict,
        established: bool,
    ) -> Filter {
        let active = !default.passes() || !v4.is_empty() || !v6.is_empty();
        Filter {
            v4: family(v4),
            v6: family(v6),
            default,
            established,
            active,
        }
    }

    /// Whether it can refuse or count anything, so that flows must be known.
    pub fn is_active(&self) -> bool {
        self.active
    }

    /// Whether answers and ICMP errors are judged as well.
    pub fn judges_answers(&self) -> bool {
        self.active && !self.established
    }

    /// What decides where no rule does.
    pub fn default(&self) -> Verdict {
        self.default
    }

    /// Judges an IPv4 packet.
    pub fn judge_v4(&self, packet: &Crossing<u32>) -> Verdict {
        self.v4.judge(packet).unwrap_or(self.default)
    }

    /// Judges an IPv6 packet.
    pub fn judge_v6(&self, packet: &Crossing<u128>) -> Verdict {
        self.v6.judge(packet).unwrap_or(self.default)
    }
}

fn family<A: Address + Value>(rules: Vec<Rule<A>>) -> Family<A> {
    let verdicts = rules.iter().map(|rule| rule.verdict).collect();
    let conditions: Vec<Conditions<A>> = rules.into_iter().map(|rule| rule.conditions).collect();
    Family {
        classifier: Classifier::new(&conditions),
        verdicts,
    }
}

impl<A: Address + Value> Family<A> {
    fn judge(&self, packet: &Crossing<A>) -> Option<Verdict> {
        let rule = self.classifier.first_match(packet)?;
        self.verdicts.get(rule).copied()
    }
}
