//! Kinds of objects, and words of a command line as values.

use std::sync::LazyLock;

use toml_edit::{Array, Value};

use super::super::keys::{Key, Kind, Shape, TOP};
use super::super::report::hint;
use super::{EditError, missing, wrong};

/// A kind of object.
struct Kinds {
    /// `[[name]]` as `name`, `[[table.name]]` as `table.name`.
    name: String,
    /// What commands call it as well: `filter.rule` is called `filter` where no key can be meant.
    short: String,
    keys: &'static [Key],
}

/// Every kind of object.
static KINDS: LazyLock<Vec<Kinds>> = LazyLock::new(|| {
    let mut kinds = Vec::new();
    for (name, shape) in TOP {
        match shape {
            Shape::Tables(keys) => kinds.push(Kinds {
                name: (*name).to_owned(),
                short: (*name).to_owned(),
                keys,
            }),
            Shape::Table(keys) => kinds.extend(keys.iter().filter_map(|key| match key.kind {
                Kind::Tables(keys) => Some(Kinds {
                    name: format!("{name}.{}", key.name),
                    short: (*name).to_owned(),
                    keys,
                }),
                _ => None,
            })),
            _ => {}
        }
    }
    kinds
});

/// What can be added and deleted, as commands name it.
pub fn kind_names() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|kind| kind.short.as_str())
}

/// All kinds as the configuration names them.
pub(super) fn all() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|kind| kind.name.as_str())
}

/// The kind a command names, in the words of the configuration or of the listings (`port-forwards`).
pub(super) fn kind(word: &str) -> Result<(&'static str, &'static [Key]), EditError> {
    let singular = match word {
        "neighbors" | "neighbor" => "neighbour",
        _ => word.strip_suffix('s').unwrap_or(word),
    };
    let found = KINDS.iter().find(|kind| {
        let names = [kind.name.as_str(), kind.short.as_str()];
        names.contains(&word) || names.contains(&singular)
    });
    found
        .map(|kind| (kind.name.as_str(), kind.keys))
        .ok_or_else(|| {
            let known: Vec<&str> = kind_names().chain(["set", "address"]).collect();
            let why = format!("is no kind of object ({})", hint(word, &known));
            wrong(word, why)
        })
}

/// The kind at the beginning of a key of an object, and what follows: `[NAME].key` or `.NAME.key`.
pub(super) fn of_key(key: &str) -> Option<(&'static str, &'static [Key], &str)> {
    KINDS.iter().find_map(|kind| {
        let rest = key.strip_prefix(kind.name.as_str())?;
        let object = rest.starts_with('[') || rest.starts_with('.');
        object.then_some((kind.name.as_str(), kind.keys, rest))
    })
}

/// A key of a table that does not exist.
pub(super) fn unknown_key(key: &str, table: &str) -> EditError {
    let names: Vec<&str> = TOP.iter().map(|(name, _)| *name).collect();
    missing(
        key,
        format!("there is no table {table:?} ({})", hint(table, &names)),
    )
}

/// A word as a value of its kind. What does not fit the kind stays text, which is found wrong with its place when the
/// configuration is read.
///
/// # Errors
/// When it begins like TOML and is none.
pub fn value_of(kind: Kind, text: &str) -> Result<Value, String> {
    let text = text.trim();
    if text.starts_with(['"', '\'', '[', '{']) {
        let value = text.parse::<Value>();
        return value.map_err(|e| format!("{text} is not TOML: {}", e.message()));
    }
    let scalar = match kind {
        Kind::Bool => text.parse().ok().map(|flag: bool| flag.into()),
        Kind::Int(..) => text
            .replace('_', "")
            .parse()
            .ok()
            .map(|number: i64| number.into()),
        Kind::Numbers => {
            let numbers = parts(text).map(|part| part.parse::<i64>());
            let numbers: Result<Array, _> = numbers.collect();
            numbers.ok().map(Value::Array)
        }
        Kind::List if text.contains(',') => Some(Value::Array(parts(text).collect())),
        _ => None,
    };
    Ok(scalar.unwrap_or_else(|| text.into()))
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
}
