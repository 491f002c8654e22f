//! The objects of a kind in a document, written as `[[kind]]` or as `kind = [{ … }]`.

use super::layout;
use toml_edit::{ArrayOfTables, DocumentMut, InlineTable, Item, Key, Table, TableLike, Value};

/// An object as it stands in a document.
pub(super) struct Entry<'a> {
    written: Written<'a>,
    /// Its number in the document, from 1.
    number: usize,
}

#[derive(Clone, Copy)]
enum Written<'a> {
    Table(&'a Table),
    Inline(&'a InlineTable),
}

impl<'a> Entry<'a> {
    fn table(&self) -> &'a dyn TableLike {
        match self.written {
            Written::Table(table) => table,
            Written::Inline(table) => table,
        }
    }

    /// A key that is text.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.table().get(key).and_then(Item::as_str)
    }

    /// Its name, or its number.
    pub fn name(&self) -> String {
        let name = self.get("name").map(str::to_owned);
        name.unwrap_or_else(|| self.number.to_string())
    }

    /// The object as a table of its own, comments included.
    pub fn to_table(&self) -> Table {
        match self.written {
            Written::Table(table) => table.clone(),
            Written::Inline(table) => table.clone().into_table(),
        }
    }

    /// What tells it from others of its kind, in another text as well: its name, or else all it says.
    pub fn identity(&self) -> String {
        if let Some(name) = self.get("name") {
            return format!("name={name}");
        }
        let values = self.table().get_values();
        let line = |(path, value): &(Vec<&Key>, &Value)| {
            let path: Vec<&str> = path.iter().map(|key| key.get()).collect();
            let mut value = (*value).clone();
            value.decor_mut().clear();
            format!("{}={value}", path.join("."))
        };
        let mut lines: Vec<String> = values.iter().map(line).collect();
        lines.sort();
        lines.join("\n")
    }
}

fn parent(kind: &str) -> (Option<&str>, &str) {
    match kind.split_once('.') {
        Some((table, name)) => (Some(table), name),
        None => (None, kind),
    }
}

fn item<'a>(doc: &'a DocumentMut, kind: &str) -> Option<&'a Item> {
    match parent(kind) {
        (Some(table), name) => doc.get(table)?.as_table_like()?.get(name),
        (None, name) => doc.get(name),
    }
}

fn item_mut<'a>(doc: &'a mut DocumentMut, kind: &str) -> Option<&'a mut Item> {
    match parent(kind) {
        (Some(table), name) => doc.get_mut(table)?.as_table_like_mut()?.get_mut(name),
        (None, name) => doc.get_mut(name),
    }
}

/// The objects of a kind, in order.
pub(super) fn entries<'a>(doc: &'a DocumentMut, kind: &str) -> Vec<Entry<'a>> {
    let written: Vec<Written<'a>> = match item(doc, kind) {
        Some(Item::ArrayOfTables(tables)) => tables.iter().map(Written::Table).collect(),
        Some(Item::Value(Value::Array(array))) => {
            let inline = array.iter().filter_map(Value::as_inline_table);
            inline.map(Written::Inline).collect()
        }
        _ => Vec::new(),
    };
    let entry = |(number, written)| Entry { written, number };
    (1..).zip(written).map(entry).collect()
}

/// One object, to be changed.
pub(super) fn entry_mut<'a>(
    doc: &'a mut DocumentMut,
    kind: &str,
    index: usize,
) -> Option<&'a mut dyn TableLike> {
    match item_mut(doc, kind)? {
        Item::ArrayOfTables(tables) => Some(tables.get_mut(index)? as &mut dyn TableLike),
        Item::Value(Value::Array(array)) => {
            Some(array.get_mut(index)?.as_inline_table_mut()? as &mut dyn TableLike)
        }
        _ => None,
    }
}

/// Inserts an object before the one at `index`, or behind the last.
pub(super) fn insert(
    doc: &mut DocumentMut,
    kind: &str,
    index: usize,
    mut table: Table,
) -> Result<(), String> {
    if item(doc, kind).is_none() {
        let list = Item::ArrayOfTables(ArrayOfTables::new());
        match parent(kind) {
            (Some(table), name) => {
                let implicit = || {
                    let mut table = Table::new();
                    table.set_implicit(true);
                    Item::Table(table)
                };
                let table = doc.entry(table).or_insert_with(implicit);
                let table = table.as_table_like_mut().ok_or("is no table")?;
                table.insert(name, list);
            }
            (None, name) => drop(doc.insert(name, list)),
        }
    }
    match item_mut(doc, kind) {
        Some(Item::ArrayOfTables(tables)) => {
            let index = index.min(tables.len());
            // Tables are written in the order of their positions, those of equal position in the order of the list.
            let position = match tables.get(index) {
                Some(next) => next.position(),
                None => index
                    .checked_sub(1)
                    .and_then(|before| deepest(tables.get(before)?)),
            };
            forget_positions(&mut table);
            table.set_position(position);
            tables.insert(index, table);
            Ok(())
        }
        Some(Item::Value(Value::Array(array))) => {
            let inline = Value::InlineTable(table.into_inline_table());
            layout::insert(array, index, inline);
            Ok(())
        }
        _ => Err("is no list of tables".to_owned()),
    }
}

