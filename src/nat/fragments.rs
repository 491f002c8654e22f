//! Fragments of translated packets: virtual reassembly (RFC 4787 REQ-14, RFC 6888).
//!
//! Only the first fragment of a datagram carries ports. It teaches the table which ports the datagram has (and in IPv6, which
//! protocol); every other
//! fragment is then looked up as if it carried them, and only its addresses are rewritten. Fragments that come before the
//! first one wait, within bounds, so order does not matter and nothing is reassembled.
//!
//! The table has its own memory and its own drop reasons: a flood of fragments costs other fragments, never other
//! traffic (RFC 4787 REQ-14a). And it costs the source that sends it: a source may have as many datagrams in the table as
//! there are places left, and as many fragments waiting as there are slots left. So one source alone gets half of the
//! table, two get a third each, and whoever comes next still finds as much again; a source that is alone is not held back
//! by a share cut for many. Datagrams whose first fragment is still to come take at most half of the table, shared out in
//! the same way: fragments in order never lack room for those that are not.
//!
//! Of an SCTP datagram the first fragment waits, too, and the others with it, until the last one has come: other ports change
//! its checksum by what depends on its length.
//!
//! A piece that overlaps another one takes the whole datagram with it, as far as it is still here (RFC 5722; IPv4 alike).

mod pieces;
#[cfg(test)]
mod tests;

pub use pieces::Span;

use pieces::{Fit, Pieces};

use std::collections::VecDeque;

use hashbrown::HashTable;

use crate::base::{DropReason, RealmId};
use crate::flow::hash::{Hash, Hasher};
use crate::wire::SCTP;
use crate::wire::parse::{Network, Parsed};

/// How long a datagram's fragments belong together, from the first one seen. RFC 6146's FRAGMENT_MIN is 2 s.
pub const LIFETIME_MILLIS: u64 = 2_000;

/// Fragments of one datagram that may wait for the first one: 64 KiB in pieces of 1,480 bytes are 45.
pub const HELD_PER_DATAGRAM: usize = 48;

/// What identifies the datagram a fragment belongs to: in IPv4 source, destination, protocol and identification (RFC 791), in
/// IPv6 all but the protocol, which only the first one shows (RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramKey {
    /// Source address; IPv4 ones are below 2³².
    pub source: u128,
    /// Destination address.
    pub destination: u128,
    /// Identification.
    pub id: u32,
    /// Protocol; 0 in IPv6.
    pub protocol: u8,
    /// Realm.
    pub realm: RealmId,
}

impl DatagramKey {
    /// The key of a parsed fragment between these addresses.
    pub fn of(
        packet: &Parsed,
        (source, destination): (impl Into<u128>, impl Into<u128>),
        realm: RealmId,
    ) -> DatagramKey {
        DatagramKey {
            source: source.into(),
            destination: destination.into(),
            id: packet.fragment.id,
            protocol: match packet.network {
                Network::Ipv6 => 0,
                _ => packet.protocol,
            },
            realm,
        }
    }

    fn from(&self) -> Source {
        Source {
            address: self.source,
            realm: self.realm,
        }
    }

    fn hash(&self, hasher: &Hasher) -> Hash {
        hasher.hash_words(&[
            self.source as u64,
            (self.source >> 64) as u64,
            self.destination as u64,
            (self.destination >> 64) as u64,
            u64::from(self.id) << 32 | u64::from(self.protocol) << 8 | u64::from(self.realm.0),
        ])
    }
}

/// What the first fragment of a datagram shows of the header above IP's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Upper {
    /// Protocol.
    pub protocol: u8,
    /// Source and destination port.
    pub ports: (u16, u16),
}

/// What a datagram's pieces are forwarded with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// What its first one has shown.
    pub upper: Upper,
    /// The identification they get where their source is translated.
    pub number: u16,
    /// Bytes of the datagram, once its last one was seen.
    pub length: Option<u16>,
}

impl Shown {
    /// Whether pieces forwarded with this have to wait for the last one.
    fn waits(self) -> bool {
        self.upper.protocol == SCTP && self.length.is_none()
    }
}

