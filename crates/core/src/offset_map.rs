//! What a consumer writes beside its committed offset: the offsets above it that are done.
//!
//! Kafka keeps a text of at most 4096 characters with each committed offset.
//! The map in it lets a consumer that restarts skip what it has finished out
//! of order. It is only ever a saving: a map that does not decode, or was
//! written for another topic or offset, is dropped and the records are
//! processed again. Work may be done twice, never skipped.
//!
//! ```text
//! text  = "homing1:" base64url(bytes)            no padding
//! bytes = topic_id[16] leader_epoch:i32 base:i64 body crc32c:u32       big endian
//! body  = 0x00                                   nothing above base is done
//!       | 0x01 bits…                             bit i of byte j: base + 8*j + i is done;
//!                                                the last byte is not 0
//!       | 0x02 (skip:varint run:varint)…         after `skip` offsets, `run` are done
//! ```
//! The checksum covers the version's text and all bytes before it. Varints are
//! LEB128. Of the two bodies the shorter is written. When neither fits, the
//! highest offsets are left out.

use crate::ids::Offset;
use crate::offset_set::OffsetSet;
use crate::varint;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A committed offset's map, as it is written into the commit's metadata.
///
/// ```
/// use homing_core::{CommitMap, Offset, OffsetSet};
/// let done: OffsetSet = [Offset(12), Offset(13)].into_iter().collect();
/// let map = CommitMap { topic_id: [7; 16], leader_epoch: 3, base: Offset(10), done };
/// let text = map.encode(CommitMap::CHARS_MAX);
/// assert_eq!(CommitMap::decode(&text)?, map);
/// # Ok::<(), homing_core::MapError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitMap {
    /// The id of the topic that the offsets belong to: a topic created again has another.
    pub topic_id: [u8; 16],
    /// The leader epoch of the last record processed, -1 when unknown.
    pub leader_epoch: i32,
    /// The offset that is committed along with the map.
    pub base: Offset,
    /// The offsets that are done, from `base` on.
    pub done: OffsetSet,
}

/// A text that cannot be used as a map; its records are to be processed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// The metadata is empty, or somebody else's.
    #[error("commit metadata is no map of Homing's")]
    Foreign,
    /// A later version wrote it.
    #[error("commit map is of a version other than 1")]
    Version,
    /// The text is not base64url without padding.
    #[error("commit map is not base64url text")]
    Base64,
    /// The text ends too early.
    #[error("commit map is cut off")]
    Truncated,
    /// The text was changed since it was written.
    #[error("commit map's checksum does not match")]
    Checksum,
    /// The set is not spelled as it should be, though the checksum matches.
    #[error("commit map's set is malformed")]
    Malformed,
    /// The map was written for another topic, perhaps of the same name.
    #[error("commit map belongs to another topic id")]
    OtherTopic,
    /// The committed offset was changed without the map.
    #[error("commit map was written for offset {map}, not for {committed}")]
    OtherOffset {
        /// The offset the map was written for.
        map: Offset,
        /// The offset that is committed.
        committed: Offset,
    },
}

const PREFIX: &str = "homing1:";
const HEAD_LEN: usize = 16 + 4 + 8;
const CRC_LEN: usize = 4;
const EMPTY: u8 = 0;
const BITS: u8 = 1;
const RUNS: u8 = 2;

impl CommitMap {
    /// How many characters a broker takes by default (`offset.metadata.max.bytes`).
    pub const CHARS_MAX: usize = 4096;

