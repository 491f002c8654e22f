//! Following the files of `[[exempt]]` while natgate runs.
//!
//! The housekeeping thread looks at every file several times a second without reading it. One that changed is read at the
//! next look, when it has stopped changing; each is read again at its interval in any case. A list that differs is
//! published like any other policy. A file that cannot be used changes nothing: the last good list stays in force, and
//! listing, metrics and log say since when and why.

use std::time::Duration;

use super::{Live, lock, unix_seconds};
use crate::config::Loaded;
use crate::config::exemptions::{Entry, ExemptFile, Fingerprint};
use crate::control::api::ExemptFileState;

/// A followed file.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Position of its exemption.
    exempt: usize,
    /// Name of its exemption.
    name: String,
    /// The file and how to read it; its list is not kept here.
    file: ExemptFile,
    /// Its version at the last look.
    seen: Fingerprint,
    /// It differed at the last look.
    changing: bool,
    /// How often to read it: what it said itself when it was last good, else what the configuration says.
    resync: Duration,
    /// When to read it in any case, nanoseconds of the clock.
    due: u64,
    /// When it was last read and found good, seconds since 1970.
    good_since: Option<u64>,
    /// Since when it has not been good, and why.
    stale: Option<(u64, String)>,
    /// Readings that found it bad.
    errors: u64,
}

/// All followed files.
#[derive(Clone, Debug, Default)]
pub struct Watches(Vec<Watch>);

impl Watches {
    /// The files of a configuration that was just read. What `before` knew of a file goes on.
    pub fn of(loaded: &Loaded, before: &Watches, now: u64) -> Watches {
        let watch = |followed: &crate::config::Followed| {
            let rule = loaded.validated.exempts.get(followed.exempt)?;
            let file = rule.file.as_ref()?;
            let known = before
                .0
                .iter()
                .find(|w| w.name == rule.label.name && w.file.is_like(file));
            let stale_since = known
                .and_then(|w| w.stale.as_ref())
                .map_or_else(unix_seconds, |s| s.0);
            let problem = followed.problem.clone();
            let resync = match (&problem, known) {
                (Some(_), Some(known)) => known.resync,
                _ => followed.resync,
            };
            if let Some(why) = &problem {
                tracing::warn!(exempt = rule.label.name, "exemption file not usable: {why}");
            }
            Some(Watch {
                exempt: followed.exempt,
                name: rule.label.name.clone(),
                seen: followed.fingerprint.clone(),
                changing: false,
                resync,
                due: now.saturating_add(nanos(resync)),
                good_since: match problem {
                    None => Some(unix_seconds()),
                    Some(_) => known.and_then(|w| w.good_since),
                },
                errors: known.map_or(0, |w| w.errors) + u64::from(problem.is_some()),
                stale: problem.map(|why| (stale_since, why)),
                file: ExemptFile {
                    list: Vec::new(),
                    ..file.clone()
                },
            })
        };
        Watches(loaded.followed.iter().filter_map(watch).collect())
    }

    /// What an operator wants to know of each file.
    pub fn states(&self) -> Vec<ExemptFileState> {
        let state = |w: &Watch| ExemptFileState {
            exempt: w.name.clone(),
            path: w.file.path.display().to_string(),
            format: w.file.format.name().to_owned(),
            good_since_unix_seconds: w.good_since,
            stale_since_unix_seconds: w.stale.as_ref().map(|s| s.0),
            problem: w.stale.as_ref().map(|s| s.1.clone()),
            errors: w.errors,
        };
        self.0.iter().map(state).collect()
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Whether the file of an exemption could not be used: then the list in force stays.
pub fn is_bad(loaded: &Loaded, exempt: usize) -> bool {
    let mut followed = loaded.followed.iter();
    followed.any(|file| file.exempt == exempt && file.problem.is_some())
}

impl Watch {
    /// Looks at the file; reads it when it has changed and come to rest, or when its time has come. Its list, if it was
    /// read and good.
    fn look(&mut self, ipv6: bool, now: u64) -> Option<Vec<Entry>> {
        let seen = self.file.fingerprint();
        if seen != self.seen {
            self.seen = seen;
            self.changing = true;
            if now < self.due {
                return None;
            }
        }
        if !self.changing && now < self.due {
            return None;
        }
        self.changing = false;
        let read = self.file.read(ipv6);
        if let Ok(list) = &read {
            self.resync = list.resync;
        }
        self.due = now.saturating_add(nanos(self.resync));
        let (name, path) = (&self.name, self.file.path.display());
        match read {
            Ok(list) => {
                if self.stale.take().is_some() {
                    tracing::info!(exempt = name, %path, "exemption file is good again");
                }
                self.good_since = Some(unix_seconds());
                Some(list.entries)
            }
            Err(mistakes) => {
                let why = mistakes.join("; ");
                self.errors += 1;
                let (since, before) = self.stale.take().unwrap_or((unix_seconds(), String::new()));
                if before != why {
                    tracing::warn!(
                        exempt = name,
                        "exemption file not usable, the last good list stays: {why}"
                    );
                }
                self.stale = Some((since, why));
                None
            }
        }
    }
}

impl Live {
    /// Looks at every followed file, and puts what changed into force. While another change is being made, the files
    /// wait for the next look.
    pub fn watch_exemptions(&self) {
        let Ok(_one_at_a_time) = self.changing.try_lock() else {
            return;
        };
        let now = self.clock.nanos();
        let running = lock(&self.running).loaded.clone();
        let ipv6 = running.validated.has_ipv6();
        let in_force = |at: usize| {
            running
                .validated
                .exempts
                .get(at)
                .and_then(|rule| rule.file.as_ref())
        };
        let mut lists = Vec::new();
        for watch in &mut lock(&self.exemptions).0 {
            let list = watch.look(ipv6, now);
            lists.extend(
                list.filter(|list| in_force(watch.exempt).is_some_and(|f| f.list != *list))
                    .map(|list| (watch.exempt, list)),
            );
        }
        if !lists.is_empty() {
            self.publish_exemptions(&running, lists);
        }
    }
}
