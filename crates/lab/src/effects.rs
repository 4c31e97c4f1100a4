//! The consumer's own database: one row for each effect, in the order in which they happened.

use crate::checker::Effect;
use rusqlite::{Connection, Transaction};
use std::path::Path;
use std::time::Duration;

/// Opens the database at `path` as a careful service does, and creates its table.
///
/// # Errors
/// When the database refuses.
pub fn open(path: &Path) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(30))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS effects \
         (id INTEGER PRIMARY KEY AUTOINCREMENT, order_no INTEGER NOT NULL, key BLOB NOT NULL, payload BLOB NOT NULL)",
    )?;
    Ok(connection)
}

/// Writes one effect in the caller's transaction.
///
/// # Errors
/// When the database refuses.
pub fn apply(tx: &Transaction<'_>, order_no: i64, key: &[u8], payload: &[u8]) -> Result<(), rusqlite::Error> {
    tx.prepare_cached("INSERT INTO effects (order_no, key, payload) VALUES (?1, ?2, ?3)")?
        .execute((order_no, key, payload))?;
    Ok(())
}

/// Every effect, in the order in which they happened.
///
/// # Errors
/// When the database cannot be read.
pub fn read(path: &Path) -> Result<Vec<Effect>, rusqlite::Error> {
    let connection = Connection::open(path)?;
    let mut statement = connection.prepare("SELECT order_no, key, payload FROM effects ORDER BY id")?;
    let rows = statement
        .query_map([], |row| Ok(Effect { order_no: row.get(0)?, key: row.get(1)?, payload: row.get(2)? }))?;
    rows.collect()
}

/// How many effects there are.
///
/// # Errors
/// When the database cannot be read.
pub fn count(path: &Path) -> Result<i64, rusqlite::Error> {
    Connection::open(path)?.query_row("SELECT count(*) FROM effects", [], |row| row.get(0))
}
