//! A record of the NAT log: what every sink writes in its own way.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};

use crate::control::api::filter::protocol_name;

/// Declares the kinds of records. A macro only because enum, list and names would drift apart.
macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $kind:ident $name:literal,)+) => {
        /// What a record is about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Record {
    /// When it happened, in milliseconds since 1970.
    #[serde(serialize_with = "write_time")]
    pub time: u64,
    /// What happened.
    pub event: Kind,
    /// The subscriber's realm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub realm: Option<Cow<'static, str>>,
    /// The subscriber.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inside: Option<IpAddr>,
    /// Its port or query identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inside_port: Option<u16>,
    /// The public address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outside: Option<IpAddr>,
    /// The public port of a session, or its query identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outside_port: Option<u16>,
    /// The first port of a block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_port: Option<u16>,
    /// The last port of a block, included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_port: Option<u16>,
    /// The protocol; 0, written `all`, is every one.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "write_protocol"
    )]
    pub protocol: Option<u8>,
    /// The pool of the public address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<Cow<'static, str>>,
    /// The pool's number while natgate runs.
    #[serde(skip)]
    pub pool_number: Option<u16>,
    /// Whom the session talks to, as seen outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<IpAddr>,
    /// Its port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<u16>,
    /// The limit, or why a pool refuses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'static, str>>,
    /// The limit that a subscriber came to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// How many: refusals, records lost, milliseconds the clock went forward.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<i64>,
    /// In words, what has no field.
    #[serde(skip_serializing_if = "Option::is_none")]
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

fn write_time<S: Serializer>(millis: &u64, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&time_text(*millis))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_names_of_their_own_and_are_documented() {
        let names: std::collections::BTreeSet<_> =
            Kind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
        let page = include_str!("../../../docs/nat-log.md");
        for name in names {
            assert!(page.contains(&format!("`{name}`")), "{name}");
        }
    }
}
