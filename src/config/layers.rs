//! From texts to one tree: files and environment laid over the defaults.
//!
//! ```text
//! defaults (keys)  <  natgate.toml  <  natgate.d/*.toml in name order  <  NATGATE__TABLE__KEY
//! ```
//!
//! Each text is first parsed with spans, so that every value knows its `FILE:LINE` (the `origin` of the `config`
//! crate's values), and compared with the list of keys. Tables merge, arrays of tables append, except that an
//! `[[interface]]` without a port adds to that of its name in an earlier file. What is wrong is reported and left out, so that the rest can still be checked.

mod environment;

use std::collections::BTreeMap;

use config::{Config, Map, Source, Value, ValueKind};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{Key, Kind, PROTOCOLS, SET, Shape, TOP};
use super::raw::Raw;
use super::report::{Findings, hint, nearest};
use super::values;

/// A configuration text and the name it is reported under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// File name as shown to the user.
    pub name: String,
    /// Its content.
    pub content: String,
}

/// One layer for the `config` crate.
#[derive(Clone, Debug)]
struct Layer(Map<String, Value>);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.0.clone())
    }
}

/// Reads all texts and the environment into one [`Raw`]. `None` if a text is not TOML at all, or no default
/// could be applied; the findings then hold the reason.
pub(super) fn read(
    texts: &[Text],
    environment: &[(String, String)],
    findings: &mut Findings,
) -> Option<Raw> {
    let tree = tree(texts, environment, findings)?;
    deserialize(tree, findings)
}

/// All texts and the environment laid over the defaults, as one tree.
pub(super) fn tree(
    texts: &[Text],
    environment: &[(String, String)],
    findings: &mut Findings,
) -> Option<Map<String, Value>> {
    let mut builder = Config::builder();
    let mut lists: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut parsed = true;
    for text in texts {
        let Some(table) = parse(text, findings) else {
            parsed = false;
            continue;
        };
        let mut layer = Map::new();
        for (name, value) in table {
            check_top(&name, value, &mut layer, &mut lists, findings);
        }
        builder = builder.add_source(Layer(layer));
    }
    let mut list_layer = Map::new();
    for (path, elements) in lists {
        let list = Value::new(None, ValueKind::Array(elements));
        match path.split_once('.') {
            None => drop(list_layer.insert(path, list)),
            Some((table, key)) => {
                let table_of_list = Map::from_iter([(key.to_string(), list)]);
                let table_of_list = Value::new(None, ValueKind::Table(table_of_list));
                list_layer.insert(table.to_string(), table_of_list);
            }
        }
    }
    builder = builder.add_source(Layer(list_layer));
    let scalars = environment::scalars(environment, findings);
    builder = builder.add_source(Layer(scalars));
    if !parsed {
        return None;
    }
    let tree = match builder.build().and_then(|merged| merged.collect()) {
        Ok(tree) => tree,
        Err(error) => {
            findings.error("", error.to_string());
            return None;
        }
    };
    check_schema(&tree, findings);
    Some(with_defaults(tree))
}

/// Parses one text; syntax errors are all reported, each with its line.
fn parse(text: &Text, findings: &mut Findings) -> Option<BTreeMap<String, Value>> {
    let (document, errors) = DeTable::parse_recoverable(&text.content);
    let lines = Lines::new(text);
    for error in &errors {
        let offset = error.span().map_or(0, |span| span.start);
        findings.error_in(&lines.place(offset), error.message());
    }
    if !errors.is_empty() {
        return None;
    }
    let mut table = BTreeMap::new();
    for (name, value) in document.into_inner() {
        let place = lines.place(name.span().start);
        table.insert(
            name.into_inner().into_owned(),
            convert(value, &place, &lines),
        );
    }
    Some(table)
}

/// Turns byte offsets into `FILE:LINE`.
struct Lines<'a> {
    name: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(text: &'a Text) -> Lines<'a> {
        let breaks = text.content.match_indices('\n').map(|(at, _)| at + 1);
        Lines {
            name: &text.name,
            starts: std::iter::once(0).chain(breaks).collect(),
        }
    }

    fn place(&self, offset: usize) -> String {
        let line = self.starts.partition_point(|&start| start <= offset);
        format!("{}:{line}", self.name)
    }
}

