//! SIP over UDP: where a message names hosts that are to be sent something (RFC 3261, RFC 3581).
//!
//! | where | says |
//! |---|---|
//! | request line | where the request goes: `INVITE sip:bob@10.0.0.2:5060 SIP/2.0` |
//! | `Via` | where its answer goes: `SIP/2.0/UDP 10.0.0.2:5060;received=192.0.2.1;rport=61000` |
//! | `Contact` | where later requests go: `<sip:alice@10.0.0.2>` |
//! | `Route`, `Record-Route` | whom they pass on their way: `<sip:10.0.0.2;lr>` |
//! | body | where voice and pictures go: see [`sdp`](super::sdp) |
//!
//! `From`, `To` and `Call-ID` are names, not places: both ends compare them, and signatures cover them (RFC 8224). They stay.
//!
//! A message is one datagram. Names that have to be resolved, and URIs that ask for another transport than UDP, are nobody's
//! address here.

use core::ops::Range;
use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::cursor::{Cursor, begins, is_space, line_end};
use super::edit::{Text, text};

/// The most hosts of a message, those of its body aside.
pub const PLACES: usize = 40;

/// The longest message that is looked at.
pub const LONGEST: usize = 4096;

/// The port where none is named (RFC 3261 section 19.1.2).
pub const PORT: u16 = 5060;

/// How an endpoint is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `host` or `host:port`, an IPv6 address in brackets.
    HostPort,
    /// The host alone, in brackets or not: `received`.
    Host {
        /// In brackets.
        bracketed: bool,
    },
    /// The port alone: `rport`.
    Port,
}

/// An endpoint named in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its first byte.
    pub start: usize,
    /// Behind its last byte.
    pub end: usize,
    /// How it is written.
    pub form: Form,
    /// Its address, be it written here or beside.
    pub address: IpAddr,
    /// Its port, if one is written here or beside.
    pub port: Option<u16>,
}

/// What a message has to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The endpoints, in no order.
    pub named: ArrayVec<Named, PLACES>,
    /// The digits of `Content-Length`.
    pub length: Option<Range<usize>>,
    /// The body, if it is a session description.
    pub description: Option<Range<usize>>,
}

/// Why there is no [`Message`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// It is none: a keep-alive, or another protocol.
    Foreign,
    /// It is longer, or names more hosts, than is looked at.
    TooMuch,
}

/// Reads a message.
///
/// # Errors
/// [`Unread`].
pub fn read(message: &[u8]) -> Result<Message, Unread> {
    let first = line_end(message, 0);
    let uri = start_line(message, first).ok_or(Unread::Foreign)?;
    if message.len() > LONGEST {
        return Err(Unread::TooMuch);
    }
    let mut found = Message::default();
    if let Some(uri) = uri {
        add(&mut found, uri_in(message, uri))?;
    }
    let (mut at, mut stated, mut is_description) = (first, None, false);
    while at < message.len() {
        let end = line_end(message, at);
        if message
            .get(at..end)
            .unwrap_or_default()
            .trim_ascii()
            .is_empty()
        {
            at = end;
            break;
        }
        // A line that begins with white space goes on with the one before (RFC 3261 section 7.3.1).
        let mut end = end;
        while matches!(message.get(end), Some(b' ' | b'\t')) {
            end = line_end(message, end);
        }
        let (header, value) = header(message, at..end);
        match header {
            Header::Via => via(message, value, &mut found)?,
            Header::Place => uris(message, value, &mut found)?,
            Header::Length => (stated, found.length) = length(message, value),
            Header::Type => {
                let mut kind = Cursor::new(message, value);
                kind.skip_space();
                is_description = kind.eat_word(b"application/sdp");
            }
            Header::Other => {}
        }
        at = end;
    }
    let end = stated.map_or(message.len(), |stated| at + stated);
    let has_body = at < end && end <= message.len();
    found.description = (is_description && has_body).then_some(at..end);
    Ok(found)
}

