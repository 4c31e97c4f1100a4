//! SIGKILL at every step of a consumer, then a restart: effects are counted in a database.
//!
//! The consumer runs in a child process (this test binary again), whose step
//! observer kills it the n-th time a step is reached. Effects go into SQLite:
//! once per number with the inbox, at least once without it.
#![allow(clippy::unwrap_used)] // everything in this file is a test

mod consumer_support;

use consumer_support::{Cluster, Running, fill_stamped, key, number, options, read_all};
use homing::consumer::{Consumer, ConsumerOptions, Outcome, Record};
use homing::core::TopicName;
use homing::inbox::{Applied, Inbox};
use homing::testing::Steps;
use homing::{KafkaConfig, Shutdown};
use rusqlite::{Connection, TransactionBehavior};
use std::cell::RefCell;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const RECORDS: u64 = 600;
const POISON: u64 = 77;

/// What a child is told.
#[derive(Debug, Clone)]
struct Orders {
    bootstrap: String,
    topic: String,
    dead: String,
    group: String,
    database: String,
    inbox: bool,
    die_at: String,
    die_after: u64,
}

const CHILD: &str = "HOMING_TEST_CONSUMER_CHILD";

/// Not a test of its own: the body of the child process. Does nothing when run as a test.
#[test]
fn child_process_of_the_tests_below() {
    let Ok(orders) = std::env::var(CHILD) else { return };
    let words: Vec<&str> = orders.split('|').collect();
    let [bootstrap, topic, dead, group, database, inbox, die_at, die_after] = words.as_slice() else {
        panic!()
    };
    work(&Orders {
        bootstrap: (*bootstrap).to_owned(),
        topic: (*topic).to_owned(),
        dead: (*dead).to_owned(),
        group: (*group).to_owned(),
        database: (*database).to_owned(),
        inbox: *inbox == "true",
        die_at: (*die_at).to_owned(),
        die_after: die_after.parse().unwrap(),
    });
}

#[allow(unsafe_code)]
fn die() {
    // SAFETY: ends this process at once, as a crash would.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
}

fn work(orders: &Orders) {
    let (step, after, reached) = (orders.die_at.clone(), orders.die_after, AtomicU64::new(0));
    let steps = Steps::observed_by(move |now| {
        if now == step && reached.fetch_add(1, Ordering::SeqCst) + 1 == after {
            die();
        }
    });
    let settings = ConsumerOptions {
        workers: 4,
        in_flight_max: 100,
        commit_interval: Duration::from_millis(5),
        dead_letter: Some(TopicName::parse(&orders.dead).unwrap()),
        instance_id: Some("crasher".to_owned()),
        steps,
        ..options(&orders.group, &orders.topic)
    };
    let consumer = Consumer::new(config(&orders.bootstrap), settings).unwrap();
    let (status, shutdown) = (consumer.status(), Shutdown::new());
    let stop = shutdown.clone();
    let (database, inbox, group) = (orders.database.clone(), orders.inbox, orders.group.clone());
    std::thread::spawn(move || {
        // Told to stop by the parent, who sees in the database when everything is done.
        while !Path::new(&format!("{database}.stop")).exists() {
            std::thread::sleep(Duration::from_millis(2));
        }
        stop.trigger();
    });
    let database = orders.database.clone();
    consumer.run_blocking(move |record| effect(&database, &group, inbox, record), &shutdown).unwrap();
    assert_eq!(status.counts().in_flight, 0);
}

thread_local! {
    static DATABASE: RefCell<Option<Connection>> = const { RefCell::new(None) };
}

fn open(path: &str) -> Connection {
    let db = Connection::open(path).unwrap();
    db.busy_timeout(Duration::from_secs(30)).unwrap();
    db.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;").unwrap();
    db
}

