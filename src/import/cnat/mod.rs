//! VPP's cnat: the commands of an exec file, and the stanza of the startup file.
//!
//! `cnat translation add` becomes a service; what the SNAT is told becomes a pool, exemptions, static mappings and rules.
//! Both generations of the language are read, that of 2020 and the present one.

mod policy;
mod snat;
mod startup;
mod translation;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use super::emit::Table;
use super::report::Level;
use super::{Input, Options, Report};
use crate::config::nearest;
use policy::{Feature, Group, Kind, Policy};
use translation::{At, Refusal, Translation};
use words::{Statement, Words};

/// Other commands of an exec file: interfaces and routes are tables of their own here.
const OTHERS: &[&str] = &[
    "set interface",
    "set int",
    "create",
    "delete",
    "ip route",
    "ip table",
    "ip neighbor",
    "set ip",
    "set ip6",
    "enable ip6",
    "loopback create",
    "loopback create-interface",
    "bond add",
    "lcp",
    "exec",
    "echo",
    "quit",
];

/// Commands of cnat, for the hint at a misspelt one.
const COMMANDS: &[&str] = &[
    "cnat translation",
    "cnat snat",
    "cnat purge",
    "cnat log",
    "set cnat snat-policy",
    "set cnat feature",
    "set interface feature",
    "show cnat",
    "test cnat",
    "comment",
];

/// Features that translate sources on arrival: name, arc, family.
const FEATURES: &[(&str, &str, bool)] = &[
    ("cnat-snat-ip4", "ip4-unicast", false),
    ("cnat-snat-ip6", "ip6-unicast", true),
    ("ip4-cnat-snat", "ip4-unicast", false),
    ("ip6-cnat-snat", "ip6-unicast", true),
];

struct Importer<'a> {
    options: &'a Options,
    report: &'a mut Report,
    place: String,
    policy: Policy,
    /// With their places.
    services: Vec<(Translation, String)>,
    /// Where an address, protocol and port are taken: the place.
    taken: BTreeMap<(String, &'static str, Option<u16>), String>,
    startup: Vec<Table>,
    /// Interfaces that are used, as they are called here, and not known to exist.
    missing: BTreeSet<String>,
}

pub(super) fn import(inputs: &[Input], options: &Options, report: &mut Report) -> Vec<Table> {
    let before = report.lines.len();
    let mut importer = Importer {
        options,
        report,
        place: String::new(),
        policy: Policy::default(),
        services: Vec::new(),
        taken: BTreeMap::new(),
        startup: Vec::new(),
        missing: BTreeSet::new(),
    };
    for input in inputs {
        importer.file(input);
    }
    let tables = importer.tables();
    // Each file's lines in their order: the last file first, as sorting keeps the order of the others.
    for input in inputs.iter().rev() {
        report.sort_from(before, &input.name);
    }
    tables
}

