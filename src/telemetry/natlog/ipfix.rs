//! The sinks `ipfix:…`: events of RFC 8158 in messages of RFC 7011, over UDP.
//!
//! | template | records | elements |
//! |---|---|---|
//! | session | NAT44 session create and delete (4, 5); for IPv6 with its addresses | 323 230 8\|27 225\|281 4 7 227 |
//! | block | port block allocation and de-allocation (16, 17) | 323 230 8\|27 225\|281 361 362 |
//! | quota | quota exceeded (13), entries per user | 323 230 466 473 8\|27 |
//! | pool | addresses exhausted (3) | 323 230 283 |
//!
//! Sessions with destinations have 226\|282 and 228 besides; subscribers of another realm than the main one 464. Templates
//! are sent twice before the first record and every minute. What else the log says has no event there: only the number of
//! records lost shows, as a gap in the sequence numbers.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use super::record::{Kind, Record};
use super::send::Way;
use super::sink::{Batch, Out};

/// The longest message: with its headers it fits every Ethernet, also through a tunnel or two.
const LONGEST: usize = 1400;

/// Bytes of a message's header, and of a set's.
const HEADER: usize = 16;
const SET_HEADER: usize = 4;

/// The set of templates.
const TEMPLATE_SET: u16 = 2;

/// Records wait for others that long.
const GATHER: Duration = Duration::from_secs(1);

/// Templates are sent again after so many milliseconds.
const TEMPLATES_EVERY: u64 = 60_000;

/// All workers are one observation domain.
const DOMAIN: u32 = 1;

/// The realm that needs no mention.
const MAIN: &str = "main";

/// A field of a template: element and length.
type Field = (u16, u16);

/// The length of a field that says its own.
const VARIABLE: u16 = u16::MAX;

/// What a record looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    what: What,
    v6: bool,
    destination: bool,
    realm: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Session,
    Block,
    Quota,
    Pool,
}

impl Shape {
    /// Every shape there is.
    fn all() -> impl Iterator<Item = Shape> {
        let shapes = |what: What| {
            (0..8u16).map(move |n| Shape {
                what,
                v6: n & 1 != 0,
                realm: n & 2 != 0,
                destination: n & 4 != 0,
            })
        };
        [What::Session, What::Block, What::Quota, What::Pool]
            .into_iter()
            .flat_map(shapes)
            .filter(|shape| match shape.what {
                What::Session => true,
                What::Block | What::Quota => !shape.destination,
                What::Pool => !(shape.v6 || shape.destination || shape.realm),
            })
    }

    /// The shape of a record that has an event.
    fn of(record: &Record) -> Option<Shape> {
        let what = match record.event {
            Kind::SessionCreated | Kind::SessionDeleted => What::Session,
            Kind::BlockAllocated | Kind::BlockReleased => What::Block,
            Kind::QuotaExceeded => What::Quota,
            Kind::PoolExhausted => What::Pool,
            _ => return None,
        };
        Some(Shape {
            what,
            v6: record.inside.is_some_and(|address| address.is_ipv6()),
            destination: what == What::Session && record.destination.is_some(),
            realm: record.realm.as_ref().is_some_and(|realm| realm != MAIN),
        })
    }

    /// The number of its template, which never changes.
    fn template(self) -> u16 {
        let flags =
            u16::from(self.v6) | u16::from(self.realm) << 1 | u16::from(self.destination) << 2;
        256 + self.what as u16 * 8 + flags
    }

    /// Its fields.
    fn fields(self) -> Vec<Field> {
        let by_family = |v4: u16, v6: u16| match self.v6 {
            false => (v4, 4),
            true => (v6, 16),
        };
        let mut fields = vec![(323, 8), (230, 1)];
        let (inside, outside) = (by_family(8, 27), by_family(225, 281));
        match self.what {
            What::Session => fields.extend([inside, outside, (4, 1), (7, 2), (227, 2)]),
            What::Block => fields.extend([inside, outside, (361, 2), (362, 2)]),
            What::Quota => fields.extend([(466, 4), (473, 4), inside]),
            What::Pool => fields.push((283, 4)),
        }
        if self.destination {
            fields.extend([by_family(226, 282), (228, 2)]);
        }
        if self.realm {
            fields.push((464, VARIABLE));
        }
        fields
    }
}

