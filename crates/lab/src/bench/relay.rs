//! A SQLite backlog to the broker, beside draining the rows alone and producing the same bytes alone.

use super::broker::{BrokerProcess, create_topic_at};
use super::produce::{Load, produce_raw};
use super::report::{Aim, Line, rate};
use crate::job::Site;
use homing::Shutdown;
use homing::outbox::{Outbox, SqliteOutbox};
use homing::relay::{Relay, RelayOptions};
use homing_core::{Message, StreamName};
use std::error::Error;
use std::time::{Duration, Instant};

const PARTITIONS: i32 = 6;
const ROWS_A_TRANSACTION: u64 = 1000;

/// Measures how long a relay takes for `records` rows of 200 bytes to the embedded broker.
///
/// # Errors
/// When the database, the broker or a client fails.
pub fn run(records: u64) -> Result<Vec<Line>, Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let broker = BrokerProcess::start(dir.path(), "never")?;
    let what = "relay: SQLite backlog of 200 B rows to the broker";
    Ok(vec![to(&Site::single(&broker.bootstrap), records, 200, what, Aim::AtMost(1.4))?])
}

/// Measures how long a relay takes for `records` rows of `payload_bytes` to a site, beside draining
/// the rows alone and producing the same bytes alone.
///
/// # Errors
/// When the database, the broker or a client fails.
pub fn to(
    site: &Site,
    records: u64,
    payload_bytes: usize,
    what: &str,
    aim: Aim,
) -> Result<Line, Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let outbox = SqliteOutbox::create(dir.path().join("orders.db"), &StreamName::parse("bench")?)?;
    fill(&outbox, records, payload_bytes)?;
    let drain = drain_alone(&outbox)?;
    create_topic_at(site, "alone", PARTITIONS)?;
    create_topic_at(site, "orders", PARTITIONS)?;
    let load =
        Load { records, payload_bytes, partitions: PARTITIONS, linger_ms: 5, headers: true, keys: 10_000 };
    let produce = produce_raw(&site.bootstrap, "alone", &load)?.as_secs_f64();
    let relay = relay_backlog(outbox, site, records)?;
    Ok(Line {
        what: what.to_owned(),
        ours: format!("{} {relay:.2} s", rate(records, relay)),
        beside: format!("drain {drain:.2} s + produce {produce:.2} s"),
        ratio: relay / (drain + produce),
        aim,
    })
}

fn fill(outbox: &SqliteOutbox, records: u64, payload_bytes: usize) -> Result<(), Box<dyn Error>> {
    let mut connection = outbox.connect()?;
    let payload = vec![b'x'; payload_bytes];
    for first in (0..records).step_by(usize::try_from(ROWS_A_TRANSACTION)?) {
        let tx = connection.transaction()?;
        for n in first..(first + ROWS_A_TRANSACTION).min(records) {
            let key = format!("key-{:06}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 10_000);
            Outbox::enqueue(&tx, Message::new("orders")?.key(key).payload(payload.clone()))?;
        }
        tx.commit()?;
    }
    Ok(())
}

/// Reads every column a relay needs, page by page, and drops it.
fn drain_alone(outbox: &SqliteOutbox) -> Result<f64, Box<dyn Error>> {
    let connection = outbox.connect()?;
    let mut page = connection.prepare(
        "SELECT id, topic, message_key, payload, payload_text, headers, message_id, created_at_ms \
         FROM homing_outbox WHERE id > ?1 ORDER BY id LIMIT 10000",
    )?;
    let started = Instant::now();
    let mut last = 0;
    loop {
        let (before, mut bytes) = (last, 0);
        let mut rows = page.query([last])?;
        while let Some(row) = rows.next()? {
            last = row.get(0)?;
            for column in 1..8 {
                use rusqlite::types::ValueRef::{Blob, Text};
                bytes += match row.get_ref(column)? {
                    Text(value) | Blob(value) => value.len(),
                    _ => 0,
                };
            }
        }
        std::hint::black_box(bytes);
        if last == before {
            return Ok(started.elapsed().as_secs_f64());
        }
    }
}

fn relay_backlog(outbox: SqliteOutbox, site: &Site, records: u64) -> Result<f64, Box<dyn Error>> {
    let relay = Relay::new(outbox, site.kafka(), RelayOptions::default())?;
    let (status, shutdown) = (relay.status(), Shutdown::new());
    let stop = shutdown.clone();
    let started = Instant::now();
    let running = std::thread::spawn(move || relay.run(&stop));
    while status.summary().settled < records && !running.is_finished() {
        std::thread::sleep(Duration::from_millis(2));
    }
    let elapsed = started.elapsed().as_secs_f64();
    shutdown.trigger();
    running.join().map_err(|_| "the relay panicked")??;
    Ok(elapsed)
}
