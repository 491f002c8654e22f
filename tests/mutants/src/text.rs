//! Writes a file with its variants.

use std::ops::Range;

use crate::places::{Arm, Kind, Place, Places};

/// The whole of `text` with all its places woven in.
pub fn render(text: &str, places: &Places) -> String {
    let mut writer = Writer {
        text,
        rest: &places.places,
        out: String::with_capacity(text.len() * 2),
    };
    writer.plain(0..text.len());
    writer.out
}

/// Mutants with the lines of their variants, from 1, as the markers say.
pub fn marked_lines(copy: &str) -> Vec<(u32, usize, usize)> {
    let mut found = Vec::new();
    let mut open = None;
    for (at, line) in copy.lines().enumerate() {
        if let Some(rest) = line.strip_prefix("/*mutant ")
            && let Some((number, _)) = rest.split_once("*/")
        {
            open = number.parse().ok().map(|number| (number, at + 1));
        }
        if line.ends_with("/*end*/")
            && let Some((number, first)) = open.take()
        {
            found.push((number, first, at + 1));
        }
    }
    found
}

struct Writer<'a> {
    text: &'a str,
    /// Places not yet written, in order.
    rest: &'a [Place],
    out: String,
}

impl Writer<'_> {
    /// Text with the places within it.
    fn plain(&mut self, range: Range<usize>) {
        let mut done = range.start;
        while let Some((place, rest)) = self.rest.split_first() {
            if place.range.start >= range.end {
                break;
            }
            self.rest = rest;
            self.out.push_str(&self.text[done..place.range.start]);
            done = place.range.end;
            self.place(place);
        }
        self.out.push_str(&self.text[done..range.end]);
    }

    fn place(&mut self, place: &Place) {
        match &place.kind {
            Kind::Expression(variants) => {
                self.out.push('(');
                self.choice(variants);
                self.plain(place.range.clone());
                self.out.push_str("})");
            }
            Kind::Body(variants) => {
                self.out.push('{');
                self.choice(variants);
                self.plain(place.range.start + 1..place.range.end - 1);
                self.out.push_str("}}");
            }
            Kind::Arm(arm) => self.arm(arm),
            Kind::Nothing => {}
        }
    }

    fn choice(&mut self, variants: &[(u32, String)]) {
        for (number, variant) in variants {
            self.out.push_str(&format!(
                "if crate::mutants::is({number}) {{\n/*mutant {number}*/ {variant}\n/*end*/\n}} else "
            ));
        }
        self.out.push('{');
    }

    fn arm(&mut self, arm: &Arm) {
        let is =
            |number: u32| format!("\n/*mutant {number}*/ crate::mutants::is({number}) /*end*/\n");
        self.out.push_str(" if ");
        if let Some(number) = arm.deleted {
            self.out.push_str(&format!("!{}", is(number)));
        }
        let Some(guard) = &arm.guard else {
            return;
        };
        if arm.deleted.is_some() {
            self.out.push_str(" && ");
        }
        self.out.push('(');
        if let Some(number) = arm.always {
            self.out.push_str(&format!("{} || ", is(number)));
        }
        if let Some(number) = arm.never {
            self.out.push_str(&format!("!{} && ", is(number)));
        }
        self.out.push('(');
        self.plain(guard.clone());
        self.out.push_str("))");
    }
}
