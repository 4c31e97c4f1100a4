//! Reading a partition: whole batches from an offset, and the offset for a time.

use super::PartitionLog;
use super::batch::{BatchHeader, is_intact};
use super::buffers::Buffers;
use super::segment::{header_at, read_exact};
use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::records::RecordBatchDecoder;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

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

/// One segment's part in a read, taken under the lock and used outside it.
struct Span {
    file: Arc<File>,
    position: u64,
    end: u64,
}

impl PartitionLog {
    /// Reads whole batches from `offset`, at most `bytes_max` unless the first alone is larger.
    ///
    /// # Errors
    /// `OFFSET_OUT_OF_RANGE`; `CORRUPT_MESSAGE` for a batch whose checksum is wrong on disk;
    /// `KAFKA_STORAGE_ERROR` when the disk refuses.
    pub fn read(&self, offset: i64, bytes_max: usize, one_at_least: bool) -> Result<Read, ResponseError> {
        let (start_offset, high_watermark, spans) = {
            let inner = self.lock();
            if offset < inner.start_offset || offset > inner.end_offset {
                return Err(ResponseError::OffsetOutOfRange);
            }
            let at =
                inner.segments.partition_point(|segment| segment.base_offset <= offset).saturating_sub(1);
            // The one behind it too: where a damaged segment was cut short, offsets go on there.
            let spans: Vec<Span> = inner.segments[at..]
                .iter()
                .filter(|segment| segment.bytes > 0)
                .take(2)
                .map(|segment| Span {
                    file: segment.file(),
                    position: segment.place_of(offset).position,
                    end: segment.bytes,
                })
                .collect();
            (inner.start_offset, inner.high_watermark, spans)
        };
        let limits = Limits { from: offset, to: high_watermark, bytes_max, one_at_least };
        for span in spans {
            if offset >= high_watermark {
                break;
            }
            match read_span(&span, limits, &self.context.buffers) {
                Ok(None) => {}
                Ok(Some(records)) => return Ok(Read { records, start_offset, high_watermark }),
                Err(error) => {
                    tracing::error!(dir = %self.dir.display(), offset, position = span.position, %error, "cannot read");
                    return Err(match error.kind() {
                        io::ErrorKind::InvalidData => ResponseError::CorruptMessage,
                        _ => ResponseError::KafkaStorageError,
                    });
                }
            }
        }
        Ok(Read { records: Bytes::new(), start_offset, high_watermark })
    }

    /// The first record with this timestamp or later: (timestamp, offset).
    ///
    /// # Errors
    /// `KAFKA_STORAGE_ERROR` or `CORRUPT_MESSAGE` when the disk or a batch is bad.
    pub fn offset_for_time(&self, timestamp: i64) -> Result<Option<(i64, i64)>, ResponseError> {
        let (spans, start_offset, high_watermark) = {
            let inner = self.lock();
            let later = inner.segments.iter().filter(|segment| segment.max_timestamp >= timestamp);
            let spans: Vec<Span> = later
                .map(|segment| Span {
                    file: segment.file(),
                    position: segment.place_of_time(timestamp).position,
                    end: segment.bytes,
                })
                .collect();
            (spans, inner.start_offset, inner.high_watermark)
        };
        for span in spans {
            let found =
                find_time(&span, timestamp, start_offset).map_err(|_| ResponseError::KafkaStorageError)?;
            if let Some((time, offset)) = found {
                return Ok((offset < high_watermark).then_some((time, offset)));
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
    let mut position = span.position;
    loop {
        match header_at(&span.file, position, span.end)? {
            Some(header) if header.last_offset() >= limits.from => break,
            Some(header) => position += header.bytes as u64,
            None => return Ok(None),
        }
    }
    let available = usize::try_from(span.end - position).unwrap_or(usize::MAX);
    let mut buffer = buffers.take(available.min(limits.bytes_max));
    span.file.read_exact_at(buffer.bytes_mut(), position)?;
    let whole = whole_batches(buffer.as_ref(), limits.to)?;
    if whole > 0 || !limits.one_at_least {
        return Ok(Some(buffer.share(whole)));
    }
    match header_at(&span.file, position, span.end)? {
        Some(header) if header.last_offset() < limits.to => {
            let first = read_exact(&span.file, position, header.bytes)?;
            whole_batches(&first, limits.to)?;
            Ok(Some(first.into()))
        }
        _ => Ok(Some(Bytes::new())),
    }
}

/// How many bytes of `buffer` are whole, intact batches below `to`.
fn whole_batches(buffer: &[u8], to: i64) -> io::Result<usize> {
    let mut taken = 0;
    while let Some(header) = BatchHeader::parse(&buffer[taken..]) {
        let rest = &buffer[taken..];
        if header.bytes > rest.len() || header.last_offset() >= to {
            break;
        }
        if !is_intact(&header, &rest[..header.bytes]) {
            let what = format!("the batch at offset {} has a wrong checksum on disk", header.base_offset);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        taken += header.bytes;
    }
    Ok(taken)
}

/// Looks for the first record of `timestamp` or later, inside compressed batches too.
fn find_time(span: &Span, timestamp: i64, start_offset: i64) -> io::Result<Option<(i64, i64)>> {
    let mut position = span.position;
    while let Some(header) = header_at(&span.file, position, span.end)? {
        if header.max_timestamp >= timestamp && header.last_offset() >= start_offset {
            let mut batch = Bytes::from(read_exact(&span.file, position, header.bytes)?);
            let decoded = RecordBatchDecoder::decode(&mut batch)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            let mut records = decoded.records.iter();
            let found = records.find(|record| record.timestamp >= timestamp && record.offset >= start_offset);
            if let Some(record) = found {
                return Ok(Some((record.timestamp, record.offset)));
            }
        }
        position += header.bytes as u64;
    }
    Ok(None)
}
