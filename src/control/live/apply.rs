//! Changing the configuration of a running gateway.
//!
//! ```text
//!   load ─▶ same ports, cores, memory? ─▶ compile against the policy in force ─▶ publish ─▶ wait for every worker
//!     └────────────── any error: refused with the whole report, nothing has changed ┘
//! ```
//!
//! The policy that was replaced is kept until no worker holds it any more and is dropped here, never on a packet thread.

use super::{Live, change, lock, unix_seconds};
use crate::base::PortId;
use crate::config::Loaded;
use crate::config::compile::{PortFacts, compile};
use crate::control::api::{Failure, FailureKind, HistoryEntry, ReloadRequest, Reloaded};
use crate::control::runtime::{PortDevice, load, refused, warnings};
use crate::nat::policy::Policy;
use std::collections::VecDeque;
use std::hash::Hasher;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Generations remembered.
const HISTORY: usize = 32;

/// How long all workers together may take to take up a policy.
const ACKNOWLEDGE: Duration = Duration::from_secs(5);

/// What is in force.
pub struct Running {
    /// The configuration.
    pub loaded: Arc<Loaded>,
    /// The file natgate was started with: what a reload without a file reads.
    pub boot_file: PathBuf,
    /// The file the configuration came from.
    pub file: PathBuf,
    /// A hash of its text, 16 hex digits.
    pub hash: String,
    /// What was published, oldest first.
    pub history: VecDeque<HistoryEntry>,
    /// Replaced policies that a worker may still hold.
    retired: Vec<Arc<Policy>>,
}

impl Running {
    /// The configuration the gateway starts with.
    pub fn new(loaded: Loaded, file: PathBuf, generation: u32) -> Running {
        let hash = hash(&loaded.text);
        let entry = HistoryEntry {
            generation,
            published_unix_seconds: unix_seconds(),
            hash: hash.clone(),
            cause: "start".to_owned(),
            summary: file.display().to_string(),
        };
        Running {
            loaded: Arc::new(loaded),
            boot_file: file.clone(),
            file,
            hash,
            history: VecDeque::from([entry]),
            retired: Vec::new(),
        }
    }

    fn record(&mut self, generation: u32, cause: &str, summary: String) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(HistoryEntry {
            generation,
            published_unix_seconds: unix_seconds(),
            hash: self.hash.clone(),
            cause: cause.to_owned(),
            summary,
        });
    }

    /// Drops replaced policies that nobody holds any more; says how many are left.
    pub fn bury(&mut self) -> usize {
        self.retired.retain(|policy| Arc::strong_count(policy) > 1);
        self.retired.len()
    }
}

/// Tells texts apart in listings; not meant against forgery.
fn hash(text: &str) -> String {
    // FNV-1a, 64 bits: the same on every build and machine.
    struct Fnv(u64);
    impl Hasher for Fnv {
        fn finish(&self) -> u64 {
            self.0
        }
        fn write(&mut self, bytes: &[u8]) {
            for byte in bytes {
                self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
            }
        }
    }
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    hasher.write(text.as_bytes());
    format!("{:016x}", hasher.finish())
}

impl Live {
    /// Carries out a reload and counts it.
    ///
    /// # Errors
    /// See [`Backend::reload`](crate::control::backend::Backend::reload).
    pub fn apply(&self, request: &ReloadRequest) -> Result<Reloaded, Failure> {
        let _one_at_a_time = lock(&self.changing);
        let began = self.clock.nanos();
        match self.change(request) {
            Ok(mut done) => {
                done.took_millis = (self.clock.nanos() - began) / 1_000_000;
                self.reloads_applied.fetch_add(1, Ordering::Relaxed);
                tracing::info!(
                    generation = done.generation,
                    changes = done.changes.len(),
                    took_millis = done.took_millis,
                    "configuration reloaded"
                );
                Ok(done)
            }
            Err(failure) => {
                self.reloads_refused.fetch_add(1, Ordering::Relaxed);
                tracing::warn!("reload refused: {failure}");
                Err(failure)
            }
        }
    }

