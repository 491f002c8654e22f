//! Whose an object is, and what that means for a reload.

use toml_edit::{DocumentMut, Item, Table};

use super::super::layers::Text;
use super::{Documents, EditError, kinds, list, missing, sets};

/// What the origins of clients begin with.
pub const CLIENT: &str = "api:";

/// The origin of what a client adds.
pub fn client_origin(client: &str) -> String {
    match client.starts_with(CLIENT) {
        true => client.to_owned(),
        false => format!("{CLIENT}{client}"),
    }
}

fn is_client(origin: Option<&str>) -> bool {
    origin.is_some_and(|origin| origin.starts_with(CLIENT))
}

/// Whether an origin is the one a command names: as it is, without its line, or a client by its name.
fn is_named(origin: &str, named: &str) -> bool {
    let file = origin
        .rsplit_once(':')
        .filter(|(_, line)| !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_digit()));
    origin == named
        || file.is_some_and(|(file, _)| file == named)
        || origin.strip_prefix(CLIENT) == Some(named)
}

fn set_origin<'a>(doc: &'a DocumentMut, set: &str) -> Option<&'a str> {
    let set = doc.get("sets")?.as_table_like()?.get(set)?;
    set.as_table_like()?.get("origin")?.as_str()
}

/// What a client added: kept over a reload.
struct Kept {
    kind: &'static str,
    table: Table,
    /// The objects of the kind before it, nearest first, by their identity.
    behind: Vec<String>,
}

impl Documents {
    /// Takes out every object of an origin.
    pub(super) fn delete_origin(&mut self, named: &str) -> Result<(), EditError> {
        let mut gone = 0;
        for kind in kinds::all() {
            let documents = &self.docs;
            let theirs = self.entries(kind).filter(|((document, _), entry)| {
                let origin = entry.get("origin").unwrap_or(&documents[*document].0);
                is_named(origin, named)
            });
            let theirs: Vec<(usize, usize)> = theirs.map(|(at, _)| at).collect();
            gone += theirs.len();
            // From the end, so that the positions of the others stay.
            theirs.into_iter().rev().for_each(|at| self.take(kind, at));
        }
        for (name, doc) in &mut self.docs {
            let theirs: Vec<String> = sets::names(doc)
                .into_iter()
                .filter(|set| is_named(set_origin(doc, set).unwrap_or(name), named))
                .map(str::to_owned)
                .collect();
            gone += theirs.len();
            let sets = doc.get_mut("sets").and_then(Item::as_table_like_mut);
            if let Some(sets) = sets {
                theirs.iter().for_each(|set| drop(sets.remove(set)));
            }
        }
        match gone {
            0 => Err(missing(
                format!("origin {named}"),
                "nothing has this origin (see the column ORIGIN of `natgate show … verbose`)",
            )),
            _ => Ok(()),
        }
    }

    /// These documents with the clients' objects of the running ones in place of their own: what a reload makes of files.
    ///
    /// # Errors
    /// When a text cannot hold them.
    pub fn with_clients_of(mut self, running: &Documents) -> Result<Documents, EditError> {
        let kept = running.clients();
        for kind in kinds::all() {
            let theirs = self.entries(kind);
            let theirs = theirs.filter(|(_, entry)| is_client(entry.get("origin")));
            let theirs: Vec<(usize, usize)> = theirs.map(|(at, _)| at).collect();
            theirs.into_iter().rev().for_each(|at| self.take(kind, at));
        }
        for (_, doc) in &mut self.docs {
            let theirs: Vec<String> = sets::names(doc)
                .into_iter()
                .filter(|set| is_client(set_origin(doc, set)))
                .map(str::to_owned)
                .collect();
            let sets = doc.get_mut("sets").and_then(Item::as_table_like_mut);
            if let Some(sets) = sets {
                theirs.iter().for_each(|set| drop(sets.remove(set)));
            }
        }
        self.renew()?;
        for object in kept {
            self.put_back(object)?;
        }
        for (_, doc) in &running.docs {
            for set in sets::names(doc) {
                let item = doc.get("sets").and_then(|sets| sets.get(set));
                if let Some(item) = item.filter(|_| is_client(set_origin(doc, set))) {
                    let mut item = item.clone();
                    item.as_table_mut()
                        .into_iter()
                        .for_each(list::forget_positions);
                    self.insert_set(set, item)?;
                }
            }
        }
        self.renew()?;
        Ok(self)
    }

    /// The texts of files as a reload puts them into force, and which clients' objects in them a reload leaves alone.
    ///
    /// # Errors
    /// When a text is not TOML or cannot hold the clients' objects.
    pub fn reloaded(
        files: &[Text],
        running: &[Text],
    ) -> Result<(Vec<Text>, Vec<String>), EditError> {
        let (new, running) = (Documents::of(files)?, Documents::of(running)?);
        // Saved and not changed since, or there are none: the files say it all.
        if new.written_by_clients() == running.written_by_clients() {
            return Ok((files.to_vec(), Vec::new()));
        }
        let (theirs, ours) = (new.client_names(), running.client_names());
        let passed_over = theirs.into_iter().filter(|name| !ours.contains(name));
        let passed_over = passed_over.collect();
        Ok((new.with_clients_of(&running)?.texts(), passed_over))
    }

    /// The clients' objects with their places.
    fn clients(&self) -> Vec<Kept> {
        let mut kept = Vec::new();
        for kind in kinds::all() {
            let mut before: Vec<String> = Vec::new();
            for (_, entry) in self.entries(kind) {
                if is_client(entry.get("origin")) {
                    kept.push(Kept {
                        kind,
                        table: entry.to_table(),
                        behind: before.iter().rev().cloned().collect(),
                    });
                }
                before.push(entry.identity());
            }
        }
        kept
    }

    /// All that is clients', as it is written and where.
    fn written_by_clients(&self) -> Vec<String> {
        let kept = self.clients().into_iter();
        let kept = kept.map(|k| format!("{} {} {:?}", k.kind, k.table, k.behind));
        let mut written: Vec<String> = kept.collect();
        for (_, doc) in &self.docs {
            for set in sets::names(doc) {
                let item = doc.get("sets").and_then(|sets| sets.get(set));
                let item = item.filter(|_| is_client(set_origin(doc, set)));
                written.extend(item.map(|item| format!("set {set} {item}")));
            }
        }
        written
    }

    /// Kinds, names and origins of all objects that are clients'.
    fn client_names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for kept in self.clients() {
            let text = |key: &str| kept.table.get(key).and_then(Item::as_str).unwrap_or("?");
            names.push(format!(
                "{} {} of {}",
                kept.kind,
                text("name"),
                text("origin")
            ));
        }
        for (_, doc) in &self.docs {
            for set in sets::names(doc) {
                let origin = set_origin(doc, set).filter(|origin| is_client(Some(origin)));
                names.extend(origin.map(|origin| format!("set {set} of {origin}")));
            }
        }
        names
    }

    /// Puts an object back behind the nearest one it stood behind that is still there.
    fn put_back(&mut self, object: Kept) -> Result<(), EditError> {
        let Kept {
            kind,
            table,
            behind,
        } = object;
        let find = |identity: &String| {
            let mut entries = self.entries(kind);
            let found = entries.find(|(_, entry)| entry.identity() == *identity);
            found.map(|((document, index), _)| (document, index + 1))
        };
        // All of those gone, its number counts.
        let numbered = || self.objects(kind).get(behind.len()).copied();
        let at = behind.iter().find_map(find).or_else(numbered);
        self.insert(kind, at, table)
    }
}
