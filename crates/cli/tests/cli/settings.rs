//! Settings that are wrong, and which one wins.

use crate::support::Home;

fn with(text: &str) -> Home {
    let home = Home::new();
    home.file("homing.toml", format!("[stream]\nname = \"orders\"\ndatabase = \"sqlite:orders.db\"\n{text}"));
    home
}

#[test]
fn a_wrong_file_is_named_with_its_line_and_key() {
    for (text, said) in [
        ("[relay]\nbatch_row = 5\n", ["homing.toml:5", "relay.batch_row", "relay.batch_rows"]),
        ("[relay]\nlease_ms = \"long\"\n", ["homing.toml:5", "relay.lease_ms", "milliseconds"]),
        ("[relai]\n", ["homing.toml:4", "[relai]", "relay"]),
        ("[kafka.client]\nacks = 1\n", ["homing.toml:5", "acks", "all"]),
        ("[relay\n", ["homing.toml:4", "TOML", "section"]),
        (
            "[relay]\nbatch_rows = 10\nbatch_rows_max = 5\n",
            ["homing.toml:5", "homing.toml:6", "batch_rows_max"],
        ),
        ("[relay]\nlease_ms = 1000\n", ["homing.toml:5", "request_timeout", "lease"]),
    ] {
        with(text).run(["run", "--until-drained"]).expect(2, &said);
    }
}

#[test]
fn a_wrong_variable_or_flag_is_named() {
    let home = with("");
    let run = |name: &str, value: &str, said: &[&str]| {
        let mut command = home.command(["status"]);
        let output = command.env(name, value).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{err}");
        said.iter().for_each(|part| assert!(err.contains(part), "{part:?} is not in: {err}"));
    };
    run("HOMING_RELAY_LEASE_MS", "soon", &["HOMING_RELAY_LEASE_MS", "relay.lease_ms", "milliseconds"]);
    run("HOMING_RELAY_LEASE", "1", &["HOMING_RELAY_LEASE", "HOMING_RELAY_LEASE_MS"]);
    run("HOMING_STREAM_DATABASE", "postgres://x", &["HOMING_STREAM_DATABASE", "SQLite"]);
    run("HOMING_DATABASE", "sqlite:a.db", &["HOMING_DATABASE", "is not a setting"]);
    home.run(["status", "--set", "relay.poll_min_ms=100"]).expect(2, &["poll_max", "poll_min", "--set"]);
    home.run(["status", "--set", "relay.lease=1"]).expect(2, &["--set", "relay.lease_ms"]);
    home.run(["status", "--set", "relay.lease_ms"]).expect(2, &["--set", "="]);
    home.run(["status", "--config", "none.toml"]).expect(2, &["none.toml", "homing init"]);
    home.run(["consume", "--topic", "t", "--group", "g", "--exec", "true", "--workers", "0"])
        .expect(2, &["--workers", "at least 1"]);
}

#[test]
fn a_flag_wins_over_a_variable_and_a_variable_over_the_file() {
    let home = with("");
    home.run(["init", "--config", "b.toml", "--stream", "b"]).expect(0, &[]);
    home.run(["init", "--config", "c.toml", "--stream", "c"]).expect(0, &[]);
    let stream = |args: &[&str], variables: &[(&str, &str)]| {
        let mut command = home.command(["status", "--json"]);
        let output = command.args(args).envs(variables.iter().copied()).output().unwrap();
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        status["stream"].as_str().unwrap().to_owned()
    };
    let variables = [("HOMING_STREAM_NAME", "b"), ("HOMING_STREAM_DATABASE", "sqlite:b.db")];
    assert_eq!(stream(&[], &[]), "orders");
    assert_eq!(stream(&[], &variables), "b");
    assert_eq!(stream(&["--set", "stream.name=c", "--set", "stream.database=sqlite:c.db"], &variables), "c");
    assert_eq!(stream(&["--config", "c.toml"], &[]), "c");
}

#[test]
fn a_variable_that_a_cluster_sets_for_a_service_called_homing_is_no_setting() {
    let home = with("");
    let mut command = home.command(["status"]);
    command.env("HOMING_PORT", "tcp://10.0.0.7:9092").env("HOMING_BROKER_SERVICE_HOST", "10.0.0.7");
    assert_eq!(command.output().unwrap().status.code(), Some(0));
}

#[test]
fn without_any_settings_it_says_how_to_begin() {
    let home = Home::empty();
    for args in [&["status"][..], &["run"], &["send", "--topic", "t"], &["dlq", "list"]] {
        home.run(args).expect(2, &["homing init"]);
    }
}
