//! The demo on Apache Kafka: three brokers, of which one leader after the other is killed.

use super::orders::TOPIC;
use crate::exit::Failure;
use homing_lab::cluster::{Cluster, ClusterError, ClusterOptions};

/// Partitions of the orders' topic are gone through in turn.
const PARTITIONS: i32 = 6;

/// Three brokers, and which of them is down.
pub struct KafkaBrokers {
    cluster: Cluster,
    turn: i32,
    down: Option<usize>,
}

impl KafkaBrokers {
    /// Fetches Apache Kafka when this machine has not got it yet, and starts three brokers.
    ///
    /// # Errors
    /// [`Failure`] naming the missing program and the command that installs it, or what a broker said.
    pub fn start() -> Result<Self, Failure> {
        let cluster = Cluster::start(ClusterOptions::default()).map_err(failure)?;
        Ok(Self { cluster, turn: 0, down: None })
    }

    /// Where clients begin.
    pub fn bootstrap(&self) -> String {
        self.cluster.bootstrap()
    }

    /// Kills the broker that leads the next partition of the orders; its name.
    ///
    /// # Errors
    /// [`Failure`] when it cannot be killed.
    pub fn kill(&mut self) -> Result<String, Failure> {
        let leader = self.cluster.try_leader_of(TOPIC, self.turn % PARTITIONS).unwrap_or(0);
        self.turn += 1;
        self.cluster.node(leader).kill().map_err(failure)?;
        self.down = Some(leader);
        Ok(format!("Kafka broker {}", leader + 1))
    }

    /// Starts the broker that was killed; it joins when it is ready.
    ///
    /// # Errors
    /// [`Failure`] when it cannot be started.
    pub fn start_again(&mut self) -> Result<(), Failure> {
        let down = self.down.take();
        down.map_or(Ok(()), |index| self.cluster.node(index).start().map_err(failure))
    }

    /// Waits until all three are there.
    ///
    /// # Errors
    /// [`Failure`] with what a broker said.
    pub fn wait_ready(&self) -> Result<(), Failure> {
        self.cluster.wait_ready().map_err(failure)
    }
}

#[allow(clippy::needless_pass_by_value, reason = "as map_err hands it over")]
fn failure(error: ClusterError) -> Failure {
    Failure::new(error.to_string()).help("without --kafka the demo needs nothing but itself")
}
