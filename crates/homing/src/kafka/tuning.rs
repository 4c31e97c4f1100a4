//! Fetch settings for low latency and high throughput, where the user has not chosen.

use super::config::{ConfigError, KafkaConfig};
use rdkafka::ClientConfig;

/// Keys, Homing's value, and what librdkafka's own default would cost.
const TUNED: &[(&str, &str)] = &[
    // Default 500: a partition assigned while a fetch waits is looked at half a second late.
    ("fetch.wait.max.ms", "100"),
    // Default 1000: after a full queue a partition would not be fetched for a second.
    ("fetch.queue.backoff.ms", "5"),
    // Default 1 MiB: more per partition and request keeps a fast reader from waiting for round trips.
    ("fetch.message.max.bytes", "4194304"),
    // Default 100000, which small records reach long before the byte limit below.
    ("queued.min.messages", "200000"),
    // Default 64 MiB a partition; Homing routes all partitions to one queue, so this bounds them all.
    ("queued.max.messages.kbytes", "65536"),
    // Default 300000: records in a partition that was added would wait five minutes.
    ("topic.metadata.refresh.interval.ms", "30000"),
    // Default 100 ms to 10 s: a restarted broker is looked for again soon, and at most once a second.
    ("reconnect.backoff.ms", "50"),
    ("reconnect.backoff.max.ms", "1000"),
];

/// Keys of the classic group protocol.
const CLASSIC_GROUP: &[(&str, &str)] = &[
    // Default range,roundrobin: every rebalance would take every partition away.
    ("partition.assignment.strategy", "cooperative-sticky"),
    // Default 3000: a member learns of a rebalance by its heartbeat, so each one would take as long.
    ("heartbeat.interval.ms", "1000"),
];

impl KafkaConfig {
    /// [`consumer_config`](Self::consumer_config) with Homing's fetch settings for the keys the
    /// user left out.
    pub(crate) fn tuned_consumer_config(&self, group: &str) -> Result<ClientConfig, ConfigError> {
        let mut config = self.consumer_config(group)?;
        // KIP-848 groups are timed and assigned by the broker; the client refuses these keys.
        if config.get("group.protocol") != Some("consumer") {
            for (key, value) in CLASSIC_GROUP {
                if config.get(key).is_none() {
                    config.set(*key, *value);
                }
            }
        }
        for (key, value) in TUNED {
            let aliased =
                *key == "fetch.message.max.bytes" && config.get("max.partition.fetch.bytes").is_some();
            if config.get(key).is_none() && !aliased {
                config.set(*key, *value);
            }
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_choice_wins_over_the_tuned_one() {
        let mut config = KafkaConfig::new("localhost:9092");
        config.client.insert("fetch.wait.max.ms".into(), "7".into());
        config.client.insert("max.partition.fetch.bytes".into(), "9999".into());
        let tuned = config.tuned_consumer_config("g").unwrap();
        assert_eq!(tuned.get("fetch.wait.max.ms"), Some("7"));
        assert_eq!(tuned.get("fetch.message.max.bytes"), None);
        assert_eq!(tuned.get("fetch.queue.backoff.ms"), Some("5"));
        assert_eq!(tuned.get("enable.auto.commit"), Some("false"), "the floor stays");
    }
}
