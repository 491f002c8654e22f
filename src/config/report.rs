//! What is wrong with a configuration: every finding in one report, each with its place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// The configuration works, but hardly as meant, or against an RFC's requirement.
    Warning,
}

/// One finding, shown as `FILE:LINE: path.to.key: what is wrong (what would be right)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// `FILE:LINE`, or the environment variable, or the file alone.
    pub place: String,
    /// The key, e.g. `pool[cgn].ports`; empty for the file as a whole.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Why a configuration was refused: all errors, then the warnings found on the way; never without an error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.diagnostics))]
pub struct Report {
    /// The findings in the order of files and lines.
    pub diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// A report of one error about a file as a whole.
    pub fn single(place: &str, message: String) -> Report {
        let diagnostic = Diagnostic {
            severity: Severity::Error,
            place: place.to_string(),
            path: String::new(),
            message,
        };
        Report {
            diagnostics: vec![diagnostic],
        }
    }

    /// The errors alone.
    pub fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        self.diagnostics
            .iter()
            .filter(|d| d.severity == Severity::Error)
    }
}

fn lines(diagnostics: &[Diagnostic]) -> String {
    let lines: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// Collects findings while a configuration is read, and knows where each key was written.
///
/// Paths are written with positions (`pool[0].addresses[1]`); the report shows names instead (`pool[cgn].addresses`).
#[derive(Debug, Default)]
pub(super) struct Findings {
    places: BTreeMap<String, String>,
    /// Places of the elements of lists, which may be many.
    elements: BTreeMap<String, Vec<String>>,
    names: BTreeMap<String, String>,
    broken: BTreeSet<String>,
    found: Vec<Diagnostic>,
}

impl Findings {
    /// Remembers where `path` was written.
    pub fn locate(&mut self, path: &str, place: &str) {
        self.places.insert(path.to_string(), place.to_string());
    }

    /// Remembers where the elements of the list at `path` were written.
    pub fn locate_elements(&mut self, path: &str, places: Vec<String>) {
        self.elements.insert(path.to_string(), places);
    }

    fn written(&self, path: &str) -> Option<&String> {
        self.places.get(path).or_else(|| {
            let (list, index) = path.strip_suffix(']')?.rsplit_once('[')?;
            self.elements.get(list)?.get(index.parse::<usize>().ok()?)
        })
    }

    /// Remembers what the object at `path` is called: its name, or its position counted from 1.
    pub fn name(&mut self, path: &str, name: &str) {
        self.names.insert(path.to_string(), name.to_string());
    }

    /// Whether the key was written at all.
    pub fn is_written(&self, path: &str) -> bool {
        self.written(path).is_some()
    }

    /// Where `path` was written, or else the nearest thing around it.
    pub fn place(&self, path: &str) -> String {
        let mut path = path;
        loop {
            if let Some(place) = self.written(path) {
                return place.clone();
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return self.places.get("").cloned().unwrap_or_default(),
            }
        }
    }

    /// An error at `path`. A second error at a key already found wrong is not added: it would only be a
    /// consequence of the first.
    pub fn error(&mut self, path: &str, message: impl Into<String>) {
        if self.is_broken(path) {
            return;
        }
        self.broken.insert(path.to_string());
        self.add(Severity::Error, path, message.into());
    }

    /// An error of a file that belongs to no key, such as a syntax error.
    pub fn error_in(&mut self, place: &str, message: &str) {
        self.found.push(Diagnostic {
            severity: Severity::Error,
            place: place.to_string(),
            path: String::new(),
            message: message.to_string(),
        });
    }

    /// A warning at `path`.
    pub fn warn(&mut self, path: &str, message: impl Into<String>) {
        self.add(Severity::Warning, path, message.into());
    }

    /// Whether an error was found at `path` itself.
    pub fn is_broken(&self, path: &str) -> bool {
        self.broken.contains(path)
    }

    fn add(&mut self, severity: Severity, path: &str, message: String) {
        let diagnostic = Diagnostic {
            severity,
            place: self.place(path),
            path: self.readable(path),
            message,
        };
        if !self.found.contains(&diagnostic) {
            self.found.push(diagnostic);
        }
    }

    /// `pool[0].addresses[1]` as `pool[cgn].addresses`: names or numbers counted from 1 for objects, nothing for
    /// the elements of plain lists.
    fn readable(&self, path: &str) -> String {
        let mut shown = String::new();
        let mut walked = String::new();
        for (depth, part) in path.split('.').enumerate() {
            if depth > 0 {
                walked.push('.');
                shown.push('.');
            }
            walked.push_str(part);
            let (key, _) = part.split_once('[').unwrap_or((part, ""));
            shown.push_str(key);
            if let Some(name) = self.names.get(&walked) {
                shown.push_str(&format!("[{name}]"));
            }
        }
        shown
    }

    /// The warnings if there was no error, else the report; both ordered by file and line.
    pub fn finish<T>(
        mut self,
        value: Option<T>,
        files: &[String],
    ) -> Result<(T, Vec<Diagnostic>), Report> {
        self.found
            .sort_by_key(|d| (d.severity, position(&d.place, files)));
        match value {
            Some(value) if self.found.iter().all(|d| d.severity == Severity::Warning) => {
                Ok((value, self.found))
            }
            _ => Err(Report {
                diagnostics: self.found,
            }),
        }
    }
}

/// Sort key of a place: position of its file, then the line. The environment comes last.
fn position(place: &str, files: &[String]) -> (usize, usize) {
    let (file, line) = place.rsplit_once(':').unwrap_or((place, ""));
    let index = files.iter().position(|f| f == file || f == place);
    (index.unwrap_or(files.len()), line.parse().unwrap_or(0))
}

/// The candidate closest to `word`, when it is close enough to be what was meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = word.to_lowercase().replace('-', "_");
    let scored = candidates.into_iter().map(|candidate| {
        let score =
            strsim::damerau_levenshtein(&folded, &candidate.to_lowercase().replace('-', "_"));
        (score, candidate)
    });
    let (score, best) = scored.min_by_key(|(score, _)| *score)?;
    (score <= 1.max(word.chars().count() / 3)).then_some(best)
}

/// `(did you mean "x"?)`, or the list of what there is.
pub(super) fn hint(word: &str, candidates: &[&str]) -> String {
    match nearest(word, candidates.iter().copied()) {
        Some(best) => format!("did you mean {best:?}?"),
        None if candidates.is_empty() => "there is none".to_string(),
        None => format!("there is {}", candidates.join(", ")),
    }
}
