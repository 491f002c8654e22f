//! Standard output that takes a closed pipe for a wish: `natgate show sessions | head` ends quietly.

use super::client::ClientError;
use crate::control::api::{Failure, FailureKind};
use serde::Serialize;
use std::io::{BufWriter, ErrorKind, Stdout, Write};

/// Buffered standard output.
pub struct Output {
    out: BufWriter<Stdout>,
}

impl Default for Output {
    fn default() -> Self {
        Output {
            out: BufWriter::new(std::io::stdout()),
        }
    }
}

impl Output {
    /// Writes text as it is.
    pub fn text(&mut self, text: &str) -> Result<(), ClientError> {
        self.bytes(text.as_bytes())
    }

    /// Writes a document, indented, and a line feed.
    pub fn json<T: Serialize>(&mut self, value: &T) -> Result<(), ClientError> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|e| Failure::new(FailureKind::Failed, "output", e.to_string()))?;
        self.text(&text)?;
        self.text("\n")
    }

    /// Writes bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        let written = self.out.write_all(bytes);
        written.or_else(end_of_pipe)
    }

    /// Hands everything on to the reader.
    pub fn flush(&mut self) -> Result<(), ClientError> {
        self.out.flush().or_else(end_of_pipe)
    }
}

/// The reader has seen enough: that is a success, and nothing is left to do.
fn end_of_pipe(error: std::io::Error) -> Result<(), ClientError> {
    if error.kind() == ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    Err(Failure::new(FailureKind::Failed, "output", error.to_string()).into())
}

impl Drop for Output {
    fn drop(&mut self) {
        // The buffer's own drop would do the same; a closed pipe is no news by now.
        let _ = self.out.flush();
    }
}