    /// Writes the map as text of at most `chars_max` characters.
    ///
    /// When the set does not fit, its highest offsets are left out; when not
    /// even an empty map fits, the text is empty.
    #[must_use]
    pub fn encode(&self, chars_max: usize) -> String {
        // Three bytes take four characters.
        let bytes_max = chars_max.saturating_sub(PREFIX.len()) * 3 / 4;
        let Some(body_max) = bytes_max.checked_sub(HEAD_LEN + CRC_LEN + 1) else {
            return String::new();
        };
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&self.topic_id);
        bytes.extend_from_slice(&self.leader_epoch.to_be_bytes());
        bytes.extend_from_slice(&self.base.0.to_be_bytes());
        let (kind, body) = self.body(body_max);
        bytes.push(kind);
        bytes.extend_from_slice(&body);
        bytes.extend_from_slice(&checksum(&bytes).to_be_bytes());
        let mut text = String::from(PREFIX);
        URL_SAFE_NO_PAD.encode_string(&bytes, &mut text);
        text
    }

    /// Reads a map from a commit's metadata.
    ///
    /// # Errors
    /// [`MapError`] when the text is not exactly what a writer wrote.
    pub fn decode(text: &str) -> Result<Self, MapError> {
        let Some(encoded) = text.strip_prefix(PREFIX) else {
            let version = text.strip_prefix("homing").and_then(|rest| rest.split_once(':'));
            let ours = version.is_some_and(|(digits, _)| digits.parse::<u32>().is_ok());
            return Err(if ours { MapError::Version } else { MapError::Foreign });
        };
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| MapError::Base64)?;
        let (bytes, crc) = bytes.split_last_chunk::<CRC_LEN>().ok_or(MapError::Truncated)?;
        if checksum(bytes) != u32::from_be_bytes(*crc) {
            return Err(MapError::Checksum);
        }
        let (topic_id, bytes) = bytes.split_first_chunk().ok_or(MapError::Truncated)?;
        let (leader_epoch, bytes) = bytes.split_first_chunk().ok_or(MapError::Truncated)?;
        let (base, bytes) = bytes.split_first_chunk().ok_or(MapError::Truncated)?;
        let (kind, body) = bytes.split_first().ok_or(MapError::Truncated)?;
        let base = i64::from_be_bytes(*base);
        if base < 0 {
            return Err(MapError::Malformed);
        }
        let done = match *kind {
            EMPTY if body.is_empty() => OffsetSet::new(),
            BITS => read_bits(base, body)?,
            RUNS => read_runs(base, body)?,
            _ => return Err(MapError::Malformed),
        };
        Ok(Self {
            topic_id: *topic_id,
            leader_epoch: i32::from_be_bytes(*leader_epoch),
            base: Offset(base),
            done,
        })
    }

    /// Reads a map and takes it only when it was written for this topic and committed offset.
    ///
    /// # Errors
    /// As [`decode`](Self::decode), and when topic id or offset differ.
    pub fn decode_for(text: &str, topic_id: &[u8; 16], committed: Offset) -> Result<Self, MapError> {
        let map = Self::decode(text)?;
        if map.topic_id != *topic_id {
            return Err(MapError::OtherTopic);
        }
        if map.base != committed {
            return Err(MapError::OtherOffset { map: map.base, committed });
        }
        Ok(map)
    }

    /// The shorter of both spellings, or when neither fits the one that says more.
    fn body(&self, bytes_max: usize) -> (u8, Vec<u8>) {
        let runs = self.write_runs(bytes_max);
        // Bits that take more room than all of the runs would not be chosen.
        let all_fit = runs.offsets == self.relative_runs().map(|(start, end)| end - start).sum::<u64>();
        let bits = self.write_bits(if all_fit { runs.bytes.len() } else { bytes_max });
        let key = |written: &Written| (std::cmp::Reverse(written.offsets), written.bytes.len());
        let (kind, best) = if key(&bits) < key(&runs) { (BITS, bits) } else { (RUNS, runs) };
        if best.offsets == 0 { (EMPTY, Vec::new()) } else { (kind, best.bytes) }
    }

    fn write_bits(&self, bytes_max: usize) -> Written {
        let bits_max = (bytes_max as u64).saturating_mul(8);
        let mut written = Written { bytes: Vec::new(), offsets: 0 };
        for (start, end) in self.relative_runs() {
            let end = end.min(bits_max);
            if start >= end {
                break;
            }
            written.offsets += end - start;
            written.bytes.resize((end as usize).div_ceil(8), 0);
            let (first, last) = ((start / 8) as usize, ((end - 1) / 8) as usize);
            let (from, to) = (0xff << (start % 8), 0xff >> (7 - (end - 1) % 8));
            if first == last {
                written.bytes[first] |= from & to;
            } else {
                written.bytes[first] |= from;
                written.bytes[first + 1..last].fill(0xff);
                written.bytes[last] |= to;
            }
        }
        written
    }

    fn write_runs(&self, bytes_max: usize) -> Written {
        let mut written = Written { bytes: Vec::new(), offsets: 0 };
        let mut at = 0;
        for (start, end) in self.relative_runs() {
            let before = written.bytes.len();
            varint::push(&mut written.bytes, start - at);
            varint::push(&mut written.bytes, end - start);
            if written.bytes.len() > bytes_max {
                written.bytes.truncate(before);
                break;
            }
            written.offsets += end - start;
            at = end;
        }
        written
    }

    /// The runs of the set as (first, end) above `base`.
    fn relative_runs(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let base = self.base;
        self.done
            .ranges()
            .filter(move |run| run.end > base)
            .map(move |run| (run.start.max(base).0.abs_diff(base.0), run.end.0.abs_diff(base.0)))
    }
}

struct Written {
    bytes: Vec<u8>,
    offsets: u64,
}

fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(PREFIX.as_bytes()), bytes)
}

fn read_bits(base: i64, body: &[u8]) -> Result<OffsetSet, MapError> {
    let last = *body.last().ok_or(MapError::Malformed)?;
    if last == 0 {
        return Err(MapError::Malformed);
    }
    let mut done = OffsetSet::new();
    for (i, byte) in body.iter().enumerate() {
        let mut bits = *byte;
        while bits != 0 {
            let from = bits.trailing_zeros();
            let run = (bits >> from).trailing_ones();
            let start =
                base.checked_add_unsigned(i as u64 * 8 + u64::from(from)).ok_or(MapError::Malformed)?;
            let end = start.checked_add_unsigned(u64::from(run)).ok_or(MapError::Malformed)?;
            done.insert_range(Offset(start)..Offset(end));
            bits &= u8::MAX.checked_shl(from + run).unwrap_or(0);
        }
    }
    Ok(done)
}

fn read_runs(base: i64, mut body: &[u8]) -> Result<OffsetSet, MapError> {
    let mut done = OffsetSet::new();
    let mut at = base;
    if body.is_empty() {
        return Err(MapError::Malformed);
    }
    while !body.is_empty() {
        let skip = varint::take(&mut body).map_err(|_| MapError::Malformed)?;
        let run = varint::take(&mut body).map_err(|_| MapError::Malformed)?;
        let touches = skip == 0 && !done.is_empty();
        let start = at.checked_add_unsigned(skip).ok_or(MapError::Malformed)?;
        let end = start.checked_add_unsigned(run).ok_or(MapError::Malformed)?;
        if touches || run == 0 {
            return Err(MapError::Malformed);
        }
        done.insert_range(Offset(start)..Offset(end));
        at = end;
    }
    Ok(done)
}
