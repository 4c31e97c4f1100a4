//! One partition's log: append, make durable, read, forget.
//!
//! | offset | meaning |
//! |---|---|
//! | log start | the first record that may be read; retention and DeleteRecords raise it |
//! | high watermark | behind the last record a reader may see: durable, when the policy says `always` |
//! | log end | behind the last record written |
//!
//! What a crash does at each step of an append (policy `always`):
//!
//! | killed | found afterwards |
//! |---|---|
//! | before the write | nothing; the producer resends |
//! | during the write | a torn tail, cut off; the producer resends |
//! | after the write, before the sync | the batch may or may not be there; it was not acknowledged and not shown; a resend is recognised by its sequence |
//! | after the sync, before the answer | the batch; a resend is recognised by its sequence |

pub mod batch;
mod body;
mod buffers;
pub mod flusher;
mod index;
mod open_segments;
mod producers;
mod reading;
mod recovery;
#[cfg(test)]
mod recovery_tests;
mod retention;
mod seal;
mod segment;
mod size;
#[cfg(test)]
mod sync_tests;
mod syncing;
#[cfg(test)]
mod tests;

pub use buffers::Buffers;
pub use open_segments::OpenSegments;
pub use reading::Read;
pub use recovery::OnDamage;

use crate::config::TopicConfig;
use crate::disk::sync_dir;
use crate::state::now_ms;
use crate::trouble::Troubles;
use batch::BatchHeader;
use flusher::{Flusher, Sync};
use kafka_protocol::ResponseError;
use producers::{Producers, Sequenced};
use recovery::Looking;
use segment::Segment;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use tokio::sync::{Notify, watch};

/// Why a partition's log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A batch is damaged and sound ones stand behind it.
    #[error(
        "{}: not sound from byte {position} (offset {offset}) on, with sound records behind it; \
         restore the file, or start with truncate_corrupted to keep only what stands before",
        file.display()
    )]
    Damaged {
        /// The segment's file.
        file: PathBuf,
        /// Where the damage begins.
        position: u64,
        /// The offset expected there.
        offset: i64,
    },
    /// What the catalog or the log's beginning says was there is not.
    #[error(
        "{} is missing, and with it acknowledged records; restore it, or start with \
         truncate_corrupted to go on without them",
        what.display()
    )]
    Missing {
        /// The directory or segment.
        what: PathBuf,
    },
}

/// Where a leader epoch begins in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: i32,
    /// Offset of its first record.
    pub offset: i64,
}

/// When records count as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushPolicy {
    /// Synced to disk before they are acknowledged or shown (default).
    Always,
    /// After this many records or this many ms, whichever is first; acknowledged at once.
    /// A power cut loses what was acknowledged since.
    Interval {
        /// Records between two syncs, at most.
        messages: i64,
        /// Milliseconds between two syncs, at most.
        ms: i64,
    },
    /// When the operating system likes (Kafka's own default). A power cut loses up to half a minute.
    Never,
}

/// What a successful append tells the producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of its first record.
    pub base_offset: i64,
    /// The log end that must be durable before it may be acknowledged.
    pub durable_at: i64,
}

/// What the log needs from the broker around it.
#[derive(Debug, Clone)]
pub struct LogContext {
    /// Syncs files for all partitions together.
    pub flusher: Flusher,
    /// The broker's policy; a topic's `flush.messages` and `flush.ms` may be stricter.
    pub flush: FlushPolicy,
    /// This start's leader epoch.
    pub leader_epoch: i32,
    /// What to do about damage found at start.
    pub on_damage: OnDamage,
    /// What is read into.
    pub buffers: Buffers,
    /// The files that readers have open.
    pub open_segments: OpenSegments,
    /// Where it is said that the disk refuses.
    pub troubles: Troubles,
}

#[derive(Debug)]
struct Inner {
    segments: Vec<Segment>,
    producers: Producers,
    epochs: Vec<EpochStart>,
    config: Arc<TopicConfig>,
    start_offset: i64,
    end_offset: i64,
    high_watermark: i64,
    synced_offset: i64,
    /// How many segments are rolled and not yet sealed; they stand before the one written to.
    unsealed: usize,
    waiting: Vec<Weak<Notify>>,
    /// A thread is in [`PartitionLog::sync_now`].
    syncing: bool,
    /// A sync was asked for that the running one may not cover.
    sync_again: bool,
    /// Set when a sync failed: what the page cache holds can no longer be trusted.
    broken: bool,
    /// Something that was refused is among the broker's troubles.
    troubled: bool,
}

/// One partition's log; shared, locked inside, never across a wait.
#[derive(Debug)]
pub struct PartitionLog {
    dir: PathBuf,
    context: LogContext,
    inner: Mutex<Inner>,
    durable: watch::Sender<i64>,
}

