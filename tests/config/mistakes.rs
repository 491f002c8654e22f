//! Every kind of mistake: `mistakes/NAME.toml` is read as a drop-in after the base, and the report, or the warnings
//! of a legal file, must be `mistakes/NAME.txt` to the letter. `NATGATE_BLESS=1` rewrites the reports, to be read
//! before they are kept.

use std::fs;
use std::path::PathBuf;

use natgate::config::parse_texts;

use super::BASE;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/config/mistakes")
}

/// What the user sees of a file.
fn seen(text: &str) -> String {
    let lines: Vec<String> = match parse_texts(&[("base.toml", BASE), ("t.toml", text)], &[]) {
        Ok(loaded) => loaded.warnings.iter().map(ToString::to_string).collect(),
        Err(report) => vec![report.to_string()],
    };
    format!("{}\n", lines.join("\n"))
}

// Proves: U5, T5, I2.
#[test]
fn every_mistake_is_reported_with_its_place() {
    let mut files = 0;
    for entry in fs::read_dir(directory()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let report = seen(&fs::read_to_string(&path).unwrap());
        let expected = path.with_extension("txt");
        if std::env::var_os("NATGATE_BLESS").is_some() {
            fs::write(&expected, &report).unwrap();
        }
        assert_eq!(
            report,
            fs::read_to_string(&expected).unwrap(),
            "{}",
            path.display()
        );
        files += 1;
    }
    assert!(files >= 15, "only {files} files of mistakes");
}

#[test]
fn a_file_without_ports_or_schema_says_what_to_write() {
    let report = parse_texts(&[("t.toml", "")], &[]).unwrap_err().to_string();
    assert_eq!(
        report,
        "t.toml: schema: is missing (write schema = 1 at the top)\n\
         t.toml: port: is missing (write at least one [[port]] with name and device)\n\
         t.toml: interface: is missing (write at least one [[interface]] with name, port and address)"
    );
}

#[test]
fn a_syntax_error_in_one_file_does_not_hide_mistakes_in_another() {
    let report = parse_texts(
        &[
            ("a.toml", "schema = 1\n[[pool]\n"),
            ("b.toml", "[system]\nworkres = 2\n"),
        ],
        &[],
    );
    let report = report.unwrap_err().to_string();
    assert!(
        report.contains("a.toml:2: ") && report.contains("b.toml:2: system.workres"),
        "{report}"
    );
}