    fn change(&self, request: &ReloadRequest) -> Result<Reloaded, Failure> {
        let (before, file) = {
            let running = lock(&self.running);
            (
                running.loaded.clone(),
                request
                    .file
                    .clone()
                    .unwrap_or_else(|| running.boot_file.clone()),
            )
        };
        let loaded = load(&file).map_err(|report| refused(FailureKind::Refused, &file, &report))?;
        let fixed = change::needs_restart(&before.validated, &loaded.validated);
        if !fixed.is_empty() {
            return Err(change::restart_failure(fixed));
        }
        let changes = change::describe(&before.validated, &loaded.validated);
        let warnings = warnings(&loaded);
        let generation = if changes.is_empty() {
            self.published.load().generation.0
        } else {
            let policy = self
                .compile(&loaded)
                .map_err(|report| refused(FailureKind::Refused, &file, &report))?;
            self.publish(policy)
        };
        {
            let mut running = lock(&self.running);
            running.hash = hash(&loaded.text);
            running.loaded = Arc::new(loaded);
            running.file = file;
            if !changes.is_empty() {
                running.record(generation, "reload", changes.join("; "));
            }
        }
        self.acknowledged()?;
        Ok(Reloaded {
            generation,
            changes,
            warnings,
            took_millis: 0,
        })
    }

    /// Compiles against the policy in force and the ports as they are.
    fn compile(&self, loaded: &Loaded) -> Result<Policy, crate::config::Report> {
        let before = self.published.load();
        let mut policy = compile(&loaded.validated, &self.port_facts(), Some(&before), 0)?;
        lock(&self.health).apply(&loaded.validated, &mut policy);
        Ok(policy)
    }

    /// The ports as they are.
    pub(super) fn port_facts(&self) -> Vec<PortFacts> {
        let facts = |port: &PortDevice| PortFacts {
            mac: port.mac,
            up: port.link.load(Ordering::Relaxed),
        };
        lock(&self.ports).iter().map(facts).collect()
    }

    fn publish(&self, policy: Policy) -> u32 {
        let generation = policy.generation.0;
        let before = self.published.publish(Arc::new(policy));
        let mut running = lock(&self.running);
        running.retired.push(before);
        running.bury();
        generation
    }

    /// Waits until every worker uses the current policy.
    fn acknowledged(&self) -> Result<(), Failure> {
        let limit = self.clock.nanos() + ACKNOWLEDGE.as_nanos() as u64;
        while !self.workers_current() {
            if self.clock.nanos() > limit {
                return Err(Failure::new(
                    FailureKind::Stalled,
                    "reload",
                    "the configuration is in force, but not every worker has taken it up",
                )
                .hint("see `natgate show workers`: a worker that is stalled will not recover, restart natgate"));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        lock(&self.running).bury();
        Ok(())
    }

    /// Reads the links. Where one came or went the policy is published anew with the interface up or down: routes through
    /// it are used or not, and sessions that masquerade as an interface that is down are forgotten.
    pub fn watch_links(&self) {
        let mut changed = Vec::new();
        {
            let names = lock(&self.running).loaded.clone();
            let ports = lock(&self.ports);
            let policy = self.published.load();
            for (id, (port, configured)) in (0..)
                .map(PortId)
                .zip(ports.iter().zip(&names.validated.ports))
            {
                let up = port.control.link().up;
                port.link.store(up, Ordering::Relaxed);
                if policy
                    .interfaces
                    .iter()
                    .any(|interface| interface.port == id && interface.up != up)
                {
                    let name = &configured.label.name;
                    changed.push(format!("port {name} {}", if up { "up" } else { "down" }));
                }
            }
        }
        self.follow("link", &changed);
        lock(&self.running).bury();
    }

    /// Publishes the policy anew because something besides the configuration changed.
    pub(super) fn follow(&self, cause: &str, changed: &[String]) {
        if changed.is_empty() {
            return;
        }
        let _one_at_a_time = lock(&self.changing);
        let loaded = lock(&self.running).loaded.clone();
        let summary = changed.join("; ");
        match self.compile(&loaded) {
            Ok(policy) => {
                let generation = self.publish(policy);
                lock(&self.running).record(generation, cause, summary.clone());
                tracing::warn!(generation, "{summary}");
            }
            Err(report) => {
                tracing::error!(%report, "{summary}: no policy for this state of things")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_tell_texts_apart_and_stay() {
        assert_eq!(hash(""), "cbf29ce484222325");
        assert_eq!(hash("a"), "af63dc4c8601ec8c");
        assert_ne!(hash("schema = 1"), hash("schema = 2"));
    }
}
