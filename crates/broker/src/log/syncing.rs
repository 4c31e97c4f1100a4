//! Making a partition's records durable: syncs, rolls, seals.

use super::segment::{self, Rolled, Segment, ToSeal};
use super::{FlushPolicy, Inner, PartitionLog, wake};
use crate::disk::sync_dir;
use kafka_protocol::ResponseError;
use std::io;
use std::path::PathBuf;

impl PartitionLog {
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
            let inner = self.lock();
            let nothing_new = inner.synced_offset == inner.end_offset && inner.unsealed == 0;
            if nothing_new || inner.broken {
                return;
            }
            (inner.to_seal(), inner.active().file(), inner.end_offset)
        };
        // The order matters: what is announced below must be on disk with all that stands before it.
        let synced = rolled
            .iter()
            .try_for_each(|(segment, _)| segment.sync())
            .and_then(|()| active.map_or(Ok(()), |file| file.sync_data()));
        let mut inner = self.lock();
        if let Err(error) = synced {
            self.give_up(&mut inner, &error);
            return;
        }
        inner.synced_offset = inner.synced_offset.max(end);
        inner.high_watermark = inner.high_watermark.max(end);
        let woken = std::mem::take(&mut inner.waiting);
        drop(inner);
        self.durable.send_replace(end);
        wake(woken);
        for (segment, before) in &rolled {
            let sealed = segment.seal(before.as_deref());
            self.lock().sealing_ended(segment, &sealed);
        }
    }

    /// After a failed sync the kernel may drop the pages: nothing later proves that they are on disk.
    fn give_up(&self, inner: &mut Inner, error: &io::Error) {
        tracing::error!(dir = %self.dir.display(), %error, "cannot sync; the partition takes no more records until restart");
        self.context.troubles.report(&self.dir, error);
        inner.broken = true;
        inner.troubled = true;
        self.durable.send_replace(-1);
    }

    /// Begins a new segment. When that fails the old one goes on growing: nothing that was acknowledged
    /// stands behind the empty file, and the next append tries again.
    ///
    /// # Errors
    /// When the old segment cannot be synced; the partition takes no more records then.
    pub(super) fn roll_or_go_on(&self, inner: &mut Inner) -> io::Result<()> {
        let is_synced = self.policy(inner) == FlushPolicy::Always;
        if is_synced && let Some(file) = inner.active().file() {
            // So that no power cut can tear what stands before records that reach the disk.
            file.sync_data().inspect_err(|error| self.give_up(inner, error))?;
        }
        let base_offset = inner.end_offset;
        let next = match Segment::create(&self.dir, base_offset)
            .and_then(|next| sync_dir(&self.dir).map(|()| next))
        {
            Ok(next) => next,
            Err(error) => {
                // Should it stay, the next start finds it empty and removes it.
                let _ = std::fs::remove_file(segment::path_of(&self.dir, base_offset));
                tracing::warn!(dir = %self.dir.display(), %error, "cannot begin a new segment; the old one goes on growing");
                return Ok(());
            }
        };
        let epochs_from = inner.epochs.partition_point(|start| start.offset < inner.active().base_offset);
        let rolled = Rolled {
            end_offset: base_offset,
            epochs: inner.epochs[epochs_from..]
                .iter()
                .filter(|start| start.offset < base_offset)
                .copied()
                .collect(),
            producers: Some(inner.producers.clone()),
            is_synced,
            failure_was_told: false,
        };
        inner.segments.last_mut().expect("a log has at least one segment").roll(rolled);
        inner.segments.push(next);
        inner.unsealed += 1;
        Ok(())
    }
}

impl Inner {
    /// The rolled segments that are not sealed, each with the path of the one before it.
    fn to_seal(&self) -> Vec<(ToSeal, Option<PathBuf>)> {
        if self.unsealed == 0 {
            return Vec::new();
        }
        let before = |at: usize| at.checked_sub(1).map(|before| self.segments[before].path().to_owned());
        let all = self.segments.iter().enumerate();
        all.filter_map(|(at, segment)| Some((segment.to_seal()?, before(at)))).collect()
    }

    fn sealing_ended(&mut self, to_seal: &ToSeal, sealed: &io::Result<()>) {
        let mut all = self.segments.iter_mut();
        match all.find(|segment| segment.base_offset == to_seal.base_offset) {
            Some(segment) => segment.sealing_ended(sealed),
            // Retention has removed it meanwhile; a seal without its segment is a file too many.
            None => to_seal.remove_seal(),
        }
        self.unsealed = self.segments.iter().filter(|segment| segment.is_rolled_and_open()).count();
    }
}
