//! The SQLite tables of an outbox, as SQL text.

use super::checks::CHECKS;
use homing_core::StreamName;

/// The layout this code reads and writes; rises with every change of the tables.
pub const SCHEMA_VERSION: i64 = 2;

/// The script that creates an outbox for `stream` in a SQLite database.
///
/// Running it again changes nothing. It needs SQLite 3.38 or newer; Debian's
/// `sqlite3` shell and Python's `sqlite3` module both do.
pub fn schema_sql(stream: &StreamName) -> String {
    // A stream's name holds only [a-z0-9._-], so it needs no escaping.
    let meta = META.replace("{stream}", stream.as_str());
    format!(
        "-- Homing's outbox for SQLite, schema version {SCHEMA_VERSION}.\nPRAGMA journal_mode = WAL;\n\n\
         {ROWS}{CHECKS}{TABLES}{NEW_TABLES}{INDEXES}{}\n{meta}",
        super::audit::TABLES
    )
}

const META: &str = "\
INSERT OR IGNORE INTO homing_meta (one, schema_version, stream, instance, created_at_ms)
VALUES (1, 2, '{stream}', randomblob(16), CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER));
";

const ROWS: &str = r"-- What the application writes. Rows are inserted once and never changed; Homing
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
";

const TABLES: &str = r"
-- One row: whose outbox this is and how far it is claimed.
CREATE TABLE IF NOT EXISTS homing_meta (
    one             INTEGER PRIMARY KEY CHECK (one = 1),
    schema_version  INTEGER NOT NULL,
    stream          TEXT NOT NULL,
    instance        BLOB NOT NULL,              -- 16 random bytes
    created_at_ms   INTEGER NOT NULL,
    cluster_id      TEXT,                       -- pinned at the first start of a relay
    claimed_through INTEGER NOT NULL DEFAULT 0, -- rows up to this id are numbered, held or set aside
    pruning         INTEGER NOT NULL DEFAULT 0, -- 1 only inside a transaction of Homing's that deletes
    kept_rows       INTEGER NOT NULL DEFAULT 0  -- rows up to claimed_through that are still there
);

-- One row: which relay owns the outbox. Every write of a relay checks token and owner.
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
    next_offset  INTEGER NOT NULL,           -- no unsettled record of ours is below
    verified_seq INTEGER NOT NULL DEFAULT 0,
    accepted_seq INTEGER NOT NULL DEFAULT 0, -- a person let go what is not verified up to here
    pruned_seq   INTEGER NOT NULL DEFAULT 0, -- the rows up to here are deleted or numbered anew
    PRIMARY KEY (topic, epoch, partition)
) WITHOUT ROWID;

-- The manifest: which rows are a batch, and (below) which seqs they have. A batch's rows are
-- those of its ids that are not in homing_held_row; those of a listed batch are listed there.
CREATE TABLE IF NOT EXISTS homing_batch (
    batch_id        INTEGER PRIMARY KEY,
    token           INTEGER NOT NULL,
    from_id         INTEGER NOT NULL,
    to_id           INTEGER NOT NULL,
    row_count       INTEGER NOT NULL,
    manifest_at_ms  INTEGER NOT NULL,
    settled_at_ms   INTEGER,                    -- when its last part was settled
    row_bytes       INTEGER NOT NULL DEFAULT 0, -- of its rows; 0: not known
    listed          INTEGER NOT NULL DEFAULT 0,
    unsettled_parts INTEGER NOT NULL DEFAULT 0
);
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
    settled_at_ms   INTEGER,
    rows_gone       INTEGER NOT NULL DEFAULT 0, -- 0: its rows are there, 1: deleted, 2: numbered anew
    PRIMARY KEY (topic, epoch, partition, first_seq)
) WITHOUT ROWID;

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
";

/// The tables that version 1 did not have.
pub(super) const NEW_TABLES: &str = r"
-- Topics that are held back: their rows are not numbered until they are there, or there again.
CREATE TABLE IF NOT EXISTS homing_held (
    topic     TEXT NOT NULL PRIMARY KEY,
    from_id   INTEGER NOT NULL, -- no row of it that waits has a lower id
    code      TEXT NOT NULL,
    reason    TEXT NOT NULL,
    since_ms  INTEGER NOT NULL,
    row_count INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

-- The rows of held topics, and after that the batches they went in.
CREATE TABLE IF NOT EXISTS homing_held_row (
    row_id    INTEGER PRIMARY KEY,
    topic     TEXT NOT NULL,
    batch_id  INTEGER,                   -- null while it waits
    replanned INTEGER NOT NULL DEFAULT 0 -- it had another number before
);

-- What people order to be done with topics.
CREATE TABLE IF NOT EXISTS homing_topic_order (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    topic         TEXT NOT NULL,
    action        TEXT NOT NULL, -- close, reopen, reopen_kept, discard
    by_whom       TEXT NOT NULL,
    why           TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    done_at_ms    INTEGER,
    result        TEXT
);

-- Seqs that can never be verified and were let go, by whom and why. Kept for ever.
CREATE TABLE IF NOT EXISTS homing_acceptance (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    topic     TEXT NOT NULL,
    epoch     INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    from_seq  INTEGER NOT NULL,
    to_seq    INTEGER NOT NULL,
    by_whom   TEXT NOT NULL,
    why       TEXT NOT NULL,
    at_ms     INTEGER NOT NULL
);
";

pub(super) const INDEXES: &str = r"
CREATE INDEX IF NOT EXISTS homing_batch_live ON homing_batch (from_id) WHERE listed = 0;
CREATE INDEX IF NOT EXISTS homing_batch_unsettled ON homing_batch (batch_id) WHERE settled_at_ms IS NULL;
CREATE INDEX IF NOT EXISTS homing_batch_open ON homing_batch (from_id) WHERE settled_at_ms IS NULL;
CREATE INDEX IF NOT EXISTS homing_batch_lane_batch ON homing_batch_lane (batch_id);
CREATE INDEX IF NOT EXISTS homing_batch_lane_unsettled
    ON homing_batch_lane (topic, epoch, partition, first_seq) WHERE settled_at_ms IS NULL;
CREATE INDEX IF NOT EXISTS homing_dead_letter_waiting ON homing_dead_letter (id) WHERE redriven_as IS NULL;
CREATE INDEX IF NOT EXISTS homing_repair_wanted ON homing_repair (id) WHERE state = 'wanted';
CREATE INDEX IF NOT EXISTS homing_held_row_waiting ON homing_held_row (topic, row_id) WHERE batch_id IS NULL;
CREATE INDEX IF NOT EXISTS homing_held_row_batch ON homing_held_row (batch_id) WHERE batch_id IS NOT NULL;
";
