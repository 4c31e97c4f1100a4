//! The SQLite tables of an outbox, as SQL text.

use homing_core::StreamName;

/// The layout this code reads and writes; rises with every change of the tables.
pub const SCHEMA_VERSION: i64 = 1;

/// The script that creates an outbox for `stream` in a SQLite database.
///
/// Running it again changes nothing. It needs SQLite 3.38 or newer; Debian's
/// `sqlite3` shell and Python's `sqlite3` module both do.
pub fn schema_sql(stream: &StreamName) -> String {
    // A stream's name holds only [a-z0-9._-], so it needs no escaping.
    format!("{TABLES}{}\n{}", super::audit::TABLES, META.replace("{stream}", stream.as_str()))
}

const META: &str = "\
INSERT OR IGNORE INTO homing_meta (one, schema_version, stream, instance, created_at_ms)
VALUES (1, 1, '{stream}', randomblob(16), CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER));
";

const TABLES: &str = r"-- Homing's outbox for SQLite, schema version 1.
PRAGMA journal_mode = WAL;

-- What the application writes. Rows are inserted once and never changed; Homing
-- deletes them after the auditor has read their records back from Kafka.
--   INSERT INTO homing_outbox (topic, message_key, payload_text) VALUES ('orders', '42', '{}');
CREATE TABLE IF NOT EXISTS homing_outbox (
    id            INTEGER PRIMARY KEY AUTOINCREMENT, -- Homing's: leave it out; commit order
    topic         TEXT NOT NULL,
    message_key   BLOB,    -- bytes or text; null: any partition
    payload       BLOB,    -- bytes; or else payload_text; both null: a tombstone
    payload_text  TEXT,
    headers       TEXT,    -- one JSON object or null; names starting with homing- are Homing's
    message_id    BLOB,    -- a UUID as text or 16 bytes; null: given then
    created_at_ms INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
    flags         TEXT     -- Homing's: leave it out
);

-- A row below the highest id would never be looked at; a changed or deleted row
-- could not be sent again under its number.
CREATE TRIGGER IF NOT EXISTS homing_outbox_insert AFTER INSERT ON homing_outbox
WHEN NEW.id <= (SELECT seq FROM sqlite_sequence WHERE name = 'homing_outbox')
BEGIN
    SELECT RAISE(ABORT, 'homing_outbox: leave out the id, it is given by the database');
END;
CREATE TRIGGER IF NOT EXISTS homing_outbox_update BEFORE UPDATE ON homing_outbox
BEGIN
    SELECT RAISE(ABORT, 'homing_outbox: rows are never changed; insert a new one');
END;
CREATE TRIGGER IF NOT EXISTS homing_outbox_delete BEFORE DELETE ON homing_outbox
WHEN (SELECT pruning FROM homing_meta) = 0
BEGIN
    SELECT RAISE(ABORT, 'homing_outbox: rows are deleted by Homing once they are verified');
END;

-- One row: whose outbox this is and how far it is claimed.
CREATE TABLE IF NOT EXISTS homing_meta (
    one             INTEGER PRIMARY KEY CHECK (one = 1),
    schema_version  INTEGER NOT NULL,
    stream          TEXT NOT NULL,
    instance        BLOB NOT NULL,              -- 16 random bytes
    created_at_ms   INTEGER NOT NULL,
    cluster_id      TEXT,                       -- pinned at the first start of a relay
    claimed_through INTEGER NOT NULL DEFAULT 0, -- rows up to this id are numbered or set aside
    pruning         INTEGER NOT NULL DEFAULT 0  -- 1 only inside a transaction of Homing's that deletes
);

-- One row: which relay owns the outbox. Every write of a relay checks the token.
CREATE TABLE IF NOT EXISTS homing_relay (
    one              INTEGER PRIMARY KEY CHECK (one = 1),
    token            INTEGER NOT NULL,
    owner            TEXT NOT NULL,
    host             TEXT NOT NULL,
    pid              INTEGER NOT NULL,
    pid_started      INTEGER NOT NULL,
    lease_until_ms   INTEGER NOT NULL,
    trouble          TEXT,                      -- why it waits; null when it does not
    trouble_since_ms INTEGER
);

