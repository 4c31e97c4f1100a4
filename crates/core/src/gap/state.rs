//! The durable form of a detector's state.
//!
//! ```text
//! state = "HGAP" version:u8=2 kind:u8 body crc32c:u32          big endian
//! kind  = 'L' one lane | 'P' a partition
//! ```
//! The checksum covers all before it. A body is made of varints in the order
//! of the fields below. What does not decode is an error: the reader starts
//! again from where it can, as [`StartPolicy`] says.

use super::lane::{Expected, Gap, LaneDetector};
use super::memory::{Fingerprint, Memory};
use super::stream::{EpochLane, PartitionDetector, StreamDetector};
use super::{GapState, Limits, Precision, StartPolicy};
use crate::ids::{Epoch, Partition, StreamName};
use crate::stamp::PayloadCrc;
use crate::varint;

/// Bytes that are no state of a detector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Something else was stored there.
    #[error("continuity state is not Homing's, or of another kind")]
    Foreign,
    /// A later version wrote it.
    #[error("continuity state is of version {0}, not 2")]
    Version(u8),
    /// The bytes were changed or cut off.
    #[error("continuity state's checksum does not match")]
    Checksum,
    /// The checksum matches but the content cannot be.
    #[error("continuity state is malformed")]
    Malformed,
}

const MAGIC: &[u8; 4] = b"HGAP";
const VERSION: u8 = 2;
const LANE: u8 = b'L';
const PARTITION: u8 = b'P';

impl LaneDetector {
    /// The state as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        seal(LANE, |out| write_lane(out, self))
    }

    /// Reads a state back; `limits` may differ from those it was written under.
    ///
    /// # Errors
    /// [`StateError`] when the bytes are not what [`encode`](Self::encode) gave.
    pub fn decode(bytes: &[u8], limits: Limits) -> Result<Self, StateError> {
        let mut body = open(LANE, bytes)?;
        let lane = read_lane(&mut body, limits)?;
        body.end()?;
        Ok(lane)
    }
}

impl PartitionDetector {
    /// The state as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        seal(PARTITION, |out| {
            varint::push(out, u64::from(self.partition.0 as u32));
            out.push(start_byte(self.start));
            varint::push(out, self.streams.len() as u64);
            for (name, stream) in &self.streams {
                varint::push(out, name.as_str().len() as u64);
                out.extend_from_slice(name.as_str().as_bytes());
                out.push(start_byte(stream.start));
                varint::push(out, stream.epochs.len() as u64);
                for EpochLane { epoch, began_at, lane } in &stream.epochs {
                    varint::push(out, u64::from(epoch.0));
                    varint::push(out, *began_at as u64);
                    write_lane(out, lane);
                }
            }
        })
    }

    /// Reads a state back; `limits` may differ from those it was written under.
    ///
    /// # Errors
    /// [`StateError`] when the bytes are not what [`encode`](Self::encode) gave.
    pub fn decode(bytes: &[u8], limits: Limits) -> Result<Self, StateError> {
        let mut body = open(PARTITION, bytes)?;
        let partition = Partition(u32::try_from(body.number()?).map_err(malformed)? as i32);
        let start = body.start()?;
        let mut streams: Vec<(StreamName, StreamDetector)> = Vec::new();
        for _ in 0..body.number()? {
            let len = usize::try_from(body.number()?).map_err(malformed)?;
            let name = std::str::from_utf8(body.take(len)?).map_err(malformed)?;
            let name = StreamName::parse(name).map_err(malformed)?;
            if streams.iter().any(|(other, _)| *other == name) {
                return Err(StateError::Malformed);
            }
            let mut stream = StreamDetector::new(body.start()?, limits);
            for _ in 0..body.number()? {
                let epoch = Epoch(u32::try_from(body.number()?).map_err(malformed)?);
                if stream.newest_epoch().is_some_and(|newest| newest >= epoch) {
                    return Err(StateError::Malformed);
                }
                let began_at = body.number()? as i64;
                let lane = read_lane(&mut body, limits)?;
                stream.epochs.push(EpochLane { epoch, began_at, lane });
            }
            streams.push((name, stream));
        }
        body.end()?;
        Ok(Self { partition, start, limits, streams })
    }
}

fn write_lane(out: &mut Vec<u8>, lane: &LaneDetector) {
    write_option(out, lane.start);
    varint::push(out, lane.high);
    varint::push(out, lane.gaps.len() as u64);
    for Gap { from, to, since_ms, state, precision } in &lane.gaps {
        varint::push(out, *from);
        varint::push(out, to - from);
        varint::push(out, *since_ms as u64);
        out.push(u8::from(*state == GapState::Confirmed) | u8::from(*precision == Precision::Coarse) << 1);
    }
    varint::push(out, lane.voided_ahead.len() as u64);
    for (from, to) in &lane.voided_ahead {
        varint::push(out, *from);
        varint::push(out, to - from);
    }
    varint::push(out, lane.voided_forgotten);
    varint::push(out, lane.expected.len() as u64);
    for Expected { to, since_ms } in &lane.expected {
        varint::push(out, *to);
        varint::push(out, *since_ms as u64);
    }
    varint::push(out, lane.offset_high as u64);
    write_option(out, lane.last);
    varint::push(out, lane.unread);
    varint::push(out, lane.memory.entries().count() as u64);
    for (seq, Fingerprint { crc, id_hash }) in lane.memory.entries() {
        varint::push(out, seq);
        varint::push(out, u64::from(crc.0));
        write_option(out, id_hash);
    }
}

