//! Standard output: data for programs, whole lines, every error looked at.
//!
//! A reader that has seen enough (`| head`) closes the pipe: that ends the output, is no
//! failure, and changes no exit code. A service's status lines go through a queue, so
//! that no reader holds it up.

use crate::background_writer::BackgroundWriter;
use crate::exit::{During, Failure, Outcome};
use serde::Serialize;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Bytes of status lines kept for a reader that does not keep up.
const BYTES_MAX: usize = 1 << 20;
/// How long the end of a service waits for a reader of its last line.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// Whether the reader has closed the pipe.
static CLOSED: AtomicBool = AtomicBool::new(false);

/// Prints one JSON object on a line of its own.
///
/// # Errors
/// [`Failure`] when it cannot be written; a reader that went away is no error.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    text(&line(value)?)
}

fn line(value: &impl Serialize) -> Result<String, Failure> {
    let mut line = serde_json::to_string(value)?;
    line.push('\n');
    Ok(line)
}

/// Prints text and flushes.
///
/// # Errors
/// As [`json`].
pub fn text(text: &str) -> Result<(), Failure> {
    if is_closed() {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            CLOSED.store(true, Ordering::Relaxed);
            Ok(())
        }
        written => written.during("write to standard output"),
    }
}

/// Whether nobody reads any more, so that the rest need not be made.
pub fn is_closed() -> bool {
    CLOSED.load(Ordering::Relaxed)
}

/// Prints data and ends fine.
///
/// # Errors
/// As [`json`].
pub fn print(data: &str) -> Result<Outcome, Failure> {
    text(data).map(|()| Outcome::Fine)
}

/// A service's lines of JSON, dropped when nobody takes them.
#[derive(Debug)]
pub struct StatusLines {
    writer: BackgroundWriter,
    told: bool,
}

impl StatusLines {
    /// Begins.
    ///
    /// # Errors
    /// [`Failure`] when no thread can be started for it.
    pub fn start() -> Result<Self, Failure> {
        // A reader of JSON lines can do nothing with a sentence: what is missing is said on stderr.
        let writer = BackgroundWriter::start(io::stdout(), BYTES_MAX, |_| String::new())
            .during("start a thread for standard output")?;
        Ok(Self { writer, told: false })
    }

    /// Hands over one object; says once that nobody takes them.
    ///
    /// # Errors
    /// [`Failure`] when the value cannot be written as JSON.
    pub fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        self.writer.say(line(value)?.into_bytes());
        let losses = self.writer.losses();
        if losses.dropped > 0 && !self.told {
            self.told = true;
            let why = if losses.reader_gone {
                "is closed"
            } else {
                "takes nothing: is its reader stopped, or the disk full?"
            };
            tracing::warn!("standard output {why}; status lines are dropped, the work goes on");
        }
        Ok(())
    }

    /// Waits a little for the reader of the last lines.
    pub fn end(self) {
        if !self.writer.flush(END_PATIENCE) {
            let dropped = self.writer.losses().dropped;
            say!("not all status lines were written ({dropped} dropped)");
        }
    }
}
