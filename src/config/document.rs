//! JSON and YAML as one tree whose values know their line: what other systems' files are read from.
//!
//! A text whose first character is `{` is JSON, everything else YAML, of which only the first document is read: so the
//! programs whose files these are tell them apart. Keys keep their order and may repeat; the reader decides.

use std::collections::HashMap;
use std::fmt;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Nesting beyond this is an error.
const DEEPEST: usize = 64;

/// Values beyond this are an error; aliases could otherwise multiply a small text without end.
const MOST: usize = 200_000;

/// A value and where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its line, from 1.
    pub line: usize,
    /// The value.
    pub value: Value,
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `null`, or nothing.
    Null,
    /// A truth value.
    Bool(bool),
    /// A number, as written.
    Number(String),
    /// A string.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// Keys with their lines, and values.
    Map(Vec<(Key, Node)>),
}

/// A key of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its line, from 1.
    pub line: usize,
    /// The key.
    pub text: String,
}

/// Why a text is no document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct SyntaxError {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

impl Node {
    /// The value in words, for messages.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "null",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::Text(_) => "a string",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// The entries of a map; none of anything else.
    pub fn entries(&self) -> &[(Key, Node)] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The elements of a list; none of anything else.
    pub fn elements(&self) -> &[Node] {
        match &self.value {
            Value::List(elements) => elements,
            _ => &[],
        }
    }

    /// The value of a key of a map, written exactly so; of several the last.
    pub fn get(&self, key: &str) -> Option<&Node> {
        let found = self.entries().iter().rev().find(|(k, _)| k.text == key);
        found.map(|(_, value)| value)
    }

    /// The string.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// Reads JSON or YAML.
///
/// # Errors
/// Where it stops being either.
pub fn parse(text: &str) -> Result<Node, SyntaxError> {
    match text.trim_start().starts_with('{') {
        true => parse_json(text),
        false => parse_yaml(text),
    }
}

/// Reads JSON: one value, nothing behind it.
///
/// # Errors
/// Where it stops being JSON.
pub fn parse_json(text: &str) -> Result<Node, SyntaxError> {
    let raw: &RawValue = serde_json::from_str(text).map_err(|error| json_error(&error))?;
    let lines = Lines::of(text);
    json_node(raw, &lines, 0)
}

fn json_error(error: &serde_json::Error) -> SyntaxError {
    let message = error.to_string();
    let end = message.rfind(" at line ").unwrap_or(message.len());
    SyntaxError {
        line: error.line(),
        column: error.column(),
        message: format!("not JSON: {}", &message[..end]),
    }
}

/// Where a text's lines begin, as addresses: a borrowed part of the text then knows its line.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Lines {
        let start = text.as_ptr().addr();
        let breaks = text.match_indices('\n').map(|(at, _)| start + at + 1);
        Lines(std::iter::once(start).chain(breaks).collect())
    }

    fn line(&self, part: &str) -> usize {
        self.0
            .partition_point(|line| *line <= part.as_ptr().addr())
            .max(1)
    }
}

fn json_node(raw: &RawValue, lines: &Lines, depth: usize) -> Result<Node, SyntaxError> {
    let text = raw.get();
    let line = lines.line(text);
    let wrong = |message: String| SyntaxError {
        line,
        column: 1,
        message,
    };
    if depth > DEEPEST {
        return Err(wrong(format!("nested more than {DEEPEST} deep")));
    }
    let value = match text.as_bytes().first() {
        Some(b'{') => {
            let mut reader = serde_json::Deserializer::from_str(text);
            let entries = reader
                .deserialize_map(Entries)
                .map_err(|e| wrong(e.to_string()))?;
            let node = |(key, value): (String, &RawValue)| {
                let value = json_node(value, lines, depth + 1)?;
                let line = value.line;
                Ok((Key { line, text: key }, value))
            };
            Value::Map(entries.into_iter().map(node).collect::<Result<_, _>>()?)
        }
        Some(b'[') => {
            let mut reader = serde_json::Deserializer::from_str(text);
            let elements = reader
                .deserialize_seq(Elements)
                .map_err(|e| wrong(e.to_string()))?;
            let node = |value| json_node(value, lines, depth + 1);
            Value::List(elements.into_iter().map(node).collect::<Result<_, _>>()?)
        }
        Some(b'"') => Value::Text(serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?),
        Some(b't') => Value::Bool(true),
        Some(b'f') => Value::Bool(false),
        Some(b'n') | None => Value::Null,
        Some(_) => Value::Number(text.to_owned()),
    };
    Ok(Node { line, value })
}

