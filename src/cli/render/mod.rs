//! Turning answers into text: aligned columns without borders, one object a line, made for `grep` and `awk`.
//!
//! A cell never contains a space and is never empty (`-` stands for nothing), so that columns can be counted.

pub mod documents;
pub mod items;

use std::fmt::Write;

/// Rows whose widths are known before the first line is printed; later rows that are wider widen their column from there on.
const SAMPLE: usize = 256;

/// Prints rows as they come, aligned.
pub struct Columns<F: FnMut(&str)> {
    widths: Vec<usize>,
    waiting: Vec<Vec<String>>,
    started: bool,
    print: F,
}

impl<F: FnMut(&str)> Columns<F> {
    /// A table with these headings; lines go to `print` without their line feed.
    pub fn new(headings: &[&str], print: F) -> Columns<F> {
        Columns {
            widths: vec![0; headings.len()],
            waiting: vec![headings.iter().map(|h| (*h).to_owned()).collect()],
            started: false,
            print,
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        let last = cells.len().saturating_sub(1);
        let cells = cells.into_iter().enumerate();
        let tidied = cells.map(|(i, cell)| tidy(cell, i == last));
        self.waiting.push(tidied.collect());
        if self.started || self.waiting.len() > SAMPLE {
            self.flush();
        }
    }

    /// Prints what is waiting; call it after the last row.
    pub fn flush(&mut self) {
        self.started = true;
        for row in &self.waiting {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for row in std::mem::take(&mut self.waiting) {
            let line = self.line(&row);
            (self.print)(&line);
        }
    }

    /// One line: numbers to the right, words to the left, nothing after the last cell.
    fn line(&self, row: &[String]) -> String {
        let mut line = String::new();
        for (i, (cell, &width)) in row.iter().zip(&self.widths).enumerate() {
            let gap = if i == 0 { "" } else { "  " };
            let number = cell.parse::<f64>().is_ok();
            // Writing to a string does not fail.
            let _ = match number {
                true => write!(line, "{gap}{cell:>width$}"),
                false => write!(line, "{gap}{cell:<width$}"),
            };
        }
        line.truncate(line.trim_end().len());
        line
    }
}

/// A cell that can be counted: no spaces, not empty. The last may be a sentence: nothing after it is counted.
fn tidy(cell: String, last: bool) -> String {
    match cell.as_str() {
        "" => "-".to_owned(),
        text if !last && text.contains(char::is_whitespace) => {
            text.split_whitespace().collect::<Vec<_>>().join("_")
        }
        _ => cell,
    }
}

/// `key value` lines with the values below each other.
pub fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    facts
        .iter()
        .map(|(key, value)| format!("{key:<width$}  {value}\n"))
        .collect()
}

/// A table in one piece.
pub fn table(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut text = String::new();
    let mut columns = Columns::new(headings, |line| {
        text.push_str(line);
        text.push('\n');
    });
    rows.into_iter().for_each(|row| columns.row(row));
    columns.flush();
    text
}

/// Seconds as people write them: `7s`, `4m30s`, `2h4m`, `3d2h`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    let pair = |big: u64, b: &str, small: u64, s: &str| match small {
        0 => format!("{big}{b}"),
        _ => format!("{big}{b}{small}{s}"),
    };
    match whole {
        0..60 => format!("{whole}s"),
        60..3600 => pair(whole / 60, "m", whole % 60, "s"),
        3600..86_400 => pair(whole / 3600, "h", whole % 3600 / 60, "m"),
        _ => pair(whole / 86_400, "d", whole % 86_400 / 3600, "h"),
    }
}

/// A share as a percentage with one decimal; `-` of nothing.
pub fn percent(part: f64, whole: f64) -> String {
    if whole > 0.0 {
        format!("{:.1}", 100.0 * part / whole)
    } else {
        "-".into()
    }
}

/// A moment given in seconds since 1970, in UTC (`2026-11-24T14:35:24Z`).
pub fn moment(unix_seconds: u64) -> String {
    humantime::format_rfc3339_seconds(
        std::time::UNIX_EPOCH + std::time::Duration::from_secs(unix_seconds),
    )
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_can_be_counted() {
        let rows = [
            vec!["a b".into(), "5".into(), "x y".into()],
            vec!["long".into(), "1234".into(), String::new()],
        ];
        let expected = "NAME  N     WHAT\na_b      5  x y\nlong  1234  -\n";
        assert_eq!(table(&["NAME", "N", "WHAT"], rows), expected);
    }

    #[test]
    fn late_wide_rows_do_not_shift_what_was_printed() {
        let mut lines = Vec::new();
        let mut columns = Columns::new(&["A", "B"], |line| lines.push(line.to_owned()));
        (0..SAMPLE).for_each(|_| columns.row(vec!["x".into(), "y".into()]));
        columns.row(vec!["wider".into(), "y".into()]);
        columns.flush();
        assert_eq!(lines.len(), SAMPLE + 2);
        assert_eq!(
            (lines[1].as_str(), lines[SAMPLE + 1].as_str()),
            ("x  y", "wider  y")
        );
    }

    #[test]
    fn durations_and_shares_are_short() {
        let texts = [7.4, 270.0, 7440.0, 266_400.0].map(duration);
        assert_eq!(texts, ["7s", "4m30s", "2h4m", "3d2h"]);
        assert_eq!(
            (percent(1.0, 8.0), percent(0.0, 0.0)),
            ("12.5".into(), "-".into())
        );
        assert_eq!(moment(0), "1970-01-01T00:00:00Z");
    }
}
