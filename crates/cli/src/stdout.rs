//! Standard output: data for programs, whole lines, every error looked at.

use crate::exit::{Failure, Outcome};
use serde::Serialize;
use std::io::{self, Write};

/// Prints one JSON object on a line of its own.
///
/// # Errors
/// [`Failure`] when nobody takes it.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let mut line = serde_json::to_string(value)?;
    line.push('\n');
    text(&line)
}

/// Prints text and flushes.
///
/// # Errors
/// [`Failure`] when nobody takes it.
pub fn text(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Failure::new(format!("write to standard output: {error}")))
}

/// Prints data and ends fine.
///
/// # Errors
/// As [`text`].
pub fn print(data: &str) -> Result<Outcome, Failure> {
    text(data).map(|()| Outcome::Fine)
}