/// Lets a table that comes from another text, and those within it, be written where they stand.
pub(super) fn forget_positions(table: &mut Table) {
    table.set_position(None);
    for (_, item) in table.iter_mut() {
        match item {
            Item::Table(inner) => forget_positions(inner),
            Item::ArrayOfTables(tables) => tables.iter_mut().for_each(forget_positions),
            _ => {}
        }
    }
}

/// The largest position of a table and those within it.
fn deepest(table: &Table) -> Option<isize> {
    let within = table.iter().filter_map(|(_, item)| match item {
        Item::Table(inner) => deepest(inner),
        Item::ArrayOfTables(tables) => tables.iter().filter_map(deepest).max(),
        _ => None,
    });
    within.chain(table.position()).max()
}

/// Takes an object out. The comment directly above it goes with it; what stands above a blank line stays.
pub(super) fn remove(doc: &mut DocumentMut, kind: &str, index: usize) {
    let mut left = None;
    let empty = match item_mut(doc, kind) {
        Some(Item::ArrayOfTables(tables)) if index < tables.len() => {
            let gone = tables.remove(index);
            let prefix = gone.decor().prefix().and_then(|prefix| prefix.as_str());
            left = gone.position().zip(prefix.and_then(banner));
            tables.is_empty()
        }
        Some(Item::Value(Value::Array(array))) if index < array.len() => {
            layout::retain(array, |at, _| at != index);
            array.is_empty()
        }
        _ => false,
    };
    if empty {
        match parent(kind) {
            (Some(table), name) => {
                let table = doc.get_mut(table).and_then(Item::as_table_like_mut);
                table.and_then(|table| table.remove(name));
            }
            (None, name) => drop(doc.remove(name)),
        }
    }
    if let Some((position, comment)) = left {
        keep_comment(doc, position, &comment);
    }
}

/// What of the text above a table is not about that table alone: all down to the last blank line, if it is a comment.
fn banner(prefix: &str) -> Option<String> {
    let mut end = None;
    let mut at = 0;
    let own = prefix.trim_end_matches([' ', '\t']);
    for line in own.split_inclusive('\n') {
        at += line.len();
        if line.trim().is_empty() {
            end = Some(at);
        }
    }
    let (kept, _) = own.split_at(end?);
    kept.contains('#')
        .then(|| kept.trim_end().to_owned() + "\n")
}

/// Puts a comment above the table that now comes first behind a position, or at the end.
fn keep_comment(doc: &mut DocumentMut, position: isize, comment: &str) {
    let next = next_position(doc.as_table(), position);
    let done = next.is_some_and(|next| prepend(doc.as_table_mut(), next, comment));
    if !done {
        let trailing = doc.trailing().as_str().unwrap_or_default().to_owned();
        doc.set_trailing(format!("{comment}{trailing}"));
    }
}

fn tables(item: &Item) -> Vec<&Table> {
    match item {
        Item::Table(table) => vec![table],
        Item::ArrayOfTables(tables) => tables.iter().collect(),
        _ => Vec::new(),
    }
}

fn next_position(table: &Table, after: isize) -> Option<isize> {
    let inner = table.iter().flat_map(|(_, item)| tables(item));
    let of = |table: &Table| {
        let own = table.position().filter(|position| *position > after);
        own.into_iter().chain(next_position(table, after)).min()
    };
    inner.filter_map(of).min()
}

fn prepend(table: &mut Table, position: isize, comment: &str) -> bool {
    let inner = table.iter_mut().flat_map(|(_, item)| match item {
        Item::Table(table) => vec![table],
        Item::ArrayOfTables(tables) => tables.iter_mut().collect(),
        _ => Vec::new(),
    });
    for table in inner {
        if table.position() == Some(position) && !table.is_implicit() {
            let prefix = table.decor().prefix().and_then(|prefix| prefix.as_str());
            let joined = format!("{comment}{}", prefix.unwrap_or("\n"));
            table.decor_mut().set_prefix(joined);
            return true;
        }
        if prepend(table, position, comment) {
            return true;
        }
    }
    false
}
