//! Whoever reads what we say may be slow, stopped or gone, and signals come twice: work goes on, and ends when told.

use crate::support::{Home, wait_until};
use serde_json::json;
use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Write, pipe};
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A process that is killed when a test fails.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        // Ended already is the usual case.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Service {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// SIGTERM, and an end by itself.
    fn drains(mut self) {
        self.signal("TERM");
        wait_until("it drains and ends", || self.0.try_wait().unwrap().is_some());
        assert_eq!(self.0.wait().unwrap().code(), Some(0));
    }
}

fn sends_and_settles(home: &Home, rows: usize) {
    let before = settled(home);
    let lines: String = (0..rows).map(|n| format!("{n}\n")).collect();
    home.run_with(["send", "--topic", &home.orders], lines.as_bytes()).expect(0, &[]);
    wait_until("all is settled", || settled(home) == before + rows as u64);
}

fn settled(home: &Home) -> u64 {
    let status = home.run(["status", "--json"]).json();
    status["lanes"].as_array().unwrap().iter().map(|lane| lane["settled"].as_u64().unwrap()).sum()
}

/// How many bytes wait in a pipe.
fn waiting(reader: &PipeReader) -> usize {
    let mut count: i32 = 0;
    #[allow(unsafe_code)]
    // SAFETY: FIONREAD writes one int.
    let answered = unsafe { libc::ioctl(reader.as_raw_fd(), libc::FIONREAD, &raw mut count) };
    assert_eq!(answered, 0);
    count as usize
}

#[test]
fn a_log_reader_that_went_away_stops_neither_the_relay_nor_its_end() {
    let home = Home::new();
    let (reader, writer) = pipe().unwrap();
    let relay = Service::start(home.command(["run"]).stdout(Stdio::null()).stderr(writer));
    let mut first = String::new();
    BufReader::new(reader).read_line(&mut first).unwrap();
    assert!(!first.is_empty());
    // The reader is gone, as after `homing run 2>&1 | head -1`.
    sends_and_settles(&home, 20);
    relay.drains();
}

#[test]
fn a_log_reader_that_stopped_reading_stops_neither_the_relay_nor_its_end() {
    let home = Home::new();
    let (reader, writer) = pipe().unwrap();
    #[allow(unsafe_code)]
    // SAFETY: sets the pipe's size to one page, so that few lines fill it.
    let size = unsafe { libc::fcntl(reader.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) };
    assert_eq!(size, 4096);
    // Full from the start: the first line already finds no room.
    (&writer).write_all(&[b'.'; 4096]).unwrap();
    let relay = Service::start(home.command(["run", "-vvv"]).stdout(Stdio::null()).stderr(writer));
    sends_and_settles(&home, 20);
    assert_eq!(waiting(&reader), 4096);
    relay.drains();
}

#[test]
fn a_full_disk_under_the_log_and_the_status_lines_stops_nothing() {
    let home = Home::new();
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let relay =
        Service::start(home.command(["run", "--json", "--every-ms", "10"]).stdout(full()).stderr(full()));
    sends_and_settles(&home, 20);
    relay.drains();
}

#[test]
fn a_reader_of_status_lines_that_went_away_is_told_of_and_stops_nothing() {
    let home = Home::new();
    let (reader, writer) = pipe().unwrap();
    let log = home.path().join("run.err");
    let relay = Service::start(
        home.command(["run", "--json", "--every-ms", "10"])
            .stdout(writer)
            .stderr(File::create(&log).unwrap()),
    );
    let mut first = String::new();
    BufReader::new(reader).read_line(&mut first).unwrap();
    assert!(first.contains("\"event\":\"status\""), "{first}");
    wait_until("it says that nobody reads", || {
        std::fs::read_to_string(&log).unwrap().contains("standard output is closed")
    });
    sends_and_settles(&home, 20);
    relay.drains();
}

#[test]
fn a_second_signal_ends_whatever_hangs() {
    let home = Home::new();
    let lines: String = (0..2000).map(|n| format!("{n} {}\n", "x".repeat(500))).collect();
    home.run_with(["send", "--topic", &home.orders], lines.as_bytes()).expect(0, &[]);
    home.run(["run", "--until-drained"]).expect(0, &[]);
    let (reader, writer) = pipe().unwrap();
    let args = ["consume", "--topic", &home.orders, "--group", &home.group];
    let patient = ["--set", "consumer.drain_timeout_ms=3600000"];
    let mut consume =
        Service::start(home.command(args.into_iter().chain(patient)).stdout(writer).stderr(Stdio::null()));
    // Printing waits for a reader that takes nothing, so a drain would take an hour.
    wait_until("standard output is full", || waiting(&reader) >= 60_000);
    wait_until("two signals have ended it", || {
        consume.signal("TERM");
        std::thread::sleep(Duration::from_millis(100));
        consume.0.try_wait().unwrap().is_some()
    });
    assert_eq!(consume.0.wait().unwrap().signal(), Some(15));
}

#[test]
fn a_terminal_that_closes_drains_and_nohup_is_kept() {
    let home = Home::new();
    let relay = home.start("run", ["run"]);
    wait_until("the relay runs", || relay.err().contains("relaying"));
    sends_and_settles(&home, 5);
    relay.stop("HUP").expect(0, &["finishing what is under way", "stopped"]);

    let log = home.path().join("nohup.err");
    let mut command = Command::new("sh");
    command
        .args(["-c", "trap '' HUP; exec \"$0\" run", env!("CARGO_BIN_EXE_homing")])
        .current_dir(home.path());
    let mut relay = Service::start(
        command.stdout(Stdio::null()).stderr(File::create(&log).unwrap()).stdin(Stdio::null()),
    );
    wait_until("the relay runs", || std::fs::read_to_string(&log).unwrap().contains("relaying"));
    relay.signal("HUP");
    sends_and_settles(&home, 5);
    assert!(relay.0.try_wait().unwrap().is_none());
    assert!(!std::fs::read_to_string(&log).unwrap().contains("finishing"));
    relay.drains();
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let home = Home::new();
    home.sql()
        .execute_batch(
            "INSERT INTO homing_dead_letter (row_id, topic, payload_text, created_at_ms, code, reason, rejected_at_ms) \
             VALUES (1, 't', 'x', 1, 'too_large', 'a reason', 1), (2, 't', 'x', 1, 'too_large', 'a reason', 1)",
        )
        .unwrap();
    for args in [&["dlq", "list", "--json"][..], &["dlq", "list"], &["status"]] {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let output = home.command(args).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: the findings are still found: {err}");
        assert!(!err.contains("error"), "{args:?}: {err}");
    }
    assert_eq!(home.run(["dlq", "list", "--json"]).json_lines()[0]["code"], json!("too_large"));
}

#[test]
fn the_limit_on_open_files_is_raised_as_far_as_the_system_allows() {
    let home = Home::new();
    let log = home.path().join("run.err");
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -Sn 256; exec \"$0\" run", env!("CARGO_BIN_EXE_homing")]);
    command.current_dir(home.path()).stdout(Stdio::null()).stdin(Stdio::null());
    let relay = Service::start(command.stderr(File::create(&log).unwrap()));
    wait_until("the relay runs", || std::fs::read_to_string(&log).unwrap().contains("relaying"));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", relay.0.id())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let soft = files.split_whitespace().nth(3).unwrap();
    assert!(soft == "unlimited" || soft.parse::<u64>().unwrap() > 256, "{files}");
    relay.drains();
}