/// The members of a JSON object in order, repeats included.
struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(entries)
    }
}

/// The elements of a JSON array.
struct Elements;

impl<'de> Visitor<'de> for Elements {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Self::Value, S::Error> {
        let mut elements = Vec::new();
        while let Some(element) = list.next_element()? {
            elements.push(element);
        }
        Ok(elements)
    }
}

/// Reads the first document of a YAML text; without any, null.
///
/// # Errors
/// Where it stops being YAML, and for tags and merge keys, which would change what the text means.
pub fn parse_yaml(text: &str) -> Result<Node, SyntaxError> {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| SyntaxError {
            line: error.marker().line(),
            column: error.marker().col() + 1,
            message: format!("not YAML: {}", error.info()),
        })?;
        if let Event::DocumentEnd = event {
            break;
        }
        builder.take(event, span)?;
    }
    Ok(builder.done.unwrap_or(Node {
        line: 1,
        value: Value::Null,
    }))
}

/// A list or map under construction.
struct Open {
    anchor: usize,
    line: usize,
    parts: Parts,
}

enum Parts {
    List(Vec<Node>),
    Map(Vec<(Key, Node)>, Option<Key>),
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, (Node, usize)>,
    count: usize,
    done: Option<Node>,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), SyntaxError> {
        let line = span.start.line();
        let wrong = |message: &str| SyntaxError {
            line,
            column: span.start.col() + 1,
            message: message.to_owned(),
        };
        if self.open.len() > DEEPEST {
            return Err(wrong(&format!("nested more than {DEEPEST} deep")));
        }
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain
                    && !is_string(tag.as_deref()).map_err(|m| wrong(&m))?;
                let value = match plain {
                    true => plain_scalar(&text),
                    false => Value::Text(text.into_owned()),
                };
                self.add(Node { line, value }, anchor, 1, &wrong)
            }
            Event::Alias(anchor) => {
                let known = self.anchors.get(&anchor).cloned();
                let (node, size) =
                    known.ok_or_else(|| wrong("an alias of something unfinished"))?;
                self.add(node, 0, size, &wrong)
            }
            Event::SequenceStart(anchor, tag) => {
                is_string(tag.as_deref()).map_err(|m| wrong(&m))?;
                let parts = Parts::List(Vec::new());
                self.open.push(Open {
                    anchor,
                    line,
                    parts,
                });
                Ok(())
            }
            Event::MappingStart(anchor, tag) => {
                is_string(tag.as_deref()).map_err(|m| wrong(&m))?;
                let parts = Parts::Map(Vec::new(), None);
                self.open.push(Open {
                    anchor,
                    line,
                    parts,
                });
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(closed) = self.open.pop() else {
                    return Err(wrong("an end without a start"));
                };
                let value = match closed.parts {
                    Parts::List(list) => Value::List(list),
                    Parts::Map(map, _) => Value::Map(map),
                };
                let node = Node {
                    line: closed.line,
                    value,
                };
                self.add(node, closed.anchor, 1, &wrong)
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
        }
    }

    /// Puts a finished value where it belongs; `size` counts it, with all it holds if it comes from an alias.
    fn add(
        &mut self,
        node: Node,
        anchor: usize,
        size: usize,
        wrong: &dyn Fn(&str) -> SyntaxError,
    ) -> Result<(), SyntaxError> {
        self.count += size;
        if self.count > MOST {
            return Err(wrong(&format!("more than {MOST} values")));
        }
        if anchor != 0 {
            let size = values_in(&node);
            self.anchors.insert(anchor, (node.clone(), size));
        }
        let line = node.line;
        match self.open.last_mut().map(|open| &mut open.parts) {
            None => self.done = Some(node),
            Some(Parts::List(list)) => list.push(node),
            Some(Parts::Map(map, key @ None)) => {
                let text = match node.value {
                    Value::Text(text) | Value::Number(text) => text,
                    Value::Bool(flag) => flag.to_string(),
                    Value::Null => "null".to_owned(),
                    Value::List(_) | Value::Map(_) => return Err(wrong("a key must be a word")),
                };
                if text == "<<" {
                    return Err(wrong("merge keys are not taken (write the keys out)"));
                }
                *key = Some(Key { line, text });
                let _ = map;
            }
            Some(Parts::Map(map, key)) => {
                if let Some(key) = key.take() {
                    map.push((key, node));
                }
            }
        }
        Ok(())
    }
}

