//! Reading rows: new ones, held ones, and those of a batch once more.

use super::SqliteOutbox;
use super::guard::Guarded;
use super::holds::{LISTED, is_listed};
use super::pins::{Epochs, topics};
use crate::outbox::error::{During, OutboxError};
use crate::outbox::identity::Instance;
use crate::outbox::numbering::TopicLanes;
use crate::outbox::rows::{Cell, RawRow, RowBuf};
use crate::outbox::store::{Manifest, RowId, RowReader, Span};
use homing_core::{Partition, TopicName, partition_for_key};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, Rows};
use std::collections::HashMap;

/// The columns of a row, in the order [`take`] reads them, and where they come from.
macro_rules! columns {
    ($flags:literal, $from:literal) => {
        concat!(
            "SELECT id, o.topic, message_key, payload, payload_text, headers, message_id, ",
            $flags,
            ", created_at_ms FROM ",
            $from
        )
    };
}

/// Held rows that had another number before go out again like redriven ones: known by their id.
macro_rules! held_columns {
    () => {
        columns!(
            "CASE WHEN h.replanned THEN 'redrive' ELSE flags END",
            "homing_held_row h CROSS JOIN homing_outbox o ON o.id = h.row_id "
        )
    };
}

/// Which rows a reader reads.
enum Source {
    New,
    Held(TopicName),
}

/// Reads rows nobody has numbered, over a connection of its own.
pub(super) struct SqliteReader {
    connection: Guarded,
    instance: Instance,
    source: Source,
    after: RowId,
}

impl SqliteReader {
    pub(super) fn new(outbox: &SqliteOutbox, after: RowId) -> Result<Self, OutboxError> {
        let connection = outbox.connect_guarded()?;
        Ok(Self { connection, instance: outbox.instance(), source: Source::New, after })
    }

    pub(super) fn held(outbox: &SqliteOutbox, topic: &TopicName) -> Result<Self, OutboxError> {
        let connection = outbox.connect_guarded()?;
        let source = Source::Held(topic.clone());
        Ok(Self { connection, instance: outbox.instance(), source, after: RowId(i64::MIN) })
    }
}

impl RowReader for SqliteReader {
    fn next(
        &mut self,
        rows_max: usize,
        bytes_max: usize,
        into: &mut RowBuf,
    ) -> Result<Option<Span>, OutboxError> {
        let read = "read new rows";
        into.clear();
        let limit = i64::try_from(rows_max).unwrap_or(i64::MAX);
        let detail = match &self.source {
            Source::New => {
                let mut statement = self
                    .connection
                    .prepare_cached(columns!("flags", "homing_outbox o WHERE id > ?1 ORDER BY id LIMIT ?2"))
                    .during(read)?;
                let rows = statement.query([self.after.0, limit]).during(read)?;
                fill(rows, self.instance, bytes_max, into).during(read)?;
                None
            }
            Source::Held(topic) => {
                let mut statement = self
                    .connection
                    .prepare_cached(concat!(
                        held_columns!(),
                        "WHERE h.topic = ?3 AND h.batch_id IS NULL AND h.row_id > ?1 ORDER BY h.row_id LIMIT ?2"
                    ))
                    .during(read)?;
                let rows = statement
                    .query(rusqlite::params![self.after.0, limit, topic.as_str()])
                    .during("read held rows")?;
                fill(rows, self.instance, bytes_max, into).during("read held rows")?;
                Some(LISTED.to_owned())
            }
        };
        let Some((from, to)) = into.ends() else { return Ok(None) };
        self.after = to;
        Ok(Some(Span { from, to, detail }))
    }

    fn seek(&mut self, row: RowId) {
        self.after = row;
    }
}

/// The lanes of a manifest that a row may belong to.
pub(super) struct LaneFilter<'m> {
    manifest: &'m Manifest,
    topics: HashMap<&'m [u8], TopicLanes>,
}

impl<'m> LaneFilter<'m> {
    pub(super) fn new(connection: &Connection, manifest: &'m Manifest) -> Result<Self, OutboxError> {
        let operation = "read a batch again";
        let counts: HashMap<_, _> = topics(connection, Epochs::All)?
            .into_iter()
            .map(|topic| ((topic.topic, topic.epoch), topic.partitions))
            .collect();
        let mut topics = HashMap::new();
        for part in &manifest.lanes {
            let name = part.topic.as_str().as_bytes();
            if topics.contains_key(name) {
                continue;
            }
            let lanes = TopicLanes::of(&part.topic, manifest, &|part| {
                counts.get(&(part.topic.clone(), part.epoch)).copied()
            })
            .map_err(|what| OutboxError::Inconsistent { operation, what })?;
            topics.insert(name, lanes);
        }
        Ok(Self { manifest, topics })
    }

