//! A DHCP client (RFC 2131): how an interface comes by its address, and keeps it.
//!
//! ```text
//!            ┌────────────── nothing, NAK, conflict, expired ──────────────┐
//!            ▼                                                             │
//!   Init ─▶ Selecting ─▶ Requesting ─▶ Probing ─▶ Bound ─▶ Renewing ─▶ Rebinding
//!                                                   ▲  ◀────── ACK ───────┘
//!   start with a lease, link back ─▶ Rebooting ─────┘
//! ```
//!
//! [`Client`] is told the time (milliseconds of any clock) and what was heard, and says what to do ([`Action`]); it knows no
//! socket and no thread. It takes the first offer. A new address is asked for on the link before it is used (RFC 5227 in short:
//! two probes within half a second), one that a server confirmed after a restart is not. If no server answers after a restart,
//! what is left of the old lease is used (RFC 2131 section 3.2). It never releases an address by itself: a gateway that is
//! restarted wants the same one.

mod lease;
pub mod message;

use std::net::Ipv4Addr;

use crate::base::Random;
use crate::wire::MacAddr;
use lease::lease_of;
pub use lease::{Grant, Lease};
use message::{Answer, Question, Reply, Say};

const SECOND: u64 = 1000;
/// First wait for an answer, doubled with each try, and the longest (RFC 2131 section 4.1).
const FIRST_WAIT: u64 = 4 * SECOND;
const LONGEST_WAIT: u64 = 64 * SECOND;
/// Least wait between two requests for a living lease (section 4.4.5).
const RENEWAL_WAIT: u64 = 60 * SECOND;
/// After a declined address (section 3.1.5).
const AFTER_DECLINE: u64 = 10 * SECOND;
/// Requests for an offered address, and for a remembered one, before it is given up.
const REQUESTS: u32 = 4;
const REBOOTS: u32 = 2;
/// Probes, and the time each is given.
const PROBES: u32 = 2;
const PROBE_WAIT: u64 = 250;

/// Why an address is no longer used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The lease ended without an answer.
    Expired,
    /// A server said no, with its words.
    Refused(String),
    /// The gateway itself cannot use it.
    Unfit,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send a message to everybody, from this address.
    Broadcast {
        /// 0.0.0.0, or the leased one.
        from: Ipv4Addr,
        /// The message.
        message: Vec<u8>,
    },
    /// Send a message to a server, as the address in force.
    Unicast {
        /// The server.
        to: Ipv4Addr,
        /// The message.
        message: Vec<u8>,
    },
    /// Ask by ARP who has this address, as nobody (RFC 5227 section 2.1.1).
    Probe(Ipv4Addr),
    /// This lease is in force from now on.
    Use(Lease),
    /// The lease in force goes on until later.
    Extend(Lease),
    /// The lease in force is none any more.
    Stop(Lost),
    /// Another host uses the address that was to be leased.
    Conflict(Ipv4Addr, MacAddr),
}

/// Where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It waits before it asks.
    Init,
    /// It asks who has an address.
    Selecting,
    /// It asks for the one it was offered.
    Requesting,
    /// It looks whether anybody uses the address.
    Probing,
    /// It has an address.
    Bound,
    /// It asks the server for more time.
    Renewing,
    /// It asks any server for more time.
    Rebinding,
    /// It asks whether the address it had is still good.
    Rebooting,
}

impl State {
    /// Every state.
    pub const ALL: [State; 8] = [
        State::Init,
        State::Selecting,
        State::Requesting,
        State::Probing,
        State::Bound,
        State::Renewing,
        State::Rebinding,
        State::Rebooting,
    ];

    /// Its name in listings and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            State::Init => "init",
            State::Selecting => "selecting",
            State::Requesting => "requesting",
            State::Probing => "probing",
            State::Bound => "bound",
            State::Renewing => "renewing",
            State::Rebinding => "rebinding",
            State::Rebooting => "rebooting",
        }
    }
}

/// The client of one interface.
#[derive(Clone, Debug)]
pub struct Client {
    mac: MacAddr,
    state: State,
    /// When something is to be done without being asked.
    due: u64,
    /// Of the exchange that is under way.
    transaction: u32,
    began: u64,
    /// What was sent in this state.
    tries: u32,
    /// The lease in force; else the one that is remembered, offered (its times are not known yet), or probed for.
    lease: Option<Lease>,
    in_force: bool,
    /// Refusals in a row.
    refusals: u32,
    ignored: u64,
}

impl Client {
    /// A client that begins at once: with the lease it had, or without any.
    pub fn new(mac: MacAddr, remembered: Option<Lease>, now: u64) -> Client {
        let lease = remembered.filter(|lease| lease.expire > now);
        Client {
            mac,
            state: match lease {
                Some(_) => State::Rebooting,
                None => State::Init,
            },
            due: now,
            transaction: 0,
            began: now,
            tries: 0,
            lease,
            in_force: false,
            refusals: 0,
            ignored: 0,
        }
    }

