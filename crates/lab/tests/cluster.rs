//! The cluster harness itself: it serves, breaks where told, and leaves nothing behind.
#![allow(clippy::unwrap_used)] // everything in this file is a test

use homing_lab::cluster::acls::{Operation, Resource};
use homing_lab::cluster::certs::{Authority, Subject, Validity};
use homing_lab::cluster::secure::{ADMIN, APP, Access, User};
use homing_lab::cluster::{Cluster, ClusterOptions};
use homing_lab::process::{Ended, Worker, spawn_bound};
use homing_lab::wire;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// In TLS 1.3 a client's certificate is looked at when the client takes itself for connected.
const HUNG_UP: RDKafkaErrorCode = RDKafkaErrorCode::BrokerTransportFailure;

/// Keeps the outcome of every send.
#[derive(Default)]
struct Outcomes(Mutex<Vec<Result<(), RDKafkaErrorCode>>>);

impl rdkafka::ClientContext for Outcomes {}

impl ProducerContext for Outcomes {
    type DeliveryOpaque = ();
    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let outcome = result.as_ref().map(drop).map_err(|(e, _)| e.rdkafka_error_code().unwrap());
        self.0.lock().unwrap().push(outcome);
    }
}

fn config(settings: &BTreeMap<&'static str, String>) -> ClientConfig {
    settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

/// Sends `count` records to each partition, acks=all; the first failure, if any.
fn produce(
    settings: &BTreeMap<&'static str, String>,
    topic: &str,
    partitions: i32,
    count: usize,
) -> Result<(), RDKafkaErrorCode> {
    let producer: BaseProducer<Outcomes> = config(settings)
        .set("acks", "all")
        .set("message.timeout.ms", "20000")
        .create_with_context(Outcomes::default())
        .unwrap();
    for partition in 0..partitions {
        for number in 0..count {
            let payload = number.to_string();
            producer.send(BaseRecord::<(), _>::to(topic).partition(partition).payload(&payload)).unwrap();
        }
    }
    producer.flush(PATIENCE).unwrap();
    let outcomes = std::mem::take(&mut *producer.context().0.lock().unwrap());
    assert_eq!(outcomes.len(), partitions as usize * count, "every send has an outcome");
    outcomes.into_iter().collect()
}

#[test]
fn three_nodes_start_and_serve_and_a_killed_leader_moves_and_comes_back() {
    let cluster = Cluster::start(ClusterOptions::default()).unwrap();
    let plain = cluster.client_settings(Access::Plain);
    println!("three plain nodes were ready after {:.1} s", cluster.start_time().as_secs_f64());

    cluster.create_topic("orders", 3, 3, &[]).unwrap();
    produce(&plain, "orders", 3, 10).unwrap();
    assert_eq!(wire::read_topic(&cluster.bootstrap(), "orders", PATIENCE).unwrap().len(), 30);
    assert_eq!(cluster.isr("orders", 0), [0, 1, 2]);

    let leader = cluster.leader_of("orders", 0);
    let killed = cluster.node(leader).pid().unwrap();
    cluster.node(leader).kill().unwrap();
    assert!(!alive(killed) && !cluster.node(leader).is_running());
    let next = cluster.wait_leader_other_than("orders", 0, leader).unwrap();
    assert_ne!(next, leader);
    produce(&plain, "orders", 3, 10).unwrap();

    cluster.node(leader).start().unwrap();
    cluster.wait_ready().unwrap();
    cluster.wait_in_sync().unwrap();
    assert_eq!(cluster.isr("orders", 0), [0, 1, 2]);
    assert_eq!(wire::read_topic(&cluster.bootstrap(), "orders", PATIENCE).unwrap().len(), 60);

    a_port_taken_while_a_node_starts_is_waited_for(&cluster, leader);
    let controller = cluster.controller();
    cluster.node(controller).pause().unwrap();
    cluster.wait_ready().unwrap();
    assert_ne!(cluster.controller(), controller, "a paused controller is replaced");
    cluster.node(controller).resume().unwrap();
    cluster.wait_ready().unwrap();

    cluster.node(0).restart_with(&[("message.max.bytes", "2000000")]).unwrap();
    cluster.wait_ready().unwrap();
    cluster.wait_in_sync().unwrap();
    assert_eq!(wire::read_topic(&cluster.bootstrap(), "orders", PATIENCE).unwrap().len(), 60);
    let settings = std::fs::read_to_string(cluster.node(0).dir().join("server.properties")).unwrap();
    assert!(settings.contains("message.max.bytes=2000000\n"), "{settings}");

    println!("killed in a clean stop of all: {:?}", cluster.stop_all().unwrap());
    assert_eq!(cluster.running(), [0_usize; 0]);
    for node in cluster.nodes() {
        node.start().unwrap();
    }
    cluster.wait_ready().unwrap();
    assert_eq!(wire::read_topic(&cluster.bootstrap(), "orders", PATIENCE).unwrap().len(), 60);

    let pids: Vec<u32> = cluster.nodes().iter().map(|node| node.pid().unwrap()).collect();
    let dir = cluster.dir().to_owned();
    drop(cluster);
    assert!(!pids.iter().any(|pid| alive(*pid)), "{pids:?}");
    assert!(!dir.exists());
}

fn a_port_taken_while_a_node_starts_is_waited_for(cluster: &Cluster, index: usize) {
    cluster.node(index).stop().unwrap();
    cluster.node(index).start().unwrap();
    // Java needs longer than this to bind it.
    let stranger = TcpListener::bind(cluster.address_of(index)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while cluster.node(index).pid().is_some() {
                std::thread::sleep(Duration::from_millis(10));
            }
            drop(stranger);
        });
        cluster.wait_ready().unwrap();
    });
    assert!(cluster.node(index).is_running());
    let log = std::fs::read_to_string(cluster.node(index).log_path()).unwrap();
    assert!(log.contains("Address already in use"), "the stranger was in the way");
}

