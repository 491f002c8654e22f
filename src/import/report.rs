//! What an import says about its input: a line for every statement.

use std::fmt;

/// How a statement fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// It means the same here.
    Ok,
    /// Something to know; nothing differs.
    Note,
    /// The result differs, as the text says.
    Warn,
    /// It cannot be said in natgate's language; it is left out.
    Reject,
}

impl Level {
    const fn word(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Note => "note",
            Level::Warn => "warn",
            Level::Reject => "reject",
        }
    }
}

/// A line of the report, shown as `FILE:LINE: LEVEL CODE: TEXT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// `FILE:LINE`, `FILE:$.path`, or the file alone; empty for the import as a whole.
    pub place: String,
    /// How it fared.
    pub level: Level,
    /// `E-…` or `W-…`; empty where there is none.
    pub code: &'static str,
    /// What became of it, or why not.
    pub text: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.place.is_empty() {
            write!(f, "{}: ", self.place)?;
        }
        f.write_str(self.level.word())?;
        match self.code {
            "" => write!(f, " {}", self.text),
            code => write!(f, " {code}: {}", self.text),
        }
    }
}

/// The report of one import.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Its lines, in the order of the input.
    pub lines: Vec<Line>,
    /// A file is no such file, or invalid as a whole: there is no result.
    pub invalid: bool,
}

impl Report {
    fn add(&mut self, level: Level, place: &str, code: &'static str, text: impl Into<String>) {
        self.lines.push(Line {
            place: place.to_owned(),
            level,
            code,
            text: text.into(),
        });
    }

    /// The statement means the same here.
    pub fn ok(&mut self, place: &str, text: impl Into<String>) {
        self.add(Level::Ok, place, "", text);
    }

    /// Something to know.
    pub fn note(&mut self, place: &str, code: &'static str, text: impl Into<String>) {
        self.add(Level::Note, place, code, text);
    }

    /// The result differs.
    pub fn warn(&mut self, place: &str, code: &'static str, text: impl Into<String>) {
        self.add(Level::Warn, place, code, text);
    }

    /// The statement is left out.
    pub fn reject(&mut self, place: &str, code: &'static str, text: impl Into<String>) {
        self.add(Level::Reject, place, code, text);
    }

    /// The file as a whole is refused.
    pub fn refuse(&mut self, place: &str, text: impl Into<String>) {
        self.invalid = true;
        self.add(Level::Reject, place, "E-SYNTAX", text);
    }

    /// Puts the lines about a file, from the `start`th on, into the file's order; what concerns it as a whole comes last.
    pub fn sort_from(&mut self, start: usize, file: &str) {
        let line = |line: &Line| -> usize {
            let place = line.place.strip_prefix(file);
            let number = place.and_then(|rest| rest.strip_prefix(':')?.parse().ok());
            number.unwrap_or(usize::MAX)
        };
        self.lines[start..].sort_by_cached_key(line);
    }

    /// The worst level there is.
    pub fn worst(&self) -> Level {
        self.lines
            .iter()
            .map(|line| line.level)
            .max()
            .unwrap_or(Level::Ok)
    }

    /// How many lines of a level there are.
    pub fn count(&self, level: Level) -> usize {
        self.lines.iter().filter(|line| line.level == level).count()
    }
}
