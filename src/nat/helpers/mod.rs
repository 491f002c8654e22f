//! Application helpers: protocols that name addresses and ports in their payload, for flows of their own.
//!
//! ```text
//!   control flow:   PORT 10,0,0,2,156,64  ⇒  PORT 203,0,113,1,156,64      the text, in place
//!   flow to come:   remote, any port  →  203.0.113.1:40000  ⇒  10.0.0.2:40000
//! ```
//!
//! A flow that is to come is *expected*: a session like any other, in the mapping of the inside endpoint that was named, whose
//! remote port is 0 ([`State::Expected`](crate::flow::session::State::Expected)). So it holds its outside port, counts on its
//! subscriber, expires, is listed, and lies on the worker its packets are steered to, by what sessions are there for
//! anyway. The first packet from that remote to the outside endpoint opens the flow itself, which the filter lets pass
//! as part of what it let pass before, and ends the expectation. Media may come from anybody: then the remote address is 0,
//! too, and the expectation ends with its time alone. See [`expect`](crate::nat::open::expect).
//!
//! Sessions with a helper never learn their way out ([`FLAG_HELPED`]), so their packets leave the fast path without its
//! having to ask. Each helper is a module of its own that reads bytes and knows nothing else:
//!
//! - [`ftp`]: the control connection's commands and replies (RFC 959, RFC 2428), from clients and servers inside;
//! - TFTP (RFC 1350): the server answers a request to port 69 from a port of its choice;
//! - [`sip`]: messages over UDP (RFC 3261), and the media their bodies ([`sdp`]) name, for clients and servers inside;
//! - [`pptp`]: calls that a control connection makes (RFC 2637), from clients and servers inside, over IPv4; they are no
//!   expectations but [flows of GRE](crate::nat::open::begin_call);
//! - [`rtsp`]: streams that are set up over UDP (RFC 2326), to clients and from servers inside;
//! - [`shift`]: sequence numbers behind a text that changed its length.

pub mod control;
pub mod cursor;
pub mod edit;
pub mod ftp;
pub mod pptp;
pub mod rtsp;
pub mod sdp;
pub mod shift;
pub mod sip;

use crate::flow::session::{Direction, FLAG_HELPED, Session};
use crate::nat::behaviour::Behaviour;
use crate::nat::family::Family;
use crate::nat::policy::Policy;
use crate::nat::ports::PortSpace;
use crate::wire::{TCP, UDP};

/// A protocol there is help for.
// Implements: U10, U10a, T6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Helper {
    /// FTP, on TCP port 21.
    Ftp,
    /// TFTP, on UDP port 69.
    Tftp,
    /// SIP, on UDP port 5060.
    Sip,
    /// PPTP, on TCP port 1723; over IPv4 alone.
    Pptp,
    /// RTSP, on TCP port 554.
    Rtsp,
}

impl Helper {
    /// All of them.
    pub const ALL: [Helper; 5] = [
        Helper::Ftp,
        Helper::Tftp,
        Helper::Sip,
        Helper::Pptp,
        Helper::Rtsp,
    ];

    /// As the configuration writes it.
    pub fn name(self) -> &'static str {
        match self {
            Helper::Ftp => "ftp",
            Helper::Tftp => "tftp",
            Helper::Sip => "sip",
            Helper::Pptp => "pptp",
            Helper::Rtsp => "rtsp",
        }
    }

    /// IP protocol and server port.
    fn service(self) -> (u8, u16) {
        match self {
            Helper::Ftp => (TCP, 21),
            Helper::Tftp => (UDP, 69),
            Helper::Sip => (UDP, sip::PORT),
            Helper::Pptp => (TCP, 1723),
            Helper::Rtsp => (TCP, 554),
        }
    }

    /// The helper for a session's protocol and server port.
    pub fn of<A: Copy>(session: &Session<A>) -> Option<Helper> {
        let service = (session.protocol, session.after.destination_port);
        Helper::ALL.into_iter().find(|h| h.service() == service)
    }
}

/// Which helpers are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Helpers(u8);

impl Helpers {
    /// None at all.
    pub const NONE: Helpers = Helpers(0);

    /// These and another.
    pub fn with(self, helper: Helper) -> Helpers {
        Helpers(self.0 | 1 << helper as u8)
    }

    /// Whether a helper is among them.
    pub fn has(self, helper: Helper) -> bool {
        self.0 & 1 << helper as u8 != 0
    }
}

impl Default for Helpers {
    /// FTP alone (RFC 5382 REQ-6, RFC 4787 REQ-10).
    fn default() -> Helpers {
        Helpers::NONE.with(Helper::Ftp)
    }
}

/// Marks a new session that gets help: its protocol has a helper, which is on for its outside address.
pub fn mark<A: Family>(policy: &Policy, session: &mut Session<A>) {
    let Some(helper) = Helper::of(session).filter(|_| !session.is_untranslated()) else {
        return;
    };
    let outside = match session.from_inside(Direction::Forward) {
        true => session.after.source,
        false => session.before.destination,
    };
    let external = policy.nat.external_of(outside);
    let pool = external.and_then(|(index, _)| policy.nat.pool_of(index));
    let space = PortSpace::from_protocol(session.protocol);
    let on = match (pool, space) {
        // Where a mapping depends on the remote port, none can stand for a port that is not known yet.
        (Some(pool), Some(space)) if pool.behaviours(space).mapping != Behaviour::Endpoint => {
            Helpers::NONE
        }
        (Some(pool), _) => pool.policy().helpers,
        (None, _) => Helpers::default(),
    };
    if on.has(helper) {
        session.flags |= FLAG_HELPED;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn helpers_are_switched_on_one_by_one() {
        for helper in Helper::ALL {
            let on = Helpers::NONE.with(helper);
            for other in Helper::ALL {
                assert_eq!(on.has(other), other == helper, "{helper:?} {other:?}");
                assert!(on.with(other).has(helper));
            }
            assert_eq!(on.with(helper), on);
            assert_eq!(Helpers::default().has(helper), helper == Helper::Ftp);
        }
    }

    #[test]
    fn a_server_port_has_its_helper_in_its_protocol_alone() {
        let of = |protocol, port| {
            let mut session = Session::<u32> {
                protocol,
                ..Session::default()
            };
            session.after.destination_port = port;
            Helper::of(&session).map(Helper::name)
        };
        for (protocol, port, name) in [
            (TCP, 21, "ftp"),
            (UDP, 69, "tftp"),
            (UDP, 5060, "sip"),
            (TCP, 1723, "pptp"),
            (TCP, 554, "rtsp"),
        ] {
            assert_eq!(of(protocol, port), Some(name));
            assert_eq!(of(TCP + UDP - protocol, port), None);
            assert_eq!(of(protocol, port + 1), None);
        }
    }
}
