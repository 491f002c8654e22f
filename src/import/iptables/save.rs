//! The text that `iptables-save` writes, split into tables, chains and statements.

use super::super::Report;

/// A word of a statement, quotes and escapes resolved.
pub(super) type Word = String;

/// A rule as written: what stands behind `-A CHAIN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Statement {
    /// Its line.
    pub line: usize,
    /// Its words.
    pub words: Vec<Word>,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub name: String,
    /// `ACCEPT`, `DROP`; `None` for a user's chain.
    pub policy: Option<String>,
    /// Where it was declared.
    pub line: usize,
    pub rules: Vec<Statement>,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub name: String,
    pub line: usize,
    pub chains: Vec<Chain>,
    index: std::collections::HashMap<String, usize>,
}

impl Table {
    pub fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.get(*self.index.get(name)?)
    }

    fn chain_mut(&mut self, name: &str) -> Option<&mut Chain> {
        self.chains.get_mut(*self.index.get(name)?)
    }
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Save {
    pub tables: Vec<Table>,
    /// Some chain or rule had counters.
    pub counted: bool,
}

const TABLES: &[&str] = &["nat", "filter", "mangle", "raw", "security"];

/// Reads a file. A table without its `COMMIT` makes the whole file invalid; everything else that is wrong concerns a line.
pub(super) fn read(name: &str, text: &str, report: &mut Report) -> Save {
    let mut reader = Reader {
        file: name,
        save: Save::default(),
        open: None,
        carriage: false,
    };
    let mut last = 0;
    for (line, content) in (1..).zip(text.split('\n')) {
        if !content.is_empty() {
            last = line;
        }
        reader.line(line, content, report);
    }
    if let Some(open) = &reader.open {
        report.refuse(
            &format!("{name}:{last}"),
            format!(
                "COMMIT is missing behind this line: the table *{} of line {} was cut off",
                open.name, open.line
            ),
        );
    }
    reader.save
}

struct Reader<'a> {
    file: &'a str,
    save: Save,
    open: Option<Table>,
    carriage: bool,
}

impl Reader<'_> {
    fn line(&mut self, line: usize, content: &str, report: &mut Report) {
        let file = self.file;
        let place = || format!("{file}:{line}");
        let content = match content.strip_suffix('\r') {
            Some(content) => {
                if !self.carriage {
                    report.note(
                        &place(),
                        "",
                        "lines end in CR LF, which iptables-restore refuses; accepted",
                    );
                }
                self.carriage = true;
                content
            }
            None => content,
        };
        let content = content.trim();
        if content.starts_with('#') {
            if content.contains("legacy tables present") {
                report.note(
                    &place(),
                    "",
                    "there are legacy tables, too: import what iptables-legacy-save writes as well",
                );
            }
            return;
        }
        let done = match content.as_bytes().first() {
            None => Ok(()),
            Some(b'*') => self.begin(line, &content[1..], report),
            Some(b':') => self.declare(line, &content[1..]),
            Some(_) if content == "COMMIT" => self.commit(line, report),
            Some(_) => self.statement(line, content, report),
        };
        if let Err((code, why)) = done {
            report.reject(&place(), code, why);
        }
    }

    fn begin(
        &mut self,
        line: usize,
        name: &str,
        report: &mut Report,
    ) -> Result<(), (&'static str, String)> {
        if let Some(open) = self.open.take() {
            report.refuse(
                &format!("{}:{line}", self.file),
                format!(
                    "COMMIT was expected here: the table *{} of line {} is still open",
                    open.name, open.line
                ),
            );
        }
        self.open = Some(Table {
            name: name.to_owned(),
            line,
            chains: Vec::new(),
            index: std::collections::HashMap::new(),
        });
        match TABLES.contains(&name) {
            true => Ok(()),
            false => Err(("E-UNKNOWN", unknown("table", name, TABLES.iter().copied()))),
        }
    }

    /// `:CHAIN POLICY [packets:bytes]`
    fn declare(&mut self, line: usize, content: &str) -> Result<(), (&'static str, String)> {
        let mut words = content.split_whitespace();
        let (Some(name), Some(policy)) = (words.next(), words.next()) else {
            return Err((
                "E-SYNTAX",
                "a chain is declared as :NAME POLICY [packets:bytes]".to_owned(),
            ));
        };
        self.save.counted |= words.next().is_some_and(|counters| counters != "[0:0]");
        let policy = match policy {
            "-" => None,
            "ACCEPT" | "DROP" | "QUEUE" => Some(policy.to_owned()),
            other => {
                return Err((
                    "E-UNKNOWN",
                    unknown("policy", other, ["ACCEPT", "DROP", "-"]),
                ));
            }
        };
        self.add(line, name, policy)
    }

    fn add(
        &mut self,
        line: usize,
        name: &str,
        policy: Option<String>,
    ) -> Result<(), (&'static str, String)> {
        let table = self.open.as_mut().ok_or_else(outside)?;
        if let Some(chain) = table.chain_mut(name) {
            chain.policy = policy;
            return Ok(());
        }
        table.index.insert(name.to_owned(), table.chains.len());
        table.chains.push(Chain {
            name: name.to_owned(),
            policy,
            line,
            rules: Vec::new(),
        });
        Ok(())
    }

    fn commit(&mut self, line: usize, report: &mut Report) -> Result<(), (&'static str, String)> {
        let table = self.open.take().ok_or_else(outside)?;
        if let Some(earlier) = self.save.tables.iter().position(|t| t.name == table.name) {
            let lost = self.save.tables.remove(earlier);
            let text = format!(
                "*{} stands here again and replaces the one of line {}: its rules are lost",
                table.name, lost.line
            );
            report.warn(&format!("{}:{}", self.file, table.line), "", text);
            for rule in lost.chains.iter().flat_map(|chain| &chain.rules) {
                report.warn(
                    &format!("{}:{}", self.file, rule.line),
                    "",
                    format!(
                        "lost: the table of line {} replaces this one (committed in line {line})",
                        table.line
                    ),
                );
            }
        }
        self.save.tables.push(table);
        Ok(())
    }

    /// `[packets:bytes] -A CHAIN …`, and the commands that change chains.
    fn statement(
        &mut self,
        line: usize,
        content: &str,
        report: &mut Report,
    ) -> Result<(), (&'static str, String)> {
        let content = match content
            .strip_prefix('[')
            .and_then(|rest| rest.split_once(']'))
        {
            Some((counters, rest)) => {
                self.save.counted |= counters != "0:0";
                rest
            }
            None => content,
        };
        let mut words = words(content).map_err(|why| ("E-SYNTAX", why))?;
        let command = words.first().cloned().unwrap_or_default();
        let name = words.get(1).cloned().unwrap_or_default();
        if name.is_empty() {
            return Err(("E-SYNTAX", format!("{command:?} needs the name of a chain")));
        }
        match command.as_str() {
            "-N" | "--new-chain" => return self.add(line, &name, None),
            "-P" | "--policy" => return self.add(line, &name, words.get(2).cloned()),
            _ => {}
        }
        let table = self.open.as_mut().ok_or_else(outside)?;
        if table.chain(&name).is_none() {
            let known = table.chains.iter().map(|chain| chain.name.as_str());
            return Err(("E-UNKNOWN", unknown("chain", &name, known)));
        }
        let chain = table.chain_mut(&name).ok_or_else(outside)?;
        match command.as_str() {
            "-A" | "--append" => {
                let words = words.split_off(2);
                chain.rules.push(Statement { line, words });
            }
            "-I" | "--insert" => {
                let position = words.get(2).and_then(|word| word.parse::<usize>().ok());
                let words = words.split_off(2 + usize::from(position.is_some()));
                let at = position
                    .unwrap_or(1)
                    .saturating_sub(1)
                    .min(chain.rules.len());
                chain.rules.insert(at, Statement { line, words });
            }
            "-F" | "--flush" => {
                for rule in chain.rules.drain(..) {
                    let place = format!("{}:{}", self.file, rule.line);
                    report.warn(
                        &place,
                        "",
                        format!("lost: line {line} flushes the chain {name}"),
                    );
                }
            }
            other => {
                return Err((
                    "E-UNKNOWN",
                    unknown("command", other, ["-A", "-I", "-N", "-P", "-F"]),
                ));
            }
        }
        Ok(())
    }
}