    /// Where it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// The lease in force.
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref().filter(|_| self.in_force)
    }

    /// Messages that were no answer to anything asked, or made no sense.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    /// When [`Client::poll`] has something to do.
    pub fn due(&self) -> u64 {
        match self.lease() {
            Some(lease) => self.due.min(lease.expire),
            None => self.due,
        }
    }

    /// The link came back, perhaps another one: is the address still good?
    pub fn link_is_back(&mut self, now: u64) {
        match self.state {
            State::Bound | State::Renewing | State::Rebinding => {
                self.enter(State::Rebooting, now);
            }
            State::Rebooting => self.enter(State::Rebooting, now),
            State::Init | State::Selecting => self.enter(State::Init, now),
            State::Requesting | State::Probing => {}
        }
    }

    /// Does what is due.
    pub fn poll(&mut self, now: u64, random: &mut Random) -> Vec<Action> {
        let mut actions = Vec::new();
        // A step may be due at once after the one before it.
        for _ in 0..State::ALL.len() {
            if self.lease().is_some_and(|lease| lease.expire <= now) {
                self.stop(Lost::Expired, now, &mut actions);
            }
            if self.due > now {
                break;
            }
            self.step(now, random, &mut actions);
        }
        actions
    }

    fn step(&mut self, now: u64, random: &mut Random, actions: &mut Vec<Action>) {
        match self.state {
            State::Init => {
                self.began = now;
                self.enter(State::Selecting, now);
            }
            State::Selecting => {
                if self.tries == 0 {
                    self.transact(random);
                }
                actions.push(self.everybody(Say::Discover, None, None, now));
                self.wait(now, random);
            }
            State::Requesting if self.tries == REQUESTS => self.forget(now, now),
            State::Requesting => {
                let (wants, server) = self.offered();
                actions.push(self.everybody(Say::Request, wants, server, now));
                self.wait(now, random);
            }
            State::Rebooting if self.tries == REBOOTS => self.carry_on(now, actions),
            State::Rebooting => {
                if self.tries == 0 {
                    self.began = now;
                    self.transact(random);
                }
                let (wants, _) = self.offered();
                actions.push(self.everybody(Say::Request, wants, None, now));
                self.wait(now, random);
            }
            State::Probing if self.tries == PROBES => self.take_up(now, actions),
            State::Probing => {
                self.tries += 1;
                self.due = now + PROBE_WAIT;
                actions.extend(self.offered().0.map(Action::Probe));
            }
            State::Bound => {
                self.began = now;
                self.transact(random);
                self.enter(State::Renewing, now);
            }
            State::Renewing | State::Rebinding => self.renew(now, actions),
        }
    }

    /// Asks for more time.
    fn renew(&mut self, now: u64, actions: &mut Vec<Action>) {
        let Some(lease) = self.lease.clone() else {
            return self.forget(now, now);
        };
        let rebinding = now >= lease.rebind;
        let (state, until) = match rebinding {
            true => (State::Rebinding, lease.expire),
            false => (State::Renewing, lease.rebind),
        };
        self.state = state;
        let question = Question {
            has: lease.grant.net.addr(),
            ..self.question(Say::Request, now)
        };
        let message = question.write();
        actions.push(match rebinding {
            true => Action::Broadcast {
                from: question.has,
                message,
            },
            false => Action::Unicast {
                to: lease.server,
                message,
            },
        });
        let wait = (until.saturating_sub(now) / 2).max(RENEWAL_WAIT);
        self.due = now.saturating_add(wait).min(until.max(now + SECOND));
    }

    /// Takes a message from port 67.
    pub fn receive(&mut self, now: u64, random: &mut Random, bytes: &[u8]) -> Vec<Action> {
        let mut actions = Vec::new();
        let reply = Reply::read(bytes)
            .filter(|reply| reply.transaction == self.transaction && reply.mac == self.mac);
        let taken = reply.is_some_and(|reply| self.answered(&reply, now, random, &mut actions));
        self.ignored += u64::from(!taken);
        actions
    }

    /// Takes an answer; says whether it was one.
    fn answered(
        &mut self,
        reply: &Reply,
        now: u64,
        random: &mut Random,
        actions: &mut Vec<Action>,
    ) -> bool {
        let same_server = |lease: &Lease| reply.server.is_none_or(|server| server == lease.server);
        match (self.state, reply.answer) {
            (State::Selecting, Answer::Offer) => {
                let offer = reply
                    .server
                    .and_then(|_| lease_of(reply, None, now, random));
                let Some(offer) = offer else {
                    return false;
                };
                self.lease = Some(offer);
                self.enter(State::Requesting, now);
                self.step(now, random, actions);
                true
            }
            (
                State::Requesting | State::Rebooting | State::Renewing | State::Rebinding,
                Answer::Ack,
            ) => {
                let known = self.lease.as_ref();
                let asked = known.filter(|lease| lease.grant.net.addr() == reply.address);
                let asked = asked.filter(|l| self.state != State::Requesting || same_server(l));
                let server = asked.map(|lease| lease.server);
                let lease = server.and_then(|server| lease_of(reply, Some(server), now, random));
                let Some(lease) = lease else {
                    return false;
                };
                self.granted(lease, now, actions);
                true
            }
            (State::Requesting, Answer::Nak) if !self.lease.as_ref().is_some_and(same_server) => {
                false
            }
            (
                State::Requesting | State::Rebooting | State::Renewing | State::Rebinding,
                Answer::Nak,
            ) => {
                // A server that always offers what it then refuses is not asked all the time.
                let pause = match self.refusals {
                    0 => 0,
                    n => (SECOND << n.min(16)).min(LONGEST_WAIT),
                };
                self.refusals += 1;
                self.stop(Lost::Refused(reply.message.clone()), now, actions);
                self.forget(now, now + pause);
                true
            }
            _ => false,
        }
    }

    fn granted(&mut self, lease: Lease, now: u64, actions: &mut Vec<Action>) {
        let probed = self.state != State::Requesting;
        let same = self.in_force && self.lease.as_ref().is_some_and(|l| l.grant == lease.grant);
        self.refusals = 0;
        self.lease = Some(lease.clone());
        if !probed {
            return self.enter(State::Probing, now);
        }
        match same {
            true => {
                self.bind(lease.renew);
                actions.push(Action::Extend(lease));
            }
            false => self.take_up(now, actions),
        }
    }

    /// The lease is in force from now on.
    fn take_up(&mut self, now: u64, actions: &mut Vec<Action>) {
        let Some(lease) = self.lease.clone().filter(|lease| lease.expire > now) else {
            return self.forget(now, now);
        };
        self.in_force = true;
        self.bind(lease.renew);
        actions.push(Action::Use(lease));
    }

    /// Nobody answers after a restart: what is left of the lease is used.
    fn carry_on(&mut self, now: u64, actions: &mut Vec<Action>) {
        match self.lease.as_ref().map(|lease| lease.expire > now) {
            Some(true) if self.in_force => self.bind(now),
            Some(true) => {
                self.take_up(now, actions);
                self.due = self.due.max(now + SECOND);
            }
            _ => self.forget(now, now),
        }
    }

    fn bind(&mut self, due: u64) {
        self.state = State::Bound;
        self.tries = 0;
        self.due = due;
    }

    /// An answer to a probe, or any other sign that `mac` has this address.
    pub fn heard(&mut self, address: Ipv4Addr, mac: MacAddr, now: u64) -> Vec<Action> {
        let probed = self.state == State::Probing && self.offered().0 == Some(address);
        if !probed || mac == self.mac {
            return Vec::new();
        }
        let mut actions = vec![Action::Conflict(address, mac)];
        self.decline(now, &mut actions);
        actions
    }

    /// The gateway cannot use what it was granted.
    pub fn refuse(&mut self, now: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.lease.is_some() {
            self.decline(now, &mut actions);
        }
        actions
    }

    fn decline(&mut self, now: u64, actions: &mut Vec<Action>) {
        let (wants, server) = self.offered();
        self.in_force = false;
        actions.push(self.everybody(Say::Decline, wants, server, now));
        self.forget(now, now + AFTER_DECLINE);
    }

    fn stop(&mut self, why: Lost, now: u64, actions: &mut Vec<Action>) {
        if self.in_force {
            actions.push(Action::Stop(why));
        }
        self.forget(now, now);
    }

    /// Begins anew, at `due`.
    fn forget(&mut self, now: u64, due: u64) {
        self.lease = None;
        self.in_force = false;
        self.enter(State::Init, now);
        self.due = due;
    }

    fn enter(&mut self, state: State, now: u64) {
        self.state = state;
        self.tries = 0;
        self.due = now;
    }

    fn transact(&mut self, random: &mut Random) {
        self.transaction = random.next_u64() as u32;
    }

    /// Waits for an answer to what was just sent: longer each time, and never exactly as long as others.
    fn wait(&mut self, now: u64, random: &mut Random) {
        let wait = (FIRST_WAIT << self.tries.min(8)).min(LONGEST_WAIT);
        self.tries += 1;
        self.due = now + wait - SECOND + u64::from(random.below(2 * SECOND as u32 + 1));
    }

    fn offered(&self) -> (Option<Ipv4Addr>, Option<Ipv4Addr>) {
        let lease = self.lease.as_ref();
        (lease.map(|l| l.grant.net.addr()), lease.map(|l| l.server))
    }

    fn question(&self, say: Say, now: u64) -> Question {
        Question {
            say,
            transaction: self.transaction,
            seconds: u16::try_from(now.saturating_sub(self.began) / SECOND).unwrap_or(u16::MAX),
            mac: self.mac,
            has: Ipv4Addr::UNSPECIFIED,
            wants: None,
            server: None,
            size: message::LONGEST,
        }
    }

    fn everybody(
        &self,
        say: Say,
        wants: Option<Ipv4Addr>,
        server: Option<Ipv4Addr>,
        now: u64,
    ) -> Action {
        let question = Question {
            wants,
            server,
            ..self.question(say, now)
        };
        Action::Broadcast {
            from: Ipv4Addr::UNSPECIFIED,
            message: question.write(),
        }
    }
}

#[cfg(test)]
mod tests;
