//! The orders of both sides: the business table, the effects, and how fast they come.

use crate::exit::Failure;
use homing::Shutdown;
use rusqlite::{Connection, OpenFlags, Transaction};
use std::path::Path;
use std::time::{Duration, Instant};

/// Our orders and their outbox.
pub const DATABASE: &str = "orders.db";
/// Our consumer's effects and its inbox.
pub const EFFECTS: &str = "effects.db";
/// The usual side's orders.
pub const USUAL_DATABASE: &str = "usual-orders.db";
/// The usual side's effects.
pub const USUAL_EFFECTS: &str = "usual-effects.db";
/// Our topic.
pub const TOPIC: &str = "orders";
/// The usual side's topic.
pub const USUAL_TOPIC: &str = "usual-orders";
/// Customers; an order's key is its customer.
const CUSTOMERS: i64 = 50;

/// An order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its number: rises as orders are committed.
    pub number: i64,
    /// Whose it is; the message's key.
    pub customer: String,
    /// The message's payload.
    pub payload: String,
}

/// Opens a database as a careful service does.
pub fn open(path: &Path) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(30))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

/// Creates the business table.
pub fn create_orders(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS orders \
         (number INTEGER PRIMARY KEY, customer TEXT NOT NULL, payload TEXT NOT NULL)",
    )
}

/// Creates the table of effects; one order may stand in it twice, so that it can be seen.
pub fn create_effects(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS effects \
         (id INTEGER PRIMARY KEY, number INTEGER NOT NULL, customer TEXT NOT NULL, payload TEXT NOT NULL)",
    )
}

/// Inserts the next order in the caller's transaction.
pub fn insert_next(tx: &Transaction<'_>) -> Result<Order, rusqlite::Error> {
    let last: Option<i64> = tx.query_row("SELECT max(number) FROM orders", [], |row| row.get(0))?;
    let number = last.unwrap_or(0) + 1;
    let customer = format!("customer-{}", number * 7919 % CUSTOMERS);
    let payload = format!(r#"{{"order":{number},"customer":"{customer}","cents":{}}}"#, number * 37 % 10_000);
    tx.execute("INSERT INTO orders VALUES (?1, ?2, ?3)", (number, &customer, &payload))?;
    Ok(Order { number, customer, payload })
}

/// Writes one effect in the caller's transaction.
pub fn apply(tx: &Transaction<'_>, key: &[u8], payload: &[u8]) -> Result<(), Failure> {
    let order: serde_json::Value = serde_json::from_slice(payload)?;
    let number = order["order"].as_i64().ok_or_else(|| Failure::new("the payload names no order"))?;
    let (customer, payload) = (String::from_utf8_lossy(key), String::from_utf8_lossy(payload));
    tx.prepare_cached("INSERT INTO effects (number, customer, payload) VALUES (?1, ?2, ?3)")?
        .execute((number, customer, payload))?;
    Ok(())
}

/// Rows of `table` in the database at `path`; 0 while there is none.
pub fn count(path: &Path, table: &str) -> u64 {
    let opened = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY);
    let counted = opened.and_then(|connection| {
        connection.busy_timeout(Duration::from_millis(200))?;
        connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0))
    });
    counted.ok().and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
}

/// Every row of `table`, in the order in which they were written.
pub fn read(path: &Path, table: &str) -> Result<Vec<Order>, rusqlite::Error> {
    let connection = open(path)?;
    let mut statement =
        connection.prepare(&format!("SELECT number, customer, payload FROM {table} ORDER BY rowid"))?;
    let rows = statement.query_map([], |row| {
        Ok(Order { number: row.get(0)?, customer: row.get(1)?, payload: row.get(2)? })
    })?;
    rows.collect()
}

/// Calls `commit` so many times a second until told to stop.
pub fn at_rate(
    rate: u64,
    shutdown: &Shutdown,
    mut commit: impl FnMut() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let pause = Duration::from_secs(1) / u32::try_from(rate.max(1)).unwrap_or(u32::MAX);
    let mut due = Instant::now();
    while !shutdown.wait(due.saturating_duration_since(Instant::now())) {
        commit()?;
        // What a slow disk holds up is not made up for.
        due = (due + pause).max(Instant::now());
    }
    Ok(())
}