fn outside() -> (&'static str, String) {
    (
        "E-SYNTAX",
        "stands outside a table (a *TABLE line must come first)".to_owned(),
    )
}

/// `unknown WHAT "NAME"`, with the nearest known name.
pub(super) fn unknown<'a>(
    what: &str,
    name: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> String {
    match crate::config::nearest(name, known) {
        Some(best) => format!("unknown {what} {name:?} (did you mean {best:?}?)"),
        None => format!("unknown {what} {name:?}"),
    }
}

/// Words, with double quotes and backslash escapes resolved.
fn words(text: &str) -> Result<Vec<Word>, String> {
    let mut words = Vec::new();
    let mut rest = text.chars();
    let (mut word, mut open, mut quoted) = (String::new(), false, false);
    while let Some(c) = rest.next() {
        match c {
            '"' => {
                quoted = !quoted;
                open = true;
            }
            '\\' if quoted => {
                word.extend(rest.next());
            }
            c if c.is_whitespace() && !quoted => {
                if open {
                    words.push(std::mem::take(&mut word));
                    open = false;
                }
            }
            c => {
                word.push(c);
                open = true;
            }
        }
    }
    if quoted {
        return Err("a quote is not closed".to_owned());
    }
    if open {
        words.push(word);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_escapes() {
        assert_eq!(
            words("-A X  --comment \"a \\\"b\\\" -j c\" \"\"").unwrap(),
            ["-A", "X", "--comment", "a \"b\" -j c", ""]
        );
        assert!(words("\"a").is_err());
    }

    #[test]
    fn commands_change_chains() {
        let mut report = Report::default();
        let text = "*nat\n:POSTROUTING ACCEPT [1:2]\n-N u\n[3:4] -A POSTROUTING -j u\n-I POSTROUTING -j a\n-I POSTROUTING 2 -j b\n-A u -j c\n-F u\nCOMMIT\n";
        let save = read("f", text, &mut report);
        let chain = save.tables[0].chain("POSTROUTING").unwrap();
        let targets: Vec<&str> = chain.rules.iter().map(|r| r.words[1].as_str()).collect();
        assert_eq!(targets, ["a", "b", "u"]);
        assert!(save.tables[0].chain("u").unwrap().rules.is_empty() && save.counted);
        let told: Vec<String> = report.lines.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["f:7: warn lost: line 8 flushes the chain u"]);
    }
}
