//! The journal's one thread: takes what is queued, writes, syncs, announces, compacts.

use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::disk::Directory;
use crate::log::FlushPolicy;

use super::file::{self, LiveEntries, Rewritten};
use super::{Entry, JournalOptions, Position, Progress, Shared, lock};

pub(super) struct Writer {
    shared: Arc<Shared>,
    announce: watch::Sender<Progress>,
    options: JournalOptions,
    dir: Directory,
    /// The file's name may not be durable.
    name_in_doubt: bool,
    file: File,
    length: u64,
    live: LiveEntries,
    live_bytes: i64,
    unsynced: Unsynced,
    /// Do not compact below this length; doubled when compacting failed.
    compact_at: u64,
}

/// What the interval policy has written but not synced.
#[derive(Default)]
struct Unsynced {
    appends: u64,
    since: Option<Instant>,
}

/// What was taken from the queue in one go.
struct Taken {
    frames: Vec<u8>,
    entries: Vec<Entry>,
    appends: u64,
    last: Position,
    closed: bool,
}

/// An fsync failed: see the module's head.
struct SyncFailed;

impl Writer {
    pub fn new(
        shared: Arc<Shared>,
        announce: watch::Sender<Progress>,
        options: JournalOptions,
        (dir, (file, length, live)): (Directory, (File, u64, LiveEntries)),
    ) -> Self {
        let live_bytes = live.iter().map(|(k, v)| (k.len() + v.len() + 8) as i64).sum();
        let compact_at = options.compact_bytes_min;
        let unsynced = Unsynced::default();
        Self {
            shared,
            announce,
            options,
            dir,
            name_in_doubt: false,
            file,
            length,
            live,
            live_bytes,
            unsynced,
            compact_at,
        }
    }

    pub fn run(mut self) {
        loop {
            let taken = self.take();
            let closed = taken.closed;
            let done = self.write(taken).and_then(|()| self.sync_if_due(closed));
            if done.is_err() {
                self.announce.send_modify(|p| p.broken = true);
                return;
            }
            if closed {
                return;
            }
            self.compact_if_due();
        }
    }

    /// Waits for appends, the time of the next sync, or the end.
    fn take(&self) -> Taken {
        let mut queue = lock(&self.shared.queue);
        while queue.frames.is_empty() && !queue.closed {
            let Some(wait) = self.until_sync_is_due() else {
                queue = self.shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            if wait.is_zero() {
                break;
            }
            queue = self.shared.wake.wait_timeout(queue, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        Taken {
            frames: std::mem::take(&mut queue.frames),
            entries: std::mem::take(&mut queue.entries),
            appends: std::mem::take(&mut queue.appends),
            last: queue.last,
            closed: queue.closed,
        }
    }

    fn until_sync_is_due(&self) -> Option<Duration> {
        match (self.options.flush, self.unsynced.since) {
            (FlushPolicy::Interval { ms, .. }, Some(since)) => {
                let after = Duration::from_millis(u64::try_from(ms).unwrap_or(0));
                Some(after.saturating_sub(since.elapsed()))
            }
            _ => None,
        }
    }

    fn write(&mut self, taken: Taken) -> Result<(), SyncFailed> {
        if taken.frames.is_empty() {
            return Ok(());
        }
        if !self.write_until_there_is_room(&taken.frames) {
            return Err(SyncFailed);
        }
        self.length += taken.frames.len() as u64;
        for entry in taken.entries {
            self.live_bytes += file::apply(&mut self.live, entry);
        }
        self.unsynced.appends += taken.appends;
        self.unsynced.since.get_or_insert_with(Instant::now);
        if self.options.flush == FlushPolicy::Always {
            self.sync()?;
        }
        self.announce.send_modify(|p| p.durable = taken.last);
        Ok(())
    }

    /// Writes all of `frames`, again and again while the disk refuses; false when the journal
    /// was closed meanwhile.
    fn write_until_there_is_room(&mut self, frames: &[u8]) -> bool {
        let mut failed = false;
        loop {
            match self.file.write_all(frames).or_else(|e| self.undo_partial_write(e)) {
                Ok(()) => break,
                Err(error) => {
                    if !failed {
                        self.options.troubles.report(&self.options.path, &error);
                        tracing::error!(file = %self.options.path.display(), %error,
                            "cannot write the group journal; commits are refused until it works");
                    }
                    failed = true;
                }
            }
            let mut queue = lock(&self.shared.queue);
            queue.refusing = true;
            if queue.closed {
                return false;
            }
            let retry = self.options.retry;
            drop(self.shared.wake.wait_timeout(queue, retry).unwrap_or_else(PoisonError::into_inner));
        }
        if failed {
            lock(&self.shared.queue).refusing = false;
            self.options.troubles.clear(&self.options.path);
            tracing::info!(file = %self.options.path.display(), "the group journal can be written again");
        }
        true
    }

    fn undo_partial_write(&self, error: io::Error) -> io::Result<()> {
        self.file.set_len(self.length)?;
        Err(error)
    }

    fn sync_if_due(&mut self, closing: bool) -> Result<(), SyncFailed> {
        if self.unsynced.since.is_none() {
            return Ok(());
        }
        let due = match self.options.flush {
            FlushPolicy::Always => true,
            FlushPolicy::Interval { messages, .. } => {
                self.unsynced.appends >= u64::try_from(messages).unwrap_or(1)
                    || self.until_sync_is_due() == Some(Duration::ZERO)
            }
            FlushPolicy::Never => false,
        };
        if due || closing { self.sync() } else { Ok(()) }
    }

    fn sync(&mut self) -> Result<(), SyncFailed> {
        self.unsynced = Unsynced::default();
        let name = if self.name_in_doubt { self.dir.sync() } else { Ok(()) };
        self.name_in_doubt &= name.is_err();
        name.and_then(|()| self.file.sync_data()).map_err(|error| {
            self.options.troubles.report(&self.options.path, &error);
            tracing::error!(file = %self.options.path.display(), %error,
                "fsync of the group journal failed; restart the broker to find out what is on disk");
            SyncFailed
        })
    }

    fn compact_if_due(&mut self) {
        let live = u64::try_from(self.live_bytes).unwrap_or(0);
        if self.length < self.compact_at || self.length < live.saturating_mul(4) {
            return;
        }
        match file::rewrite(&self.options.path, &self.dir, &self.live) {
            Ok(Rewritten { file, length, in_doubt }) => {
                tracing::debug!(before = self.length, after = length, "compacted the group journal");
                self.file = file;
                self.length = length;
                self.unsynced = Unsynced::default();
                self.compact_at = self.options.compact_bytes_min;
                if let Some(error) = in_doubt {
                    tracing::warn!(%error, "cannot make the compacted group journal's name durable; the next sync tries again");
                    self.name_in_doubt = true;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot compact the group journal; it goes on growing");
                self.compact_at = self.length.saturating_mul(2);
            }
        }
    }
}
