//! Sends a few messages one after the other, each with its receipt.
//!
//! Run it with `cargo run -p homing --example sync_send`; give it `host:port`
//! of a Kafka broker, or nothing for the embedded one.

use homing::{KafkaConfig, Message, Receipt, RelayOptions, SqliteOutbox, StreamName};
use homing::{Sender, SenderOptions};
use std::error::Error;
use std::path::Path;

/// Sends three messages and returns their receipts.
pub fn run(bootstrap: &str, dir: &Path) -> Result<Vec<Receipt>, Box<dyn Error>> {
    let outbox = SqliteOutbox::create(dir.join("spool.db"), &StreamName::parse("greeter")?)?;
    let mut kafka = KafkaConfig::new(bootstrap);
    kafka.create_topics = true;
    let relay = Some((kafka, RelayOptions::default()));
    let sender = Sender::open(outbox, SenderOptions { relay, ..SenderOptions::default() })?;
    let mut receipts = Vec::new();
    for n in 1..=3 {
        let message = Message::new("greetings")?.key("ada").payload(format!("hello {n}"));
        receipts.push(sender.send(message)?);
    }
    sender.close();
    Ok(receipts)
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
    for receipt in run(&bootstrap, dir.path())? {
        println!("{}[{}] offset {} seq {}", receipt.topic, receipt.partition, receipt.offset, receipt.seq);
    }
    Ok(())
}
