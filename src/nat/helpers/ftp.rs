//! FTP: where commands and replies name the address of a data connection (RFC 959 section 4.1.2, RFC 2428).
//!
//! | line | says | who listens |
//! |---|---|---|
//! | `PORT h1,h2,h3,h4,p1,p2` | address and port | the client |
//! | `EPRT \|1\|10.0.0.2\|40000\|`, `EPRT \|2\|fd00::2\|40000\|` | address and port | the client |
//! | `227 … (h1,h2,h3,h4,p1,p2)` | address and port | the server |
//! | `229 … (\|\|\|40000\|)` | port, the address is that of the control connection | the server |
//!
//! Only whole lines count. One that begins like these and does not end in its segment is to be sent again as a whole: its
//! parts cannot be changed one by one.

use core::ops::Range;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::edit::{Text, text};

/// How a line writes an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Six decimal numbers with commas.
    Six,
    /// RFC 2428 with address: the delimiter.
    Extended(u8),
    /// RFC 2428 without address: the delimiter.
    PortAlone(u8),
}

/// An endpoint named in a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Where in the payload.
    pub range: Range<usize>,
    /// How it is written.
    pub form: Form,
    /// The address, if it is named.
    pub address: Option<IpAddr>,
    /// The port, not 0.
    pub port: u16,
}

/// What a payload has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scan {
    /// Nothing that concerns a translator.
    Nothing,
    /// The beginning of something that does.
    Partial,
    /// An endpoint.
    Named(Named),
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// The one who called: commands.
    Client,
    /// The one who was called: replies.
    Server,
}

/// Longest line that is looked at. RFC 959 sets no bound; those of interest are a few dozen bytes.
const LINE: usize = 512;

/// Looks for the first line that names an endpoint.
pub fn scan(payload: &[u8], speaker: Speaker) -> Scan {
    let mut start = 0;
    for line in payload.split_inclusive(|byte| *byte == b'\n') {
        let whole = line.last() == Some(&b'\n');
        if let Some((verb, skip)) = verb_of(line, speaker).filter(|_| line.len() <= LINE) {
            if !whole {
                return Scan::Partial;
            }
            let named = line.get(skip..).and_then(|text| match verb {
                Verb::Port => six_alone(text),
                Verb::Eprt => extended(text, true),
                Verb::Passive => bracketed_six(text),
                Verb::ExtendedPassive => text
                    .iter()
                    .position(|byte| *byte == b'(')
                    .and_then(|at| moved(extended(text.get(at + 1..)?, false)?, at + 1)),
            });
            if let Some(named) = named.and_then(|named| moved(named, start + skip)) {
                return Scan::Named(named);
            }
        }
        start += line.len();
    }
    Scan::Nothing
}

/// Writes an endpoint as `form` does; six numbers cannot be an IPv6 address.
pub fn write(form: Form, address: IpAddr, port: u16) -> Option<Text> {
    match (form, address) {
        (Form::Six, IpAddr::V6(_)) => None,
        (Form::Six, IpAddr::V4(address)) => {
            let ([a, b, c, d], [high, low]) = (address.octets(), port.to_be_bytes());
            text(format_args!("{a},{b},{c},{d},{high},{low}"))
        }
        (Form::Extended(by), address) => {
            let (by, family) = (char::from(by), if address.is_ipv4() { 1 } else { 2 });
            text(format_args!("{by}{family}{by}{address}{by}{port}{by}"))
        }
        (Form::PortAlone(by), _) => {
            let by = char::from(by);
            text(format_args!("{by}{by}{by}{port}{by}"))
        }
    }
}

#[derive(Clone, Copy)]
enum Verb {
    Port,
    Eprt,
    Passive,
    ExtendedPassive,
}

/// What a line begins with, and how long that is.
fn verb_of(line: &[u8], speaker: Speaker) -> Option<(Verb, usize)> {
    let verbs: [(&[u8], Verb); 2] = match speaker {
        Speaker::Client => [(b"PORT ", Verb::Port), (b"EPRT ", Verb::Eprt)],
        Speaker::Server => [(b"227 ", Verb::Passive), (b"229 ", Verb::ExtendedPassive)],
    };
    verbs.into_iter().find_map(|(word, verb)| {
        let begins = line.get(..word.len())?.eq_ignore_ascii_case(word);
        begins.then_some((verb, word.len()))
    })
}

/// The endpoint, `by` bytes further on.
fn moved(named: Named, by: usize) -> Option<Named> {
    Some(Named {
        range: named.range.start + by..named.range.end + by,
        ..named
    })
}

/// A decimal number of at most five digits at the beginning of `text`, and its length.
fn number(text: &[u8]) -> Option<(u32, usize)> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if !(1..=5).contains(&digits) {
        return None;
    }
    let value = text.iter().take(digits);
    let value = value.fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
    Some((value, digits))
}

