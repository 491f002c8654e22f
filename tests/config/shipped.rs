//! The files in `configs/`: the examples are correct, and `default.toml` says what the code does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::collections::BTreeSet;

use natgate::config::capacity::Capacity;
use natgate::config::keys::{Key, Kind, Shape, TOP};
use natgate::config::{self, Loaded};

fn shipped(name: &str) -> String {
    let path = format!("{}/configs/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn correct(name: &str, text: &str) -> Loaded {
    config::parse_str(name, text).unwrap_or_else(|report| panic!("{report}"))
}

#[test]
fn the_examples_are_correct() {
    for name in [
        "masquerade.toml",
        "cgnat.toml",
        "example-a.toml",
        "example-b.toml",
        "example-c.toml",
    ] {
        let loaded = correct(name, &shipped(name));
        let warnings: Vec<&str> = loaded.warnings.iter().map(|w| w.message.as_str()).collect();
        let expected: &[&str] = match name {
            "example-a.toml" => &["the address of interface internet is unknown until a lease"],
            _ => &[],
        };
        assert_eq!(warnings, expected, "{name}");
    }
    let masquerade = shipped("masquerade.toml");
    let lines = masquerade
        .lines()
        .filter(|line| !line.starts_with('#'))
        .count();
    assert!(lines <= 10, "the ten-line gateway has {lines} lines");
}

#[test]
fn example_b_has_the_arithmetic_of_a_carrier() {
    let loaded = correct("example-b.toml", &shipped("example-b.toml"));
    let capacity = Capacity::of(&loaded.validated);
    let cgn = &capacity.pools[0];
    assert_eq!(
        (cgn.addresses, cgn.ports_per_address, cgn.blocks_per_address),
        (63, 64_512, 126)
    );
    assert_eq!(
        (cgn.ports_per_host, cgn.subscribers_per_address),
        (Some(2048), Some(126))
    );
    let shown = capacity.to_string();
    assert!(
        shown.contains("63 addresses × 126 blocks of 512 ports = 7938 blocks"),
        "{shown}"
    );
}

/// `default.toml` with every setting in force, line numbers unchanged.
fn uncommented() -> String {
    let setting = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.is_empty() && !setting.starts_with(' ') => setting.to_string(),
        _ => line.to_string(),
    };
    let lines: Vec<String> = shipped("default.toml").lines().map(setting).collect();
    lines.join("\n")
}

fn known(prefix: &str, keys: &[Key], all: &mut BTreeSet<String>) {
    for key in keys {
        let path = format!("{prefix}.{}", key.name);
        match key.kind {
            Kind::Later => continue,
            Kind::Inline(inner) | Kind::Tables(inner) => known(&path, inner, all),
            _ => {}
        }
        all.insert(path);
    }
}

fn collect(prefix: &str, value: &toml::Value, all: &mut BTreeSet<String>) {
    match value {
        toml::Value::Table(table) => {
            for (name, value) in table {
                let path = format!("{prefix}.{name}");
                collect(&path, value, all);
                all.insert(path);
            }
        }
        toml::Value::Array(list) => list
            .iter()
            .for_each(|element| collect(prefix, element, all)),
        _ => {}
    }
}

#[test]
fn default_toml_names_every_key_and_no_other() {
    let (mut in_code, mut in_file) = (BTreeSet::new(), BTreeSet::new());
    for (name, shape) in TOP {
        match shape {
            Shape::Table(keys) | Shape::Tables(keys) => known(name, keys, &mut in_code),
            Shape::Value(_) | Shape::Sets => drop(in_code.insert((*name).to_string())),
        }
    }
    let file: toml::Table = uncommented().parse().unwrap();
    for (name, value) in &file {
        match TOP.iter().find(|(known, _)| known == name) {
            None => panic!("default.toml has {name}, which the code does not know"),
            Some((_, Shape::Value(_) | Shape::Sets)) => drop(in_file.insert(name.clone())),
            Some(_) => collect(name, value, &mut in_file),
        }
    }
    let missing: Vec<_> = in_code.difference(&in_file).collect();
    let unknown: Vec<_> = in_file.difference(&in_code).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "missing in default.toml: {missing:?}; unknown: {unknown:?}"
    );
}

#[test]
fn default_toml_is_correct_when_everything_in_it_is_used() {
    let loaded = correct("default.toml", &uncommented());
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
}

// Proves: U5c, T5, I2, U10.
#[test]
fn default_toml_states_the_defaults() {
    let whole = uncommented();
    let all = correct("default.toml", &whole).validated;
    let lines: Vec<&str> = whole.lines().collect();
    let (mut table, mut checked) = (String::new(), BTreeSet::new());
    for (index, line) in lines.iter().enumerate() {
        if line.starts_with('[') {
            table = line.trim_matches(['[', ']']).to_string();
        }
        let Some(key) = key_of(&table, line) else {
            continue;
        };
        let path = format!("{table}.{}", key.name);
        // A table's first example object stands for its defaults.
        let Some(default) = key.default.filter(|_| !checked.contains(&path)) else {
            continue;
        };
        let (_, written) = line.split_once('=').unwrap();
        let value = |text: &str| format!("x = {text}").parse::<toml::Table>().unwrap();
        assert_eq!(value(written), value(default), "line {}: {path}", index + 1);

        // Without the line the code must come to the same: then what the file states is what happens.
        let mut fewer = lines.clone();
        fewer[index] = "";
        assert_eq!(
            correct("default.toml", &fewer.join("\n")).validated,
            all,
            "line {}: {path}",
            index + 1
        );
        checked.insert(path);
    }
    for (table, keys) in tables() {
        for key in keys.iter().filter(|key| key.default.is_some()) {
            let path = format!("{table}.{}", key.name);
            assert!(
                checked.contains(&path),
                "the default of {path} was not compared"
            );
        }
    }
}

/// Every table with its keys; `filter.rule` is a list of tables within a table.
fn tables() -> Vec<(String, &'static [Key])> {
    let mut all = Vec::new();
    for (table, shape) in TOP {
        let (Shape::Table(keys) | Shape::Tables(keys)) = shape else {
            continue;
        };
        all.push(((*table).to_string(), *keys));
        for key in *keys {
            if let Kind::Tables(inner) = key.kind {
                all.push((format!("{table}.{}", key.name), inner));
            }
        }
    }
    all
}

fn key_of(table: &str, line: &str) -> Option<&'static Key> {
    let (name, _) = line.split_once(" = ")?;
    let (_, keys) = tables().into_iter().find(|(known, _)| known == table)?;
    keys.iter().find(|key| key.name == name)
}
