//! The commented homing.toml that `homing init` writes.

use super::keys::{KEYS, SECTIONS};
use std::fmt::Write as _;

/// What `homing init` puts into the file's uncommented lines.
#[derive(Debug, Clone, Copy)]
pub struct Chosen<'a> {
    /// `stream.name`.
    pub stream: &'a str,
    /// `stream.database`.
    pub database: &'a str,
    /// `kafka.bootstrap`.
    pub bootstrap: &'a str,
}

/// The file's text: what was chosen, and every other key commented out with its default.
pub fn render(chosen: Chosen<'_>) -> String {
    let mut out = String::from(
        "# Homing's settings. A line that starts with # is a default; take the # away to change it.\n\
         # Each key is also a variable, HOMING_<SECTION>_<KEY>, and a flag, --set section.key=value.\n\
         # A flag wins over a variable, a variable over this file.\n",
    );
    for (section, about) in SECTIONS {
        let _ = write!(out, "\n# {about}\n[{section}]\n"); // writing to a String cannot fail
        for key in KEYS.iter().filter(|key| key.section() == *section) {
            let _ = writeln!(out, "# {}.", key.what);
            if !key.risk.is_empty() {
                let _ = writeln!(out, "#   {}.", key.risk);
            }
            let set = match key.name {
                "stream.name" => Some(chosen.stream),
                "stream.database" => Some(chosen.database),
                "kafka.bootstrap" => Some(chosen.bootstrap),
                _ => None,
            };
            let _ = match set {
                Some(value) => writeln!(out, "{} = {}", key.leaf(), quoted(value)),
                None if key.default.is_empty() => writeln!(out, "# {} = \"\"", key.leaf()),
                None => writeln!(out, "# {} = {}", key.leaf(), key.default),
            };
        }
        if *section == "kafka" {
            out.push_str(
                "\n# Any key of librdkafka's; what would weaken a promise is refused.\n\
                 # A secret is read from a file or a variable, and shown nowhere.\n[kafka.client]\n\
                 # \"security.protocol\" = \"sasl_ssl\"\n# \"ssl.ca.location\" = \"/etc/ssl/certs/ca-certificates.crt\"\n\
                 # \"sasl.mechanism\" = \"SCRAM-SHA-512\"\n# \"sasl.username\" = \"homing\"\n\
                 # \"sasl.password\" = { file = \"/run/secrets/kafka\" }\n\
                 # \"compression.type\" = \"zstd\"\n",
            );
        }
    }
    out
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