/// The first six numbers with commas of a reply, in brackets or not; not part of more than six.
fn bracketed_six(text: &[u8]) -> Option<Named> {
    let part = |byte: &u8| byte.is_ascii_digit() || *byte == b',';
    let mut starts = (0..text.len()).filter(|at| *at == 0 || !text.get(at - 1).is_some_and(part));
    starts.find_map(|at| {
        let named = moved(six_at(text.get(at..)?)?, at)?;
        (!text.get(named.range.end).is_some_and(part)).then_some(named)
    })
}

/// Six numbers with commas at the beginning of `text`, and nothing else in the line.
fn six_alone(text: &[u8]) -> Option<Named> {
    let named = six_at(text)?;
    let rest = text.get(named.range.end..)?;
    matches!(rest, b"\r\n" | b"\n").then_some(named)
}

/// Six numbers with commas at the beginning of `text`.
fn six_at(text: &[u8]) -> Option<Named> {
    let mut bytes = [0u8; 6];
    let mut at = 0;
    for (i, byte) in bytes.iter_mut().enumerate() {
        if i > 0 {
            (text.get(at) == Some(&b',')).then_some(())?;
            at += 1;
        }
        let (value, length) = number(text.get(at..)?)?;
        *byte = u8::try_from(value).ok()?;
        at += length;
    }
    let [a, b, c, d, high, low] = bytes;
    let port = u16::from_be_bytes([high, low]);
    (port != 0).then_some(Named {
        range: 0..at,
        form: Form::Six,
        address: Some(Ipv4Addr::new(a, b, c, d).into()),
        port,
    })
}

/// RFC 2428 section 2 (with the address) or 3 (without) at the beginning of `text`.
fn extended(text: &[u8], with_address: bool) -> Option<Named> {
    let by = *text
        .first()
        .filter(|by| (33..=126).contains(*by) && !by.is_ascii_digit())?;
    let mut at = 1;
    let mut address = None;
    let delimiter = |at: usize| (text.get(at) == Some(&by)).then_some(at + 1);
    if with_address {
        let family = *text.get(at)?;
        at = delimiter(at + 1)?;
        let rest = text.get(at..)?;
        let (named, length) = match family {
            b'1' => dotted(rest)?,
            b'2' => with_colons(rest, by)?,
            _ => return None,
        };
        address = Some(named);
        at = delimiter(at + length)?;
    } else {
        at = delimiter(delimiter(at)?)?;
    }
    let (port, length) = number(text.get(at..)?)?;
    at = delimiter(at + length)?;
    let port = u16::try_from(port).ok().filter(|port| *port != 0)?;
    let form = match with_address {
        true => Form::Extended(by),
        false => Form::PortAlone(by),
    };
    Some(Named {
        range: 0..at,
        form,
        address,
        port,
    })
}

/// An IPv4 address at the beginning of `text`, and its length.
fn dotted(text: &[u8]) -> Option<(IpAddr, usize)> {
    let (mut bytes, mut at) = ([0u8; 4], 0);
    for (i, byte) in bytes.iter_mut().enumerate() {
        if i > 0 {
            (text.get(at) == Some(&b'.')).then_some(())?;
            at += 1;
        }
        let (value, length) = number(text.get(at..)?)?;
        *byte = u8::try_from(value).ok()?;
        at += length;
    }
    Some((Ipv4Addr::from(bytes).into(), at))
}