impl PartitionLog {
    /// Creates the log in `dir`; its directories are durable when this returns.
    ///
    /// # Errors
    /// [`LogError::Io`] when the file system refuses.
    pub fn create(dir: &Path, config: Arc<TopicConfig>, context: LogContext) -> Result<Self, LogError> {
        std::fs::create_dir_all(dir)?;
        // A partition that was never served may be left of an attempt that failed.
        Segment::create(dir, 0)?;
        sync_dir(dir)?;
        dir.parent().map(sync_dir).transpose()?;
        Self::open(dir, config, context)
    }

    /// Opens the log that was created in `dir`.
    ///
    /// # Errors
    /// [`LogError::Damaged`] or [`LogError::Missing`] when serving it would hide a loss,
    /// [`LogError::Io`] otherwise.
    pub fn open(dir: &Path, config: Arc<TopicConfig>, context: LogContext) -> Result<Self, LogError> {
        if !dir.exists() {
            return Err(LogError::Missing { what: dir.to_owned() });
        }
        let looking = Looking {
            dir,
            leader_epoch: context.leader_epoch,
            on_damage: context.on_damage,
            now_ms: now_ms(),
        };
        let recovered = recovery::recover(looking)?;
        if recovered.torn_bytes > 0 {
            tracing::warn!(dir = %dir.display(), bytes = recovered.torn_bytes, "cut off a torn tail that was never acknowledged");
        }
        let end_offset = recovered.end_offset;
        let first = recovered.segments[0].base_offset;
        let start_offset = retention::read_start(dir)?.unwrap_or(first).clamp(first, end_offset);
        let mut inner = Inner {
            unsealed: recovered.segments.iter().filter(|segment| segment.is_rolled_and_open()).count(),
            segments: recovered.segments,
            producers: recovered.producers,
            epochs: recovered.epochs,
            config,
            start_offset,
            end_offset,
            high_watermark: end_offset,
            synced_offset: end_offset,
            waiting: Vec::new(),
            syncing: false,
            sync_again: false,
            broken: false,
            troubled: false,
        };
        // What was found may stand in the page cache only; it must not be shown before it is durable.
        inner.active().file().map(|file| file.sync_data()).transpose()?;
        if inner.epochs.last().is_none_or(|last| last.epoch < context.leader_epoch) {
            inner.epochs.push(EpochStart { epoch: context.leader_epoch, offset: end_offset });
        }
        let (durable, _) = watch::channel(end_offset);
        Ok(Self { dir: dir.to_owned(), context, inner: Mutex::new(inner), durable })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of the log's lock panics")
    }

    /// Appends one producer's batch for this partition; it is durable when
    /// [`until_durable`](Self::until_durable) has returned for `durable_at`.
    ///
    /// # Errors
    /// Kafka's own codes; `KAFKA_STORAGE_ERROR` when the disk refused, with nothing appended.
    pub fn append(self: &Arc<Self>, batch: &[u8], now_ms: i64) -> Result<Appended, ResponseError> {
        let config = {
            let inner = self.lock();
            if inner.broken {
                return Err(ResponseError::KafkaStorageError);
            }
            Arc::clone(&inner.config)
        };
        let mut header = batch::check(batch, config.max_message_bytes)?;
        // Looked into outside the lock: unpacking takes its time.
        let times = body::check(batch, &header).map_err(|error| {
            tracing::debug!(dir = %self.dir.display(), %error, "refused a batch");
            ResponseError::InvalidRecord
        })?;
        config.check_timestamp(times.earliest, times.latest, now_ms)?;
        let mut batch = batch.to_vec();
        if times.latest != header.max_timestamp {
            batch::correct_max_timestamp(&mut batch, times.latest);
            header.max_timestamp = times.latest;
        }
        let mut inner = self.lock();
        if inner.broken {
            return Err(ResponseError::KafkaStorageError);
        }
        if let Sequenced::Duplicate(base_offset) = inner.producers.check(&header)? {
            let durable_at = base_offset + i64::from(header.last_offset_delta) + 1;
            return Ok(Appended { base_offset, durable_at });
        }
        let base_offset = inner.end_offset;
        self.append_one(&mut inner, header, &mut batch, now_ms).map_err(|error| {
            tracing::error!(dir = %self.dir.display(), %error, "cannot append; the records are not acknowledged");
            self.context.troubles.report(&self.dir, &error);
            inner.troubled = true;
            ResponseError::KafkaStorageError
        })?;
        if std::mem::take(&mut inner.troubled) {
            self.context.troubles.clear(&self.dir);
        }
        let end = inner.end_offset;
        self.after_append(inner);
        Ok(Appended { base_offset, durable_at: end })
    }

    fn append_one(
        &self,
        inner: &mut Inner,
        mut header: BatchHeader,
        batch: &mut [u8],
        now_ms: i64,
    ) -> io::Result<()> {
        if inner.needs_roll(header.bytes, now_ms) {
            self.roll_or_go_on(inner)?;
        }
        header.base_offset = inner.end_offset;
        header.leader_epoch = self.context.leader_epoch;
        batch::patch(batch, inner.end_offset, self.context.leader_epoch);
        let active = inner.segments.last_mut().expect("a log has at least one segment");
        active.append(&header, batch)?;
        active.first_appended_ms.get_or_insert(now_ms);
        inner.producers.appended(&header, header.base_offset, now_ms);
        inner.end_offset = header.last_offset() + 1;
        Ok(())
    }

