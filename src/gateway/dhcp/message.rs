//! DHCP messages as a client writes and reads them (RFC 2131 section 2, RFC 2132).
//!
//! Whoever is on the link can send anything here: options that are not asked for are skipped whatever is in them, those that
//! are must have the length they have to have, and an option that comes in pieces is put together (RFC 3396). Options are
//! looked for in the option field alone; what a server puts into the fields of file and server names (option 52) is not.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::wire::{MacAddr, read_mac, read_u8, read_u32, write_mac, write_u8, write_u16};

/// UDP port of servers.
pub const SERVER_PORT: u16 = 67;
/// UDP port of clients.
pub const CLIENT_PORT: u16 = 68;
/// Bytes up to the options, the magic cookie included.
pub const HEADER: usize = 240;
/// Longest packet with an answer that is taken, from the IP header on.
pub const LONGEST: u16 = 1500;
/// Shorter messages are not passed on by some relays (RFC 1542 section 2.1).
const LEAST: usize = 300;
/// What comes before the options.
const COOKIE: u32 = 0x6382_5363;

const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const ETHERNET: u8 = 1;
/// The answer is to be sent by broadcast.
const BROADCAST: u16 = 0x8000;

/// Numbers of options (RFC 2132, RFC 3442).
mod option {
    pub const PAD: u8 = 0;
    pub const MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const MTU: u8 = 26;
    pub const ADDRESS: u8 = 50;
    pub const LEASE: u8 = 51;
    pub const KIND: u8 = 53;
    pub const SERVER: u8 = 54;
    pub const WANTED: u8 = 55;
    pub const MESSAGE: u8 = 56;
    pub const SIZE: u8 = 57;
    pub const RENEWAL: u8 = 58;
    pub const REBINDING: u8 = 59;
    pub const ROUTES: u8 = 121;
    pub const END: u8 = 255;
}

/// What a client asks for; where routes come with masks they are asked for first (RFC 3442).
const WANTED: [u8; 8] = [
    option::MASK,
    option::ROUTES,
    option::ROUTER,
    option::MTU,
    option::LEASE,
    option::SERVER,
    option::RENEWAL,
    option::REBINDING,
];

/// What a client says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Say {
    /// Who has an address for me?
    Discover = 1,
    /// I want this one.
    Request = 3,
    /// Somebody else uses it.
    Decline = 4,
}

/// A message of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// What it says.
    pub say: Say,
    /// Tells its answers from others'.
    pub transaction: u32,
    /// Seconds since the client began to ask.
    pub seconds: u16,
    /// Who asks.
    pub mac: MacAddr,
    /// The address it has and can be reached by; 0.0.0.0 if it has none, and is to be answered by broadcast.
    pub has: Ipv4Addr,
    /// The address it wants.
    pub wants: Option<Ipv4Addr>,
    /// The server it speaks to.
    pub server: Option<Ipv4Addr>,
    /// Longest answer it takes, from the IP header on.
    pub size: u16,
}

/// What a server says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This one is free.
    Offer,
    /// It is yours.
    Ack,
    /// It is not.
    Nak,
}

/// A message of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What it says.
    pub answer: Answer,
    /// The question it answers.
    pub transaction: u32,
    /// For whom.
    pub mac: MacAddr,
    /// The client's address.
    pub address: Ipv4Addr,
    /// Who says so.
    pub server: Option<Ipv4Addr>,
    /// Prefix length of the subnet.
    pub prefix: Option<u8>,
    /// Routers of the subnet.
    pub routers: Vec<Ipv4Addr>,
    /// Routes: where to, and by which router (0.0.0.0: on the link).
    pub routes: Vec<(Ipv4Net, Ipv4Addr)>,
    /// Largest IP packet on the link.
    pub mtu: Option<u16>,
    /// Seconds the address may be used; `u32::MAX` is for ever.
    pub lease: Option<u32>,
    /// Seconds until the server is to be asked again.
    pub renewal: Option<u32>,
    /// Seconds until any server is to be asked again.
    pub rebinding: Option<u32>,
    /// Words for people.
    pub message: String,
}