/// A parsed value as a value of the `config` crate that knows its place.
fn convert(value: Spanned<DeValue<'_>>, place: &str, lines: &Lines<'_>) -> Value {
    let kind = match value.into_inner() {
        DeValue::String(text) => ValueKind::String(text.into_owned()),
        DeValue::Integer(number) => match values::integer(&number) {
            Some(number) => ValueKind::I64(number),
            // Kept as text that no kind accepts, so that the check of kinds reports it.
            None => ValueKind::Nil,
        },
        DeValue::Float(number) => number
            .as_str()
            .parse()
            .map_or(ValueKind::Nil, ValueKind::Float),
        DeValue::Boolean(flag) => ValueKind::Boolean(flag),
        DeValue::Datetime(_) => ValueKind::Nil,
        DeValue::Array(elements) => {
            let convert_element = |element: Spanned<DeValue<'_>>| {
                let place = lines.place(element.span().start);
                convert(element, &place, lines)
            };
            ValueKind::Array(elements.into_iter().map(convert_element).collect())
        }
        DeValue::Table(table) => {
            let mut map = Map::new();
            for (name, value) in table {
                let place = lines.place(name.span().start);
                map.insert(
                    name.into_inner().into_owned(),
                    convert(value, &place, lines),
                );
            }
            ValueKind::Table(map)
        }
    };
    Value::new(Some(&place.to_string()), kind)
}

/// Checks one top-level value and files it: tables into the file's layer, elements of `[[x]]` into the lists.
fn check_top(
    name: &str,
    value: Value,
    layer: &mut Map<String, Value>,
    lists: &mut BTreeMap<String, Vec<Value>>,
    findings: &mut Findings,
) {
    let place = value.origin().unwrap_or_default().to_string();
    let Some((_, shape)) = TOP.iter().find(|(known, _)| *known == name) else {
        let names: Vec<&str> = TOP.iter().map(|(known, _)| *known).collect();
        findings.locate(name, &place);
        findings.error(
            name,
            format!("unknown table or key ({})", hint(name, &names)),
        );
        return;
    };
    // The first place a table is opened stands for the table; its keys have places of their own.
    if !findings.is_written(name) || matches!(shape, Shape::Value(_)) {
        findings.locate(name, &place);
    }
    match (shape, value.kind.clone()) {
        (Shape::Value(kind), _) => {
            if check_value(name, &value, *kind, findings) {
                layer.insert(name.to_string(), value);
            }
        }
        (Shape::Table(keys), ValueKind::Table(mut map)) => {
            for key in keys.iter() {
                let Kind::Tables(inner) = key.kind else {
                    continue;
                };
                if let Some(list) = map.remove(key.name) {
                    file_list(
                        &format!("{name}.{}", key.name),
                        list,
                        inner,
                        lists,
                        findings,
                    );
                }
            }
            let map = check_table(name, map, keys, findings);
            layer.insert(
                name.to_string(),
                Value::new(Some(&place), ValueKind::Table(map)),
            );
        }
        (Shape::Sets, ValueKind::Table(map)) => {
            let mut kept = Map::new();
            for (set, value) in map {
                if let Some(value) = check_set(&format!("{name}.{set}"), value, findings) {
                    kept.insert(set, value);
                }
            }
            layer.insert(
                name.to_string(),
                Value::new(Some(&place), ValueKind::Table(kept)),
            );
        }
        (Shape::Tables(keys), _) => file_list(name, value, keys, lists, findings),
        (_, _) => findings.error(name, format!("is a table (write [{name}])")),
    }
}

