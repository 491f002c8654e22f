//! The page docs/rfc-compliance.md: every requirement with natgate's decision, the code, and the test.
//!
//! `docs/requirements.toml` lists the requirements. Comment lines say where they are met, above the item that does it or at
//! the head of its file (`Implements: U1, G2.`), and above the test that would fail otherwise (`Proves: U1.`). The page is
//! made of both; this test fails when it is not up to date, when a requirement that is met has no code or no test, when
//! one that is planned has code, and when a line names what is not on the list.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    standard: Vec<Standard>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Standard {
    name: String,
    rows: Vec<Requirement>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Requirement {
    id: String,
    /// Where its standard says it.
    at: String,
    level: String,
    text: String,
    #[serde(flatten)]
    decision: Decision,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Decision {
    Met(String),
    Deviates(String),
    Planned(String),
}

/// Where a requirement is met, or shown to be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// From the root of the project.
    file: String,
    /// The item below the line; none for the whole file.
    item: Option<String>,
}

impl Place {
    fn link(&self) -> String {
        let shown = self.file.strip_prefix("src/").unwrap_or(&self.file);
        match &self.item {
            Some(item) => format!("[{shown}: {item}](../{})", self.file),
            None => format!("[{shown}](../{})", self.file),
        }
    }
}

/// What the lines in code and tests say, by requirement.
#[derive(Default)]
struct Annotations {
    code: BTreeMap<String, Vec<Place>>,
    tests: BTreeMap<String, Vec<Place>>,
    /// Lines that cannot be understood.
    mistakes: Vec<String>,
}

impl Annotations {
    /// Takes down the lines of one file.
    fn read(&mut self, file: &str, text: &str) {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for (number, line) in lines.iter().enumerate() {
            let Some(comment) = line.strip_prefix("//") else {
                continue;
            };
            let comment = comment.trim_start_matches(['/', '!']).trim();
            let (found, ids) = if let Some(ids) = comment.strip_prefix("Implements: ") {
                (&mut self.code, ids)
            } else if let Some(ids) = comment.strip_prefix("Proves: ") {
                (&mut self.tests, ids)
            } else {
                continue;
            };
            let proof = comment.starts_with("Proves");
            let place = Place {
                file: file.to_owned(),
                item: match line.starts_with("//!") {
                    true => None,
                    false => item_below(&lines[number + 1..]),
                },
            };
            let whole_file = line.starts_with("//!");
            let mistake = if !ids.ends_with('.') {
                Some("the line has to end with a full stop")
            } else if !whole_file && place.item.is_none() {
                Some("there is no item below")
            } else if proof && (whole_file || !is_test(file, &lines[number + 1..])) {
                Some("what is below is no test")
            } else if !proof && !file.starts_with("src/") {
                Some("code is in src")
            } else {
                None
            };
            if let Some(mistake) = mistake {
                self.mistakes
                    .push(format!("{file}:{}: {mistake}", number + 1));
                continue;
            }
            for id in ids.trim_end_matches('.').split(", ") {
                found.entry(id.to_owned()).or_default().push(place.clone());
            }
        }
    }
}

/// The lines between an annotation and its item are comments and attributes.
fn is_between(line: &str) -> bool {
    line.starts_with("//") || line.starts_with('#')
}

/// The name of the item that begins below a comment.
fn item_below(lines: &[&str]) -> Option<String> {
    let line = lines.iter().find(|line| !is_between(line))?;
    let words = |c: char| !c.is_alphanumeric() && c != '_';
    let mut words = line.split(words).filter(|word| !word.is_empty());
    let kinds = ["fn", "struct", "enum", "const", "static", "trait", "mod"];
    words.find(|word| kinds.contains(word))?;
    // A constant function is a function.
    words.find(|word| *word != "fn").map(str::to_owned)
}

