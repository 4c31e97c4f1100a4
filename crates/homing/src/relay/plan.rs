//! Numbering a batch of new rows: from rows and lanes to a manifest. Pure.

use crate::outbox::numbering::{Numbered, partition_of};
use crate::outbox::rows::RowBuf;
use crate::outbox::store::{BatchId, LanePart, Manifest, Span, TopicEpoch};
use homing_core::relay::LaneIx;
use homing_core::{Partition, Seq};

/// A batch with the number of each of its rows.
#[derive(Debug)]
pub(super) struct Plan {
    pub manifest: Manifest,
    pub numbers: Vec<Numbered>,
    /// Each manifest lane's place in the machine.
    pub lanes: Vec<LaneIx>,
}

/// A topic that rows may be numbered for.
#[derive(Debug)]
pub(super) struct Target<'a> {
    pub epoch: &'a TopicEpoch,
    /// Its lanes by partition.
    pub lanes: &'a [LaneIx],
}

const NO_LANE: u32 = u32::MAX;

/// Numbers `rows`; `targets` are their topics in order, `next_seq` tells where each lane stands.
///
/// Rows without a key go to one partition per topic and batch, another one in
/// the next batch.
pub(super) fn plan(
    batch: BatchId,
    span: Span,
    rows: &RowBuf,
    targets: &[Target<'_>],
    next_seq: impl Fn(LaneIx) -> Seq,
) -> Plan {
    let mut places: Vec<Vec<u32>> = targets.iter().map(|target| vec![NO_LANE; target.lanes.len()]).collect();
    let null_keys: Vec<Partition> = targets
        .iter()
        .map(|target| {
            let partition = batch.0.rem_euclid(i64::from(target.epoch.partitions.get()));
            Partition(i32::try_from(partition).expect("below a partition count"))
        })
        .collect();
    let mut parts: Vec<LanePart> = Vec::new();
    let mut lanes = Vec::new();
    let mut numbers = Vec::with_capacity(rows.len());
    for row in rows.iter() {
        let target = &targets[row.topic];
        let partition = partition_of(&row, target.epoch.partitions, null_keys[row.topic]);
        let at = usize::try_from(partition.0).expect("a partition is not negative");
        let slot = &mut places[row.topic][at];
        if *slot == NO_LANE {
            *slot = u32::try_from(parts.len()).expect("a batch has fewer lanes than rows");
            parts.push(LanePart {
                topic: target.epoch.topic.clone(),
                epoch: target.epoch.epoch,
                partition,
                first_seq: next_seq(target.lanes[at]),
                rows: 0,
                takes_null_keys: false,
            });
            lanes.push(target.lanes[at]);
        }
        let part = &mut parts[*slot as usize];
        numbers.push(Numbered { lane: *slot, seq: Seq(part.first_seq.0 + u64::from(part.rows)) });
        part.rows += 1;
        part.takes_null_keys |= row.key.is_none();
    }
    let count = u32::try_from(rows.len()).expect("a batch is bounded by batch_rows_max");
    let bytes = rows.bytes() as u64;
    Plan { manifest: Manifest { batch, span, rows: count, bytes, lanes: parts }, numbers, lanes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::Instance;
    use crate::outbox::numbering::number;
    use crate::outbox::rows::{Cell, RawRow};
    use crate::outbox::store::RowId;
    use homing_core::{Epoch, PartitionCount, TopicName};
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
            let place = |topic: &TopicName| names.iter().position(|name| *name == topic.as_str()).unwrap();
            let epochs: Vec<TopicEpoch> = buf.topics().iter().map(|topic| TopicEpoch {
                topic: topic.clone(),
                epoch: Epoch(2),
                topic_id: [0; 16],
                partitions: PartitionCount::new(counts[place(topic)].0).unwrap(),
            }).collect();
            let lanes: Vec<Vec<LaneIx>> = epochs.iter().enumerate()
                .map(|(t, epoch)| (0..epoch.partitions.get()).map(|p| LaneIx(t as u32 * 100 + p as u32)).collect())
                .collect();
            let targets: Vec<_> =
                epochs.iter().zip(&lanes).map(|(epoch, lanes)| Target { epoch, lanes }).collect();
            let next_seq = |lane: LaneIx| Seq(counts[place(&epochs[lane.0 as usize / 100].topic)].1);
            let span = Span { from: RowId(1), to: RowId(rows.len() as i64), detail: None };
            let plan = plan(BatchId(batch), span, &buf, &targets, next_seq);
            let partitions = |part: &LanePart| {
                epochs.iter().find(|epoch| epoch.topic == part.topic).map(|epoch| epoch.partitions)
            };
            let again = number(&buf, &plan.manifest, partitions).unwrap();
            prop_assert_eq!(&again, &plan.numbers);
            for (at, part) in plan.manifest.lanes.iter().enumerate() {
                let seqs: Vec<_> = plan.numbers.iter().filter(|n| n.lane as usize == at).map(|n| n.seq.0).collect();
                let want: Vec<_> = (part.first_seq.0..part.first_seq.0 + u64::from(part.rows)).collect();
                prop_assert_eq!(seqs, want);
            }
        }
    }
}
