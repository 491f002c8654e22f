//! What is in force, what was before it, and what waits to be confirmed.

use std::collections::VecDeque;
use std::hash::Hasher;
use std::path::PathBuf;
use std::sync::Arc;

use super::unix_seconds;
use crate::config::{Loaded, Text};
use crate::control::api::{Failure, FailureKind, HistoryEntry};
use crate::nat::policy::Policy;

/// Generations remembered.
const HISTORY: usize = 32;

/// Bytes of text that all earlier configurations together may take; the last one is kept whatever it takes.
const PAST_BYTES: usize = 64 << 20;

/// What is in force.
pub struct Running {
    /// The configuration.
    pub loaded: Arc<Loaded>,
    /// The file natgate was started with: what a reload without a file reads, and a save writes.
    pub boot_file: PathBuf,
    /// The file the configuration came from.
    pub file: PathBuf,
    /// A hash of its text, 16 hex digits.
    pub hash: String,
    /// The hash of the boot file's text when it was last read or written.
    pub boot_hash: String,
    /// What was published, oldest first.
    pub history: VecDeque<HistoryEntry>,
    /// Earlier configurations, oldest first.
    past: VecDeque<Past>,
    /// What waits to be confirmed.
    pub pending: Option<Pending>,
    /// Replaced policies that a worker may still hold.
    retired: Vec<Arc<Policy>>,
}

/// A configuration that was in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// The hash of its text.
    pub hash: String,
    /// Its texts.
    pub texts: Arc<Vec<Text>>,
    /// The file it came from.
    pub file: PathBuf,
}

/// A configuration that is taken back unless it is confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// When that happens, nanoseconds of the gateway's clock.
    pub until_nanos: u64,
    /// What comes back.
    pub back: Past,
}

impl Pending {
    /// Whether it is time.
    pub fn is_due(&self, now_nanos: u64) -> bool {
        now_nanos >= self.until_nanos
    }

    /// Seconds left, counting one that has begun.
    pub fn remaining_seconds(&self, now_nanos: u64) -> u64 {
        self.until_nanos
            .saturating_sub(now_nanos)
            .div_ceil(1_000_000_000)
    }
}

impl Running {
    /// The configuration the gateway starts with.
    pub fn new(loaded: Loaded, file: PathBuf, generation: u32) -> Running {
        let hash = hash(&loaded.text());
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
            boot_hash: hash.clone(),
            hash,
            history: VecDeque::from([entry]),
            past: VecDeque::new(),
            pending: None,
            retired: Vec::new(),
        }
    }

    /// Notes that a generation was published.
    pub fn record(&mut self, generation: u32, cause: &str, summary: String) {
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

    /// The configuration in force as one that can come back.
    pub fn present(&self) -> Past {
        Past {
            hash: self.hash.clone(),
            texts: Arc::new(self.loaded.texts.clone()),
            file: self.file.clone(),
        }
    }

    /// Remembers a configuration that was replaced.
    pub fn remember(&mut self, past: Past) {
        self.past.push_back(past);
        let bytes = |past: &Past| past.texts.iter().map(|t| t.content.len()).sum::<usize>();
        let mut all: usize = self.past.iter().map(bytes).sum();
        while self.past.len() > HISTORY || (all > PAST_BYTES && self.past.len() > 1) {
            all -= self.past.pop_front().as_ref().map_or(0, bytes);
        }
    }

    /// The configuration of a generation, or the one before the present one.
    ///
    /// # Errors
    /// When it is not remembered.
    pub fn earlier(&self, generation: Option<u32>) -> Result<Past, Failure> {
        let absent = |what: String, why: &str| {
            Failure::new(FailureKind::NotFound, what, why).hint("see `natgate show history`")
        };
        let Some(generation) = generation else {
            let last = self.past.back().cloned();
            return last
                .ok_or_else(|| absent("rollback".into(), "there is no earlier configuration"));
        };
        let what = format!("generation {generation}");
        let entry = self.history.iter().find(|e| e.generation == generation);
        let entry =
            entry.ok_or_else(|| absent(what.clone(), "there was none, or it is forgotten"))?;
        if entry.hash == self.hash {
            return Ok(self.present());
        }
        let past = self.past.iter().rfind(|past| past.hash == entry.hash);
        past.cloned()
            .ok_or_else(|| absent(what, "its text is not kept any more"))
    }

    /// Whether a restart would read another configuration.
    pub fn is_unsaved(&self) -> bool {
        self.hash != self.boot_hash
    }

    /// Keeps a replaced policy until nobody holds it any more.
    pub fn retire(&mut self, policy: Arc<Policy>) {
        self.retired.push(policy);
        self.bury();
    }

    /// Drops replaced policies that nobody holds any more; says how many are left.
    pub fn bury(&mut self) -> usize {
        self.retired.retain(|policy| Arc::strong_count(policy) > 1);
        self.retired.len()
    }
}

/// Tells texts apart in listings, and one version from another; not meant against forgery.
pub fn hash(text: &str) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_tell_texts_apart_and_stay() {
        assert_eq!(hash(""), "cbf29ce484222325");
        assert_eq!(hash("a"), "af63dc4c8601ec8c");
        assert_ne!(hash("schema = 1"), hash("schema = 2"));
    }

    fn past(hash: &str, bytes: usize) -> Past {
        let text = Text {
            name: "x".into(),
            content: " ".repeat(bytes),
        };
        Past {
            hash: hash.into(),
            texts: Arc::new(vec![text]),
            file: "x".into(),
        }
    }

    fn running() -> Running {
        let text = "schema = 1\n[[port]]\nname = \"a\"\ndevice = \"null:\"\n\
                    [[interface]]\nname = \"i\"\nport = \"a\"\n";
        Running::new(crate::config::parse_str("x", text).unwrap(), "x".into(), 1)
    }

    #[test]
    fn an_unconfirmed_change_is_due_exactly_then() {
        let pending = Pending {
            until_nanos: 60_000_000_000,
            back: past("a", 0),
        };
        assert!(!pending.is_due(59_999_999_999) && pending.is_due(60_000_000_000));
        assert_eq!(pending.remaining_seconds(0), 60);
        assert_eq!(pending.remaining_seconds(59_000_000_001), 1);
        assert_eq!(pending.remaining_seconds(70_000_000_000), 0);
    }

    #[test]
    fn the_past_is_bounded_and_its_last_always_there() {
        let mut running = running();
        assert_eq!(
            running.earlier(None).map_err(|f| f.kind),
            Err(FailureKind::NotFound)
        );
        for n in 0..40 {
            running.remember(past(&n.to_string(), 10));
        }
        assert_eq!(running.past.len(), HISTORY);
        running.remember(past("big", 2 * PAST_BYTES));
        assert_eq!(running.past.len(), 1);
        assert_eq!(running.earlier(None).unwrap().hash, "big");
    }

    #[test]
    fn generations_lead_to_their_texts() {
        let mut running = running();
        let first = running.present();
        running.remember(first.clone());
        running.hash = "second".into();
        running.record(2, "edit", String::new());
        assert_eq!(running.earlier(Some(1)), Ok(first));
        assert_eq!(running.earlier(Some(2)).unwrap().hash, "second");
        assert!(running.earlier(Some(3)).is_err());
        assert!(running.is_unsaved());
    }
}
