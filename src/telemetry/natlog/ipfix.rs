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
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::net::UdpSocket;

    /// A record as a collector reads it: the bytes of each element.
    type Read = BTreeMap<u16, Vec<u8>>;

    /// What a collector knows.
    #[derive(Default)]
    struct Collector {
        templates: BTreeMap<u16, Vec<Field>>,
        /// The next sequence number.
        expected: Option<u32>,
        records: Vec<Read>,
    }

    impl Collector {
        fn take(&mut self, message: &[u8]) {
            let word = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
            let long = |at: usize| u32::from(word(at)) << 16 | u32::from(word(at + 2));
            assert_eq!((word(0), usize::from(word(2))), (10, message.len()));
            assert!(message.len() <= LONGEST);
            assert_eq!((long(4), long(12)), (1_795_678_200, DOMAIN));
            let before = self.records.len() as u32;
            if let Some(expected) = self.expected {
                assert_eq!(long(8), expected, "sequence number");
            }
            let mut at = HEADER;
            while at < message.len() {
                let (id, length) = (word(at), usize::from(word(at + 2)));
                let set = &message[at + SET_HEADER..at + length];
                match id {
                    TEMPLATE_SET => self.learn(set),
                    id => self.read(id, set),
                }
                at += length;
            }
            self.expected = Some(long(8) + self.records.len() as u32 - before);
        }

        fn learn(&mut self, mut set: &[u8]) {
            let word = |set: &[u8], at: usize| u16::from_be_bytes([set[at], set[at + 1]]);
            while !set.is_empty() {
                let (id, count) = (word(set, 0), usize::from(word(set, 2)));
                let field = |n: usize| (word(set, 4 + 4 * n), word(set, 6 + 4 * n));
                self.templates.insert(id, (0..count).map(field).collect());
                set = &set[4 + 4 * count..];
            }
        }

        fn read(&mut self, id: u16, mut set: &[u8]) {
            while !set.is_empty() {
                let mut record = Read::new();
                for &(element, length) in &self.templates[&id] {
                    let length = match length {
                        VARIABLE => {
                            let length = set[0];
                            set = &set[1..];
                            length.into()
                        }
                        length => usize::from(length),
                    };
                    record.insert(element, set[..length].to_vec());
                    set = &set[length..];
                }
                self.records.push(record);
            }
        }
    }

    const NOW: u64 = 1_795_678_200_123;

    fn block(n: u16) -> Record {
        Record {
            realm: Some(MAIN.into()),
            inside: Some("100.64.0.9".parse().unwrap()),
            outside: Some("203.0.113.64".parse().unwrap()),
            first_port: Some(1024 + n),
            last_port: Some(1535 + n),
            protocol: Some(0),
            pool_number: Some(3),
            ..Record::new(NOW, Kind::BlockAllocated)
        }
    }

    fn session() -> Record {
        Record {
            realm: Some("blue".into()),
            inside: Some("fd00::9".parse().unwrap()),
            inside_port: Some(40_000),
            outside: Some("2001:db8::64".parse().unwrap()),
            outside_port: Some(50_000),
            destination: Some("2001:db8:9::1".parse().unwrap()),
            destination_port: Some(443),
            protocol: Some(6),
            ..Record::new(NOW, Kind::SessionDeleted)
        }
    }

    /// The messages that an exporter sends for these groups of records.
    fn exported(groups: &[Vec<Record>]) -> Vec<Vec<u8>> {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        let mut out = IpfixOut::new(Way::Host { to, socket: None });
        for records in groups {
            let batch = Batch {
                first: 1,
                records: records.clone().into(),
            };
            out.deliver(&[batch], NOW).unwrap();
        }
        server
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        let mut buffer = [0; 65_536];
        std::iter::from_fn(|| {
            let length = server.recv(&mut buffer).ok()?;
            Some(buffer[..length].to_vec())
        })
        .collect()
    }

    #[test]
    fn a_collector_reads_what_was_logged() {
        let quota = Record {
            limit: Some(4000),
            ..Record {
                event: Kind::QuotaExceeded,
                ..block(0)
            }
        };
        let pool = Record {
            event: Kind::PoolExhausted,
            ..block(0)
        };
        let silent = Record::new(NOW, Kind::GatewayStarted);
        let messages = exported(&[vec![silent, block(0), session(), quota, pool]]);
        assert_eq!(messages.len(), 3, "templates twice, and the records");
        assert_eq!(messages[0], messages[1]);
        let mut collector = Collector::default();
        messages.iter().for_each(|message| collector.take(message));
        let time = NOW.to_be_bytes().to_vec();
        let v6 = |text: &str| {
            text.parse::<std::net::Ipv6Addr>()
                .unwrap()
                .octets()
                .to_vec()
        };
        let expected: [Read; 4] = [
            [
                (323, time.clone()),
                (230, vec![16]),
                (8, vec![100, 64, 0, 9]),
                (225, vec![203, 0, 113, 64]),
                (361, 1024u16.to_be_bytes().to_vec()),
                (362, 1535u16.to_be_bytes().to_vec()),
            ]
            .into(),
            [
                (323, time.clone()),
                (230, vec![5]),
                (27, v6("fd00::9")),
                (281, v6("2001:db8::64")),
                (4, vec![6]),
                (7, 40_000u16.to_be_bytes().to_vec()),
                (227, 50_000u16.to_be_bytes().to_vec()),
                (282, v6("2001:db8:9::1")),
                (228, 443u16.to_be_bytes().to_vec()),
                (464, b"blue".to_vec()),
            ]
            .into(),
            [
                (323, time.clone()),
                (230, vec![13]),
                (466, PER_USER.to_be_bytes().to_vec()),
                (473, 4000u32.to_be_bytes().to_vec()),
                (8, vec![100, 64, 0, 9]),
            ]
            .into(),
            [
                (323, time),
                (230, vec![3]),
                (283, 3u32.to_be_bytes().to_vec()),
            ]
            .into(),
        ];
        assert_eq!(collector.records, expected);
    }

    #[test]
    fn many_records_fill_messages_and_losses_show_as_gaps() {
        let lost = Record {
            count: Some(5),
            ..Record::new(NOW, Kind::RecordsLost)
        };
        let messages = exported(&[(0..300).map(block).collect(), vec![lost, block(0)]]);
        let (last, before) = messages.split_last().unwrap();
        let mut collector = Collector::default();
        before.iter().for_each(|message| collector.take(message));
        assert_eq!(collector.records.len(), 300);
        assert!(before.len() <= 2 + 5, "{} messages", before.len());
        collector.expected = collector.expected.map(|next| next + 5);
        collector.take(last);
        assert_eq!(collector.records.len(), 301);
    }

    #[test]
    fn templates_come_again_every_minute_and_after_an_outage_nothing_is_missing() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let nowhere = Way::Local {
            path: "/nowhere/at/all".into(),
            socket: None,
        };
        let mut out = IpfixOut::new(nowhere);
        let batch = [Batch {
            first: 1,
            records: [block(0)].into(),
        }];
        for _ in 0..3 {
            assert!(out.deliver(&batch, NOW).is_err());
        }
        out.way = Way::Host {
            to: server.local_addr().unwrap(),
            socket: None,
        };
        out.deliver(&batch, NOW).unwrap();
        out.tend(NOW + TEMPLATES_EVERY - 1).unwrap();
        assert!(out.waiting.is_empty());
        out.tend(NOW + TEMPLATES_EVERY).unwrap();
        server
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        let mut buffer = [0; 2000];
        let got: Vec<usize> = std::iter::from_fn(|| server.recv(&mut buffer).ok()).collect();
        assert_eq!(got.len(), 4, "templates, templates, the record, templates");
        assert_eq!(got[0], got[3]);
    }
}