/// A hint at what may be meant.
fn hint(word: &str, known: &[&'static str]) -> String {
    nearest(word, known.iter().copied())
        .map_or_else(String::new, |best| format!(" (did you mean {best:?}?)"))
}

fn syntax(text: impl Into<String>) -> Refusal {
    ("E-SYNTAX", text.into())
}

impl Importer<'_> {
    fn file(&mut self, input: &Input) {
        let (statements, unclosed) = words::statements(input);
        if let Some(line) = unclosed {
            let place = format!("{}:{line}", input.name);
            self.report.refuse(&place, "the brace is never closed");
            return;
        }
        for (line, statement) in statements {
            self.place = format!("{}:{line}", input.name);
            let mut words = match statement {
                Statement::Several(from, command) => {
                    self.run_together(from, command);
                    continue;
                }
                Statement::Stanza("cnat", words) => {
                    let place = |line: usize| format!("{}:{line}", input.name);
                    let tables = startup::read(&words, place, self.report);
                    self.startup.extend(tables);
                    continue;
                }
                Statement::Stanza(name, _) => {
                    let text = format!("{name} {{ … }} is not cnat's; not read");
                    self.report.note(&self.place, "", text);
                    continue;
                }
                Statement::Wrapped(wrapper, words) => {
                    let text = format!("{wrapper:?} only carries the command to VPP; left out");
                    self.report.note(&self.place, "", text);
                    words
                }
                Statement::Command(words) => words,
            };
            if let Err((code, why)) = self.command(&mut words) {
                self.report.reject(&self.place, code, why);
            }
        }
    }

    fn run_together(&mut self, from: words::Word<'_>, command: words::Word<'_>) {
        let within = match from.column == command.column {
            true => String::new(),
            false => format!(
                " (its word {:?} in column {})",
                command.text, command.column
            ),
        };
        let text = format!(
            "column {}: a second command begins here with {:?}{within}; write each on a line of its own",
            from.column, from.text
        );
        self.report.reject(&self.place, "E-SYNTAX", text);
    }

    fn command(&mut self, words: &mut Words<'_>) -> Result<(), Refusal> {
        let whole = words.rest();
        match words.next().unwrap_or_default() {
            "cnat" => match words.next().unwrap_or_default() {
                "translation" => self.translation(words),
                "snat" => self.old_snat(words),
                "show" => self.operational(&format!("show cnat {}", words.rest())),
                "purge" | "log" => self.operational(""),
                other => {
                    let known = ["translation", "snat", "purge", "log"];
                    Err((
                        "E-UNKNOWN",
                        format!("no command cnat {other}{}", hint(other, &known)),
                    ))
                }
            },
            "cant" => self.operational(&whole.replacen("cant", "cnat", 1).replacen(
                "cnat show",
                "show cnat",
                1,
            )),
            "show" | "test" => {
                let meant = whole.replacen("cant", "cnat", 1);
                self.operational(if meant == whole { "" } else { &meant })
            }
            "set" if words.take("cnat") => match words.next().unwrap_or_default() {
                "snat-policy" => self.snat_policy(words),
                "feature" => self.feature(words),
                other => {
                    let known = ["snat-policy", "feature"];
                    Err((
                        "E-UNKNOWN",
                        format!("no command set cnat {other}{}", hint(other, &known)),
                    ))
                }
            },
            "set" if words.take("interface") && words.take("feature") => {
                self.interface_feature(words)
            }
            first => self.other(first, &whole),
        }
    }

    /// Commands that are not cnat's.
    fn other(&mut self, first: &str, whole: &str) -> Result<(), Refusal> {
        let begins = |known: &&str| {
            let rest = whole.strip_prefix(*known);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        };
        if OTHERS.iter().any(begins) {
            let text =
                "not cnat's: interfaces and routes are [[interface]] and [[route]] here; not read";
            self.report.note(&self.place, "", text);
            return Ok(());
        }
        let two: Vec<&str> = whole.split(' ').take(2).collect();
        let two = two.join(" ");
        let beginnings: Vec<&'static str> = COMMANDS
            .iter()
            .flat_map(|command| command.split(' ').next())
            .collect();
        let near = nearest(&two, COMMANDS.iter().copied())
            .or_else(|| nearest(first, beginnings.iter().copied()));
        let hint = near.map_or_else(String::new, |best| format!(" (did you mean {best:?}?)"));
        Err((
            "E-UNKNOWN",
            format!("no command {first:?} that is known here{hint}"),
        ))
    }

    fn operational(&mut self, meant: &str) -> Result<(), Refusal> {
        let real = match meant.trim() {
            "" => String::new(),
            meant => format!(" (its name is {meant:?})"),
        };
        let text = format!("operational command, no configuration{real}");
        self.report.note(&self.place, "", text);
        Ok(())
    }

    fn translation(&mut self, words: &mut Words<'_>) -> Result<(), Refusal> {
        if words.take("del") {
            let text = "del names a translation of a running VPP by its number: leave out the one that is meant";
            return Err(syntax(text));
        }
        words.take("add");
        let translation = Translation::read(words)?;
        let key = (
            translation.at.shown(),
            translation.proto,
            translation.at.port,
        );
        if let Some(first) = self.taken.get(&key) {
            let text = format!(
                "{}/{} has a translation at {first} already; VPP would put this one into its place",
                key.0, key.1
            );
            return Err(("E-MATCH", text));
        }
        self.taken.insert(key, self.place.clone());
        self.services.push((translation, self.place.clone()));
        Ok(())
    }

    /// `cnat snat with IP`, `cnat snat exclude [del] PFX`.
    fn old_snat(&mut self, words: &mut Words<'_>) -> Result<(), Refusal> {
        let word = words.next().unwrap_or_default();
        match word {
            "with" | "exclude" => {
                let now = if word == "with" { "addr" } else { "prefix" };
                let text = format!(
                    "cnat snat {word} is the language of 2020; it is set cnat snat-policy {now} now"
                );
                self.report.note(&self.place, "", text);
            }
            other => {
                let text = format!(
                    "no command cnat snat {other}{}",
                    hint(other, &["with", "exclude"])
                );
                return Err(("E-UNKNOWN", text));
            }
        }
        self.policy.is_old = true;
        match word {
            "with" => self.source(words),
            _ => self.prefix(words),
        }
    }

    fn snat_policy(&mut self, words: &mut Words<'_>) -> Result<(), Refusal> {
        let word = words.next().unwrap_or_default();
        if let Some((_, kind)) = Kind::ALL.iter().find(|(name, _)| *name == word) {
            policy::first_table(words)?;
            words.end().map_err(syntax)?;
            if let Some((_, place)) = self.policy.kind.replace((*kind, self.place.clone())) {
                self.replaced(&place);
            }
            return Ok(());
        }
        match word {
            "addr" => self.source(words),
            "if" => self.group(words),
            "prefix" => self.prefix(words),
            other => {
                let known = [
                    "addr",
                    "if",
                    "prefix",
                    "none",
                    "if-pfx",
                    "k8s",
                    "dnat",
                    "dnat-only",
                ];
                let text = format!(
                    "no command set cnat snat-policy {other}{}",
                    hint(other, &known)
                );
                Err(("E-UNKNOWN", text))
            }
        }
    }

    fn replaced(&mut self, earlier: &str) {
        let text = format!("{} takes its place", self.place);
        self.report.warn(earlier, "W-SHADOWED", text);
    }

    fn source(&mut self, words: &mut Words<'_>) -> Result<(), Refusal> {
        let mut source = Policy::read_source(words, &self.place)?;
        for address in &mut source.addresses {
            if let Some(name) = address.strip_prefix("interface:") {
                *address = format!("interface:{}", self.interface(name));
            }
        }
        if let Some(earlier) = self.policy.source.replace(source) {
            self.replaced(&earlier.place);
        }
        Ok(())
    }

    /// `[del] table include-v4|include-v6|k8s|host IFACE`.
    fn group(&mut self, words: &mut Words<'_>) -> Result<(), Refusal> {
        let del = words.take("del");
        let (mut group, mut name) = (None, None);
        while let Some(word) = words.next() {
            match word {
                "table" => {
                    let table = words.next().unwrap_or_default();
                    let found = Group::ALL.iter().find(|(known, _)| *known == table);
                    let known: Vec<&'static str> =
                        Group::ALL.iter().map(|(known, _)| *known).collect();
                    let unknown = || {
                        (
                            "E-UNKNOWN",
                            format!("no table {table}{}", hint(table, &known)),
                        )
                    };
                    group = Some(found.ok_or_else(unknown)?.1);
                }
                word if name.is_none() => name = Some(word),
                other => return Err(syntax(format!("{other:?} is not expected here"))),
            }
        }
        let group = group.ok_or_else(|| syntax("no table (include-v4, include-v6, k8s, host)"))?;
        let name = name.ok_or_else(|| syntax("no interface"))?;
        let name = self.interface(name);
        let known = self
            .policy
            .groups
            .iter()
            .position(|(g, n, _)| *g == group && *n == name);
        match (del, known) {
            (false, None) => self.policy.groups.push((group, name, self.place.clone())),
            (false, Some(_)) => {
                self.report
                    .note(&self.place, "", format!("{name} is in this table already"))
            }
            (true, Some(at)) => {
                let (_, _, place) = self.policy.groups.remove(at);
                self.taken_out(&place, &name);
            }
            (true, None) => {
                let text = format!("delete of an interface never added: {name}");
                self.report.warn(&self.place, "", text);
            }
        }
        Ok(())
    }

    /// Says of a statement, and of the one that undoes it, that nothing is left of them.
    fn taken_out(&mut self, added: &str, what: &str) {
        self.report.ok(
            added,
            format!("{what}, which {} takes out again", self.place),
        );
        self.report
            .ok(&self.place, format!("{what} taken out again"));
    }

    fn prefix(&mut self, words: &mut Words<'_>) -> Result<(), Refusal> {
        let del = words.take("del");
        let prefix = Policy::read_prefix(words, &self.place)?;
        words.end().map_err(syntax)?;
        let same =
            |known: &policy::Prefix| known.net == prefix.net && known.by_source == prefix.by_source;
        let known = self.policy.prefixes.iter().position(same);
        match (del, known) {
            (false, None) => self.policy.prefixes.push(prefix),
            (false, Some(at)) if self.policy.prefixes[at].rewritten == prefix.rewritten => {
                let text = format!("{} is there already", prefix.net);
                self.report.note(&self.place, "", text);
            }
            (false, Some(at)) => {
                let earlier = std::mem::replace(&mut self.policy.prefixes[at], prefix);
                self.replaced(&earlier.place);
            }
            (true, Some(at)) => {
                let earlier = self.policy.prefixes.remove(at);
                self.taken_out(&earlier.place, &earlier.net.to_string());
            }
            (true, None) => {
                let text = format!("delete of a prefix never added: {}", prefix.net);
                self.report.warn(&self.place, "", text);
            }
        }
        Ok(())
    }

    /// `IF enable|disable`.
    fn feature(&mut self, words: &mut Words<'_>) -> Result<(), Refusal> {
        let name = words.next().ok_or_else(|| syntax("no interface"))?;
        let on = match words.next() {
            Some("enable") | None => true,
            Some("disable") => false,
            Some(other) => return Err(syntax(format!("{other:?} is neither enable nor disable"))),
        };
        words.end().map_err(syntax)?;
        self.switch(name, on, (true, true), true);
        Ok(())
    }

    /// `IF FEATURE arc ARC [disable]`.
    fn interface_feature(&mut self, words: &mut Words<'_>) -> Result<(), Refusal> {
        let name = words.next().ok_or_else(|| syntax("no interface"))?;
        let feature = words.next().unwrap_or_default();
        let Some((_, arc, v6)) = FEATURES.iter().find(|(known, ..)| *known == feature) else {
            let known: Vec<&'static str> = FEATURES.iter().map(|(known, ..)| *known).collect();
            if feature.contains("cnat") {
                let text = format!("no feature {feature}{}", hint(feature, &known));
                return Err(("E-UNKNOWN", text));
            }
            let text = format!("the feature {feature} is not cnat's; not read");
            self.report.note(&self.place, "", text);
            return Ok(());
        };
        if !words.take("arc") || words.next() != Some(arc) {
            return Err(syntax(format!("{feature} belongs to arc {arc}")));
        }
        let on = !words.take("disable");
        words.end().map_err(syntax)?;
        self.switch(name, on, (!v6, *v6), false);
        Ok(())
    }

    fn switch(&mut self, name: &str, on: bool, (v4, v6): (bool, bool), output: bool) {
        let interface = self.interface(name);
        let feature = Feature {
            interface,
            v4,
            v6,
            output,
            place: self.place.clone(),
        };
        let same = |known: &Feature| {
            (&known.interface, known.v4, known.output) == (&feature.interface, v4, output)
        };
        let known = self.policy.features.iter().position(same);
        match (on, known) {
            (true, None) => self.policy.features.push(feature),
            (true, Some(_)) => self
                .report
                .note(&self.place, "", format!("{name} has it already")),
            (false, Some(at)) => {
                let earlier = self.policy.features.remove(at);
                self.taken_out(&earlier.place, &format!("scope {}", earlier.interface));
            }
            (false, None) => self
                .report
                .note(&self.place, "", format!("{name} does not have it")),
        }
    }

    /// An interface as it is called here.
    fn interface(&mut self, name: &str) -> String {
        let (here, known) = self.options.interface(name);
        if !known {
            self.missing.insert(here.clone());
        }
        here
    }

    fn tables(&mut self) -> Vec<Table> {
        let mut tables = std::mem::take(&mut self.startup);
        self.rules(&mut tables);
        let virtual_addresses: Vec<std::net::IpAddr> = (self.services.iter())
            .filter(|(service, _)| !service.real)
            .filter_map(|(service, _)| match service.at.at {
                At::Address(address) => Some(address),
                At::Interface { .. } => None,
            })
            .collect();
        for (service, place) in std::mem::take(&mut self.services) {
            match self.service(service, &place, &virtual_addresses) {
                Ok(table) => tables.push(table),
                Err((code, why)) => self.report.reject(&place, code, why),
            }
        }
        if !self.missing.is_empty() {
            let names: Vec<&str> = self.missing.iter().map(String::as_str).collect();
            let text = format!("{} must exist as [[interface]]", names.join(", "));
            self.report.note("", "W-IFMAP", text);
        }
        tables
    }

    fn service(
        &mut self,
        mut service: Translation,
        place: &str,
        virtual_addresses: &[std::net::IpAddr],
    ) -> Result<Table, Refusal> {
        if let Some(path) = service
            .paths
            .iter()
            .find(|p| virtual_addresses.contains(&p.to))
        {
            let text = format!(
                "{} is a virtual address of this file: name the servers behind it",
                path.to
            );
            return Err(("E-MATCH", text));
        }
        let mut remarks = std::mem::take(&mut service.remarks);
        let address = match &mut service.at.at {
            At::Address(address) => address.to_string(),
            At::Interface { name, .. } => {
                *name = self.interface(name);
                if self.missing.contains(name) {
                    let text = format!("{name} must exist as [[interface]]");
                    remarks.push((Level::Warn, "W-IFMAP", text));
                }
                format!("interface:{name}")
            }
        };
        let pool = self.policy.source.as_ref();
        let is_own = address.starts_with("interface:")
            || pool.is_some_and(|source| source.addresses.contains(&address));
        if is_own && !service.real {
            let text = "an address of the gateway's own: its other ports keep working, where VPP would drop what no translation wants";
            remarks.push((Level::Warn, "", text.to_owned()));
            service.real = true;
        }
        self.report.ok(place, service.shown());
        if service.maglev.is_none() {
            let text =
                "load balance not given, \"hash\" taken (VPP's command leaves it uninitialised)";
            remarks.push((Level::Note, "", text.to_owned()));
        }
        for (level, code, text) in remarks {
            match level {
                Level::Warn => self.report.warn(place, code, text),
                _ => self.report.note(place, code, text),
            }
        }
        let source = match self.policy.kind() {
            Kind::Kubernetes => "auto",
            _ => "keep",
        };
        Ok(service.table(&address, source, &format!("import:{place}")))
    }
}
