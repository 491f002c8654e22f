//! Changing the configuration of a running gateway.
//!
//! ```text
//!   file, edit, earlier text ─▶ read ─▶ same ports, cores, memory? ─▶ compile against the policy in force ─▶ publish ─▶ wait for every worker
//!     └────────────── any error: refused with the whole report, nothing has changed ┘
//! ```
//!
//! The policy that was replaced is kept until no worker holds it any more and is dropped here, never on a packet thread.

use super::running::{Pending, hash};
use super::{Live, change, exemptions, lock, unconfirmed};
use crate::base::PortId;
use crate::config::compile::{PortFacts, compile};
use crate::config::exemptions::Entry;
use crate::config::{self, Loaded, Text};
use crate::control::api::{Failure, FailureKind, Reloaded, Terms};
use crate::control::runtime::{PortDevice, refused};
use crate::nat::policy::Policy;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long all workers together may take to take up a policy.
const ACKNOWLEDGE: Duration = Duration::from_secs(5);

/// A configuration that is to be in force.
pub(super) struct Candidate {
    /// Its texts.
    pub texts: Vec<Text>,
    /// The file it comes from.
    pub file: PathBuf,
    /// The texts are those of the file natgate starts from, as they are.
    pub from_boot_file: bool,
    /// What is worth knowing besides the warnings of the validation.
    pub notes: Vec<String>,
}

impl Live {
    /// Makes one change at a time: `prepare` says what the configuration is to be. Counts and logs it.
    ///
    /// # Errors
    /// When the terms do not hold, and everything for which a change is refused; nothing has changed then.
    pub(super) fn change(
        &self,
        what: &str,
        terms: &Terms,
        prepare: impl FnOnce() -> Result<Candidate, Failure>,
    ) -> Result<Reloaded, Failure> {
        let _one_at_a_time = lock(&self.changing);
        self.carry_out(what, terms, prepare)
    }

    /// [`Live::change`] with the lock held.
    pub(super) fn carry_out(
        &self,
        what: &str,
        terms: &Terms,
        prepare: impl FnOnce() -> Result<Candidate, Failure>,
    ) -> Result<Reloaded, Failure> {
        let began = self.clock.nanos();
        let done = self.prepared(terms, prepare);
        match done.and_then(|candidate| self.put_into_force(what, candidate, terms)) {
            Ok(mut done) => {
                done.took_millis = (self.clock.nanos() - began) / 1_000_000;
                self.reloads_applied.fetch_add(1, Ordering::Relaxed);
                tracing::info!(
                    generation = done.generation,
                    changes = done.changes.len(),
                    took_millis = done.took_millis,
                    "{what}: the configuration is in force"
                );
                Ok(done)
            }
            Err(failure) => {
                self.reloads_refused.fetch_add(1, Ordering::Relaxed);
                tracing::warn!("{what} refused: {failure}");
                Err(failure)
            }
        }
    }

    fn prepared(
        &self,
        terms: &Terms,
        prepare: impl FnOnce() -> Result<Candidate, Failure>,
    ) -> Result<Candidate, Failure> {
        let (hash, unconfirmed) = {
            let running = lock(&self.running);
            (running.hash.clone(), running.pending.is_some())
        };
        let refused = |why: &str| Failure::new(FailureKind::Refused, "configuration", why);
        if terms
            .expect
            .as_ref()
            .is_some_and(|expected| *expected != hash)
        {
            let why = format!("it was changed meanwhile: its hash is {hash}");
            return Err(refused(&why).hint("look at it again with `natgate show config`"));
        }
        if unconfirmed {
            return Err(refused("the last change is not confirmed yet")
                .hint("`natgate confirm` keeps it, `natgate rollback` takes it back"));
        }
        prepare()
    }

