//! The cluster under test: the Apache Kafka that `HOMING_TEST_BOOTSTRAP` names, or an embedded broker.
//!
//! A given cluster is shared by all tests of all runs: topics and groups take their names from
//! [`Cluster::name`], and nobody expects it to be empty. What a test does to a broker it does
//! through a [`GoBetween`], in front of either.
#![allow(dead_code, clippy::unwrap_used)] // part of test binaries; each uses some of it

mod frames;
mod go_between;

pub use go_between::{Faults, GoBetween};
use homing::KafkaConfig;
use homing_broker::{Broker, BrokerOptions, FlushPolicy, RunningBroker};
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

pub const LONG: Duration = Duration::from_secs(60);

/// A cluster for one test; an embedded broker ends with it.
pub struct Cluster {
    /// How clients reach it, and how topics are replicated there.
    pub config: KafkaConfig,
    name: String,
    /// The brokers' own addresses, whatever is in front of them.
    brokers: Vec<String>,
    /// One client for each group asked about: opening and closing one takes a second.
    bare: Mutex<BTreeMap<String, Arc<BaseConsumer>>>,
    /// Closed before the broker behind it.
    between: Option<GoBetween>,
    embedded: Option<Embedded>,
}

/// A broker of our own; it can be stopped and come back at its address.
struct Embedded {
    broker: Mutex<Option<RunningBroker>>,
    addr: SocketAddr,
    dir: tempfile::TempDir,
}

impl Cluster {
    /// The given cluster, or a new broker in a temporary directory.
    pub fn start() -> Self {
        static GIVEN: OnceLock<Option<KafkaConfig>> = OnceLock::new();
        let given = || std::env::var("HOMING_TEST_BOOTSTRAP").ok().map(replicated);
        match GIVEN.get_or_init(given) {
            Some(config) => Self::at(config.clone(), None),
            None => Self::embedded(),
        }
    }

    /// The same behind a go-between, for tests that do something to requests and connections.
    pub fn between() -> Self {
        let mut cluster = Self::start();
        let between = GoBetween::before(cluster.bootstrap());
        between.bootstrap().clone_into(&mut cluster.config.bootstrap);
        cluster.between = Some(between);
        cluster
    }

