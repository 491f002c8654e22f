//! What the slow path decided about a new flow, stage by stage: what `natgate explain` shows.

use std::net::IpAddr;

use crate::base::{InterfaceId, PoolId, RuleId};
use crate::nat::filter::Verdict;

/// The decisions about one new flow, as far as they came: a stage that was not reached has none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trace {
    /// The destination half.
    pub destination: Option<DestinationStep>,
    /// The interface it leaves by.
    pub egress: Option<InterfaceId>,
    /// The filter's word.
    pub verdict: Option<Verdict>,
    /// The source half.
    pub source: Option<SourceStep>,
}

impl Trace {
    /// The filter's word; packets it was not asked about pass.
    pub fn verdict(&self) -> Verdict {
        self.verdict.unwrap_or(Verdict::PASS)
    }
}

/// How the destination came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestinationStep {
    /// As it was.
    Kept,
    /// A rule translates it.
    Translated {
        /// New address.
        address: IpAddr,
        /// New port.
        port: u16,
        /// The rule.
        rule: RuleId,
        /// The rule lets it pass the filter.
        allowed: bool,
    },
    /// It is a public address with its target inside: the packet goes out and comes back.
    Hairpin,
    /// It belongs to a living mapping.
    Mapped,
}

/// How the source came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceStep {
    /// As it was, by an exemption or a rule that says so, or because no rule speaks of it.
    Kept(Option<RuleId>),
    /// One to one.
    Static(RuleId),
    /// An endpoint of a pool; the rule is missing where a hairpin needs one and no rule speaks of it.
    Pool {
        /// The pool.
        pool: PoolId,
        /// The rule.
        rule: Option<RuleId>,
    },
}
