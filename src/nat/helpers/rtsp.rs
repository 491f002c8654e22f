//! RTSP: where a session is set up, and which ports its streams come to (RFC 2326 section 12.39).
//!
//! ```text
//!   SETUP rtsp://203.0.113.9/film/audio RTSP/1.0           the client's request
//!   Transport: RTP/AVP;unicast;client_port=4588-4589
//!
//!   RTSP/1.0 200 OK                                        the server's answer
//!   Transport: RTP/AVP;unicast;client_port=4588-4589;server_port=6256-6257;source=203.0.113.9
//! ```
//!
//! Streams inside the connection itself (`RTP/AVP/TCP;interleaved=0-1`) need no ports; their data, between messages, is
//! skipped. Only whole headers count, as only whole lines do of [FTP](super::ftp).

use core::ops::Range;
use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::cursor::{Cursor, begins, is_space, line_end};
use super::edit::{Text, text};

/// The most ports and addresses of a segment.
pub const PLACES: usize = 16;

/// The longest header of a message that is looked at.
const HEADER: usize = 2048;

/// What is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// `client_port`: the first, and the second if there is one.
    ClientPorts(u16, Option<u16>),
    /// `server_port`.
    ServerPorts(u16, Option<u16>),
    /// `source` or `destination`.
    Address(IpAddr),
}

/// A place in a payload that says where streams go or come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The value behind the equals sign.
    pub range: Range<usize>,
    /// What it is.
    pub what: What,
}

/// The places of a payload, in order.
pub type Places = ArrayVec<Named, PLACES>;

/// A payload has the beginning of something that concerns a translator, or more than is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partial;

/// Looks for the places in the messages of a payload that begins with one.
///
/// # Errors
/// [`Partial`].
pub fn scan(payload: &[u8]) -> Result<Places, Partial> {
    let mut found = ArrayVec::new();
    let mut at = 0;
    while at < payload.len() {
        if let Some(end) = interleaved(payload, at) {
            at = end;
            continue;
        }
        let message = payload.get(at..).unwrap_or_default();
        let concerns = begins(message, b"SETUP ") || begins(message, b"RTSP/1.0 ");
        if !concerns && !is_request(message) {
            break;
        }
        match header(payload, at, concerns, &mut found) {
            Some((end, body)) => at = end.saturating_add(body),
            None if concerns => return Err(Partial),
            None => break,
        }
    }
    Ok(found)
}

/// Writes ports as `client_port` and `server_port` have them.
pub fn write_ports(first: u16, second: Option<u16>) -> Option<Text> {
    match second {
        Some(second) => text(format_args!("{first}-{second}")),
        None => text(format_args!("{first}")),
    }
}

/// The end of the interleaved data at `at` (RFC 2326 section 10.12), if there is any.
fn interleaved(payload: &[u8], at: usize) -> Option<usize> {
    let [b'$', _, high, low] = *payload.get(at..)?.first_chunk::<4>()? else {
        return None;
    };
    Some(at + 4 + usize::from(u16::from_be_bytes([high, low])))
}

/// Whether a message begins with the first line of a request.
fn is_request(message: &[u8]) -> bool {
    let line = message.get(..line_end(message, 0)).unwrap_or_default();
    line.trim_ascii_end().ends_with(b" RTSP/1.0")
}

/// Reads the header of the message at `at`: where it ends, and how long its body is. `None` if it does not end here, is too
/// long, or says too much.
fn header(payload: &[u8], at: usize, concerns: bool, found: &mut Places) -> Option<(usize, usize)> {
    let mut length = 0;
    let mut line = line_end(payload, at);
    while line < payload.len() && line - at <= HEADER {
        let end = line_end(payload, line);
        let text = payload.get(line..end)?;
        if text.last() != Some(&b'\n') {
            return None;
        }
        if text.trim_ascii().is_empty() {
            return Some((end, length));
        }
        if begins(text, b"content-length:") {
            let mut cursor = Cursor::new(payload, line + 15..end);
            cursor.skip_space();
            length = cursor.number()? as usize;
        } else if concerns && begins(text, b"transport:") {
            transport(payload, line + 10..end, found)?;
        }
        line = end;
    }
    None
}

/// The alternatives of a transport header. `None` if there is no room for all they name.
fn transport(payload: &[u8], value: Range<usize>, found: &mut Places) -> Option<()> {
    let mut cursor = Cursor::new(payload, value);
    while !cursor.is_done() {
        cursor.skip_space();
        let protocol = cursor.take_while(|byte| !is_space(byte) && !b";,".contains(&byte));
        let lower = protocol.rsplit(|byte| *byte == b'/').next();
        let over_tcp = lower.is_some_and(|lower| lower.eq_ignore_ascii_case(b"TCP"));
        cursor.skip_space();
        while cursor.eat(b';') {
            cursor.skip_space();
            let name = cursor.take_while(|byte| !is_space(byte) && !b"=;,".contains(&byte));
            if cursor.eat(b'=') {
                let start = cursor.at;
                let what = parameter(&mut cursor, name);
                let range = start..cursor.at;
                let ends = cursor
                    .peek()
                    .is_none_or(|byte| is_space(byte) || b";,".contains(&byte));
                if let Some(what) = what.filter(|_| ends && !over_tcp) {
                    found.try_push(Named { range, what }).ok()?;
                }
            }
            cursor.take_while(|byte| !b";,".contains(&byte));
        }
        cursor.take_while(|byte| byte != b',');
        cursor.eat(b',');
    }
    Some(())
}

