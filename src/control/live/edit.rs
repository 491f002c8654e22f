//! Ways to another configuration: reading files, editing the running one, going back; and comparing.

use super::apply::Candidate;
use super::running::{Past, Running};
use super::{Live, lock, unconfirmed};
use crate::config::edit::{Documents, Edit, EditError, client_origin};
use crate::config::{self, Loaded, difference};
use crate::control::api::{
    DiffRequest, Difference, EditRequest, Failure, FailureKind, ReloadRequest, Reloaded,
    RollbackRequest, Terms,
};
use crate::control::runtime::refused;
use std::path::Path;

/// The client of edits that name none.
const CLIENT: &str = "cli";

/// After a configuration could not be taken back, the next attempt waits so long.
const RETRY_NANOS: u64 = 10_000_000_000;

/// An edit that cannot be made, as the answer to it.
fn failure(error: EditError) -> Failure {
    let kind = match error.missing {
        true => FailureKind::NotFound,
        false => FailureKind::Usage,
    };
    Failure::new(kind, error.key, error.why)
}

impl Live {
    /// Reads files and puts them into force; objects that clients added stay as they run.
    pub(super) fn reload_file(&self, request: &ReloadRequest) -> Result<Reloaded, Failure> {
        self.change("reload", &request.terms, || {
            let (running, boot_file) = {
                let running = lock(&self.running);
                (running.loaded.clone(), running.boot_file.clone())
            };
            let file = request.file.as_ref().unwrap_or(&boot_file).clone();
            let report = |report| refused(FailureKind::Refused, &file, &report);
            let files = config::texts(&file).map_err(report)?;
            let (texts, notes) = match Documents::reloaded(&files, &running.texts) {
                Ok((texts, passed_over)) => {
                    let note = |name| {
                        format!("{name} is in the file and not running: a reload leaves clients' objects alone")
                    };
                    (texts, passed_over.into_iter().map(note).collect())
                }
                // Reading the texts reports every error with its line.
                Err(_) => (files.clone(), Vec::new()),
            };
            Ok(Candidate {
                from_boot_file: file == boot_file && texts == files,
                texts,
                file,
                notes,
            })
        })
    }

    /// Edits the running configuration.
    pub(super) fn edit_running(&self, request: &EditRequest) -> Result<Reloaded, Failure> {
        let origin = client_origin(request.client.as_deref().unwrap_or(CLIENT));
        self.change("edit", &request.terms, || {
            let (running, file) = {
                let running = lock(&self.running);
                (running.loaded.clone(), running.file.clone())
            };
            let mut documents = Documents::of(&running.texts).map_err(failure)?;
            for edit in &request.edits {
                outside_the_environment(edit, &running)?;
                documents.apply(edit, &origin).map_err(failure)?;
            }
            Ok(Candidate {
                texts: documents.texts(),
                file,
                from_boot_file: false,
                notes: Vec::new(),
            })
        })
    }

    /// Puts an earlier configuration into force, whole: files' and clients' objects. What waits to be confirmed is taken back.
    pub(super) fn roll_back(&self, request: &RollbackRequest) -> Result<Reloaded, Failure> {
        let _one_at_a_time = lock(&self.changing);
        let pending = match request.generation {
            Some(_) => None,
            None => lock(&self.running).pending.take(),
        };
        let done = self.carry_out("rollback", &request.terms, || {
            let running = lock(&self.running);
            let past = match &pending {
                Some(pending) => pending.back.clone(),
                None => running.earlier(request.generation)?,
            };
            Ok(earlier(past, &running))
        });
        if done.is_err() && pending.is_some() {
            lock(&self.running).pending = pending;
        }
        done
    }

    /// Takes a configuration back that nobody confirmed in time.
    pub fn take_back_unconfirmed(&self, now_nanos: u64) {
        let due = |running: &Running| {
            running
                .pending
                .as_ref()
                .is_some_and(|p| p.is_due(now_nanos))
        };
        if !due(&lock(&self.running)) {
            return;
        }
        let _one_at_a_time = lock(&self.changing);
        // Confirmed while this waited for the lock?
        let pending = {
            let mut running = lock(&self.running);
            if !due(&running) {
                return;
            }
            running.pending.take()
        };
        let Some(mut pending) = pending else {
            return;
        };
        tracing::warn!("the last change was not confirmed in time and is taken back");
        let back = pending.back.clone();
        let done = self.carry_out("unconfirmed", &Terms::default(), || {
            Ok(earlier(back, &lock(&self.running)))
        });
        if done.is_err() {
            pending.until_nanos = now_nanos + RETRY_NANOS;
            lock(&self.running).pending = Some(pending);
        }
    }

    /// Keeps what would be taken back.
    pub(super) fn keep(&self) -> Result<Reloaded, Failure> {
        let _one_at_a_time = lock(&self.changing);
        let mut running = lock(&self.running);
        if running.pending.take().is_none() {
            return Err(Failure::new(
                FailureKind::NotFound,
                "confirm",
                "no change waits to be confirmed",
            ));
        }
        unconfirmed::forget(&running.loaded.validated.system);
        tracing::info!("the last change is confirmed");
        Ok(Reloaded {
            generation: self.published.load().generation.0,
            hash: running.hash.clone(),
            ..Reloaded::default()
        })
    }

    /// Compares a file or an earlier configuration with the running one.
    pub(super) fn compare(&self, request: &DiffRequest) -> Result<Difference, Failure> {
        let (running, file, earlier) = {
            let running = lock(&self.running);
            let file = request.file.as_ref().unwrap_or(&running.boot_file).clone();
            let earlier = request.generation.map(|n| running.earlier(Some(n)));
            (running.loaded.clone(), file, earlier.transpose()?)
        };
        let other = other(&file, earlier, &running)?;
        let lines = difference(&running, &other);
        Ok(Difference {
            equal: lines.is_empty(),
            lines,
        })
    }
}

fn other(file: &Path, earlier: Option<Past>, running: &Loaded) -> Result<Loaded, Failure> {
    let texts = match earlier {
        Some(past) => Ok(past.texts.to_vec()),
        None => config::texts(file),
    };
    let read = texts.and_then(|texts| config::read(texts, &running.environment));
    // What a followed file says is none of the configuration's text.
    let read = read.map(|other| other.with_lists_of(&running.validated, |_, _| true));
    read.map_err(|report| refused(FailureKind::Refused, file, &report))
}

/// An earlier configuration as the next one.
fn earlier(past: Past, running: &Running) -> Candidate {
    Candidate {
        from_boot_file: past.hash == running.boot_hash,
        texts: past.texts.to_vec(),
        file: past.file,
        notes: Vec::new(),
    }
}

/// A key that the environment decides cannot be set.
fn outside_the_environment(edit: &Edit, running: &Loaded) -> Result<(), Failure> {
    let Edit::Set { key, .. } = edit else {
        return Ok(());
    };
    let names = |variable: &str| {
        let name = variable.to_lowercase().replace("__", ".");
        name.strip_prefix("natgate.")
            .is_some_and(|name| name == key)
    };
    match running
        .environment
        .iter()
        .find(|(variable, _)| names(variable))
    {
        None => Ok(()),
        Some((variable, value)) => Err(Failure::new(
            FailureKind::Refused,
            key.clone(),
            format!("the environment decides it: {variable}={value:?}"),
        )
        .hint("start natgate without the variable")),
    }
}
