//! Apache Kafka in the same run: three brokers under relay and consumer, and one node beside the embedded broker.

use super::broker::{BrokerProcess, absolute, create_topic_at, rss_mb_max};
use super::produce::{Load, Waits, produce_and_wait_each, produce_raw};
use super::report::{Aim, Line, rate};
use super::{consumer, relay, wire_load};
use crate::cluster::{Cluster, ClusterOptions, Jvm};
use crate::job::Site;
use std::error::Error;

const PARTITIONS: i32 = 6;
/// Sends that are waited for one by one.
const WAITED_FOR: u32 = 2000;

/// Relay and consumer on three brokers; three replicas of everything, acknowledged by two.
///
/// # Errors
/// When Kafka cannot be started, or a client fails.
pub fn three(records: u64) -> Result<Vec<Line>, Box<dyn Error>> {
    let cluster = start(3)?;
    let site = Site::replicated(cluster.bootstrap());
    let what = "relay: SQLite backlog of 256 B rows to 3 Kafkas";
    let mut lines = vec![relay::to(&site, records, 256, what, Aim::AtMost(1.3))?];
    let kafka = consumer::fill(&site, records)?;
    lines.extend(consumer::no_op(&kafka, records, "on 3 Kafkas")?);
    Ok(lines)
}

fn start(nodes: usize) -> Result<Cluster, Box<dyn Error>> {
    // As a server has it, not as tests want it: JIT compilers and heap as in Kafka's own scripts.
    Ok(Cluster::start(ClusterOptions { nodes, jvm: Jvm::Throughput, ..ClusterOptions::default() })?)
}

/// What one broker does with the same load.
struct Figures {
    /// Raw batches, one request at a time on each of six connections.
    wire_in: f64,
    wire_out: f64,
    /// Through librdkafka.
    produce: f64,
    consume: f64,
    waits: Waits,
    rss_mb: f64,
    start: f64,
}

fn measure(
    site: &Site,
    records: u64,
    rss: impl Fn() -> Result<f64, Box<dyn Error>>,
    start: f64,
) -> Result<Figures, Box<dyn Error>> {
    create_topic_at(site, "wire", PARTITIONS)?;
    create_topic_at(site, "produce", PARTITIONS)?;
    create_topic_at(site, "waited", PARTITIONS)?;
    let load =
        Load { records, payload_bytes: 200, partitions: PARTITIONS, linger_ms: 5, headers: false, keys: 0 };
    // A virtual machine compiles what it runs often: the first run is not the one to measure.
    let address = site.bootstrap.parse()?;
    wire_load::produce(address, "wire", PARTITIONS, records, 200)?;
    let wire_in = wire_load::produce(address, "wire", PARTITIONS, records, 200)?;
    wire_load::fetch(address, "wire", PARTITIONS)?;
    let wire_out = wire_load::fetch(address, "wire", PARTITIONS)?;
    produce_raw(&site.bootstrap, "produce", &Load { records: records / 5, ..load.clone() })?;
    let produce = produce_raw(&site.bootstrap, "produce", &load)?.as_secs_f64();
    let waits = produce_and_wait_each(&site.bootstrap, "waited", WAITED_FOR)?;
    let kafka = consumer::fill(site, records)?;
    consumer::read_and_drop(&kafka, records)?;
    let consume = consumer::read_and_drop(&kafka, records)?;
    Ok(Figures { wire_in, wire_out, produce, consume, waits, rss_mb: rss()?, start })
}

/// The embedded broker, each policy of flushing, beside one Kafka node as it comes: without a flush.
///
/// # Errors
/// When a broker cannot be started, or a client fails.
pub fn one(records: u64) -> Result<Vec<Line>, Box<dyn Error>> {
    let theirs = {
        let cluster = start(1)?;
        let pid = cluster.node(0).pid().ok_or("the node has ended")?;
        let start = cluster.start_time().as_secs_f64();
        measure(&Site::single(cluster.bootstrap()), records, || rss_mb_max(pid), start)?
    };
    let dir = tempfile::tempdir()?;
    let mut lines = Vec::new();
    for (flush, aim) in [("never", Aim::AtLeast(2.0)), ("always", Aim::None)] {
        let broker = BrokerProcess::start(&dir.path().join(flush), flush)?;
        let start = broker.start.as_secs_f64();
        let ours = measure(&Site::single(&broker.bootstrap), records, || broker.rss_mb_max(), start)?;
        compare(&mut lines, records, flush, &ours, &theirs, aim);
    }
    Ok(lines)
}

fn compare(lines: &mut Vec<Line>, records: u64, flush: &str, ours: &Figures, theirs: &Figures, aim: Aim) {
    let mut line = |what: &str, figure: String, other: String, ratio: f64, aim| {
        let what = format!("broker, flush {flush}: {what}");
        lines.push(Line { what, ours: figure, beside: format!("one Kafka {other}"), ratio, aim });
    };
    let rated = |seconds| rate(records, seconds);
    line("200 B in, raw", rated(ours.wire_in), rated(theirs.wire_in), theirs.wire_in / ours.wire_in, aim);
    // Twice as many lie there as one run writes.
    let read = |figures: &Figures| rate(2 * records, figures.wire_out);
    line("200 B out, raw", read(ours), read(theirs), theirs.wire_out / ours.wire_out, aim);
    let (mine, other) = (ours.produce, theirs.produce);
    line("200 B from librdkafka", rated(mine), rated(other), other / mine, Aim::None);
    let (mine, other) = (ours.consume, theirs.consume);
    line("100 B to librdkafka", rated(mine), rated(other), other / mine, Aim::None);
    let waited = |waits: &Waits| format!("p50 {:.2} p99 {:.2} ms", waits.p50_ms, waits.p99_ms);
    let ratio = theirs.waits.p99_ms / ours.waits.p99_ms;
    line("one acked send", waited(&ours.waits), waited(&theirs.waits), ratio, Aim::None);
    let what = |what: &str| format!("broker, flush {flush}: {what}");
    let mb = |figures: &Figures| format!("{:.0} MB", figures.rss_mb);
    let memory = absolute(&what("most memory held"), mb(ours), ours.rss_mb, Aim::AtMost(50.0));
    let s = |figures: &Figures| format!("{:.2} s", figures.start);
    let start = absolute(&what("start to first answer"), s(ours), ours.start, Aim::AtMost(0.2));
    lines.push(Line { beside: format!("one Kafka {}", mb(theirs)), ..memory });
    lines.push(Line { beside: format!("one Kafka {}", s(theirs)), ..start });
}
