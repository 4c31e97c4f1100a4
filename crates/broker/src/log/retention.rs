//! Forgetting: whole segments by age and size, and records below a given offset.

use super::segment::Segment;
use super::{OpenSegments, PartitionLog};
use crate::disk::sync_dir;
use kafka_protocol::ResponseError;
use std::io;
use std::path::Path;

const START_FILE: &str = "log-start-offset";

/// The log start that was written down, if any.
///
/// # Errors
/// What the file system says; a file that holds no number.
pub fn read_start(dir: &Path) -> io::Result<Option<i64>> {
    match std::fs::read_to_string(dir.join(START_FILE)) {
        Ok(text) => {
            let number = text.trim().parse();
            number.map(Some).map_err(|_| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{START_FILE} in {} holds no number", dir.display()),
                )
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write_start(dir: &Path, start: i64) -> io::Result<()> {
    let (fresh, place) = (dir.join("log-start-offset.new"), dir.join(START_FILE));
    std::fs::write(&fresh, start.to_string())?;
    std::fs::File::open(&fresh)?.sync_all()?;
    std::fs::rename(&fresh, &place)?;
    sync_dir(dir)
}

impl PartitionLog {
    /// Makes everything below `offset` unreadable (`-1`: all there is); returns the new log start.
    ///
    /// # Errors
    /// `OFFSET_OUT_OF_RANGE` beyond the high watermark, `KAFKA_STORAGE_ERROR` when the disk refuses.
    pub fn delete_before(&self, offset: i64) -> Result<i64, ResponseError> {
        let mut inner = self.lock();
        let to = if offset == -1 { inner.high_watermark } else { offset };
        if to < 0 || to > inner.high_watermark {
            return Err(ResponseError::OffsetOutOfRange);
        }
        if to > inner.start_offset {
            write_start(&self.dir, to).map_err(|error| {
                tracing::error!(dir = %self.dir.display(), %error, "cannot write down the log start");
                ResponseError::KafkaStorageError
            })?;
            inner.start_offset = to;
            inner.drop_segments_before(to, &self.context.open_segments);
        }
        Ok(inner.start_offset)
    }

    /// Forgets whole segments that are too old or too much. The one written to is among them once all
    /// of it is too old: another is begun behind it first, as Apache Kafka does.
    pub fn apply_retention(&self, now_ms: i64, producers_keep_ms: i64) {
        let mut inner = self.lock();
        inner.producers.forget_before(now_ms - producers_keep_ms);
        if !inner.config.deletes_by_retention || inner.broken {
            return;
        }
        let (keep_ms, keep_bytes) = (inner.config.retention_ms, inner.config.retention_bytes);
        let mut bytes: u64 = inner.segments.iter().map(|segment| segment.bytes).sum();
        let mut start = inner.start_offset;
        for (at, oldest) in inner.segments.iter().enumerate() {
            let too_old = keep_ms >= 0 && latest_ms(oldest).is_some_and(|latest| now_ms - latest > keep_ms);
            let too_much = u64::try_from(keep_bytes).is_ok_and(|keep| bytes - oldest.bytes >= keep);
            let end = inner.segments.get(at + 1).map_or(inner.end_offset, |next| next.base_offset);
            if oldest.bytes == 0 || !(too_old || too_much) || end > inner.high_watermark {
                break;
            }
            bytes -= oldest.bytes;
            start = start.max(end);
        }
        if start > inner.start_offset && start == inner.end_offset && inner.active().bytes > 0 {
            let before = inner.segments.len();
            // An error has been said, and a segment that could not be begun was: the old one stays then.
            if self.roll_or_go_on(&mut inner).is_err() || inner.segments.len() == before {
                start = start.max(inner.start_offset).min(inner.active().base_offset);
            }
        }
        if start > inner.start_offset {
            tracing::info!(dir = %self.dir.display(), from = inner.start_offset, to = start, "retention forgets records");
            if let Err(error) = write_start(&self.dir, start) {
                tracing::error!(dir = %self.dir.display(), %error, "cannot write down the log start; nothing is forgotten");
                return;
            }
            inner.start_offset = start;
            inner.drop_segments_before(start, &self.context.open_segments);
        }
    }
}

/// The time of a segment's latest record; of its last write when its records bring no time.
fn latest_ms(segment: &Segment) -> Option<i64> {
    if segment.max_timestamp >= 0 { Some(segment.max_timestamp) } else { segment.modified_ms() }
}

impl super::Inner {
    fn drop_segments_before(&mut self, offset: i64, open_segments: &OpenSegments) {
        while self.segments.len() > 1 && self.segments[1].base_offset <= offset {
            let gone = self.segments.remove(0);
            open_segments.forget(gone.path());
            // Should the file stay, the log start that was written down still hides it.
            if let Err(error) = gone.remove() {
                tracing::warn!(file = %gone.path().display(), %error, "cannot remove a forgotten segment");
            }
        }
        self.unsealed = self.segments.iter().filter(|segment| segment.is_rolled_and_open()).count();
        self.epochs.retain({
            let mut behind =
                self.epochs.iter().skip(1).map(|start| start.offset).collect::<Vec<_>>().into_iter();
            move |_| behind.next().is_none_or(|next| next > offset)
        });
    }
}