fn effect(path: &str, group: &str, inbox: bool, record: &Record) -> Outcome {
    if record.stamp().unwrap().seq.0 == POISON {
        return Outcome::reject("poison");
    }
    DATABASE.with_borrow_mut(|slot| {
        let db = slot.get_or_insert_with(|| open(path));
        let mut apply = || -> Result<(), Box<dyn std::error::Error>> {
            let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            if !inbox || Inbox::apply_once(&tx, group, record)? == Applied::First {
                tx.execute(
                    "INSERT INTO effects (key, number) VALUES (?1, ?2)",
                    (key(record), number(record)),
                )?;
            }
            Ok(tx.commit()?)
        };
        Outcome::from(apply().map_err(|error| error.to_string()))
    })
}

/// A session short enough to see a dead member replaced.
fn config(bootstrap: &str) -> KafkaConfig {
    let mut config = KafkaConfig::new(bootstrap);
    config.client.insert("session.timeout.ms".into(), "6000".into());
    config.client.insert("heartbeat.interval.ms".into(), "500".into());
    config
}

fn run_child(orders: &Orders) -> ExitStatus {
    let mut child = start_child(orders);
    let stop = format!("{}.stop", orders.database);
    if orders.die_at.is_empty() {
        let db = open(&orders.database);
        consumer_support::until("every effect is there", || distinct(&db) == RECORDS - 1);
        std::fs::write(&stop, "").unwrap();
    }
    let status = child.wait().unwrap();
    let _absent_is_fine = std::fs::remove_file(&stop);
    status
}

fn start_child(orders: &Orders) -> Child {
    let line = [
        orders.bootstrap.as_str(),
        &orders.topic,
        &orders.dead,
        &orders.group,
        &orders.database,
        if orders.inbox { "true" } else { "false" },
        &orders.die_at,
        &orders.die_after.to_string(),
    ]
    .join("|");
    Command::new(std::env::current_exe().unwrap())
        .args(["child_process_of_the_tests_below", "--exact", "--nocapture"])
        .env(CHILD, line)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

fn distinct(db: &Connection) -> u64 {
    db.query_row("SELECT count(DISTINCT number) FROM effects", [], |row| row.get::<_, i64>(0))
        .unwrap()
        .unsigned_abs()
}

fn total(db: &Connection) -> u64 {
    db.query_row("SELECT count(*) FROM effects", [], |row| row.get::<_, i64>(0)).unwrap().unsigned_abs()
}

/// A topic full of records, a database for the effects, and orders for a child without a death.
fn prepare(cluster: &Cluster, name: &str, inbox: bool) -> (Orders, Connection, tempfile::TempDir) {
    let (topic, dead) = (cluster.topic(name, 2), cluster.topic(&format!("{name}-dead"), 1));
    let dir = tempfile::tempdir().unwrap();
    let database = dir.path().join("effects.db").to_str().unwrap().to_owned();
    let db = open(&database);
    db.execute_batch("CREATE TABLE effects (id INTEGER PRIMARY KEY, key TEXT, number INTEGER)").unwrap();
    Inbox::create(&db).unwrap();
    let (bootstrap, group) = (cluster.config.bootstrap.clone(), cluster.name(name));
    let orders =
        Orders { bootstrap, topic, dead, group, database, inbox, die_at: String::new(), die_after: 0 };
    (orders, db, dir)
}

/// Kills a consumer at the step, restarts it, and returns its database and dead letters.
fn crash_and_restart(
    cluster: &Cluster,
    name: &str,
    inbox: bool,
    crashes: &[(&str, u64)],
) -> (Connection, usize) {
    let (mut orders, db, _dir) = prepare(cluster, name, inbox);
    fill_stamped(cluster, &orders.topic, 0, 1..=RECORDS);
    for (step, after) in crashes {
        (orders.die_at, orders.die_after) = ((*step).to_owned(), *after);
        let status = run_child(&orders);
        assert!(!status.success(), "{step} was never reached {after} times");
    }
    orders.die_at = String::new();
    assert!(run_child(&orders).success());
    let (offset, _) = cluster.committed(&orders.group, &orders.topic, 0).unwrap();
    assert_eq!(offset.unsigned_abs(), RECORDS, "everything is committed in the end");
    // The file may go: the open connection still reads it.
    (db, read_all(cluster, &orders.dead, 1).len())
}

/// Effects of one key in the order they were made.
fn assert_order(db: &Connection) {
    let mut statement = db.prepare("SELECT key, number FROM effects ORDER BY id").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))).unwrap();
    let mut last = std::collections::HashMap::new();
    for (key, number) in rows.map(|row| row.unwrap()) {
        let before = last.insert(key.clone(), number);
        assert!(before < Some(number), "{key}: {number} after {before:?}");
    }
}

