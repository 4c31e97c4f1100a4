//! One message way on the shared secure cluster: an outbox, a topic, a relay, and what arrived.

use homing::kafka::client_value::ClientValue;
use homing::outbox::RelayStats;
use homing::{
    KafkaConfig, Message, Outbox, Relay, RelayError, RelayOptions, RelaySummary, Shutdown, SqliteOutbox,
    StreamName,
};
use homing_lab::checker::WireRecord;
use homing_lab::cluster::acls::{Operation, Resource};
use homing_lab::cluster::secure::{APP, Access};
use homing_lab::cluster::{Cluster, ClusterOptions};
use homing_lab::wire;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub const LONG: Duration = Duration::from_secs(60);
/// What a relay needs; each of the first two implies `Describe`.
pub const WRITER: &[Operation] = &[Operation::Write, Operation::Read, Operation::DescribeConfigs];

/// The cluster of all tests here, and one test's right to break it.
pub fn alone() -> (&'static Cluster, MutexGuard<'static, ()>) {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = Cluster::shared_as(ClusterOptions { secure: true, ..ClusterOptions::default() });
    cluster.start_all().unwrap();
    (cluster, alone)
}

pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < deadline, "it never came true that {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub struct Way {
    pub cluster: &'static Cluster,
    pub topic: String,
    pub kafka: KafkaConfig,
    pub outbox: SqliteOutbox,
    pub dir: tempfile::TempDir,
    count: u32,
    relay: Option<Running>,
}

struct Running {
    thread: JoinHandle<Result<RelaySummary, RelayError>>,
    stop: Shutdown,
}

/// How Homing reaches the cluster; passwords and certificates by file in `dir`.
pub fn kafka(cluster: &Cluster, access: Access<'_>, dir: &std::path::Path) -> KafkaConfig {
    let mut settings = cluster.client_settings(access);
    let mut kafka = KafkaConfig::new(settings.remove("bootstrap.servers").unwrap());
    for (key, value) in settings {
        let value = match key {
            "sasl.password" => {
                std::fs::write(dir.join("password"), value + "\n").unwrap();
                ClientValue::File(dir.join("password"))
            }
            "ssl.certificate.location" | "ssl.key.location" => {
                let own = dir.join(key);
                std::fs::copy(&value, &own).unwrap();
                own.to_str().unwrap().into()
            }
            _ => value.into(),
        };
        kafka.client.insert(key.to_owned(), value);
    }
    kafka
}

impl Way {
    /// A topic of three partitions with these replicas, which the user [`APP`] may write to.
    pub fn new(cluster: &'static Cluster, access: Access<'_>, replicas: i16, min_insync: &str) -> Self {
        let way = Self::without_topic(cluster, access);
        cluster.create_topic(&way.topic, 3, replicas, &[("min.insync.replicas", min_insync)]).unwrap();
        cluster.allow(APP, Resource::Topic(&way.topic), WRITER).unwrap();
        way
    }

