//! The homing.toml that `homing init` writes, and the long one with every setting that `--print` shows.
//!
//! A line `#key = value` is a setting that is switched on by taking the # away; prose has a space after its #.

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

/// What must be set, and where the rest is told.
pub fn short(chosen: Chosen<'_>) -> String {
    format!(
        "# Homing's settings. Everything else has a default: `homing init --print` shows all of them, docs/config.md\n\
         # explains them. Each is also a variable, HOMING_<SECTION>_<KEY>, and a flag, --set section.key=value.\n\
         \n\
         [stream]\n\
         # The stream's name; part of every record's stamp, so choose it once.\n\
         name = {}\n\
         # The database with the outbox: a file relative to this one; it may be your application's.\n\
         database = {}\n\
         \n\
         [kafka]\n\
         # host:port[,host:port] of one cluster, or \"embedded\": a broker in a directory beside the outbox.\n\
         bootstrap = {}\n",
        quoted(chosen.stream),
        quoted(chosen.database),
        quoted(chosen.bootstrap)
    )
}

/// Every setting: what was chosen, and every other key commented out with its default.
pub fn full(chosen: Chosen<'_>) -> String {
    let mut out = String::from(
        "# Homing's settings. A line like `#key = value` shows a default, or an example where there is none;\n\
         # take the # away to change it.\n\
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
                None => writeln!(out, "#{} = {}", key.leaf(), key.spelled()),
            };
        }
        if *section == "kafka" {
            out.push_str(
                "\n# Any key of librdkafka's; what would weaken a promise is refused.\n\
                 # A secret is read from a file or a variable, and shown nowhere.\n[kafka.client]\n\
                 #\"security.protocol\" = \"sasl_ssl\"\n#\"ssl.ca.location\" = \"/etc/ssl/certs/ca-certificates.crt\"\n\
                 #\"sasl.mechanism\" = \"SCRAM-SHA-512\"\n#\"sasl.username\" = \"homing\"\n\
                 #\"sasl.password\" = { file = \"/run/secrets/kafka\" }\n\
                 #\"compression.type\" = \"zstd\"\n",
            );
        }
    }
    out
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