impl Question {
    /// The message as bytes.
    pub fn write(&self) -> Vec<u8> {
        let mut out = vec![0; HEADER - 4];
        write_u8(&mut out, 0, REQUEST);
        write_u8(&mut out, 1, ETHERNET);
        write_u8(&mut out, 2, self.mac.0.len() as u8);
        out[4..8].copy_from_slice(&self.transaction.to_be_bytes());
        write_u16(&mut out, 8, self.seconds);
        if self.has.is_unspecified() {
            write_u16(&mut out, 10, BROADCAST);
        }
        out[12..16].copy_from_slice(&self.has.octets());
        write_mac(&mut out, 28, self.mac);
        out.extend(COOKIE.to_be_bytes());
        out.extend([option::KIND, 1, self.say as u8]);
        for (number, address) in [(option::ADDRESS, self.wants), (option::SERVER, self.server)] {
            if let Some(address) = address {
                out.extend([number, 4]);
                out.extend(address.octets());
            }
        }
        if self.say != Say::Decline {
            out.extend([option::SIZE, 2]);
            out.extend(self.size.to_be_bytes());
            out.extend([option::WANTED, WANTED.len() as u8]);
            out.extend(WANTED);
        }
        out.push(option::END);
        if out.len() < LEAST {
            out.resize(LEAST, option::PAD);
        }
        out
    }
}

impl Reply {
    /// Reads a message; `None` if it is no whole answer of a server, or an option that counts is not as it has to be.
    pub fn read(bytes: &[u8]) -> Option<Reply> {
        let fits = bytes.len() >= HEADER
            && read_u8(bytes, 0) == REPLY
            && read_u8(bytes, 1) == ETHERNET
            && read_u8(bytes, 2) == 6
            && read_u32(bytes, HEADER - 4) == COOKIE;
        let options = Options::read(bytes.get(HEADER..).filter(|_| fits)?)?;
        let answer = match options.one::<1>(option::KIND)?? {
            [2] => Answer::Offer,
            [5] => Answer::Ack,
            [6] => Answer::Nak,
            _ => return None,
        };
        let number = |option| Some(options.one::<4>(option)?.map(u32::from_be_bytes));
        let mask = number(option::MASK)?;
        let prefix = match mask {
            // Ones, then zeros.
            Some(mask) if mask.leading_ones() + mask.trailing_zeros() == 32 => {
                Some(mask.leading_ones() as u8)
            }
            Some(_) => return None,
            None => None,
        };
        let message = options.all(option::MESSAGE);
        Some(Reply {
            answer,
            transaction: read_u32(bytes, 4),
            mac: read_mac(bytes, 28),
            address: read_u32(bytes, 16).into(),
            server: number(option::SERVER)?.map(Ipv4Addr::from),
            prefix,
            routers: addresses(&options.all(option::ROUTER))?,
            routes: routes(&options.all(option::ROUTES))?,
            mtu: options.one::<2>(option::MTU)?.map(u16::from_be_bytes),
            lease: number(option::LEASE)?,
            renewal: number(option::RENEWAL)?,
            rebinding: number(option::REBINDING)?,
            message: printable(&message),
        })
    }
}

/// The options of a message, in order.
struct Options<'a>(Vec<(u8, &'a [u8])>);

