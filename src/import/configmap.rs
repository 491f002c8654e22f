//! A Kubernetes ConfigMap: the list of an agent in one of its keys.

use super::emit::Table;
use super::lists::{self, Source};
use super::{Input, Options, Report};
use crate::config::document::{self, Node, Value};
use crate::config::exemptions::Format;

/// Imports ConfigMaps; all of them together are one list.
pub(super) fn import(
    inputs: &[Input],
    options: &Options,
    report: &mut Report,
) -> Result<Vec<Table>, String> {
    let (mut format, mut contents) = (None, Vec::new());
    for input in inputs {
        let root = match document::parse(&input.text) {
            Ok(root) => root,
            Err(error) => {
                report.refuse(
                    &format!("{}:{}", input.name, error.line),
                    format!("column {}: {}", error.column, error.message),
                );
                continue;
            }
        };
        for (found, text) in parts(input, &root, report) {
            if *format.get_or_insert(found) != found {
                report.refuse(
                    &input.name,
                    "holds lists of two kinds of agents (import them one by one)",
                );
            }
            let padded = [Input {
                text,
                ..input.clone()
            }];
            contents.extend(lists::contents(found, &padded, options, report));
        }
    }
    let format = format.unwrap_or(Format::IpMasqAgent);
    let name = inputs.first().map_or("", |input| input.name.as_str());
    let source = Source {
        format,
        path: format.default_path().to_owned(),
        origin: format!("import:{name}"),
    };
    if report.invalid {
        return Ok(Vec::new());
    }
    lists::tables(&source, &contents, options, report)
}

/// The lists in a ConfigMap, each moved down to its line in the file.
fn parts(input: &Input, root: &Node, report: &mut Report) -> Vec<(Format, String)> {
    let name = &input.name;
    let kind = root.get("kind").and_then(Node::text).unwrap_or("");
    if kind != "ConfigMap" {
        report.refuse(name, format!("kind is {kind:?}, not \"ConfigMap\""));
        return Vec::new();
    }
    if let Some(binary) = root.get("binaryData") {
        report.refuse(
            &format!("{name}:{}", binary.line),
            "binaryData is not read (put the list under data)",
        );
    }
    let mut parts = Vec::new();
    for (key, value) in root.get("data").map_or(&[][..], Node::entries) {
        let format = match key.text.as_str() {
            "config" => Format::IpMasqAgent,
            other if other.starts_with("ip-masq-agent") => Format::Azure,
            other => {
                report.note(
                    &format!("{name}:{}", key.line),
                    "",
                    format!("data.{other} is not an agent's; not read"),
                );
                continue;
            }
        };
        let text = match &value.value {
            Value::Text(text) => text.as_str(),
            Value::Null => "",
            _ => {
                report.refuse(
                    &format!("{name}:{}", value.line),
                    format!("data.{} is {} (expected a text)", key.text, value.kind()),
                );
                continue;
            }
        };
        parts.push((format, moved(text, &input.text, value.line)));
    }
    if parts.is_empty() && !report.invalid {
        report.refuse(name, "data has neither config nor ip-masq-agent…");
    }
    parts
}

/// The text with as many empty lines before it as its own line in the file asks for, so that its lines are the file's.
fn moved(text: &str, file: &str, line: usize) -> String {
    let is_block = |line: &str| line.trim_end().trim_end_matches(['+', '-']).ends_with('|');
    let lines: Vec<&str> = file.lines().collect();
    let first = text.lines().next().unwrap_or_default().trim();
    // A block begins on the line behind its mark; where exactly a reader counts from is decided by looking.
    let after = [line, line.saturating_sub(1)].into_iter().find(|at| {
        *at >= 1
            && lines.get(at - 1).is_some_and(|l| is_block(l))
            && lines.get(*at).is_some_and(|l| l.trim() == first)
    });
    match (text.is_empty(), after) {
        (false, Some(after)) => format!("{}{text}", "\n".repeat(after)),
        _ => text.to_owned(),
    }
}
