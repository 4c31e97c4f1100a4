//! Variables that begin with `HOMING_` and are no settings: everything else must be one, or it is refused.

/// Read elsewhere, or written: by the command line, the log, `consume --exec` for its command, and the scripts.
const OWN: &[&str] = &[
    "HOMING_CONFIG",
    "HOMING_LOG",
    "HOMING_TOPIC",
    "HOMING_PARTITION",
    "HOMING_OFFSET",
    "HOMING_KEY",
    "HOMING_SEQ",
    "HOMING_ID",
    "HOMING_KAFKA_VERSION",
    "HOMING_KEEP_CLUSTER",
    "HOMING_WRITE_DOCS",
    "HOMING_DIFFERENTIAL",
];

/// Whether a variable of this name is none of the settings' business.
pub fn is_no_setting(name: &str) -> bool {
    OWN.contains(&name) || name.starts_with("HOMING_TEST_") || names_a_service(name)
}

/// Kubernetes tells every container about every service: one that is called `homing` or
/// `homing-broker` makes variables of these forms.
fn names_a_service(name: &str) -> bool {
    let is_port = |end: &str| {
        let mut words = end.split('_');
        let number =
            words.next().is_some_and(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit()));
        number && words.next().is_some_and(|word| matches!(word, "TCP" | "UDP" | "SCTP"))
    };
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || name.split("_PORT_").skip(1).any(is_port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::KEYS;

    #[test]
    fn services_of_a_cluster_are_no_settings_and_no_setting_looks_like_one() {
        for name in [
            "HOMING_SERVICE_HOST",
            "HOMING_SERVICE_PORT",
            "HOMING_SERVICE_PORT_HTTP",
            "HOMING_PORT",
            "HOMING_PORT_9092_TCP",
            "HOMING_BROKER_PORT_9092_TCP_ADDR",
        ] {
            assert!(is_no_setting(name), "{name}");
        }
        for name in ["HOMING_RELAY_LEASE", "HOMING_DATABASE", "HOMING_STREAM", "HOMING_BROKER_PORTS"] {
            assert!(!is_no_setting(name), "{name}");
        }
        assert!(KEYS.iter().all(|key| !is_no_setting(&key.variable())));
    }
}