impl<'a> Options<'a> {
    /// `None` if one runs past the end. A missing end mark is forgiven.
    fn read(mut bytes: &'a [u8]) -> Option<Options<'a>> {
        let mut options = Vec::new();
        loop {
            match bytes {
                [] | [option::END, ..] => return Some(Options(options)),
                [option::PAD, rest @ ..] => bytes = rest,
                [number, length, rest @ ..] => {
                    let (value, rest) = rest.split_at_checked(usize::from(*length))?;
                    options.push((*number, value));
                    bytes = rest;
                }
                [_] => return None,
            }
        }
    }

    /// What an option says; empty if it is not there. Pieces are one option (RFC 3396).
    fn all(&self, option: u8) -> Vec<u8> {
        let pieces = self.0.iter().filter(|(number, _)| *number == option);
        pieces
            .flat_map(|(_, value)| value.iter().copied())
            .collect()
    }

    /// An option of a fixed length, if it is there; `None` if it has another length.
    fn one<const LENGTH: usize>(&self, option: u8) -> Option<Option<[u8; LENGTH]>> {
        let value = self.all(option);
        match value.is_empty() {
            true => Some(None),
            false => Some(Some(value.try_into().ok()?)),
        }
    }
}

fn addresses(value: &[u8]) -> Option<Vec<Ipv4Addr>> {
    let (addresses, []) = value.as_chunks::<4>() else {
        return None;
    };
    Some(addresses.iter().copied().map(Ipv4Addr::from).collect())
}

/// Routes as RFC 3442 packs them: the prefix without what its length says is zero, then the router.
fn routes(mut value: &[u8]) -> Option<Vec<(Ipv4Net, Ipv4Addr)>> {
    let mut routes = Vec::new();
    while let [length, rest @ ..] = value {
        let significant = usize::from(*length).div_ceil(8);
        let (prefix, rest) = rest.split_at_checked(significant)?;
        let (router, rest) = rest.split_first_chunk::<4>()?;
        let mut octets = [0; 4];
        octets.get_mut(..significant)?.copy_from_slice(prefix);
        let net = Ipv4Net::new(octets.into(), *length).ok()?;
        routes.push((net.trunc(), Ipv4Addr::from(*router)));
        value = rest;
    }
    Some(routes)
}

/// A stranger's words, as a log can show them.
fn printable(words: &[u8]) -> String {
    let words = String::from_utf8_lossy(words);
    let shown = words
        .chars()
        .filter(|c| !c.is_control() && *c != '\u{fffd}');
    shown.take(200).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub const MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);

    /// A reply about 198.51.100.7 with these options.
    pub fn reply(options: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes[..3].copy_from_slice(&[2, 1, 6]);
        bytes[4..8].copy_from_slice(&[1, 2, 3, 4]);
        bytes[16..20].copy_from_slice(&[198, 51, 100, 7]);
        bytes[28..34].copy_from_slice(&MAC.0);
        bytes[236..].copy_from_slice(&[99, 130, 83, 99]);
        bytes.extend(options);
        bytes
    }

    #[test]
    fn a_question_has_its_fields_where_the_rfc_has_them() {
        let question = Question {
            say: Say::Request,
            transaction: 0x0102_0304,
            seconds: 9,
            mac: MAC,
            has: Ipv4Addr::UNSPECIFIED,
            wants: Some(Ipv4Addr::new(198, 51, 100, 7)),
            server: Some(Ipv4Addr::new(198, 51, 100, 1)),
            size: 1500,
        };
        let bytes = question.write();
        assert_eq!(bytes.len(), 300);
        assert_eq!(bytes[..12], [1, 1, 6, 0, 1, 2, 3, 4, 0, 9, 0x80, 0]);
        assert_eq!(bytes[12..28], [0; 16]);
        assert_eq!(bytes[28..34], MAC.0);
        assert_eq!(bytes[34..236], [0; 202]);
        let options = [
            99, 130, 83, 99, 53, 1, 3, 50, 4, 198, 51, 100, 7, 54, 4, 198, 51, 100, 1, 57, 2, 5,
            220, 55, 8, 1, 121, 3, 26, 51, 54, 58, 59, 255,
        ];
        assert_eq!(bytes[236..270], options);
        let renewing = Question {
            has: Ipv4Addr::new(198, 51, 100, 7),
            ..question
        };
        let bytes = renewing.write();
        assert_eq!(
            bytes[10..16],
            [0, 0, 198, 51, 100, 7],
            "answered by unicast"
        );
    }