/// Who sends fragments.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Source {
    address: u128,
    realm: RealmId,
}

impl Source {
    fn hash(&self, hasher: &Hasher) -> u64 {
        let words = [
            self.address as u64,
            (self.address >> 64) as u64,
            self.realm.0.into(),
        ];
        hasher.hash_words(&words).0
    }
}

/// What a source has in the table; no entry where that is nothing.
#[derive(Clone, Copy)]
struct Use {
    source: Source,
    datagrams: usize,
    /// Those whose first fragment was not seen.
    headless: usize,
    held: u32,
}

impl Use {
    fn nothing(source: Source) -> Use {
        Use {
            source,
            datagrams: 0,
            headless: 0,
            held: 0,
        }
    }
}

const NOTHING: u32 = u32::MAX;

struct Datagram {
    key: DatagramKey,
    shown: Option<Shown>,
    pieces: Pieces,
    /// Its bytes, once the last one was seen.
    length: Option<u16>,
    /// Two pieces overlapped.
    refused: bool,
    /// It is counted among those whose first fragment is still to come.
    headless: bool,
    held_first: u32,
    held_last: u32,
    held: u16,
}

impl Datagram {
    /// Lets a piece pass as `shown`, unless it overlaps another, or others did.
    fn admit(&mut self, span: Span, shown: Shown) -> Result<Shown, DropReason> {
        if self.refused {
            return Err(DropReason::FragmentOverlap);
        }
        match self.pieces.add(span) {
            Fit::New | Fit::Duplicate => {
                if span.last {
                    self.length = Some(span.end);
                }
                Ok(Shown {
                    length: self.length,
                    ..shown
                })
            }
            Fit::Scattered => Err(DropReason::FragmentBudget),
            Fit::Overlap => {
                self.refused = true;
                Err(DropReason::FragmentOverlap)
            }
        }
    }
}

struct Held<B> {
    buffer: Option<B>,
    next: u32,
}

/// The fragment table of one worker.
pub struct Fragments<B> {
    datagrams: HashTable<Datagram>,
    sources: HashTable<Use>,
    /// Datagrams whose first fragment was not seen.
    headless: usize,
    /// Keys by age; all live equally long, so the oldest is always in front.
    by_age: VecDeque<(u64, DatagramKey)>,
    arena: Vec<Held<B>>,
    free: u32,
    held: u32,
    capacity: usize,
    hasher: Hasher,
}

impl<B> Fragments<B> {
    /// Room for `capacity` datagrams and as many waiting fragments.
    pub fn new(capacity: usize, hasher: Hasher) -> Fragments<B> {
        let last = capacity.saturating_sub(1);
        let arena = (0..capacity)
            .map(|i| Held {
                buffer: None,
                next: if i == last { NOTHING } else { i as u32 + 1 },
            })
            .collect();
        Fragments {
            // Never more than half full, so that they are tidied up in place and never grow.
            datagrams: HashTable::with_capacity(2 * capacity),
            sources: HashTable::with_capacity(2 * capacity),
            headless: 0,
            by_age: VecDeque::with_capacity(capacity),
            arena,
            free: if capacity == 0 { NOTHING } else { 0 },
            held: 0,
            capacity,
            hasher,
        }
    }

    /// Whether a later fragment may pass, and with what: `None` when its first one is still to come, or of SCTP the last.
    ///
    /// # Errors
    /// [`DropReason::FragmentOverlap`] when it overlaps another, or others did.
    pub fn later(&mut self, key: &DatagramKey, span: Span) -> Result<Option<Shown>, DropReason> {
        let hash = key.hash(&self.hasher).0;
        let known = self.datagrams.find_mut(hash, |d| d.key == *key);
        let Some((datagram, shown)) = known.and_then(|d| d.shown.map(|shown| (d, shown))) else {
            return Ok(None);
        };
        let shown = datagram.admit(span, shown)?;
        Ok(Some(shown).filter(|shown| !shown.waits()))
    }

