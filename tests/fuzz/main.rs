//! Fuzzing without tools beyond stable Rust: every parser and entry point, and the data plane as a whole.
//!
//! Each test is one target: first it replays `tests/crashes/TARGET/*`, then it tries the corpus (frames made by an
//! independent library, the inputs of the golden rows), then it mutates until its time is up. A failing input is made
//! smaller where the target knows how, and left in `tests/crashes/TARGET/`; commit it with the fix.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `NATGATE_FUZZ_SECONDS` | seconds per target | 3 (`make fuzz`: 60) |
//! | `NATGATE_FUZZ_SEED` | a decimal number from which all mutation follows | fixed |
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]
#![allow(missing_docs, reason = "a test is no interface")]

#[path = "../common/mod.rs"]
mod common;
mod dhcp;
mod edits;
mod engine;
mod helpers;
mod parsers;
mod pptp;
mod rack;
mod rtsp;
mod sip;
mod texts;
