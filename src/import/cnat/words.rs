//! Lines of VPP commands as words, and what stands around a command: wrappers, a second command, stanzas.

use super::super::Input;

/// Programs that carry a command to VPP; their own options and names may follow.
const WRAPPERS: &[&str] = &[
    "ex_ctl",
    "vppctl",
    "calicovppctl",
    "kubectl",
    "docker",
    "sudo",
];

/// Words that begin a command.
const BEGINNINGS: &[&str] = &["cnat", "cant", "set", "show", "test"];

/// A word and the column it begins in, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word<'a> {
    pub text: &'a str,
    pub column: usize,
}

/// The words of a line; `->`, `:nonat` and braces are words even where no blank is around them.
pub(super) fn split(line: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut rest = line;
    let mut column = 1;
    while let Some(first) = rest.chars().next() {
        let length = if first.is_whitespace() {
            first.len_utf8()
        } else {
            let length = length_of_word(rest);
            let text = &rest[..length];
            words.push(Word { text, column });
            length
        };
        column += rest[..length].chars().count();
        rest = &rest[length..];
    }
    words
}

fn length_of_word(text: &str) -> usize {
    const ALONE: [&str; 3] = ["->", "{", "}"];
    if let Some(mark) = ALONE.iter().find(|mark| text.starts_with(**mark)) {
        return mark.len();
    }
    let blank = text.find(char::is_whitespace).unwrap_or(text.len());
    let marks = ALONE.iter().filter_map(|mark| text.find(mark));
    let end = marks.fold(blank, usize::min);
    match text[..end].strip_suffix(":nonat") {
        Some(before) if !before.is_empty() => before.len(),
        _ => end,
    }
}

/// A cursor over the words of a command.
#[derive(Clone, Debug)]
pub(super) struct Words<'a> {
    words: Vec<Word<'a>>,
    at: usize,
}

impl<'a> Words<'a> {
    pub fn new(words: Vec<Word<'a>>) -> Words<'a> {
        Words { words, at: 0 }
    }

    pub fn peek(&self) -> Option<&'a str> {
        self.words.get(self.at).map(|word| word.text)
    }

    pub fn next(&mut self) -> Option<&'a str> {
        let word = self.peek()?;
        self.at += 1;
        Some(word)
    }

    /// Steps over this word if it comes next.
    pub fn take(&mut self, word: &str) -> bool {
        let is_next = self.peek() == Some(word);
        self.at += usize::from(is_next);
        is_next
    }

    /// Steps over a word and a number if both come next, as in `fib 3`.
    pub fn take_number(&mut self, word: &str) -> Result<Option<u32>, String> {
        if !self.take(word) {
            return Ok(None);
        }
        let text = self.next().unwrap_or_default();
        let number = text.parse::<u32>();
        number
            .map(Some)
            .map_err(|_| format!("{word} {text}: a number is expected"))
    }

    /// Nothing may be left.
    pub fn end(&self) -> Result<(), String> {
        match self.words.get(self.at) {
            None => Ok(()),
            Some(word) => Err(format!(
                "column {}: {:?} is not expected here",
                word.column, word.text
            )),
        }
    }

    /// What is left, as it was written but for the blanks.
    pub fn rest(&self) -> String {
        let left = self.words[self.at..].iter().map(|word| word.text);
        left.collect::<Vec<_>>().join(" ")
    }
}

/// A command without what carried it to VPP: the wrapper, and the words.
pub(super) fn unwrapped<'a>(words: Vec<Word<'a>>) -> (Option<String>, Vec<Word<'a>>) {
    let wraps = |word: &Word<'_>| WRAPPERS.contains(&word.text);
    if !words.first().is_some_and(wraps) {
        return (None, words);
    }
    let begins = |word: &Word<'_>| BEGINNINGS.contains(&word.text);
    let Some(start) = words.iter().position(begins) else {
        return (None, words);
    };
    let wrapper: Vec<&str> = words[..start].iter().map(|word| word.text).collect();
    (Some(wrapper.join(" ")), words[start..].to_vec())
}