    /// The place of the lane a row belongs to, if it is of one of these lanes.
    pub(super) fn lane(&self, topic: Cell<'_>, key: Cell<'_>) -> Option<u32> {
        let Cell::Bytes(topic) = topic else { return None };
        let lanes = self.topics.get(topic)?;
        let partition: Partition = match key {
            Cell::Null => lanes.null_keys,
            Cell::Bytes(key) => partition_for_key(key, lanes.partitions),
            Cell::Integer(n) => partition_for_key(n.to_string().as_bytes(), lanes.partitions),
            Cell::Other => return None,
        };
        lanes.lane(partition)
    }

    /// That each lane has as many rows as the manifest gave it.
    pub(super) fn whole(&self, given: &[u32], faults: usize) -> Result<(), OutboxError> {
        let short = self.manifest.lanes.iter().zip(given).find(|(part, given)| part.rows != **given);
        let what = match (short, faults) {
            (None, 0) => return Ok(()),
            (Some((part, given)), _) => {
                format!("numbered {} rows of {}, but {given} can be read", part.rows, part.lane())
            }
            (None, faults) => format!("has {faults} rows that cannot be sent"),
        };
        Err(OutboxError::Inconsistent {
            operation: "read a batch again",
            what: format!(
                "batch {} (rows {} to {}) {what}: rows were deleted or changed behind Homing's back",
                self.manifest.batch, self.manifest.span.from, self.manifest.span.to,
            ),
        })
    }
}

pub(super) fn read_batch(
    connection: &Connection,
    instance: Instance,
    manifest: &Manifest,
    into: &mut RowBuf,
) -> Result<(), OutboxError> {
    let read = "read a batch again";
    into.clear();
    let filter = LaneFilter::new(connection, manifest)?;
    let mut statement;
    let mut rows = if is_listed(manifest) {
        statement = connection
            .prepare_cached(concat!(held_columns!(), "WHERE h.batch_id = ?1 ORDER BY h.row_id"))
            .during(read)?;
        statement.query([manifest.batch.0]).during(read)?
    } else {
        statement = connection
            .prepare_cached(columns!(
                "flags",
                "homing_outbox o WHERE id BETWEEN ?1 AND ?2 AND id NOT IN \
                 (SELECT row_id FROM homing_held_row WHERE row_id BETWEEN ?1 AND ?2) ORDER BY id"
            ))
            .during(read)?;
        statement.query([manifest.span.from.0, manifest.span.to.0]).during(read)?
    };
    let mut given = vec![0u32; manifest.lanes.len()];
    while let Some(row) = rows.next().during(read)? {
        let raw = take(row).during(read)?;
        if let Some(lane) = filter.lane(raw.topic, raw.key) {
            given[lane as usize] += 1;
            into.push(instance, &raw);
        }
    }
    filter.whole(&given, into.faults().len())
}

fn fill(
    mut rows: Rows<'_>,
    instance: Instance,
    bytes_max: usize,
    into: &mut RowBuf,
) -> Result<(), rusqlite::Error> {
    while into.bytes() < bytes_max {
        let Some(row) = rows.next()? else { break };
        into.push(instance, &take(row)?);
    }
    Ok(())
}

fn take<'a>(row: &'a Row<'_>) -> Result<RawRow<'a>, rusqlite::Error> {
    let created_at_ms = match row.get_ref(8)? {
        ValueRef::Integer(ms) => ms,
        ValueRef::Real(ms) => ms as i64,
        _ => 0,
    };
    Ok(RawRow {
        id: RowId(row.get(0)?),
        topic: cell(row.get_ref(1)?),
        key: cell(row.get_ref(2)?),
        payload: cell(row.get_ref(3)?),
        payload_text: cell(row.get_ref(4)?),
        headers: cell(row.get_ref(5)?),
        message_id: cell(row.get_ref(6)?),
        flags: cell(row.get_ref(7)?),
        created_at_ms,
    })
}

pub(super) fn cell(value: ValueRef<'_>) -> Cell<'_> {
    match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Cell::Bytes(bytes),
        ValueRef::Integer(n) => Cell::Integer(n),
        ValueRef::Real(_) => Cell::Other,
    }
}
