//! Forgetting: whole segments by age and size, and records below a given offset.

use super::{PartitionLog, sync_dir};
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
            inner.drop_segments_before(to);
        }
        Ok(inner.start_offset)
    }

    /// Forgets whole segments that are too old or too much; never the one written to.
    pub fn apply_retention(&self, now_ms: i64, producers_keep_ms: i64) {
        let mut inner = self.lock();
        inner.producers.forget_before(now_ms - producers_keep_ms);
        let (keep_ms, keep_bytes) = (inner.config.retention_ms, inner.config.retention_bytes);
        if !inner.config.deletes_by_retention {
            return;
        }
        let mut bytes: u64 = inner.segments.iter().map(|segment| segment.bytes).sum();
        let mut start = inner.start_offset;
        for pair in inner.segments.windows(2) {
            let (oldest, next) = (&pair[0], &pair[1]);
            let too_old =
                keep_ms >= 0 && oldest.max_timestamp >= 0 && now_ms - oldest.max_timestamp > keep_ms;
            let too_much = u64::try_from(keep_bytes).is_ok_and(|keep| bytes - oldest.bytes >= keep);
            if !(too_old || too_much) || next.base_offset > inner.high_watermark {
                break;
            }
            bytes -= oldest.bytes;
            start = start.max(next.base_offset);
        }
        if start > inner.start_offset {
            tracing::info!(dir = %self.dir.display(), from = inner.start_offset, to = start, "retention forgets records");
            if let Err(error) = write_start(&self.dir, start) {
                tracing::error!(dir = %self.dir.display(), %error, "cannot write down the log start; nothing is forgotten");
                return;
            }
            inner.start_offset = start;
            inner.drop_segments_before(start);
        }
    }
}

impl super::Inner {
    fn drop_segments_before(&mut self, offset: i64) {
        while self.segments.len() > 1 && self.segments[1].base_offset <= offset {
            let gone = self.segments.remove(0);
            // Should the file stay, the log start that was written down still hides it.
            if let Err(error) =
                gone.remove().and_then(|()| remove_if_there(&gone.path().with_extension("sealed")))
            {
                tracing::warn!(file = %gone.path().display(), %error, "cannot remove a forgotten segment");
            }
        }
        self.epochs.retain({
            let mut behind =
                self.epochs.iter().skip(1).map(|start| start.offset).collect::<Vec<_>>().into_iter();
            move |_| behind.next().is_none_or(|next| next > offset)
        });
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
