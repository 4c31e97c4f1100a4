//! Checks of all settings together, whatever the command needs of them.

use super::Settings;
use super::options::EMBEDDED;
use crate::exit::Failure;
use homing::ConfigError;
use std::net::SocketAddr;
use std::path::PathBuf;

impl Settings {
    /// An address of this machine: the broker beside the outbox asks nobody who he is.
    pub(super) fn listen(&self, listen: &str) -> Result<SocketAddr, Failure> {
        let refused = |what: &str| {
            Failure::new(format!("{}broker.listen = {listen:?}: {what}", self.at("broker.listen"))).help(
                "write an address of this machine, e.g. \"127.0.0.1:9092\"; `homing broker` serves others",
            )
        };
        let listen: SocketAddr = listen.parse().map_err(|_| refused("is no address with a port"))?;
        if listen.ip().is_loopback() && listen.port() != 0 {
            Ok(listen)
        } else {
            Err(refused("is not an address of this machine alone with a port of its own"))
        }
    }

    /// Checks every setting and relation, so that no command accepts what another refuses.
    ///
    /// # Errors
    /// [`Failure`] naming the key or relation that cannot be used.
    pub fn check(&self) -> Result<(), Failure> {
        let kafka = self.unchecked_kafka(self.text("kafka.bootstrap").unwrap_or(EMBEDDED))?;
        match kafka.validate() {
            // Who only asks the outbox need not be allowed to read the secret.
            Ok(()) | Err(ConfigError::Unreadable { .. }) => {}
            Err(error) => return Err(self.refused("kafka", error)),
        }
        self.relay()?;
        self.audit()?;
        self.consumer("group", &["topic".to_owned()])?;
        self.broker(PathBuf::new()).map(|_| ())
    }
}
