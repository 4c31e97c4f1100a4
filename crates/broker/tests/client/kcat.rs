//! An independent client: kcat with Debian's librdkafka.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{Group, Producer, Target, eventually};

/// A running kcat; killed when dropped.
pub struct Kcat {
    child: Child,
    printed: Arc<AtomicBool>,
}

impl Kcat {
    /// Reads `topic` as a member of `group`, with a session of 6 s.
    pub fn group_member(bootstrap: &str, group: &str, topic: &str) -> Self {
        let settings = ["-X", "session.timeout.ms=6000", "-X", "heartbeat.interval.ms=100"];
        let mut child = command()
            .args(["-b", bootstrap, "-u", "-q", "-X", "auto.offset.reset=earliest"])
            .args(settings)
            .args(["-G", group, topic])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| missing(&e));
        let output = BufReader::new(child.stdout.take().unwrap());
        let printed = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&printed);
        std::thread::spawn(move || {
            for _ in output.lines() {
                seen.store(true, Ordering::SeqCst);
            }
        });
        Self { child, printed }
    }

    pub fn has_printed(&self) -> bool {
        self.printed.load(Ordering::SeqCst)
    }

    /// SIGKILL: no goodbye.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGSTOP: its connections stay open.
    pub fn stop(&mut self) {
        let status = Command::new("kill").args(["-STOP", &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Kcat {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command() -> Command {
    Command::new("kcat")
}

fn missing(error: &std::io::Error) -> ! {
    panic!("cannot run kcat ({error}); install it with: sudo apt-get install kcat")
}

/// Runs kcat to its end, feeding it `input`.
fn kcat(bootstrap: &str, args: &[&str], input: &str) -> Output {
    let mut child = command()
        .args(["-b", bootstrap])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| missing(&e));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn stdout(bootstrap: &str, args: &[&str], input: &str) -> String {
    let output = kcat(bootstrap, args, input);
    assert!(output.status.success(), "kcat {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn kcat_lists_brokers_and_topics() {
    let target = Target::start();
    let topic = target.topic(3);
    let listed = stdout(target.bootstrap(), &["-L", "-t", &topic], "");
    assert!(listed.contains(&format!("topic \"{topic}\" with 3 partitions")), "{listed}");
    assert!(listed.contains("partition 2, leader"), "{listed}");
}

#[test]
fn kcat_produces_and_consumes_keys_values_and_headers() {
    let target = Target::start();
    let topic = target.topic(1);
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let send = ["-P", "-t", &topic, "-K", ":", "-z", codec, "-H", "from=kcat", "-p", "0"];
        stdout(target.bootstrap(), &send, &format!("k1:{codec} one\nk2:{codec} two\n"));
    }
    let read = ["-C", "-t", &topic, "-p", "0", "-e", "-q", "-f", "%o %k=%s %h\\n", "-o", "beginning"];
    let lines = stdout(target.bootstrap(), &read, "");
    let expected: Vec<String> = ["none", "gzip", "snappy", "lz4", "zstd"]
        .iter()
        .enumerate()
        .flat_map(|(n, codec)| {
            let at = n * 2;
            [format!("{at} k1={codec} one from=kcat"), format!("{} k2={codec} two from=kcat", at + 1)]
        })
        .collect();
    assert_eq!(lines.lines().collect::<Vec<_>>(), expected);
    let ours = Group::assigned(target.bootstrap(), &topic, 1, &[]).read(10);
    assert_eq!(ours[9].text(), "zstd two");
}

#[test]
fn kcat_produces_idempotently_and_asks_for_offsets() {
    let target = Target::start();
    let topic = target.topic(1);
    let lines: String = (0..1000).map(|n| format!("{n}\n")).collect();
    let send = ["-P", "-t", &topic, "-p", "0", "-X", "enable.idempotence=true"];
    stdout(target.bootstrap(), &send, &lines);
    let offsets = stdout(target.bootstrap(), &["-Q", "-t", &format!("{topic}:0:-1")], "");
    assert!(offsets.contains("offset 1000"), "{offsets}");
    let read = stdout(target.bootstrap(), &["-C", "-t", &topic, "-p", "0", "-e", "-q"], "");
    assert_eq!(read, lines);
}

#[test]
fn kcat_reads_in_a_group_beside_another_member() {
    let target = Target::start();
    let topic = target.topic(2);
    let group = target.name("group");
    let ours = Group::subscribed(target.bootstrap(), &group, &topic, &[]);
    let theirs = Kcat::group_member(target.bootstrap(), &group, &topic);
    let producer = Producer::new(target.bootstrap(), &[]);
    eventually("both read", || {
        producer.fill(&topic, 2, 1);
        let record = ours.poll().map(Result::unwrap);
        (theirs.has_printed() && record.is_some() && ours.owned().len() == 1).then_some(())
    });
}