/// Writes an endpoint as `named` is written.
pub fn write(named: &Named, address: IpAddr, port: u16) -> Option<Text> {
    // What names no port goes to the usual one.
    let port_stays_out = named.port.is_none() && port == PORT;
    match (named.form, address) {
        (Form::Port, _) => text(format_args!("{port}")),
        (Form::Host { bracketed: true }, IpAddr::V6(v6)) => text(format_args!("[{v6}]")),
        (Form::Host { .. }, address) => text(format_args!("{address}")),
        (Form::HostPort, IpAddr::V4(v4)) if port_stays_out => text(format_args!("{v4}")),
        (Form::HostPort, IpAddr::V6(v6)) if port_stays_out => text(format_args!("[{v6}]")),
        (Form::HostPort, IpAddr::V4(v4)) => text(format_args!("{v4}:{port}")),
        (Form::HostPort, IpAddr::V6(v6)) => text(format_args!("[{v6}]:{port}")),
    }
}

fn add(found: &mut Message, named: Option<Named>) -> Result<(), Unread> {
    named.map_or(Ok(()), |named| {
        found.named.try_push(named).map_err(|_| Unread::TooMuch)
    })
}

/// `None` if the first line, up to `end`, is not SIP's. Of a request the URI.
fn start_line(message: &[u8], end: usize) -> Option<Option<Range<usize>>> {
    const VERSION: &[u8] = b"SIP/2.0";
    let line = message.get(..end)?.trim_ascii_end();
    if begins(line, VERSION) {
        return (line.get(VERSION.len()) == Some(&b' ')).then_some(None);
    }
    let until = line.len().checked_sub(VERSION.len() + 1)?;
    let start = line.iter().position(|byte| *byte == b' ')? + 1;
    let is_method = |byte: &u8| byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(byte);
    let method = line.get(..start - 1)?;
    let well_formed = !method.is_empty()
        && method.iter().all(is_method)
        && start < until
        && line.get(until) == Some(&b' ')
        && begins(line.get(until + 1..)?, VERSION);
    well_formed.then_some(Some(start..until))
}

enum Header {
    Via,
    /// Its URIs are places: `Contact`, `Route`, `Record-Route`.
    Place,
    Length,
    Type,
    Other,
}

/// What a header line is, and where its value is.
fn header(message: &[u8], line: Range<usize>) -> (Header, Range<usize>) {
    const NAMES: [(&[u8], Header); 9] = [
        (b"via", Header::Via),
        (b"v", Header::Via),
        (b"contact", Header::Place),
        (b"m", Header::Place),
        (b"route", Header::Place),
        (b"record-route", Header::Place),
        (b"content-length", Header::Length),
        (b"l", Header::Length),
        (b"content-type", Header::Type),
    ];
    let text = message.get(line.clone()).unwrap_or_default();
    let Some(colon) = text.iter().position(|byte| *byte == b':') else {
        return (Header::Other, line);
    };
    let name = text.get(..colon).unwrap_or_default().trim_ascii_end();
    let value = line.start + colon + 1..line.end;
    let mut names = NAMES.into_iter();
    match names.find(|(known, _)| name.eq_ignore_ascii_case(known)) {
        Some((_, header)) => (header, value),
        None if name.eq_ignore_ascii_case(b"c") => (Header::Type, value),
        None => (Header::Other, value),
    }
}

/// The number of `Content-Length`, and where it is.
fn length(message: &[u8], value: Range<usize>) -> (Option<usize>, Option<Range<usize>>) {
    let mut cursor = Cursor::new(message, value);
    cursor.skip_space();
    let start = cursor.at;
    match cursor.number() {
        Some(length) => (Some(length as usize), Some(start..cursor.at)),
        None => (None, None),
    }
}

