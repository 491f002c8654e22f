//! filter/FORWARD: what may pass. Rules for packets of the gateway itself have no meaning here.

use std::collections::{HashMap, HashSet};

use super::super::emit::Table;
use super::conditions::Conditions;
use super::flatten::{End, Flat, flatten};
use super::rule::{Place, Refusal, Rule};
use super::source::either;
use super::{Importer, matches, save};

/// The filter as it was written, for the port forwards that have to get through.
pub(super) struct Written {
    pub verdicts: Vec<Verdict>,
    /// What becomes of packets no rule matches, and where that is said.
    pub default_accepts: bool,
    pub line: usize,
}

/// A rule that was written.
pub(super) struct Verdict {
    pub line: usize,
    pub when: Conditions,
    pub accepts: bool,
    /// As the report calls it: `ACCEPT`, `DROP`, `REJECT`.
    pub target: String,
}

/// What FORWARD is made of while it is written.
struct Forward {
    policy: &'static str,
    v6: bool,
    rules: Vec<Table>,
    written: Written,
    /// The line of a rule that takes everything.
    all: Option<usize>,
}

impl Importer<'_> {
    pub(super) fn filter(&mut self, table: &save::Table, v6: bool) {
        let chains = self.read_chains(table, v6, Place::Filter);
        for chain in &table.chains {
            let own = matches!(chain.name.as_str(), "INPUT" | "OUTPUT");
            for rule in chains.get(&chain.name).into_iter().flatten() {
                match own {
                    true => self.own(rule),
                    false => self.tell(rule),
                }
            }
        }
        let mut met = HashSet::new();
        if let Some(chain) = table.chain("FORWARD") {
            self.forward_chain(chain, &chains, v6, &mut met);
        }
        self.unreached(&chains, &met, |importer, line| {
            importer.warn(line, "W-INPUT", LOCAL);
        });
    }

    /// A rule about packets for the gateway itself, or from it.
    fn own(&mut self, rule: &Rule) {
        let owner = rule.refused.iter().any(|(code, _)| *code == "E-OWNER");
        if !owner {
            return self.warn(rule.line, "W-INPUT", LOCAL);
        }
        self.tell(rule);
        let why = "asks for packets of the gateway's own processes";
        self.reject(rule.line, "E-LOCAL", why);
    }

    fn forward_chain(
        &mut self,
        chain: &save::Chain,
        chains: &HashMap<String, Vec<Rule>>,
        v6: bool,
        met: &mut HashSet<usize>,
    ) {
        let policy = match chain.policy.as_deref() {
            None | Some("ACCEPT") => "accept",
            Some("DROP") => "drop",
            Some(other) => {
                let text = format!("the policy {other} has no equivalent");
                self.reject(chain.line, "E-TARGET", text);
                "drop"
            }
        };
        let list = flatten(self.file, chains, "FORWARD", met, self.report);
        let mut forward = Forward {
            policy,
            v6,
            rules: Vec::new(),
            written: Written {
                verdicts: Vec::new(),
                default_accepts: policy == "accept",
                line: chain.line,
            },
            all: None,
        };
        for flat in &list {
            if let Err((code, why)) = self.filter_rule(flat, &mut forward) {
                self.reject(flat.rule.line, code, why);
            }
        }
        let place = self.place(chain.line);
        self.report
            .note(&place, "", format!("filter.default = {policy:?}"));
        let mut head = Table::new("[filter]").text("default", policy);
        if forward.is_stateless() {
            let text = "no rule lets answers through, so they are judged like any packet, as on Linux (established = \"filter\")";
            self.warn(chain.line, "W-STATELESS", text);
            head = head.text("established", "filter");
        }
        self.families(chain.line, &forward);
        self.tables.push(head);
        self.tables.append(&mut forward.rules);
        self.filter = Some(forward.written);
    }

    /// What one family's filter means for the other: its default holds for both, and where the configuration is not known
    /// rules without addresses do, too.
    fn families(&mut self, line: usize, forward: &Forward) {
        let base = self.options.base.as_ref();
        let known = forward.v6 || base.is_some();
        let any = |v: &Verdict| v.when.src.only.is_none() && v.when.dst.only.is_none();
        let rules = !known && forward.written.verdicts.iter().any(any);
        let default = !forward.written.default_accepts;
        let alone = !forward.v6 && base.is_some_and(|base| !base.has_ipv6());
        if alone || !rules && !default {
            return;
        }
        let other = if forward.v6 { "IPv4" } else { "IPv6" };
        let place = self.place(line);
        match known {
            true => {
                let text = format!("the default holds for {other}, too");
                self.report.warn(&place, "", text);
            }
            false => {
                let text = format!(
                    "the default, and rules without addresses, hold for {other}, too, if the gateway has it (--base tells)"
                );
                self.report.note(&place, "", text);
            }
        }
    }

    fn filter_rule(&mut self, flat: &Flat<'_>, forward: &mut Forward) -> Result<(), Refusal> {
        let (rule, target) = (flat.rule, &flat.rule.target);
        let (mut action, mut with) = ("accept", None);
        match (flat.end, target.name.as_str()) {
            (End::Accept, _) => {}
            (End::Policy, _) => action = forward.policy,
            (End::Target, "DROP") => action = "drop",
            (End::Target, "REJECT") => {
                let (answer, unclear) = matches::answer(target.to.as_deref(), forward.v6)?;
                if unclear {
                    let text = format!(
                        "{:?} fits several answers; iptables silently takes {answer}",
                        target.to.as_deref().unwrap_or_default()
                    );
                    self.warn(rule.line, "", text);
                }
                if answer == "tcp-reset" && flat.when.proto.only != Some(6) {
                    return Err(("E-SYNTAX", "tcp-reset needs -p tcp".to_owned()));
                }
                (action, with) = ("reject", Some(answer));
            }
            (End::Target, name) => return Err(self.no_target(name)),
        }
        let ports = flat.when.sport.is_some() || flat.when.dport.is_some() || rule.either.is_some();
        if (ports || flat.when.orig_dport.is_some())
            && !matches!(flat.when.proto.only, Some(6 | 17 | 132))
        {
            return Err((
                "E-MATCH",
                "the filter reads ports of tcp, udp and sctp alone".to_owned(),
            ));
        }
        let icmp = if forward.v6 { 58 } else { 1 };
        if !flat.when.icmp.is_any() && flat.when.proto.only != Some(icmp) {
            return Err(("E-SYNTAX", "ICMP types without -p icmp".to_owned()));
        }
        if let Some(line) = forward.all {
            let text =
                format!("can never match: the rule of line {line} takes everything; left out");
            self.warn(rule.line, "W-SHADOWED", text);
            return Ok(());
        }
        if flat.when.is_any() && rule.either.is_none() {
            forward.all = Some(rule.line);
        }
        for when in either(&flat.when, rule)? {
            self.write_filter_rule(rule, when, (action, with), forward);
        }
        Ok(())
    }

    fn write_filter_rule(
        &mut self,
        rule: &Rule,
        when: Conditions,
        (action, with): (&'static str, Option<&str>),
        forward: &mut Forward,
    ) {
        let number = forward.written.verdicts.len() + 1;
        let answers = action == "accept" && asks_established(&when);
        let mut text = format!(
            "filter.rule #{number}{} action={action}",
            self.describe(&when)
        );
        text.extend(with.map(|with| format!(" reject_with={with}")));
        if answers {
            text.push_str(" (already built in, kept)");
        }
        self.ok(rule.line, text);
        let narrower = Conditions {
            state: Default::default(),
            ..when.clone()
        };
        if answers && !narrower.is_any() {
            let place = self.place(rule.line);
            let text = "answers of all flows that were let through pass, not of these alone (established = \"filter\" would ask the rules)";
            self.report.note(&place, "", text);
        }
        let table = Table::new("[[filter.rule]]").maybe("comment", rule.comment.as_deref());
        let held = self.of_family(when.clone(), forward.v6);
        let table = self
            .conditions(table, &held)
            .text("action", action)
            .maybe("reject_with", with);
        let origin = self.origin(rule.line);
        forward.rules.push(table.text("origin", &origin));
        forward.written.verdicts.push(Verdict {
            line: rule.line,
            when,
            accepts: action == "accept",
            target: action.to_ascii_uppercase(),
        });
    }
}

const LOCAL: &str = "no local service on the dataplane; ignored";

/// Whether a rule is there for answers.
fn asks_established(when: &Conditions) -> bool {
    let only = when.state.only.as_ref();
    only.is_some_and(|only| only.contains("established"))
}

impl Forward {
    /// Whether answers are refused somewhere and let through by no rule that asks for them (E31).
    fn is_stateless(&self) -> bool {
        let verdicts = &self.written.verdicts;
        let refuses = |v: &Verdict| !v.accepts && v.when.state.allows("established");
        let refused = !self.written.default_accepts || verdicts.iter().any(refuses);
        let answered = |v: &Verdict| v.accepts && asks_established(&v.when);
        refused && !verdicts.iter().any(answered)
    }
}
