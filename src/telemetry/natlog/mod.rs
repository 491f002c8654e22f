//! The NAT log: who had which public address and ports, and when (RFC 6888 REQ-12 to REQ-14, RFC 8158).
//!
//! ```text
//!   workers ──rings──▶ NatLog: names, time of day ──queue──▶ file:     a thread for each sink
//!   housekeeping: limits, refusals ──▶                ├────▶ syslog:
//!                                                     └────▶ ipfix:   as packets of a worker, or by the host
//! ```
//!
//! Nobody upstream ever waits: a ring or a queue that is full is counted, and the count is a record of its own. Of every
//! sink, records emitted = delivered + queued + dropped, and each record bears its number, so that a reader sees gaps.

mod file;
mod hub;
mod ipfix;
mod record;
mod send;
mod sink;
mod syslog;

pub use hub::{Names, NatLog};
pub use record::{Kind, Record, unix_millis};
pub use sink::SinkView;
