//! Which seq each row of a batch has: computed once for the manifest, again at every resend.

use super::rows::{RowBuf, RowRef};
use super::store::{LanePart, Manifest};
use homing_core::{Partition, PartitionCount, Seq, TopicName, partition_for_key};
use std::collections::HashMap;

/// One row's number: its lane's place in [`Manifest::lanes`] and its seq there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbered {
    /// The lane's place in the manifest.
    pub lane: u32,
    /// The row's seq.
    pub seq: Seq,
}

/// What cannot be: a batch read again does not fit its manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the rows read again do not fit the manifest of batch {batch}: {what}")]
pub struct Misfit {
    /// The batch.
    pub batch: i64,
    /// What does not fit.
    pub what: String,
}

/// The partition of a row: its key's, or the one chosen for the batch's rows without a key.
#[must_use]
pub fn partition_of(row: &RowRef<'_>, partitions: PartitionCount, null_keys: Partition) -> Partition {
    row.key.map_or(null_keys, |key| partition_for_key(key, partitions))
}

/// Numbers the rows of a batch by its manifest.
///
/// The same rows and the same manifest give the same numbers, in any process
/// at any time; `partitions` are the topics' pinned partition counts.
///
/// # Errors
/// [`Misfit`] when the rows are not those the manifest was made for.
pub fn number(
    rows: &RowBuf,
    manifest: &Manifest,
    partitions: impl Fn(&LanePart) -> Option<PartitionCount>,
) -> Result<Vec<Numbered>, Misfit> {
    let misfit = |what: String| Misfit { batch: manifest.batch.0, what };
    if rows.len() != manifest.rows as usize {
        return Err(misfit(format!("{} rows instead of {}", rows.len(), manifest.rows)));
    }
    let by_topic = rows
        .topics()
        .iter()
        .map(|topic| TopicLanes::of(topic, manifest, &partitions))
        .collect::<Result<Vec<_>, _>>()
        .map_err(misfit)?;
    let mut given = vec![0u32; manifest.lanes.len()];
    let mut numbers = Vec::with_capacity(rows.len());
    for row in rows.iter() {
        let lanes = &by_topic[row.topic];
        let partition = partition_of(&row, lanes.partitions, lanes.null_keys);
        let lane = lanes
            .lane(partition)
            .ok_or_else(|| misfit(format!("row {} goes to partition {partition}, which it lacks", row.id)))?;
        let part = &manifest.lanes[lane as usize];
        let nth = &mut given[lane as usize];
        numbers.push(Numbered { lane, seq: Seq(part.first_seq.0 + u64::from(*nth)) });
        *nth += 1;
    }
    for (part, given) in manifest.lanes.iter().zip(given) {
        if part.rows != given {
            let what =
                format!("{given} rows instead of {} for {}[{}]", part.rows, part.topic, part.partition);
            return Err(misfit(what));
        }
    }
    Ok(numbers)
}

/// One topic's lanes within a manifest, by partition.
#[derive(Debug)]
pub(crate) struct TopicLanes {
    pub partitions: PartitionCount,
    /// Where its rows without a key go; -1 when none of its lanes takes them.
    pub null_keys: Partition,
    by_partition: HashMap<i32, u32>,
    dense: Vec<u32>,
}

const NO_LANE: u32 = u32::MAX;

impl TopicLanes {
    pub fn of(
        topic: &TopicName,
        manifest: &Manifest,
        partitions: &impl Fn(&LanePart) -> Option<PartitionCount>,
    ) -> Result<Self, String> {
        let mut lanes = Self {
            partitions: PartitionCount::new(1).expect("1 is positive"),
            null_keys: Partition(-1),
            by_partition: HashMap::new(),
            dense: Vec::new(),
        };
        let own = manifest.lanes.iter().enumerate().filter(|(_, part)| part.topic == *topic);
        let mut found = false;
        for (at, part) in own {
            found = true;
            lanes.partitions = partitions(part)
                .ok_or_else(|| format!("epoch {} of topic {topic} is not known", part.epoch))?;
            let at = u32::try_from(at).expect("a batch has fewer lanes than rows");
            lanes.by_partition.insert(part.partition.0, at);
            if part.takes_null_keys {
                lanes.null_keys = part.partition;
            }
        }
        if !found {
            return Err(format!("it has no lane of topic {topic}"));
        }
        if lanes.partitions.get() <= 1024 {
            let count = lanes.partitions.get();
            lanes.dense =
                (0..count).map(|p| lanes.by_partition.get(&p).copied().unwrap_or(NO_LANE)).collect();
        }
        Ok(lanes)
    }

    /// The place in the manifest of the lane of `partition`.
    pub fn lane(&self, partition: Partition) -> Option<u32> {
        let lane = if self.dense.is_empty() {
            self.by_partition.get(&partition.0).copied()
        } else {
            usize::try_from(partition.0).ok().and_then(|p| self.dense.get(p)).copied()
        };
        lane.filter(|lane| *lane != NO_LANE)
    }
}
