//! A record of the NAT log: what every sink writes in its own way, and the lookup reads back.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::control::api::filter::{protocol, protocol_name};

/// Declares the kinds of records. A macro only because enum, list and names would drift apart.
macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $kind:ident $name:literal,)+) => {
        /// What a record is about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Kind {
            $($(#[doc = $doc])+ #[serde(rename = $name)] $kind,)+
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Kind] = &[$(Kind::$kind,)+];

            /// Its name: `event` in a line of JSON, MSGID in syslog.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Kind::$kind => $name,)+
                }
            }

            /// What it means.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Kind::$kind => concat!($($doc),+).trim_ascii(),)+
                }
            }
        }
    };
}

kinds! {
    /// A subscriber got a block of ports.
    BlockAllocated "block_allocated",
    /// A block went back to its pool.
    BlockReleased "block_released",
    /// A session began.
    SessionCreated "session_created",
    /// A session ended.
    SessionDeleted "session_deleted",
    /// A subscriber came to one of its limits: said once, not for every refusal.
    QuotaExceeded "quota_exceeded",
    /// A subscriber was refused nothing for half a minute; with the number of refusals before.
    QuotaOver "quota_over",
    /// A pool refuses new mappings: at most every ten seconds, with the number of refusals since the last time.
    PoolExhausted "pool_exhausted",
    /// What a deterministic pool's ports follow from: when it changes, and daily.
    DeterministicMapping "deterministic_mapping",
    /// Records were lost before this one.
    RecordsLost "records_lost",
    /// The clock of the machine was set: stamps before and after do not fit together.
    ClockStepped "clock_stepped",
    /// natgate started. Nobody holds anything yet.
    GatewayStarted "gateway_started",
    /// natgate stops. Every block and session ends with it, without records of their own.
    GatewayStopped "gateway_stopped",
    /// This sink begins while natgate runs; blocks and sessions from before have no record of their beginning.
    LogStarted "log_started",
}

impl Kind {
    /// It answers for many sessions, or for the log itself: such records come first when room is short.
    pub fn is_durable(self) -> bool {
        !matches!(self, Kind::SessionCreated | Kind::SessionDeleted)
    }
}

/// A record. Fields that say nothing about an event are absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When it happened, in milliseconds since 1970.
    #[serde(serialize_with = "write_time", deserialize_with = "read_time")]
    pub time: u64,
    /// What happened.
    pub event: Kind,
    /// The subscriber's realm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub realm: Option<Cow<'static, str>>,
    /// The subscriber.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside: Option<IpAddr>,
    /// Its port or query identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside_port: Option<u16>,
    /// The public address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<IpAddr>,
    /// The public port of a session, or its query identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside_port: Option<u16>,
    /// The first port of a block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_port: Option<u16>,
    /// The last port of a block, included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_port: Option<u16>,
    /// The protocol; 0, written `all`, is every one.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "write_protocol",
        deserialize_with = "read_protocol"
    )]
    pub protocol: Option<u8>,
    /// The pool of the public address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Cow<'static, str>>,
    /// The pool's number while natgate runs.
    #[serde(skip)]
    pub pool_number: Option<u16>,
    /// Whom the session talks to, as seen outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<IpAddr>,
    /// Its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<u16>,
    /// The limit, or why a pool refuses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'static, str>>,
    /// The limit that a subscriber came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// How many: refusals, records lost, milliseconds the clock went forward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<i64>,
    /// In words, what has no field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Cow<'static, str>>,
}

impl Record {
    /// A record that says nothing but this yet.
    pub fn new(time: u64, event: Kind) -> Record {
        Record {
            time,
            event,
            realm: None,
            inside: None,
            inside_port: None,
            outside: None,
            outside_port: None,
            first_port: None,
            last_port: None,
            protocol: None,
            pool: None,
            pool_number: None,
            destination: None,
            destination_port: None,
            reason: None,
            limit: None,
            count: None,
            detail: None,
        }
    }
}