/// A set as a table, whether written as a list or as a table with `members`.
fn check_set(path: &str, value: Value, findings: &mut Findings) -> Option<Value> {
    locate(path, &value, findings);
    let origin = value.origin().map(str::to_string);
    let map = match value.kind {
        ValueKind::Table(map) => {
            let map = check_table(path, map, SET, findings);
            match map.get("members") {
                Some(members) => locate(path, members, findings),
                None => {
                    let message = "is missing or wrong (list the set's prefixes)";
                    findings.error(&format!("{path}.members"), message);
                    return None;
                }
            }
            map
        }
        _ => {
            if !check_value(path, &value, Kind::List, findings) {
                return None;
            }
            Map::from_iter([("members".to_string(), value)])
        }
    };
    Some(Value::new(origin.as_ref(), ValueKind::Table(map)))
}

/// Files the elements of a `[[path]]` behind those of earlier files.
fn file_list(
    path: &str,
    value: Value,
    keys: &[Key],
    lists: &mut BTreeMap<String, Vec<Value>>,
    findings: &mut Findings,
) {
    let place = value.origin().unwrap_or_default().to_string();
    let ValueKind::Array(elements) = value.kind else {
        return findings.error(path, format!("is a list of tables (write [[{path}]])"));
    };
    let list = lists.entry(path.to_string()).or_default();
    for element in elements {
        let extended = extended(path, &element, list);
        let path_of_element = format!("{path}[{}]", extended.unwrap_or(list.len()));
        let origin = element.origin().map(str::to_string);
        let here = origin.as_deref().unwrap_or(&place).to_owned();
        let ValueKind::Table(mut map) = element.kind else {
            findings.locate(&path_of_element, &here);
            findings.error(&path_of_element, format!("is no table (write [[{path}]])"));
            continue;
        };
        if let Some(earlier) = extended.and_then(|at| list.get_mut(at)) {
            map.remove("name");
            let map = check_table(&path_of_element, map, keys, findings);
            extend(&path_of_element, earlier, map, findings);
            continue;
        }
        findings.locate(&path_of_element, &here);
        match map.get("name").map(|v| &v.kind) {
            Some(ValueKind::String(given)) => findings.name(&path_of_element, given),
            _ => findings.name(&path_of_element, &(list.len() + 1).to_string()),
        }
        let map = check_table(&path_of_element, map, keys, findings);
        list.push(Value::new(origin.as_ref(), ValueKind::Table(map)));
    }
}

/// The interface of an earlier file that a table without a port of its own adds keys to: drop-ins that come from
/// elsewhere (an import's `clamp_mss`) know its name only.
fn extended(path: &str, element: &Value, list: &[Value]) -> Option<usize> {
    let file = |value: &Value| Some(value.origin()?.rsplit_once(':')?.0.to_owned());
    let name = |value: &Value| match &value.kind {
        ValueKind::Table(map) => map.get("name").and_then(|name| match &name.kind {
            ValueKind::String(name) => Some(name.clone()),
            _ => None,
        }),
        _ => None,
    };
    let own = matches!(&element.kind, ValueKind::Table(map) if map.contains_key("port"));
    if path != "interface" || own {
        return None;
    }
    let wanted = name(element)?;
    let fits =
        |earlier: &Value| name(earlier).as_ref() == Some(&wanted) && file(earlier) != file(element);
    list.iter().position(fits)
}

/// Adds keys to a table of an earlier file.
fn extend(path: &str, earlier: &mut Value, more: Map<String, Value>, findings: &mut Findings) {
    let ValueKind::Table(map) = &mut earlier.kind else {
        return;
    };
    for (key, value) in more {
        match map.get(&key) {
            None => drop(map.insert(key, value)),
            Some(known) => {
                let place = known.origin().unwrap_or_default();
                let message = format!("is set already, in {place} (write it in one place)");
                findings.error(&format!("{path}.{key}"), message);
            }
        }
    }
}