fn parameter(cursor: &mut Cursor<'_>, name: &[u8]) -> Option<What> {
    if name.eq_ignore_ascii_case(b"client_port") {
        let (first, second) = ports(cursor)?;
        return Some(What::ClientPorts(first, second));
    }
    if name.eq_ignore_ascii_case(b"server_port") {
        let (first, second) = ports(cursor)?;
        return Some(What::ServerPorts(first, second));
    }
    let of_a_host =
        name.eq_ignore_ascii_case(b"source") || name.eq_ignore_ascii_case(b"destination");
    of_a_host.then_some(())?;
    cursor.plain_address().map(What::Address)
}

/// `4588-4589` or `4588`.
fn ports(cursor: &mut Cursor<'_>) -> Option<(u16, Option<u16>)> {
    let first = cursor.port()?;
    let second = match cursor.eat(b'-') {
        true => Some(cursor.port()?),
        false => None,
    };
    Some((first, second))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(payload: &str) -> Vec<(&str, What)> {
        match scan(payload.as_bytes()) {
            Ok(all) => all
                .iter()
                .map(|n| (&payload[n.range.clone()], n.what))
                .collect(),
            Err(Partial) => panic!("partial: {payload:?}"),
        }
    }

    #[test]
    fn requests_and_answers_name_ports() {
        use What::*;
        let setup = "OPTIONS * RTSP/1.0\r\nContent-Length: 3\r\n\r\nabc$\0\0\x05SETUPSETUP rtsp://a/b RTSP/1.0\r\nCSeq: 1\r\n\
            transport: RTP/AVP;unicast;client_port=4588-4589;mode=\"PLAY\", RTP/AVP/TCP;interleaved=0-1;client_port=7, \
            rtp/avp/udp ; destination=10.0.0.2; Client_Port=4590\r\n\r\n";
        let host: IpAddr = "10.0.0.2".parse().unwrap();
        assert_eq!(
            named(setup),
            [
                ("4588-4589", ClientPorts(4588, Some(4589))),
                ("10.0.0.2", Address(host)),
                ("4590", ClientPorts(4590, None)),
            ]
        );
        let answer = "RTSP/1.0 200 OK\r\nTransport: RTP/AVP;client_port=1-2;server_port=6256-6257;source=fd00::2\r\n\r\n";
        assert_eq!(
            named(answer),
            [
                ("1-2", ClientPorts(1, Some(2))),
                ("6256-6257", ServerPorts(6256, Some(6257))),
                ("fd00::2", Address("fd00::2".parse().unwrap())),
            ]
        );
        for text in [
            "",
            "PLAY rtsp://a RTSP/1.0\r\nTransport: RTP/AVP;client_port=1-2\r\n\r\n",
            "SETUP rtsp://a RTSP/1.0\r\nTransport: RTP/AVP;client_port=0-1;server_port=1x;source=a.example\r\n\r\n",
            "PLAY rtsp://a RTSP/1.0\r\nCSe",
            "data of no message",
            "$\0\x7f\x7fSETUP",
        ] {
            assert_eq!(named(text), [], "{text:?}");
        }
        for text in [
            "SETUP rtsp://a",
            "SETUP rtsp://a RTSP/1.0\r\nTransport: RTP/AVP",
            "RTSP/1.0 200 OK\r\nCSeq: 1\r\n",
        ] {
            assert_eq!(scan(text.as_bytes()), Err(Partial), "{text:?}");
        }
        let much = format!(
            "RTSP/1.0 200 OK\r\nTransport: {}\r\n\r\n",
            ";source=1.1.1.1".repeat(PLACES + 1)
        );
        assert_eq!(scan(much.as_bytes()), Err(Partial));
        assert_eq!(write_ports(1, Some(2)).unwrap().as_slice(), b"1-2");
        assert_eq!(write_ports(65535, None).unwrap().as_slice(), b"65535");
    }

    proptest! {
        #[test]
        fn any_text(text in "(SETUP a RTSP/1.0\r\n)?(transport:|RTP/AVP|;client_port=|;source=10.0.0.2|[-$;,\r\n 0-9a]){0,40}") {
            if let Ok(all) = scan(text.as_bytes()) {
                let mut at = 0;
                for named in all {
                    prop_assert!(at < named.range.start && named.range.start < named.range.end && named.range.end <= text.len());
                    at = named.range.end;
                }
            }
        }
    }

    #[test]
    fn messages_are_read_one_after_the_other_up_to_a_length() {
        let setup = "SETUP rtsp://a RTSP/1.0\r\nTransport: RTP/AVP;client_port=1-2\r\n\r\n";
        let ports = ("1-2", What::ClientPorts(1, Some(2)));
        let after = format!(
            "OPTIONS * RTSP/1.0\r\nContent-Length: 3000\r\n\r\n{:3000}{setup}",
            ""
        );
        assert_eq!(named(&after), [ports]);
        let foreign = format!("data of no message\r\n\r\n{setup}");
        assert_eq!(named(&foreign), []);
        let long = setup.replace("Transport", &format!("X: {:HEADER$}\r\nTransport", ""));
        assert_eq!(scan(long.as_bytes()), Err(Partial));
    }

    #[test]
    fn what_follows_a_protocol_but_parameters_is_passed() {
        let odd = "SETUP rtsp://a RTSP/1.0\r\nTransport: RTP/AVP odd;client_port=7-8, RTP/AVP;client_port=9-10\r\n\r\n";
        assert_eq!(named(odd), [("9-10", What::ClientPorts(9, Some(10)))]);
    }
}