    /// For tests that need more of our broker than Kafka's protocol; their names begin with `embedded_`.
    pub fn embedded() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let broker = serve(dir.path(), SocketAddr::from(([127, 0, 0, 1], 0)));
        let addr = broker.addr();
        let embedded = Embedded { broker: Mutex::new(Some(broker)), addr, dir };
        Self::at(KafkaConfig::new(addr.to_string()), Some(embedded))
    }

    fn at(config: KafkaConfig, embedded: Option<Embedded>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = uuid::Uuid::now_v7().simple().to_string();
        let name = format!("c{}-{}", &unique[20..], COUNT.fetch_add(1, Ordering::Relaxed));
        let brokers = config.bootstrap.split(',').map(str::to_owned).collect();
        Self { config, name, brokers, bare: Mutex::default(), between: None, embedded }
    }

    pub fn bootstrap(&self) -> &str {
        &self.config.bootstrap
    }

    pub fn is_embedded(&self) -> bool {
        self.embedded.is_some()
    }

    fn ours(&self) -> &Embedded {
        self.embedded.as_ref().expect("only tests named embedded_ come here")
    }

    fn go_between(&self) -> &GoBetween {
        self.between.as_ref().expect("the test begins with Cluster::between")
    }

    /// What happens to requests.
    pub fn faults(&self) -> &Faults {
        self.go_between().faults()
    }

    /// Clients that are connected now are given no records any more; see [`GoBetween::give_nothing`].
    pub fn give_nothing(&self) {
        self.go_between().give_nothing();
    }

    /// Commits with longer metadata are refused.
    pub fn limit_metadata(&self, bytes: usize) {
        self.go_between().limit_metadata(bytes);
    }

    /// No broker can be reached until [`mend`](Self::mend).
    pub fn cut(&self) {
        self.go_between().cut();
    }

    pub fn mend(&self) {
        self.go_between().mend();
    }

    /// Stops our broker.
    pub fn stop_broker(&self) {
        self.ours().broker.lock().unwrap().take().unwrap().stop();
    }

    /// Starts it again, in its directory and at its address.
    pub fn start_broker_again(&self) {
        let ours = self.ours();
        *ours.broker.lock().unwrap() = Some(serve(ours.dir.path(), ours.addr));
    }

    /// The segments of one partition of a topic in our broker's directory; it is stopped meanwhile.
    pub fn segments(&self, topic: &str, partition: i32) -> Vec<std::path::PathBuf> {
        fn files(dir: &Path) -> Vec<std::path::PathBuf> {
            let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
            entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
        }
        let end = format!("/{partition}");
        let is_it = |path: &std::path::PathBuf| {
            let dir = path.parent().unwrap().to_string_lossy();
            let of_partition = dir.ends_with(&end) || dir.ends_with(&format!("-{partition}"));
            dir.contains(topic) && of_partition && path.extension().is_some_and(|end| end == "log")
        };
        files(self.ours().dir.path()).into_iter().filter(is_it).collect()
    }

    /// A name nobody else uses.
    pub fn name(&self, what: &str) -> String {
        format!("{}-{what}", self.name)
    }

    /// Creates a topic and waits until it can be used.
    pub fn topic(&self, what: &str, partitions: i32) -> String {
        let topic = self.name(what);
        self.create(&topic, partitions);
        topic
    }

    pub fn create(&self, topic: &str, partitions: i32) {
        self.create_with(topic, partitions, &[]);
    }

    /// The same, with settings of the topic's own.
    pub fn create_with(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        let insync = self.config.min_insync_replicas.to_string();
        let replication = TopicReplication::Fixed(self.config.replication_factor);
        let new = NewTopic::new(topic, partitions, replication).set("min.insync.replicas", &insync);
        let new = settings.iter().fold(new, |new, (key, value)| new.set(key, value));
        let results = self.admin(async |admin, options| admin.create_topics([&new], options).await);
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        self.until_known(topic, partitions as usize);
    }

    pub fn delete(&self, topic: &str) {
        let results = self.admin(async |admin, options| admin.delete_topics(&[topic], options).await);
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        self.until_known(topic, 0);
    }

    /// Adds partitions to a topic.
    pub fn grow(&self, topic: &str, partitions: usize) {
        let grown = NewPartitions::new(topic, partitions);
        let results = self.admin(async |admin, options| admin.create_partitions([&grown], options).await);
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        self.until_known(topic, partitions);
    }

    /// Deletes the records below `offset`.
    pub fn delete_records(&self, topic: &str, partition: i32, offset: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
        self.admin(async |admin, options| admin.delete_records(&list, options).await);
        until("the records are gone", || {
            self.watermarks(topic, partition).is_some_and(|(low, _)| low == offset)
        });
    }

    fn admin<T>(
        &self,
        act: impl AsyncFnOnce(&AdminClient<DefaultClientContext>, &AdminOptions) -> Result<T, KafkaError>,
    ) -> T {
        let admin: AdminClient<_> = self.config.admin_config().unwrap().create().unwrap();
        let options = AdminOptions::new().operation_timeout(Some(LONG)).request_timeout(Some(LONG));
        block_on(act(&admin, &options)).unwrap()
    }

    /// Waits until every broker says that the topic has so many partitions, each with a leader.
    fn until_known(&self, topic: &str, partitions: usize) {
        for broker in &self.brokers {
            until("every broker knows the topic", || frames::leaders(broker, topic) == partitions);
        }
    }

    pub fn watermarks(&self, topic: &str, partition: i32) -> Option<(i64, i64)> {
        self.bare("watermarks").fetch_watermarks(topic, partition, Duration::from_secs(5)).ok()
    }

    /// A client that is in no group, for looking at the cluster.
    pub fn bare(&self, group: &str) -> Arc<BaseConsumer> {
        let mut bare = self.bare.lock().unwrap();
        let open = || Arc::new(self.config.consumer_config(group).unwrap().create().unwrap());
        Arc::clone(bare.entry(group.to_owned()).or_insert_with(open))
    }

    /// Offset and metadata that the group has committed.
    pub fn committed(&self, group: &str, topic: &str, partition: i32) -> Option<(i64, String)> {
        // Declared before the list: dropped after it, or rd_kafka_destroy waits for ever.
        let consumer = self.bare(group);
        let mut list = TopicPartitionList::new();
        list.add_partition(topic, partition);
        let list = consumer.committed_offsets(list, LONG).unwrap();
        let element = list.find_partition(topic, partition).unwrap();
        match element.offset() {
            Offset::Offset(offset) => Some((offset, element.metadata().to_owned())),
            _ => None,
        }
    }

    /// Commits for a group that has no members.
    pub fn commit(&self, group: &str, topic: &str, partition: i32, offset: i64, metadata: &str) {
        let consumer = self.bare(group);
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
        list.find_partition(topic, partition).unwrap().set_metadata(metadata);
        until("the commit is taken", || consumer.commit(&list, CommitMode::Sync).is_ok());
    }
}

/// The cluster behind `bootstrap`, its topics replicated as far as its size allows.
fn replicated(bootstrap: String) -> KafkaConfig {
    let config = KafkaConfig::new(bootstrap);
    let asking: BaseConsumer = config.consumer_config("size").unwrap().create().unwrap();
    let brokers = asking.fetch_metadata(None, LONG).expect("HOMING_TEST_BOOTSTRAP answers").brokers().len();
    let (replication_factor, min_insync_replicas) = if brokers < 3 { (1, 1) } else { (3, 2) };
    KafkaConfig { replication_factor, min_insync_replicas, ..config }
}

fn serve(dir: &Path, listen: SocketAddr) -> RunningBroker {
    let dir = dir.join("broker");
    Broker::start(BrokerOptions { dir, listen, flush: FlushPolicy::Never, ..BrokerOptions::default() })
        .unwrap()
}

#[track_caller]
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < LONG, "not within {LONG:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
