//! Finds the places of a file where mutants go.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use crate::Mutant;

/// Text that has variants.
pub struct Place {
    /// Bytes of the file.
    pub range: Range<usize>,
    pub kind: Kind,
}

pub enum Kind {
    /// An expression, in parentheses; the variants' text by mutant.
    Expression(Vec<(u32, String)>),
    /// A block with its braces.
    Body(Vec<(u32, String)>),
    /// What stands between the pattern and the arrow of a match arm.
    Arm(Arm),
    /// Text that goes: `const` before `fn`.
    Nothing,
}

/// Mutants of a match arm, and the bytes of its guard's condition.
pub struct Arm {
    pub guard: Option<Range<usize>>,
    pub deleted: Option<u32>,
    pub always: Option<u32>,
    pub never: Option<u32>,
}

#[derive(Default)]
pub struct Places {
    /// Outer ones before inner ones.
    pub places: Vec<Place>,
    /// By mutant, the text of the function around it.
    pub functions: BTreeMap<u32, String>,
    /// Mutants that no compiler would take.
    pub impossible: Vec<u32>,
}

/// The places in `text` for `mutants`.
pub fn find(text: &str, mutants: &[&Mutant], constant: &BTreeSet<String>) -> syn::Result<Places> {
    let file = syn::parse_file(text)?;
    let mut by_place: HashMap<(&str, usize, usize), Vec<&Mutant>> = HashMap::new();
    for mutant in mutants {
        by_place
            .entry((&mutant.genre, mutant.line, mutant.column))
            .or_default()
            .push(mutant);
    }
    let mut finder = Finder {
        text,
        by_place,
        constant,
        self_type: String::new(),
        function: None,
        found: Places::default(),
    };
    finder.visit_file(&file);
    // Stable: of places with the same bytes, the one that was visited first is around the other.
    let mut found = finder.found;
    found
        .places
        .sort_by_key(|place| (place.range.start, std::cmp::Reverse(place.range.end)));
    Ok(found)
}

struct Finder<'a> {
    text: &'a str,
    by_place: HashMap<(&'a str, usize, usize), Vec<&'a Mutant>>,
    constant: &'a BTreeSet<String>,
    /// Of the `impl` around, without generics.
    self_type: String,
    /// The bytes of the outermost function around, if mutants can live there.
    function: Option<Range<usize>>,
    found: Places,
}

impl<'a> Finder<'a> {
    /// The mutants of a kind whose span begins where `span` does.
    fn take(&mut self, genre: &'static str, span: Span) -> Vec<&'a Mutant> {
        let Some(function) = &self.function else {
            return Vec::new();
        };
        let start = span.start();
        let taken = self
            .by_place
            .remove(&(genre, start.line, start.column + 1))
            .unwrap_or_default();
        for mutant in &taken {
            self.found
                .functions
                .insert(mutant.number, self.text[function.clone()].to_owned());
        }
        taken
    }

    /// As [`Finder::take`], for what cannot be.
    fn refuse(&mut self, genre: &'static str, span: Span) {
        let mutants = self.take(genre, span);
        self.found
            .impossible
            .extend(mutants.iter().map(|m| m.number));
    }

    /// Text of `whole` with `part` replaced by each mutant's replacement.
    fn variants(
        &self,
        mutants: &[&Mutant],
        whole: &Range<usize>,
        part: &Range<usize>,
    ) -> Vec<(u32, String)> {
        let before = &self.text[whole.start..part.start];
        let after = &self.text[part.end..whole.end];
        let variant = |m: &&Mutant| (m.number, format!("{before} {} {after}", m.replacement));
        mutants.iter().map(variant).collect()
    }

    fn expression(&mut self, genre: &'static str, whole: Range<usize>, part: Span) {
        let mutants = self.take(genre, part);
        if !mutants.is_empty() {
            let variants = self.variants(&mutants, &whole, &part.byte_range());
            self.found.places.push(Place {
                range: whole,
                kind: Kind::Expression(variants),
            });
        }
    }

    /// A function with a body; `inner` visits that.
    fn in_function(
        &mut self,
        whole: Span,
        signature: &syn::Signature,
        block: &syn::Block,
        inner: impl FnOnce(&mut Self),
    ) {
        let name = if self.self_type.is_empty() {
            signature.ident.to_string()
        } else {
            format!("{}::{}", self.self_type, signature.ident)
        };
        let before = self.function.clone();
        if self.constant.contains(&name) && signature.constness.is_some() {
            self.function = None;
        } else {
            if let Some(constness) = signature.constness {
                self.found.places.push(Place {
                    range: constness.span.byte_range(),
                    kind: Kind::Nothing,
                });
            }
            self.function = before.clone().or(Some(whole.byte_range()));
        }
        if let Some(first) = block.stmts.first() {
            let mutants = self.take("FnValue", first.span());
            if !mutants.is_empty() {
                let range = block.span().byte_range();
                let variants = mutants
                    .iter()
                    .map(|m| (m.number, m.replacement.clone()))
                    .collect();
                self.found.places.push(Place {
                    range,
                    kind: Kind::Body(variants),
                });
            }
        }
        inner(self);
        self.function = before;
    }

    /// What the compiler computes has no mutants at run time.
    fn constant(&mut self, inner: impl FnOnce(&mut Self)) {
        let before = self.function.take();
        inner(self);
        self.function = before;
    }
}

/// True if a condition binds names with `let`: it cannot be an operand of anything but `&&`.
fn binds(expression: &syn::Expr) -> bool {
    match expression {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(binary) => binds(&binary.left) || binds(&binary.right),
        _ => false,
    }
}

impl<'a> Visit<'a> for Finder<'_> {
    fn visit_item_impl(&mut self, item: &'a syn::ItemImpl) {
        let before = std::mem::take(&mut self.self_type);
        if let syn::Type::Path(path) = &*item.self_ty
            && let Some(last) = path.path.segments.last()
        {
            self.self_type = last.ident.to_string();
        }
        visit::visit_item_impl(self, item);
        self.self_type = before;
    }

