//! Chains as one ordered list: natgate's rules know no jumps.
//!
//! A packet runs through a chain, its jumps, and what follows them; the list has the same rules in the same order, each with
//! the conditions of the jumps it lies behind. `RETURN` makes a packet skip the rest of a chain: what would meet it in
//! the callers is written out under its conditions first, and after that it is left untranslated.

use std::collections::{HashMap, HashSet};

use super::super::Report;
use super::conditions::{Clash, Conditions};
use super::rule::Rule;

/// Rules that jumps may add to a list.
const MOST: usize = 4096;

/// Jumps within jumps.
const DEEPEST: usize = 32;

/// An entry of the list.
pub(super) struct Flat<'a> {
    pub rule: &'a Rule,
    /// Its conditions and those of the jumps it lies behind.
    pub when: Conditions,
    /// What becomes of a packet.
    pub end: End,
}

/// What an entry of the list decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// What its target says.
    Target,
    /// `ACCEPT`.
    Accept,
    /// The first chain's policy: `RETURN` out of it, or the end of a chain entered by `-g`.
    Policy,
}

impl Flat<'_> {
    /// In nat: the packet is left as it is.
    pub fn keeps(&self) -> bool {
        self.end != End::Target
    }
}

/// Where a chain was entered from.
#[derive(Clone, Copy)]
struct Frame<'a, 'f> {
    rules: &'a [Rule],
    at: usize,
    up: Option<&'f Frame<'a, 'f>>,
    depth: usize,
}

/// Flattens the chain `name`; adds the lines of the rules that were met to `met`.
pub(super) fn flatten<'a>(
    file: &str,
    chains: &'a HashMap<String, Vec<Rule>>,
    name: &str,
    met: &mut HashSet<usize>,
    report: &mut Report,
) -> Vec<Flat<'a>> {
    let mut walk = Walk {
        file,
        chains,
        list: Vec::new(),
        added: 0,
        translates: name == "POSTROUTING",
        left_out: HashSet::new(),
        met,
        report,
    };
    let rules = chains.get(name).map_or(&[][..], Vec::as_slice);
    walk.chain(rules, 0, &Conditions::default(), None, 0);
    walk.list
}

struct Walk<'a, 'r> {
    file: &'r str,
    chains: &'a HashMap<String, Vec<Rule>>,
    list: Vec<Flat<'a>>,
    /// Entries that jumps added.
    added: usize,
    /// It is the chain of source NAT.
    translates: bool,
    /// Lines that were left out because there were too many.
    left_out: HashSet<usize>,
    met: &'r mut HashSet<usize>,
    report: &'r mut Report,
}

impl<'a> Walk<'a, '_> {
    fn chain(
        &mut self,
        rules: &'a [Rule],
        from: usize,
        when: &Conditions,
        up: Option<&Frame<'a, '_>>,
        depth: usize,
    ) {
        for (at, rule) in rules.iter().enumerate().skip(from) {
            if !rule.refused.is_empty() || rule.never {
                continue;
            }
            self.met.insert(rule.line);
            let file = self.file;
            let place = || format!("{file}:{}", rule.line);
            let both = match when.and(&rule.when) {
                Ok(both) => both,
                Err(Clash::Never) => {
                    let place = place();
                    self.report.note(
                        &place,
                        "",
                        "can never match behind the jump that leads here",
                    );
                    continue;
                }
                Err(Clash::Unsayable(why)) => {
                    let place = place();
                    self.report.reject(&place, "E-MATCH", why);
                    continue;
                }
            };
            if depth > 0 {
                self.added += 1;
                if self.added > MOST {
                    self.too_many(rule);
                    continue;
                }
            }
            match rule.target.name.as_str() {
                "" => {}
                "ACCEPT" => self.end(rule, both, End::Accept),
                "RETURN" => self.leave(rule, both, up),
                target => match self.chains.get(target) {
                    None => self.list.push(Flat {
                        rule,
                        when: both,
                        end: End::Target,
                    }),
                    Some(_) if self.added > MOST => self.too_many(rule),
                    Some(_) if depth >= DEEPEST => {
                        let place = place();
                        self.report.reject(
                            &place,
                            "E-EXPAND",
                            format!("jumps are nested more than {DEEPEST} deep, or in a loop"),
                        );
                    }
                    Some(inner) if rule.target.goto => {
                        self.enters(rule, target);
                        self.chain(inner, 0, &both, up, depth + 1);
                        self.leave(rule, both, up);
                    }
                    Some(inner) => {
                        self.enters(rule, target);
                        let here = Frame {
                            rules,
                            at: at + 1,
                            up,
                            depth,
                        };
                        self.chain(inner, 0, &both, Some(&here), depth + 1);
                    }
                },
            }
        }
    }

    /// A rule is left out because the list has grown too long, and with it whatever it leads to.
    fn too_many(&mut self, rule: &Rule) {
        let mut next = vec![rule];
        while let Some(rule) = next.pop() {
            if !self.left_out.insert(rule.line) {
                continue;
            }
            self.met.insert(rule.line);
            let place = format!("{}:{}", self.file, rule.line);
            let text = format!("jumps add more than {MOST} rules");
            self.report.reject(&place, "E-EXPAND", text);
            next.extend(self.chains.get(&rule.target.name).into_iter().flatten());
        }
    }

    /// The rules of a jump's chain stand in the list themselves.
    fn enters(&mut self, rule: &Rule, chain: &str) {
        let place = format!("{}:{}", self.file, rule.line);
        let text = format!("the rules of the chain {chain} follow, under these conditions");
        self.report.ok(&place, text);
    }

    fn end(&mut self, rule: &'a Rule, when: Conditions, end: End) {
        self.list.push(Flat { rule, when, end });
    }

    /// The packets of `when` skip the rest of this chain and go on where it was entered from.
    fn leave(&mut self, rule: &'a Rule, when: Conditions, up: Option<&Frame<'a, '_>>) {
        if let Some(frame) = up {
            let before = self.list.len();
            self.chain(frame.rules, frame.at, &when, frame.up, frame.depth.max(1));
            let caught = self.list[before..].iter().find(|flat| !flat.keeps());
            if let Some(caught) = caught.filter(|_| self.translates) {
                let line = caught.rule.line;
                let place = format!("{}:{}", self.file, rule.line);
                self.report.warn(&place, "W-REMASQ", format!("what returns here is translated after all, by the caller's rule of line {line}; kept so"));
            }
        }
        self.end(rule, when, End::Policy);
    }
}
