//! Session descriptions: where media are to be sent (RFC 4566, the attribute `rtcp` of RFC 3605).
//!
//! ```text
//!   o=alice 1 1 IN IP4 10.0.0.2        who describes the session
//!   c=IN IP4 10.0.0.2                  where media go, unless they say so themselves
//!   m=audio 8000 RTP/AVP 0             RTP comes to port 8000, RTCP to 8001 …
//!   a=rtcp:9001                        … or to the port that is named
//! ```

use core::ops::Range;
use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::cursor::{Cursor, begins, is_space, line_end};

/// The most media of a description.
pub const MEDIA: usize = 8;

/// An address in a description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Where it is written.
    pub range: Range<usize>,
    /// What is written.
    pub address: IpAddr,
}

/// The attribute `rtcp` of a medium.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rtcp {
    /// Where the port is written.
    pub range: Range<usize>,
    /// The port.
    pub port: u16,
    /// The address, if another than that of the medium is named.
    pub address: Option<Address>,
}

/// A medium that is received over UDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Medium {
    /// Where its port is written.
    pub range: Range<usize>,
    /// Its port.
    pub port: u16,
    /// It is RTP, with RTCP beside it.
    pub is_rtp: bool,
    /// The address it is received at.
    pub address: IpAddr,
    /// Where RTCP is received, if it is named.
    pub rtcp: Option<Rtcp>,
    /// Where its lines end: another may follow here.
    pub end: usize,
}

/// What a description has to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// The addresses of `o=` and of every `c=`.
    pub addresses: ArrayVec<Address, { MEDIA + 2 }>,
    /// The media that are wanted, in order.
    pub media: ArrayVec<Medium, MEDIA>,
}

/// There are more media than [`MEDIA`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

/// Reads the description in `range` of `text`.
///
/// # Errors
/// [`TooMany`].
pub fn read(text: &[u8], range: Range<usize>) -> Result<Description, TooMany> {
    let mut found = Description::default();
    let end = range.end.min(text.len());
    let text = text.get(..end).unwrap_or_default();
    // The address of the session, and the medium whose lines these are.
    let (mut session, mut open) = (None, None::<Open>);
    let mut sections = 0;
    let mut at = range.start;
    while at < end {
        let next = line_end(text, at);
        let line = at..next;
        match text.get(at..at + 2) {
            Some(b"o=") if sections == 0 => add(&mut found, origin(text, line))?,
            Some(b"c=") => {
                let address = connection(text, line);
                let scope = open.as_mut().map_or(&mut session, |open| &mut open.address);
                *scope = address.as_ref().map(|address| address.address);
                add(&mut found, address)?;
            }
            Some(b"m=") => {
                close(&mut found, open.take(), session, at)?;
                sections += 1;
                if sections > MEDIA {
                    return Err(TooMany);
                }
                open = Some(medium(text, line));
            }
            Some(b"a=") => {
                if let (Some(open), Some(named)) = (&mut open, rtcp(text, line)) {
                    open.rtcp = Some(named);
                }
            }
            _ => {}
        }
        at = next;
    }
    close(&mut found, open, session, end)?;
    Ok(found)
}

/// A medium whose lines are being read.
struct Open {
    /// Its port and whether it is RTP, if it is received over UDP.
    stated: Option<(Range<usize>, u16, bool)>,
    address: Option<IpAddr>,
    rtcp: Option<Rtcp>,
}

fn add(found: &mut Description, address: Option<Address>) -> Result<(), TooMany> {
    address.map_or(Ok(()), |address| {
        found.addresses.try_push(address).map_err(|_| TooMany)
    })
}

/// The lines of a medium end at `end`.
fn close(
    found: &mut Description,
    open: Option<Open>,
    session: Option<IpAddr>,
    end: usize,
) -> Result<(), TooMany> {
    let Some(open) = open else {
        return Ok(());
    };
    let (Some((range, port, is_rtp)), Some(address)) = (open.stated, open.address.or(session))
    else {
        return Ok(());
    };
    let medium = Medium {
        range,
        port,
        is_rtp,
        address,
        rtcp: open.rtcp,
        end,
    };
    found.media.try_push(medium).map_err(|_| TooMany)
}

/// `IN IP4 address` or `IN IP6 address`, and nothing behind it that belongs to the address.
fn network_address(cursor: &mut Cursor<'_>) -> Option<Address> {
    let v4 = cursor.eat_word(b"IN IP4 ");
    if !v4 && !cursor.eat_word(b"IN IP6 ") {
        return None;
    }
    let start = cursor.at;
    let address = cursor.plain_address()?;
    let ends = cursor.peek().is_none_or(is_space);
    (ends && address.is_ipv4() == v4).then_some(Address {
        range: start..cursor.at,
        address,
    })
}

/// `o=name id version IN IP4 address` (RFC 4566 section 5.2).
fn origin(text: &[u8], line: Range<usize>) -> Option<Address> {
    let mut cursor = Cursor::new(text, line.start + 2..line.end);
    for _ in 0..3 {
        cursor.take_while(|byte| !is_space(byte));
        cursor.eat(b' ').then_some(())?;
    }
    network_address(&mut cursor)
}

/// `c=IN IP4 address`; with a TTL or a number of addresses it is multicast's (RFC 4566 section 5.7).
fn connection(text: &[u8], line: Range<usize>) -> Option<Address> {
    network_address(&mut Cursor::new(text, line.start + 2..line.end))
}

