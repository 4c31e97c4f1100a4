//! The triggers that refuse, at the application's INSERT, what could never be sent.
//!
//! The late check in [`rows`](crate::outbox::rows) stays: an outbox that was made before these
//! triggers has rows they have not seen.

/// The triggers; each text names the column and what to do.
///
/// An id of one's own below the highest would never be looked at, one above would
/// bring the end of all ids nearer (the highest possible one refuses all later rows).
/// The database's own is always the next one: `AUTOINCREMENT` gives the highest id
/// that ever was, plus one, and `sqlite_sequence` is written at the statement's end.
pub(super) const CHECKS: &str = r#"
CREATE TRIGGER IF NOT EXISTS homing_outbox_check BEFORE INSERT ON homing_outbox
BEGIN
    SELECT CASE
    WHEN CAST(NEW.topic AS TEXT) IN ('', '.', '..') OR length(CAST(NEW.topic AS TEXT)) > 249
        OR CAST(NEW.topic AS TEXT) GLOB '*[^a-zA-Z0-9._-]*'
        THEN RAISE(ABORT, 'homing_outbox: topic must be 1 to 249 of [a-zA-Z0-9._-] and neither . nor ..')
    WHEN typeof(NEW.message_key) = 'real'
        THEN RAISE(ABORT, 'homing_outbox: message_key must be bytes, text or an integer')
    WHEN NEW.payload IS NOT NULL AND NEW.payload_text IS NOT NULL
        THEN RAISE(ABORT, 'homing_outbox: payload and payload_text are both set; one of them is the payload')
    WHEN typeof(NEW.payload) = 'real'
        THEN RAISE(ABORT, 'homing_outbox: payload must be bytes, text or an integer')
    WHEN NEW.message_id IS NOT NULL AND NOT (
            (typeof(NEW.message_id) = 'blob' AND length(NEW.message_id) = 16)
            OR (length(CAST(NEW.message_id AS TEXT)) IN (16, 32, 36, 38, 45)
                AND typeof(NEW.message_id) IN ('text', 'blob')))
        THEN RAISE(ABORT, 'homing_outbox: message_id must be a UUID, as 16 bytes or as text')
    WHEN COALESCE(length(CAST(NEW.message_key AS BLOB)), 0) + COALESCE(length(CAST(NEW.payload AS BLOB)), 0)
        + COALESCE(length(CAST(NEW.payload_text AS BLOB)), 0)
        + COALESCE(length(CAST(NEW.headers AS BLOB)), 0) > 67108864
        THEN RAISE(ABORT, 'homing_outbox: message_key, payload and headers are more than 64 MiB together')
    END;
END;
CREATE TRIGGER IF NOT EXISTS homing_outbox_headers BEFORE INSERT ON homing_outbox
WHEN NEW.headers IS NOT NULL
BEGIN
    SELECT CASE
    WHEN NOT json_valid(CAST(NEW.headers AS TEXT))
        THEN RAISE(ABORT, 'homing_outbox: headers is not valid JSON')
    WHEN json_type(CAST(NEW.headers AS TEXT)) <> 'object'
        THEN RAISE(ABORT, 'homing_outbox: headers must be one JSON object')
    WHEN EXISTS (SELECT 1 FROM json_each(CAST(NEW.headers AS TEXT)) WHERE key = '')
        THEN RAISE(ABORT, 'homing_outbox: headers has a name that is empty')
    WHEN EXISTS (SELECT 1 FROM json_each(CAST(NEW.headers AS TEXT)) WHERE lower(substr(key, 1, 7)) = 'homing-')
        THEN RAISE(ABORT, 'homing_outbox: headers has a name that starts with homing-; those are Homing''s own')
    WHEN EXISTS (SELECT 1 FROM json_each(CAST(NEW.headers AS TEXT)) h
            WHERE h.type = 'object' AND json_type(h.value, '$.base64') IS NOT 'text')
        THEN RAISE(ABORT, 'homing_outbox: headers has an object that is not {"base64": "..."}')
    END;
END;
CREATE TRIGGER IF NOT EXISTS homing_outbox_insert AFTER INSERT ON homing_outbox
WHEN NEW.id <> 1 + MAX(COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'homing_outbox'), 0),
                       COALESCE((SELECT MAX(id) FROM homing_outbox WHERE id < NEW.id), 0))
BEGIN
    SELECT RAISE(ABORT, 'homing_outbox: leave out the id, it is given by the database');
END;
-- A changed or deleted row could not be sent again under its number.
CREATE TRIGGER IF NOT EXISTS homing_outbox_update BEFORE UPDATE ON homing_outbox
BEGIN
    SELECT RAISE(ABORT, 'homing_outbox: rows are never changed; insert a new one');
END;
CREATE TRIGGER IF NOT EXISTS homing_outbox_delete BEFORE DELETE ON homing_outbox
WHEN (SELECT pruning FROM homing_meta) = 0
BEGIN
    SELECT RAISE(ABORT, 'homing_outbox: rows are deleted by Homing once they are verified');
END;
"#;
