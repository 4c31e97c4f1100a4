//! Reading a partition: whole batches from an offset, and the offset for a time.

use super::PartitionLog;
use super::batch::{BatchHeader, HEADER_BYTES, is_intact};
use super::body;
use super::buffers::Buffers;
use super::index::{Place, Wanted};
use super::segment::{Part, Span, behind, damaged, header_at, read_exact};
use bytes::Bytes;
use kafka_protocol::ResponseError;
use std::io;
use std::os::unix::fs::FileExt;

/// What a read gives.
#[derive(Debug, Clone, Default)]
pub struct Read {
    /// Whole batches; the first may begin before the wanted offset.
    pub records: Bytes,
    /// The log's first offset.
    pub start_offset: i64,
    /// Behind the last record that may be seen.
    pub high_watermark: i64,
}

impl PartitionLog {
    /// Reads whole batches from `offset`, at most `bytes_max` unless the first alone is larger.
    ///
    /// # Errors
    /// `OFFSET_OUT_OF_RANGE`; `CORRUPT_MESSAGE` for a batch that is damaged on disk;
    /// `KAFKA_STORAGE_ERROR` when the disk refuses.
    pub fn read(&self, offset: i64, bytes_max: usize, one_at_least: bool) -> Result<Read, ResponseError> {
        let wanted = Wanted::Offset(offset);
        let (start_offset, high_watermark, parts) = {
            let inner = self.lock();
            if offset < inner.start_offset || offset > inner.end_offset {
                return Err(ResponseError::OffsetOutOfRange);
            }
            let at =
                inner.segments.partition_point(|segment| segment.base_offset <= offset).saturating_sub(1);
            // The one behind it too: where a damaged segment was cut short, offsets go on there.
            let full = inner.segments[at..].iter().filter(|segment| segment.bytes > 0);
            let parts: Vec<Part> = full.take(2).map(|segment| segment.part(wanted)).collect();
            (inner.start_offset, inner.high_watermark, parts)
        };
        let limits = Limits { from: offset, to: high_watermark, bytes_max, one_at_least };
        for part in parts {
            if offset >= high_watermark {
                break;
            }
            let read = part
                .open(wanted, &self.context.open_segments)
                .and_then(|span| read_span(&span, limits, &self.context.buffers));
            match read {
                Ok(None) => {}
                Ok(Some(records)) => return Ok(Read { records, start_offset, high_watermark }),
                Err(error) => return Err(self.cannot_read(offset, &error)),
            }
        }
        Ok(Read { records: Bytes::new(), start_offset, high_watermark })
    }

    fn cannot_read(&self, offset: i64, error: &io::Error) -> ResponseError {
        // Retention may have removed the segment between the look at it and the opening of it.
        if error.kind() == io::ErrorKind::NotFound && offset < self.offsets().0 {
            return ResponseError::OffsetOutOfRange;
        }
        tracing::error!(dir = %self.dir.display(), offset, %error, "cannot read");
        match error.kind() {
            io::ErrorKind::InvalidData => ResponseError::CorruptMessage,
            _ => ResponseError::KafkaStorageError,
        }
    }

