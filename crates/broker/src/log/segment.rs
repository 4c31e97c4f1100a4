//! One file of a partition's log: whole batches in offset order, and where to find them.

use super::batch::{BatchHeader, HEADER_BYTES};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A batch is indexed when this many bytes came since the last indexed one (Kafka's `index.interval.bytes`).
const INDEX_INTERVAL_BYTES: u64 = 4096;

/// Where a batch begins, and the highest timestamp before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct IndexEntry {
    offset: i64,
    position: u64,
    max_timestamp_before: i64,
}

/// One log file and its index in memory.
#[derive(Debug)]
pub struct Segment {
    /// Offset of its first record, also its file name.
    pub base_offset: i64,
    /// Its bytes that hold whole batches.
    pub bytes: u64,
    /// Highest timestamp in it, in ms; -1 when it is empty.
    pub max_timestamp: i64,
    /// When its first batch was appended, in ms since 1970; for `segment.ms`.
    pub first_appended_ms: Option<i64>,
    file: Arc<File>,
    path: PathBuf,
    index: Vec<IndexEntry>,
    indexed_to: u64,
}

/// A batch's place in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The first byte to look at; batches that end before the wanted offset may come first.
    pub position: u64,
}

impl Segment {
    /// Opens or creates the file of the segment that begins at `base_offset`.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(dir: &Path, base_offset: i64) -> io::Result<Self> {
        let path = dir.join(format!("{base_offset:020}.log"));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        Ok(Self {
            base_offset,
            bytes: 0,
            max_timestamp: -1,
            first_appended_ms: None,
            file: Arc::new(file),
            path,
            index: Vec::new(),
            indexed_to: 0,
        })
    }

    /// The file, to read from without the log's lock.
    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// The file's path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `batch` behind the last one; on an error nothing of it remains.
    ///
    /// # Errors
    /// What the file system says, e.g. no space left. The file is cut back to its whole batches.
    pub fn append(&mut self, header: &BatchHeader, batch: &[u8]) -> io::Result<()> {
        if let Err(error) = self.file.write_all_at(batch, self.bytes) {
            self.file.set_len(self.bytes)?;
            return Err(error);
        }
        self.note(header);
        Ok(())
    }

    /// Counts a batch that stands in the file at its end; `base_offset` of `header` is final.
    pub fn note(&mut self, header: &BatchHeader) {
        if self.index.is_empty() || self.bytes - self.indexed_to >= INDEX_INTERVAL_BYTES {
            self.index.push(IndexEntry {
                offset: header.base_offset,
                position: self.bytes,
                max_timestamp_before: self.max_timestamp,
            });
            self.indexed_to = self.bytes;
        }
        self.bytes += header.bytes as u64;
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
    }

    /// Cuts the file to its whole batches.
    ///
    /// # Errors
    /// What the file system says.
    pub fn cut_tail(&self) -> io::Result<()> {
        self.file.set_len(self.bytes)?;
        self.file.sync_data()
    }

    /// Where to begin reading for `offset`.
    pub fn place_of(&self, offset: i64) -> Place {
        let behind = self.index.partition_point(|entry| entry.offset <= offset);
        Place { position: behind.checked_sub(1).map_or(0, |at| self.index[at].position) }
    }

    /// Where to begin looking for the first record of `timestamp` or later.
    pub fn place_of_time(&self, timestamp: i64) -> Place {
        let behind = self.index.partition_point(|entry| entry.max_timestamp_before < timestamp);
        Place { position: behind.checked_sub(1).map_or(0, |at| self.index[at].position) }
    }

    /// Removes the file.
    ///
    /// # Errors
    /// What the file system says.
    pub fn remove(&self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }
}

/// Reads the batch header at `position`; `None` at the end of the whole batches.
///
/// # Errors
/// What the file system says.
pub fn header_at(file: &File, position: u64, end: u64) -> io::Result<Option<BatchHeader>> {
    if position + HEADER_BYTES as u64 > end {
        return Ok(None);
    }
    let mut bytes = [0; HEADER_BYTES];
    file.read_exact_at(&mut bytes, position)?;
    Ok(BatchHeader::parse(&bytes))
}

/// Reads exactly `bytes` bytes at `position`.
///
/// # Errors
/// What the file system says.
pub fn read_exact(file: &File, position: u64, bytes: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; bytes];
    file.read_exact_at(&mut buffer, position)?;
    Ok(buffer)
}
