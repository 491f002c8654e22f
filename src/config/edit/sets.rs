//! Members of named sets, and addresses of interfaces: lists that are changed element by element.

use std::net::IpAddr;

use hashbrown::HashSet;
use ipnet::IpNet;
use toml_edit::{Array, DocumentMut, Item, Table, Value};

use super::super::report::hint;
use super::{Documents, EditError, layout, list, missing, texts_of, wrong};

/// A member in the one form in which it is compared: an address is its own prefix.
fn normal(member: &str) -> String {
    match member.trim().parse::<IpAddr>() {
        Ok(address) => IpNet::from(address).to_string(),
        Err(_) => member.trim().to_owned(),
    }
}

/// The list behind a key as an array; a single value becomes one.
fn as_array(item: &mut Item) -> Option<&mut Array> {
    if let Item::Value(value) = item
        && !value.is_array()
        && !value.is_inline_table()
    {
        let mut only = value.clone();
        let decor = std::mem::take(only.decor_mut());
        let mut array = Array::new();
        array.push_formatted(only);
        *value = Value::Array(array);
        *value.decor_mut() = decor;
    }
    item.as_array_mut()
}

/// Adds what is not there yet, keeping the array's layout.
fn add(array: &mut Array, members: &[String]) {
    let mut known: HashSet<String> = array.iter().filter_map(Value::as_str).map(normal).collect();
    for member in members {
        if known.insert(normal(member)) {
            layout::insert(array, array.len(), member.trim().into());
        }
    }
}

/// Takes all of `members` out.
fn delete(array: &mut Array, members: &[String], key: &str) -> Result<(), EditError> {
    let mut wanted: HashSet<String> = members.iter().map(|member| normal(member)).collect();
    let unwanted: HashSet<String> = wanted.clone();
    layout::retain(array, |_, value| {
        let member = value.as_str().map(normal).unwrap_or_default();
        wanted.remove(&member);
        !unwanted.contains(&member)
    });
    match members
        .iter()
        .find(|member| wanted.contains(&normal(member)))
    {
        Some(absent) => Err(missing(key, format!("{absent} is not in it"))),
        None => Ok(()),
    }
}

/// The member list of a set in a document: the set itself, or `members` of its table.
fn members_mut<'a>(doc: &'a mut DocumentMut, set: &str) -> Option<&'a mut Array> {
    let item = doc.get_mut("sets")?.as_table_like_mut()?.get_mut(set)?;
    if item.is_table_like() {
        let table = item.as_table_like_mut()?;
        if !table.contains_key("members") {
            table.insert("members", Item::Value(Array::new().into()));
        }
        return as_array(table.get_mut("members")?);
    }
    as_array(item)
}

/// The named sets of a document.
pub(super) fn names(doc: &DocumentMut) -> Vec<&str> {
    let sets = doc.get("sets").and_then(Item::as_table_like);
    sets.map(|sets| sets.iter().map(|(name, _)| name).collect())
        .unwrap_or_default()
}

impl Documents {
    /// The document whose word counts for a set: the last that has it.
    fn document_of_set(&self, set: &str) -> Option<usize> {
        self.docs
            .iter()
            .rposition(|(_, doc)| names(doc).contains(&set))
    }

    fn absent_set(&self, set: &str) -> EditError {
        let known: Vec<&str> = self.docs.iter().flat_map(|(_, doc)| names(doc)).collect();
        missing(
            format!("sets.{set}"),
            format!("there is no set @{set} ({})", hint(set, &known)),
        )
    }

    pub(super) fn add_members(
        &mut self,
        set: &str,
        members: &[String],
        origin: &str,
    ) -> Result<(), EditError> {
        let set = set.trim_start_matches('@');
        if self.document_of_set(set).is_none() {
            let mut table = Table::new();
            table.insert("origin", toml_edit::value(origin));
            table.insert("members", toml_edit::value(Array::new()));
            self.insert_set(set, Item::Table(table))?;
            self.renew()?;
        }
        let document = self.document_of_set(set).unwrap_or(0);
        let array = members_mut(&mut self.docs[document].1, set);
        let array = array.ok_or_else(|| wrong(format!("sets.{set}"), "is no list"))?;
        add(array, members);
        Ok(())
    }

    pub(super) fn delete_members(
        &mut self,
        set: &str,
        members: &[String],
    ) -> Result<(), EditError> {
        let set = set.trim_start_matches('@');
        let document = self
            .document_of_set(set)
            .ok_or_else(|| self.absent_set(set))?;
        let key = format!("sets.{set}");
        let array = members_mut(&mut self.docs[document].1, set);
        let array = array.ok_or_else(|| wrong(&key, "is no list"))?;
        delete(array, members, &key)
    }

    /// Writes a set into the main document.
    pub(super) fn insert_set(&mut self, set: &str, item: Item) -> Result<(), EditError> {
        let Some((_, doc)) = self.docs.first_mut() else {
            return Err(wrong("sets", "there is no text to write it into"));
        };
        let implicit = || {
            let mut table = Table::new();
            table.set_implicit(true);
            Item::Table(table)
        };
        let sets = doc.entry("sets").or_insert_with(implicit);
        let sets = sets
            .as_table_like_mut()
            .ok_or_else(|| wrong("sets", "is no table"))?;
        sets.insert(set, item);
        Ok(())
    }

    /// Takes a whole set out of every document.
    pub(super) fn delete_set(&mut self, set: &str) -> Result<(), EditError> {
        let set = set.trim_start_matches('@');
        if self.document_of_set(set).is_none() {
            return Err(self.absent_set(set));
        }
        for (_, doc) in &mut self.docs {
            let sets = doc.get_mut("sets").and_then(Item::as_table_like_mut);
            sets.and_then(|sets| sets.remove(set));
        }
        Ok(())
    }

    /// The address list of an interface.
    fn addresses(&mut self, interface: &str) -> Result<&mut Array, EditError> {
        let kind = "interface";
        let (document, index) = self.find(kind, interface)?;
        let key = format!("interface[{interface}].address");
        let entry = list::entry_mut(&mut self.docs[document].1, kind, index);
        let table = entry.ok_or_else(|| wrong(&key, "is no table"))?;
        if !table.contains_key("address") {
            table.insert("address", Item::Value(Array::new().into()));
        }
        let array = table.get_mut("address").and_then(as_array);
        array.ok_or_else(|| wrong(&key, "is no list"))
    }

    pub(super) fn add_address(
        &mut self,
        interface: &str,
        address: &str,
        replace: bool,
    ) -> Result<(), EditError> {
        let list = self.addresses(interface)?;
        let is_v6 = |text: &str| text.contains(':');
        if replace {
            let family = is_v6(address);
            // In the place of the first one of the family, which is the primary address.
            let texts = texts_of(&Item::Value(list.clone().into()));
            let first = texts.iter().position(|text| is_v6(text) == family);
            layout::retain(list, |_, value| {
                value.as_str().is_none_or(|text| is_v6(text) != family)
            });
            layout::insert(list, first.unwrap_or(list.len()), address.into());
        } else {
            add(list, &[address.to_owned()]);
        }
        Ok(())
    }

    pub(super) fn delete_address(
        &mut self,
        interface: &str,
        address: &str,
    ) -> Result<(), EditError> {
        let key = format!("interface[{interface}].address");
        delete(self.addresses(interface)?, &[address.to_owned()], &key)
    }
}
