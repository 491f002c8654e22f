//! Puts every mutant into one copy of the source, to be chosen at run time.
//!
//! `weave SOURCE TARGET < work.json > woven.json`: reads the Rust files below `SOURCE`, weaves the mutants that `work.json`
//! lists into them, and writes them below `TARGET`. An expression with mutants becomes
//! `(if crate::mutants::is(7) { a - b } else { a + b })`, a function's body the same in braces; a match arm gets a guard.
//! Only one mutant lives at a time, so the variants themselves are original text and the copy grows little.

mod places;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// What to weave.
#[derive(Deserialize)]
struct Work {
    mutants: Vec<Mutant>,
    /// Functions, as `Type::name` or `name`, that the compiler itself calls: they stay `const`, without mutants.
    constant: BTreeSet<String>,
}

/// A mutant as cargo-mutants lists it.
#[derive(Deserialize)]
pub struct Mutant {
    /// Its number, from 1.
    pub number: u32,
    /// Relative to the project.
    pub file: String,
    /// `BinaryOperator`, `FnValue`…
    pub genre: String,
    /// What stands there instead.
    pub replacement: String,
    /// Where its span begins, both from 1.
    pub line: usize,
    /// In characters.
    pub column: usize,
}

/// What was woven.
#[derive(Default, Serialize)]
struct Answer {
    woven: Vec<Woven>,
    /// Numbers of those that no compiler would take.
    impossible: Vec<u32>,
}

/// Where a mutant stands in the copy.
#[derive(Serialize)]
struct Woven {
    number: u32,
    file: String,
    /// Lines of the copy that belong to this mutant alone.
    first: usize,
    last: usize,
    /// The function around it, to know it again when others change.
    function: String,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let source = arguments.next().context("where is the source?")?;
    let target = arguments.next().context("where does the copy go?")?;
    let work: Work = serde_json::from_reader(std::io::stdin())?;
    let mut by_file: BTreeMap<&str, Vec<&Mutant>> = BTreeMap::new();
    for mutant in &work.mutants {
        by_file.entry(&mutant.file).or_default().push(mutant);
    }
    let mut files = Vec::new();
    rust_files(&source, &mut files)?;
    let mut answer = Answer::default();
    for path in files {
        let name = path.strip_prefix(&source)?;
        let text = std::fs::read_to_string(&path)?;
        let file = Path::new("src").join(name).display().to_string();
        let mutants = by_file.get(file.as_str()).map_or(&[][..], |list| list);
        let places = places::find(&text, mutants, &work.constant)
            .with_context(|| format!("cannot parse {file}"))?;
        answer.impossible.extend(&places.impossible);
        let copy = text::render(&text, &places);
        for (number, first, last) in text::marked_lines(&copy) {
            let function = places.functions.get(&number).cloned().unwrap_or_default();
            answer.woven.push(Woven {
                number,
                file: file.clone(),
                first,
                last,
                function,
            });
        }
        write_if_changed(&target.join(name), &copy)?;
    }
    serde_json::to_writer(std::io::stdout(), &answer)?;
    Ok(())
}

/// All Rust files below `directory`.
fn rust_files(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, files)?;
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// Leaves a file alone that is as it should be, so that nothing is built anew for it.
fn write_if_changed(path: &Path, text: &str) -> Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    Ok(std::fs::write(path, text)?)
}
