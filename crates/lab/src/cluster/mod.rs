//! Apache Kafka as a cluster of real processes on this machine, to be broken on purpose.
//!
//! [`Cluster::start`] fetches Kafka once ([`fetch`]), formats and starts the
//! nodes, and returns when each of them knows all of them and a controller. The
//! nodes end with the [`Cluster`], and with this process however it ends: they
//! are children that the kernel kills.
//!
//! ```no_run
//! use homing_lab::cluster::{Cluster, ClusterOptions};
//!
//! let cluster = Cluster::start(ClusterOptions::default())?;
//! cluster.create_topic("orders", 3, 3, &[("min.insync.replicas", "2")])?;
//! let leader = cluster.leader_of("orders", 0);
//! cluster.node(leader).kill()?;
//! assert_ne!(cluster.wait_leader_other_than("orders", 0, leader)?, leader);
//! cluster.node(leader).start()?;
//! cluster.wait_ready()?;
//! # Ok::<(), homing_lab::cluster::ClusterError>(())
//! ```

pub mod acls;
pub mod certs;
mod connection;
mod dir;
mod error;
pub mod fetch;
mod format;
mod link;
mod moves;
mod node;
mod options;
mod ports;
mod power;
mod properties;
pub mod secure;
mod shared;
mod view;

pub use connection::Connection;
pub use error::ClusterError;
pub use link::Link;
pub use moves::Election;
pub use node::Node;
pub use options::{ClusterOptions, Jvm, Storage};
pub use ports::free_ports;

use crate::faults::{Environment, Links};
use dir::ClusterDir;
use fetch::Kafka;
use properties::Place;
use secure::Certs;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often a start is tried when strangers take ports.
const STARTS_MAX: usize = 3;

/// A way for clients to talk to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Listener {
    /// No TLS, no login; a super user.
    Plain,
    /// TLS, the client without a certificate; a super user.
    Ssl,
    /// TLS and a login, `PLAIN` or `SCRAM-SHA-512`.
    SaslSsl,
    /// TLS with a certificate on both sides.
    MutualTls,
}

impl Listener {
    /// Every listener, in the order of the ports.
    pub const ALL: [Self; 4] = [Self::Plain, Self::Ssl, Self::SaslSsl, Self::MutualTls];

    /// Its name in Kafka's settings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAINTEXT",
            Self::Ssl => "SSL",
            Self::SaslSsl => "SASL_SSL",
            Self::MutualTls => "MTLS",
        }
    }

    /// Its `security.protocol`.
    #[must_use]
    pub fn protocol(self) -> &'static str {
        match self {
            Self::MutualTls => "SSL",
            other => other.name(),
        }
    }
}

/// A running cluster; its end is the nodes' end.
#[derive(Debug)]
pub struct Cluster {
    // Before `dir`: processes end before their directory goes.
    nodes: Vec<Node>,
    sockets: Vec<Sockets>,
    environment: Environment,
    kafka: Kafka,
    certs: Option<Certs>,
    id: String,
    start_time: Duration,
    dir: ClusterDir,
}

/// Where a node binds, and what it tells others.
#[derive(Debug)]
struct Sockets {
    brokers: SocketAddr,
    controller: SocketAddr,
    /// Listener, bound, advertised.
    clients: Vec<(Listener, SocketAddr, SocketAddr)>,
}

impl Sockets {
    fn bound(&self) -> Vec<SocketAddr> {
        let clients = self.clients.iter().map(|(_, bound, _)| *bound);
        [self.brokers, self.controller].into_iter().chain(clients).collect()
    }
}

impl Cluster {
    /// Starts a cluster and waits until it is ready.
    ///
    /// # Errors
    /// When Java or Kafka is missing, an option cannot be, or a node does not start.
    pub fn start(options: ClusterOptions) -> Result<Self, ClusterError> {
        options.validate()?;
        let kafka = Kafka::find(&options.version)?;
        let mut starts = 1;
        loop {
            match Self::try_start(&kafka, &options) {
                Err(ClusterError::PortTaken { node }) if starts < STARTS_MAX => {
                    tracing::info!(node, "a port is taken; starting with others");
                    starts += 1;
                }
                result => return result,
            }
        }
    }