    #[test]
    fn a_reply_is_read_whole() {
        let router = |last| Ipv4Addr::new(198, 51, 100, last);
        let expected = Reply {
            answer: Answer::Ack,
            transaction: 0x0102_0304,
            mac: MAC,
            address: router(7),
            server: Some(router(1)),
            prefix: Some(24),
            routers: vec![router(1), router(2)],
            routes: vec![
                ("10.1.2.0/24".parse().unwrap(), router(9)),
                ("0.0.0.0/0".parse().unwrap(), router(1)),
            ],
            mtu: Some(1400),
            lease: Some(3600),
            renewal: Some(1800),
            rebinding: Some(3150),
            message: "hi".into(),
        };
        let mut bytes = reply(&[
            53, 1, 5, 0, 54, 4, 198, 51, 100, 1, 1, 4, 255, 255, 255, 0, 3, 8, 198, 51, 100, 1,
            198, 51, 100, 2, 26, 2, 5, 120, 51, 4, 0, 0, 14, 16, 58, 4, 0, 0, 7, 8, 59, 4, 0, 0,
            12, 78, 121, 3, 24, 10, 1, 56, 3, 104, 10, 105, 121, 10, 2, 198, 51, 100, 9, 0, 198,
            51, 100, 1, 224, 2, 1, 2, 255, 1,
        ]);
        assert_eq!(Reply::read(&bytes), Some(expected), "in pieces");
        bytes.truncate(bytes.len() - 2);
        assert!(Reply::read(&bytes).is_some(), "without an end mark");
    }

    #[test]
    fn what_is_not_as_it_has_to_be_is_no_reply() {
        let good = [53, 1, 2];
        assert!(Reply::read(&reply(&good)).is_some());
        for bad in [
            &[53, 1][..],
            &[53],
            &[53, 2, 2, 2],
            &[53, 1, 1],
            &[53, 1, 2, 51, 3, 0, 0, 1],
            &[53, 1, 2, 1, 4, 255, 0, 255, 0],
            &[53, 1, 2, 3, 3, 1, 2, 3],
            &[53, 1, 2, 26, 1, 5],
            &[53, 1, 2, 121, 6, 33, 1, 2, 3, 4, 5],
            &[53, 1, 2, 121, 4, 8, 10, 1, 2],
            &[53, 1, 2, 54, 5, 1, 2, 3, 4, 5],
            &[],
        ] {
            assert_eq!(Reply::read(&reply(bad)), None, "{bad:?}");
        }
        for (at, value) in [(0, 1), (1, 6), (2, 200), (236, 1)] {
            let mut bytes = reply(&good);
            bytes[at] = value;
            assert_eq!(Reply::read(&bytes), None);
        }
        assert_eq!(Reply::read(&reply(&good)[..239]), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(options in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Reply::read(&options);
            let _ = Reply::read(&reply(&options));
            let mut named = vec![53, 1, 5];
            named.extend(&options);
            let _ = Reply::read(&reply(&named));
        }

        #[test]
        fn routes_are_read_as_they_were_packed(
            nets in proptest::collection::vec((any::<u32>(), 0u8..=32, any::<u32>()), 0..40)
        ) {
            let mut packed = Vec::new();
            let mut expected = Vec::new();
            for (net, length, router) in nets {
                let net = Ipv4Net::new(net.into(), length).unwrap().trunc();
                packed.push(length);
                packed.extend(&net.addr().octets()[..usize::from(length).div_ceil(8)]);
                packed.extend(router.to_be_bytes());
                expected.push((net, Ipv4Addr::from(router)));
            }
            let mut bytes = reply(&[53, 1, 5]);
            for piece in packed.chunks(255) {
                bytes.extend([121, piece.len() as u8]);
                bytes.extend(piece);
            }
            prop_assert_eq!(Reply::read(&bytes).map(|r| r.routes), Some(expected));
        }
    }
}