fn read_lane(body: &mut Body<'_>, limits: Limits) -> Result<LaneDetector, StateError> {
    let mut lane = LaneDetector::new(StartPolicy::MidLane, limits);
    lane.start = body.option()?;
    lane.high = body.number()?;
    for _ in 0..body.number()? {
        let (from, to) = body.range()?;
        let since_ms = body.number()? as i64;
        let (state, precision) = match body.byte()? {
            0 => (GapState::Suspect, Precision::Exact),
            1 => (GapState::Confirmed, Precision::Exact),
            2 => (GapState::Suspect, Precision::Coarse),
            3 => (GapState::Confirmed, Precision::Coarse),
            _ => return Err(StateError::Malformed),
        };
        lane.gaps.push(Gap { from, to, since_ms, state, precision });
    }
    for _ in 0..body.number()? {
        lane.voided_ahead.push(body.range()?);
    }
    lane.voided_forgotten = body.number()?;
    for _ in 0..body.number()? {
        lane.expected.push_back(Expected { to: body.number()?, since_ms: body.number()? as i64 });
    }
    lane.offset_high = body.number()? as i64;
    lane.last = body.option()?;
    lane.unread = body.number()?;
    let mut memory = Memory::new(limits.memory);
    for _ in 0..body.number()? {
        let (seq, crc) = (body.number()?, u32::try_from(body.number()?).map_err(malformed)?);
        if !(1..=lane.high).contains(&seq) {
            return Err(StateError::Malformed);
        }
        memory.remember(seq, Fingerprint { crc: PayloadCrc(crc), id_hash: body.option()? });
    }
    lane.memory = memory;
    if !is_sound(&lane) {
        return Err(StateError::Malformed);
    }
    // The limits may be tighter now; the gaps' precision says what was lost by that.
    lane.coarsen(&mut Vec::new());
    lane.forget_voided(&mut Vec::new());
    Ok(lane)
}

/// Whether the fields keep to what [`LaneDetector`] says of them.
fn is_sound(lane: &LaneDetector) -> bool {
    let gaps = &lane.gaps;
    let begun = match lane.start {
        None => lane.high == 0 && gaps.is_empty() && lane.expected.is_empty(),
        Some(start) => {
            lane.high >= start.saturating_sub(1) && gaps.first().is_none_or(|gap| gap.from >= start.max(1))
        }
    };
    begun
        && gaps.windows(2).all(|pair| pair[0].to < pair[1].from)
        && gaps.last().is_none_or(|gap| gap.to <= lane.high)
        && lane.voided_ahead.windows(2).all(|pair| pair[0].1 < pair[1].0)
        && lane.voided_ahead.first().is_none_or(|range| range.0 > lane.high)
        && lane.expected.front().is_none_or(|expected| expected.to > lane.high)
        && lane.expected.iter().zip(lane.expected.iter().skip(1)).all(|(one, next)| one.to < next.to)
}

fn seal(kind: u8, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend([VERSION, kind]);
    write(&mut out);
    let crc = crc32c::crc32c(&out);
    out.extend(crc.to_be_bytes());
    out
}

fn open(kind: u8, bytes: &[u8]) -> Result<Body<'_>, StateError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(StateError::Foreign)?;
    match rest.first() {
        Some(&VERSION) => {}
        Some(version) => return Err(StateError::Version(*version)),
        None => return Err(StateError::Checksum),
    }
    let (sealed, crc) = bytes.split_last_chunk().ok_or(StateError::Checksum)?;
    if crc32c::crc32c(sealed) != u32::from_be_bytes(*crc) {
        return Err(StateError::Checksum);
    }
    match sealed.get(MAGIC.len() + 1) {
        Some(found) if *found == kind => Ok(Body(&sealed[MAGIC.len() + 2..])),
        _ => Err(StateError::Foreign),
    }
}

fn start_byte(start: StartPolicy) -> u8 {
    match start {
        StartPolicy::FromFirst => 0,
        StartPolicy::MidLane => 1,
    }
}

fn write_option(out: &mut Vec<u8>, number: Option<u64>) {
    out.push(u8::from(number.is_some()));
    if let Some(number) = number {
        varint::push(out, number);
    }
}

fn malformed<E>(_: E) -> StateError {
    StateError::Malformed
}

/// What is still to be read.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn number(&mut self) -> Result<u64, StateError> {
        varint::take(&mut self.0).map_err(malformed)
    }

    fn byte(&mut self) -> Result<u8, StateError> {
        Ok(self.take(1)?[0])
    }

    fn option(&mut self) -> Result<Option<u64>, StateError> {
        match self.byte()? {
            0 => Ok(None),
            1 => Ok(Some(self.number()?)),
            _ => Err(StateError::Malformed),
        }
    }

    /// A first number of 1 or more, and how many follow it.
    fn range(&mut self) -> Result<(u64, u64), StateError> {
        let from = self.number()?;
        let to = from.checked_add(self.number()?).filter(|_| from >= 1).ok_or(StateError::Malformed)?;
        Ok((from, to))
    }

    fn start(&mut self) -> Result<StartPolicy, StateError> {
        match self.byte()? {
            0 => Ok(StartPolicy::FromFirst),
            1 => Ok(StartPolicy::MidLane),
            _ => Err(StateError::Malformed),
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], StateError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(StateError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn end(&self) -> Result<(), StateError> {
        if self.0.is_empty() { Ok(()) } else { Err(StateError::Malformed) }
    }
}
