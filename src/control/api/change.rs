//! Requests that change the configuration, and their answers.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::edit::Edit;

/// What a change is made on condition of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// The hash of the configuration the change was made for (`hash` of [`Config`](super::Config)): with another one running it
    /// is refused, so that nobody overwrites what somebody else changed meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<String>,
    /// The configuration before it comes back after so many seconds, unless `POST /v1/confirm` arrives first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_seconds: Option<u64>,
}

/// `POST /v1/reload`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadRequest {
    /// The file to read, absolute; without one the file natgate was started with.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// Conditions.
    #[serde(flatten)]
    pub terms: Terms,
}

/// `POST /v1/edit`: all of the edits, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditRequest {
    /// The edits, in order.
    pub edits: Vec<Edit>,
    /// The client in whose name objects are added; `cli` without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Conditions.
    #[serde(flatten)]
    pub terms: Terms,
}

/// `POST /v1/rollback`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollbackRequest {
    /// The generation to go back to; without one the configuration before this one.
    #[serde(default)]
    pub generation: Option<u32>,
    /// Conditions.
    #[serde(flatten)]
    pub terms: Terms,
}

/// A change that took effect: every worker runs the new policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The configuration now in force.
    pub generation: u32,
    /// The hash of its text.
    #[serde(default)]
    pub hash: String,
    /// What changed, a line each; empty if nothing did.
    pub changes: Vec<String>,
    /// Warnings of the validation.
    pub warnings: Vec<String>,
    /// Milliseconds from the request until the last worker had the new policy.
    pub took_millis: u64,
    /// Seconds left to confirm it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_seconds: Option<u64>,
}

/// `POST /v1/save`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaveRequest {
    /// Write also over a file that was changed since natgate read it.
    #[serde(default)]
    pub force: bool,
}

/// What was saved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// The files written; those that say the same already are left alone.
    pub files: Vec<String>,
    /// The hash of the configuration, now that of the files as well.
    pub hash: String,
}

/// `POST /v1/diff`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffRequest {
    /// The file to compare with, absolute; without one the file natgate was started with.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// A generation to compare with, instead of a file.
    #[serde(default)]
    pub generation: Option<u32>,
}

/// How another configuration differs from the running one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Both say the same.
    pub equal: bool,
    /// `- ` what only the running one says, `+ ` what only the other says; one object or key a line.
    pub lines: Vec<String>,
}
