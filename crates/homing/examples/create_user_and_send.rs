//! The classic: create a user and tell the world, without ever doing only one of the two.
//!
//! Run it with `cargo run -p homing --example create_user_and_send`; give it
//! `host:port` of a Kafka broker, or nothing for the embedded one.

use homing::outbox::Outbox;
use homing::{KafkaConfig, Message, Receipt, Relay, RelayOptions, Shutdown, SqliteOutbox, StreamName};
use std::error::Error;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Creates a user, sends "user created", and returns where the message went.
pub fn run(bootstrap: &str, dir: &Path) -> Result<Receipt, Box<dyn Error>> {
    // The outbox lives in the application's own database.
    let outbox = SqliteOutbox::create(dir.join("users.db"), &StreamName::parse("users-db")?)?;
    let mut db = outbox.connect()?;
    db.execute_batch("CREATE TABLE IF NOT EXISTS user (id INTEGER PRIMARY KEY, name TEXT NOT NULL)")?;

    // One transaction: both rows are there, or none.
    let tx = db.transaction()?;
    tx.execute("INSERT INTO user (name) VALUES (?1)", ["ada"])?;
    let id = tx.last_insert_rowid();
    let created = Message::new("users")?
        .key(id.to_string())
        .payload(format!(r#"{{"event":"created","id":{id},"name":"ada"}}"#))
        .header("content-type", "application/json");
    let queued = Outbox::enqueue(&tx, created)?;
    tx.commit()?;

    // From here on the message will arrive, whatever happens to this process.
    // Usually `homing run` relays; here a thread does.
    let mut kafka = KafkaConfig::new(bootstrap);
    kafka.create_topics = true;
    let relay = Relay::new(outbox.clone(), kafka, RelayOptions::default())?;
    let shutdown = Shutdown::new();
    let stop = shutdown.clone();
    let relay = thread::spawn(move || relay.run(&stop));

    // Whoever wants to know asks for the receipt, now or later, in any process.
    let deadline = Instant::now() + Duration::from_secs(60);
    let receipt = loop {
        if let Some(receipt) = outbox.receipt(queued.row_id)? {
            break receipt;
        }
        if Instant::now() > deadline || relay.is_finished() {
            shutdown.trigger();
            relay.join().expect("the relay does not panic")?;
            return Err("not delivered within a minute".into());
        }
        thread::sleep(Duration::from_millis(5));
    };
    shutdown.trigger();
    relay.join().expect("the relay does not panic")?;
    Ok(receipt)
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let options = homing_broker::BrokerOptions { dir: dir.path().join("broker"), ..Default::default() };
    let (bootstrap, _broker) = match std::env::args().nth(1) {
        Some(bootstrap) => (bootstrap, None),
        None => {
            let broker = homing_broker::Broker::start(options)?;
            (broker.addr().to_string(), Some(broker))
        }
    };
    let receipt = run(&bootstrap, dir.path())?;
    println!("{}[{}] offset {} seq {}", receipt.topic, receipt.partition, receipt.offset, receipt.seq);
    Ok(())
}
