//! Auditors to run, crash and ask, beside the relay's bench; shared by the auditor's tests.
#![allow(dead_code, clippy::unwrap_used)]

#[path = "../relay_bench/mod.rs"]
pub mod relay_bench;

use homing::audit::{AuditError, AuditOptions, AuditReport, AuditStatus, Auditor, GapReport};
use homing::consumer::{ConsumerOptions, StartPolicy};
use homing::core::{PayloadCrc, Stamp};
use homing::inbox::{Applied, Inbox};
use homing::testing::Steps;
use homing::{Consumer, Epoch, Outcome, Partition, Seq, Shutdown, SqliteOutbox, StreamName};
use homing_broker::{Count, Fault};
use kafka_protocol::messages::ApiKey;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
pub use relay_bench::{Bench, Seen, wait_until};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

pub fn options() -> AuditOptions {
    AuditOptions {
        grace: Duration::from_millis(300),
        check_every: Duration::from_millis(20),
        topics_every: Duration::from_millis(50),
        ..AuditOptions::default()
    }
}

pub fn auditor(bench: &Bench, options: AuditOptions) -> Auditor {
    Auditor::new(bench.outbox.clone(), bench.kafka.clone(), options).unwrap()
}

/// One audit to the end of what is there.
pub fn audit_once(bench: &Bench, options: AuditOptions) -> AuditReport {
    auditor(bench, options).run_once(&Shutdown::new()).unwrap()
}

pub struct RunningAuditor {
    thread: Option<JoinHandle<Result<AuditReport, AuditError>>>,
    shutdown: Shutdown,
    pub status: Arc<AuditStatus>,
}

impl RunningAuditor {
    pub fn start(bench: &Bench, options: AuditOptions) -> Self {
        let auditor = auditor(bench, options);
        let (status, shutdown) = (auditor.status(), Shutdown::new());
        let stop = shutdown.clone();
        let thread = std::thread::spawn(move || auditor.run(&stop));
        Self { thread: Some(thread), shutdown, status }
    }

    /// Waits until the auditor reports what is wanted.
    pub fn until(&self, what: &str, so: impl Fn(&AuditReport) -> bool) -> AuditReport {
        wait_until(what, || self.status.report().is_some_and(|report| so(&report)));
        self.status.report().unwrap()
    }

    pub fn stop(mut self) -> AuditReport {
        self.shutdown.trigger();
        self.thread.take().unwrap().join().unwrap().unwrap()
    }
}

impl Drop for RunningAuditor {
    fn drop(&mut self) {
        self.shutdown.trigger();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Runs an auditor that dies when it reaches `step` for the `nth` time; says whether it got there.
pub fn crash_at(bench: &Bench, options: AuditOptions, step: &'static str, nth: usize) -> bool {
    let count = AtomicUsize::new(0);
    let reached = Arc::new(AtomicBool::new(false));
    let there = Arc::clone(&reached);
    let steps = Steps::observed_by(move |now| {
        if now == step && count.fetch_add(1, Ordering::SeqCst) + 1 == nth {
            there.store(true, Ordering::SeqCst);
            std::panic::resume_unwind(Box::new("crash"));
        }
    });
    let auditor = auditor(bench, AuditOptions { steps, ..options });
    let ended = std::thread::spawn(move || auditor.run_once(&Shutdown::new())).join();
    assert_eq!(ended.is_err(), reached.load(Ordering::SeqCst), "it ends early only by the crash");
    reached.load(Ordering::SeqCst)
}

/// The broker lies about the next batches it is sent: acknowledged, and not written.
pub fn swallow(bench: &Bench, times: Count) {
    bench.cluster.faults().inject(ApiKey::Produce, Fault::AckWithoutAppend, times);
}

pub fn settle(bench: &Bench, messages: impl IntoIterator<Item = homing::Message>) {
    bench.enqueue(messages);
    bench.wait_settled();
}

/// A record that a test writes itself.
#[derive(Debug, Clone, Default)]
pub struct Written {
    pub partition: i32,
    pub key: Option<Vec<u8>>,
    pub payload: Vec<u8>,
    pub headers: Vec<(&'static str, String)>,
}

/// Writes records without a relay, in order.
pub fn write(bench: &Bench, records: impl IntoIterator<Item = Written>) {
    let mut config = rdkafka::ClientConfig::new();
    config.set("bootstrap.servers", bench.cluster.bootstrap());
    let producer: BaseProducer = config.create().unwrap();
    for written in records {
        let headers = written.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value) })
        });
        let mut record = BaseRecord::<[u8], [u8]>::to(&bench.orders).partition(written.partition);
        record = record.payload(&written.payload).headers(headers);
        if let Some(key) = &written.key {
            record = record.key(key);
        }
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(Duration::from_secs(10)).unwrap();
}

