//! Says which rows were set aside: a line for each, up to a rate, and how many more.

use crate::exit::Failure;
use homing::{RelaySummary, SqliteOutbox};
use std::time::{Duration, Instant};

/// Rows told one by one in each [`PERIOD`]; the rest of them is counted.
const TOLD_MAX: u64 = 10;
const PERIOD: Duration = Duration::from_secs(10);
/// Rows read at once.
const PAGE: u32 = 100;

/// Follows the dead-letter table of an outbox.
pub struct SetAside {
    /// The last dead letter that was seen.
    after: i64,
    /// Rows that the relay had set aside at the last look.
    seen: u64,
    told: u64,
    untold: u64,
    period_from: Instant,
}

impl SetAside {
    /// Begins behind what was set aside before.
    pub fn from_now(outbox: &SqliteOutbox) -> Result<Self, Failure> {
        let after = outbox.last_dead_letter()?;
        Ok(Self { after, seen: 0, told: 0, untold: 0, period_from: Instant::now() })
    }

    /// Tells what is new.
    pub fn look(&mut self, outbox: &SqliteOutbox, summary: &RelaySummary) {
        if self.period_from.elapsed() >= PERIOD {
            self.tell_rest();
            (self.told, self.period_from) = (0, Instant::now());
        }
        let set_aside = summary.rejected + summary.voided;
        if set_aside == self.seen {
            return;
        }
        match self.tell_new(outbox) {
            Ok(()) => self.seen = set_aside,
            // Looked at again at the next turn.
            Err(error) => tracing::debug!(%error, "list the rows set aside"),
        }
    }

    fn tell_new(&mut self, outbox: &SqliteOutbox) -> Result<(), Failure> {
        loop {
            if self.told >= TOLD_MAX {
                // Only how many they are is of interest, and the summary knows that.
                let last = outbox.last_dead_letter()?;
                self.untold += (last - self.after).max(0) as u64;
                self.after = last;
                return Ok(());
            }
            let page = outbox.dead_letters(self.after, PAGE.min((TOLD_MAX - self.told) as u32))?;
            let Some(last) = page.last() else { return Ok(()) };
            self.after = last.id;
            for letter in &page {
                tracing::warn!(
                    row = letter.row.0,
                    topic = letter.topic,
                    code = letter.code,
                    "a row was set aside and will not be sent: {}; `homing dlq list` shows it",
                    letter.reason
                );
            }
            self.told += page.len() as u64;
        }
    }

    fn tell_rest(&mut self) {
        let untold = std::mem::take(&mut self.untold);
        if untold > 0 {
            tracing::warn!("more rows set aside: {untold}; `homing dlq list` shows them");
        }
    }

    /// Tells what is left to tell.
    pub fn end(&mut self, outbox: &SqliteOutbox, summary: &RelaySummary) {
        self.look(outbox, summary);
        self.tell_rest();
    }
}