/// `host`, `host:port`, or, where `apart`, `host : port`.
fn endpoint(cursor: &mut Cursor<'_>, apart: bool) -> Option<Named> {
    let start = cursor.at;
    let address = cursor.host()?;
    let mut end = cursor.at;
    if apart {
        cursor.skip_space();
    }
    let mut port = None;
    if cursor.eat(b':') {
        if apart {
            cursor.skip_space();
        }
        port = Some(cursor.port()?);
        end = cursor.at;
    }
    is_parted(cursor).then_some(Named {
        start,
        end,
        form: Form::HostPort,
        address,
        port,
    })
}

/// Whether what was read is not part of something longer.
fn is_parted(cursor: &Cursor<'_>) -> bool {
    let parts = |byte: u8| is_space(byte) || b",;?>".contains(&byte);
    cursor.peek().is_none_or(parts)
}

/// The values of a `Via` (RFC 3261 section 20.42).
fn via(message: &[u8], value: Range<usize>, found: &mut Message) -> Result<(), Unread> {
    let mut cursor = Cursor::new(message, value);
    while !cursor.is_done() {
        if sent_over_udp(&mut cursor)
            && let Some(sent_by) = endpoint(&mut cursor, true)
        {
            add(found, Some(sent_by))?;
            for named in parameters(&mut cursor, &sent_by) {
                add(found, Some(named))?;
            }
        }
        while cursor.peek().is_some_and(|byte| byte != b',') {
            match cursor.peek() {
                Some(b'"') => cursor.skip_quoted(),
                _ => cursor.at += 1,
            }
        }
        cursor.eat(b',');
    }
    Ok(())
}

/// Passes `SIP/2.0/UDP `, if that comes next.
fn sent_over_udp(cursor: &mut Cursor<'_>) -> bool {
    for word in [&b"SIP"[..], b"/", b"2.0", b"/", b"UDP"] {
        cursor.skip_space();
        if !cursor.eat_word(word) {
            return false;
        }
    }
    let parted = cursor.peek().is_some_and(is_space);
    cursor.skip_space();
    parted
}