/// The same record once more, as a resend writes it.
pub fn again(seen: &Seen) -> Written {
    let (key, payload) = (seen.key.clone(), seen.payload.clone().unwrap());
    let crc = PayloadCrc::of(key.as_deref(), Some(&payload));
    let stamp = Stamp {
        stream: StreamName::parse("shop").unwrap(),
        epoch: Epoch(seen.epoch),
        partition: Partition(seen.partition),
        seq: Seq(seen.seq),
        crc,
    };
    let headers = vec![("homing-stamp", stamp.to_string()), ("homing-id", seen.id.to_string())];
    Written { partition: seen.partition, key, payload, headers }
}

/// The settled seqs of epoch 1 that are not in the topic, by partition.
pub fn lost(bench: &Bench) -> BTreeMap<i32, Vec<u64>> {
    let records = bench.records();
    let mut lost = BTreeMap::new();
    for lane in bench.outbox.stats().unwrap().lanes {
        let there: std::collections::BTreeSet<u64> =
            records.iter().filter(|r| r.partition == lane.partition.0).map(|r| r.seq).collect();
        let missing: Vec<u64> = (1..=lane.settled).filter(|seq| !there.contains(seq)).collect();
        if !missing.is_empty() {
            lost.insert(lane.partition.0, missing);
        }
    }
    lost
}

/// The seqs of gaps, by partition.
pub fn seqs<'a>(gaps: impl IntoIterator<Item = &'a GapReport>) -> BTreeMap<i32, Vec<u64>> {
    let mut seqs: BTreeMap<i32, Vec<u64>> = BTreeMap::new();
    for gap in gaps {
        seqs.entry(gap.partition).or_default().extend(gap.from..=gap.to);
    }
    seqs.values_mut().for_each(|of| of.sort_unstable());
    seqs
}

pub fn delete_records(bench: &Bench, partition: i32, before: i64) {
    bench.cluster.delete_records(&bench.orders, partition, before);
}

/// The files of an outbox as a backup would have them, opened as another outbox.
pub fn restored_copy(bench: &Bench, name: &str) -> SqliteOutbox {
    let path: PathBuf = bench.dir.path().join(name);
    let db = bench.outbox.connect().unwrap();
    db.execute("VACUUM INTO ?1", [path.to_str().unwrap()]).unwrap();
    SqliteOutbox::open(path, bench.outbox.stream()).unwrap()
}

/// Reads the topic as a consumer group whose handler applies each message once, until all
/// that is there was handled; returns how often each payload had its effect.
pub fn effects(bench: &Bench) -> BTreeMap<usize, usize> {
    let path = bench.dir.path().join("effects.db");
    let db = rusqlite::Connection::open(&path).unwrap();
    Inbox::create(&db).unwrap();
    db.execute_batch("CREATE TABLE IF NOT EXISTS effect (payload INTEGER NOT NULL)").unwrap();
    // Another group each time reads everything again; the inbox knows what was applied.
    static READS: AtomicUsize = AtomicUsize::new(0);
    let group = format!("effects-{}", READS.fetch_add(1, Ordering::SeqCst));
    let options = ConsumerOptions {
        start: StartPolicy::Earliest,
        workers: 1,
        ..ConsumerOptions::new(&group, [bench.orders.as_str()]).unwrap()
    };
    let consumer = Consumer::new(bench.kafka.clone(), options).unwrap();
    let (shutdown, handled) = (Shutdown::new(), Arc::new(AtomicUsize::new(0)));
    let (stop, count) = (shutdown.clone(), Arc::clone(&handled));
    let expected = bench.records().len();
    let running = std::thread::spawn(move || {
        let db = std::sync::Mutex::new(db);
        let handler = move |record: &homing::Record| {
            let mut db = db.lock().unwrap();
            let tx = db.transaction().unwrap();
            if Inbox::apply_once(&tx, "effects", record).unwrap() == Applied::First {
                let payload: i64 = std::str::from_utf8(record.payload().unwrap()).unwrap().parse().unwrap();
                tx.execute("INSERT INTO effect VALUES (?1)", [payload]).unwrap();
            }
            tx.commit().unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            Outcome::Ok
        };
        consumer.run_blocking(handler, &stop).unwrap();
    });
    wait_until("everything is consumed", || handled.load(Ordering::SeqCst) >= expected);
    shutdown.trigger();
    running.join().unwrap();
    let db = rusqlite::Connection::open(&path).unwrap();
    let mut statement = db.prepare("SELECT payload, COUNT(*) FROM effect GROUP BY payload").unwrap();
    let rows =
        statement.query_map([], |row| Ok((row.get::<_, i64>(0)? as usize, row.get::<_, i64>(1)? as usize)));
    rows.unwrap().map(Result::unwrap).collect()
}
