//! What a restart comes back with while a change of the boot file is not confirmed.
//!
//! `natgate reload --confirm` puts the new text of the files natgate starts from into force for a while. A restart in that
//! time, or after the change was taken back, would find nothing but that text. So with `system.state_directory` what was in
//! force before is written to `INSTANCE.unconfirmed` there, with the hash of the text that it is to be run instead of. A start
//! that finds this very text in the files runs what was before it; any other text was written since, and counts. `natgate
//! confirm`, and a reload of the files without `--confirm`, remove the record.

use std::io::ErrorKind;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::holds::replace;
use super::running::{Past, hash};
use crate::config::validated::System;
use crate::config::{self, Loaded, Text};

const VERSION: u32 = 1;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    version: u32,
    /// The hash of the text of the files.
    instead_of: String,
    /// File names and contents of what was in force before.
    texts: Vec<(String, String)>,
}

/// Where the record is, if there is to be one.
fn file(system: &System) -> Option<PathBuf> {
    let directory = system.state_directory.as_ref()?;
    Some(directory.join(format!("{}.unconfirmed", system.instance)))
}

/// Writes down what is to be run instead of the text with this hash.
pub(super) fn note(system: &System, instead_of: &str, before: &Past) {
    let Some(file) = file(system) else { return };
    let record = Record {
        version: VERSION,
        instead_of: instead_of.to_owned(),
        texts: (before.texts.iter())
            .map(|text| (text.name.clone(), text.content.clone()))
            .collect(),
    };
    let text = serde_json::to_string(&record).map_err(std::io::Error::other);
    if let Err(error) = text.and_then(|text| replace(&file, &text)) {
        let file = file.display();
        tracing::error!(%file, %error, "a restart would not take the unconfirmed change back");
    }
}

/// What is in the files counts.
pub(super) fn forget(system: &System) {
    let Some(file) = file(system) else { return };
    match std::fs::remove_file(&file) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => {
            let file = file.display();
            tracing::error!(%file, %error, "a restart would take back what is confirmed");
        }
    }
}

fn record(system: &System) -> Option<Record> {
    let file = file(system)?;
    let read = match std::fs::read_to_string(&file) {
        Ok(text) => serde_json::from_str::<Record>(&text).map_err(|e| e.to_string()),
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => Err(error.to_string()),
    };
    let record = read.and_then(|record| match record.version {
        VERSION => Ok(record),
        other => Err(format!("is of version {other}, not {VERSION}")),
    });
    match record {
        Ok(record) => Some(record),
        Err(why) => {
            let file = file.display();
            tracing::error!(%file, why, "whether the files' last change was confirmed is not known");
            None
        }
    }
}

/// What a start is to run when the files say `loaded`.
pub fn recall(loaded: Loaded) -> Loaded {
    let record = record(&loaded.validated.system);
    let Some(record) = record.filter(|record| record.instead_of == hash(&loaded.text())) else {
        return loaded;
    };
    let text = |(name, content)| Text { name, content };
    let texts = record.texts.into_iter().map(text).collect();
    match config::read(texts, &loaded.environment).and_then(Loaded::follow) {
        Ok(before) => {
            tracing::warn!(
                "the last change of the configuration was not confirmed: what was before it is in force (`natgate reload` takes the file as it is)"
            );
            before
        }
        Err(report) => {
            tracing::error!(%report, "the unconfirmed change cannot be taken back");
            loaded
        }
    }
}

/// The hash of the files' text where a start runs something else.
pub fn hash_of_files(running: &Loaded) -> Option<String> {
    let record = record(&running.validated.system)?;
    let same = |text: &Text, (name, content): &(String, String)| {
        text.name == *name && text.content == *content
    };
    let mut pairs = running.texts.iter().zip(&record.texts);
    let alike = running.texts.len() == record.texts.len() && pairs.all(|(a, b)| same(a, b));
    alike.then_some(record.instead_of)
}