/// Milliseconds since 1970 by the machine's clock.
pub fn unix_millis() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// `2026-11-26T07:30:00.123Z`.
pub fn time_text(millis: u64) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(millis)).to_string()
}

/// Reads a time as RFC 3339 writes it, with any offset and fraction; a blank may stand for the `T`.
///
/// # Errors
/// In words.
pub fn parse_time(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("{text:?} is no time (2026-11-26T07:30:00Z is, or with an offset, +01:00)");
    let (local, offset) = match text
        .char_indices()
        .rev()
        .find(|(_, c)| matches!(c, '+' | '-' | 'Z' | 'z'))
    {
        Some((at, 'Z' | 'z')) if at + 1 == text.len() => (&text[..at], 0),
        // A sign behind the date is that of an offset.
        Some((at, sign)) if at > 10 => {
            let (hours, minutes) = text[at + 1..].split_once(':').ok_or_else(wrong)?;
            let number = |digits: &str, below: i64| {
                let valid = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
                digits.parse().ok().filter(|n: &i64| valid && *n < below)
            };
            let (hours, minutes) = number(hours, 24)
                .zip(number(minutes, 60))
                .ok_or_else(wrong)?;
            let millis = (hours * 60 + minutes) * 60_000;
            (&text[..at], if sign == '-' { -millis } else { millis })
        }
        _ => {
            return Err(format!(
                "{text:?} says nothing of its offset (end it with Z, or +01:00)"
            ));
        }
    };
    let time = humantime::parse_rfc3339_weak(local).map_err(|_| wrong())?;
    let since = time.duration_since(UNIX_EPOCH).map_err(|_| wrong())?;
    (since.as_millis() as u64)
        .checked_add_signed(-offset)
        .ok_or_else(wrong)
}

fn write_time<S: Serializer>(millis: &u64, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&humantime::format_rfc3339_millis(
        UNIX_EPOCH + Duration::from_millis(*millis),
    ))
}

fn read_time<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let text: Cow<'_, str> = Cow::deserialize(from)?;
    parse_time(&text).map_err(serde::de::Error::custom)
}

/// The name of a protocol, or of all of them.
pub fn protocol_text(number: u8) -> String {
    match number {
        0 => "all".to_owned(),
        number => protocol_name(number),
    }
}

fn write_protocol<S: Serializer>(protocol: &Option<u8>, to: S) -> Result<S::Ok, S::Error> {
    match protocol {
        Some(number) => to.serialize_some(&protocol_text(*number)),
        None => to.serialize_none(),
    }
}

fn read_protocol<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u8>, D::Error> {
    let text: Option<Cow<'_, str>> = Option::deserialize(from)?;
    match text.as_deref() {
        None => Ok(None),
        Some("all") => Ok(Some(0)),
        Some(name) => protocol(name).map(Some).map_err(serde::de::Error::custom),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_offset() {
        let utc = parse_time("2026-11-26T07:30:00Z").unwrap();
        assert_eq!(utc, 1_795_678_200_000);
        for same in [
            "2026-11-26 07:30:00Z",
            "2026-11-26T08:30:00+01:00",
            "2026-11-26T02:00:00.000-05:30",
        ] {
            assert_eq!(parse_time(same), Ok(utc), "{same}");
        }
        assert_eq!(parse_time("2026-11-26T07:30:00.25Z"), Ok(utc + 250));
        assert_eq!(parse_time(&time_text(utc + 7)), Ok(utc + 7));
        for wrong in [
            "",
            "now",
            "2026-11-26",
            "2026-11-26T07:30:00",
            "2026-13-26T07:30:00Z",
            "2026-11-26T07:30:00+1:00",
            "2026-11-26T07:30:00+24:00",
            "1969-12-31T23:00:00Z",
            "1970-01-01T00:00:00+01:00",
            "é2026-11-26T07:30:00Z",
            "2026-11-26T07:30:00+é1:0",
        ] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn kinds_have_names_of_their_own_and_a_meaning() {
        let names: std::collections::BTreeSet<_> =
            Kind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
        assert!(Kind::ALL.iter().all(|kind| !kind.meaning().is_empty()));
    }
}
