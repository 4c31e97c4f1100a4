//! The code most teams write, to compare with; everything in it is ordinary, and none of it is safe.
//!
//! Application: the order is committed, then sent; the send is not waited for
//! (catalogue X01, P07, P08). Consumer: offsets are committed by the client
//! while records wait in a worker pool (C01). Everything not named here is the
//! client's default; an orderly stop flushes and drains, as careful code does.

use super::orders;
use crate::exit::{Ending, Failure, Outcome};
use homing::Shutdown;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const WORKERS: usize = 4;

/// Commits orders and sends them without waiting, until told to stop.
pub fn application(dir: &Path, bootstrap: &str, rate: u64, shutdown: &Shutdown) -> Ending {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("log_level", "0")
        .create()?;
    let mut connection = orders::open(&dir.join(orders::USUAL_DATABASE))?;
    orders::at_rate(rate, shutdown, || {
        let tx = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let order = orders::insert_next(&tx)?;
        tx.commit()?;
        let record = BaseRecord::to(orders::USUAL_TOPIC).key(&order.customer).payload(&order.payload);
        // Fire and forget: what the producer says comes too late to take the order back.
        let _ = producer.send(record);
        Ok(())
    })?;
    producer.flush(Duration::from_secs(10))?;
    Ok(Outcome::Fine)
}

/// One record on its way to a worker.
struct Job {
    key: Vec<u8>,
    payload: Vec<u8>,
}

/// Reads with auto-commit and hands records to a worker pool, until told to stop.
pub fn consumer(dir: &Path, bootstrap: &str, shutdown: &Shutdown) -> Ending {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "usual-billing")
        // As our consumer: it comes back at once after a kill.
        .set("group.instance.id", "usual-billing-1")
        .set("enable.auto.commit", "true")
        .set("auto.commit.interval.ms", "1000")
        .set("auto.offset.reset", "earliest")
        .set("log_level", "0")
        .create()?;
    consumer.subscribe(&[orders::USUAL_TOPIC])?;
    let (jobs, taken) = channel();
    let taken = Arc::new(Mutex::new(taken));
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (path, taken) = (dir.join(orders::USUAL_EFFECTS), Arc::clone(&taken));
            std::thread::spawn(move || work(&path, &taken))
        })
        .collect();
    while !shutdown.is_triggered() {
        // Errors here are passing ones: the broker is restarted now and then.
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else { continue };
        let owned = |bytes: Option<&[u8]>| bytes.unwrap_or_default().to_vec();
        if jobs.send(Job { key: owned(message.key()), payload: owned(message.payload()) }).is_err() {
            return Err(Failure::new("every worker has ended"));
        }
    }
    drop(jobs);
    for worker in workers {
        worker.join().map_err(|_| Failure::new("a worker panicked"))??;
    }
    // The group's position at the end; that it fails when nothing was read is no matter.
    let _ = consumer.commit_consumer_state(CommitMode::Sync);
    Ok(Outcome::Fine)
}

fn work(path: &Path, jobs: &Mutex<Receiver<Job>>) -> Result<(), Failure> {
    let mut connection = orders::open(path)?;
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return Ok(()) };
        let tx = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        orders::apply(&tx, &job.key, &job.payload)?;
        tx.commit()?;
    }
}
