//! Sends many messages at once: with a callback each, and as futures on a runtime.
//!
//! Run it with `cargo run -p homing --example async_send`; give it `host:port`
//! of a Kafka broker, or nothing for the embedded one.

use homing::{KafkaConfig, Message, RelayOptions, SqliteOutbox, StreamName};
use homing::{Sender, SenderOptions};
use std::error::Error;
use std::path::Path;
use std::sync::mpsc;

/// Sends 500 messages with callbacks and 500 as futures; returns how many receipts came.
pub fn run(bootstrap: &str, dir: &Path) -> Result<usize, Box<dyn Error>> {
    let outbox = SqliteOutbox::create(dir.join("spool.db"), &StreamName::parse("meter")?)?;
    let mut kafka = KafkaConfig::new(bootstrap);
    kafka.create_topics = true;
    let relay = Some((kafka, RelayOptions::default()));
    let sender = Sender::open(outbox, SenderOptions { relay, ..SenderOptions::default() })?;

    let (done, receipts) = mpsc::channel();
    for n in 0..500 {
        let done = done.clone();
        let message = Message::new("readings")?.key(format!("meter-{}", n % 10)).payload(n.to_string());
        sender.send_with(message, move |result| {
            // The receiver is there until all have come.
            drop(done.send(result));
        })?;
    }
    let mut count = 0;
    for _ in 0..500 {
        receipts.recv()??;
        count += 1;
    }

    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    count += runtime.block_on(async {
        let mut waiting = Vec::new();
        for n in 500..1000 {
            let message = Message::new("readings")?.key(format!("meter-{}", n % 10)).payload(n.to_string());
            waiting.push(sender.send_async(message));
        }
        let mut count = 0;
        for receipt in waiting {
            receipt.await?;
            count += 1;
        }
        Ok::<usize, Box<dyn Error>>(count)
    })?;
    sender.close();
    Ok(count)
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
    println!("{} receipts", run(&bootstrap, dir.path())?);
    Ok(())
}