    /// The first record with this timestamp or later: (timestamp, offset).
    ///
    /// # Errors
    /// `KAFKA_STORAGE_ERROR` or `CORRUPT_MESSAGE` when the disk or a batch is bad.
    pub fn offset_for_time(&self, timestamp: i64) -> Result<Option<(i64, i64)>, ResponseError> {
        let wanted = Wanted::Time(timestamp);
        let (parts, start_offset, high_watermark) = {
            let inner = self.lock();
            let later = inner.segments.iter().filter(|segment| segment.max_timestamp >= timestamp);
            let parts: Vec<Part> = later.map(|segment| segment.part(wanted)).collect();
            (parts, inner.start_offset, inner.high_watermark)
        };
        for part in parts {
            let found = part
                .open(wanted, &self.context.open_segments)
                .and_then(|span| find_time(&span, timestamp, start_offset))
                .map_err(|error| self.cannot_read(start_offset, &error));
            match found {
                Ok(None) => {}
                Ok(Some((time, offset))) => {
                    return Ok((offset < high_watermark).then_some((time, offset)));
                }
                // Retention went on meanwhile: what it left is looked through.
                Err(ResponseError::OffsetOutOfRange) => return self.offset_for_time(timestamp),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The highest timestamp in the log and the offset of its record.
    ///
    /// # Errors
    /// As [`offset_for_time`](Self::offset_for_time).
    pub fn highest_time(&self) -> Result<Option<(i64, i64)>, ResponseError> {
        let highest = self.lock().segments.iter().map(|segment| segment.max_timestamp).max().unwrap_or(-1);
        if highest < 0 { Ok(None) } else { self.offset_for_time(highest) }
    }
}

#[derive(Clone, Copy)]
struct Limits {
    from: i64,
    to: i64,
    bytes_max: usize,
    one_at_least: bool,
}

/// Reads the batches of `span` that hold offsets of `limits`, each checked by its checksum; none
/// when the span ends before them.
fn read_span(span: &Span, limits: Limits, buffers: &Buffers) -> io::Result<Option<Bytes>> {
    let mut at = span.from;
    let first = loop {
        match header_at(&span.file, at, span.end)? {
            Some(header) if header.last_offset() >= limits.from => break header,
            Some(header) => at = behind(at, &header),
            None => return Ok(None),
        }
    };
    let available = usize::try_from(span.end - at.position).unwrap_or(usize::MAX);
    let mut buffer = buffers.take(available.min(limits.bytes_max));
    span.file.read_exact_at(buffer.bytes_mut(), at.position)?;
    let whole = whole_batches(buffer.as_ref(), at, limits.to)?;
    if whole > 0 || !limits.one_at_least {
        return Ok(Some(buffer.share(whole)));
    }
    if first.base_offset >= limits.to {
        return Ok(Some(Bytes::new()));
    }
    let alone = read_exact(&span.file, at.position, first.bytes)?;
    whole_batches(&alone, at, limits.to)?;
    Ok(Some(alone.into()))
}

/// How many bytes of `buffer`, which begins at `at`, are whole and intact batches below `to`.
///
/// # Errors
/// `InvalidData` when the first one is damaged; those before a damaged one are handed out.
fn whole_batches(buffer: &[u8], mut at: Place, to: i64) -> io::Result<usize> {
    let mut taken = 0;
    while buffer.len() - taken >= HEADER_BYTES {
        let rest = &buffer[taken..];
        let header = BatchHeader::parse(rest).filter(|header| header.base_offset == at.offset);
        let is_cut = header.is_some_and(|header| header.bytes > rest.len());
        // Only whole batches are shown: one that begins below the high watermark ends there, too.
        let is_hidden = header.is_some_and(|header| header.base_offset >= to);
        if is_cut || is_hidden {
            break;
        }
        let Some(header) = header.filter(|header| is_intact(header, &rest[..header.bytes])) else {
            return if taken > 0 { Ok(taken) } else { Err(damaged(at)) };
        };
        taken += header.bytes;
        at = behind(at, &header);
    }
    Ok(taken)
}

/// Looks for the first record of `timestamp` or later, inside compressed batches too.
fn find_time(span: &Span, timestamp: i64, start_offset: i64) -> io::Result<Option<(i64, i64)>> {
    let mut at = span.from;
    while let Some(header) = header_at(&span.file, at, span.end)? {
        if header.max_timestamp >= timestamp && header.last_offset() >= start_offset {
            let batch = read_exact(&span.file, at.position, header.bytes)?;
            if !is_intact(&header, &batch) {
                return Err(damaged(at));
            }
            let offset_of = |delta: i32| header.base_offset.saturating_add(i64::from(delta));
            let found = body::find(&batch, &header, |record| {
                record.timestamp >= timestamp && offset_of(record.offset_delta) >= start_offset
            });
            match found {
                Ok(None) => {}
                Ok(Some(record)) => return Ok(Some((record.timestamp, offset_of(record.offset_delta)))),
                Err(error) => {
                    // Taken in by an earlier version, which did not look inside. Whoever begins where
                    // the batch does misses nothing.
                    tracing::warn!(offset = header.base_offset, %error, "a batch that cannot be read stands in the log");
                    return Ok(Some((header.max_timestamp, header.base_offset.max(start_offset))));
                }
            }
        }
        at = behind(at, &header);
    }
    Ok(None)
}