-- The topics' epochs with what is pinned for each.
CREATE TABLE IF NOT EXISTS homing_topic (
    topic        TEXT NOT NULL,
    epoch        INTEGER NOT NULL,
    topic_id     BLOB NOT NULL,
    partitions   INTEGER NOT NULL,
    opened_at_ms INTEGER NOT NULL,
    closed_at_ms INTEGER,
    PRIMARY KEY (topic, epoch)
) WITHOUT ROWID;

-- What is weak about topics' settings, as the relay last saw them.
CREATE TABLE IF NOT EXISTS homing_topic_warning (
    topic    TEXT NOT NULL PRIMARY KEY,
    code     TEXT NOT NULL,
    what     TEXT NOT NULL,
    since_ms INTEGER NOT NULL
) WITHOUT ROWID;

-- Where each lane's numbering stands. verified_seq is the auditor's.
CREATE TABLE IF NOT EXISTS homing_lane (
    topic        TEXT NOT NULL,
    epoch        INTEGER NOT NULL,
    partition    INTEGER NOT NULL,
    next_seq     INTEGER NOT NULL DEFAULT 1,
    settled_seq  INTEGER NOT NULL DEFAULT 0,
    next_offset  INTEGER NOT NULL,
    verified_seq INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (topic, epoch, partition)
) WITHOUT ROWID;

-- The manifest: which rows are a batch, and (below) which seqs they have.
CREATE TABLE IF NOT EXISTS homing_batch (
    batch_id       INTEGER PRIMARY KEY,
    token          INTEGER NOT NULL,
    from_id        INTEGER NOT NULL,
    to_id          INTEGER NOT NULL,
    row_count      INTEGER NOT NULL,
    manifest_at_ms INTEGER NOT NULL,
    settled_at_ms  INTEGER
);
CREATE INDEX IF NOT EXISTS homing_batch_span ON homing_batch (from_id);
CREATE INDEX IF NOT EXISTS homing_batch_unsettled ON homing_batch (batch_id) WHERE settled_at_ms IS NULL;
CREATE TABLE IF NOT EXISTS homing_batch_lane (
    topic           TEXT NOT NULL,
    epoch           INTEGER NOT NULL,
    partition       INTEGER NOT NULL,
    first_seq       INTEGER NOT NULL,
    batch_id        INTEGER NOT NULL,
    row_count       INTEGER NOT NULL,
    takes_null_keys INTEGER NOT NULL,
    first_offset    INTEGER, -- of the first record that is not void
    offsets         BLOB,    -- after settle: runs of offsets and voids in seq order
    PRIMARY KEY (topic, epoch, partition, first_seq)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS homing_batch_lane_batch ON homing_batch_lane (batch_id);

-- Seqs that will never be in Kafka, and the rows that had them.
CREATE TABLE IF NOT EXISTS homing_void (
    topic        TEXT NOT NULL,
    epoch        INTEGER NOT NULL,
    partition    INTEGER NOT NULL,
    seq          INTEGER NOT NULL,
    row_id       INTEGER NOT NULL,
    code         TEXT NOT NULL,
    reason       TEXT NOT NULL,
    voided_at_ms INTEGER NOT NULL,
    PRIMARY KEY (topic, epoch, partition, seq)
) WITHOUT ROWID;

-- Rows that were set aside for good, as they were, with the reason.
CREATE TABLE IF NOT EXISTS homing_dead_letter (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    row_id         INTEGER NOT NULL UNIQUE,
    topic          TEXT NOT NULL,
    message_key    BLOB,
    payload        BLOB,
    payload_text   TEXT,
    headers        TEXT,
    message_id     BLOB,
    created_at_ms  INTEGER NOT NULL,
    code           TEXT NOT NULL,
    reason         TEXT NOT NULL,
    rejected_at_ms INTEGER NOT NULL,
    epoch          INTEGER, -- with partition and seq: the number it had, now void
    partition      INTEGER,
    seq            INTEGER,
    redriven_as    INTEGER  -- the row it became
);

-- Seqs the auditor wants sent again.
CREATE TABLE IF NOT EXISTS homing_repair (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    topic         TEXT NOT NULL,
    epoch         INTEGER NOT NULL,
    partition     INTEGER NOT NULL,
    from_seq      INTEGER NOT NULL,
    to_seq        INTEGER NOT NULL,
    state         TEXT NOT NULL DEFAULT 'wanted', -- wanted, replayed, repaired, irreparable, given_up
    attempts      INTEGER NOT NULL DEFAULT 0,
    reason        TEXT,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS homing_repair_wanted ON homing_repair (id) WHERE state = 'wanted';
";
