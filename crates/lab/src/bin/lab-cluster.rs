//! Starts Apache Kafka for one command: `lab-cluster run [--nodes N] [--secure] [--set KEY=VALUE]… -- COMMAND…`, `lab-cluster fetch`.
//!
//! The command finds the cluster in `HOMING_TEST_BOOTSTRAP`; with `--secure` also the folder of `ca.pem`, `client.pem`
//! and `client.key` in `HOMING_TEST_CERTS`, and the other listeners in
//! `HOMING_TEST_BOOTSTRAP_SSL`, `_SASL_SSL` and `_MTLS`. Its exit code is ours; 2 when there is no cluster.
//! `lab-cluster hold panic|killed|shared` is for the harness's own test: it starts
//! nodes, prints their directory and process ids, and ends in this way.
#![allow(unsafe_code)] // signal dispositions

use homing_lab::cluster::fetch::{self, Kafka};
use homing_lab::cluster::{Cluster, ClusterError, ClusterOptions, Listener};
use homing_lab::process::spawn_bound;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode};

const USAGE: &str =
    "usage: lab-cluster run [--nodes N] [--secure] [--set KEY=VALUE]… -- COMMAND…\n       lab-cluster fetch";

enum Wanted {
    Fetch,
    Hold { end: String },
    Run { options: ClusterOptions, command: Vec<String> },
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match parse(&args) {
        Err(wrong) => {
            eprintln!("lab-cluster: {wrong}\n{USAGE}");
            return ExitCode::from(2);
        }
        Ok(Wanted::Fetch) => Kafka::find(&fetch::version()).map(|kafka| {
            println!("{}", kafka.jars().display());
            ExitCode::SUCCESS
        }),
        Ok(Wanted::Hold { end }) => hold(&end),
        Ok(Wanted::Run { options, command }) => run(options, &command),
    };
    result.unwrap_or_else(|error| {
        eprintln!("lab-cluster: {error}");
        ExitCode::from(2)
    })
}

fn parse(args: &[String]) -> Result<Wanted, String> {
    let mut args = args.iter();
    match args.next().map(String::as_str) {
        Some("fetch") if args.len() == 0 => return Ok(Wanted::Fetch),
        Some("hold") if args.len() == 1 => return Ok(Wanted::Hold { end: args.as_slice()[0].clone() }),
        Some("run") => {}
        _ => return Err("say run or fetch".to_owned()),
    }
    let mut options = ClusterOptions::default();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--nodes" => {
                let nodes = args.next().and_then(|n| n.parse().ok());
                options.nodes = nodes.ok_or("--nodes wants a number")?;
            }
            "--secure" => options.secure = true,
            "--set" => {
                let setting = args.next().and_then(|setting| setting.split_once('='));
                let (key, value) = setting.ok_or("--set wants KEY=VALUE of server.properties")?;
                options.settings.insert(key.to_owned(), value.to_owned());
            }
            "--" => break,
            other => return Err(format!("unknown argument {other}")),
        }
    }
    let command: Vec<String> = args.cloned().collect();
    if command.is_empty() {
        Err("no command behind --".to_owned())
    } else {
        Ok(Wanted::Run { options, command })
    }
}

/// Starts nodes and ends as a test might: by a panic, by a signal from outside, or in order.
fn hold(end: &str) -> Result<ExitCode, ClusterError> {
    let tell = |cluster: &Cluster| {
        let pids = cluster.nodes().iter().filter_map(|node| node.pid());
        let pids: Vec<String> = pids.map(|pid| pid.to_string()).collect();
        println!("{} {}", cluster.dir().display(), pids.join(" "));
    };
    if end == "shared" {
        tell(Cluster::shared());
        return Ok(ExitCode::SUCCESS);
    }
    // Not dropped in any case: the nodes must go with the process alone.
    let options = ClusterOptions { nodes: 1, ..ClusterOptions::default() };
    let cluster = std::mem::ManuallyDrop::new(Cluster::start(options)?);
    tell(&cluster);
    assert!(end != "panic", "a panic, as asked");
    loop {
        std::thread::park();
    }
}

fn run(options: ClusterOptions, command: &[String]) -> Result<ExitCode, ClusterError> {
    let (nodes, secure) = (options.nodes, options.secure);
    let cluster = Cluster::start(options)?;
    eprintln!(
        "lab-cluster: Apache Kafka {} with {nodes} nodes at {} after {:.1} s, logs in {}",
        cluster.kafka().version(),
        cluster.bootstrap(),
        cluster.start_time().as_secs_f64(),
        cluster.dir().display()
    );
    // Ctrl-C reaches the command as well; we stay to stop the cluster after it.
    // SAFETY: changes only how this process takes SIGINT.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
    let mut child = Command::new(&command[0]);
    child.args(&command[1..]).env("HOMING_TEST_BOOTSTRAP", cluster.bootstrap());
    if secure {
        child
            .env("HOMING_TEST_CERTS", cluster.certs().authority().dir())
            .env("HOMING_TEST_BOOTSTRAP_SSL", cluster.bootstrap_of(Listener::Ssl))
            .env("HOMING_TEST_BOOTSTRAP_SASL_SSL", cluster.bootstrap_of(Listener::SaslSsl))
            .env("HOMING_TEST_BOOTSTRAP_MTLS", cluster.bootstrap_of(Listener::MutualTls));
    }
    // SAFETY: signal takes no pointer to memory of ours and is async-signal-safe.
    unsafe {
        child.pre_exec(|| {
            libc::signal(libc::SIGINT, libc::SIG_DFL);
            Ok(())
        });
    }
    let failed = |error| ClusterError::Io { doing: command[0].clone(), error };
    let status = spawn_bound(child).map_err(failed)?.wait().map_err(failed)?;
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(2);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(2)))
}