/// A function that the test harness runs, or a row of the golden ones.
fn is_test(file: &str, lines: &[&str]) -> bool {
    let mut between = lines.iter().take_while(|line| is_between(line));
    between.any(|line| *line == "#[test]") || file.starts_with("tests/golden/rows")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below a directory of the project, in order.
fn sources(directory: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join(directory)];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn annotations() -> Annotations {
    let mut all = Annotations::default();
    for path in ["src", "tests"].into_iter().flat_map(sources) {
        let file = path.strip_prefix(root()).unwrap().to_str().unwrap();
        all.read(file, &std::fs::read_to_string(&path).unwrap());
    }
    all
}

fn list() -> List {
    let text = std::fs::read_to_string(root().join("docs/requirements.toml")).unwrap();
    toml::from_str(&text).unwrap()
}

/// What is wrong with the list and the annotations together.
fn mistakes(list: &List, annotations: &Annotations) -> Vec<String> {
    let mut found = annotations.mistakes.clone();
    let rows = || list.standard.iter().flat_map(|s| &s.rows);
    for (index, row) in rows().enumerate() {
        let id = &row.id;
        if rows().take(index).any(|other| other.id == *id) {
            found.push(format!("{id} is listed twice"));
        }
        let code = annotations.code.contains_key(id);
        let test = annotations.tests.contains_key(id);
        match row.decision {
            Decision::Met(_) if !code => found.push(format!("{id} is met: by what code?")),
            Decision::Met(_) if !test => found.push(format!("{id} is met: by what test?")),
            Decision::Planned(_) if code || test => {
                found.push(format!("{id} is planned, but there is code or a test"));
            }
            _ => {}
        }
    }
    for (id, places) in annotations.code.iter().chain(&annotations.tests) {
        if !rows().any(|row| row.id == *id) {
            found.push(format!("{}: there is no {id}", places[0].file));
        }
    }
    found
}

fn page(list: &List, annotations: &Annotations) -> String {
    let count = |wanted: fn(&Decision) -> bool| {
        let rows = list.standard.iter().flat_map(|s| &s.rows);
        rows.filter(|row| wanted(&row.decision)).count()
    };
    let mut out = format!(
        "# What the standards ask\n\n\
         Every requirement of the standards of address translation, what natgate decided, the code and the test that would \
         fail otherwise. {} are met; {} are not, or not as they are written, for the reason given; {} wait for something \
         else.\n\n\
         `tests/compliance.rs` makes this page of `docs/requirements.toml` and of the lines `Implements:` in the code and \
         `Proves:` at tests, and holds it against them: `NATGATE_BLESS=1 cargo test --test compliance` writes it anew.\n",
        count(|d| matches!(d, Decision::Met(_))),
        count(|d| matches!(d, Decision::Deviates(_))),
        count(|d| matches!(d, Decision::Planned(_))),
    );
    for standard in &list.standard {
        let heading = "| ID | where | level | asked | decision | code | test |\n|---|---|---|---|---|---|---|";
        writeln!(out, "\n## {}\n\n{heading}", standard.name).unwrap();
        for row in &standard.rows {
            let (kind, reason) = match &row.decision {
                Decision::Met(how) => ("met", how),
                Decision::Deviates(why) => ("**deviates**", why),
                Decision::Planned(when) => ("planned", when),
            };
            let places = |of: &BTreeMap<String, Vec<Place>>| {
                let links: Vec<String> = of
                    .get(&row.id)
                    .into_iter()
                    .flatten()
                    .map(Place::link)
                    .collect();
                if links.is_empty() {
                    "–".to_owned()
                } else {
                    links.join("<br>")
                }
            };
            let (code, tests) = (places(&annotations.code), places(&annotations.tests));
            writeln!(
                out,
                "| {} | {} | {} | {} | {kind}: {reason} | {code} | {tests} |",
                row.id, row.at, row.level, row.text
            )
            .unwrap();
        }
    }
    out
}

#[test]
fn every_requirement_has_its_decision_code_and_test() {
    let (list, annotations) = (list(), annotations());
    let found = mistakes(&list, &annotations);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
    let path = root().join("docs/rfc-compliance.md");
    let page = page(&list, &annotations);
    if std::env::var_os("NATGATE_BLESS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = page.lines().zip(written.lines()).find(|(a, b)| a != b);
    assert!(
        page == written,
        "docs/rfc-compliance.md is out of date: write it with NATGATE_BLESS=1; first difference: {differs:?}"
    );
}

#[test]
fn lines_that_say_nothing_true_are_found() {
    let list: List = toml::from_str(
        r#"
        [[standard]]
        name = "one"
        rows = [
          { id = "A", at = "", level = "", text = "", met = "" },
          { id = "B", at = "", level = "", text = "", met = "" },
          { id = "C", at = "", level = "", text = "", planned = "" },
          { id = "C", at = "", level = "", text = "", deviates = "" },
        ]
        "#,
    )
    .unwrap();
    let mut annotations = Annotations::default();
    let code = "//! Implements: A, C.\n// Implements: X.\npub const fn met() {}\n// Implements: B\nfn b() {}\n";
    annotations.read("src/one.rs", code);
    let tests = "/// Proves: B.\n/// More.\n#[test]\nfn proof() {}\n// Proves: B.\nfn none() {}\n// Implements: A.\nfn a() {}\n";
    annotations.read("tests/one.rs", tests);
    let place = |item: &str| Place {
        file: "src/one.rs".into(),
        item: Some(item.into()),
    };
    assert_eq!(annotations.code["X"], [place("met")]);
    assert_eq!(annotations.tests["B"].len(), 1);
    assert_eq!(
        mistakes(&list, &annotations),
        [
            "src/one.rs:4: the line has to end with a full stop",
            "tests/one.rs:5: what is below is no test",
            "tests/one.rs:7: code is in src",
            "A is met: by what test?",
            "B is met: by what code?",
            "C is planned, but there is code or a test",
            "C is listed twice",
            "src/one.rs: there is no X",
        ]
    );
}
