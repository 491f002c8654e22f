//! Editing the texts of a configuration object by object: every comment, the order and the layout of the rest stay.
//!
//! An edit changes texts and nothing else. What it is worth shows when the texts are read again, by the same code as
//! files are: there is one way to change a configuration.
//!
//! - [`Documents`] are the texts of a configuration as documents, and what can be done to them;
//! - `kinds` knows the kinds of objects and turns words of a command line into values;
//! - `list` finds, inserts and takes out the objects of a kind, in whichever of TOML's two forms they are written,
//!   and `layout` the elements of an array;
//! - `sets` changes the members of named sets and the addresses of interfaces;
//! - `owners` is about whose an object is: an object a client added (its `origin` begins with `api:`) is the client's,
//!   everything else is the files'. A reload takes the files' objects from the files and leaves the clients' alone.

mod kinds;
mod layout;
mod list;
mod owners;
mod sets;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use toml_edit::{DocumentMut, InlineTable, Item, Table, TableLike, Value};

use super::keys::{Key, Kind, Shape, TOP};
use super::layers::Text;
use super::report::hint;
pub use kinds::{kind_names, value_of};
use list::Entry;
pub use owners::{CLIENT, client_origin};

/// One change of a configuration. Values are texts as on the command line: lists have commas (`"10.0.0.0/8,!10.1.0.0/16"`), and
/// anything may be written as TOML (`"{ size = 64 }"`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Edit {
    /// Adds an object.
    Add {
        /// `source-nat`, `filter`, `route`, …
        kind: String,
        /// Its keys; those of tables within it with a dot (`block.size`).
        values: BTreeMap<String, String>,
        /// Where among the objects of its kind; rules are asked in order.
        #[serde(default)]
        place: Place,
    },
    /// Takes an object out.
    Delete {
        /// Its kind; `set` for a whole set.
        kind: String,
        /// Its name, or its number in the listing.
        object: String,
    },
    /// Takes out all objects of an origin.
    DeleteOrigin {
        /// A client's name, or an origin as listings show it, with or without the line.
        origin: String,
    },
    /// Gives a key a value.
    Set {
        /// `timeouts.udp`, `pool[cgn].block.size`, `filter.rule[3].action`; objects by name or number.
        key: String,
        /// The value; none takes the key out, so that its default holds.
        value: Option<String>,
    },
    /// Adds members to a set, which comes into being if there is none of the name.
    AddMembers {
        /// The set, without `@`.
        set: String,
        /// Prefixes, ranges, sets, interfaces.
        members: Vec<String>,
    },
    /// Takes members out of a set.
    DeleteMembers {
        /// The set, without `@`.
        set: String,
        /// All of them must be there.
        members: Vec<String>,
    },
    /// Gives an interface one more address.
    AddAddress {
        /// The interface.
        interface: String,
        /// The address with its subnet, `203.0.113.2/24`.
        address: String,
        /// Instead of those of the same family that it has.
        #[serde(default)]
        replace: bool,
    },
    /// Takes an address from an interface.
    DeleteAddress {
        /// The interface.
        interface: String,
        /// The address as listings show it.
        address: String,
    },
}

/// Where a new object goes among those of its kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Before all others.
    First,
    /// Behind all others.
    #[default]
    Last,
    /// Before the object of this name or number.
    Before(String),
    /// Behind the object of this name or number.
    After(String),
}

/// Why an edit cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {why}")]
pub struct EditError {
    /// Something named in it does not exist; otherwise it makes no sense.
    pub missing: bool,
    /// The key or object it is about.
    pub key: String,
    /// What is wrong.
    pub why: String,
}

fn missing(key: impl Into<String>, why: impl Into<String>) -> EditError {
    EditError {
        missing: true,
        key: key.into(),
        why: why.into(),
    }
}

fn wrong(key: impl Into<String>, why: impl Into<String>) -> EditError {
    EditError {
        missing: false,
        key: key.into(),
        why: why.into(),
    }
}

/// A configuration's texts as documents, in the order in which they are read.
#[derive(Clone, Debug)]
pub struct Documents {
    docs: Vec<(String, DocumentMut)>,
}

