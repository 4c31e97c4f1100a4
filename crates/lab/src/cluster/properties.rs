//! A node's `server.properties`: fixed for tests, secure listeners on demand, the caller's last.

use super::Listener;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

/// The listener of brokers for brokers, apart from that for clients so that a link can be cut alone.
pub(super) const BROKERS: &str = "BROKERS";
/// The listener of controllers.
pub(super) const CONTROLLERS: &str = "CONTROLLERS";

/// What distinguishes one node from another.
#[derive(Debug)]
pub(super) struct Place<'a> {
    /// Its index; its node id is one more.
    pub index: usize,
    /// How many nodes there are.
    pub nodes: usize,
    /// Where its listeners for clients bind, and what they advertise.
    pub clients: Vec<(Listener, SocketAddr, SocketAddr)>,
    /// Where its listener for brokers binds, and what it advertises.
    pub brokers: (SocketAddr, SocketAddr),
    /// Where its controller binds.
    pub controller: SocketAddr,
    /// Where it finds each node's controller, in the order of the nodes.
    pub voters: Vec<SocketAddr>,
    /// Where its data is.
    pub log_dir: &'a Path,
}

/// A file of settings as Kafka reads it.
pub(super) fn render(settings: &BTreeMap<String, String>) -> String {
    settings.iter().map(|(name, value)| format!("{name}={}\n", value.replace('\\', "\\\\"))).collect()
}

/// The settings of a node.
pub(super) fn of(place: &Place) -> BTreeMap<String, String> {
    let mut settings: BTreeMap<String, String> =
        FIXED.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let replicas = place.nodes.min(3);
    // One replica may be missing when there are three; with fewer nodes each is needed or alone.
    let min_isr = if replicas == 3 { 2 } else { 1 };
    let mut set = |name: &str, value: String| settings.insert(name.to_owned(), value);
    for name in [
        "default.replication.factor",
        "offsets.topic.replication.factor",
        "transaction.state.log.replication.factor",
        "share.coordinator.state.topic.replication.factor",
    ] {
        set(name, replicas.to_string());
    }
    for name in
        ["min.insync.replicas", "transaction.state.log.min.isr", "share.coordinator.state.topic.min.isr"]
    {
        set(name, min_isr.to_string());
    }
    let id = place.index + 1;
    set("node.id", id.to_string());
    set("broker.rack", format!("rack-{id}"));
    set("log.dirs", place.log_dir.display().to_string());
    set("inter.broker.listener.name", BROKERS.to_owned());
    set("controller.listener.names", CONTROLLERS.to_owned());
    let voter = |(index, address): (usize, &SocketAddr)| format!("{}@{address}", index + 1);
    set("controller.quorum.voters", join(place.voters.iter().enumerate().map(voter)));
    let (bound, advertised) = place.brokers;
    let mut listeners = vec![format!("{BROKERS}://{bound}"), format!("{CONTROLLERS}://{}", place.controller)];
    let mut advertise = vec![format!("{BROKERS}://{advertised}")];
    let mut protocols = vec![format!("{BROKERS}:PLAINTEXT"), format!("{CONTROLLERS}:PLAINTEXT")];
    for (listener, bound, advertised) in &place.clients {
        listeners.push(format!("{}://{bound}", listener.name()));
        advertise.push(format!("{}://{advertised}", listener.name()));
        protocols.push(format!("{}:{}", listener.name(), listener.protocol()));
    }
    set("listeners", join(listeners));
    set("advertised.listeners", join(advertise));
    set("listener.security.protocol.map", join(protocols));
    settings
}

fn join(parts: impl IntoIterator<Item = String>) -> String {
    parts.into_iter().collect::<Vec<_>>().join(",")
}

/// What every node of every test has.
const FIXED: &[(&str, &str)] = &[
    ("process.roles", "broker,controller"),
    ("auto.create.topics.enable", "false"),
    ("delete.topic.enable", "true"),
    // A group of one test need not wait for members of another machine.
    ("group.initial.rebalance.delay.ms", "0"),
    ("group.min.session.timeout.ms", "1000"),
    // A dead broker is noticed by its silence alone: the default is nine seconds of it.
    ("broker.session.timeout.ms", "3000"),
    ("broker.heartbeat.interval.ms", "500"),
    // A request passed on to a paused controller blocks those behind it for so long, not for 30 s.
    ("controller.socket.timeout.ms", "5000"),
    // A follower that lives and does not follow leaves the in-sync set after this, not after 30 s.
    ("replica.lag.time.max.ms", "6000"),
    // Small and few: what a start creates, it also has to load.
    ("offsets.topic.num.partitions", "8"),
    ("transaction.state.log.num.partitions", "4"),
    ("share.coordinator.state.topic.num.partitions", "2"),
    ("offsets.topic.segment.bytes", "16777216"),
    ("log.index.size.max.bytes", "1048576"),
    ("log.cleaner.dedupe.buffer.size", "4194304"),
    ("num.network.threads", "2"),
    ("num.io.threads", "4"),
    ("background.threads", "2"),
    ("num.recovery.threads.per.data.dir", "1"),
];