fn values_in(node: &Node) -> usize {
    let inner: usize = match &node.value {
        Value::List(list) => list.iter().map(values_in).sum(),
        Value::Map(map) => map.iter().map(|(_, value)| values_in(value)).sum(),
        _ => 0,
    };
    inner + 1
}

/// Whether a tag says "string". Other tags would give the text another meaning than it shows.
fn is_string(tag: Option<&Tag>) -> Result<bool, String> {
    match tag {
        None => Ok(false),
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => Ok(true),
        Some(tag) => Err(format!(
            "the tag {tag} is not taken (write the value plainly)"
        )),
    }
}

/// A scalar without quotes: words and numbers of YAML 1.1, which the programs' own reader follows.
fn plain_scalar(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            Value::Bool(true)
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Value::Bool(false)
        }
        _ if is_number(text) => Value::Number(text.to_owned()),
        _ => Value::Text(text.to_owned()),
    }
}

fn is_number(text: &str) -> bool {
    let digits = text.trim_start_matches(['+', '-']);
    text.len() - digits.len() <= 1
        && digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_languages_give_the_same_tree_with_lines() {
        let yaml = "# first\na: [1, \"x\"]\nb:\n  - true\n  - null\n";
        let json = "{\n\"a\": [1, \"x\"],\n\"b\": [\n  true,\n  null]}";
        let (yaml, json) = (parse(yaml).unwrap(), parse(json).unwrap());
        for (tree, lines) in [(&yaml, [2, 4, 5]), (&json, [2, 4, 5])] {
            let (a, b) = (tree.get("a").unwrap(), tree.get("b").unwrap());
            assert_eq!(a.elements()[0].value, Value::Number("1".into()));
            assert_eq!(a.elements()[1].text(), Some("x"));
            assert_eq!(b.elements()[0].value, Value::Bool(true));
            assert_eq!(b.elements()[1].value, Value::Null);
            assert_eq!([a.line, b.elements()[0].line, b.elements()[1].line], lines);
        }
    }

    #[test]
    fn only_the_first_document_counts() {
        assert_eq!(parse("a: 1\n---\nb: [").unwrap().get("b"), None);
        assert_eq!(parse("").unwrap().value, Value::Null);
        assert_eq!(parse("# nothing\n").unwrap().value, Value::Null);
    }

    #[test]
    fn aliases_repeat_and_cannot_multiply_without_end() {
        let tree = parse("a: &x [1]\nb: *x\n").unwrap();
        assert_eq!(tree.get("b").unwrap().elements().len(), 1);
        let mut bomb = "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n".to_owned();
        for level in 1..9 {
            let list = vec![format!("*a{}", level - 1); 10].join(",");
            bomb.push_str(&format!("a{level}: &a{level} [{list}]\n"));
        }
        let error = parse(&bomb).unwrap_err();
        assert!(error.message.contains("values"), "{error}");
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(parse(&format!("{}{}", "{\"a\":".repeat(500), "1")).is_err());
    }

    #[test]
    fn what_would_mean_something_else_is_refused() {
        for text in ["a: !!binary MTA=", "<<: {a: 1}", "a:\n\t- 1", "*", "[1]: 2"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert_eq!(
            parse("a: !!str 5").unwrap().get("a").unwrap().text(),
            Some("5")
        );
    }

    #[test]
    fn json_errors_tell_line_and_column() {
        let error = parse_json("\"policies\": []").unwrap_err();
        assert_eq!((error.line, error.column), (1, 11), "{error}");
        let error = parse_json("{\n  \"a\": ...}").unwrap_err();
        assert_eq!((error.line, error.column), (2, 8), "{error}");
        assert!(parse("{} x").is_err());
    }
}
