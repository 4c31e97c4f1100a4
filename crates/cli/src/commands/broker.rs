//! `homing broker`: the embedded broker alone.

use crate::cli::Global;
use crate::config::{Place, Settings};
use crate::exit::{Ending, Failure, Outcome};
use crate::{signals, stdout};
use clap::Args;
use homing_broker::{Broker, BrokerError, BrokerOptions};
use serde_json::json;
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::time::Duration;

/// Flags of `homing broker`.
#[derive(Debug, Args)]
pub struct Flags {
    /// Where everything is kept; created when missing
    #[arg(long)]
    dir: PathBuf,
    /// The address to serve on and to tell clients; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092")]
    listen: String,
    /// When records are on disk: before they are acknowledged, every so often, or when the system likes
    #[arg(long, value_parser = ["always", "interval", "never"])]
    flush: Option<String>,
}

/// Serves until SIGTERM or SIGINT; prints one line with the address once it can serve.
pub fn run(flags: &Flags, global: &Global) -> Ending {
    let mut settings = Settings::load(&global.sources())?;
    if let Some(flush) = &flags.flush {
        settings.set("broker.flush", flush, Place::Flag("--flush"))?;
    }
    let listen = flags
        .listen
        .to_socket_addrs()
        .map_err(|error| Failure::new(format!("--listen {}: {error}", flags.listen)).help("write HOST:PORT"))?
        .next()
        .ok_or_else(|| Failure::new(format!("--listen {}: no such host", flags.listen)))?;
    let shutdown = signals::shutdown_on_signals()?;
    let options = BrokerOptions { listen, ..settings.broker(flags.dir.clone())? };
    let broker = Broker::start(options).map_err(|error| explain(&error))?;
    if global.json {
        stdout::json(&json!({"address": broker.addr().to_string(), "cluster_id": broker.cluster_id()}))?;
    } else {
        stdout::text(&format!("{}\n", broker.addr()))?;
    }
    tracing::info!(addr = %broker.addr(), cluster_id = broker.cluster_id(), "serving");
    while !shutdown.wait(Duration::from_secs(3600)) {}
    broker.stop();
    Ok(Outcome::Fine)
}

fn explain(error: &BrokerError) -> Failure {
    let help = match error {
        BrokerError::InUse { .. } => "stop the other one, or name another --dir",
        BrokerError::Listen { .. } => "name another address with --listen, e.g. 127.0.0.1:0 for a free port",
        BrokerError::Dir { .. } => "the directory must be writable and hold nothing but a broker's data",
        BrokerError::Threads(_) => "raise the limit on threads or memory",
    };
    Failure::new(format!("start the broker: {error}")).help(help)
}
