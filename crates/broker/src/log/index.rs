//! Where the batches of a segment stand: a sparse index by offset and by time.

use super::batch::BatchHeader;

/// A batch is indexed when this many bytes came since the last indexed one (Kafka's `index.interval.bytes`).
const INTERVAL_BYTES: u64 = 4096;
/// The same in a segment that is no longer written to: its index is read from disk when it is used.
const SEALED_INTERVAL_BYTES: u64 = 16 * 1024;

/// Where a batch begins, and the highest timestamp before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// The batch's first offset.
    pub offset: i64,
    /// The batch's first byte.
    pub position: u64,
    /// The highest timestamp of the segment before it, in ms; -1 when there is none.
    pub max_timestamp_before: i64,
}

/// A batch's place in a file; batches before the wanted one may come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The first byte to look at.
    pub position: u64,
    /// The offset that begins there.
    pub offset: i64,
}

/// What is looked for in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The batch that holds this offset.
    Offset(i64),
    /// The first record of this time or later, in ms.
    Time(i64),
}

/// The index of one segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index(Vec<IndexEntry>);

impl Index {
    /// An index of these entries, in the order of their positions.
    pub fn new(entries: Vec<IndexEntry>) -> Self {
        Self(entries)
    }

    /// Its entries, in the order of their positions.
    pub fn entries(&self) -> &[IndexEntry] {
        &self.0
    }

    /// Counts a batch that stands at `position`.
    pub fn note(&mut self, header: &BatchHeader, position: u64, max_timestamp_before: i64) {
        if self.0.last().is_none_or(|last| position - last.position >= INTERVAL_BYTES) {
            self.0.push(IndexEntry { offset: header.base_offset, position, max_timestamp_before });
        }
    }

    /// The coarser index that a sealed segment keeps on disk.
    pub fn thinned(&self) -> Self {
        let mut kept: Vec<IndexEntry> = Vec::new();
        for entry in &self.0 {
            if kept.last().is_none_or(|last| entry.position - last.position >= SEALED_INTERVAL_BYTES) {
                kept.push(*entry);
            }
        }
        Self(kept)
    }

    /// Where to begin looking; at the segment's `base_offset` when nothing better is known.
    pub fn place(&self, wanted: Wanted, base_offset: i64) -> Place {
        let behind = match wanted {
            Wanted::Offset(offset) => self.0.partition_point(|entry| entry.offset <= offset),
            Wanted::Time(time) => self.0.partition_point(|entry| entry.max_timestamp_before < time),
        };
        let known = behind.checked_sub(1).map(|at| self.0[at]);
        known.map_or(Place { position: 0, offset: base_offset }, |entry| Place {
            position: entry.position,
            offset: entry.offset,
        })
    }
}
