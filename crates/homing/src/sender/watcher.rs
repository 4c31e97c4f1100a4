//! The watcher: learns which stored rows have an end, and completes their sends.

use super::SendError;
use super::completion::Completion;
use crate::outbox::signals::Bell;
use crate::outbox::sqlite::FateReader;
use crate::outbox::{Fate, OutboxError, RowId, SqliteOutbox};
use crate::relay::RelayError;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The stored rows that wait for their end; shared by writer, watcher and sender.
#[derive(Clone, Default)]
pub(super) struct Watch {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Guards who waits; never held while a callback runs.
    waiting: Mutex<Waiting>,
    /// Rows were stored, or it is over.
    stored: Condvar,
    /// A send has a place again.
    room: Condvar,
}

/// How many sends may be under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    /// Waiting to be stored.
    pub queue_max: usize,
    /// Without a receipt, those waiting to be stored included.
    pub pending_max: usize,
}

#[derive(Default)]
struct Waiting {
    /// Admitted and not yet taken by the writer.
    queued: usize,
    /// Sends that wait for a place.
    outside: usize,
    rows: BTreeMap<RowId, Completion>,
    /// Taken by the writer and neither stored nor failed.
    taken: usize,
    writer_done: bool,
    /// Set by `close`: when waiting for receipts ends.
    until: Option<Instant>,
}

impl Waiting {
    /// Sends under way.
    fn pending(&self) -> usize {
        self.queued + self.taken + self.rows.len()
    }
}

impl Watch {
    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.inner.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn pending(&self) -> usize {
        self.lock().pending()
    }

    /// Takes a place for one send, waiting for it until `until`; false when there was none.
    pub fn admit(&self, places: Places, until: Instant) -> bool {
        let mut waiting = self.lock();
        while waiting.queued >= places.queue_max || waiting.pending() >= places.pending_max {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            waiting.outside += 1;
            waiting = self.inner.room.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
            waiting.outside -= 1;
        }
        waiting.queued += 1;
        true
    }

    /// Gives the place of a send back that the writer will never see.
    pub fn withdraw(&self) {
        let mut waiting = self.lock();
        waiting.queued -= 1;
        self.tell_outside(&waiting);
    }

    fn tell_outside(&self, waiting: &Waiting) {
        if waiting.outside > 0 {
            self.inner.room.notify_all();
        }
    }

    pub fn taken(&self, jobs: usize) {
        let mut waiting = self.lock();
        waiting.queued -= jobs;
        waiting.taken += jobs;
        self.tell_outside(&waiting);
    }

    pub fn not_stored(&self, jobs: usize) {
        let mut waiting = self.lock();
        waiting.taken -= jobs;
        self.tell_outside(&waiting);
    }

    pub fn stored(&self, rows: impl Iterator<Item = (RowId, Completion)>) {
        let mut waiting = self.lock();
        for (row, mut completion) in rows {
            completion.stored(row);
            waiting.rows.insert(row, completion);
            waiting.taken -= 1;
        }
        drop(waiting);
        self.inner.stored.notify_all();
    }

    pub fn writer_done(&self) {
        self.lock().writer_done = true;
        self.inner.stored.notify_all();
    }

    /// Asks the watcher to end when nothing waits, at the latest after `timeout`.
    pub fn close(&self, timeout: Duration) {
        self.lock().until = Some(Instant::now() + timeout);
        self.inner.stored.notify_all();
    }

    /// Waits until rows wait for their end; false when there will be none.
    fn wait_for_rows(&self) -> bool {
        let mut waiting = self.lock();
        loop {
            let over = waiting.until.is_some_and(|until| Instant::now() >= until);
            if waiting.writer_done && (waiting.rows.is_empty() || over) {
                return false;
            }
            if !waiting.rows.is_empty() {
                return true;
            }
            waiting = self.inner.stored.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn through(&self, last: RowId) -> Vec<RowId> {
        self.lock().rows.range(..=last).map(|(row, _)| *row).collect()
    }

    fn take(&self, row: RowId) -> Option<Completion> {
        let mut waiting = self.lock();
        let completion = waiting.rows.remove(&row);
        self.tell_outside(&waiting);
        completion
    }

    fn take_all(&self) -> BTreeMap<RowId, Completion> {
        let mut waiting = self.lock();
        let rows = std::mem::take(&mut waiting.rows);
        self.tell_outside(&waiting);
        rows
    }
}

pub(super) struct Watcher {
    reader: FateReader,
    watch: Watch,
    settled: Bell,
    stopped: Arc<OnceLock<Arc<RelayError>>>,
    poll_max: Duration,
}

impl Watcher {
    pub fn new(
        outbox: &SqliteOutbox,
        watch: Watch,
        stopped: Arc<OnceLock<Arc<RelayError>>>,
        poll_max: Duration,
    ) -> Result<Self, OutboxError> {
        let settled = outbox.signals().settled.clone();
        Ok(Self { reader: outbox.fate_reader()?, watch, settled, stopped, poll_max })
    }

    pub fn run(self) {
        let mut pause = Duration::from_millis(1);
        while self.watch.wait_for_rows() {
            let heard = self.settled.count();
            let completed = match self.complete_decided() {
                Ok(completed) => completed,
                Err(error) => {
                    tracing::warn!(%error, "receipts cannot be read, trying again");
                    0
                }
            };
            if let Some(error) = self.stopped.get() {
                for (row, completion) in self.watch.take_all() {
                    completion.complete(Err(SendError::RelayStopped { row, error: Arc::clone(error) }));
                }
            }
            if completed > 0 {
                pause = Duration::from_millis(1);
                continue;
            }
            self.settled.wait(heard, pause);
            pause = (pause * 2).min(self.poll_max);
        }
        // Those still waiting hear that they are stored and will be delivered.
        drop(self.watch.take_all());
    }

    fn complete_decided(&self) -> Result<usize, OutboxError> {
        // A row has its fate when its own lane is settled, whatever the others wait for.
        let rows = self.watch.through(self.reader.claimed_through()?);
        if rows.is_empty() {
            return Ok(0);
        }
        let decided = self.reader.decided_through()?;
        let mut completed = 0;
        for (row, fate) in self.reader.fates(&rows)? {
            let Some(completion) = self.watch.take(row) else { continue };
            completed += 1;
            completion.complete(match fate {
                Fate::Delivered(receipt) => Ok(receipt),
                Fate::DeadLetter { code, reason } => Err(SendError::DeadLetter { row, code, reason }),
            });
        }
        // Whatever is decided and has no fate any more was pruned.
        for row in rows.iter().take_while(|row| **row <= decided) {
            if let Some(completion) = self.watch.take(*row) {
                completed += 1;
                completion.complete(Err(SendError::ReceiptGone { row: *row }));
            }
        }
        Ok(completed)
    }
}
