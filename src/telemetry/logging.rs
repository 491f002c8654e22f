//! The log: lines on stderr for the journal. Only management threads log, packet code never does.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts logging. `NATGATE_LOG` filters as `RUST_LOG` does elsewhere (`debug`, `natgate::control=debug,info`); the default
/// is `info`. A second call changes nothing.
pub fn start() {
    let filter = EnvFilter::try_from_env("NATGATE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // The journal stamps lines itself; a terminal gets the time from us.
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    let started = if journal {
        lines.without_time().try_init()
    } else {
        lines.try_init()
    };
    if let Err(error) = started {
        tracing::debug!(%error, "logging was started before");
    }
}