/// The event of RFC 8158.
fn event(kind: Kind) -> u8 {
    match kind {
        Kind::PoolExhausted => 3,
        Kind::SessionCreated => 4,
        Kind::SessionDeleted => 5,
        Kind::QuotaExceeded => 13,
        Kind::BlockAllocated => 16,
        Kind::BlockReleased => 17,
        _ => 0,
    }
}

/// natQuotaExceededEvent: entries per user.
const PER_USER: u32 = 3;

/// Appends a record in its shape.
fn encode(out: &mut Vec<u8>, record: &Record, shape: Shape) {
    let address = |out: &mut Vec<u8>, address: Option<IpAddr>| match (address, shape.v6) {
        (Some(IpAddr::V4(v4)), false) => out.extend(v4.octets()),
        (Some(IpAddr::V6(v6)), true) => out.extend(v6.octets()),
        (_, v6) => out.resize(out.len() + if v6 { 16 } else { 4 }, 0),
    };
    let port = |out: &mut Vec<u8>, port: Option<u16>| out.extend(port.unwrap_or(0).to_be_bytes());
    out.extend(record.time.to_be_bytes());
    out.push(event(record.event));
    match shape.what {
        What::Session => {
            address(out, record.inside);
            address(out, record.outside);
            out.push(record.protocol.unwrap_or(0));
            port(out, record.inside_port);
            port(out, record.outside_port);
        }
        What::Block => {
            address(out, record.inside);
            address(out, record.outside);
            port(out, record.first_port);
            port(out, record.last_port);
        }
        What::Quota => {
            out.extend(PER_USER.to_be_bytes());
            out.extend(record.limit.unwrap_or(0).to_be_bytes());
            address(out, record.inside);
        }
        What::Pool => out.extend(u32::from(record.pool_number.unwrap_or(0)).to_be_bytes()),
    }
    if shape.destination {
        address(out, record.destination);
        port(out, record.destination_port);
    }
    if shape.realm {
        let name = record.realm.as_deref().unwrap_or_default().as_bytes();
        let name = &name[..name.len().min(254)];
        out.push(name.len() as u8);
        out.extend(name);
    }
}

/// A message that is being filled.
struct Message {
    bytes: Vec<u8>,
    /// Where the set at the end begins, and its template.
    set: Option<(usize, u16)>,
    /// Records in it.
    records: u32,
}

impl Message {
    fn new() -> Message {
        Message {
            bytes: vec![0; HEADER],
            set: None,
            records: 0,
        }
    }

    /// Adds a record, if there is room.
    fn push(&mut self, template: u16, record: &[u8]) -> bool {
        let same = self.set.is_some_and(|(_, of)| of == template);
        let header = if same { 0 } else { SET_HEADER };
        if self.bytes.len() + header + record.len() > LONGEST {
            return false;
        }
        if !same {
            self.end_set();
            self.set = Some((self.bytes.len(), template));
            self.bytes.extend([0; SET_HEADER]);
        }
        self.bytes.extend(record);
        self.records += 1;
        true
    }

    /// Writes the header of the set at the end.
    fn end_set(&mut self) {
        if let Some((at, id)) = self.set.take() {
            let length = (self.bytes.len() - at) as u16;
            self.bytes[at..at + 2].copy_from_slice(&id.to_be_bytes());
            self.bytes[at + 2..at + 4].copy_from_slice(&length.to_be_bytes());
        }
    }

    /// The whole message. `sequence` is the number of records before it.
    fn finish(mut self, sequence: u32, now: u64) -> Vec<u8> {
        self.end_set();
        let length = self.bytes.len() as u16;
        let header = [
            &10u16.to_be_bytes()[..],
            &length.to_be_bytes(),
            &((now / 1000) as u32).to_be_bytes(),
            &sequence.to_be_bytes(),
            &DOMAIN.to_be_bytes(),
        ]
        .concat();
        self.bytes[..HEADER].copy_from_slice(&header);
        self.bytes
    }
}

