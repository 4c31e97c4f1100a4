//! What a partition's files hold after any end: a scan by checksum.
//!
//! | found | done |
//! |---|---|
//! | whole batches to the end | all of them are kept |
//! | a torn tail: the last batch cut short or half written, nothing sound behind it | the tail is cut off; it was never acknowledged under `flush always` |
//! | a damaged batch with sound ones behind it | refused: those behind it may be acknowledged, so nothing is cut unless `truncate_corrupted` says so |
//!
//! A segment that is no longer written to has a `.sealed` file beside it,
//! written after the segment was synced, and is not scanned for its checksums
//! again at start (each batch is checked when it is read).

use super::batch::{BatchHeader, HEADER_BYTES, is_intact};
use super::producers::Producers;
use super::segment::{Segment, header_at, read_exact};
use super::{EpochStart, LogError};
use std::io;

/// What is known of a partition after its files were looked through.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The segments, in offset order; never empty.
    pub segments: Vec<Segment>,
    /// Idempotent producers' last batches.
    pub producers: Producers,
    /// The epoch of this start.
    pub leader_epoch: i32,
    /// Where each leader epoch begins.
    pub epochs: Vec<EpochStart>,
    /// The offset after the last record.
    pub end_offset: i64,
    /// Bytes cut off as a torn tail.
    pub torn_bytes: u64,
}

/// How to treat damage in the middle of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDamage {
    /// Refuse to serve the partition and say where the damage is.
    Refuse,
    /// Keep what stands before the damage; move the rest aside.
    Truncate,
}

impl Recovered {
    /// Looks through one segment behind those already taken in.
    ///
    /// # Errors
    /// [`LogError::Damaged`] for damage with sound batches behind it, [`LogError::Io`] otherwise.
    pub fn take_in(
        &mut self,
        mut segment: Segment,
        is_last: bool,
        on_damage: OnDamage,
    ) -> Result<(), LogError> {
        let file = segment.file();
        let file_bytes = file.metadata()?.len();
        let sealed = !is_last && segment.path().with_extension("sealed").exists();
        let mut expected = segment.base_offset;
        loop {
            let position = segment.bytes;
            let header = header_at(&file, position, file_bytes)?;
            let sound = match header {
                // The base offset lies outside the checksum, but there are no holes within a segment.
                Some(header) if header.base_offset == expected => {
                    position + header.bytes as u64 <= file_bytes
                        && (sealed || is_intact(&header, &read_exact(&file, position, header.bytes)?))
                }
                _ => false,
            };
            let Some(header) = header.filter(|_| sound) else { break };
            segment.note(&header);
            self.note(&header);
            expected = header.last_offset() + 1;
        }
        self.end_offset = expected;
        let tail = file_bytes - segment.bytes;
        if tail > 0 {
            let sound_behind = !is_last || has_sound_batch(&segment, file_bytes, expected)?;
            if sound_behind {
                let (file, position) = (segment.path().to_owned(), segment.bytes);
                if on_damage == OnDamage::Refuse {
                    return Err(LogError::Damaged { file, position, offset: expected });
                }
                set_aside(&segment, file_bytes)?;
                tracing::error!(file = %file.display(), position, offset = expected, "cut a damaged log as told; the rest is kept beside it");
            }
            segment.cut_tail()?;
            self.torn_bytes += tail;
        }
        self.segments.push(segment);
        Ok(())
    }

    fn note(&mut self, header: &BatchHeader) {
        // When it was appended is not written down; counting from the start keeps it longest.
        self.producers.appended(header, header.base_offset, crate::state::now_ms());
        // The epoch lies outside the checksum: a flipped bit must not make one from the future.
        let epoch = header.leader_epoch.min(self.leader_epoch);
        if self.epochs.last().is_none_or(|last| last.epoch < epoch) {
            self.epochs.push(EpochStart { epoch, offset: header.base_offset });
        }
    }
}

/// Whether any byte behind the damage begins a batch with a right checksum and a later offset.
fn has_sound_batch(segment: &Segment, file_bytes: u64, expected: i64) -> io::Result<bool> {
    let from = segment.bytes + 1;
    let length = usize::try_from(file_bytes.saturating_sub(from)).unwrap_or(usize::MAX);
    let tail = read_exact(&segment.file(), from, length)?;
    let looks_sound = |at: usize| {
        let rest = &tail[at..];
        BatchHeader::parse(rest).is_some_and(|header| {
            header.base_offset >= expected
                && header.bytes <= rest.len()
                && is_intact(&header, &rest[..header.bytes])
        })
    };
    // The magic byte is 2 in every batch; anything else is skipped without a look at the rest.
    Ok((0..tail.len().saturating_sub(HEADER_BYTES)).any(|at| tail[at + 16] == 2 && looks_sound(at)))
}

/// Copies what is about to be cut into a file beside the segment.
fn set_aside(segment: &Segment, file_bytes: u64) -> io::Result<()> {
    let length = usize::try_from(file_bytes - segment.bytes).unwrap_or(usize::MAX);
    let rest = read_exact(&segment.file(), segment.bytes, length)?;
    std::fs::write(segment.path().with_extension(format!("damaged-at-{}", segment.bytes)), rest)
}
