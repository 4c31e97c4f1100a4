//! The application: commits an order and its message in one transaction, over and over.

use crate::checker::Committed;
use homing::outbox::{Outbox, SqliteOutbox};
use homing_core::Message;
use rusqlite::Connection;
use std::error::Error;
use std::path::Path;

/// An application on its own connection, committing seeded orders.
pub struct Orders {
    connection: Connection,
    topic: String,
    random: u64,
    customers: u64,
}

impl Orders {
    /// Opens the application's side of the outbox's database and creates its business table; the
    /// orders go to `topic`.
    ///
    /// # Errors
    /// When the database refuses.
    pub fn open(
        outbox: &SqliteOutbox,
        topic: &str,
        seed: u64,
        customers: u64,
    ) -> Result<Self, Box<dyn Error>> {
        let connection = outbox.connect()?;
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS orders (order_no INTEGER PRIMARY KEY, customer TEXT NOT NULL, payload TEXT NOT NULL)",
        )?;
        Ok(Self { connection, topic: topic.to_owned(), random: seed | 1, customers })
    }

    /// Commits one transaction of `count` orders, each with its message.
    ///
    /// # Errors
    /// When the database refuses; then none of them is committed.
    pub fn commit(&mut self, count: usize) -> Result<(), Box<dyn Error>> {
        let customers: Vec<u64> = (0..count).map(|_| self.next_random() % self.customers).collect();
        let tx = self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        for customer in customers {
            let customer = format!("customer-{customer}");
            tx.execute("INSERT INTO orders (customer, payload) VALUES (?1, '')", [&customer])?;
            let order_no = tx.last_insert_rowid();
            let payload = format!(r#"{{"order_no":{order_no},"customer":"{customer}"}}"#);
            tx.execute("UPDATE orders SET payload = ?2 WHERE order_no = ?1", (order_no, &payload))?;
            Outbox::enqueue(&tx, Message::new(self.topic.as_str())?.key(customer).payload(payload))?;
        }
        tx.commit()?;
        Ok(())
    }

    /// xorshift64: repeats exactly for a seed.
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

/// Every order that the database at `path` holds, in commit order.
///
/// # Errors
/// When the database cannot be read.
pub fn committed(path: &Path) -> Result<Vec<Committed>, rusqlite::Error> {
    let connection = Connection::open(path)?;
    let mut statement =
        connection.prepare("SELECT order_no, customer, payload FROM orders ORDER BY order_no")?;
    let rows = statement.query_map([], |row| {
        Ok(Committed {
            order_no: row.get(0)?,
            key: row.get::<_, String>(1)?.into_bytes(),
            payload: row.get::<_, String>(2)?.into_bytes(),
        })
    })?;
    rows.collect()
}

/// The number of the order that `payload` tells of.
#[must_use]
pub fn order_no(payload: &[u8]) -> Option<i64> {
    serde_json::from_slice::<serde_json::Value>(payload).ok()?.get("order_no")?.as_i64()
}
