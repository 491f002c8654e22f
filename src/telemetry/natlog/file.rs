//! The sink `file:PATH`: a line of JSON for each record, appended.
//!
//! A line is written whole: what a full disk cuts short goes on where it stopped. The file is opened anew when another one, or
//! none, has its name, so it may be renamed at any time, and what a process that died left unfinished ends with a line break.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use serde::Serialize;

use super::record::Record;
use super::sink::{Batch, Out};

/// A record with its number.
#[derive(Serialize)]
struct Line<'a> {
    seq: u64,
    #[serde(flatten)]
    record: &'a Record,
}

/// The file.
pub(super) struct FileOut {
    path: PathBuf,
    open: Option<File>,
    /// Lines that are not written yet, from `written` on.
    lines: Vec<u8>,
    written: usize,
}

impl FileOut {
    /// The file is opened with the first record.
    pub(super) fn new(path: PathBuf) -> FileOut {
        FileOut {
            path,
            open: None,
            lines: Vec::new(),
            written: 0,
        }
    }

    /// The file that has the name now.
    fn file(&mut self) -> io::Result<&mut File> {
        let named = fs::metadata(&self.path)
            .map(|named| (named.dev(), named.ino()))
            .ok();
        let same = |file: &File| {
            let ours = file.metadata().ok().map(|ours| (ours.dev(), ours.ino()));
            ours.is_some() && ours == named
        };
        if !self.open.as_ref().is_some_and(same) {
            // The rest of a line does not continue in another file.
            let line = self.lines[..self.written].iter().rposition(|&b| b == b'\n');
            self.written = line.map_or(0, |at| at + 1);
            self.open = None;
        }
        match &mut self.open {
            Some(file) => Ok(file),
            closed => Ok(closed.insert(open(&self.path)?)),
        }
    }
}

impl Out for FileOut {
    fn deliver(&mut self, batches: &[Batch], _: u64) -> io::Result<()> {
        if self.lines.is_empty() {
            for (seq, record) in batches.iter().flat_map(Batch::numbered) {
                serde_json::to_writer(&mut self.lines, &Line { seq, record })?;
                self.lines.push(b'\n');
            }
        }
        self.file()?;
        while self.written < self.lines.len() {
            let (Some(file), Some(rest)) = (&mut self.open, self.lines.get(self.written..)) else {
                break;
            };
            match file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.written += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.lines.clear();
        self.written = 0;
        Ok(())
    }
}

/// Opens the file at its end, which is the beginning of a line.
fn open(path: &PathBuf) -> io::Result<File> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)?;
    let mut last = [b'\n'];
    if file.metadata()?.is_file() && file.seek(SeekFrom::End(0))? > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    if last != [b'\n'] {
        file.write_all(b"\n")?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::natlog::Kind;

    fn batch(first: u64, records: u64) -> Batch {
        let record = |n: u64| Record {
            detail: Some("x".repeat(100).into()),
            ..Record::new(1_764_142_200_123 + n, Kind::GatewayStarted)
        };
        Batch {
            first,
            records: (0..records).map(record).collect::<Vec<_>>().into(),
        }
    }

    /// The numbers of the records in a file, whose lines must all be whole.
    fn numbers(text: &str) -> Vec<u64> {
        let number = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["seq"].as_u64().unwrap()
        };
        assert!(text.is_empty() || text.ends_with('\n'));
        text.lines().map(number).collect()
    }

    #[test]
    fn lines_are_appended_and_follow_the_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/nat.json");
        let mut out = FileOut::new(path.clone());
        out.deliver(&[batch(1, 2)], 0).unwrap();
        let first = fs::read_to_string(&path).unwrap();
        assert!(first.starts_with(
            r#"{"seq":1,"time":"2025-11-26T07:30:00.123Z","event":"gateway_started","detail":"#
        ));
        let rotated = dir.path().join("nat.json.1");
        fs::rename(&path, &rotated).unwrap();
        out.deliver(&[batch(3, 1)], 0).unwrap();
        fs::remove_file(&path).unwrap();
        out.deliver(&[batch(4, 1)], 0).unwrap();
        assert_eq!(numbers(&fs::read_to_string(&rotated).unwrap()), [1, 2]);
        assert_eq!(numbers(&fs::read_to_string(&path).unwrap()), [4]);
    }

    #[test]
    fn what_another_process_left_unfinished_ends_with_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nat.json");
        fs::write(&path, "{\"seq\":7,\"ti").unwrap();
        FileOut::new(path.clone())
            .deliver(&[batch(1, 1)], 0)
            .unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let (torn, rest) = text.split_once('\n').unwrap();
        assert_eq!((torn, numbers(rest)), ("{\"seq\":7,\"ti", vec![1]));
    }

    #[test]
    fn a_full_disk_keeps_the_records_and_a_new_file_gets_them_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nat.json");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let mut out = FileOut::new(path.clone());
        let error = out.deliver(&[batch(1, 3)], 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        // As if the disk had taken a line and a half.
        out.written = out.lines.len() / 2;
        fs::remove_file(&path).unwrap();
        out.deliver(&[batch(1, 3)], 0).unwrap();
        out.deliver(&[batch(4, 1)], 0).unwrap();
        assert_eq!(numbers(&fs::read_to_string(&path).unwrap()), [2, 3, 4]);
    }

    #[test]
    fn a_line_has_what_its_record_says_and_nothing_else() {
        let record = &Record {
            realm: Some("main".into()),
            inside: Some("100.64.0.1".parse().unwrap()),
            outside: Some("2001:db8::1".parse().unwrap()),
            first_port: Some(1024),
            last_port: Some(1535),
            protocol: Some(0),
            count: Some(-3),
            ..Record::new(1_795_678_200_007, Kind::BlockAllocated)
        };
        let text = serde_json::to_string(&Line { seq: 9, record }).unwrap();
        assert_eq!(
            text,
            r#"{"seq":9,"time":"2026-11-26T07:30:00.007Z","event":"block_allocated","realm":"main","#.to_owned()
                + r#""inside":"100.64.0.1","outside":"2001:db8::1","first_port":1024,"last_port":1535,"#
                + r#""protocol":"all","count":-3}"#
        );
        for kind in Kind::ALL {
            let record = &Record::new(0, *kind);
            let text = serde_json::to_string(&Line { seq: 1, record }).unwrap();
            let event = format!("\"event\":\"{}\"}}", kind.name());
            assert!(text.ends_with(&event), "{text}");
        }
    }
}
