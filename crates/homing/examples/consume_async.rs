//! Works through a topic with async handlers, and applies each message once through the inbox.
//!
//! `consume_async BOOTSTRAP TOPIC GROUP DATABASE`; ends on Ctrl-C.

use homing::consumer::{Consumer, ConsumerOptions, Outcome, Record};
use homing::inbox::{Applied, Inbox};
use homing::{KafkaConfig, Shutdown};
use rusqlite::{Connection, TransactionBehavior};
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

type Anything = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Anything> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [bootstrap, topic, group, database] = args.as_slice() else {
        return Err("usage: consume_async BOOTSTRAP TOPIC GROUP DATABASE".into());
    };
    let db = Connection::open(database)?;
    db.busy_timeout(Duration::from_secs(10))?;
    db.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         CREATE TABLE IF NOT EXISTS seen (key TEXT PRIMARY KEY, times INTEGER NOT NULL);",
    )?;
    Inbox::create(&db)?;
    let (db, group_name) = (Arc::new(Mutex::new(db)), group.clone());

    let shutdown = Shutdown::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.trigger();
        }
    });

    let consumer =
        Consumer::new(KafkaConfig::new(bootstrap.as_str()), ConsumerOptions::new(group, [topic.as_str()])?)?;
    let handler = move |record: Arc<Record>| {
        let (db, group) = (Arc::clone(&db), group_name.clone());
        async move {
            // A call to another service would be awaited here.
            let done = tokio::task::spawn_blocking(move || apply(&db, &group, &record)).await;
            Outcome::from(done.unwrap_or_else(|error| Err(error.into())))
        }
    };
    // The poll thread blocks, so it gets a thread of its own; handlers run on this runtime.
    let summary = tokio::task::spawn_blocking(move || consumer.run_async(handler, &shutdown)).await??;
    println!("{} finished", summary.counts.finished);
    Ok(())
}

/// The effect and the note that it happened, in one transaction: both or neither.
fn apply(db: &Mutex<Connection>, group: &str, record: &Record) -> Result<(), Anything> {
    let mut db = db.lock().map_err(|_| "another handler panicked")?;
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if Inbox::apply_once(&tx, group, record)? == Applied::First {
        let key = String::from_utf8_lossy(record.key().unwrap_or_default());
        tx.execute(
            "INSERT INTO seen VALUES (?1, 1) ON CONFLICT (key) DO UPDATE SET times = times + 1",
            [key],
        )?;
    }
    Ok(tx.commit()?)
}