/// Where a second command begins on the line: its wrapper or first word, and its first word.
pub(super) fn second<'a>(words: &[Word<'a>]) -> Option<(Word<'a>, Word<'a>)> {
    let is_second = |at: usize| match words[at].text {
        // `set cnat`, `show cnat` and `test cnat` are one command.
        "cnat" | "cant" => at > 1 || (at == 1 && !BEGINNINGS[2..].contains(&words[0].text)),
        "set" | "test" => at > 0,
        "show" => at > 1,
        _ => false,
    };
    let command = (0..words.len()).find(|at| is_second(*at));
    let wrapper = words
        .iter()
        .skip(1)
        .position(|w| WRAPPERS.contains(&w.text));
    let wrapper = wrapper.map(|at| at + 1);
    let at = command.or(wrapper)?;
    let from = wrapper.filter(|wrapper| *wrapper < at).unwrap_or(at);
    Some((words[from], words[at]))
}

/// What a file consists of.
#[derive(Clone, Debug)]
pub(super) enum Statement<'a> {
    Command(Words<'a>),
    /// Several commands on one line: where the second begins.
    Several(Word<'a>, Word<'a>),
    /// A command that something carried to VPP.
    Wrapped(String, Words<'a>),
    /// A stanza of the startup file: its name and the words in it, each with its line.
    Stanza(&'a str, Vec<(usize, &'a str)>),
}

/// The statements of a file with their lines, and the line of a brace that is never closed.
pub(super) fn statements(input: &Input) -> (Vec<(usize, Statement<'_>)>, Option<usize>) {
    let mut found = Vec::new();
    let mut open: Option<Open<'_>> = None;
    for (number, line) in (1..).zip(input.text.lines()) {
        let words = match &open {
            None => split(line),
            // What stands behind a number sign is a comment inside of stanzas, too.
            Some(_) => split(line.split_once('#').map_or(line, |(before, _)| before)),
        };
        if let Some(stanza) = open.as_mut() {
            if stanza.read(number, &words) {
                found.extend(open.take().and_then(Open::statement));
            }
            continue;
        }
        let Some(first) = words.first() else { continue };
        if first.text.starts_with('#') {
            continue;
        }
        let braced = words.get(1).is_some_and(|word| word.text == "{");
        if braced {
            let mut stanza = Open {
                line: number,
                name: first.text,
                depth: 0,
                words: Vec::new(),
            };
            match stanza.read(number, &words[1..]) {
                true => found.extend(stanza.statement()),
                false => open = Some(stanza),
            }
            continue;
        }
        if first.text == "comment" {
            continue;
        }
        let (wrapper, words) = unwrapped(words);
        let statement = match (second(&words), wrapper) {
            (Some((from, command)), _) => Statement::Several(from, command),
            (None, Some(wrapper)) => Statement::Wrapped(wrapper, Words::new(words)),
            (None, None) => Statement::Command(Words::new(words)),
        };
        found.push((number, statement));
    }
    (found, open.map(|stanza| stanza.line))
}

/// A stanza that is being read.
struct Open<'a> {
    line: usize,
    name: &'a str,
    depth: usize,
    words: Vec<(usize, &'a str)>,
}

impl<'a> Open<'a> {
    /// Reads words of a line; true when the stanza is closed.
    fn read(&mut self, line: usize, words: &[Word<'a>]) -> bool {
        for word in words {
            match word.text {
                "{" => self.depth += 1,
                "}" => self.depth = self.depth.saturating_sub(1),
                // What is nested deeper belongs to a key that is not cnat's.
                text if self.depth == 1 => self.words.push((line, text)),
                _ => {}
            }
            if self.depth == 0 {
                return true;
            }
        }
        false
    }

    fn statement(self) -> Option<(usize, Statement<'a>)> {
        (self.name != "comment").then_some((self.line, Statement::Stanza(self.name, self.words)))
    }
}