impl Documents {
    /// The documents of texts that were read before.
    ///
    /// # Errors
    /// When one is not TOML.
    pub fn of(texts: &[Text]) -> Result<Documents, EditError> {
        let parse = |text: &Text| {
            let document = text.content.parse::<DocumentMut>();
            let document = document.map_err(|e| wrong(&text.name, e.message().to_owned()))?;
            Ok((text.name.clone(), document))
        };
        let docs = texts.iter().map(parse).collect::<Result<_, _>>()?;
        Ok(Documents { docs })
    }

    /// The texts as they are now.
    pub fn texts(&self) -> Vec<Text> {
        let text = |(name, document): &(String, DocumentMut)| Text {
            name: name.clone(),
            content: document.to_string(),
        };
        self.docs.iter().map(text).collect()
    }

    /// Makes one change in the name of `origin` (see [`client_origin`]).
    ///
    /// # Errors
    /// When the edit names what does not exist or makes no sense; the documents may then be changed in part.
    pub fn apply(&mut self, edit: &Edit, origin: &str) -> Result<(), EditError> {
        match edit {
            Edit::Add {
                kind,
                values,
                place,
            } => self.add(kind, values, place, origin),
            Edit::Delete { kind, object } if matches!(kind.as_str(), "set" | "sets") => {
                self.delete_set(object)
            }
            Edit::Delete { kind, object } => {
                let (kind, _) = kinds::kind(kind)?;
                let at = self.find(kind, object)?;
                self.take(kind, at);
                Ok(())
            }
            Edit::DeleteOrigin { origin } => self.delete_origin(origin),
            Edit::Set { key, value } => self.set(key, value.as_deref()),
            Edit::AddMembers { set, members } => self.add_members(set, members, origin),
            Edit::DeleteMembers { set, members } => self.delete_members(set, members),
            Edit::AddAddress {
                interface,
                address,
                replace,
            } => self.add_address(interface, address, *replace),
            Edit::DeleteAddress { interface, address } => self.delete_address(interface, address),
        }
        .and_then(|()| match edit {
            // These move no table.
            Edit::Set { .. } | Edit::AddMembers { .. } | Edit::DeleteMembers { .. } => Ok(()),
            Edit::AddAddress { .. } | Edit::DeleteAddress { .. } => Ok(()),
            // Positions of tables are those of the text they were read from; the next edit counts on them.
            _ => self.renew(),
        })
    }

    /// Reads the documents anew from what they are written as.
    fn renew(&mut self) -> Result<(), EditError> {
        *self = Documents::of(&self.texts())?;
        Ok(())
    }

    fn add(
        &mut self,
        kind: &str,
        values: &BTreeMap<String, String>,
        place: &Place,
        origin: &str,
    ) -> Result<(), EditError> {
        let (kind, keys) = kinds::kind(kind)?;
        let mut values = values.clone();
        if !values.contains_key("name") {
            values.insert("name".to_owned(), self.free_name(kind, origin));
        }
        values
            .entry("origin".to_owned())
            .or_insert_with(|| origin.to_owned());
        let mut table = Table::new();
        // In the order of the language, whatever order they were given in.
        let rank = |name: &String| {
            let head = name.split('.').next().unwrap_or_default();
            let known = keys.iter().position(|key| key.name == head);
            known.unwrap_or(keys.len())
        };
        let mut ordered: Vec<(&String, &String)> = values.iter().collect();
        ordered.sort_by_key(|(name, _)| rank(name));
        for (name, text) in ordered {
            let path: Vec<&str> = name.split('.').collect();
            put(&mut table, &path, Some(keys), text)
                .map_err(|why| wrong(format!("{kind}.{name}"), why))?;
        }
        let at = match place {
            Place::First => self.objects(kind).first().copied(),
            Place::Last => None,
            Place::Before(object) => Some(self.find(kind, object)?),
            Place::After(object) => {
                let (document, index) = self.find(kind, object)?;
                Some((document, index + 1))
            }
        };
        self.insert(kind, at, table)
    }

    /// Inserts an object at a position, or behind all of its kind.
    fn insert(
        &mut self,
        kind: &str,
        at: Option<(usize, usize)>,
        table: Table,
    ) -> Result<(), EditError> {
        let last = || {
            let &(document, index) = self.objects(kind).last()?;
            Some((document, index + 1))
        };
        let (document, index) = at.or_else(last).unwrap_or((0, 0));
        list::insert(&mut self.docs[document].1, kind, index, table)
            .map_err(|why| wrong(kind.to_owned(), why))
    }