#[test]
fn a_secure_cluster_lets_in_who_proves_it_and_permits_what_is_allowed() {
    let cluster = Cluster::start(ClusterOptions { nodes: 1, secure: true, ..Default::default() }).unwrap();
    println!("one secure node was ready after {:.1} s", cluster.start_time().as_secs_f64());
    cluster.create_topic("orders", 1, 1, &[]).unwrap();
    every_listener_takes_the_right_and_refuses_the_wrong(&cluster);
    what_is_taken_away_is_not_authorised_until_given_back(&cluster);
    an_expired_certificate_is_refused_until_renewed(&cluster);
}

fn every_listener_takes_the_right_and_refuses_the_wrong(cluster: &Cluster) {
    let certs = cluster.certs();
    let admins = certs.authority().issue(Subject::Client(ADMIN.name), Validity::Long).unwrap();
    let right = [
        Access::Plain,
        Access::Ssl,
        Access::SaslPlain(ADMIN),
        Access::SaslScram(ADMIN),
        Access::MutualTls(&admins),
    ];
    for access in right {
        let sent = produce(&cluster.client_settings(access), "orders", 1, 1);
        assert_eq!(sent, Ok(()), "{access:?}");
    }

    let strangers = Authority::create(cluster.dir().join("strangers"), "another authority").unwrap();
    let strange = strangers.issue(Subject::Client(ADMIN.name), Validity::Long).unwrap();
    let expired = certs.authority().issue(Subject::Client(ADMIN.name), Validity::Expired).unwrap();
    let wrong = User { password: "wrong", ..ADMIN };
    let unknown = User { name: "nobody", password: "admin-secret" };
    let wrong = [
        (Access::SaslPlain(wrong), RDKafkaErrorCode::Authentication),
        (Access::SaslScram(wrong), RDKafkaErrorCode::Authentication),
        (Access::SaslPlain(unknown), RDKafkaErrorCode::Authentication),
        (Access::SaslScram(unknown), RDKafkaErrorCode::Authentication),
        (Access::MutualTls(&strange), HUNG_UP),
        (Access::MutualTls(&expired), HUNG_UP),
    ];
    for (access, expected) in wrong {
        let refused = refusal(&cluster.client_settings(access), expected);
        assert!(refused.contains(&expected), "{access:?}: {refused:?}");
    }
    let mut without = cluster.client_settings(Access::MutualTls(&admins));
    without.remove("ssl.certificate.location");
    without.remove("ssl.key.location");
    let refused = refusal(&without, HUNG_UP);
    assert!(refused.contains(&HUNG_UP), "no certificate: {refused:?}");
}

