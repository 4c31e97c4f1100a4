//! What is pinned: the cluster, and each topic's epoch with its lanes.

use super::ownership::fenced;
use crate::outbox::error::{During, OutboxError};
use crate::outbox::store::TopicEpoch;
use homing_core::{Epoch, FencingToken, Offset, PartitionCount, TopicName};
use rusqlite::{Connection, OptionalExtension, params};

pub(super) fn pin_cluster(
    connection: &mut Connection,
    token: FencingToken,
    cluster_id: &str,
) -> Result<(), OutboxError> {
    let pin = "pin the cluster";
    let tx = fenced(connection, token, pin)?;
    let pinned: Option<String> =
        tx.query_row("SELECT cluster_id FROM homing_meta", [], |row| row.get(0)).during(pin)?;
    match pinned {
        Some(pinned) if pinned == cluster_id => Ok(()),
        Some(pinned) => Err(OutboxError::Inconsistent {
            operation: pin,
            what: format!("cluster {pinned} is pinned, not {cluster_id}"),
        }),
        None => {
            tx.execute("UPDATE homing_meta SET cluster_id = ?1", [cluster_id]).during(pin)?;
            tx.commit().during(pin)
        }
    }
}

pub(super) fn last_epoch(connection: &Connection, topic: &TopicName) -> Result<Option<Epoch>, OutboxError> {
    connection
        .query_row("SELECT MAX(epoch) FROM homing_topic WHERE topic = ?1", [topic.as_str()], |row| row.get(0))
        .map(|last: Option<u32>| last.map(Epoch))
        .during("read a topic's last epoch")
}

pub(super) fn open_epoch(
    connection: &mut Connection,
    token: FencingToken,
    topic: &TopicEpoch,
    ends: &[Offset],
    now_ms: i64,
) -> Result<(), OutboxError> {
    let open = "open a topic's epoch";
    let refuse = |what: String| Err(OutboxError::Inconsistent { operation: open, what });
    let (name, epoch) = (topic.topic.as_str(), topic.epoch.0);
    if ends.len() != usize::try_from(topic.partitions.get()).unwrap_or_default() {
        return refuse(format!("{} end offsets for {} partitions", ends.len(), topic.partitions.get()));
    }
    let tx = fenced(connection, token, open)?;
    let last = last_epoch(&tx, &topic.topic)?.map_or(0, |last| last.0);
    if epoch <= last {
        return refuse(format!("epoch {epoch} of topic {name} does not lie above {last}"));
    }
    let unsettled: Option<i64> = tx
        .query_row(
            "SELECT b.batch_id FROM homing_batch b JOIN homing_batch_lane l USING (batch_id) \
             WHERE b.settled_at_ms IS NULL AND l.topic = ?1 LIMIT 1",
            [name],
            |row| row.get(0),
        )
        .optional()
        .during(open)?;
    if let Some(batch) = unsettled {
        return refuse(format!("batch {batch} of topic {name} is not settled"));
    }
    tx.execute(
        "UPDATE homing_topic SET closed_at_ms = ?2 WHERE topic = ?1 AND closed_at_ms IS NULL",
        params![name, now_ms],
    )
    .during(open)?;
    tx.execute(
        "INSERT INTO homing_topic (topic, epoch, topic_id, partitions, opened_at_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![name, epoch, &topic.topic_id[..], topic.partitions.get(), now_ms],
    )
    .during(open)?;
    for (partition, end) in ends.iter().enumerate() {
        tx.prepare_cached(
            "INSERT INTO homing_lane (topic, epoch, partition, next_offset) VALUES (?1, ?2, ?3, ?4)",
        )
        .and_then(|mut statement| statement.execute(params![name, epoch, partition as i64, end.0]))
        .during(open)?;
    }
    tx.commit().during(open)
}

/// Which epochs are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Epochs {
    All,
    Open,
    Closed,
}

/// The epochs asked for, by topic and epoch.
pub(super) fn topics(connection: &Connection, which: Epochs) -> Result<Vec<TopicEpoch>, OutboxError> {
    let read = "read the topics' epochs";
    let mut statement = connection
        .prepare_cached(
            "SELECT topic, epoch, topic_id, partitions FROM homing_topic \
             WHERE CASE WHEN closed_at_ms IS NULL THEN ?1 ELSE ?2 END ORDER BY topic, epoch",
        )
        .during(read)?;
    let rows = statement
        .query_map([which != Epochs::Closed, which != Epochs::Open], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, u32>(1)?,
                row.get::<_, [u8; 16]>(2)?,
                row.get::<_, i32>(3)?,
            ))
        })
        .during(read)?;
    let mut topics = Vec::new();
    for row in rows {
        let (topic, epoch, topic_id, partitions) = row.during(read)?;
        topics.push(TopicEpoch {
            topic: parse_topic(&topic, read)?,
            epoch: Epoch(epoch),
            topic_id,
            partitions: PartitionCount::new(partitions).ok_or_else(|| OutboxError::Inconsistent {
                operation: read,
                what: format!("topic {topic} has {partitions} partitions"),
            })?,
        });
    }
    Ok(topics)
}

pub(super) fn parse_topic(name: &str, operation: &'static str) -> Result<TopicName, OutboxError> {
    TopicName::parse(name).map_err(|error| OutboxError::Inconsistent { operation, what: error.to_string() })
}
