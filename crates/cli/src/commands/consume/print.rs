//! Prints records as JSON lines; they count as done once standard output took them.

use super::Closed;
use super::stop::Quota;
use crate::record_json::RecordJson;
use homing::consumer::BatchOutcome;
use homing::{Outcome, Record};
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

/// Prints batches.
pub struct Printer {
    quota: Quota,
    closed: Closed,
    /// Guards the lines under way; kept for its memory.
    lines: Mutex<Vec<u8>>,
}

impl Printer {
    pub fn new(quota: Quota) -> Self {
        Self { quota, closed: Closed::new(), lines: Mutex::default() }
    }

    /// Triggered when nobody reads standard output any more.
    pub fn closed(&self) -> Closed {
        self.closed.clone()
    }

    /// Prints as many as the quota allows, flushes, and says which are done.
    pub fn print(&self, records: &[&Record]) -> BatchOutcome {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.clear();
        let allowed = self.quota.take(records.len());
        for record in &records[..allowed] {
            if let Err(error) = serde_json::to_writer(&mut *lines, &RecordJson(record)) {
                return BatchOutcome::All(Outcome::fatal(format!("write {record:?} as JSON: {error}")));
            }
            lines.push(b'\n');
        }
        let mut out = io::stdout().lock();
        match out.write_all(&lines).and_then(|()| out.flush()) {
            Ok(()) => {
                self.quota.done(allowed);
                // Those beyond the quota are not in the list, so they stay unfinished.
                BatchOutcome::Each(vec![Outcome::Ok; allowed])
            }
            Err(error) => {
                if error.kind() == io::ErrorKind::BrokenPipe {
                    self.closed.trigger();
                }
                BatchOutcome::All(Outcome::fatal(format!("write to standard output: {error}")))
            }
        }
    }
}