/// What `received` and `rport` (RFC 3581 section 4) say about the sender of a request that named itself `sent_by`.
fn parameters(cursor: &mut Cursor<'_>, sent_by: &Named) -> ArrayVec<Named, 2> {
    let (mut received, mut port) = (None, None);
    loop {
        cursor.skip_space();
        if !cursor.eat(b';') {
            break;
        }
        cursor.skip_space();
        let name = cursor.take_while(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        cursor.skip_space();
        if !cursor.eat(b'=') {
            continue;
        }
        cursor.skip_space();
        let start = cursor.at;
        if name.eq_ignore_ascii_case(b"received") {
            let bracketed = cursor.peek() == Some(b'[');
            let address = cursor.plain_address().filter(|_| is_parted(cursor));
            received = address.map(|address| (start..cursor.at, address, bracketed));
        } else if name.eq_ignore_ascii_case(b"rport") {
            let number = cursor.port().filter(|_| is_parted(cursor));
            port = number.map(|port| (start..cursor.at, port));
        } else {
            cursor.skip_quoted();
        }
        cursor.take_while(|byte| !is_space(byte) && !b";,\"".contains(&byte));
    }
    let address = received.as_ref().map_or(sent_by.address, |r| r.1);
    let number = port.as_ref().map(|(_, port)| *port).or(sent_by.port);
    let named = |range: Range<usize>, form| Named {
        start: range.start,
        end: range.end,
        form,
        address,
        port: number,
    };
    let host = received.map(|(range, _, bracketed)| named(range, Form::Host { bracketed }));
    let port = port.map(|(range, _)| named(range, Form::Port));
    host.into_iter().chain(port).collect()
}

/// The URIs of a header's values.
fn uris(message: &[u8], value: Range<usize>, found: &mut Message) -> Result<(), Unread> {
    let mut cursor = Cursor::new(message, value.clone());
    while let Some(byte) = cursor.peek() {
        match byte {
            b'"' => cursor.skip_quoted(),
            b'<' => {
                cursor.at += 1;
                let start = cursor.at;
                cursor.take_while(|byte| byte != b'>');
                add(found, uri_in(message, start..cursor.at))?;
            }
            // Without brackets, semicolons, commas and question marks are not the URI's (RFC 3261 section 20.10).
            byte if byte.is_ascii_alphabetic() => {
                let start = cursor.at;
                cursor.take_while(|byte| !is_space(byte) && !b",;?<\"".contains(&byte));
                add(found, uri_in(message, start..cursor.at))?;
            }
            // Parameters of the value up to the next one.
            b';' => {
                while cursor.peek().is_some_and(|byte| byte != b',') {
                    match cursor.peek() {
                        Some(b'"') => cursor.skip_quoted(),
                        _ => cursor.at += 1,
                    }
                }
            }
            _ => cursor.at += 1,
        }
    }
    Ok(())
}

/// The host of a URI that takes up all of `range` (RFC 3261 section 19.1).
fn uri_in(message: &[u8], range: Range<usize>) -> Option<Named> {
    let mut cursor = Cursor::new(message, range);
    cursor.skip_space();
    cursor.eat_word(b"sip:").then_some(())?;
    if let Some(user) = cursor.rest().iter().position(|byte| *byte == b'@') {
        cursor.at += user + 1;
    }
    let named = endpoint(&mut cursor, false)?;
    let other = cursor.rest().split(|byte| *byte == b';').any(|parameter| {
        begins(parameter, b"transport=")
            && !parameter
                .trim_ascii_end()
                .eq_ignore_ascii_case(b"transport=udp")
    });
    (!other).then_some(named)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is named, as written, with its port.
    fn named(message: &str) -> Vec<(&str, Option<u16>)> {
        let found = read(message.as_bytes()).unwrap();
        let all = found.named.iter();
        all.map(|n| (&message[n.start..n.end], n.port)).collect()
    }

    fn headers(lines: &str) -> String {
        format!("SIP/2.0 200 OK\r\n{lines}\r\n\r\n")
    }

    #[test]
    fn a_request_names_hosts_in_its_headers() {
        let message = "INVITE sip:bob@203.0.113.9:5070;user=phone SIP/2.0\r\n\
            Via: SIP/2.0/UDP 10.0.0.2:5062;branch=z9hG4bK1;rport\r\n\
            v: SIP / 2.0 / UDP [fd00::2] : 5064 ;received=\"x\", SIP/2.0/UDP 10.0.0.3\r\n\
            From: \"sip:1@1.1.1.1\" <sip:alice@10.0.0.2>;tag=1\r\n\
            To: <sip:bob@203.0.113.9>\r\n\
            Call-ID: 1@10.0.0.2\r\n\
            Contact: \"a <sip:1.2.3.4>\" <sip:alice@10.0.0.2:5062;transport=udp>;expires=60,\r\n\
            \x20 sip:10.0.0.7;q=1\r\n\
            m: <sip:alice@10.0.0.2;transport=tcp>, <sips:alice@10.0.0.2>, <tel:1>, *\r\n\
            Route: <sip:10.0.0.1;lr>\r\n\
            Record-Route: <sip:x@[fd00::1]:5099;lr>\r\n\
            Content-Type: application/sdp\r\n\
            l: 4\r\n\r\nv=0\ntrailing";
        let expected = [
            ("203.0.113.9:5070", Some(5070)),
            ("10.0.0.2:5062", Some(5062)),
            ("[fd00::2] : 5064", Some(5064)),
            ("10.0.0.3", None),
            ("10.0.0.2:5062", Some(5062)),
            ("10.0.0.7", None),
            ("10.0.0.1", None),
            ("[fd00::1]:5099", Some(5099)),
        ];
        assert_eq!(named(message), expected);
        let found = read(message.as_bytes()).unwrap();
        assert_eq!(&message[found.length.unwrap()], "4");
        assert_eq!(&message[found.description.unwrap()], "v=0\n");
    }

    #[test]
    fn a_response_tells_what_was_seen() {
        let message = headers(
            "Via: SIP/2.0/UDP 10.0.0.2:5060;rport=61000;branch=1;received=203.0.113.1,\
             SIP/2.0/UDP host.example:5060;received=10.0.0.9, SIP/2.0/TCP 10.0.0.2",
        );
        let expected = [
            ("10.0.0.2:5060", Some(5060)),
            ("203.0.113.1", Some(61000)),
            ("61000", Some(61000)),
        ];
        assert_eq!(named(&message), expected);
        let found = read(message.as_bytes()).unwrap();
        let seen: IpAddr = "203.0.113.1".parse().unwrap();
        assert_eq!(
            (found.named[1].address, found.named[2].address),
            (seen, seen)
        );
    }

    #[test]
    fn what_is_written_is_read_again() {
        for (place, form) in [
            ("10.0.0.2", "Contact: <sip:X>"),
            ("[fd00::2]:7", "Via: SIP/2.0/UDP X"),
        ] {
            for address in ["203.0.113.1", "2001:db8:ffff:ffff:ffff:ffff:ffff:fffe"] {
                for port in [1, PORT, u16::MAX] {
                    let message = headers(&form.replace('X', place));
                    let old = read(message.as_bytes()).unwrap().named[0];
                    let address: IpAddr = address.parse().unwrap();
                    let text = write(&old, address, port).unwrap();
                    let mut changed = message.into_bytes();
                    changed.splice(old.start..old.end, text);
                    let new = read(&changed).unwrap().named[0];
                    assert_eq!((new.address, new.port.unwrap_or(PORT)), (address, port));
                }
            }
        }
    }

    #[test]
    fn other_datagrams_are_none() {
        for text in [
            "",
            "\r\n\r\n",
            "\0\x01\0\0!\x12\x24B",
            "SIP/2.0",
            "SIP/2.0200 OK\r\n",
            "INVITE sip:bob@10.0.0.2 HTTP/1.1\r\n\r\n",
            "INVITE SIP/2.0\r\n\r\n",
            " sip:10.0.0.2 SIP/2.0\r\n\r\n",
            "IN VITE\tsip:10.0.0.2 SIP/2.1\r\n\r\n",
        ] {
            assert_eq!(read(text.as_bytes()), Err(Unread::Foreign), "{text:?}");
        }
        let long = headers(&"a".repeat(LONGEST));
        assert_eq!(read(long.as_bytes()), Err(Unread::TooMuch));
        let many = headers(&"Route: <sip:10.0.0.1>\r\n".repeat(PLACES + 1));
        assert_eq!(read(many.as_bytes()), Err(Unread::TooMuch));
    }

    #[test]
    fn a_body_is_as_long_as_is_stated() {
        let body = |length: &str, kind: &str| {
            let text = format!("ACK sip:a SIP/2.0\r\n{length}c: {kind}\r\n\r\nv=0\r\n");
            read(text.as_bytes()).unwrap().description.map(|d| d.len())
        };
        assert_eq!(body("", "application/SDP;x=1"), Some(5));
        assert_eq!(body("Content-Length : 3\r\n", "application/sdp"), Some(3));
        assert_eq!(body("l: 6\r\n", "application/sdp"), None, "cut off");
        assert_eq!(body("l: 0\r\n", "application/sdp"), None);
        assert_eq!(body("l: 5\r\n", "text/plain"), None);
    }

    proptest! {
        #[test]
        fn any_text(text in "(INVITE sip:a SIP/2.0\r\n)?([vm]: ?|SIP/2.0/UDP |<|>|sip:|10.0.0.2|:|;rport=|;received=|[\"\\\\@,;\r\n 0-9a]){0,40}") {
            if let Ok(found) = read(text.as_bytes()) {
                for named in &found.named {
                    prop_assert!(named.start < named.end && named.end <= text.len());
                }
            }
        }
    }

    #[test]
    fn only_whole_endpoints_in_their_places_count() {
        for (lines, found) in [
            ("Contact: <sip:10.0.0.2:5060x>", &[][..]),
            (
                "Contact: sip:10.0.0.7;q=1, sip:10.0.0.8",
                &["10.0.0.7", "10.0.0.8"],
            ),
            (
                "Contact: <sip:10.0.0.2>;sip:10.0.0.9, <sip:10.0.0.3>",
                &["10.0.0.2", "10.0.0.3"],
            ),
            (
                "Contact: <sip:10.0.0.2>;x=\"a, <sip:10.0.0.9>\"",
                &["10.0.0.2"],
            ),
            (
                "Via: SIP/2.0/TCP x;y=\"a, SIP/2.0/UDP 10.0.0.9\", SIP/2.0/UDP 10.0.0.3",
                &["10.0.0.3"],
            ),
        ] {
            let message = headers(lines);
            let all = named(&message);
            let hosts: Vec<&str> = all.iter().map(|(host, _)| *host).collect();
            assert_eq!(hosts, found, "{lines}");
        }
    }

    #[test]
    fn a_received_address_is_written_in_brackets_or_not_and_the_usual_port_not_at_all() {
        for (place, bracketed) in [("[fd00::9]", true), ("fd00::9", false)] {
            let message = headers(&format!(
                "Via: SIP/2.0/UDP a.example, SIP/2.0/UDP [fd00::2];received={place}"
            ));
            let found = read(message.as_bytes()).unwrap().named;
            assert_eq!(found[1].form, Form::Host { bracketed });
            assert_eq!(&message[found[1].start..found[1].end], place);
        }
        let named = |form, port| Named {
            start: 0,
            end: 1,
            form,
            address: "fd00::2".parse().unwrap(),
            port,
        };
        let written = |named: &Named, address: &str, port| {
            let text = write(named, address.parse().unwrap(), port).unwrap();
            String::from_utf8(text.to_vec()).unwrap()
        };
        let (plain, with_port) = (named(Form::HostPort, None), named(Form::HostPort, Some(7)));
        assert_eq!(written(&plain, "fd00::9", PORT), "[fd00::9]");
        assert_eq!(written(&plain, "fd00::9", 9), "[fd00::9]:9");
        assert_eq!(written(&with_port, "fd00::9", PORT), "[fd00::9]:5060");
        assert_eq!(written(&plain, "10.0.0.9", PORT), "10.0.0.9");
        assert_eq!(written(&with_port, "10.0.0.9", PORT), "10.0.0.9:5060");
        assert_eq!(written(&named(Form::Port, Some(7)), "10.0.0.9", 9), "9");
        let host = named(Form::Host { bracketed: true }, None);
        assert_eq!(written(&host, "fd00::9", 9), "[fd00::9]");
        assert_eq!(written(&host, "10.0.0.9", 9), "10.0.0.9");
    }

    #[test]
    fn the_longest_message_is_read_and_unknown_headers_say_nothing() {
        let frame = headers("X: ").len();
        let longest = headers(&format!("X: {}", "a".repeat(LONGEST - frame)));
        assert_eq!(longest.len(), LONGEST);
        assert!(read(longest.as_bytes()).is_ok());
        let unknown = "ACK sip:a SIP/2.0\r\nx: application/sdp\r\n\r\nv=0\r\n";
        assert_eq!(read(unknown.as_bytes()).unwrap().description, None);
        let without = "INVITE  SIP/2.0\r\n\r\n";
        assert_eq!(read(without.as_bytes()), Err(Unread::Foreign));
    }
}
