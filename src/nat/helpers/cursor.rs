//! A place in a text that is read from left to right.

use core::ops::Range;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest IPv6 address as text (RFC 4291 section 2.2, with an IPv4 address at its end).
const LONGEST_ADDRESS: usize = 45;

/// Where a reader is in a text; it never gets beyond `end`.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    text: &'a [u8],
    /// The next byte.
    pub at: usize,
    end: usize,
}

impl<'a> Cursor<'a> {
    /// At the beginning of `range`, of which only what `text` has counts.
    pub fn new(text: &'a [u8], range: Range<usize>) -> Cursor<'a> {
        Cursor {
            text,
            at: range.start,
            end: range.end.min(text.len()),
        }
    }

    /// What is still to be read.
    pub fn rest(&self) -> &'a [u8] {
        self.text.get(self.at..self.end).unwrap_or_default()
    }

    /// The next byte.
    pub fn peek(&self) -> Option<u8> {
        self.rest().first().copied()
    }

    /// Whether nothing is left.
    pub fn is_done(&self) -> bool {
        self.rest().is_empty()
    }

    /// Passes `byte` if it is the next one.
    pub fn eat(&mut self, byte: u8) -> bool {
        let next = self.peek() == Some(byte);
        self.at += usize::from(next);
        next
    }

    /// Passes `word`, in capitals or not, if it comes next.
    pub fn eat_word(&mut self, word: &[u8]) -> bool {
        let next = begins(self.rest(), word);
        if next {
            self.at += word.len();
        }
        next
    }

    /// Passes what satisfies `holds`, and returns it.
    pub fn take_while(&mut self, holds: impl Fn(u8) -> bool) -> &'a [u8] {
        let rest = self.rest();
        let length = rest.iter().take_while(|byte| holds(**byte)).count();
        self.at += length;
        rest.get(..length).unwrap_or_default()
    }

    /// Passes white space, line breaks included.
    pub fn skip_space(&mut self) {
        self.take_while(is_space);
    }

    /// Passes a string in quotes, in which a backslash takes the next byte's meaning away.
    pub fn skip_quoted(&mut self) {
        if !self.eat(b'"') {
            return;
        }
        while let Some(byte) = self.peek() {
            self.at = (self.at + 1 + usize::from(byte == b'\\')).min(self.end);
            if byte == b'"' {
                return;
            }
        }
    }

    /// Reads a decimal number of at most nine digits that is no part of a longer one.
    pub fn number(&mut self) -> Option<u32> {
        let start = self.at;
        let digits = self.take_while(|byte| byte.is_ascii_digit());
        if !(1..=9).contains(&digits.len()) {
            self.at = start;
            return None;
        }
        let value = digits.iter();
        Some(value.fold(0, |value, digit| value * 10 + u32::from(digit - b'0')))
    }

    /// Reads a port; 0 is none.
    pub fn port(&mut self) -> Option<u16> {
        let port = u16::try_from(self.number()?).ok()?;
        (port != 0).then_some(port)
    }

    /// Reads an IPv6 address in brackets, or an IPv4 address; nothing else of a name.
    pub fn host(&mut self) -> Option<IpAddr> {
        if self.eat(b'[') {
            let address = self.plain_v6()?;
            return self.eat(b']').then_some(address);
        }
        let name = self.take_while(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
        Some(IpAddr::V4(parsed::<Ipv4Addr>(name)?))
    }

    /// Reads an address without brackets.
    pub fn plain_address(&mut self) -> Option<IpAddr> {
        let start = self.at;
        let v6 = self.plain_v6();
        if v6.is_none() {
            self.at = start;
            return self.host();
        }
        v6
    }

    fn plain_v6(&mut self) -> Option<IpAddr> {
        let name = self.take_while(|byte| byte.is_ascii_hexdigit() || b":.".contains(&byte));
        Some(IpAddr::V6(parsed::<Ipv6Addr>(name)?))
    }
}

fn parsed<A: core::str::FromStr>(name: &[u8]) -> Option<A> {
    let name = core::str::from_utf8(name).ok();
    name.filter(|name| name.len() <= LONGEST_ADDRESS)?
        .parse()
        .ok()
}

/// Space, tab, line break.
pub fn is_space(byte: u8) -> bool {
    b" \t\r\n".contains(&byte)
}

/// Whether `text` begins with `word`, in capitals or not.
pub fn begins(text: &[u8], word: &[u8]) -> bool {
    text.get(..word.len())
        .is_some_and(|head| head.eq_ignore_ascii_case(word))
}

