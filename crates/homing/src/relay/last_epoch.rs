//! Asks a topic's log which epochs of this stream it has seen, before another one is begun.
//!
//! The partitions are read backwards from their ends in growing windows, all of
//! them by one reader. A partition is done when a window shows a record of the
//! stream (epochs rise, so its last records have the highest), or when it was
//! read down to its start. What a search may cost is bounded by
//! `records_max` a partition; a search that stops there is not complete, and
//! neither is one that met a log start above 0 without a record of ours.

use super::error::Halt;
use crate::kafka::config::KafkaConfig;
use crate::kafka::partition_list::TopicPartition;
use crate::kafka::reader::{ReadFrom, TopicReader};
use homing_core::epoch::EpochsInLog;
use homing_core::{Epoch, Offset, Partition, StreamName, TopicName};
use std::time::{Duration, Instant};

/// Offsets of the first window; each further one goes ten times as far.
const FIRST_WINDOW: i64 = 200;

/// What is looked for, and how far a search may go.
#[derive(Debug, Clone)]
pub(super) struct EpochSearch<'a> {
    pub topic: &'a TopicName,
    pub stream: &'a StreamName,
    /// Offsets a partition is searched back at the most.
    pub records_max: u64,
    /// How long nothing may be read before the search is given up, to be tried again.
    pub stall_max: Duration,
}

/// One partition on the way back from its end.
#[derive(Debug, Clone, Copy)]
struct Back {
    partition: Partition,
    low: Offset,
    high: Offset,
    /// All from here to `high` has been read.
    read_from: Offset,
    highest: Option<Epoch>,
}

impl Back {
    fn is_done(&self, records_max: u64) -> bool {
        let searched = u64::try_from(self.high.0 - self.read_from.0).unwrap_or_default();
        self.highest.is_some() || self.read_from <= self.low || searched >= records_max
    }

    /// Nothing of the stream can have been there that was not seen.
    fn is_complete(&self) -> bool {
        self.highest.is_some() || (self.low.0 == 0 && self.read_from.0 <= 0)
    }
}

impl EpochSearch<'_> {
    /// Searches the partitions, whose first offsets and ends are `bounds` in order of their numbers.
    ///
    /// `keep_alive` is called again and again; its error ends the search.
    ///
    /// # Errors
    /// [`Halt::Wait`] when a partition cannot be read; what `keep_alive` returns.
    pub fn run(
        &self,
        kafka: &KafkaConfig,
        bounds: &[(Offset, Offset)],
        keep_alive: &mut dyn FnMut() -> Result<(), Halt>,
    ) -> Result<EpochsInLog, Halt> {
        let mut parts: Vec<Back> = (0..)
            .zip(bounds)
            .map(|(partition, (low, high))| Back {
                partition: Partition(partition),
                low: *low,
                high: *high,
                read_from: *high,
                highest: None,
            })
            .collect();
        let mut reader = None;
        let mut window = FIRST_WINDOW;
        while parts.iter().any(|part| !part.is_done(self.records_max)) {
            let reader = match &mut reader {
                Some(reader) => reader,
                None => reader.insert(TopicReader::open_uncommitted(kafka)?),
            };
            self.read_window(reader, &mut parts, window, keep_alive)?;
            window = window.saturating_mul(10);
        }
        Ok(EpochsInLog {
            highest: parts.iter().filter_map(|part| part.highest).max(),
            complete: parts.iter().all(Back::is_complete),
        })
    }

    /// Reads the next stretch back of every partition that is not done.
    fn read_window(
        &self,
        reader: &mut TopicReader,
        parts: &mut [Back],
        window: i64,
        keep_alive: &mut dyn FnMut() -> Result<(), Halt>,
    ) -> Result<(), Halt> {
        let mut from = Vec::new();
        let mut ends = Vec::new();
        for part in parts.iter_mut().filter(|part| !part.is_done(self.records_max)) {
            let most = i64::try_from(self.records_max).unwrap_or(i64::MAX);
            let back = part.high.0.saturating_sub(window.min(most));
            let start = Offset(back.max(part.low.0));
            let at = TopicPartition { topic: self.topic.clone(), partition: part.partition };
            from.push((at.clone(), ReadFrom::At(start)));
            ends.push((at, part.read_from));
            part.read_from = start;
        }
        reader.assign(&from)?;
        let mut progress_at = Instant::now();
        let mut records = Vec::new();
        while !ends.is_empty() {
            keep_alive()?;
            if reader.read(&mut records, 10_000, Duration::from_millis(20))? > 0 {
                progress_at = Instant::now();
            } else if progress_at.elapsed() > self.stall_max {
                return Err(Halt::Wait(format!(
                    "topic {} cannot be searched for earlier numbers of this outbox: {} does not answer",
                    self.topic, ends[0].0
                )));
            }
            for record in records.drain(..) {
                let own = record.stamp_ref().filter(|stamp| stamp.stream == self.stream.as_str());
                let part = usize::try_from(record.partition().0).ok().and_then(|at| parts.get_mut(at));
                if let (Some(stamp), Some(part)) = (own, part) {
                    part.highest = part.highest.max(Some(stamp.epoch));
                }
            }
            let mut left = Vec::with_capacity(ends.len());
            for (at, end) in ends {
                if !reader.has_reached(&at, end)? {
                    left.push((at, end));
                }
            }
            ends = left;
        }
        Ok(())
    }
}
