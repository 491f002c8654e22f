//! Golden rows: configuration and packets in, packets and counter changes out, compared byte for byte.
//!
//! A row is a directory of `tests/golden`: `natgate.toml`, `in.lan.pcap` and `in.wan.pcap`, `out.lan.pcap` and
//! `out.wan.pcap`, `counters.json` (every counter that moved, none left out). Every row runs against the core in memory,
//! and again through the real binary: on pcap ports, and on tap ports with 1, 2 and 4 workers.
//!
//! `NATGATE_GOLDEN=write cargo test --test golden` writes the rows of `rows.rs` anew; review the difference.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]
#![allow(missing_docs, reason = "a test is no interface")]
#![allow(
    clippy::disallowed_methods,
    reason = "waiting for a process needs the clock"
)]

#[cfg(feature = "dpdk")]
mod binary;

#[cfg(feature = "dpdk")]
mod captures;
#[path = "../common/mod.rs"]
mod common;
#[cfg(feature = "dpdk")]
mod kernel;
#[cfg(feature = "dpdk")]
mod reading;
mod rows;
mod rows_helpers;
mod rows_icmp;
mod rows_sctp;
#[cfg(feature = "dpdk")]
mod tap;

use std::fs;
use std::path::{Path, PathBuf};

use common::row::{PORTS, Row, compare, moved_in, run_core};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Every row there is, by name.
pub fn all_rows() -> Vec<Row> {
    let mut names: Vec<PathBuf> = fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("natgate.toml").exists())
        .collect();
    names.sort();
    names.iter().map(|path| Row::read(path)).collect()
}

#[test]
fn rows_hold_in_the_core() {
    if std::env::var("NATGATE_GOLDEN").is_ok_and(|v| v == "write") {
        rows::write_all(&directory());
    }
    let rows = all_rows();
    assert!(
        rows.len() >= rows::all().count(),
        "a row of rows.rs has no directory: write them"
    );
    for row in rows {
        for workers in [1, 2, 4] {
            let (output, counters) = run_core(&row.config, &row.input, workers);
            for (i, port) in PORTS.iter().enumerate() {
                compare(&row, port, &row.output[i], &output[i]);
            }
            assert_eq!(
                moved_in(&counters),
                row.counters,
                "row {}, {workers} workers: counters",
                row.name
            );
        }
    }
}
