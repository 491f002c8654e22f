//! `[log]`, validated.

use std::fmt;
use std::path::PathBuf;

use crate::nat::journal::Logging;

/// `[log]`: the NAT log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// What is logged; nothing without a sink.
    pub logging: Logging,
    /// Where it goes: no two alike.
    pub to: Vec<LogTarget>,
}

/// A sink of the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LogTarget {
    /// Lines of JSON in this file.
    File(PathBuf),
}

impl LogTarget {
    /// Reads a target as it is written.
    ///
    /// # Errors
    /// In words, what would be right.
    pub fn parse(text: &str) -> Result<LogTarget, String> {
        let wrong = |why: &str| format!("{text:?} {why}");
        match text.split_once(':') {
            Some(("file", path)) if path.starts_with('/') && !path.ends_with('/') => {
                Ok(LogTarget::File(PathBuf::from(path)))
            }
            Some(("file", _)) => Err(wrong(
                "is no absolute path of a file (file:/var/log/natgate/nat.json is)",
            )),
            _ => Err(wrong("is no sink (write file:/PATH)")),
        }
    }

    /// What kind of sink it is.
    pub fn kind(&self) -> &'static str {
        match self {
            LogTarget::File(_) => "file",
        }
    }
}

impl fmt::Display for LogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogTarget::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}
