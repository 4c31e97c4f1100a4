//! `homing broker`: the embedded broker alone.

use crate::cli::Global;
use crate::config::{Place, Settings};
use crate::exit::{Ending, Failure, Outcome};
use crate::{signals, stdout};
use clap::Args;
use homing_broker::{Broker, BrokerError, BrokerOptions};
use serde_json::json;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

/// Flags of `homing broker`.
#[derive(Debug, Args)]
pub struct Flags {
    /// Where everything is kept; created when missing
    #[arg(long)]
    dir: PathBuf,
    /// The address to serve on; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092")]
    listen: String,
    /// Where clients are told to find it, when that is not where they reached it first
    #[arg(long, value_name = "HOST[:PORT]")]
    advertise: Option<String>,
    /// Serve other machines too: whoever reaches the port may read, write and delete everything
    #[arg(long)]
    allow_remote: bool,
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
    if let Some(advertise) = &flags.advertise {
        settings.set("broker.advertise", advertise, Place::Flag("--advertise"))?;
    }
    let listen = listen(flags)?;
    let shutdown = signals::shutdown_on_signals()?;
    let options = BrokerOptions { listen, ..settings.broker(flags.dir.clone())? };
    if !listen.ip().is_loopback() {
        tracing::warn!(%listen, "other machines may read, write and delete everything: there is no password and no TLS");
    }
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

/// The address to serve on: this machine's own, unless other machines are explicitly let in.
fn listen(flags: &Flags) -> Result<SocketAddr, Failure> {
    let named = || format!("--listen {}", flags.listen);
    let mut found = flags
        .listen
        .to_socket_addrs()
        .map_err(|error| Failure::new(format!("{}: {error}", named())).help("write HOST:PORT"))?;
    let listen = found.next().ok_or_else(|| Failure::new(format!("{}: no such host", named())))?;
    if listen.ip().is_loopback() || flags.allow_remote {
        return Ok(listen);
    }
    let why = format!("{}: other machines would reach a broker that asks nobody for a password", named());
    let help = "listen on 127.0.0.1; or, where the network itself is trusted, add --allow-remote";
    Err(Failure::new(why).help(help))
}

fn explain(error: &BrokerError) -> Failure {
    let help = match error {
        BrokerError::InUse { .. } => "stop the other one, or name another --dir",
        BrokerError::Listen { .. } => "name another address with --listen, e.g. 127.0.0.1:0 for a free port",
        BrokerError::Dir { .. } => "the directory must be writable and hold nothing but a broker's data",
        BrokerError::Options(_) => "change one of the two in [broker]",
        BrokerError::Threads(_) => "raise the limit on threads or memory",
    };
    Failure::new(format!("start the broker: {error}")).help(help)
}
