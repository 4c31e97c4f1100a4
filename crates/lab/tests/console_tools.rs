//! Apache Kafka's own command-line tools, from the same jars, against the broker under test.
//!
//! `HOMING_TEST_BOOTSTRAP` names an Apache Kafka; without it a broker of our own.
#![allow(clippy::unwrap_used)] // everything in this file is a test

use homing_broker::{Broker, BrokerOptions, RunningBroker};
use homing_lab::cluster::fetch::{Kafka, version};
use std::io::Write;
use std::process::Stdio;

const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";
const CONSUMER: &str = "org.apache.kafka.tools.consumer.ConsoleConsumer";
const GROUPS: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
const CONFIGS: &str = "kafka.admin.ConfigCommand";
const OFFSETS: &str = "org.apache.kafka.tools.GetOffsetShell";

/// The console producer moved with Kafka 4.
fn producer_class(kafka: &Kafka) -> &'static str {
    if kafka.version().starts_with("3.") {
        "kafka.tools.ConsoleProducer"
    } else {
        "org.apache.kafka.tools.ConsoleProducer"
    }
}

/// A broker, Kafka's jars, and a name no other run uses.
struct Bench {
    kafka: Kafka,
    bootstrap: String,
    unique: String,
    _embedded: Option<(RunningBroker, tempfile::TempDir)>,
}

impl Bench {
    fn begin() -> Self {
        let kafka = Kafka::find(&version()).unwrap();
        let unique = uuid::Uuid::now_v7().simple().to_string().split_off(20);
        if let Ok(bootstrap) = std::env::var("HOMING_TEST_BOOTSTRAP") {
            return Self { kafka, bootstrap, unique, _embedded: None };
        }
        let dir = tempfile::tempdir().unwrap();
        let options = BrokerOptions { dir: dir.path().to_owned(), ..BrokerOptions::default() };
        let broker = Broker::start(options).unwrap();
        Self { kafka, bootstrap: broker.addr().to_string(), unique, _embedded: Some((broker, dir)) }
    }

    fn name(&self, what: &str) -> String {
        format!("{what}-{}", self.unique)
    }

    /// Runs a tool with these arguments and this input; what it printed. It must end with 0.
    fn run(&self, class: &str, arguments: &[&str], input: &str) -> String {
        let mut command = self.kafka.tool(class);
        command.args(["--bootstrap-server", &self.bootstrap]).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let [printed, complaints] =
            [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        assert!(output.status.success(), "{class} {arguments:?}: {}\n{printed}{complaints}", output.status);
        printed
    }
}

/// The lines that hold every one of the words, each split at blanks.
fn rows<'a>(table: &'a str, words: &[&str]) -> Vec<Vec<&'a str>> {
    table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|row| words.iter().all(|word| row.contains(word)))
        .collect()
}

#[test]
fn kafka_topics_makes_shows_grows_and_deletes_a_topic() {
    let bench = Bench::begin();
    let topic = bench.name("made-by-kafka-topics");
    let run = |arguments: &[&str]| bench.run(TOPICS, arguments, "");
    let made = run(&[
        "--create",
        "--topic",
        &topic,
        "--partitions",
        "2",
        "--replication-factor",
        "1",
        "--config",
        "retention.ms=7200000",
    ]);
    assert!(made.contains(&format!("Created topic {topic}")), "{made}");
    assert!(run(&["--list"]).lines().any(|line| line == topic));
    let shown = run(&["--describe", "--topic", &topic]);
    assert!(shown.contains("PartitionCount: 2") && shown.contains("retention.ms=7200000"), "{shown}");
    run(&["--alter", "--topic", &topic, "--partitions", "3"]);
    let shown = run(&["--describe", "--topic", &topic]);
    assert_eq!(rows(&shown, &["Partition:"]).len(), 3, "{shown}");
    run(&["--delete", "--topic", &topic]);
    assert!(!run(&["--list"]).lines().any(|line| line == topic));
}