    /// A name no object of the kind has: the client's, and a number.
    fn free_name(&self, kind: &str, origin: &str) -> String {
        let stem = origin.strip_prefix(CLIENT).unwrap_or(origin);
        let taken: Vec<String> = self.entries(kind).map(|(_, entry)| entry.name()).collect();
        let name = |n: usize| format!("{stem}-{n}");
        let free = (1..).map(name).find(|name| !taken.contains(name));
        free.unwrap_or_default()
    }

    /// Where all objects of a kind are, in order: the document and the position in its list.
    fn objects(&self, kind: &str) -> Vec<(usize, usize)> {
        self.entries(kind).map(|(at, _)| at).collect()
    }

    /// All objects of a kind, in order.
    fn entries(&self, kind: &str) -> impl Iterator<Item = ((usize, usize), Entry<'_>)> {
        let documents = self.docs.iter().enumerate();
        documents.flat_map(move |(document, (_, doc))| {
            let entries = list::entries(doc, kind).into_iter().enumerate();
            entries.map(move |(index, entry)| ((document, index), entry))
        })
    }

    /// The object of this name, or else of this number, counted from 1 over all documents.
    fn find(&self, kind: &str, object: &str) -> Result<(usize, usize), EditError> {
        let named = self
            .entries(kind)
            .find(|(_, entry)| entry.get("name") == Some(object));
        if let Some((at, _)) = named {
            return Ok(at);
        }
        let number = object.strip_prefix(kind).unwrap_or(object).trim();
        let number = number.parse::<usize>().ok().filter(|number| *number > 0);
        let at = number.and_then(|number| self.entries(kind).nth(number - 1));
        at.map(|(at, _)| at).ok_or_else(|| {
            let names: Vec<String> = self.entries(kind).map(|(_, entry)| entry.name()).collect();
            let known: Vec<&str> = names.iter().map(String::as_str).collect();
            missing(
                format!("{kind}[{object}]"),
                format!("there is no such {kind} ({})", hint(object, &known)),
            )
        })
    }

    /// Takes an object out, with the comment that stands directly above it.
    fn take(&mut self, kind: &str, (document, index): (usize, usize)) {
        list::remove(&mut self.docs[document].1, kind, index);
    }

    fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), EditError> {
        if let Some((kind, keys, rest)) = kinds::of_key(key) {
            let (at, path) = self.object_of_key(kind, rest)?;
            if path.is_empty() {
                return Err(wrong(
                    key,
                    "names an object, not a key of one (write KIND[NAME].KEY)",
                ));
            }
            let (document, index) = at;
            let Some(table) = list::entry_mut(&mut self.docs[document].1, kind, index) else {
                return Err(missing(key, "there is no such object"));
            };
            return change(table, &path, Some(keys), value).map_err(|why| wrong(key, why));
        }
        let Some((table, name)) = key.split_once('.') else {
            return Err(wrong(
                key,
                "is no key (write TABLE.KEY, like timeouts.udp, or KIND[NAME].KEY, like pool[cgn].hold)",
            ));
        };
        let keys = match TOP.iter().find(|(known, _)| *known == table) {
            Some((_, Shape::Table(keys))) => Some(*keys),
            Some((_, Shape::Sets)) => None,
            _ => return Err(kinds::unknown_key(key, table)),
        };
        self.set_in_table(table, name, keys, value)
            .map_err(|why| wrong(key, why))
    }

    /// Sets a key of a `[table]` where it counts: in the last document that has it.
    fn set_in_table(
        &mut self,
        table: &str,
        name: &str,
        keys: Option<&[Key]>,
        value: Option<&str>,
    ) -> Result<(), String> {
        let has = |doc: &DocumentMut, name: Option<&str>| {
            let table = doc.get(table).and_then(Item::as_table_like);
            table.is_some_and(|table| name.is_none_or(|name| table.contains_key(name)))
        };
        if value.is_none() {
            for (_, doc) in &mut self.docs {
                if let Some(table) = doc.get_mut(table).and_then(Item::as_table_like_mut) {
                    table.remove(name);
                }
            }
            return Ok(());
        }
        let with_key = self.docs.iter().rposition(|(_, doc)| has(doc, Some(name)));
        let with_table = || self.docs.iter().rposition(|(_, doc)| has(doc, None));
        let document = with_key.or_else(with_table).unwrap_or(0);
        let Some((_, doc)) = self.docs.get_mut(document) else {
            return Err("there is no text to write it into".to_owned());
        };
        let table = doc.entry(table).or_insert_with(toml_edit::table);
        let table = table.as_table_like_mut().ok_or("is no table")?;
        change(table, &[name], keys, value)
    }

    /// The object of `[NAME].key.key` or `.NAME.key.key`, and the keys. Names may have dots: the longest that fits counts.
    fn object_of_key<'k>(
        &self,
        kind: &str,
        rest: &'k str,
    ) -> Result<((usize, usize), Vec<&'k str>), EditError> {
        let split = |rest: &'k str| rest.split('.').filter(|part| !part.is_empty()).collect();
        if let Some(bracketed) = rest.strip_prefix('[') {
            let (object, keys) = bracketed
                .split_once(']')
                .ok_or_else(|| wrong(format!("{kind}{rest}"), "lacks a closing ]"))?;
            return Ok((self.find(kind, object)?, split(keys)));
        }
        let rest = rest.trim_start_matches('.');
        let dots = rest.match_indices('.').map(|(at, _)| at).rev();
        let found = dots.filter_map(|at| {
            let (object, keys) = rest.split_at(at);
            Some((self.find(kind, object).ok()?, split(keys)))
        });
        let first = rest.split('.').next().unwrap_or_default();
        let mut found = found;
        match found.next() {
            Some(found) => Ok(found),
            None => self.find(kind, first).map(|at| (at, Vec::new())),
        }
    }
}

/// Gives a key of a table a value or takes it out.
fn change(
    table: &mut dyn TableLike,
    path: &[&str],
    keys: Option<&[Key]>,
    value: Option<&str>,
) -> Result<(), String> {
    match (value, path) {
        (Some(text), _) => put(table, path, keys, text),
        (None, [name]) => {
            table.remove(name);
            Ok(())
        }
        (None, [name, rest @ ..]) => {
            let inner = table.get_mut(name).and_then(Item::as_table_like_mut);
            inner.map_or(Ok(()), |inner| change(inner, rest, None, None))
        }
        (None, []) => Ok(()),
    }
}

/// Writes a value where `path` leads, in place of the one that is there; tables on the way come into being.
fn put(
    table: &mut dyn TableLike,
    path: &[&str],
    keys: Option<&[Key]>,
    text: &str,
) -> Result<(), String> {
    let Some((name, rest)) = path.split_first() else {
        return Ok(());
    };
    if name.is_empty() {
        return Err("a key without a name".to_owned());
    }
    let kind = keys
        .and_then(|keys| keys.iter().find(|key| key.name == *name))
        .map_or(Kind::List, |key| key.kind);
    if !rest.is_empty() {
        let inner = match kind {
            Kind::Inline(keys) => Some(keys),
            _ => None,
        };
        if table.get(name).is_none() {
            table.insert(name, Item::Value(InlineTable::new().into()));
        }
        let nested = table.get_mut(name).and_then(Item::as_table_like_mut);
        return put(nested.ok_or("is no table")?, rest, inner, text);
    }
    let mut value = value_of(kind, text)?;
    match table.get_mut(name) {
        Some(Item::Value(old)) => {
            *value.decor_mut() = old.decor().clone();
            *old = value;
        }
        Some(other) => *other = Item::Value(value),
        None => drop(table.insert(name, Item::Value(value))),
    }
    Ok(())
}

/// The texts of a list or of a single value.
fn texts_of(item: &Item) -> Vec<String> {
    let text = |value: &Value| match value {
        Value::String(text) => text.value().clone(),
        other => other.to_string().trim().to_owned(),
    };
    match item {
        Item::Value(Value::Array(array)) => array.iter().map(text).collect(),
        Item::Value(value) => vec![text(value)],
        _ => Vec::new(),
    }
}
