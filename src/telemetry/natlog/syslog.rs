//! The sinks `syslog:…`: a message of RFC 5424 for each record.
//!
//! ```text
//! <134>1 2026-11-26T07:30:00.123Z gw1 natgate 711 block_allocated [nat@32473 realm="main" inside="100.64.0.9" …][meta sequenceId="7"] …
//! ```
//!
//! Everything is in the structured data; the text behind it is for people whose collector shows nothing else.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;

use super::record::{Kind, Record, protocol_text, time_text};
use super::send::Way;
use super::sink::{Batch, Out};

/// The identifier of the structured data. 32473 is the number for private use in examples (RFC 5612): natgate has none of its
/// own.
const STRUCTURE: &str = "nat@32473";

/// Facility local0, severity informational.
const INFORMATIONAL: u8 = 16 * 8 + 6;

/// Facility local0, severity warning.
const WARNING: u8 = 16 * 8 + 4;

/// The largest number of a message; 1 follows (RFC 5424 section 7.3.1).
const LAST_SEQUENCE: u64 = 2_147_483_647;

/// A collector, or the local daemon.
pub(super) struct SyslogOut {
    way: Way,
    host: String,
    process: u32,
    /// Records of the batch that are sent.
    sent: usize,
}

impl SyslogOut {
    /// Messages leave by this way.
    pub(super) fn new(way: Way) -> SyslogOut {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        SyslogOut {
            way,
            host: host_name(&host),
            process: std::process::id(),
            sent: 0,
        }
    }
}

impl Out for SyslogOut {
    fn deliver(&mut self, batches: &[Batch], _: u64) -> io::Result<()> {
        let records = batches.iter().flat_map(Batch::numbered).skip(self.sent);
        let messages = records
            .map(|(seq, record)| message(record, seq, &self.host, self.process).into_bytes());
        let mut messages = messages.peekable();
        while messages.peek().is_some() {
            let some: Vec<_> = messages.by_ref().take(Way::AT_ONCE).collect();
            let (sent, outcome) = self.way.send(some);
            self.sent += sent;
            outcome?;
        }
        self.sent = 0;
        Ok(())
    }
}

/// The name of the machine, if it can be a HOSTNAME.
fn host_name(text: &str) -> String {
    let name = text.trim();
    let printable = name.bytes().all(|b| (33..=126).contains(&b));
    match printable && (1..=255).contains(&name.len()) {
        true => name.to_owned(),
        false => "-".to_owned(),
    }
}

/// How much a record matters.
fn priority(kind: Kind) -> u8 {
    match kind {
        Kind::QuotaExceeded | Kind::PoolExhausted | Kind::RecordsLost | Kind::ClockStepped => {
            WARNING
        }
        _ => INFORMATIONAL,
    }
}

/// The message for a record.
pub(super) fn message(record: &Record, seq: u64, host: &str, process: u32) -> String {
    let mut out = String::with_capacity(384);
    let (priority, time, kind) = (
        priority(record.event),
        time_text(record.time),
        record.event.name(),
    );
    let _ = write!(
        out,
        "<{priority}>1 {time} {host} natgate {process} {kind} [{STRUCTURE}"
    );
    parameters(&mut out, record);
    let sequence = (seq.saturating_sub(1)) % LAST_SEQUENCE + 1;
    let _ = write!(out, "][meta sequenceId=\"{sequence}\"]");
    summary(&mut out, record);
    out
}

/// ` name="value"` for everything a record says.
fn parameters(out: &mut String, record: &Record) {
    let mut write = |name: &str, value: Option<&dyn std::fmt::Display>| {
        let Some(value) = value else { return };
        let _ = write!(out, " {name}=\"");
        for c in value.to_string().chars() {
            if matches!(c, '"' | '\\' | ']') {
                out.push('\\');
            }
            out.push(c);
        }
        out.push('"');
    };
    fn shown<T: std::fmt::Display>(value: &Option<T>) -> Option<&dyn std::fmt::Display> {
        value.as_ref().map(|value| value as &dyn std::fmt::Display)
    }
    write("realm", shown(&record.realm));
    write("inside", shown(&record.inside));
    write("insidePort", shown(&record.inside_port));
    write("outside", shown(&record.outside));
    write("outsidePort", shown(&record.outside_port));
    write("firstPort", shown(&record.first_port));
    write("lastPort", shown(&record.last_port));
    write("protocol", shown(&record.protocol.map(protocol_text)));
    write("pool", shown(&record.pool));
    write("destination", shown(&record.destination));
    write("destinationPort", shown(&record.destination_port));
    write("reason", shown(&record.reason));
    write("limit", shown(&record.limit));
    write("count", shown(&record.count));
    write("detail", shown(&record.detail));
}