    fn put_into_force(
        &self,
        what: &str,
        candidate: Candidate,
        terms: &Terms,
    ) -> Result<Reloaded, Failure> {
        let before = lock(&self.running).loaded.clone();
        let file = &candidate.file;
        let refuse = |report| refused(FailureKind::Refused, file, &report);
        let loaded = config::read(candidate.texts, &before.environment)
            .and_then(Loaded::follow)
            .map_err(refuse)?;
        let loaded = loaded.with_lists_of(&before.validated, exemptions::is_bad);
        let conflicts = loaded.validated.conflicts();
        if !conflicts.is_empty() {
            let why = "it does not go with the addresses that are leased now";
            return Err(Failure::new(FailureKind::Refused, what, why).report(conflicts));
        }
        let fixed = change::needs_restart(&before.validated, &loaded.validated);
        if !fixed.is_empty() {
            return Err(change::restart_failure(what, fixed));
        }
        let changes = change::describe(&before.validated, &loaded.validated);
        let mut warnings = candidate.notes;
        warnings.extend(crate::control::runtime::warnings(&loaded));
        let generation = if changes.is_empty() {
            self.published.load().generation.0
        } else {
            let policy = self.compile(&loaded).map_err(refuse)?;
            self.open_log(&loaded.validated.log);
            self.publish(policy)
        };
        let (hash, confirm_seconds) = {
            let mut watches = lock(&self.exemptions);
            *watches = exemptions::Watches::of(&loaded, &watches, self.clock.nanos());
            let mut running = lock(&self.running);
            let past = running.present();
            running.hash = hash(&loaded.text());
            if candidate.from_boot_file {
                running.boot_hash = running.hash.clone();
            }
            running.loaded = Arc::new(loaded);
            running.file = candidate.file;
            let confirm_seconds = terms.confirm_seconds.filter(|_| !changes.is_empty());
            let system = &running.loaded.validated.system;
            match confirm_seconds {
                _ if !candidate.from_boot_file => {}
                Some(_) => unconfirmed::note(system, &running.hash, &past),
                None => unconfirmed::forget(system),
            }
            if !changes.is_empty() {
                running.record(generation, what, changes.join("; "));
                running.remember(past.clone());
            }
            running.pending = confirm_seconds.map(|seconds| Pending {
                until_nanos: self.clock.nanos() + seconds * 1_000_000_000,
                back: past,
            });
            (running.hash.clone(), confirm_seconds)
        };
        self.acknowledged()?;
        let log = lock(&self.running).loaded.validated.log.clone();
        self.settle_log(&log);
        Ok(Reloaded {
            generation,
            hash,
            changes,
            warnings,
            took_millis: 0,
            confirm_seconds,
        })
    }

    /// Puts new lists of followed files into force, by position of their exemption: a policy of their own. The caller
    /// keeps other changes away.
    pub(super) fn publish_exemptions(&self, before: &Loaded, lists: Vec<(usize, Vec<Entry>)>) {
        let mut loaded = before.clone();
        for (exempt, list) in lists {
            let rule = loaded.validated.exempts.get_mut(exempt);
            if let Some(file) = rule.and_then(|rule| rule.file.as_mut()) {
                file.list = list;
            }
        }
        let summary = change::describe(&before.validated, &loaded.validated).join("; ");
        match self.compile(&loaded) {
            Ok(policy) => {
                let generation = self.publish(policy);
                let mut running = lock(&self.running);
                running.loaded = Arc::new(loaded);
                running.record(generation, "exempt-file", summary.clone());
                tracing::info!(generation, "{summary}: its file changed");
            }
            Err(report) => tracing::error!(%report, "{summary}: no policy with the new list"),
        }
    }

    /// Compiles against the policy in force and the ports as they are.
    pub(super) fn compile(&self, loaded: &Loaded) -> Result<Policy, crate::config::Report> {
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

    pub(super) fn publish(&self, policy: Policy) -> u32 {
        let generation = policy.generation.0;
        let before = self.published.publish(Arc::new(policy));
        lock(&self.running).retire(before);
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