    /// Takes from a first fragment what it shows; `number` draws the identification of a datagram that is new. `None` where it has
    /// to wait for the last one; else fragments that waited for it come out of [`Fragments::release`] then.
    ///
    /// # Errors
    /// [`DropReason::FragmentBudget`] when the table is full, [`DropReason::FragmentSource`] when the source has its share,
    /// [`DropReason::FragmentOverlap`] when it overlaps another, or is not the first one that came.
    pub fn learn(
        &mut self,
        key: &DatagramKey,
        span: Span,
        upper: Upper,
        number: impl FnOnce() -> u16,
        now_millis: u64,
    ) -> Result<Option<Shown>, DropReason> {
        let datagram = self.entry(key, now_millis, false)?;
        let known = datagram.shown.filter(|_| !datagram.pieces.is_empty());
        if known.is_none() && datagram.pieces.is_empty() {
            datagram.length = None;
        }
        if known.is_some_and(|shown| shown.upper != upper) {
            datagram.refused = true;
        }
        let shown = known.unwrap_or_else(|| Shown {
            upper,
            number: number(),
            length: None,
        });
        let shown = datagram.admit(span, shown)?;
        datagram.shown = Some(shown);
        if std::mem::take(&mut datagram.headless) {
            self.headless -= 1;
            self.account(key.from(), |used| used.headless -= 1);
        }
        Ok(Some(shown).filter(|shown| !shown.waits()))
    }

    /// Keeps a fragment until the one it waits for arrives.
    ///
    /// # Errors
    /// The fragment itself and the reason when there is no room for it, none for this source, or it overlaps another.
    pub fn hold(
        &mut self,
        key: &DatagramKey,
        span: Span,
        buffer: B,
        now_millis: u64,
    ) -> Result<(), (B, DropReason)> {
        let slot = self.free;
        let Some(next_free) = self.arena.get(slot as usize).map(|h| h.next) else {
            return Err((buffer, DropReason::FragmentBudget));
        };
        let left = self.capacity as u32 - self.held;
        if self.used_by(key).held >= left {
            return Err((buffer, DropReason::FragmentSource));
        }
        let datagram = match self.entry(key, now_millis, true) {
            Ok(datagram) if usize::from(datagram.held) < HELD_PER_DATAGRAM => datagram,
            Ok(_) => return Err((buffer, DropReason::FragmentBudget)),
            Err(reason) => return Err((buffer, reason)),
        };
        if let Err(reason) = datagram.admit(span, Shown::default()) {
            return Err((buffer, reason));
        }
        let (first, last) = (datagram.held_first, datagram.held_last);
        // The datagram's first fragment goes first: what it opens, the others need.
        let ahead = span.start == 0 && first != NOTHING;
        datagram.held += 1;
        if !ahead {
            datagram.held_last = slot;
        }
        if ahead || first == NOTHING {
            datagram.held_first = slot;
        }
        if let Some(previous) = self.arena.get_mut(last as usize).filter(|_| !ahead) {
            previous.next = slot;
        }
        self.free = next_free;
        self.arena[slot as usize] = Held {
            buffer: Some(buffer),
            next: if ahead { first } else { NOTHING },
        };
        self.held += 1;
        self.account(key.from(), |used| used.held += 1);
        Ok(())
    }

    /// Hands out the fragments of `key` that waited: the first one ahead, if it is among them, the others in order of arrival.
    pub fn release(&mut self, key: &DatagramKey, mut out: impl FnMut(B)) {
        let hash = key.hash(&self.hasher).0;
        let Some(datagram) = self.datagrams.find_mut(hash, |d| d.key == *key) else {
            return;
        };
        let (first, held) = (datagram.held_first, datagram.held);
        (datagram.held_first, datagram.held_last, datagram.held) = (NOTHING, NOTHING, 0);
        self.account(key.from(), |used| used.held -= u32::from(held));
        self.unlink(first, &mut out);
    }

