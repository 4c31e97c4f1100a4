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
mod buffers;
pub mod flusher;
mod producers;
mod reading;
mod recovery;
mod retention;
mod segment;
mod size;
#[cfg(test)]
mod sync_tests;
#[cfg(test)]
mod tests;

pub use buffers::Buffers;
pub use reading::Read;
pub use recovery::OnDamage;

use crate::config::TopicConfig;
use batch::BatchHeader;
use flusher::{Flusher, Sync};
use kafka_protocol::ResponseError;
use producers::{Producers, Sequenced};
use recovery::Recovered;
use segment::Segment;
use std::fs::File;
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
        "{}: damaged at byte {position} (offset {offset}), with sound records behind it; \
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
    /// Segments that were rolled and not yet synced, each with the marker it gets then.
    unsynced_rolled: Vec<(Arc<File>, PathBuf)>,
    waiting: Vec<Weak<Notify>>,
    /// A thread is in [`PartitionLog::sync_now`].
    syncing: bool,
    /// A sync was asked for that the running one may not cover.
    sync_again: bool,
    /// Set when a sync failed: what the page cache holds can no longer be trusted.
    broken: bool,
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
    /// Opens the log in `dir`, creating it when there is none.
    ///
    /// # Errors
    /// [`LogError::Damaged`] when serving it would hide a loss, [`LogError::Io`] otherwise.
    pub fn open(dir: &Path, config: Arc<TopicConfig>, context: LogContext) -> Result<Self, LogError> {
        let is_new = !dir.exists();
        std::fs::create_dir_all(dir)?;
        let mut recovered = Recovered { leader_epoch: context.leader_epoch, ..Recovered::default() };
        let bases = segment_bases(dir)?;
        for (n, &base) in bases.iter().enumerate() {
            let is_last = n + 1 == bases.len();
            recovered.take_in(Segment::open(dir, base)?, is_last, context.on_damage)?;
        }
        if recovered.segments.is_empty() {
            recovered.segments.push(Segment::open(dir, 0)?);
            recovered.end_offset = 0;
        }
        if is_new {
            sync_dir(dir)?;
            dir.parent().map(sync_dir).transpose()?;
        }
        if recovered.torn_bytes > 0 {
            tracing::warn!(dir = %dir.display(), bytes = recovered.torn_bytes, "cut off a torn tail that was never acknowledged");
        }
        let end_offset = recovered.end_offset;
        let first = recovered.segments[0].base_offset;
        let start_offset = retention::read_start(dir)?.unwrap_or(first).clamp(first, end_offset);
        let mut inner = Inner {
            segments: recovered.segments,
            producers: recovered.producers,
            epochs: recovered.epochs,
            config,
            start_offset,
            end_offset,
            high_watermark: end_offset,
            synced_offset: end_offset,
            unsynced_rolled: Vec::new(),
            waiting: Vec::new(),
            syncing: false,
            sync_again: false,
            broken: false,
        };
        // What was found may stand in the page cache only; it must not be shown before it is durable.
        inner.active().file().sync_data()?;
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
        let mut inner = self.lock();
        if inner.broken {
            return Err(ResponseError::KafkaStorageError);
        }
        let header = batch::check(batch, inner.config.max_message_bytes)?;
        inner.config.check_timestamp(&header, now_ms)?;
        if let Sequenced::Duplicate(base_offset) = inner.producers.check(&header)? {
            let durable_at = base_offset + i64::from(header.last_offset_delta) + 1;
            return Ok(Appended { base_offset, durable_at });
        }
        let base_offset = inner.end_offset;
        inner.append_one(&self.dir, self.context.leader_epoch, header, batch, now_ms).map_err(|error| {
            tracing::error!(dir = %self.dir.display(), %error, "cannot append; the records are not acknowledged");
            ResponseError::KafkaStorageError
        })?;
        let end = inner.end_offset;
        self.after_append(inner);
        Ok(Appended { base_offset, durable_at: end })
    }

    fn after_append(self: &Arc<Self>, mut inner: MutexGuard<'_, Inner>) {
        let unsynced = inner.end_offset - inner.synced_offset;
        if !inner.unsynced_rolled.is_empty() {
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

    /// Waits until everything below `offset` may be acknowledged under the policy.
    ///
    /// # Errors
    /// `KAFKA_STORAGE_ERROR` when the disk refused to sync: it may or may not be durable.
    ///
    /// # Cancel safety
    /// Cancelling forgets the wait and nothing else.
    pub async fn until_durable(&self, offset: i64) -> Result<(), ResponseError> {
        if self.policy(&self.lock()) != FlushPolicy::Always {
            return Ok(());
        }
        let mut durable = self.durable.subscribe();
        let reached = durable.wait_for(|durable| *durable >= offset || *durable < 0).await;
        match reached {
            Ok(durable) if *durable >= 0 => Ok(()),
            _ => Err(ResponseError::KafkaStorageError),
        }
    }

    /// Syncs what is written and shows it; called by the flusher only.
    ///
    /// One sync at a time: two that overlap could announce their ends in the wrong order, or
    /// the later one could announce records whose rolled segment the earlier one still writes
    /// out. Who comes while one runs has it run once more.
    pub fn sync_now(&self) {
        {
            let mut inner = self.lock();
            inner.sync_again = true;
            if std::mem::replace(&mut inner.syncing, true) {
                return;
            }
        }
        loop {
            {
                let mut inner = self.lock();
                if !std::mem::take(&mut inner.sync_again) {
                    inner.syncing = false;
                    return;
                }
            }
            self.sync_once();
        }
    }

    fn sync_once(&self) {
        let (rolled, active, end) = {
            let mut inner = self.lock();
            let nothing_new = inner.synced_offset == inner.end_offset && inner.unsynced_rolled.is_empty();
            if nothing_new || inner.broken {
                return;
            }
            (std::mem::take(&mut inner.unsynced_rolled), inner.active().file(), inner.end_offset)
        };
        let seal = |(file, marker): &(Arc<File>, PathBuf)| {
            file.sync_data().and_then(|()| File::create(marker).map(drop))
        };
        let result = rolled.iter().try_for_each(seal).and_then(|()| active.sync_data());
        let mut inner = self.lock();
        if let Err(error) = result {
            // After a failed sync the kernel may drop the pages: nothing later proves they are on disk.
            tracing::error!(dir = %self.dir.display(), %error, "cannot sync; the partition takes no more records until restart");
            inner.broken = true;
            drop(inner);
            self.durable.send_replace(-1);
            return;
        }
        inner.synced_offset = inner.synced_offset.max(end);
        inner.high_watermark = inner.high_watermark.max(end);
        let woken = std::mem::take(&mut inner.waiting);
        drop(inner);
        self.durable.send_replace(end);
        wake(woken);
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
}

impl Inner {
    fn active(&self) -> &Segment {
        self.segments.last().expect("a log has at least one segment")
    }

    fn append_one(
        &mut self,
        dir: &Path,
        leader_epoch: i32,
        mut header: BatchHeader,
        sent: &[u8],
        now_ms: i64,
    ) -> io::Result<()> {
        if self.needs_roll(header.bytes, now_ms) {
            self.roll(dir)?;
        }
        let mut bytes = sent.to_vec();
        header.base_offset = self.end_offset;
        header.leader_epoch = leader_epoch;
        batch::patch(&mut bytes, self.end_offset, leader_epoch);
        let active = self.segments.last_mut().expect("a log has at least one segment");
        active.append(&header, &bytes)?;
        active.first_appended_ms.get_or_insert(now_ms);
        self.producers.appended(&header, header.base_offset, now_ms);
        self.end_offset = header.last_offset() + 1;
        Ok(())
    }

    fn needs_roll(&self, bytes: usize, now_ms: i64) -> bool {
        let active = self.active();
        let full = active.bytes + bytes as u64 > self.config.segment_bytes;
        let old = active.first_appended_ms.is_some_and(|first| now_ms - first >= self.config.segment_ms);
        active.bytes > 0 && (full || old)
    }

    /// Begins a new segment; the one before is synced by the next [`PartitionLog::sync_now`].
    fn roll(&mut self, dir: &Path) -> io::Result<()> {
        let next = Segment::open(dir, self.end_offset)?;
        sync_dir(dir)?;
        let rolled = self.active();
        self.unsynced_rolled.push((rolled.file(), rolled.path().with_extension("sealed")));
        self.segments.push(next);
        Ok(())
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

/// Base offsets of the segments in `dir`, rising.
fn segment_bases(dir: &Path) -> io::Result<Vec<i64>> {
    let mut bases = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        let base = name
            .to_str()
            .and_then(|name| name.strip_suffix(".log"))
            .and_then(|base| base.parse::<i64>().ok());
        bases.extend(base);
    }
    bases.sort_unstable();
    Ok(bases)
}

/// Makes the names in `dir` durable.
///
/// # Errors
/// What the file system says.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
