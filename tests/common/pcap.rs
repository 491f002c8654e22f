//! The classic pcap file format: a 24-byte header, then 16 bytes before each frame.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]
#![allow(dead_code, reason = "every test binary uses another part of it")]

use std::fs::File;
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::Path;

/// Microsecond resolution, little endian.
const MAGIC: u32 = 0xa1b2_c3d4;
/// Nanosecond resolution, little endian, as DPDK writes it.
const MAGIC_NANOS: u32 = 0xa1b2_3c4d;
/// Ethernet.
const LINK_TYPE: u32 = 1;
/// The longest frame a file says it may hold.
const SNAPSHOT: u32 = 65_535;

/// A frame and its time in milliseconds.
pub type Record = (u64, Vec<u8>);

/// Reads the frames of a file or stream one by one.
pub struct Reader<R> {
    from: R,
    /// Units of the second word of a time.
    per_milli: u64,
}

impl<R: Read> Reader<R> {
    /// Reads the file's header.
    pub fn new(mut from: R) -> io::Result<Reader<R>> {
        let mut header = [0; 24];
        from.read_exact(&mut header)?;
        let per_milli = match (word(&header, 0), word(&header, 20)) {
            (MAGIC, LINK_TYPE) => 1_000,
            (MAGIC_NANOS, LINK_TYPE) => 1_000_000,
            _ => return invalid("not a little-endian Ethernet pcap file"),
        };
        Ok(Reader { from, per_milli })
    }

    /// The next frame; `None` at the end.
    pub fn next(&mut self) -> io::Result<Option<Record>> {
        let mut header = [0; 16];
        if self.from.read(&mut header[..1])? == 0 {
            return Ok(None);
        }
        self.from.read_exact(&mut header[1..])?;
        let length = word(&header, 8);
        if length > SNAPSHOT {
            return invalid("a frame longer than the file may hold");
        }
        let mut frame = vec![0; length as usize];
        self.from.read_exact(&mut frame)?;
        let (seconds, fraction) = (word(&header, 0), word(&header, 4));
        let millis = u64::from(seconds) * 1000 + u64::from(fraction) / self.per_milli;
        Ok(Some((millis, frame)))
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn invalid<T>(why: &str) -> io::Result<T> {
    Err(io::Error::new(ErrorKind::InvalidData, why))
}

/// Writes frames to a file or stream one by one.
pub struct Writer<W> {
    to: W,
}

impl<W: Write> Writer<W> {
    /// Writes the file's header.
    pub fn new(mut to: W) -> io::Result<Writer<W>> {
        for word in [MAGIC, 0x0004_0002, 0, 0, SNAPSHOT, LINK_TYPE] {
            to.write_all(&word.to_le_bytes())?;
        }
        Ok(Writer { to })
    }

    /// Writes one frame.
    pub fn frame(&mut self, millis: u64, frame: &[u8]) -> io::Result<()> {
        let length = frame.len() as u32;
        let mut header = [0; 16];
        let words = [
            (millis / 1000) as u32,
            (millis % 1000) as u32 * 1000,
            length,
            length,
        ];
        for (four, word) in header.chunks_mut(4).zip(words) {
            four.copy_from_slice(&word.to_le_bytes());
        }
        self.to.write_all(&header)?;
        self.to.write_all(frame)
    }

    /// Hands everything on.
    pub fn finish(mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Reads all frames of a file.
pub fn read(path: &Path) -> io::Result<Vec<Record>> {
    let mut reader = Reader::new(BufReader::new(File::open(path)?))?;
    let mut records = Vec::new();
    while let Some(record) = reader.next()? {
        records.push(record);
    }
    Ok(records)
}

/// Writes frames to a file.
pub fn write(path: &Path, records: &[Record]) -> io::Result<()> {
    let mut writer = Writer::new(BufWriter::new(File::create(path)?))?;
    for (millis, frame) in records {
        writer.frame(*millis, frame)?;
    }
    writer.finish()
}
