//! The layer of the environment: keys of tables, each from a variable.

use config::{Environment, Map, Source, Value};

use super::check_value;
use crate::config::keys::{Key, Kind, Shape, TOP};
use crate::config::report::{Findings, nearest};
use crate::config::values;

/// Scalars from `NATGATE__TABLE__KEY`, checked like those of files.
pub(super) fn scalars(
    environment: &[(String, String)],
    findings: &mut Findings,
) -> Map<String, Value> {
    let mut layer = Map::new();
    for (variable, text) in environment {
        let single = Map::from_iter([(variable.clone(), text.clone())]);
        let source = Environment::with_prefix("NATGATE")
            .separator("__")
            .source(Some(single));
        let collected = source.collect().unwrap_or_default();
        for path in collected.into_keys() {
            let place = format!("environment {variable}");
            findings.locate(&path, &place);
            let Some(key) = scalar_key(&path) else {
                let scalars = all_scalars();
                let names: Vec<&str> = scalars.iter().map(String::as_str).collect();
                let hint = nearest(&path, names).map_or(
                    "only the keys of [system], [timeouts], [api], [metrics], [filter] and [log] can be set so"
                        .to_string(),
                    |best| {
                        format!(
                            "did you mean NATGATE__{}?",
                            best.to_uppercase().replace('.', "__")
                        )
                    },
                );
                findings.error(&path, format!("unknown key ({hint})"));
                continue;
            };
            let value = Value::new(Some(&place), values::scalar(text, key.kind));
            if check_value(&path, &value, key.kind, findings) {
                layer.insert(path, value);
            }
        }
    }
    layer
}

/// The key of a table that the environment may set.
fn scalar_key(path: &str) -> Option<&'static Key> {
    let (table, name) = path.split_once('.')?;
    TOP.iter().find_map(|(known, shape)| match shape {
        Shape::Table(keys) if *known == table => keys.iter().find(|key| key.name == name),
        _ => None,
    })
}

fn all_scalars() -> Vec<String> {
    let mut all = Vec::new();
    for (table, shape) in TOP {
        if let Shape::Table(keys) = shape {
            let scalars = keys
                .iter()
                .filter(|key| !matches!(key.kind, Kind::Tables(_)));
            all.extend(scalars.map(|key| format!("{table}.{}", key.name)));
        }
    }
    all
}