/// A message with every template.
fn templates(sequence: u32, now: u64) -> Vec<u8> {
    let mut message = Message::new();
    for shape in Shape::all() {
        let fields = shape.fields();
        let mut template = Vec::new();
        template.extend(shape.template().to_be_bytes());
        template.extend((fields.len() as u16).to_be_bytes());
        for (element, length) in fields {
            template.extend(element.to_be_bytes());
            template.extend(length.to_be_bytes());
        }
        message.push(TEMPLATE_SET, &template);
    }
    message.finish(sequence, now)
}

/// A collector.
pub(super) struct IpfixOut {
    way: Way,
    /// Data records sent so far, and lost, modulo 2^32 (RFC 7011 section 3.1).
    sequence: u32,
    /// When templates were sent last.
    templates: Option<u64>,
    /// Messages that are not sent yet.
    waiting: Vec<Vec<u8>>,
    /// They have the records of the batches that are being delivered.
    filled: bool,
}

impl IpfixOut {
    /// Messages leave by this way.
    pub(super) fn new(way: Way) -> IpfixOut {
        IpfixOut {
            way,
            sequence: 0,
            templates: None,
            waiting: Vec::new(),
            filled: false,
        }
    }

    /// Puts templates in line where it is time.
    fn renew_templates(&mut self, now: u64) {
        let copies = match self.templates {
            None => 2,
            Some(last) if now.saturating_sub(last) >= TEMPLATES_EVERY => 1,
            Some(_) => 0,
        };
        if copies > 0 {
            self.templates = Some(now);
            let message = templates(self.sequence, now);
            self.waiting.extend(std::iter::repeat_n(message, copies));
        }
    }

    /// Puts messages with these records in line.
    fn fill<'a>(&mut self, records: impl Iterator<Item = &'a Record>, now: u64) {
        let mut message = Message::new();
        let mut bytes = Vec::new();
        for record in records {
            if record.event == Kind::RecordsLost {
                self.end(&mut message, now);
                // Who counts records misses these.
                let lost = record.count.unwrap_or(0);
                self.sequence = self.sequence.wrapping_add(lost as u32);
            }
            let Some(shape) = Shape::of(record) else {
                continue;
            };
            bytes.clear();
            encode(&mut bytes, record, shape);
            if !message.push(shape.template(), &bytes) {
                self.end(&mut message, now);
                message.push(shape.template(), &bytes);
            }
        }
        self.end(&mut message, now);
    }

    fn end(&mut self, message: &mut Message, now: u64) {
        let full = std::mem::replace(message, Message::new());
        if full.records > 0 {
            let records = full.records;
            self.waiting.push(full.finish(self.sequence, now));
            self.sequence = self.sequence.wrapping_add(records);
        }
    }

    /// Sends what is in line.
    fn flush(&mut self) -> io::Result<()> {
        while !self.waiting.is_empty() {
            let some: Vec<_> = self.waiting.iter().take(Way::AT_ONCE).cloned().collect();
            let (sent, outcome) = self.way.send(some);
            self.waiting.drain(..sent);
            outcome?;
        }
        Ok(())
    }
}

impl Out for IpfixOut {
    fn deliver(&mut self, batches: &[Batch], now: u64) -> io::Result<()> {
        if !self.filled {
            self.renew_templates(now);
            let records = batches.iter().flat_map(Batch::numbered);
            self.fill(records.map(|(_, record)| record), now);
            self.filled = true;
        }
        self.flush()?;
        self.filled = false;
        Ok(())
    }

    fn gather(&self) -> Duration {
        GATHER
    }

    fn tend(&mut self, now: u64) -> io::Result<()> {
        if self.templates.is_some() {
            self.renew_templates(now);
        }
        self.flush()
    }
}

#[cfg(test)]
mod tests;