#[test]
fn what_the_console_producer_writes_the_console_consumer_reads_in_order() {
    let bench = Bench::begin();
    let topic = bench.name("orders");
    bench.run(TOPICS, &["--create", "--topic", &topic, "--partitions", "1"], "");
    let lines: Vec<String> = (0..200).map(|n| format!("c{}:{{\"order\":{n}}}", n % 7)).collect();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let arguments = [
            "--topic",
            &topic,
            "--compression-codec",
            codec,
            "--property",
            "parse.key=true",
            "--property",
            "key.separator=:",
        ];
        bench.run(producer_class(&bench.kafka), &arguments, &format!("{}\n", lines.join("\n")));
    }
    let arguments = [
        "--topic",
        &topic,
        "--from-beginning",
        "--max-messages",
        "1000",
        "--timeout-ms",
        "30000",
        "--property",
        "print.key=true",
        "--property",
        "key.separator=:",
    ];
    let read = bench.run(CONSUMER, &arguments, "");
    // The tools of some versions also print advice about their options.
    let read: Vec<&str> = read.lines().filter(|line| line.contains("order")).collect();
    let sent: Vec<&str> = lines.iter().map(String::as_str).collect();
    assert_eq!(read, sent.repeat(5));
    let ends = bench.run(OFFSETS, &["--topic", &topic], "");
    assert_eq!(ends.trim(), format!("{topic}:0:1000"));
}

#[test]
fn kafka_consumer_groups_shows_resets_and_deletes_a_group() {
    let bench = Bench::begin();
    let (topic, group) = (bench.name("read-by-a-group"), bench.name("billing"));
    let groups = |arguments: &[&str]| bench.run(GROUPS, arguments, "");
    bench.run(TOPICS, &["--create", "--topic", &topic, "--partitions", "1"], "");
    let lines: String = (0..10).map(|n| format!("line {n}\n")).collect();
    bench.run(producer_class(&bench.kafka), &["--topic", &topic], &lines);
    let arguments = [
        "--topic",
        &topic,
        "--group",
        &group,
        "--from-beginning",
        "--max-messages",
        "4",
        "--timeout-ms",
        "60000",
    ];
    assert_eq!(bench.run(CONSUMER, &arguments, "").lines().count(), 4);
    assert!(groups(&["--list"]).lines().any(|line| line == group));
    // GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG …
    let position = || {
        let table = groups(&["--describe", "--group", &group]);
        let row = rows(&table, &[&group, &topic]).pop().unwrap_or_else(|| panic!("no row in\n{table}"));
        [row[3], row[4], row[5]].map(|number| number.parse::<u64>().unwrap())
    };
    assert_eq!(position(), [4, 10, 6]);
    let state = groups(&["--describe", "--group", &group, "--state"]);
    assert_eq!(rows(&state, &[&group, "Empty"]).len(), 1, "{state}");
    groups(&["--reset-offsets", "--group", &group, "--topic", &topic, "--to-earliest", "--execute"]);
    assert_eq!(position(), [0, 10, 10]);
    let deleted = groups(&["--delete", "--group", &group]);
    assert!(deleted.contains("was successful"), "{deleted}");
    assert!(!groups(&["--list"]).lines().any(|line| line == group));
}

#[test]
fn kafka_configs_changes_a_setting_and_takes_it_back() {
    let bench = Bench::begin();
    let topic = bench.name("configured");
    bench.run(TOPICS, &["--create", "--topic", &topic, "--partitions", "1"], "");
    let of_topic = ["--entity-type", "topics", "--entity-name", &topic];
    let configs = |arguments: &[&str]| bench.run(CONFIGS, &[&of_topic, arguments].concat(), "");
    configs(&["--alter", "--add-config", "retention.ms=3600000"]);
    let set = configs(&["--describe"]);
    assert!(set.contains("retention.ms=3600000"), "{set}");
    configs(&["--alter", "--delete-config", "retention.ms"]);
    let unset = configs(&["--describe"]);
    assert!(!unset.contains("retention.ms=3600000"), "{unset}");
    let all = configs(&["--describe", "--all"]);
    assert!(all.contains("retention.ms=604800000"), "{all}");
}
