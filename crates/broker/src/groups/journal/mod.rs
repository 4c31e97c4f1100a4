//! A durable key-value journal: what groups and their offsets survive a crash in.
//!
//! One file of frames, written by one thread:
//!
//! ```text
//! frame   := "HJ01"  length:u32be  crc32c(body):u32be  body
//! body    := entry*                    one append; it counts whole or not at all
//! entry   := key_length:u32be key  value_length:u32be value     length 0xffff_ffff: deleted
//! ```
//! Appends go to a queue; the thread takes all that is there, writes it, syncs it when the
//! flush policy says so, and announces the position: many commits share one fsync.
//!
//! What a crash leaves behind:
//! - in the middle of a write: a torn last frame, cut off at the next start (it was never
//!   announced);
//! - while compacting: the old file (the new one has another name until it is complete and
//!   synced), the leftover is removed; once renamed the new one is written to, and nothing in it is
//!   announced before its name is durable;
//! - damage in the middle: the damaged file is copied aside, the frames after it are still
//!   used (each stands for itself and the last value of a key wins), and an ERROR says so.
//!
//! A full disk holds up and refuses appends until there is room; nothing written is lost. A
//! failed fsync is final: what the kernel did with the pages is unknown, so the journal
//! refuses everything until the broker is started again and reads back what is really there.

mod file;
mod writer;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

pub use file::LiveEntries;
use writer::Writer;

use crate::disk::Directory;
use crate::log::FlushPolicy;
use crate::trouble::Troubles;

/// Where a journal lies and how it behaves.
#[derive(Debug, Clone)]
pub struct JournalOptions {
    pub path: PathBuf,
    /// When an append counts as durable; the `messages` of an interval are appends here.
    pub flush: FlushPolicy,
    /// Bytes that may wait to be written; more is refused. Default 64 MiB.
    pub queue_bytes_max: usize,
    /// The file is rewritten when it is larger than this and four times what is alive. Default
    /// 4 MiB. Too low: it is rewritten all the time.
    pub compact_bytes_min: u64,
    /// Pause before a failed write is tried again. Default 250 ms.
    pub retry: Duration,
    /// Where it is said that the disk refuses.
    pub troubles: Troubles,
}

impl JournalOptions {
    pub fn new(path: PathBuf, flush: FlushPolicy) -> Self {
        Self {
            path,
            flush,
            queue_bytes_max: 64 << 20,
            compact_bytes_min: 4 << 20,
            retry: Duration::from_millis(250),
            troubles: Troubles::default(),
        }
    }
}

/// One change: a new value for a key, or none to delete it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: Bytes,
    pub value: Option<Bytes>,
}

impl Entry {
    /// What it takes in the journal.
    pub fn bytes(&self) -> usize {
        8 + self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

/// The place of an append; later appends have higher positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position(u64);

/// Why the journal cannot take or confirm an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// Writing fails for now, or too much is waiting; try again later.
    #[error("the journal cannot write now")]
    Refusing,
    /// An fsync failed or the journal is closed; only a restart helps.
    #[error("the journal is out of service until the broker is restarted")]
    Broken,
}

/// A journal open for appending.
#[derive(Debug)]
pub struct Journal {
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
    queue_bytes_max: usize,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// Signalled on every append and on close.
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    frames: Vec<u8>,
    entries: Vec<Entry>,
    appends: u64,
    last: Position,
    refusing: bool,
    closed: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    durable: Position,
    broken: bool,
}

impl Journal {
    /// Opens or creates the journal and returns what it holds.
    ///
    /// # Errors
    /// When the file cannot be read, repaired or created.
    pub fn open(options: JournalOptions) -> io::Result<(Self, LiveEntries)> {
        let dir = options.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let dir = Directory::open(dir.unwrap_or(Path::new(".")))?;
        let (file, length, live) = file::recover(&options.path, &dir)?;
        let journal = Self::over(options, dir, (file, length, live.clone()))?;
        Ok((journal, live))
    }

    fn over(options: JournalOptions, dir: Directory, contents: (File, u64, LiveEntries)) -> io::Result<Self> {
        let queue_bytes_max = options.queue_bytes_max;
        let shared = Arc::new(Shared { queue: Mutex::new(Queue::default()), wake: Condvar::new() });
        let (announce, progress) = watch::channel(Progress::default());
        let writer = Writer::new(Arc::clone(&shared), announce, options, (dir, contents));
        let writer = std::thread::Builder::new().name("group-journal".into()).spawn(move || writer.run())?;
        Ok(Self { shared, progress, queue_bytes_max, writer: Some(writer) })
    }

    /// Queues one atomic change.
    ///
    /// # Errors
    /// Nothing was queued then.
    pub fn append(&self, entries: Vec<Entry>) -> Result<Position, JournalError> {
        if self.progress.borrow().broken {
            return Err(JournalError::Broken);
        }
        let bytes: usize = entries.iter().map(Entry::bytes).sum();
        let mut queue = lock(&self.shared.queue);
        if queue.closed {
            return Err(JournalError::Broken);
        }
        if bytes > file::BODY_BYTES_MAX {
            // It would be taken for damage at the next start. Nobody asks for this: see `Change`.
            tracing::error!(bytes, "a change of a group is too large for the journal");
            return Err(JournalError::Refusing);
        }
        if queue.refusing || queue.frames.len() > self.queue_bytes_max {
            return Err(JournalError::Refusing);
        }
        file::encode_frame(&entries, &mut queue.frames);
        queue.entries.extend(entries);
        queue.appends += 1;
        queue.last.0 += 1;
        let position = queue.last;
        drop(queue);
        self.shared.wake.notify_one();
        Ok(position)
    }

    /// Waits until everything up to `position` is as durable as the flush policy asks.
    ///
    /// # Errors
    /// [`JournalError::Broken`]: it may or may not have reached the disk.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn durable(&self, position: Position) -> Result<(), JournalError> {
        let mut progress = self.progress.clone();
        let reached = progress.wait_for(|p| p.durable >= position || p.broken).await;
        match reached {
            Ok(progress) if progress.durable >= position => Ok(()),
            _ => Err(JournalError::Broken),
        }
    }

    /// Everything up to here is durable.
    pub fn durable_position(&self) -> Position {
        self.progress.borrow().durable
    }
}

impl Drop for Journal {
    /// Writes and syncs what is queued, then ends the thread.
    fn drop(&mut self) {
        lock(&self.shared.queue).closed = true;
        self.shared.wake.notify_one();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the group journal's thread panicked");
        }
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    // The queue is changed in steps that cannot panic halfway.
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
