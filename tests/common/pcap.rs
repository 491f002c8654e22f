//! The classic pcap file format: a 24-byte header, then 16 bytes before each frame.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]
#![allow(dead_code, reason = "every test binary uses another part of it")]

use std::fs;
use std::io;
use std::path::Path;

/// Microsecond resolution, little endian.
const MAGIC: u32 = 0xa1b2_c3d4;
/// Ethernet.
const LINK_TYPE: u32 = 1;

/// A frame and its time in milliseconds.
pub type Record = (u64, Vec<u8>);

/// Reads all frames of a file.
pub fn read(path: &Path) -> io::Result<Vec<Record>> {
    let bytes = fs::read(path)?;
    let word = |at: usize| -> io::Result<u32> {
        let four = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
        four.map(u32::from_le_bytes)
            .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "truncated pcap file"))
    };
    if word(0)? != MAGIC || word(20)? != LINK_TYPE {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "not a little-endian Ethernet pcap file",
        ));
    }
    let mut records = Vec::new();
    let mut at = 24;
    while at < bytes.len() {
        let millis = u64::from(word(at)?) * 1000 + u64::from(word(at + 4)?) / 1000;
        let length = word(at + 8)? as usize;
        let frame = bytes
            .get(at + 16..at + 16 + length)
            .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "truncated pcap record"))?;
        records.push((millis, frame.to_vec()));
        at += 16 + length;
    }
    Ok(records)
}

/// Writes frames to a file.
pub fn write(path: &Path, records: &[Record]) -> io::Result<()> {
    let mut bytes = Vec::new();
    for word in [MAGIC, 0x0004_0002, 0, 0, 65_535, LINK_TYPE] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    for (millis, frame) in records {
        let length = frame.len() as u32;
        for word in [
            (millis / 1000) as u32,
            (millis % 1000) as u32 * 1000,
            length,
            length,
        ] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(frame);
    }
    fs::write(path, bytes)
}