/// The entries of a table that are known and of the right kind; all others are reported.
fn check_table(
    path: &str,
    map: Map<String, Value>,
    keys: &[Key],
    findings: &mut Findings,
) -> Map<String, Value> {
    let mut kept = Map::new();
    for (name, value) in map {
        let path = format!("{path}.{name}");
        locate(&path, &value, findings);
        let Some(key) = keys.iter().find(|key| key.name == name) else {
            let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
            let hint = match nearest(&name, names.iter().copied()) {
                Some(best) => format!("did you mean {best:?}?"),
                None => format!("known are {}", names.join(", ")),
            };
            findings.error(&path, format!("unknown key ({hint})"));
            continue;
        };
        let inner = match key.kind {
            Kind::PerProtocol => Kind::Inline(PROTOCOLS),
            kind => kind,
        };
        match (inner, value.kind.clone()) {
            (Kind::Inline(inner), ValueKind::Table(map)) => {
                let map = check_table(&path, map, inner, findings);
                let origin = value.origin().map(str::to_string);
                kept.insert(name, Value::new(origin.as_ref(), ValueKind::Table(map)));
            }
            (Kind::Tables(inner), ValueKind::Array(elements)) => {
                let origin = value.origin().map(str::to_string);
                let tables = check_tables(&path, elements, inner, findings);
                kept.insert(name, Value::new(origin.as_ref(), ValueKind::Array(tables)));
            }
            _ => {
                if check_value(&path, &value, key.kind, findings) {
                    kept.insert(name, value);
                }
            }
        }
    }
    kept
}

/// The elements of a list of tables within an object.
fn check_tables(
    path: &str,
    elements: Vec<Value>,
    keys: &[Key],
    findings: &mut Findings,
) -> Vec<Value> {
    let mut kept = Vec::new();
    for (index, element) in elements.into_iter().enumerate() {
        let path = format!("{path}[{index}]");
        findings.name(&path, &(index + 1).to_string());
        let origin = element.origin().map(str::to_string);
        let ValueKind::Table(map) = element.kind else {
            findings.error(&path, "is no table (write { … })");
            continue;
        };
        let map = check_table(&path, map, keys, findings);
        kept.push(Value::new(origin.as_ref(), ValueKind::Table(map)));
    }
    kept
}

/// Registers the places of a key and, for a list, of its elements.
fn locate(path: &str, value: &Value, findings: &mut Findings) {
    findings.locate(path, value.origin().unwrap_or_default());
    if let ValueKind::Array(elements) = &value.kind {
        let places = elements.iter();
        let places = places.map(|element| element.origin().unwrap_or_default().to_string());
        findings.locate_elements(path, places.collect());
    }
}

/// Whether a value is of its kind; if not, says what would be.
fn check_value(path: &str, value: &Value, kind: Kind, findings: &mut Findings) -> bool {
    let scalar = |value: &Value| matches!(value.kind, ValueKind::String(_) | ValueKind::I64(_));
    let wanted = match (kind, &value.kind) {
        (Kind::Later, _) => {
            let key = path.rsplit('.').next().unwrap_or(path);
            findings.error(
                path,
                format!("{key:?} is not supported by this version of natgate"),
            );
            return false;
        }
        (Kind::Bool, ValueKind::Boolean(_))
        | (Kind::Text | Kind::PerProtocol, ValueKind::String(_)) => return true,
        (Kind::Int(low, high), ValueKind::I64(number))
            if (low..=high).contains(&number.to_owned()) =>
        {
            return true;
        }
        (Kind::Int(low, high), ValueKind::I64(number)) => {
            format!("{number} is out of range (allowed: {low}–{high})")
        }
        (Kind::Duration, ValueKind::String(text)) => match values::duration(text) {
            Ok(_) => return true,
            Err(message) => message,
        },
        (Kind::Size, ValueKind::String(text)) => match values::size(text) {
            Ok(_) => return true,
            Err(message) => message,
        },
        (Kind::List, ValueKind::Array(list)) if list.iter().all(scalar) => return true,
        (Kind::List, _) if scalar(value) => return true,
        (Kind::Numbers, ValueKind::Array(list))
            if list
                .iter()
                .all(|v| matches!(v.kind, ValueKind::I64(0..=65535))) =>
        {
            return true;
        }
        _ => format!("is {} (expected {})", kind_of(value), expected(kind)),
    };
    findings.error(path, wanted);
    false
}

