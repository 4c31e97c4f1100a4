//! Under which number and id a record is remembered.

use crate::kafka::record::Record;
use homing_core::{Epoch, Partition, Seq};
use uuid::Uuid;

/// What identifies a message among all that a group has applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxEntry<'a> {
    /// The stream that numbered it; empty for a record without a stamp.
    pub stream: &'a str,
    /// The numbering's epoch; 0 for a record without a stamp.
    pub epoch: Epoch,
    /// The topic it was read from.
    pub topic: &'a str,
    /// The partition.
    pub partition: Partition,
    /// Its number in the lane; without a stamp its offset, counted from 1.
    pub seq: Seq,
    /// The message's id, the same under every number it is ever sent under; `None` for a record
    /// without a stamp.
    pub id: Option<Uuid>,
    /// Whether a dead letter was sent again: its id is then remembered for good.
    pub redriven: bool,
}

impl<'a> InboxEntry<'a> {
    /// The entry of a record.
    ///
    /// A record without a stamp is remembered by its offset, which is the same on every delivery
    /// as long as the topic is not made anew.
    #[must_use]
    pub fn of(record: &'a Record) -> Self {
        let (topic, partition) = (record.topic(), record.partition());
        match record.stamp_ref() {
            Some(stamp) => Self {
                stream: stamp.stream,
                epoch: stamp.epoch,
                topic,
                partition,
                seq: stamp.seq,
                id: record.id(),
                redriven: record.flags().redrive,
            },
            None => {
                let seq = Seq(record.offset().0.unsigned_abs() + 1);
                Self { stream: "", epoch: Epoch(0), topic, partition, seq, id: None, redriven: false }
            }
        }
    }
}
