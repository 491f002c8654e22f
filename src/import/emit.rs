//! Writing configuration: tables in the order in which their statements came.

use std::fmt::Write;

/// A table under construction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    head: &'static str,
    lines: String,
}

impl Table {
    /// An empty table; `head` with its brackets.
    pub fn new(head: &'static str) -> Table {
        Table {
            head,
            lines: String::new(),
        }
    }

    /// A key with a string.
    #[must_use]
    pub fn text(self, key: &str, value: &str) -> Table {
        self.raw(key, &quoted(value))
    }

    /// A key with a string, if there is one.
    #[must_use]
    pub fn maybe(self, key: &str, value: Option<&str>) -> Table {
        match value {
            Some(value) => self.text(key, value),
            None => self,
        }
    }

    /// A key with a list of strings.
    #[must_use]
    pub fn list<T: AsRef<str>>(self, key: &str, values: &[T]) -> Table {
        let quoted: Vec<String> = values.iter().map(|v| quoted(v.as_ref())).collect();
        self.raw(key, &format!("[{}]", quoted.join(", ")))
    }

    /// A key with one string, or with a list of them; nothing without any.
    #[must_use]
    pub fn values<T: AsRef<str>>(self, key: &str, values: &[T]) -> Table {
        match values {
            [] => self,
            [one] => self.text(key, one.as_ref()),
            many => self.list(key, many),
        }
    }

    /// A key with a value in TOML.
    #[must_use]
    pub fn raw(mut self, key: &str, value: &str) -> Table {
        // Writing into a string cannot fail.
        let _ = writeln!(self.lines, "{key} = {value}");
        self
    }
}

/// A string in TOML.
pub fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// The tables as text, a blank line between them.
pub fn render(tables: &[Table]) -> String {
    let texts = tables.iter().map(|t| format!("{}\n{}", t.head, t.lines));
    texts.collect::<Vec<_>>().join("\n")
}
