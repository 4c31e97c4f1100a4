//! The faults themselves, each on three brokers of Apache Kafka: a fault that does not bite would prove nothing elsewhere.
//!
//! Links between brokers are broken in `storm.rs`, disks in `power.rs`.
#![allow(clippy::unwrap_used)] // everything in this file is a test

use homing_lab::acked::Numbered;
use homing_lab::cluster::{Cluster, ClusterError, ClusterOptions, Connection, Election};
use homing_lab::faults::{Direction, End, Links, Weather};
use homing_lab::wire;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::{CreateTopicsRequest, MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
/// How long is waited for what must not come.
const A_WHILE: Duration = Duration::from_secs(2);
const ACKS_ALL: &[(&str, &str)] = &[("acks", "all"), ("enable.idempotence", "true")];
const PRODUCE: i16 = 0;

/// The cluster whole and in fair weather, for one test at a time.
fn begin() -> (&'static Cluster, &'static Links, MutexGuard<'static, ()>) {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = Cluster::shared_as(ClusterOptions { link_proxies: true, ..ClusterOptions::default() });
    cluster.links().heal();
    cluster.start_all().unwrap();
    (cluster, cluster.links(), alone)
}

/// A client's connection to node 0, through its link.
fn connect(cluster: &Cluster) -> Connection {
    connect_with(cluster, A_WHILE)
}

fn connect_with(cluster: &Cluster, patience: Duration) -> Connection {
    let address = cluster.bootstrap().split(',').next().unwrap().parse().unwrap();
    Connection::open(address, patience).unwrap()
}

fn weather_for_clients(links: &Links, weather: Weather) {
    (0..3).for_each(|node| links.set(End::Client, End::Node(node), weather));
}

/// Asks who the brokers are: some 150 bytes, there and back.
fn look_around(connection: &mut Connection) -> io::Result<MetadataResponse> {
    connection.ask(12, &MetadataRequest::default().with_topics(Some(Vec::new())))
}

/// Asks for a new topic: work whose effect can be seen whatever the client hears of it.
fn create(connection: &mut Connection, topic: &str) -> io::Result<()> {
    let topic = CreatableTopic::default()
        .with_name(TopicName(StrBytes::from_string(topic.to_owned())))
        .with_num_partitions(1)
        .with_replication_factor(1);
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(5000);
    let answer = connection.ask(7, &request)?;
    assert_eq!(answer.topics[0].error_code, 0);
    Ok(())
}

fn exists(cluster: &Cluster, topic: &str) -> bool {
    cluster.metadata(Some(&[topic])).unwrap().topics[0].error_code == 0
}

fn wait_exists(cluster: &Cluster, topic: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !exists(cluster, topic) {
        assert!(Instant::now() < deadline, "{topic} must have been created");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn wait_leaderless(cluster: &Cluster, topic: &str) {
    let deadline = Instant::now() + PATIENCE;
    let led = || !cluster.metadata(Some(&[topic])).is_ok_and(|m| m.topics[0].partitions[0].leader_id.0 == -1);
    while led() {
        assert!(Instant::now() < deadline, "{topic} must be without a leader");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_cut_link_lets_nothing_through_and_everything_once_healed() {
    let (cluster, links, _alone) = begin();
    cluster.create_topic("cut", 1, 3, &[]).unwrap();
    let mut producer = Numbered::new(&cluster.bootstrap(), "cut", ACKS_ALL).unwrap();
    producer.send(10).unwrap();
    assert!(producer.wait_acked(PATIENCE));
    weather_for_clients(links, Weather::Cut);
    producer.send(10).unwrap();
    assert!(!producer.wait_acked(A_WHILE), "the link is cut");
    assert_eq!(producer.acked(), 10);
    links.heal();
    assert!(producer.wait_acked(PATIENCE));
    assert_eq!(producer.compare(PATIENCE).unwrap().there, 20);
}

#[test]
fn a_half_open_link_loses_requests_or_only_answers_and_never_mends_a_stream_with_a_hole() {
    let (cluster, links, _alone) = begin();
    let mut connection = connect(cluster);
    look_around(&mut connection).unwrap();
    weather_for_clients(links, Weather::HalfOpen(Direction::Requests));
    assert!(create(&mut connection, "never-asked").is_err());
    links.heal();
    assert!(look_around(&mut connection).is_err(), "this connection has lost bytes");
    assert!(!exists(cluster, "never-asked"), "the request must have vanished");

    let mut connection = connect(cluster);
    look_around(&mut connection).unwrap();
    weather_for_clients(links, Weather::HalfOpen(Direction::Answers));
    assert!(create(&mut connection, "never-heard").is_err());
    wait_exists(cluster, "never-heard");
    links.heal();
    look_around(&mut connect(cluster)).unwrap();
}

#[test]
fn an_answer_is_dropped_after_the_broker_did_the_work() {
    let (cluster, links, _alone) = begin();
    cluster.create_topic("dropped", 1, 3, &[]).unwrap();
    let client = [("acks", "all"), ("message.send.max.retries", "0"), ("message.timeout.ms", "20000")];
    let mut producer = Numbered::new(&cluster.bootstrap(), "dropped", &client).unwrap();
    let before = links.dropped();
    links.drop_answers_of(PRODUCE, 1);
    producer.send(1).unwrap();
    let loss = producer.compare(PATIENCE).unwrap();
    assert_eq!((loss.acked, loss.there), (0, 1), "the record is there, and its sender does not know");
    assert_eq!(links.dropped() - before, 1, "of one API only, and once");
    producer.send(1).unwrap();
    assert_eq!(producer.compare(PATIENCE).unwrap().acked, 1, "the next answer passes");
}

#[test]
fn slow_and_throttled_links_take_their_time() {
    let (cluster, links, _alone) = begin();
    let mut connection = connect_with(cluster, PATIENCE);
    let mut took = |weather| {
        weather_for_clients(links, weather);
        let began = Instant::now();
        look_around(&mut connection).unwrap();
        began.elapsed()
    };
    let fair = took(Weather::Fair);
    let slow = took(Weather::Slow(Duration::from_millis(400)));
    let throttled = took(Weather::Throttled(100));
    println!("an answer took {fair:?}, {slow:?} on a slow link, {throttled:?} on a throttled one");
    assert!(fair < Duration::from_millis(400));
    assert!(slow >= Duration::from_millis(800), "each way");
    assert!(throttled >= Duration::from_millis(800), "at 100 bytes a second");
}

#[test]
fn a_closed_link_keeps_its_connections_and_takes_no_new_ones() {
    let (cluster, links, _alone) = begin();
    let mut connection = connect(cluster);
    look_around(&mut connection).unwrap();
    weather_for_clients(links, Weather::Closed);
    assert!(look_around(&mut connect(cluster)).is_err());
    look_around(&mut connection).unwrap();
    links.heal();
    look_around(&mut connect(cluster)).unwrap();
}

#[test]
fn leaders_and_replicas_move_where_they_are_told_and_take_every_record_along() {
    let (cluster, _, _alone) = begin();
    cluster.create_topic("moving", 1, 2, &[]).unwrap();
    let mut producer = Numbered::new(&cluster.bootstrap(), "moving", ACKS_ALL).unwrap();
    producer.send(500).unwrap();
    cluster.reassign("moving", 0, &[0, 1]).unwrap();
    for leader in [1, 0, 1] {
        cluster.move_leader("moving", 0, leader).unwrap();
        assert_eq!(cluster.leader_of("moving", 0), leader);
        producer.send(100).unwrap();
    }
    cluster.reassign("moving", 0, &[2]).unwrap();
    assert_eq!((cluster.leader_of("moving", 0), cluster.isr("moving", 0)), (2, vec![2]));
    assert!(producer.wait_acked(PATIENCE));
    let loss = producer.compare(PATIENCE).unwrap();
    assert_eq!((loss.lost, loss.there), (0, 800), "{loss}");
    let records = wire::read_topic(&cluster.bootstrap(), "moving", PATIENCE).unwrap();
    assert_eq!(records.len(), 800, "each once");
}

#[test]
fn unsafe_arm_an_unclean_election_on_demand_loses_what_a_preferred_one_refuses_to_lose() {
    let (cluster, _, _alone) = begin();
    cluster.create_topic("elected", 1, 2, &[("min.insync.replicas", "1")]).unwrap();
    cluster.reassign("elected", 0, &[0, 1]).unwrap();
    cluster.move_leader("elected", 0, 0).unwrap();
    let mut producer = Numbered::new(&cluster.bootstrap(), "elected", ACKS_ALL).unwrap();
    producer.send(100).unwrap();
    assert!(producer.wait_acked(PATIENCE));
    cluster.node(1).kill().unwrap();
    producer.send(100).unwrap();
    assert!(producer.wait_acked(PATIENCE), "the leader acknowledges alone once it is alone in sync");
    assert_eq!(cluster.isr("elected", 0), [0]);
    cluster.node(0).kill().unwrap();
    cluster.node(1).start().unwrap();
    cluster.wait_ready().unwrap();
    // Until node 0 is known to be dead it counts as the leader, and no election is needed.
    wait_leaderless(cluster, "elected");

    let refused = cluster.elect("elected", 0, Election::Preferred);
    assert!(matches!(refused, Err(ClusterError::Refused { .. })), "{refused:?}");
    wait_leaderless(cluster, "elected");
    cluster.elect("elected", 0, Election::Unclean).unwrap();
    assert_eq!(cluster.wait_leader_other_than("elected", 0, 0).unwrap(), 1);
    cluster.node(0).start().unwrap();
    cluster.wait_ready().unwrap();
    cluster.wait_in_sync().unwrap();
    let loss = producer.compare(PATIENCE).unwrap();
    println!("unclean election on demand: {loss}");
    assert!(loss.lost > 0, "an unsafe arm that loses nothing makes the test invalid: {loss}");
}