fn what_is_taken_away_is_not_authorised_until_given_back(cluster: &Cluster) {
    let topic = Resource::Topic("orders");
    let operations = [Operation::Write, Operation::Describe];
    let certificate = cluster.certs().client().clone();
    for access in [Access::SaslPlain(APP), Access::SaslScram(APP), Access::MutualTls(&certificate)] {
        let settings = cluster.client_settings(access);
        let refused = Err(RDKafkaErrorCode::TopicAuthorizationFailed);
        assert_eq!(produce(&settings, "orders", 1, 1), refused, "{access:?} may do nothing at first");
        cluster.allow(APP, topic, &operations).unwrap();
        assert_eq!(produce(&settings, "orders", 1, 1), Ok(()), "{access:?}");
        cluster.disallow(APP, topic, &operations).unwrap();
        assert_eq!(produce(&settings, "orders", 1, 1), refused, "{access:?} may no longer");
    }
}

fn an_expired_certificate_is_refused_until_renewed(cluster: &Cluster) {
    let settings = cluster.client_settings(Access::Ssl);
    let name = Cluster::server_name(0);
    let expired = cluster.certs().authority().issue(Subject::Server(&name), Validity::Expired).unwrap();
    cluster.install_certificate(0, &expired).unwrap();
    let refused = refusal(&settings, RDKafkaErrorCode::SSL);
    assert!(refused.contains(&RDKafkaErrorCode::SSL), "{refused:?}");
    let renewed = cluster.certs().authority().issue(Subject::Server(&name), Validity::Long).unwrap();
    cluster.install_certificate(0, &renewed).unwrap();
    assert_eq!(produce(&settings, "orders", 1, 1), Ok(()));
}

/// What a client is told that tries to come in, until `expected` is among it.
fn refusal(settings: &BTreeMap<&'static str, String>, expected: RDKafkaErrorCode) -> Vec<RDKafkaErrorCode> {
    let consumer: BaseConsumer = config(settings).set("group.id", "stranger").create().unwrap();
    consumer.subscribe(&["orders"]).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut told = Vec::new();
    while Instant::now() < deadline && !told.contains(&expected) {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Err(KafkaError::MessageConsumption(code))) => told.push(code),
            Some(Ok(_)) => panic!("a stranger reads"),
            _ => {}
        }
    }
    told
}

#[test]
fn nodes_die_with_a_test_that_panics_is_killed_or_shares_them_to_its_end() {
    for end in ["panic", "killed", "shared"] {
        let mut test = Worker::spawn(env!("CARGO_BIN_EXE_lab-cluster"), ["hold", end]).unwrap();
        let line = test.line().unwrap().unwrap();
        let (dir, pids) = line.split_once(' ').unwrap();
        let pids: Vec<u32> = pids.split(' ').map(|pid| pid.parse().unwrap()).collect();
        assert_eq!(pids.len(), if end == "shared" { 3 } else { 1 }, "{line}");
        let ended = if end == "killed" {
            assert!(pids.iter().all(|pid| alive(*pid)), "{line}");
            Some(test.kill().unwrap())
        } else {
            test.wait(PATIENCE).unwrap()
        };
        let expected = match end {
            "killed" => Ended::Killed,
            "panic" => Ended::Exited(101),
            _ => Ended::Exited(0),
        };
        assert_eq!(ended, Some(expected), "{end}");
        let deadline = Instant::now() + PATIENCE;
        while pids.iter().any(|pid| alive(*pid)) {
            assert!(Instant::now() < deadline, "{end}: a broker survives: {pids:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        if end == "shared" {
            assert!(!Path::new(dir).exists(), "{dir} is left behind");
        }
    }
}

#[test]
fn an_interrupted_command_ends_its_cluster() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab-cluster"));
    let script = "echo $HOMING_TEST_BOOTSTRAP; exec sleep 600";
    command.args(["run", "--nodes", "1", "--", "sh", "-c", script]);
    // A group of its own, as a shell gives to what Ctrl-C is to reach.
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut run = spawn_bound(command).unwrap();
    let mut bootstrap = String::new();
    BufReader::new(run.stdout.take().unwrap()).read_line(&mut bootstrap).unwrap();
    TcpStream::connect(bootstrap.trim()).unwrap();
    let group = format!("-{}", run.id());
    assert!(Command::new("kill").args(["-INT", "--", &group]).status().unwrap().success());
    assert_eq!(run.wait().unwrap().code(), Some(128 + 2), "the command's own end is passed on");
    assert!(TcpStream::connect(bootstrap.trim()).is_err(), "a broker still serves");
}

fn alive(pid: u32) -> bool {
    // A process that has ended and waits to be collected by init counts as ended.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.trim().starts_with('Z'))
}
