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
