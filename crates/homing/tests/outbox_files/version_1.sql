-- Homing's outbox for SQLite, schema version 1.
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

-- How far the auditor has read each partition, and what it knows of it.
CREATE TABLE IF NOT EXISTS homing_audit_partition (
    topic         TEXT NOT NULL,
    partition     INTEGER NOT NULL,
    topic_id      BLOB NOT NULL,
    next_offset   INTEGER NOT NULL, -- the next record to read
    state         BLOB NOT NULL,    -- of the continuity detector
    counts        TEXT NOT NULL,    -- JSON
    updated_at_ms INTEGER NOT NULL,
    PRIMARY KEY (topic, partition)
) WITHOUT ROWID;

-- The gaps the auditor found, closed ones included.
CREATE TABLE IF NOT EXISTS homing_audit_gap (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    topic           TEXT NOT NULL,
    epoch           INTEGER NOT NULL,
    partition       INTEGER NOT NULL,
    from_seq        INTEGER NOT NULL,
    to_seq          INTEGER NOT NULL,
    state           TEXT NOT NULL, -- suspect, confirmed; closed: repaired, late, voided
    opened_at_ms    INTEGER NOT NULL,
    confirmed_at_ms INTEGER,
    closed_at_ms    INTEGER,
    verdicts        TEXT NOT NULL  -- JSON; empty until confirmed
);
CREATE INDEX IF NOT EXISTS homing_audit_gap_open ON homing_audit_gap (id) WHERE closed_at_ms IS NULL;

-- One row: rises with every write of an auditor.
CREATE TABLE IF NOT EXISTS homing_audit (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    version INTEGER NOT NULL
);
INSERT OR IGNORE INTO homing_audit (one, version) VALUES (1, 0);

INSERT INTO homing_meta (one, schema_version, stream, instance, created_at_ms, cluster_id, claimed_through)
VALUES (1, 1, 'shop', x'000102030405060708090a0b0c0d0e0f', 1000, 'cluster', 5);
INSERT INTO homing_relay VALUES (1, 7, 'old', 'h', 1, 1, 0, NULL, NULL);
INSERT INTO homing_topic VALUES ('t', 1, x'07070707070707070707070707070707', 1, 1000, NULL);
INSERT INTO homing_lane VALUES ('t', 1, 0, 6, 4, 4, 2);
-- Rows 1 and 2 were pruned; 3 and 4 are settled, 5 is not; 6 and the last id are new.
INSERT INTO homing_outbox (topic, payload_text) VALUES ('t', '1'), ('t', '2'), ('t', '3'), ('t', '4'), ('t', '5'), ('t', '6');
UPDATE homing_meta SET pruning = 1;
DELETE FROM homing_outbox WHERE id <= 2;
UPDATE homing_meta SET pruning = 0;
INSERT INTO homing_batch VALUES (2, 7, 3, 4, 2, 1000, 2000);
INSERT INTO homing_batch VALUES (3, 7, 5, 5, 1, 3000, NULL);
INSERT INTO homing_batch_lane VALUES ('t', 1, 0, 3, 2, 2, 1, 2, x'0203');
INSERT INTO homing_batch_lane VALUES ('t', 1, 0, 5, 3, 1, 1, NULL, NULL);
INSERT INTO homing_outbox (id, topic, payload_text) VALUES (9223372036854775807, 't', 'last');