/// ` inside -> outside`, for people.
fn summary(out: &mut String, record: &Record) {
    let Some(inside) = record.inside else { return };
    let end = |address: IpAddr, port: Option<u16>| match (address, port) {
        (IpAddr::V6(address), Some(port)) => format!("[{address}]:{port}"),
        (address, Some(port)) => format!("{address}:{port}"),
        (address, None) => address.to_string(),
    };
    let _ = write!(out, " {}", end(inside, record.inside_port));
    if let Some(outside) = record.outside {
        let first = record.outside_port.or(record.first_port);
        let _ = write!(out, " -> {}", end(outside, first));
    }
    if let Some(last) = record.last_port {
        let _ = write!(out, "-{last}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;
    use std::time::Duration;

    fn block() -> Record {
        Record {
            realm: Some("main".into()),
            inside: Some("100.64.0.9".parse().unwrap()),
            outside: Some("203.0.113.64".parse().unwrap()),
            first_port: Some(1536),
            last_port: Some(2047),
            protocol: Some(0),
            pool: Some("a \"b\" ]\\".into()),
            ..Record::new(1_795_678_200_123, Kind::BlockAllocated)
        }
    }

    #[test]
    fn a_message_is_one_of_rfc_5424() {
        assert_eq!(
            message(&block(), 7, "gw1", 711),
            "<134>1 2026-11-26T07:30:00.123Z gw1 natgate 711 block_allocated \
             [nat@32473 realm=\"main\" inside=\"100.64.0.9\" outside=\"203.0.113.64\" firstPort=\"1536\" \
             lastPort=\"2047\" protocol=\"all\" pool=\"a \\\"b\\\" \\]\\\\\"]\
             [meta sequenceId=\"7\"] 100.64.0.9 -> 203.0.113.64:1536-2047"
        );
        let lost = Record {
            count: Some(3),
            ..Record::new(0, Kind::RecordsLost)
        };
        assert_eq!(
            message(&lost, LAST_SEQUENCE + 1, "-", 1),
            "<132>1 1970-01-01T00:00:00.000Z - natgate 1 records_lost [nat@32473 count=\"3\"][meta sequenceId=\"1\"]"
        );
    }

    #[test]
    fn a_host_name_is_one_word() {
        assert_eq!(host_name("gw1.example\n"), "gw1.example");
        for none in ["", "two words", "\u{7f}", &"x".repeat(256)] {
            assert_eq!(host_name(none), "-");
        }
    }

    #[test]
    fn every_record_is_a_datagram() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        // A socket that makes the sender wait, where one of UDP would lose what nobody has read yet.
        let daemon = UnixDatagram::bind(&path).unwrap();
        daemon
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            let next = || {
                let length = daemon.recv(&mut buffer).unwrap();
                String::from_utf8(buffer[..length].to_vec()).unwrap()
            };
            std::iter::repeat_with(next).take(302).collect::<Vec<_>>()
        });
        let mut out = SyslogOut::new(Way::Local { path, socket: None });
        let batch = |first, records: u64| Batch {
            first,
            records: (0..records).map(|_| block()).collect::<Vec<_>>().into(),
        };
        out.deliver(&[batch(1, 300), batch(301, 2)], 0).unwrap();
        for (seq, text) in (1..).zip(reader.join().unwrap()) {
            assert!(
                text.contains(&format!("[meta sequenceId=\"{seq}\"]")),
                "{text}"
            );
        }
    }
}
