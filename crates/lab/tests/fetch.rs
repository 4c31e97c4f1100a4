//! Fetching Kafka: once, whole or not at all, with words that help when a program is missing.
#![allow(clippy::unwrap_used)] // everything in this file is a test

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A machine with a cache of its own, and only these programs: nothing here reaches the network.
struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    fn with(programs: &[&str]) -> Self {
        let machine = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(machine.bin()).unwrap();
        for program in programs {
            match *program {
                "java" => machine.script("java", "exit 0"),
                "mvn" => machine.script("mvn", MAVEN),
                "broken mvn" => machine.script("mvn", BROKEN_MAVEN),
                other => panic!("unknown program {other}"),
            }
        }
        for tool in ["mkdir", "touch", "sleep"] {
            symlink(Path::new("/bin").join(tool), machine.bin().join(tool)).unwrap();
        }
        machine
    }

    fn bin(&self) -> PathBuf {
        self.dir.path().join("bin")
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache/homing")
    }

    fn script(&self, name: &str, text: &str) {
        let path = self.bin().join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn fetch(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab-cluster"));
        command
            .arg("fetch")
            .env_clear()
            .env("PATH", self.bin())
            .env("XDG_CACHE_HOME", self.dir.path().join("cache"))
            .env("CALLS", self.dir.path().join("calls"))
            .env("HOMING_KAFKA_VERSION", "9.8.7")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn maven_calls(&self) -> usize {
        fs::read_to_string(self.dir.path().join("calls")).unwrap_or_default().lines().count()
    }
}

/// Takes its time, so that two who fetch would meet.
const MAVEN: &str = r#"echo called >> "$CALLS"
for arg in "$@"; do
  case "$arg" in -DoutputDirectory=*) out=${arg#-DoutputDirectory=} ;; esac
done
mkdir "$out"
sleep 0.3
touch "$out/kafka-clients-9.8.7.jar""#;

/// Copies something and fails, as a broken line does.
const BROKEN_MAVEN: &str = r#"echo called >> "$CALLS"
for arg in "$@"; do
  case "$arg" in -DoutputDirectory=*) out=${arg#-DoutputDirectory=} ;; esac
done
mkdir "$out"
touch "$out/half.jar"
echo "[ERROR] Could not transfer artifact"
exit 1"#;

fn printed(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn two_processes_fetch_once_and_the_next_needs_no_maven() {
    let machine = Machine::with(&["java", "mvn"]);
    let jars = machine.cache().join("kafka-9.8.7");
    let both = [machine.fetch().spawn().unwrap(), machine.fetch().spawn().unwrap()];
    for one in both {
        let output = one.wait_with_output().unwrap();
        assert_eq!(printed(&output), (jars.display().to_string(), String::new()));
    }
    assert_eq!(machine.maven_calls(), 1);
    assert!(jars.join("kafka-clients-9.8.7.jar").is_file());

    fs::remove_file(machine.bin().join("mvn")).unwrap();
    let again = machine.fetch().output().unwrap();
    assert!(again.status.success(), "{:?}", printed(&again));
}

#[test]
fn a_fetch_that_fails_leaves_nothing_that_looks_fetched() {
    let machine = Machine::with(&["java", "broken mvn"]);
    for calls in 1..=2 {
        let output = machine.fetch().output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let (_, told) = printed(&output);
        assert!(told.contains("Could not transfer artifact"), "{told}");
        assert_eq!(machine.maven_calls(), calls, "the second asks again");
    }
    let left: Vec<_> = fs::read_dir(machine.cache()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["kafka-9.8.7.lock"]);
}

#[test]
fn what_is_missing_is_told_with_the_command_that_installs_it() {
    for (programs, wanted) in [
        (
            &["mvn"][..],
            "java (17 or later) is not installed: it comes with `apt-get install openjdk-17-jdk-headless`",
        ),
        (&["java"], "mvn (Maven) is not installed: it comes with `apt-get install maven`"),
    ] {
        let output = Machine::with(programs).fetch().output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let (_, told) = printed(&output);
        assert!(told.contains(wanted), "{told}");
    }
}

#[test]
fn an_unpacked_distribution_is_used_where_it_is() {
    let machine = Machine::with(&["java"]);
    let libs = machine.dir.path().join("kafka_2.13-9.9.9/libs");
    let fetch = |home: &Path| machine.fetch().env("KAFKA_HOME", home).output().unwrap();
    let empty = fetch(machine.dir.path());
    assert_eq!(empty.status.code(), Some(2));
    assert!(printed(&empty).1.contains("KAFKA_HOME"), "{:?}", printed(&empty));

    fs::create_dir_all(&libs).unwrap();
    fs::write(libs.join("kafka-clients-9.9.9.jar"), "").unwrap();
    let output = fetch(libs.parent().unwrap());
    assert_eq!(printed(&output), (libs.display().to_string(), String::new()));
    assert!(!machine.cache().exists());
}
