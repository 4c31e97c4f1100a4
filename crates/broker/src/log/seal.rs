//! What is written beside a segment that is no longer written to, so that a start need not read it.
//!
//! `BASE.sealed`, written after the segment was synced:
//!
//! ```text
//! seal   := "HSL1"  head_length:u32be  crc32c(head):u32be  head  crc32c(index):u32be  index
//! head   := bytes:u64be end_offset:i64be max_timestamp:i64be first_appended_ms:i64be
//!           count:u32be (epoch:i32be offset:i64be)*
//! index  := (offset:i64be position:u64be max_timestamp_before:i64be)*
//! ```
//! `BASE.producers`: what is remembered of idempotent producers at the segment's end, as JSON behind
//! its crc32c in hex; only the newest is kept.
//!
//! Neither is synced: one that is cut short or does not fit its segment is not believed, and the
//! segment is read instead. An empty `.sealed` (of version 0.1) only says that the segment was synced.

use super::EpochStart;
use super::index::{Index, IndexEntry};
use super::producers::Producers;
use bytes::{Buf, BufMut};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 4] = b"HSL1";
const BEFORE_HEAD_BYTES: usize = 12;
/// A head holds one entry for each start of the broker that wrote into the segment.
const HEAD_BYTES_MAX: usize = 16 << 20;
const INDEX_ENTRY_BYTES: usize = 24;

/// What a start needs to know of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// Its length: all of it whole batches.
    pub bytes: u64,
    /// The offset behind its last record.
    pub end_offset: i64,
    /// Highest timestamp in it, in ms; -1 for none.
    pub max_timestamp: i64,
    /// When its first batch was appended, in ms since 1970; -1 when that is not known.
    pub first_appended_ms: i64,
    /// The leader epochs that begin in it.
    pub epochs: Vec<EpochStart>,
}

/// What stands in a `.sealed` file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// There is none, or none to be believed.
    Nothing,
    /// The segment was synced; no more is known of it.
    SyncedOnly,
    /// All of it.
    Seal(Seal),
}

fn seal_path(segment: &Path) -> PathBuf {
    segment.with_extension("sealed")
}

fn producers_path(segment: &Path) -> PathBuf {
    segment.with_extension("producers")
}

/// Seals the segment at `segment`, which is synced.
///
/// # Errors
/// What the file system says; the segment is read at the next start then.
pub fn write(segment: &Path, seal: &Seal, index: &Index) -> io::Result<()> {
    let mut head = Vec::new();
    head.put_u64(seal.bytes);
    head.put_i64(seal.end_offset);
    head.put_i64(seal.max_timestamp);
    head.put_i64(seal.first_appended_ms);
    head.put_u32(u32::try_from(seal.epochs.len()).unwrap_or(u32::MAX));
    for start in &seal.epochs {
        head.put_i32(start.epoch);
        head.put_i64(start.offset);
    }
    let mut entries = Vec::with_capacity(index.entries().len() * INDEX_ENTRY_BYTES);
    for entry in index.entries() {
        entries.put_i64(entry.offset);
        entries.put_u64(entry.position);
        entries.put_i64(entry.max_timestamp_before);
    }
    let mut out = Vec::with_capacity(BEFORE_HEAD_BYTES + head.len() + 4 + entries.len());
    out.put_slice(MAGIC);
    out.put_u32(u32::try_from(head.len()).unwrap_or(u32::MAX));
    out.put_u32(crc32c::crc32c(&head));
    out.put_slice(&head);
    out.put_u32(crc32c::crc32c(&entries));
    out.put_slice(&entries);
    std::fs::write(seal_path(segment), out)
}

/// What is known of the segment at `segment`.
pub fn read(segment: &Path) -> Found {
    let Ok(mut file) = File::open(seal_path(segment)) else { return Found::Nothing };
    if file.metadata().is_ok_and(|metadata| metadata.len() == 0) {
        return Found::SyncedOnly;
    }
    read_head(&mut file).map_or(Found::Nothing, Found::Seal)
}

fn read_head(file: &mut File) -> Option<Seal> {
    let mut before = [0; BEFORE_HEAD_BYTES];
    file.read_exact(&mut before).ok()?;
    let mut before = before.strip_prefix(MAGIC)?;
    let length = usize::try_from(before.get_u32()).ok().filter(|length| *length <= HEAD_BYTES_MAX)?;
    let mut head = vec![0; length];
    file.read_exact(&mut head).ok()?;
    if crc32c::crc32c(&head) != before.get_u32() {
        return None;
    }
    let mut head = &head[..];
    let mut seal = Seal {
        bytes: head.try_get_u64().ok()?,
        end_offset: head.try_get_i64().ok()?,
        max_timestamp: head.try_get_i64().ok()?,
        first_appended_ms: head.try_get_i64().ok()?,
        epochs: Vec::new(),
    };
    for _ in 0..head.try_get_u32().ok()? {
        seal.epochs.push(EpochStart { epoch: head.try_get_i32().ok()?, offset: head.try_get_i64().ok()? });
    }
    Some(seal)
}

/// The index that was sealed with the segment; none when it is not to be believed.
pub fn read_index(segment: &Path) -> Option<Index> {
    let mut file = File::open(seal_path(segment)).ok()?;
    read_head(&mut file)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    let mut entries = &bytes[..];
    if entries.try_get_u32().ok()? != crc32c::crc32c(&bytes[4..])
        || !entries.len().is_multiple_of(INDEX_ENTRY_BYTES)
    {
        return None;
    }
    let mut index = Vec::with_capacity(entries.len() / INDEX_ENTRY_BYTES);
    while entries.has_remaining() {
        index.push(IndexEntry {
            offset: entries.try_get_i64().ok()?,
            position: entries.try_get_u64().ok()?,
            max_timestamp_before: entries.try_get_i64().ok()?,
        });
    }
    Some(Index::new(index))
}

/// Keeps what is remembered of producers at the end of `segment`.
///
/// # Errors
/// What the file system says; all segments are looked through at the next start then.
pub fn write_producers(segment: &Path, producers: &Producers) -> io::Result<()> {
    let json = serde_json::to_vec(producers)?;
    let mut out = format!("{:08x}\n", crc32c::crc32c(&json)).into_bytes();
    out.extend_from_slice(&json);
    std::fs::write(producers_path(segment), out)
}

/// What was remembered of producers at the end of `segment`, when it is to be believed.
pub fn read_producers(segment: &Path) -> Option<Producers> {
    let bytes = std::fs::read(producers_path(segment)).ok()?;
    let (checksum, json) = bytes.split_at_checked(9)?;
    let checksum = u32::from_str_radix(std::str::from_utf8(&checksum[..8]).ok()?, 16).ok()?;
    if crc32c::crc32c(json) != checksum {
        return None;
    }
    serde_json::from_slice(json).ok()
}

/// Removes the producers' file of `segment`, which a newer one has replaced.
pub fn remove_producers(segment: &Path) {
    // Should it stay, the newer one is still preferred.
    let _ = std::fs::remove_file(producers_path(segment));
}

/// Removes all that stands beside `segment`, because it is written to again or gone.
///
/// # Errors
/// What the file system says.
pub fn remove(segment: &Path) -> io::Result<()> {
    remove_producers(segment);
    match std::fs::remove_file(seal_path(segment)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
