//! Configuration: one TOML file with drop-ins, turned step by step into what packets are compared with.
//!
//! ```text
//! files, environment ──layers──> Raw ──validate──> Validated ──compile──> Policy
//!    toml, spans        keys      as written         cannot be wrong
//! ```
//!
//! - `layers` parses every file with spans, lays files and environment over the defaults and compares all keys
//!   with the one list in [`keys`];
//! - [`raw`] holds the values as written; `validate` resolves names, texts and defaults into [`validated`];
//! - [`report`] collects every error with `FILE:LINE`, so that one run shows all of them;
//! - [`capacity`] is the arithmetic `natgate check` prints.

pub mod capacity;
pub mod compile;
pub mod deterministic;
mod difference;
pub mod document;
pub mod edit;
pub mod exemptions;
pub mod filtering;
mod followed;
pub mod interfaces;
pub mod keys;
mod layers;
pub mod log;
pub mod matching;
pub mod raw;
pub mod report;
pub mod services;
mod validate;
pub mod validated;
mod values;

use std::fs;
use std::path::{Path, PathBuf};

pub use capacity::Capacity;
pub use difference::difference;
pub use followed::Followed;
pub use layers::Text;
pub use report::{Diagnostic, Report, Severity, nearest};
pub use validate::pools::MOST_ADDRESSES;
pub use validated::{UNTIL_A_LEASE, Validated};

use report::Findings;

/// Where the configuration is looked for without `-c`.
pub const DEFAULT_PATH: &str = "/etc/natgate/natgate.toml";

/// A configuration that was read and found good.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it says.
    pub validated: Validated,
    /// What is legal but doubtful.
    pub warnings: Vec<Diagnostic>,
    /// The texts read, in order.
    pub texts: Vec<Text>,
    /// The environment's settings.
    pub environment: Vec<(String, String)>,
    /// The files of `[[exempt]]`, as they were found.
    pub followed: Vec<Followed>,
}

impl Loaded {
    /// All texts one after the other, each under a comment with its file's name, and the environment's settings:
    /// what `natgate show config` prints.
    pub fn text(&self) -> String {
        shown(&self.texts, &self.environment)
    }
}

/// The variables of this process's environment that set configuration keys (`NATGATE__TABLE__KEY`), for [`load`].
pub fn environment() -> Vec<(String, String)> {
    let ours = std::env::vars_os().filter_map(|(name, value)| {
        let name = name
            .into_string()
            .ok()
            .filter(|name| name.to_uppercase().starts_with("NATGATE__"))?;
        Some((name, value.to_string_lossy().into_owned()))
    });
    let mut variables: Vec<(String, String)> = ours.collect();
    variables.sort();
    variables
}

/// Reads `path`, the drop-ins next to it (`natgate.d/*.toml` for `natgate.toml`, in name order) and the
/// given environment variables.
///
/// # Errors
/// Every error of all files in one report, each as `FILE:LINE: path.to.key: what is wrong (what would be right)`.
pub fn load(path: &Path, environment: &[(String, String)]) -> Result<Loaded, Report> {
    read(texts(path)?, environment)?.follow()
}

/// The texts of a file and its drop-ins, in the order in which they count.
///
/// # Errors
/// When one cannot be read.
pub fn texts(path: &Path) -> Result<Vec<Text>, Report> {
    let mut texts = Vec::new();
    let mut unreadable = Vec::new();
    for file in &files(path)? {
        let name = file.display().to_string();
        match fs::read_to_string(file) {
            Ok(content) => texts.push(Text { name, content }),
            Err(error) => unreadable
                .extend(Report::single(&name, format!("cannot be read: {error}")).diagnostics),
        }
    }
    match unreadable.is_empty() {
        true => Ok(texts),
        false => Err(Report {
            diagnostics: unreadable,
        }),
    }
}

/// Reads a configuration from a text; `name` stands for the file in messages. No drop-ins, no environment, and no files
/// that exemptions follow: as if those did not exist.
///
/// # Errors
/// As [`load`].
pub fn parse_str(name: &str, text: &str) -> Result<Loaded, Report> {
    parse_texts(&[(name, text)], &[])
}

/// Reads a configuration from several texts, as if they were a file and its drop-ins, and environment variables.
///
/// # Errors
/// As [`load`].
pub fn parse_texts(
    texts: &[(&str, &str)],
    environment: &[(String, String)],
) -> Result<Loaded, Report> {
    let text = |(name, content): &(&str, &str)| Text {
        name: (*name).to_string(),
        content: (*content).to_string(),
    };
    read(texts.iter().map(text).collect(), environment)
}

/// Reads a configuration from its texts and environment variables. Files that exemptions follow are taken as if they did
/// not exist, until [`Loaded::follow`] reads them.
///
/// # Errors
/// As [`load`].
pub fn read(texts: Vec<Text>, environment: &[(String, String)]) -> Result<Loaded, Report> {
    let mut findings = Findings::default();
    let names: Vec<String> = texts.iter().map(|text| text.name.clone()).collect();
    // What concerns no line of its own belongs to the main file.
    findings.locate("", names.first().map_or("configuration", String::as_str));
    let raw = layers::read(&texts, environment, &mut findings);
    let validated = raw.map(|raw| validate::validate(&raw, &mut findings));
    let (validated, warnings) = findings.finish(validated, &names)?;
    Ok(Loaded {
        validated,
        warnings,
        texts,
        environment: environment.to_vec(),
        followed: Vec::new(),
    })
}

/// `path` and its drop-ins.
fn files(path: &Path) -> Result<Vec<PathBuf>, Report> {
    let mut files = vec![path.to_path_buf()];
    let directory = path.with_extension("d");
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(files),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => return Ok(files),
        Err(error) => {
            let place = directory.display().to_string();
            return Err(Report::single(&place, format!("cannot be listed: {error}")));
        }
    };
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let hidden = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'))
    };
    let mut drop_ins: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|e| e == "toml") && !hidden(path))
        .collect();
    drop_ins.sort();
    files.extend(drop_ins);
    Ok(files)
}

/// Texts one after the other, each under a comment with its file's name, and the environment's settings.
pub fn shown(texts: &[Text], environment: &[(String, String)]) -> String {
    let mut all = String::new();
    for text in texts {
        all.push_str(&format!("# {}\n{}", text.name, text.content));
        if !text.content.ends_with('\n') {
            all.push('\n');
        }
    }
    for (variable, value) in environment {
        all.push_str(&format!("# environment: {variable}={value:?}\n"));
    }
    all
}