    /// Forgets datagrams whose time is up, at most `budget`; fragments still waiting come out for dropping.
    pub fn expire(&mut self, now_millis: u64, budget: usize, mut out: impl FnMut(B)) {
        for _ in 0..budget {
            match self.by_age.front() {
                Some((born, _)) if now_millis.saturating_sub(*born) >= LIFETIME_MILLIS => {}
                _ => return,
            }
            self.forget_oldest(&mut out);
        }
    }

    /// Forgets everything; fragments still waiting come out for dropping.
    pub fn clear(&mut self, mut out: impl FnMut(B)) {
        while !self.by_age.is_empty() {
            self.forget_oldest(&mut out);
        }
    }

    /// Fragments waiting now.
    pub fn held(&self) -> u32 {
        self.held
    }

    /// Datagrams in the table.
    pub fn pending(&self) -> usize {
        self.by_age.len()
    }

    fn forget_oldest(&mut self, out: &mut impl FnMut(B)) {
        let Some((_, key)) = self.by_age.pop_front() else {
            return;
        };
        let hash = key.hash(&self.hasher).0;
        if let Ok(found) = self.datagrams.find_entry(hash, |d| d.key == key) {
            let (datagram, _) = found.remove();
            let headless = usize::from(datagram.headless);
            self.headless -= headless;
            self.account(key.from(), |used| {
                used.datagrams -= 1;
                used.headless -= headless;
                used.held -= u32::from(datagram.held);
            });
            self.unlink(datagram.held_first, out);
        }
    }

    /// Returns a chain of arena slots to the free list and hands out what they held.
    fn unlink(&mut self, mut slot: u32, out: &mut impl FnMut(B)) {
        while let Some(held) = self.arena.get_mut(slot as usize) {
            let next = held.next;
            if let Some(buffer) = held.buffer.take() {
                self.held -= 1;
                out(buffer);
            }
            held.next = self.free;
            self.free = slot;
            slot = next;
        }
    }

    /// What a datagram's source has.
    fn used_by(&self, key: &DatagramKey) -> Use {
        let source = key.from();
        let hash = source.hash(&self.hasher);
        let used = self.sources.find(hash, |used| used.source == source);
        used.copied().unwrap_or(Use::nothing(source))
    }

    /// Changes what a source has; who has nothing left is forgotten.
    fn account(&mut self, source: Source, change: impl FnOnce(&mut Use)) {
        let hash = source.hash(&self.hasher);
        let hasher = &self.hasher;
        let found = self.sources.entry(
            hash,
            |used| used.source == source,
            |used| used.source.hash(hasher),
        );
        let mut used = found.or_insert(Use::nothing(source));
        change(used.get_mut());
        if used.get().datagrams == 0 {
            used.remove();
        }
    }

    /// The entry of a datagram; a new one if need be, `headless` where its first fragment is still to come.
    // Implements: U14a.
    fn entry(
        &mut self,
        key: &DatagramKey,
        now_millis: u64,
        headless: bool,
    ) -> Result<&mut Datagram, DropReason> {
        let hash = key.hash(&self.hasher).0;
        let known = self.datagrams.find(hash, |d| d.key == *key).is_some();
        if !known {
            let left = self.capacity - self.by_age.len();
            let headless_left = self.capacity.div_ceil(2) - self.headless;
            if left == 0 || (headless && headless_left == 0) {
                return Err(DropReason::FragmentBudget);
            }
            let used = self.used_by(key);
            if used.datagrams >= left || (headless && used.headless >= headless_left) {
                return Err(DropReason::FragmentSource);
            }
            self.by_age.push_back((now_millis, *key));
            self.headless += usize::from(headless);
            self.account(key.from(), |used| {
                used.datagrams += 1;
                used.headless += usize::from(headless);
            });
            let hasher = self.hasher.clone();
            let datagram = Datagram {
                key: *key,
                shown: None,
                pieces: Pieces::default(),
                length: None,
                refused: false,
                headless,
                held_first: NOTHING,
                held_last: NOTHING,
                held: 0,
            };
            self.datagrams
                .insert_unique(hash, datagram, |d| d.key.hash(&hasher).0);
        }
        self.datagrams
            .find_mut(hash, |d| d.key == *key)
            .ok_or(DropReason::Internal)
    }
}
