//! Passwords show nowhere: not in librdkafka's own logs at their loudest, not in `status`, not in errors.
#![allow(clippy::unwrap_used)] // everything in this file is a test

#[path = "cli/support.rs"]
mod support;

use homing_lab::cluster::acls::{Operation, Resource};
use homing_lab::cluster::secure::{APP, Access};
use homing_lab::cluster::{Cluster, ClusterOptions};
use serde_json::Value;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use support::{Home, PATIENCE};

const WRONG: &str = "hunter2-is-not-it";

/// A child that ends with the test.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn home(cluster: &Cluster) -> Home {
    let home = Home::embedded();
    home.file("password", format!("{}\n", APP.password));
    let settings = cluster.client_settings(Access::SaslScram(APP));
    let file = home.path().join("homing.toml");
    let written = std::fs::read_to_string(&file).unwrap();
    let client = format!(
        "[kafka.client]\ndebug = \"all\"\n\"security.protocol\" = \"sasl_ssl\"\n\"ssl.ca.location\" = {:?}\n\
         \"sasl.mechanism\" = \"SCRAM-SHA-512\"\n\"sasl.username\" = \"{}\"\n\
         \"sasl.password\" = {{ file = \"password\" }}\n",
        settings["ssl.ca.location"], APP.name
    );
    let given = written.replacen(
        "bootstrap = \"embedded\"",
        &format!("bootstrap = {:?}", settings["bootstrap.servers"]),
        1,
    );
    assert_ne!(given, written, "the cluster stands in the file now");
    std::fs::write(file, given + &client).unwrap();
    home
}

fn assert_silent(text: &str) {
    for secret in [APP.password, WRONG] {
        assert!(!text.contains(secret), "{secret} shows");
    }
}

#[test]
fn a_password_shows_in_no_log_no_status_and_no_error() {
    let cluster =
        Cluster::start(ClusterOptions { nodes: 1, secure: true, ..ClusterOptions::default() }).unwrap();
    let home = home(&cluster);
    cluster.create_topic(&home.orders, 1, 1, &[]).unwrap();
    let rights = [Operation::Write, Operation::Read];
    cluster.allow(APP, Resource::Topic(&home.orders), &rights).unwrap();
    home.run_with(["send", "--topic", &home.orders], b"one\n").expect(0, &[]);

    // A password that is wrong: the reason is seen, the password is not.
    let log = std::fs::File::create(home.path().join("run.log")).unwrap();
    let mut command = home.command(["run"]);
    command.env("HOMING_LOG", "trace").env("HOMING_KAFKA_CLIENT_SASL_PASSWORD", WRONG);
    let running = Guard(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        let ended = home.run(["status", "--json"]);
        let status: Value = serde_json::from_str(&ended.out).unwrap();
        if status["waits_code"] == "N05" {
            assert_silent(&format!("{}{}", ended.out, ended.err));
            break status;
        }
        assert!(Instant::now() < deadline, "{status}");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(status["waits_because"].as_str().unwrap().contains("SCRAM-SHA-512"), "{status}");
    assert!(status["waits_since_ms"].is_i64(), "{status}");
    let plain = home.run(["status"]).expect(1, &[]);
    assert!(plain.out.contains("N05"), "{plain:?}");
    assert_silent(&format!("{}{}", plain.out, plain.err));
    drop(running);
    let log = std::fs::read_to_string(home.path().join("run.log")).unwrap();
    assert!(log.contains("sasl.username") || log.contains("AUTH_REQ"), "the log is at its loudest: {log}");
    assert_silent(&log);

    // The right one, from its file.
    let mut command = home.command(["run", "--until-drained", "--json"]);
    let output = command.env("HOMING_LOG", "trace").output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert!(err.contains("SASL_HANDSHAKE") || err.contains("AUTH_REQ"), "the log is at its loudest");
    assert_silent(&out);
    assert_silent(&err);
}
