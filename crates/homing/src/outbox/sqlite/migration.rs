//! Bringing an outbox of schema version 1 to version 2, in one transaction.

use super::checks::CHECKS;
use super::ownership::holder;
use super::schema::{INDEXES, NEW_TABLES, SCHEMA_VERSION};
use crate::liveness;
use crate::outbox::error::{During, OutboxError};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Columns, triggers and indexes of version 2 in a version 1 database; what is new there stands in
/// the schema's own texts.
const COLUMNS: &str = "
ALTER TABLE homing_meta ADD COLUMN kept_rows INTEGER NOT NULL DEFAULT 0;
ALTER TABLE homing_lane ADD COLUMN accepted_seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE homing_lane ADD COLUMN pruned_seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE homing_batch ADD COLUMN row_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE homing_batch ADD COLUMN listed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE homing_batch ADD COLUMN unsettled_parts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE homing_batch_lane ADD COLUMN settled_at_ms INTEGER;
ALTER TABLE homing_batch_lane ADD COLUMN rows_gone INTEGER NOT NULL DEFAULT 0;
DROP INDEX homing_batch_span;
DROP TRIGGER homing_outbox_insert;
";

const CONTENT: &str = "
UPDATE homing_batch_lane SET settled_at_ms =
    (SELECT settled_at_ms FROM homing_batch WHERE batch_id = homing_batch_lane.batch_id);
UPDATE homing_batch SET unsettled_parts =
    (SELECT COUNT(*) FROM homing_batch_lane l WHERE l.batch_id = homing_batch.batch_id)
    WHERE settled_at_ms IS NULL;
UPDATE homing_lane SET pruned_seq = COALESCE((SELECT MIN(first_seq) - 1 FROM homing_batch_lane l
    WHERE l.topic = homing_lane.topic AND l.epoch = homing_lane.epoch
    AND l.partition = homing_lane.partition), next_seq - 1);
UPDATE homing_meta SET kept_rows = (SELECT COUNT(*) FROM homing_outbox WHERE id <= claimed_through);
-- Whoever owned the outbox under version 1 must not write on.
UPDATE homing_relay SET token = token + 1, lease_until_ms = 0;
UPDATE homing_meta SET schema_version = 2;
";

/// Migrates the database unless another process just did.
///
/// # Errors
/// [`OutboxError::InUse`] while a relay holds the lease: one of the old version knows nothing of
/// the new columns.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), OutboxError> {
    let operation = "bring the outbox to schema version 2";
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).during(operation)?;
    let found: i64 =
        tx.query_row("SELECT schema_version FROM homing_meta", [], |row| row.get(0)).during(operation)?;
    if found == SCHEMA_VERSION {
        return Ok(());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_ms = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
    if let Some(holder) = holder(&tx)?
        && holder.lease.until_ms > now_ms
        && liveness::alive(&holder.owner) != Some(false)
    {
        return Err(OutboxError::InUse { path: path.to_owned(), found, owner: holder.owner.name });
    }
    for script in [COLUMNS, NEW_TABLES, CONTENT, CHECKS, INDEXES] {
        tx.execute_batch(script).during(operation)?;
    }
    renumber_the_last_id(&tx).during(operation)?;
    tx.commit().during(operation)?;
    tracing::info!(path = %path.display(), "the outbox is now of schema version {SCHEMA_VERSION}");
    Ok(())
}

/// Version 1 let a row take the highest id there is, after which no row can be inserted. Unless
/// it is numbered already, it is inserted again under the next free id.
fn renumber_the_last_id(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    let stuck: bool = tx.query_row(
        "SELECT EXISTS (SELECT 1 FROM homing_outbox WHERE id = 9223372036854775807) \
         AND (SELECT claimed_through FROM homing_meta) < 9223372036854775807",
        [],
        |row| row.get(0),
    )?;
    if !stuck {
        return Ok(());
    }
    tx.execute_batch(
        "CREATE TEMP TABLE homing_moved AS SELECT * FROM homing_outbox WHERE id = 9223372036854775807;
         UPDATE homing_meta SET pruning = 1;
         DELETE FROM homing_outbox WHERE id = 9223372036854775807;
         UPDATE homing_meta SET pruning = 0;
         UPDATE sqlite_sequence SET seq = MAX(COALESCE((SELECT MAX(id) FROM homing_outbox), 0),
             (SELECT claimed_through FROM homing_meta)) WHERE name = 'homing_outbox';
         DROP TRIGGER homing_outbox_check;
         DROP TRIGGER homing_outbox_headers;
         INSERT INTO homing_outbox
             (topic, message_key, payload, payload_text, headers, message_id, created_at_ms, flags)
             SELECT topic, message_key, payload, payload_text, headers, message_id, created_at_ms, flags
             FROM temp.homing_moved;
         DROP TABLE temp.homing_moved;",
    )?;
    tx.execute_batch(CHECKS)
}