/// An IPv6 address (RFC 4291 section 2.2) up to the delimiter, which must be nothing that any address may contain.
fn with_colons(text: &[u8], by: u8) -> Option<(IpAddr, usize)> {
    if by.is_ascii_hexdigit() || by == b':' || by == b'.' {
        return None;
    }
    let length = text.iter().position(|byte| *byte == by)?;
    let address = core::str::from_utf8(text.get(..length)?).ok()?;
    Some((address.parse::<Ipv6Addr>().ok()?.into(), length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(payload: &str, speaker: Speaker) -> (String, Form, Option<IpAddr>, u16) {
        match scan(payload.as_bytes(), speaker) {
            Scan::Named(n) => (
                payload[n.range.clone()].to_owned(),
                n.form,
                n.address,
                n.port,
            ),
            other => panic!("{payload:?}: {other:?}"),
        }
    }

    const HOST: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)));

    #[test]
    fn every_form_is_read() {
        use Speaker::*;
        let six = ("10,0,0,2,156,64".to_owned(), Form::Six, HOST, 40000);
        for line in [
            "PORT 10,0,0,2,156,64\r\n",
            "port 10,0,0,2,156,64\n",
            "TYPE I\r\nPORT 10,0,0,2,156,64\r\n",
        ] {
            assert_eq!(named(line, Client), six, "{line:?}");
        }
        for line in [
            "227 Entering Passive Mode (10,0,0,2,156,64).\r\n",
            "227 Entering Passive Mode 10,0,0,2,156,64\r\n",
            "227 =10,0,0,2,156,64\r\n",
            "200 Type set.\r\n227 Mode 7 (10,0,0,2,156,64)\r\n",
        ] {
            assert_eq!(named(line, Server), six, "{line:?}");
        }
        for by in ["|", "!", "~"] {
            let line = "EPRT |1|10.0.0.2|40000|\r\n".replace('|', by);
            let form = Form::Extended(by.as_bytes()[0]);
            let text = "|1|10.0.0.2|40000|".replace('|', by);
            assert_eq!(named(&line, Client), (text, form, HOST, 40000));
            let line = "EPRT |2|fd00:1::a|40000|\r\n".replace('|', by);
            let text = "|2|fd00:1::a|40000|".replace('|', by);
            let host = "fd00:1::a".parse().ok();
            assert_eq!(named(&line, Client), (text, form, host, 40000));
        }
        let line = "229 Entering Extended Passive Mode (|||40000|)\r\n";
        assert_eq!(
            named(line, Server),
            ("|||40000|".to_owned(), Form::PortAlone(b'|'), None, 40000)
        );
    }

    #[test]
    fn what_is_written_is_read_again() {
        for form in [Form::Six, Form::Extended(b'|'), Form::PortAlone(b'!')] {
            for (address, port) in [
                ("0.0.0.0", 1),
                ("255.255.255.255", u16::MAX),
                ("203.0.113.1", 1024),
                ("::", 1),
                ("2001:db8:ffff:ffff:ffff:ffff:ffff:fffe", u16::MAX),
                ("::ffff:203.0.113.1", 1024),
            ] {
                let address: IpAddr = address.parse().unwrap();
                let Some(text) = write(form, address, port) else {
                    assert_eq!((form, address.is_ipv6()), (Form::Six, true));
                    continue;
                };
                let (head, tail, speaker): (&[u8], &[u8], _) = match form {
                    Form::Six => (b"PORT ", b"\r\n", Speaker::Client),
                    Form::Extended(_) => (b"EPRT ", b"\r\n", Speaker::Client),
                    Form::PortAlone(_) => (b"229 ok (", b")\r\n", Speaker::Server),
                };
                let line = [head, &text, tail].concat();
                let Scan::Named(named) = scan(&line, speaker) else {
                    panic!("{form:?}");
                };
                let expected = (form != Form::PortAlone(b'!')).then_some(address);
                assert_eq!(
                    (named.address, named.port, named.form),
                    (expected, port, form)
                );
                assert_eq!(line[named.range], text[..]);
            }
        }
    }

    #[test]
    fn everything_else_is_left_alone() {
        use Speaker::*;
        for (line, speaker) in [
            ("", Client),
            ("PASV\r\n", Client),
            ("EPSV\r\n", Client),
            ("PORT 10,0,0,2,156\r\n", Client),
            ("PORT 10,0,0,2,156,256\r\n", Client),
            ("PORT 10,0,0,2,0,0\r\n", Client),
            ("PORT 10,0,0,2,1,2,3\r\n", Client),
            ("PORT 10,0,0,2,156,64 \r\n", Client),
            ("XPORT 10,0,0,2,156,64\r\n", Client),
            ("EPRT |2|10.0.0.2|40000|\r\n", Client),
            ("EPRT |1|fd00::1|40000|\r\n", Client),
            ("EPRT |3|fd00::1|40000|\r\n", Client),
            ("EPRT |2|fd00::1%eth0|40000|\r\n", Client),
            ("EPRT |2|fd00::1\r\n", Client),
            ("EPRT b2bfd00::1b40000b\r\n", Client),
            ("EPRT .2.::.40000.\r\n", Client),
            ("EPRT |1|10.0.0.2|0|\r\n", Client),
            ("EPRT  1 10.0.0.2 40000 \r\n", Client),
            ("EPRT |1|10.0.0.2|65536|\r\n", Client),
            ("EPRT |1|10.0.0.2|40000\r\n", Client),
            ("227 Entering Passive Mode\r\n", Server),
            ("227 0,0,0,0,0,0,6\r\n", Server),
            ("229 Entering Extended Passive Mode (||40000|)\r\n", Server),
            ("227 (10,0,0,2,156,64)\r\n", Client),
            ("PORT 10,0,0,2,156,64\r\n", Server),
            (" 227 (10,0,0,2,156,64)\r\n", Server),
        ] {
            assert_eq!(scan(line.as_bytes(), speaker), Scan::Nothing, "{line:?}");
        }
    }

    #[test]
    fn the_beginning_of_a_line_is_recognised() {
        assert_eq!(scan(b"PORT 10,0,", Speaker::Client), Scan::Partial);
        assert_eq!(scan(b"TYPE I\r\nEPRT |1|", Speaker::Client), Scan::Partial);
        assert_eq!(scan(b"227 Entering", Speaker::Server), Scan::Partial);
        assert_eq!(
            scan(b"PO", Speaker::Client),
            Scan::Nothing,
            "too little to tell"
        );
    }
}
