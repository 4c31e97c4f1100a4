//! Numbering a batch of new rows: from rows and lanes to a manifest. Pure.

use super::topics::Topics;
use crate::outbox::numbering::{Numbered, partition_of};
use crate::outbox::rows::RowBuf;
use crate::outbox::store::{BatchId, LanePart, Manifest, Span};
use homing_core::{Partition, Seq};

/// A batch with the number of each of its rows.
#[derive(Debug)]
pub(super) struct Plan {
    pub manifest: Manifest,
    pub numbers: Vec<Numbered>,
    /// Each manifest lane's place in [`Topics`].
    pub places: Vec<(usize, usize)>,
}

const NO_LANE: u32 = u32::MAX;

/// Numbers `rows`, all of whose topics are open.
///
/// Rows without a key go to one partition per topic and batch, another one in
/// the next batch.
pub(super) fn plan(batch: BatchId, span: Span, rows: &RowBuf, topics: &Topics) -> Plan {
    struct Target {
        topic: usize,
        null_keys: Partition,
        lanes: Vec<u32>,
    }
    let mut targets: Vec<Option<Target>> = rows
        .topics()
        .iter()
        .map(|name| {
            let topic = topics.find(name)?;
            let partitions = topics.list[topic].epoch.partitions.get();
            let null_keys = Partition(i32::try_from(batch.0.rem_euclid(i64::from(partitions))).ok()?);
            Some(Target { topic, null_keys, lanes: vec![NO_LANE; topics.list[topic].lanes.len()] })
        })
        .collect();
    let mut lanes: Vec<LanePart> = Vec::new();
    let mut places = Vec::new();
    let mut numbers = Vec::with_capacity(rows.len());
    for row in rows.iter() {
        let target = targets[row.topic].as_mut().expect("rows of unopened topics were set aside before");
        let open = &topics.list[target.topic];
        let partition = partition_of(&row, open.epoch.partitions, target.null_keys);
        let at = usize::try_from(partition.0).expect("a partition is not negative");
        let slot = &mut target.lanes[at];
        if *slot == NO_LANE {
            *slot = u32::try_from(lanes.len()).expect("a batch has fewer lanes than rows");
            lanes.push(LanePart {
                topic: open.epoch.topic.clone(),
                epoch: open.epoch.epoch,
                partition,
                first_seq: Seq(open.lanes[at].next_seq),
                rows: 0,
                takes_null_keys: false,
            });
            places.push((target.topic, at));
        }
        let part = &mut lanes[*slot as usize];
        numbers.push(Numbered { lane: *slot, seq: Seq(part.first_seq.0 + u64::from(part.rows)) });
        part.rows += 1;
        part.takes_null_keys |= row.key.is_none();
    }
    let count = u32::try_from(rows.len()).expect("a batch is bounded by batch_rows_max");
    let bytes = rows.bytes() as u64;
    Plan { manifest: Manifest { batch, span, rows: count, bytes, lanes }, numbers, places }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::Instance;
    use crate::outbox::numbering::number;
    use crate::outbox::rows::{Cell, RawRow};
    use crate::outbox::store::{RowId, TopicEpoch};
    use crate::relay::topics::Lane;
    use homing_core::{Epoch, Offset, PartitionCount, TopicName};
    use proptest::prelude::*;

    proptest! {
        /// What the plan numbered is what any later reader of the manifest computes.
        #[test]
        fn a_manifest_read_again_gives_the_same_numbers(
            rows in proptest::collection::vec((0usize..3, proptest::option::of(0u8..50)), 1..300),
            counts in proptest::collection::vec((1i32..9, 1u64..1000), 3),
            batch in 1i64..50,
        ) {
            let names = ["a", "b", "c"];
            let mut topics = Topics::default();
            for (name, (partitions, next_seq)) in names.iter().zip(&counts) {
                let epoch = TopicEpoch {
                    topic: TopicName::parse(name).unwrap(),
                    epoch: Epoch(2),
                    topic_id: [0; 16],
                    partitions: PartitionCount::new(*partitions).unwrap(),
                };
                let lane = Lane { next_seq: *next_seq, next_offset: Offset(0), warm: false };
                topics.insert(epoch, vec![lane; *partitions as usize]);
            }
            let mut buf = RowBuf::default();
            for (i, (topic, key)) in rows.iter().enumerate() {
                let key = key.map(|key| [key]);
                buf.push(Instance([0; 16]), &RawRow {
                    id: RowId(i as i64 + 1),
                    topic: Cell::Bytes(names[*topic].as_bytes()),
                    key: key.as_ref().map_or(Cell::Null, |key| Cell::Bytes(key)),
                    payload: Cell::Null, payload_text: Cell::Null, headers: Cell::Null,
                    message_id: Cell::Null, flags: Cell::Null, created_at_ms: 0,
                });
            }
            let span = Span { from: RowId(1), to: RowId(rows.len() as i64), detail: None };
            let plan = plan(BatchId(batch), span, &buf, &topics);
            let again = number(&buf, &plan.manifest, |part| topics.partitions(&part.topic, part.epoch)).unwrap();
            prop_assert_eq!(&again, &plan.numbers);
            prop_assert_eq!(topics.places(&plan.manifest), Some(plan.places));
            for (at, part) in plan.manifest.lanes.iter().enumerate() {
                let seqs: Vec<_> = plan.numbers.iter().filter(|n| n.lane as usize == at).map(|n| n.seq.0).collect();
                let want: Vec<_> = (part.first_seq.0..part.first_seq.0 + u64::from(part.rows)).collect();
                prop_assert_eq!(seqs, want);
            }
        }
    }
}