fn expected(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "true or false",
        Kind::Int(..) => "a whole number",
        Kind::Text => "a string",
        Kind::Duration => "a duration with units as a string, like \"5m\"",
        Kind::Size => "a size with unit as a string, like \"1GiB\"",
        Kind::List => "a string, or a list of strings",
        Kind::Numbers => "a list of whole numbers, 0–65535",
        Kind::Inline(_) => "an inline table, { … }",
        Kind::PerProtocol => "a string, or an inline table like { tcp = \"…\", udp = \"…\" }",
        Kind::Tables(_) => "a list of tables",
        Kind::Later => "nothing yet",
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value.kind {
        ValueKind::Boolean(_) => "a boolean",
        ValueKind::I64(_) | ValueKind::I128(_) | ValueKind::U64(_) | ValueKind::U128(_) => {
            "a number"
        }
        ValueKind::Float(_) => "a fraction",
        ValueKind::String(_) => "a string",
        ValueKind::Table(_) => "a table",
        ValueKind::Array(_) => "a list of the wrong kind",
        ValueKind::Nil => "a date or a number beyond 64 bits",
    }
}

/// `schema = 1` must be there, so that a later language can be told apart.
fn check_schema(tree: &Map<String, Value>, findings: &mut Findings) {
    match tree.get("schema").map(|value| &value.kind) {
        Some(ValueKind::I64(1)) => {}
        Some(_) => findings.error(
            "schema",
            "this version of natgate reads schema 1 only (write schema = 1)",
        ),
        None => findings.error("schema", "is missing (write schema = 1 at the top)"),
    }
}

/// The tree with the defaults of all absent keys.
fn with_defaults(mut tree: Map<String, Value>) -> Map<String, Value> {
    for (name, shape) in TOP {
        match shape {
            Shape::Table(keys) => {
                let table = tree.entry((*name).to_string());
                fill(
                    table.or_insert_with(|| Value::new(None, ValueKind::Table(Map::new()))),
                    keys,
                );
            }
            Shape::Sets => {
                if let Some(ValueKind::Table(sets)) =
                    tree.get_mut(*name).map(|value| &mut value.kind)
                {
                    sets.values_mut().for_each(|set| fill(set, SET));
                }
            }
            Shape::Tables(keys) => {
                if let Some(ValueKind::Array(elements)) =
                    tree.get_mut(*name).map(|value| &mut value.kind)
                {
                    elements.iter_mut().for_each(|element| fill(element, keys));
                }
            }
            _ => {}
        }
    }
    tree
}

fn fill(table: &mut Value, keys: &[Key]) {
    let ValueKind::Table(map) = &mut table.kind else {
        return;
    };
    for key in keys {
        match (key.kind, map.get_mut(key.name)) {
            (Kind::Inline(inner), Some(value)) => fill(value, inner),
            (Kind::Tables(inner), Some(value)) => {
                if let ValueKind::Array(elements) = &mut value.kind {
                    elements.iter_mut().for_each(|element| fill(element, inner));
                }
            }
            _ => {}
        }
        if let Some(default) = key.default.filter(|_| !map.contains_key(key.name)) {
            map.insert(key.name.to_string(), default_value(default));
        }
    }
}

/// A default as written in the list of keys.
pub(super) fn default_value(text: &str) -> Value {
    let nowhere = Text {
        name: String::new(),
        content: String::new(),
    };
    match DeValue::parse(text) {
        Ok(value) => Value::new(None, convert(value, "", &Lines::new(&nowhere)).kind),
        // A test reads every default, so this cannot be met.
        Err(_) => Value::new(None, ValueKind::Nil),
    }
}

fn deserialize(tree: Map<String, Value>, findings: &mut Findings) -> Option<Raw> {
    let tree = Value::new(None, ValueKind::Table(tree));
    match tree.try_deserialize::<Raw>() {
        Ok(raw) => Some(raw),
        Err(error) => {
            findings.error("", error.to_string());
            None
        }
    }
}
