//! Where Kafka is: the brokers that the settings name, or our own, served or joined.

use crate::config::Settings;
use crate::exit::Failure;
use homing::KafkaConfig;
use homing_broker::embedded::Host;

/// A way to Kafka; keep it for as long as clients are at work.
#[derive(Debug)]
pub struct Endpoint {
    /// How to reach it.
    pub kafka: KafkaConfig,
    /// Our place at the embedded broker, when it is that.
    _host: Option<Host>,
}

impl Endpoint {
    /// Finds the brokers; serves the embedded one when nobody does.
    ///
    /// # Errors
    /// [`Failure`] when the settings or the embedded broker cannot be used.
    pub fn open(settings: &Settings) -> Result<Self, Failure> {
        settings.check_kafka()?;
        let Some(bootstrap) = settings.bootstrap() else {
            let dir = settings.broker_dir()?;
            let host = Host::open(settings.broker(dir.clone())?).map_err(|error| {
                Failure::new(format!("the embedded broker: {error}"))
                    .help(format!("its data is in {}; kafka.bootstrap names another broker", dir.display()))
            })?;
            let kafka = settings.kafka(&host.addr().to_string())?;
            tracing::info!(addr = %host.addr(), serving = host.is_serving(), "embedded broker");
            return Ok(Self { kafka, _host: Some(host) });
        };
        Ok(Self { kafka: settings.kafka(bootstrap)?, _host: None })
    }
}
