//! The language of the control socket: one set of types for the server and the command line.
//!
//! Everything is HTTP + JSON below `/v1/`:
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status`, `/v1/drops`, … ([`Document`]) | one JSON document |
//! | `GET /v1/sessions?ip=…&max=…`, … ([`Listing`], [`Filter`]) | NDJSON: one [`Line`] per object, then one that ends the list |
//! | `POST /v1/reload` ([`ReloadRequest`]), `/v1/edit` ([`EditRequest`]), `/v1/rollback` ([`RollbackRequest`]), `/v1/confirm` | [`Reloaded`] |
//! | `POST /v1/save` ([`SaveRequest`]) | [`Saved`] |
//! | `POST /v1/diff` ([`DiffRequest`]) | [`Difference`] |
//! | `POST /v1/clear/sessions` ([`Filter`] in the query), `/v1/clear/counters` | [`Cleared`] |
//!
//! Both sides send [`VERSION_HEADER`]; a daemon refuses a client that speaks another version. An error is a
//! [`Failure`] with the HTTP status of its [`FailureKind`].

pub mod change;
pub mod explain;
pub mod filter;
pub mod listing;
pub mod report;
pub mod rules;

pub use change::{
    DiffRequest, Difference, EditRequest, ReloadRequest, Reloaded, RollbackRequest, SaveRequest,
    Saved, Terms,
};
pub use explain::{Explanation, Question, Stage};
pub use filter::Filter;
pub use listing::{
    Block, Endpoint, Interface, Item, LeaseView, Line, ListEnd, LogSink, Mapping, Neighbor, Pool,
    PoolPorts, Port, Queue, Route, Session, Subscriber, Translation, Worker,
};
pub use report::{
    Cleared, Config, Counters, DropLine, Drops, Gauges, PacketCounts, Rates, SessionCount, Status,
    Timeout, Timeouts, WorkerCounts,
};
pub use rules::{Exempt, ExemptFileState, FilterRule, HistoryEntry, Rule, ServiceBackend};

use serde::{Deserialize, Serialize};
use std::fmt;

/// Version of everything in this module; grows when an old client would misread an answer.
pub const API_VERSION: u32 = 1;

/// The header that carries [`API_VERSION`] in requests and answers.
pub const VERSION_HEADER: &str = "natgate-api-version";

/// Declares the kinds of one class, with the name used in paths and on the command line.
macro_rules! kinds {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)*
        }

        impl $name {
            /// Every kind.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];

            /// The name in paths and on the command line.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }

            /// The kind of this name.
            pub fn from_name(name: &str) -> Option<$name> {
                Self::ALL.iter().copied().find(|kind| kind.name() == name)
            }
        }
    };
}

kinds! {
    /// What is answered with one document.
    Document {
        /// Health on one screen: [`Status`].
        Status "status",
        /// Drops by reason: [`Drops`].
        Drops "drops",
        /// All packet counters and their conservation: [`Counters`].
        Counters "counters",
        /// Idle timeouts in force: [`Timeouts`].
        Timeouts "timeouts",
        /// The running configuration: [`Config`].
        Config "config",
    }
}

kinds! {
    /// What is answered with a list, one object a line.
    Listing {
        /// Devices: [`Port`].
        Ports "ports",
        /// Queues of the devices, each as the worker that serves it counts it: [`Queue`].
        Queues "queues",
        /// Layer-3 interfaces: [`Interface`].
        Interfaces "interfaces",
        /// Routes, connected and static: [`Route`].
        Routes "routes",
        /// Next hops by ARP and neighbour discovery: [`Neighbor`].
        Neighbors "neighbors",
        /// Poll-mode workers: [`Worker`].
        Workers "workers",
        /// Address pools: [`Pool`].
        Pools "pools",
        /// Port blocks in use: [`Block`].
        Blocks "blocks",
        /// Inside hosts: [`Subscriber`].
        Subscribers "subscribers",
        /// Inside endpoint to outside endpoint: [`Mapping`].
        Mappings "mappings",
        /// Flows: [`Session`].
        Sessions "sessions",
        /// `[[source-nat]]` with counters: [`Rule`].
        SourceNat "source-nat",
        /// `[[exempt]]` prefix by prefix, with counters: [`Exempt`].
        Exempt "exempt",
        /// `[[static-nat]]` with counters: [`Rule`].
        StaticNat "static-nat",
        /// `[[port-forward]]` with counters: [`Rule`].
        PortForwards "port-forwards",
        /// `[[service]]` by backend, with counters: [`ServiceBackend`].
        Services "services",
        /// `[[filter.rule]]` with counters, then the default: [`FilterRule`].
        Filter "filter",
        /// Sinks of the NAT log, and what became of its records: [`LogSink`].
        Log "log",
        /// Published configurations: [`HistoryEntry`].
        History "history",
    }
}

impl Listing {
    /// The most objects listed when the request names no maximum: listings that grow with the traffic are cut.
    pub const fn default_max(self) -> Option<u64> {
        match self {
            Listing::Sessions | Listing::Mappings | Listing::Subscribers | Listing::Blocks => {
                Some(50)
            }
            _ => None,
        }
    }
}

/// What went wrong, in the classes a caller can act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The request makes no sense (HTTP 400, exit code 2).
    Usage,
    /// The object does not exist (HTTP 404, exit code 3).
    NotFound,
    /// Validation refused the change; nothing was changed (HTTP 409, exit code 5).
    Refused,
    /// It should have worked (HTTP 500, exit code 1).
    Failed,
    /// A worker did not answer in time (HTTP 503, exit code 1).
    Stalled,
}

impl FailureKind {
    /// The HTTP status that carries it.
    pub const fn http_status(self) -> u16 {
        match self {
            FailureKind::Usage => 400,
            FailureKind::NotFound => 404,
            FailureKind::Refused => 409,
            FailureKind::Failed => 500,
            FailureKind::Stalled => 503,
        }
    }

    /// The exit code of a command that ends with it.
    pub const fn exit_code(self) -> u8 {
        match self {
            FailureKind::Failed | FailureKind::Stalled => 1,
            FailureKind::Usage => 2,
            FailureKind::NotFound => 3,
            FailureKind::Refused => 5,
        }
    }
}

/// An error as it is sent and shown: `what failed: why (what to do)`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Its class.
    pub kind: FailureKind,
    /// What failed.
    pub what: String,
    /// Why.
    pub why: String,
    /// What to do about it; empty when nothing better than "look" is known.
    #[serde(default)]
    pub hint: String,
    /// Every finding, one a line, when validation refused a configuration.
    #[serde(default)]
    pub report: Vec<String>,
}

impl Failure {
    /// A failure without advice.
    pub fn new(kind: FailureKind, what: impl Into<String>, why: impl Into<String>) -> Failure {
        Failure {
            kind,
            what: what.into(),
            why: why.into(),
            hint: String::new(),
            report: Vec::new(),
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = hint.into();
        self
    }

    /// Adds the findings.
    #[must_use]
    pub fn report(mut self, report: Vec<String>) -> Failure {
        self.report = report;
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)?;
        if !self.hint.is_empty() {
            write!(f, " ({})", self.hint)?;
        }
        for finding in &self.report {
            write!(f, "\n  {finding}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_and_no_path_is_taken_twice() {
        for &kind in Document::ALL {
            assert_eq!(Document::from_name(kind.name()), Some(kind));
            assert_eq!(Listing::from_name(kind.name()), None);
        }
        for &kind in Listing::ALL {
            assert_eq!(Listing::from_name(kind.name()), Some(kind));
        }
    }

    #[test]
    fn failures_read_as_one_sentence_and_survive_the_wire() {
        let failure = Failure::new(FailureKind::Refused, "reload", "2 errors")
            .hint("nothing was changed")
            .report(vec!["a.toml:3: pool.x: wrong".into()]);
        assert_eq!(
            failure.to_string(),
            "reload: 2 errors (nothing was changed)\n  a.toml:3: pool.x: wrong"
        );
        let text = serde_json::to_string(&failure).unwrap();
        assert_eq!(serde_json::from_str::<Failure>(&text).unwrap(), failure);
        assert_eq!(
            (failure.kind.exit_code(), failure.kind.http_status()),
            (5, 409)
        );
    }
}
