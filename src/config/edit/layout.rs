//! Elements of an array, inserted and taken out with the layout of lines and the comments at their ends kept.
//!
//! In a document what stands between two elements belongs to the second one: the comment at the end of the first one's line,
//! then the second one's own line. Behind the last element it belongs to the array (or to that element, if no comma follows it).

use toml_edit::{Array, Value};

/// What stands before an element: the rest of the line before, and its own from the line break on.
fn split(text: &str) -> (&str, &str) {
    text.split_at(text.find('\n').unwrap_or(0))
}

fn prefix(value: &Value) -> &str {
    let prefix = value.decor().prefix();
    prefix
        .and_then(|prefix| prefix.as_str())
        .unwrap_or_default()
}

/// Inserts a value before the one at `index`, or behind the last; on a line of its own if that one is.
pub(super) fn insert(array: &mut Array, index: usize, mut value: Value) {
    let index = index.min(array.len());
    let neighbour = array.get(index).or_else(|| array.iter().last());
    let (own, indent) = match neighbour
        .map(prefix)
        .and_then(|prefix| prefix.rsplit_once('\n'))
    {
        Some((_, indent)) => (true, format!("\n{indent}")),
        None => (false, (if index == 0 { "" } else { " " }).to_owned()),
    };
    // What the line before ends with goes behind it, not behind the new value.
    let mut line_end = String::new();
    match array.get_mut(index) {
        Some(next) => {
            let (end, rest) = split(prefix(next));
            line_end = end.to_owned();
            let rest = match own || index > 0 {
                true => rest.to_owned(),
                false => " ".to_owned(),
            };
            next.decor_mut().set_prefix(rest);
        }
        None => close_line(array, &mut line_end),
    }
    value.decor_mut().set_prefix(format!("{line_end}{indent}"));
    array.insert_formatted(index, value);
}

/// Takes the end of the last element's line, and leaves the line break before the bracket to the array.
fn close_line(array: &mut Array, line_end: &mut String) {
    let (end, rest) = split(array.trailing().as_str().unwrap_or_default());
    let (end, rest) = (end.to_owned(), rest.to_owned());
    line_end.push_str(&end);
    array.set_trailing(rest);
    let Some(last) = array
        .len()
        .checked_sub(1)
        .and_then(|last| array.get_mut(last))
    else {
        return;
    };
    let suffix = last.decor().suffix().and_then(|suffix| suffix.as_str());
    let suffix = suffix.unwrap_or_default().to_owned();
    if suffix.is_empty() {
        return;
    }
    last.decor_mut().set_suffix("");
    let (end, rest) = split(&suffix);
    line_end.push_str(end);
    if !rest.is_empty() {
        array.set_trailing(rest);
        array.set_trailing_comma(true);
    }
}

/// Keeps the values for which `keep` says so, given their positions. Comments within the lines of the others, and at their
/// ends, go with them.
pub(super) fn retain(array: &mut Array, mut keep: impl FnMut(usize, &Value) -> bool) {
    let kept: Vec<bool> = (0..)
        .zip(array.iter())
        .map(|(at, value)| keep(at, value))
        .collect();
    let first = array.get(0).map(|value| prefix(value).to_owned());
    let mut last_suffix = String::new();
    // The end of the line before the values taken out.
    let mut line_end: Option<String> = None;
    let mut any = false;
    for (value, &stays) in array.iter_mut().zip(&kept) {
        let (end, rest) = split(prefix(value));
        if !stays {
            line_end = line_end.or_else(|| Some(end.to_owned()));
            let suffix = value.decor().suffix().and_then(|suffix| suffix.as_str());
            last_suffix = suffix.unwrap_or_default().to_owned();
            continue;
        }
        if let Some(end) = line_end.take() {
            let rest = match (any, rest.contains('\n')) {
                (false, false) => first.clone().unwrap_or_default(),
                _ => rest.to_owned(),
            };
            value.decor_mut().set_prefix(format!("{end}{rest}"));
        }
        any = true;
    }
    if let Some(end) = line_end {
        let trailing = array.trailing().as_str().unwrap_or_default();
        let (_, rest) = split(trailing);
        let rest = match rest.is_empty() {
            true => split(&last_suffix).1,
            false => rest,
        };
        let trailing = format!("{end}{rest}");
        array.set_trailing_comma(array.trailing_comma() || trailing.contains('\n'));
        array.set_trailing(trailing);
    }
    let mut kept = kept.into_iter();
    array.retain(|_| kept.next().unwrap_or(true));
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = "[ # all\n  1, # one\n  # the second\n  2, # two\n  3, # three\n]";
    const BARE: &str = "[\n  1, # one\n  2 # two\n]";

    fn array(text: &str) -> Array {
        let value: Value = text.parse().unwrap();
        value.as_array().unwrap().clone()
    }

    fn without(text: &str, gone: &[usize]) -> String {
        let mut array = array(text);
        retain(&mut array, |at, _| !gone.contains(&at));
        array.to_string()
    }

    fn with(text: &str, index: usize) -> String {
        let mut array = array(text);
        insert(&mut array, index, 9.into());
        let text = array.to_string();
        assert!(text.parse::<Value>().is_ok(), "{text}");
        text
    }

    #[test]
    fn a_new_element_gets_a_line_and_comments_stay_with_theirs() {
        assert_eq!(with(LINES, 0), LINES.replace("  1,", "  9,\n  1,"));
        assert_eq!(with(LINES, 1), LINES.replace("# one\n", "# one\n  9,\n"));
        assert_eq!(with(LINES, 2), LINES.replace("  3,", "  9,\n  3,"));
        assert_eq!(
            with(LINES, 3),
            LINES.replace("# three\n", "# three\n  9,\n")
        );
        assert_eq!(with(BARE, 2), "[\n  1, # one\n  2, # two\n  9,\n]");
        assert_eq!(with(BARE, 1), BARE.replace("  2 ", "  9,\n  2 "));
        assert_eq!(with("[1, 2]", 0), "[9, 1, 2]");
        assert_eq!(with("[1, 2]", 1), "[1, 9, 2]");
        assert_eq!(with("[1, 2]", 2), "[1, 2, 9]");
        assert_eq!(with("[]", 0), "[9]");
    }

    #[test]
    fn what_goes_takes_its_comments_along() {
        assert_eq!(without(LINES, &[0]), LINES.replace("  1, # one\n", ""));
        assert_eq!(
            without(LINES, &[1]),
            LINES.replace("  # the second\n  2, # two\n", "")
        );
        assert_eq!(without(LINES, &[2]), LINES.replace("  3, # three\n", ""));
        assert_eq!(without(LINES, &[1, 2]), "[ # all\n  1, # one\n]");
        assert_eq!(without(LINES, &[0, 1]), "[ # all\n  3, # three\n]");
        assert_eq!(
            without(LINES, &[0, 2]),
            "[ # all\n  # the second\n  2, # two\n]"
        );
        assert_eq!(without(BARE, &[1]), "[\n  1, # one\n]");
        assert_eq!(without("[1, 2, 3]", &[0]), "[2, 3]");
        assert_eq!(without("[1, 2, 3]", &[1]), "[1, 3]");
        assert_eq!(without("[1, 2, 3]", &[2]), "[1, 2]");
        assert_eq!(without("[1]", &[0]), "[]");
    }
}