    pub fn without_topic(cluster: &'static Cluster, access: Access<'_>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::tempdir().unwrap();
        let stream = StreamName::parse("shop").unwrap();
        let outbox = SqliteOutbox::create(dir.path().join("o.db"), &stream).unwrap();
        let topic = format!("way-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let kafka = kafka(cluster, access, dir.path());
        Self { cluster, topic, kafka, outbox, dir, count: 0, relay: None }
    }

    /// Commits `rows` messages of a few keys, numbered on, each of `bytes` bytes at least.
    pub fn enqueue(&mut self, rows: u32, bytes: usize) {
        let mut db = self.outbox.connect().unwrap();
        let tx = db.transaction().unwrap();
        for _ in 0..rows {
            self.count += 1;
            let payload = format!("{:0bytes$}", self.count);
            let key = format!("k{}", self.count % 7);
            let message = Message::new(&self.topic).unwrap().key(key).payload(payload);
            Outbox::enqueue(&tx, &message).unwrap();
        }
        tx.commit().unwrap();
        self.outbox.wake();
    }

    pub fn start(&mut self) {
        let options = RelayOptions {
            request_timeout: Duration::from_secs(2),
            pins_every: Duration::from_secs(1),
            ..RelayOptions::default()
        };
        let relay = Relay::new(self.outbox.clone(), self.kafka.clone(), options).unwrap();
        let stop = Shutdown::new();
        let told = stop.clone();
        let thread = std::thread::spawn(move || relay.run(&told));
        self.relay = Some(Running { thread, stop });
    }

    pub fn stop(&mut self) -> Result<RelaySummary, RelayError> {
        let Running { thread, stop } = self.relay.take().expect("the relay runs");
        stop.trigger();
        thread.join().unwrap()
    }

    /// Waits for the relay to end by itself.
    pub fn ends(&mut self) -> RelayError {
        until("the relay stops", || self.relay.as_ref().unwrap().thread.is_finished());
        self.stop().unwrap_err()
    }

    /// What another process sees of the relay.
    pub fn seen(&self) -> Option<RelayStats> {
        self.outbox.stats().unwrap().relay
    }

    /// Waits until another process sees the relay wait for a reason with this code and these words.
    pub fn waits_for(&self, code: Option<&str>, words: &str) {
        let mut last = None;
        let deadline = Instant::now() + LONG;
        loop {
            let seen = self.seen();
            if let Some(relay) = &seen
                && relay.trouble.as_deref().is_some_and(|text| text.contains(words))
                && relay.trouble_code() == code
            {
                assert!(relay.trouble_since_ms.is_some());
                println!("seen: {}", relay.trouble.as_deref().unwrap());
                return;
            }
            if last != seen.as_ref().map(|relay| relay.trouble.clone()) {
                last = seen.map(|relay| relay.trouble);
                println!("  on the way: {last:?}");
            }
            assert!(Instant::now() < deadline, "never waited for {code:?} {words}; last {last:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until all is settled and no reason to wait is left.
    pub fn goes_on(&self) {
        until("everything is settled and the reason to wait is gone", || {
            let stats = self.outbox.stats().unwrap();
            stats.unclaimed + stats.unsettled == 0 && stats.relay.unwrap().trouble.is_none()
        });
    }

    pub fn records(&self) -> Vec<WireRecord> {
        wire::read_topic(&self.cluster.bootstrap(), &self.topic, LONG).unwrap()
    }

    /// Every row arrived, none was set aside, each lane is in order without a hole, and what
    /// arrived twice is the same to the byte.
    pub fn assert_whole(&self) {
        let stats = self.outbox.stats().unwrap();
        assert_eq!((stats.dead_letters, stats.voided), (0, 0), "nothing was set aside");
        let mut lanes: BTreeMap<i32, (u64, u32)> = BTreeMap::new();
        let mut known: BTreeMap<String, WireRecord> = BTreeMap::new();
        for record in self.records() {
            if let Some(first) = known.get(&record.id) {
                assert_eq!((&first.stamp, &first.payload), (&record.stamp, &record.payload), "a resend");
                continue;
            }
            let stamp = homing_core::Stamp::decode(record.stamp.as_bytes()).unwrap();
            let number: u32 = String::from_utf8(record.payload.clone()).unwrap().parse().unwrap();
            let (seq, before) = lanes.entry(record.partition).or_default();
            assert_eq!(stamp.seq.0, *seq + 1, "partition {} has no hole", record.partition);
            assert!(number > *before, "{number} after {before} in partition {}", record.partition);
            (*seq, *before) = (stamp.seq.0, number);
            known.insert(record.id.clone(), record);
        }
        assert_eq!(known.len(), self.count as usize, "every row arrived");
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        if let Some(running) = self.relay.take() {
            running.stop.trigger();
            // A failing test has its own message.
            let _ended = running.thread.join();
        }
    }
}