    fn try_start(kafka: &Kafka, options: &ClusterOptions) -> Result<Self, ClusterError> {
        let began = Instant::now();
        let dir = ClusterDir::create()?;
        let environment = Environment::new(options).map_err(ClusterError::io("links and disks"))?;
        let sockets = choose_sockets(options, &environment)?;
        let certs = options.secure.then(|| Certs::create(&dir.path().join("certs"), options.nodes));
        let certs = certs.transpose()?;
        let mut nodes = Vec::new();
        for index in 0..options.nodes {
            let dir = dir.path().join(format!("node{}", index + 1));
            std::fs::create_dir_all(&dir).map_err(ClusterError::file(&dir))?;
            let mut settings = settings(index, &dir, &sockets, &environment)?;
            settings.extend(certs.as_ref().map(|certs| certs.settings(index)).unwrap_or_default());
            settings.extend(options.settings.clone());
            nodes.push(Node::new(index, kafka.clone(), options.jvm, dir, sockets[index].bound(), settings)?);
        }
        let log_dirs: Vec<_> = nodes.iter().map(Node::data_dir).collect();
        let scram = if options.secure { secure::scram_arguments() } else { Vec::new() };
        let id = format::format(kafka, &nodes[0].dir().join("server.properties"), &log_dirs, &scram)?;
        let (kafka, start_time) = (kafka.clone(), Duration::ZERO);
        let mut cluster = Self { nodes, sockets, environment, kafka, certs, id, start_time, dir };
        for node in &cluster.nodes {
            node.start()?;
        }
        cluster.wait_ready()?;
        cluster.start_time = began.elapsed();
        tracing::info!(nodes = cluster.nodes.len(), took_ms = began.elapsed().as_millis(), "Kafka is ready");
        Ok(cluster)
    }

    /// The `bootstrap.servers` for clients without TLS.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        self.bootstrap_of(Listener::Plain)
    }

    /// The `bootstrap.servers` of one kind of listener.
    ///
    /// # Panics
    /// When the cluster was not started as `secure` and has no such listener.
    #[must_use]
    pub fn bootstrap_of(&self, listener: Listener) -> String {
        let address = |sockets: &Sockets| {
            let of = sockets.clients.iter().find(|(of, ..)| *of == listener);
            of.expect("only a secure cluster has this listener").2.to_string()
        };
        self.sockets.iter().map(address).collect::<Vec<_>>().join(",")
    }

    /// The address of a node's plaintext listener itself, with nothing in between.
    ///
    /// # Panics
    /// When there is no node `index`.
    #[must_use]
    pub fn address_of(&self, index: usize) -> SocketAddr {
        let plain = self.sockets[index].clients.iter().find(|(of, ..)| *of == Listener::Plain);
        plain.expect("every node has a plaintext listener").1
    }

    /// A node by its index, which is its node id less one.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    /// All nodes, in the order of their ids.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The cluster id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Kafka's jars and tools.
    #[must_use]
    pub fn kafka(&self) -> &Kafka {
        &self.kafka
    }

    /// The cluster's directory: one below it per node.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// How long it took from the choice of ports until it was ready.
    #[must_use]
    pub fn start_time(&self) -> Duration {
        self.start_time
    }

    /// What stands between the nodes and the world.
    #[must_use]
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The links between nodes and to clients.
    ///
    /// # Panics
    /// When the cluster was not started with `link_proxies`.
    #[must_use]
    pub fn links(&self) -> &Links {
        self.environment.links().expect("only a cluster with link_proxies has links to break")
    }
}

fn choose_sockets(options: &ClusterOptions, environment: &Environment) -> Result<Vec<Sockets>, ClusterError> {
    let listeners = if options.secure { &Listener::ALL[..] } else { &[Listener::Plain] };
    let ports =
        free_ports(options.nodes * (listeners.len() + 2)).map_err(ClusterError::io("choosing ports"))?;
    let mut bound = ports.into_iter().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let mut next = || bound.next().expect("as many ports were chosen as there are sockets");
    let mut all = Vec::new();
    for to in 0..options.nodes {
        let (brokers, controller) = (next(), next());
        let mut clients = Vec::new();
        for &listener in listeners {
            let bound = next();
            let link = Link::Client { to, listener };
            let told = environment.address(link, bound).map_err(ClusterError::io("a link for clients"))?;
            clients.push((listener, bound, told));
        }
        all.push(Sockets { brokers, controller, clients });
    }
    Ok(all)
}

/// The settings of node `index`, whose directory is `dir`, before security and the caller's own.
fn settings(
    index: usize,
    dir: &Path,
    sockets: &[Sockets],
    environment: &Environment,
) -> Result<BTreeMap<String, String>, ClusterError> {
    let link =
        |link, bound| environment.address(link, bound).map_err(ClusterError::io("a link between nodes"));
    let log_dir = environment.log_dir(index, dir).map_err(ClusterError::io("a directory for logs"))?;
    let own = &sockets[index];
    let mut voters = Vec::new();
    for (to, sockets) in sockets.iter().enumerate() {
        voters.push(link(Link::Controller { from: index, to }, sockets.controller)?);
    }
    Ok(properties::of(&Place {
        index,
        nodes: sockets.len(),
        clients: own.clients.clone(),
        brokers: (own.brokers, link(Link::Broker { to: index }, own.brokers)?),
        controller: own.controller,
        voters,
        log_dir: &log_dir,
    }))
}