/// `m=audio 8000 RTP/AVP 0` (RFC 4566 section 5.14). Port 0 declines a medium; a number of ports is left alone.
fn medium(text: &[u8], line: Range<usize>) -> Open {
    let stated = || {
        let mut cursor = Cursor::new(text, line.start + 2..line.end);
        cursor.take_while(|byte| !is_space(byte));
        cursor.eat(b' ').then_some(())?;
        let start = cursor.at;
        let port = cursor.port()?;
        let range = start..cursor.at;
        cursor.eat(b' ').then_some(())?;
        let protocol = cursor.take_while(|byte| !is_space(byte));
        let is_rtp = begins(protocol, b"RTP/") || begins(protocol, b"UDP/TLS/RTP/");
        let over_udp = is_rtp || begins(protocol, b"udp");
        over_udp.then_some((range, port, is_rtp))
    };
    Open {
        stated: stated(),
        address: None,
        rtcp: None,
    }
}

/// `a=rtcp:9001`, `a=rtcp:9001 IN IP4 address` (RFC 3605 section 2.1).
fn rtcp(text: &[u8], line: Range<usize>) -> Option<Rtcp> {
    let mut cursor = Cursor::new(text, line.start + 2..line.end);
    cursor.eat_word(b"rtcp:").then_some(())?;
    let start = cursor.at;
    let port = cursor.port()?;
    let range = start..cursor.at;
    let mut address = None;
    if cursor.eat(b' ') {
        address = Some(network_address(&mut cursor)?);
    }
    Some(Rtcp {
        range,
        port,
        address,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn described(text: &str) -> Description {
        read(text.as_bytes(), 0..text.len()).unwrap()
    }

    #[test]
    fn addresses_and_media_are_found() {
        let text = "v=0\r\no=alice 1 1 IN IP4 10.0.0.2\r\ns=-\r\nc=IN IP4 10.0.0.3\r\nt=0 0\r\n\
            m=audio 8000 RTP/AVP 0\r\na=rtcp:9001 IN IP4 10.0.0.5\r\na=sendrecv\r\n\
            m=video 8002 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 10.0.0.4\r\na=rtcp:8002\r\n\
            m=image 8004 udptl t38\r\n\
            m=audio 0 RTP/AVP 0\r\nm=audio 8006/2 RTP/AVP 0\r\nm=message 8008 TCP/MSRP *\r\n";
        let found = described(text);
        let addresses: Vec<&str> = found
            .addresses
            .iter()
            .map(|a| &text[a.range.clone()])
            .collect();
        assert_eq!(addresses, ["10.0.0.2", "10.0.0.3", "10.0.0.4"]);
        let media: Vec<_> = found.media.iter().collect();
        let brief: Vec<_> = media
            .iter()
            .map(|m| {
                (
                    m.port,
                    m.is_rtp,
                    m.address.to_string(),
                    m.rtcp.as_ref().map(|r| r.port),
                )
            })
            .collect();
        assert_eq!(
            brief,
            [
                (8000, true, "10.0.0.3".to_owned(), Some(9001)),
                (8002, true, "10.0.0.4".to_owned(), Some(8002)),
                (8004, false, "10.0.0.3".to_owned(), None),
            ]
        );
        for medium in media {
            assert_eq!(text[medium.range.clone()].parse(), Ok(medium.port));
            assert!(text[..medium.end].ends_with("\r\n") && text[medium.end..].starts_with("m="));
        }
        let rtcp = found.media[0].rtcp.clone().unwrap();
        assert_eq!(&text[rtcp.address.unwrap().range], "10.0.0.5");
    }

    #[test]
    fn what_is_no_unicast_endpoint_is_left_out() {
        for text in [
            "c=IN IP4 224.2.1.1/127\r\nm=audio 8000 RTP/AVP 0\r\n",
            "c=IN IP6 10.0.0.2\r\nm=audio 8000 RTP/AVP 0\r\n",
            "c=IN IP4 host.example\r\nm=audio 8000 RTP/AVP 0\r\n",
            "c=IN IP4\r\nm=audio 8000 RTP/AVP 0\r\n",
            "m=audio 8000 RTP/AVP 0\r\n",
        ] {
            assert_eq!(described(text), Description::default(), "{text:?}");
        }
        let v6 = described("c=IN IP6 fd00::2\r\nm=audio 8000 RTP/AVP 0");
        assert_eq!(v6.media[0].address, "fd00::2".parse::<IpAddr>().unwrap());
        let many = format!(
            "c=IN IP4 10.0.0.2\r\n{}",
            "m=audio 0 RTP/AVP 0\r\n".repeat(MEDIA + 1)
        );
        assert_eq!(read(many.as_bytes(), 0..many.len()), Err(TooMany));
    }

    proptest! {
        #[test]
        fn any_text(text in "(o=a 1 1 |[cma]=|IN IP[46] |10.0.0.2|fd00::2|audio |RTP/AVP|rtcp:|[\r\n 0-9/]){0,40}") {
            if let Ok(found) = read(text.as_bytes(), 0..text.len()) {
                for medium in &found.media {
                    prop_assert_eq!(text[medium.range.clone()].parse().ok(), Some(medium.port));
                    prop_assert!(medium.range.end < medium.end && medium.end <= text.len());
                }
                for address in &found.addresses {
                    prop_assert_eq!(text[address.range.clone()].parse().ok(), Some(address.address));
                }
            }
        }
    }

    #[test]
    fn who_describes_the_session_is_said_before_its_media() {
        let late = "c=IN IP4 10.0.0.2\r\nm=audio 8000 RTP/AVP 0\r\no=a 1 1 IN IP4 10.0.0.9\r\n";
        let found = described(late);
        assert_eq!((found.addresses.len(), found.media.len()), (1, 1));
        let most = format!(
            "c=IN IP4 10.0.0.2\r\n{}",
            "m=audio 8000 RTP/AVP 0\r\n".repeat(MEDIA)
        );
        assert_eq!(described(&most).media.len(), MEDIA);
    }
}
