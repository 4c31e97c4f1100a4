//! Reading rows: new ones for the next batch, and those of a batch once more.

use super::{SqliteOutbox, connect};
use crate::outbox::error::{During, OutboxError};
use crate::outbox::identity::Instance;
use crate::outbox::rows::{Cell, RawRow, RowBuf};
use crate::outbox::store::{Manifest, RowId, RowReader, Span};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, Rows};

/// The columns of a row, in the order [`take`] reads them.
macro_rules! columns {
    () => {
        "SELECT id, topic, message_key, payload, payload_text, headers, message_id, flags, created_at_ms \
         FROM homing_outbox WHERE "
    };
}

/// Reads new rows over a connection of its own.
pub(super) struct SqliteReader {
    connection: Connection,
    instance: Instance,
    after: RowId,
}

impl SqliteReader {
    pub(super) fn new(outbox: &SqliteOutbox, after: RowId) -> Result<Self, OutboxError> {
        Ok(Self { connection: connect(outbox.path())?, instance: outbox.instance(), after })
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
        let mut statement = self
            .connection
            .prepare_cached(concat!(columns!(), "id > ?1 ORDER BY id LIMIT ?2"))
            .during(read)?;
        let limit = i64::try_from(rows_max).unwrap_or(i64::MAX);
        let rows = statement.query([self.after.0, limit]).during(read)?;
        fill(rows, self.instance, bytes_max, into).during(read)?;
        let Some((from, to)) = into.ends() else { return Ok(None) };
        self.after = to;
        Ok(Some(Span { from, to, detail: None }))
    }

    fn seek(&mut self, row: RowId) {
        self.after = row;
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
    let mut statement =
        connection.prepare_cached(concat!(columns!(), "id BETWEEN ?1 AND ?2 ORDER BY id")).during(read)?;
    let rows = statement.query([manifest.span.from.0, manifest.span.to.0]).during(read)?;
    fill(rows, instance, usize::MAX, into).during(read)?;
    if into.len() == manifest.rows as usize && into.faults().is_empty() {
        return Ok(());
    }
    Err(OutboxError::Inconsistent {
        operation: read,
        what: format!(
            "batch {} numbered {} rows from {} to {}, but {} of them can be read ({} others cannot be sent): \
             rows were deleted or changed behind Homing's back",
            manifest.batch,
            manifest.rows,
            manifest.span.from,
            manifest.span.to,
            into.len(),
            into.faults().len(),
        ),
    })
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

fn cell(value: ValueRef<'_>) -> Cell<'_> {
    match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Cell::Bytes(bytes),
        ValueRef::Integer(n) => Cell::Integer(n),
        ValueRef::Real(_) => Cell::Other,
    }
}