    fn visit_item_fn(&mut self, item: &'a syn::ItemFn) {
        self.in_function(item.span(), &item.sig, &item.block, |this| {
            visit::visit_item_fn(this, item)
        });
    }

    fn visit_impl_item_fn(&mut self, item: &'a syn::ImplItemFn) {
        self.in_function(item.span(), &item.sig, &item.block, |this| {
            visit::visit_impl_item_fn(this, item)
        });
    }

    fn visit_trait_item_fn(&mut self, item: &'a syn::TraitItemFn) {
        match &item.default {
            Some(block) => self.in_function(item.span(), &item.sig, block, |this| {
                visit::visit_trait_item_fn(this, item)
            }),
            None => visit::visit_trait_item_fn(self, item),
        }
    }

    fn visit_item_const(&mut self, item: &'a syn::ItemConst) {
        self.constant(|this| visit::visit_item_const(this, item));
    }

    fn visit_impl_item_const(&mut self, item: &'a syn::ImplItemConst) {
        self.constant(|this| visit::visit_impl_item_const(this, item));
    }

    fn visit_trait_item_const(&mut self, item: &'a syn::TraitItemConst) {
        self.constant(|this| visit::visit_trait_item_const(this, item));
    }

    fn visit_item_static(&mut self, item: &'a syn::ItemStatic) {
        self.constant(|this| visit::visit_item_static(this, item));
    }

    fn visit_expr_const(&mut self, expression: &'a syn::ExprConst) {
        self.constant(|this| visit::visit_expr_const(this, expression));
    }

    fn visit_type(&mut self, of: &'a syn::Type) {
        self.constant(|this| visit::visit_type(this, of));
    }

    fn visit_generic_argument(&mut self, argument: &'a syn::GenericArgument) {
        self.constant(|this| visit::visit_generic_argument(this, argument));
    }

    fn visit_expr_repeat(&mut self, repeat: &'a syn::ExprRepeat) {
        self.visit_expr(&repeat.expr);
    }

    fn visit_pat(&mut self, pattern: &'a syn::Pat) {
        self.constant(|this| visit::visit_pat(this, pattern));
    }

    fn visit_expr_binary(&mut self, binary: &'a syn::ExprBinary) {
        if binds(&binary.left) || binds(&binary.right) {
            self.refuse("BinaryOperator", binary.op.span());
        } else {
            let whole = binary.span().byte_range();
            self.expression("BinaryOperator", whole, binary.op.span());
        }
        visit::visit_expr_binary(self, binary);
    }

    fn visit_expr_unary(&mut self, unary: &'a syn::ExprUnary) {
        let whole = unary.span().byte_range();
        self.expression("UnaryOperator", whole, unary.op.span());
        visit::visit_expr_unary(self, unary);
    }

    fn visit_expr_struct(&mut self, expression: &'a syn::ExprStruct) {
        let whole = expression.span().byte_range();
        let mut variants = Vec::new();
        for field in &expression.fields {
            let mutants = self.take("StructField", field.span());
            let mut part = field.span().byte_range();
            // The comma goes with it.
            let after = &self.text[part.end..whole.end];
            part.end += after.find(',').map_or(0, |comma| comma + 1);
            variants.extend(self.variants(&mutants, &whole, &part));
        }
        if !variants.is_empty() {
            self.found.places.push(Place {
                range: whole,
                kind: Kind::Expression(variants),
            });
        }
        visit::visit_expr_struct(self, expression);
    }

    fn visit_expr_match(&mut self, expression: &'a syn::ExprMatch) {
        // Without an arm for the rest, none can go.
        let rest = |arm: &syn::Arm| {
            let any = matches!(&arm.pat, syn::Pat::Wild(_) | syn::Pat::Ident(_));
            any && arm.guard.is_none()
        };
        if !expression.arms.iter().any(rest) {
            for arm in &expression.arms {
                self.refuse("MatchArm", arm.span());
            }
        }
        visit::visit_expr_match(self, expression);
    }

    fn visit_arm(&mut self, arm: &'a syn::Arm) {
        let deleted = self.take("MatchArm", arm.span());
        let guard = arm.guard.as_ref().map(|(_, condition)| condition.span());
        let guarded = guard.map_or(Vec::new(), |span| self.take("MatchArmGuard", span));
        let number = |to: &str| {
            let found = guarded.iter().find(|m| m.replacement == to);
            found.map(|m| m.number)
        };
        let place = Arm {
            guard: guard.map(|span| span.byte_range()),
            deleted: deleted.first().map(|m| m.number),
            always: number("true"),
            never: number("false"),
        };
        if !deleted.is_empty() || !guarded.is_empty() {
            let start = arm.pat.span().byte_range().end;
            let end = arm.fat_arrow_token.span().byte_range().start;
            self.found.places.push(Place {
                range: start..end,
                kind: Kind::Arm(place),
            });
        }
        visit::visit_arm(self, arm);
    }
}
