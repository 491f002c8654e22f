//! What two configurations differ in, whatever they look like: a line for every object and every key that is not at its
//! default.

use std::collections::BTreeMap;

use config::{Map, Value, ValueKind};
use hashbrown::HashSet;

use super::Loaded;
use super::keys::{Key, Kind, SET, Shape, TOP};
use super::layers;
use super::report::Findings;

/// The lines that are only in one of two configurations, in the order of the language: `- ` in the first, `+ ` in the second.
/// Where the same objects stand in another order, a line says so. Empty when both say the same.
pub fn difference(from: &Loaded, to: &Loaded) -> Vec<String> {
    let (from, to) = (said(from), said(to));
    let mut lines = Vec::new();
    for (name, shape) in TOP {
        let none = Vec::new();
        for part in parts(name, shape) {
            let of = |said: &BTreeMap<String, Vec<String>>| said.get(&part).cloned();
            let (a, b) = (
                of(&from).unwrap_or_default(),
                of(&to).unwrap_or(none.clone()),
            );
            let (in_a, in_b): (HashSet<&String>, HashSet<&String>) =
                (a.iter().collect(), b.iter().collect());
            let gone = a.iter().filter(|line| !in_b.contains(line));
            lines.extend(gone.map(|line| format!("- {line}")));
            let new = b.iter().filter(|line| !in_a.contains(line));
            lines.extend(new.map(|line| format!("+ {line}")));
            let stayed_a = a.iter().filter(|line| in_b.contains(line));
            let stayed_b = b.iter().filter(|line| in_a.contains(line));
            if !stayed_a.eq(stayed_b) {
                lines.push(format!("+ {part}: other order"));
            }
        }
    }
    lines
}

/// The groups of lines of a top-level name: within each the order counts, or there is only one order.
fn parts(name: &str, shape: &Shape) -> Vec<String> {
    let mut parts = vec![name.to_owned()];
    if let Shape::Table(keys) = shape {
        let lists = keys
            .iter()
            .filter(|key| matches!(key.kind, Kind::Tables(_)));
        parts.extend(lists.map(|key| format!("{name}.{}", key.name)));
    }
    parts
}

/// What a configuration says, by part.
fn said(loaded: &Loaded) -> BTreeMap<String, Vec<String>> {
    let mut said: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut findings = Findings::default();
    let tree = layers::tree(&loaded.texts, &loaded.environment, &mut findings);
    for (name, value) in tree.unwrap_or_default() {
        let Some((_, shape)) = TOP.iter().find(|(known, _)| *known == name) else {
            continue;
        };
        match (shape, value.kind) {
            (Shape::Table(keys), ValueKind::Table(mut map)) => {
                for key in keys.iter() {
                    let Kind::Tables(inner) = key.kind else {
                        continue;
                    };
                    if let Some(ValueKind::Array(list)) = map.remove(key.name).map(|v| v.kind) {
                        let kind = format!("{name}.{}", key.name);
                        said.insert(kind.clone(), objects(&kind, &list, inner));
                    }
                }
                let keys = values(&map, keys);
                let line = |(key, value): (&str, String)| format!("{name}.{key} = {value}");
                said.insert(name.clone(), keys.into_iter().map(line).collect());
            }
            (Shape::Tables(keys), ValueKind::Array(list)) => {
                said.insert(name.clone(), objects(&name, &list, keys));
            }
            (Shape::Sets, ValueKind::Table(map)) => {
                said.insert(name.clone(), sets(&map));
            }
            (_, kind) => {
                said.insert(name.clone(), vec![format!("{name} = {}", text(&kind))]);
            }
        }
    }
    said
}

/// A line for each object: `source-nat office: in = "lan0", via = "interface"`.
fn objects(kind: &str, list: &[Value], keys: &[Key]) -> Vec<String> {
    let line = |(number, object): (usize, &Value)| {
        let ValueKind::Table(map) = &object.kind else {
            return String::new();
        };
        let values = values(map, keys);
        let rest = values.iter().filter(|(key, _)| *key != "name");
        let rest: Vec<String> = rest
            .map(|(key, value)| format!("{key} = {value}"))
            .collect();
        let name = match map.get("name").map(|name| &name.kind) {
            Some(ValueKind::String(name)) => name.clone(),
            _ => number.to_string(),
        };
        format!("{kind} {name}: {}", rest.join(", "))
    };
    (1..).zip(list).map(line).collect()
}

/// A line for each member of each set, in the order of the alphabet: a set has none of its own.
fn sets(map: &Map<String, Value>) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, set) in map {
        let ValueKind::Table(set) = &set.kind else {
            continue;
        };
        let about = values(set, SET).into_iter();
        let about = about.filter(|(key, _)| *key != "members");
        lines.extend(about.map(|(key, value)| format!("set {name}: {key} = {value}")));
        let members = match set.get("members").map(|members| &members.kind) {
            Some(ValueKind::Array(list)) => list.iter().map(|v| text(&v.kind)).collect(),
            Some(one) => vec![text(one)],
            None => Vec::new(),
        };
        if members.is_empty() {
            lines.push(format!("set {name}: nothing"));
        }
        lines.extend(members.iter().map(|member| format!("set {name}: {member}")));
    }
    lines.sort();
    lines.dedup();
    lines
}

/// The keys of a table that are not at their default, in the order of the language.
fn values<'k>(map: &Map<String, Value>, keys: &'k [Key]) -> Vec<(&'k str, String)> {
    let value = |key: &'k Key| {
        let value = map.get(key.name)?;
        let written = text(&one(&value.kind));
        let default = key.default.map(layers::default_value);
        let at_default = default.is_some_and(|default| text(&one(&default.kind)) == written);
        (!at_default).then_some((key.name, written))
    };
    keys.iter().filter_map(value).collect()
}

/// A list of one is the same as the one.
fn one(kind: &ValueKind) -> ValueKind {
    match kind {
        ValueKind::Array(list) if list.len() == 1 => list[0].kind.clone(),
        other => other.clone(),
    }
}

/// A value as TOML.
fn text(kind: &ValueKind) -> String {
    match kind {
        ValueKind::String(text) => format!("{text:?}"),
        ValueKind::Array(list) => {
            let list: Vec<String> = list.iter().map(|value| text(&value.kind)).collect();
            format!("[{}]", list.join(", "))
        }
        ValueKind::Table(map) => {
            let sorted: BTreeMap<&String, &Value> = map.iter().collect();
            let keys = sorted
                .iter()
                .map(|(key, value)| format!("{key} = {}", text(&value.kind)));
            format!("{{ {} }}", keys.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}