    fn after_append(self: &Arc<Self>, mut inner: MutexGuard<'_, Inner>) {
        let unsynced = inner.end_offset - inner.synced_offset;
        if inner.unsealed > 0 {
            self.context.flusher.sync(Arc::clone(self));
        }
        match self.policy(&inner) {
            FlushPolicy::Always => {
                drop(inner);
                self.context.flusher.sync(Arc::clone(self));
            }
            FlushPolicy::Interval { messages, ms } => {
                let woken = inner.show_all();
                drop(inner);
                wake(woken);
                let when = if unsynced >= messages { Sync::Now } else { Sync::WithinMs(ms) };
                self.context.flusher.sync_when(Arc::clone(self), when);
            }
            FlushPolicy::Never => {
                let woken = inner.show_all();
                drop(inner);
                wake(woken);
            }
        }
    }

    /// The stricter of the broker's policy and the topic's settings.
    fn policy(&self, inner: &Inner) -> FlushPolicy {
        let (messages, ms) = (inner.config.flush_messages, inner.config.flush_ms);
        match self.context.flush {
            FlushPolicy::Always => FlushPolicy::Always,
            _ if messages == 1 || ms == 0 => FlushPolicy::Always,
            FlushPolicy::Interval { messages: m, ms: t } => {
                FlushPolicy::Interval { messages: m.min(messages), ms: t.min(ms) }
            }
            FlushPolicy::Never if messages < i64::MAX || ms < i64::MAX => {
                FlushPolicy::Interval { messages, ms }
            }
            FlushPolicy::Never => FlushPolicy::Never,
        }
    }

    /// Log start, high watermark and log end.
    pub fn offsets(&self) -> (i64, i64, i64) {
        let inner = self.lock();
        (inner.start_offset, inner.high_watermark, inner.end_offset)
    }

    /// Has `waiter` woken once when more can be read.
    pub fn wake_when_more(&self, waiter: &Arc<Notify>) {
        let mut inner = self.lock();
        inner.waiting.retain(|waiting| waiting.strong_count() > 0);
        inner.waiting.push(Arc::downgrade(waiter));
    }

    /// Takes a changed topic configuration.
    pub fn reconfigure(&self, config: Arc<TopicConfig>) {
        self.lock().config = config;
    }

    /// Where `epoch` ended: (epoch, offset behind its last record), as Apache Kafka's
    /// `LeaderEpochFileCache.endOffsetFor`. An epoch without records here is answered with the
    /// newest below it, one from before the log's start with that start; (-1, -1) for an epoch
    /// that is yet to come.
    pub fn end_of_epoch(&self, epoch: i32) -> (i32, i64) {
        if epoch < 0 {
            return (-1, -1);
        }
        let inner = self.lock();
        let known = inner.epochs.partition_point(|start| start.epoch <= epoch);
        match (known.checked_sub(1).map(|at| inner.epochs[at].epoch), inner.epochs.get(known)) {
            (Some(found), Some(next)) => (found, next.offset),
            (Some(latest), None) if latest == epoch => (latest, inner.high_watermark),
            (None, Some(first)) => (epoch, first.offset),
            (Some(_) | None, None) => (-1, -1),
        }
    }

    /// The leader epoch that the record at `offset` was written in; -1 when it is not known.
    pub fn epoch_at(&self, offset: i64) -> i32 {
        let inner = self.lock();
        let known = inner.epochs.partition_point(|start| start.offset <= offset);
        known.checked_sub(1).map_or(-1, |at| inner.epochs[at].epoch)
    }

    /// Syncs and marks everything as it stands; for a clean stop, when no flusher is at work.
    pub fn close(&self) {
        self.sync_now();
    }

    /// Where it lies.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Inner {
    fn active(&self) -> &Segment {
        self.segments.last().expect("a log has at least one segment")
    }

    fn needs_roll(&self, bytes: usize, now_ms: i64) -> bool {
        let active = self.active();
        let full = active.bytes + bytes as u64 > self.config.segment_bytes;
        let old = active.first_appended_ms.is_some_and(|first| now_ms - first >= self.config.segment_ms);
        active.bytes > 0 && (full || old)
    }

    /// Shows everything written; returns whom to wake.
    fn show_all(&mut self) -> Vec<Weak<Notify>> {
        self.high_watermark = self.end_offset;
        std::mem::take(&mut self.waiting)
    }
}

fn wake(waiting: Vec<Weak<Notify>>) {
    waiting.iter().filter_map(Weak::upgrade).for_each(|waiter| waiter.notify_one());
}

/// For fuzzing: looks into any bytes as into a producer's batch, with a checksum made right.
#[cfg(fuzzing)]
pub fn look_into_batch(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    if bytes.len() >= batch::HEADER_BYTES {
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    }
    if let Ok(batch) = batch::sole(&bytes, i16::MAX)
        && let Ok(header) = batch::check(batch, usize::MAX)
    {
        let _ = body::check(batch, &header);
    }
}