#[test]
fn a_kill_at_any_step_leaves_exactly_one_effect_each_with_the_inbox() {
    let cluster = Cluster::start();
    for (name, crashes) in [
        ("polled", &[("consumer.polled", 1), ("consumer.polled", 3)][..]),
        ("handled", &[("consumer.handled", 1), ("consumer.handled", 150)]),
        ("tracked", &[("consumer.tracked", 1), ("consumer.tracked", 200)]),
        ("committed", &[("consumer.committed", 1), ("consumer.committed", 4)]),
        ("lettersent", &[("consumer.dead_letter_sent", 1)]),
        ("letteracked", &[("consumer.dead_letter_acked", 1)]),
    ] {
        let (db, letters) = crash_and_restart(&cluster, name, true, crashes);
        assert_eq!((distinct(&db), total(&db)), (RECORDS - 1, RECORDS - 1), "{name}");
        assert_order(&db);
        assert!((1..=3).contains(&letters), "{name}: {letters} dead letters");
    }
}

#[test]
fn without_the_inbox_a_kill_repeats_effects_and_loses_none() {
    let cluster = Cluster::start();
    let crashes = [("consumer.handled", 60), ("consumer.handled", 90), ("consumer.tracked", 120)];
    let (db, _) = crash_and_restart(&cluster, "noinbox", false, &crashes);
    assert_eq!(distinct(&db), RECORDS - 1);
    let repeated = total(&db) - distinct(&db);
    // The unsafe arm must show what the inbox prevents, and no more than each life had handled or
    // in flight: on a replicated cluster a life this short may end before its first commit is taken.
    assert!(repeated > 0, "no effect was repeated: the kills did not bite");
    let most: u64 = crashes.iter().map(|(_, handled)| handled + 100).sum();
    assert!(repeated <= most, "{repeated} effects repeated");
}

#[test]
fn a_kill_while_partitions_are_handed_over_loses_and_repeats_no_effect() {
    let cluster = Cluster::start();
    let (mut orders, db, _dir) = prepare(&cluster, "revoking", true);
    for partition in 0..2 {
        let half = RECORDS / 2;
        let from = u64::from(partition == 1) * half;
        fill_stamped(&cluster, &orders.topic, partition, from + 1..=from + half);
    }
    (orders.die_at, orders.die_after) = ("consumer.revoking".to_owned(), 1);
    let mut child = start_child(&orders);
    consumer_support::until("the child is at work", || distinct(&db) > 20);
    let settings = ConsumerOptions {
        dead_letter: Some(TopicName::parse(&orders.dead).unwrap()),
        ..options(&orders.group, &orders.topic)
    };
    let (database, group) = (orders.database.clone(), orders.group.clone());
    let heir = Running::start(config(&orders.bootstrap), settings, move |consumer, shutdown| {
        consumer.run_blocking(move |record| effect(&database, &group, true, record), shutdown)
    });
    assert!(!child.wait().unwrap().success(), "it was killed when asked for a partition");
    consumer_support::until("the heir finishes the work", || distinct(&db) == RECORDS - 1);
    assert_eq!(total(&db), RECORDS - 1);
    heir.until("the heir has both partitions", |counts| counts.partitions == 2 && counts.in_flight == 0);
    heir.stop();
    for partition in 0..2 {
        let (offset, _) = cluster.committed(&orders.group, &orders.topic, partition).unwrap();
        assert_eq!(offset.unsigned_abs(), RECORDS / 2);
    }
}
