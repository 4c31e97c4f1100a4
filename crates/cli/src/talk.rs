//! Standard error: what the command says to people, and its log; it never holds up work.

use crate::background_writer::BackgroundWriter;
use std::fmt;
use std::io::{self, Write};
use std::sync::OnceLock;
use std::time::Duration;

/// Bytes kept for a reader that does not keep up.
const BYTES_MAX: usize = 1 << 20;
/// How long the end waits for a reader.
const END_PATIENCE: Duration = Duration::from_secs(2);

static TALK: OnceLock<Option<BackgroundWriter>> = OnceLock::new();

/// The writer behind standard error; `None` when none could be started.
pub fn writer() -> Option<&'static BackgroundWriter> {
    TALK.get_or_init(|| BackgroundWriter::start(io::stderr(), BYTES_MAX, missing).ok()).as_ref()
}

fn missing(lost: u64) -> String {
    format!("{lost} lines are missing above: nobody read them, or there was no room for them\n")
}

/// Says one line, written like `format!`.
macro_rules! say {
    ($($words:tt)*) => { $crate::talk::say(format_args!($($words)*)) };
}

/// Says one line; [`say!`] is the usual way.
pub fn say(line: impl fmt::Display) {
    let line = format!("{line}\n");
    match writer() {
        Some(writer) => writer.say(line.into_bytes()),
        // Nobody listens: there is nobody to tell that to.
        None => drop(io::stderr().write_all(line.as_bytes())),
    }
}

/// Waits a little until what was said is written.
pub fn flush() {
    if let Some(writer) = writer() {
        // Whoever does not read in this time is not waited for.
        let _all_written = writer.flush(END_PATIENCE);
    }
}

/// What the log's formatter writes to.
pub struct LogLine;

impl Write for LogLine {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match writer() {
            Some(writer) => writer.say(line.to_vec()),
            None => drop(io::stderr().write_all(line)),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
