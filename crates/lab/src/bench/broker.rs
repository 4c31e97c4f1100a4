//! The embedded broker in a process of its own, beside librdkafka's in-process mock cluster.

use super::produce::{Load, produce_raw};
use super::report::{Aim, Line, rate};
use crate::job::Site;
use crate::process::Worker;
use homing_broker::{Broker, BrokerOptions, FlushPolicy};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::mocking::MockCluster;
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

/// A broker process, its address and how long it took until it could serve.
pub struct BrokerProcess {
    worker: Worker,
    /// `host:port`.
    pub bootstrap: String,
    /// From the process's start to its ready line.
    pub start: Duration,
}

impl BrokerProcess {
    /// Starts this same program as a broker on `dir`.
    ///
    /// # Errors
    /// When the process does not start or does not say its address.
    pub fn start(dir: &Path, flush: &str) -> Result<Self, Box<dyn Error>> {
        let program = std::env::current_exe()?;
        let started = Instant::now();
        let program = program.to_str().ok_or("the program's path is not UTF-8")?;
        let dir = dir.to_str().ok_or("the directory's path is not UTF-8")?;
        let mut worker = Worker::spawn(program, ["broker", dir, flush])?;
        let bootstrap = worker.line()?.ok_or("the broker ended before it could serve")?;
        Ok(Self { worker, bootstrap, start: started.elapsed() })
    }

    /// The most memory it ever held, in MB.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn rss_mb_max(&self) -> Result<f64, Box<dyn Error>> {
        rss_mb_max(self.worker.pid())
    }
}

/// The most memory a process ever held, in MB (`VmHWM`).
///
/// # Errors
/// When the kernel does not tell.
pub fn rss_mb_max(pid: u32) -> Result<f64, Box<dyn Error>> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).ok_or("no VmHWM in the status")?;
    let kb: f64 = line.split_whitespace().nth(1).ok_or("no figure in VmHWM")?.parse()?;
    Ok(kb / 1024.0)
}

/// Runs as the broker itself until it is killed; what [`BrokerProcess`] starts.
///
/// # Errors
/// When the broker cannot start.
pub fn serve(dir: &str, flush: &str) -> Result<(), Box<dyn Error>> {
    // As `homing broker` does.
    homing_broker::keep_heap_small();
    let flush = match flush {
        "always" => FlushPolicy::Always,
        _ => FlushPolicy::Never,
    };
    let broker = Broker::start(BrokerOptions { dir: dir.into(), flush, ..BrokerOptions::default() })?;
    println!("{}", broker.addr());
    loop {
        std::thread::park();
    }
}

/// Creates `topic` with one replica on the cluster behind `bootstrap`.
///
/// # Errors
/// When the broker refuses.
pub fn create_topic(bootstrap: &str, topic: &str, partitions: i32) -> Result<(), Box<dyn Error>> {
    create_topic_at(&Site::single(bootstrap), topic, partitions)
}

/// Creates `topic`, replicated as the site says, and waits until each partition can be asked.
///
/// # Errors
/// When the broker refuses, or a partition has no leader after 30 s.
pub fn create_topic_at(site: &Site, topic: &str, partitions: i32) -> Result<(), Box<dyn Error>> {
    let bootstrap = &site.bootstrap;
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", bootstrap).create()?;
    let min_isr = site.min_insync_replicas.to_string();
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(site.replication_factor))
        .set("min.insync.replicas", &min_isr);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let results = runtime.block_on(admin.create_topics([&new], &AdminOptions::new()))?;
    for result in results {
        result.map_err(|(topic, code)| format!("cannot create {topic}: {code}"))?;
    }
    // A cluster spreads the news after it has answered.
    let deadline = Instant::now() + Duration::from_secs(30);
    for partition in 0..partitions {
        while let Err(error) = admin.inner().fetch_watermarks(topic, partition, Duration::from_secs(5)) {
            if Instant::now() > deadline {
                return Err(format!("{topic}[{partition}] cannot be asked: {error}").into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// Measures produce rates, memory and start time.
///
/// # Errors
/// When a broker or client fails.
pub fn run(records: u64) -> Result<Vec<Line>, Box<dyn Error>> {
    let fast = Load { records, payload_bytes: 200, partitions: 6, linger_ms: 5, headers: false, keys: 0 };
    let lingering = Load { linger_ms: 10, ..fast.clone() };
    let mock = {
        let cluster = MockCluster::new(1)?;
        cluster.create_topic("bench", 6, 1)?;
        produce_raw(&cluster.bootstrap_servers(), "bench", &fast)?.as_secs_f64()
    };
    let dir = tempfile::tempdir()?;
    let broker = BrokerProcess::start(&dir.path().join("never"), "never")?;
    create_topic(&broker.bootstrap, "bench", 6)?;
    let never = produce_raw(&broker.bootstrap, "bench", &fast)?.as_secs_f64();
    let never_lingering = produce_raw(&broker.bootstrap, "bench", &lingering)?.as_secs_f64();
    let (rss, start) = (broker.rss_mb_max()?, broker.start.as_secs_f64());
    drop(broker);
    let broker = BrokerProcess::start(&dir.path().join("always"), "always")?;
    create_topic(&broker.bootstrap, "bench", 6)?;
    let always = produce_raw(&broker.bootstrap, "bench", &lingering)?.as_secs_f64();
    let rss = rss.max(broker.rss_mb_max()?);
    let reference = format!("librdkafka mock cluster {}", rate(records, mock));
    let line = |what: &str, seconds: f64, beside: &str, other: f64, aim| Line {
        what: what.to_owned(),
        ours: rate(records, seconds),
        beside: beside.to_owned(),
        ratio: other / seconds,
        aim: Aim::AtLeast(aim),
    };
    let own = format!("the same without flush {}", rate(records, never_lingering));
    Ok(vec![
        line("broker, flush off: produce 200 B, 6 partitions", never, &reference, mock, 0.6),
        line("broker, fsync before ack, 10 ms linger", always, &own, never_lingering, 0.5),
        absolute("broker: most memory held", format!("{rss:.0} MB"), rss, Aim::AtMost(50.0)),
        absolute("broker: process start to first answer", format!("{start:.3} s"), start, Aim::AtMost(0.2)),
    ])
}

/// A line whose aim is absolute.
pub(super) fn absolute(what: &str, ours: String, figure: f64, aim: Aim) -> Line {
    Line { what: what.to_owned(), ours, beside: "the aim itself".to_owned(), ratio: figure, aim }
}
