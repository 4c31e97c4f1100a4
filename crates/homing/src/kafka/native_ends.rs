//! Asking for the ends of many partitions at once.
#![allow(unsafe_code)]

use super::native::{Client, NativeError, millis};
use super::partition_list::{Entry, PartitionList, TopicPartition};
use homing_core::Offset;
use rdkafka::bindings as ffi;
use rdkafka::types::RDKafkaRespErr as Code;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Partitions that had no answer with the others and are asked about again, each alone.
const ALONE_MAX: usize = 8;

/// In place of a timestamp: the first offset of the log.
const EARLIEST: i64 = -2;
/// In place of a timestamp: the offset behind the last record.
const LATEST: i64 = -1;

impl Client {
    /// The first offset of each partition and the one after its last, in the given order.
    ///
    /// One request to each leader. A partition that has none, or whose leader is silent, fails
    /// alone, after `wait` at the latest.
    pub fn ends(&self, of: &[TopicPartition], wait: Duration) -> Vec<Result<(Offset, Offset), NativeError>> {
        let deadline = Instant::now() + wait;
        // The beginning first, so that it is never behind the end.
        let (low, mut high) = (self.offsets(of, EARLIEST, wait), HashMap::new());
        if low.values().any(Result::is_ok) {
            high = self.offsets(of, LATEST, deadline.saturating_duration_since(Instant::now()));
        }
        let mut alone = 0;
        of.iter()
            .map(|at| match (low.get(at), high.get(at)) {
                (Some(Ok(low)), Some(Ok(high))) => Ok((*low, *high)),
                // The client may only have been told of the topic too early.
                (Some(Err(_)), _) | (_, Some(Err(_))) if alone < ALONE_MAX && Instant::now() < deadline => {
                    alone += 1;
                    self.watermarks(at, deadline.saturating_duration_since(Instant::now()))
                }
                (Some(Err(error)), _) | (_, Some(Err(error))) => Err(error.clone()),
                _ => Err(NativeError::of("ask for the ends", Code::RD_KAFKA_RESP_ERR__TIMED_OUT as i32)),
            })
            .collect()
    }

    fn offsets(
        &self,
        of: &[TopicPartition],
        which: i64,
        wait: Duration,
    ) -> HashMap<TopicPartition, Result<Offset, NativeError>> {
        let operation = "ask for the ends";
        let entries: Vec<_> = of.iter().map(|at| Entry { offset: which, ..Entry::of(at.clone()) }).collect();
        let list = PartitionList::new(&entries);
        // SAFETY: handle and list are live; the list is filled in place.
        let code =
            unsafe { ffi::rd_kafka_offsets_for_times(self.as_ptr(), list.as_ptr(), millis(wait)) } as i32;
        list.entries()
            .into_iter()
            .map(|entry| {
                let answer = match (entry.error, code, entry.offset) {
                    (0, 0, offset) if offset >= 0 => Ok(Offset(offset)),
                    (0, 0, _) => Err(NativeError::of(operation, Code::RD_KAFKA_RESP_ERR__TIMED_OUT as i32)),
                    (0, code, _) | (code, ..) => Err(NativeError::of(operation, code)),
                };
                (entry.at, answer)
            })
            .collect()
    }
}