/// Where the line that begins at `at` ends, its line break included.
pub fn line_end(text: &[u8], at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    let length = rest.iter().position(|byte| *byte == b'\n');
    at + length.map_or(rest.len(), |length| length + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(text: &str) -> Cursor<'_> {
        Cursor::new(text.as_bytes(), 0..text.len())
    }

    #[test]
    fn hosts_numbers_and_strings() {
        for (text, host, rest) in [
            ("10.0.0.2:5060", Some("10.0.0.2"), ":5060"),
            ("[fd00::2];lr", Some("fd00::2"), ";lr"),
            ("[::ffff:10.0.0.2]", Some("::ffff:10.0.0.2"), ""),
            ("10.0.0.2.example", None, ""),
            ("10.0.0.256", None, ""),
            ("fd00::2", None, "::2"),
            ("[fd00::2", None, ""),
        ] {
            let mut at = cursor(text);
            assert_eq!(at.host(), host.map(|h| h.parse().unwrap()), "{text}");
            assert_eq!(at.rest(), rest.as_bytes(), "{text}");
        }
        assert_eq!(cursor("fd00::2;").plain_address(), "fd00::2".parse().ok());
        assert_eq!(cursor("10.0.0.2").plain_address(), "10.0.0.2".parse().ok());
        assert_eq!(cursor("65536").port(), None);
        assert_eq!(cursor("1234567890").number(), None);
        let mut at = cursor(r#""a \" b" c"#);
        at.skip_quoted();
        assert_eq!(at.rest(), b" c");
        let mut at = cursor("\"open\\");
        at.skip_quoted();
        assert!(at.is_done());
    }

    #[test]
    fn numbers_have_nine_digits_at_most_and_ports_sixteen_bits() {
        for (text, number, rest) in [
            ("0x", Some(0), "x"),
            ("123456789 ", Some(123_456_789), " "),
            ("1234567890", None, "1234567890"),
            ("x", None, "x"),
            ("", None, ""),
        ] {
            let mut at = cursor(text);
            assert_eq!(
                (at.number(), at.rest()),
                (number, rest.as_bytes()),
                "{text}"
            );
        }
        for (text, port) in [("1", Some(1)), ("65535", Some(65535)), ("0", None)] {
            assert_eq!(cursor(text).port(), port, "{text}");
        }
    }

    #[test]
    fn a_cursor_passes_what_it_is_told_to_and_nothing_else() {
        let mut at = Cursor::new(b"xxSip: y\" zz", 2..9);
        assert!(!at.eat(b's') && at.eat_word(b"sIP") && !at.eat_word(b"tcp"));
        assert_eq!((at.peek(), at.at), (Some(b':'), 5));
        assert!(at.eat(b':'));
        at.skip_space();
        at.skip_quoted();
        assert_eq!(at.take_while(|byte| byte != b' '), b"y\"");
        assert!(at.is_done() && !at.eat(b' ') && at.peek().is_none());
        at.skip_space();
        assert_eq!(at.at, 9);
        let beyond = Cursor::new(b"ab", 1..9);
        assert_eq!(beyond.rest(), b"b");
        assert!(Cursor::new(b"ab", 5..9).is_done());
    }

    #[test]
    fn a_backslash_in_quotes_takes_only_the_next_bytes_meaning_away() {
        for (text, rest) in [
            (r#""a\\" b"#, " b"),
            (r#""\"" b"#, " b"),
            (r#""" b"#, " b"),
            (r#"a "b" c"#, r#"a "b" c"#),
            (r#""a"#, ""),
        ] {
            let mut at = cursor(text);
            at.skip_quoted();
            assert_eq!(at.rest(), rest.as_bytes(), "{text}");
        }
    }

    #[test]
    fn the_longest_address_is_read() {
        let longest = "[0000:0000:0000:0000:0000:ffff:255.255.255.255]";
        assert_eq!(longest.len(), LONGEST_ADDRESS + 2);
        assert_eq!(
            cursor(longest).host(),
            "::ffff:255.255.255.255".parse().ok()
        );
    }

    #[test]
    fn lines_end_behind_their_break() {
        for (at, end) in [(0, 3), (2, 3), (3, 5), (5, 5), (9, 9)] {
            assert_eq!(line_end(b"ab\ncd", at), end, "{at}");
        }
        assert!(begins(b"Via: x", b"via") && !begins(b"Vi", b"via") && !begins(b"xia", b"via"));
        let spaces: Vec<u8> = (0..=255).filter(|byte| is_space(*byte)).collect();
        assert_eq!(spaces, b"\t\n\r ");
    }
}
