//! The settings of one run: file, then variables, then flags; each value remembers where it came from.

mod check;
mod file;
pub mod keys;
mod options;
#[cfg(test)]
mod reference;
pub mod template;
mod value;
mod variables;

pub use options::{Database, EMBEDDED};
pub use value::{Place, Value};

use crate::exit::Failure;
use homing::kafka::client_value::{ClientValue, is_secret};
use keys::{CLIENT, KEYS, Kind, nearest};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use value::{Located, from_text};

/// The file that is read when none is named.
pub const DEFAULT_FILE: &str = "homing.toml";

/// All settings that were given, with the place of each.
#[derive(Debug, Default)]
pub struct Settings {
    values: BTreeMap<&'static str, Located>,
    client: BTreeMap<String, (ClientValue, Place)>,
}

/// Where settings come from.
#[derive(Debug, Default, Clone)]
pub struct Sources {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--set SECTION.KEY=VALUE`, in order.
    pub set: Vec<String>,
}

impl Settings {
    /// Reads the file, the variables and the flags.
    ///
    /// Without `--config` a missing homing.toml is no error: variables may say it all.
    ///
    /// # Errors
    /// [`Failure`] naming the key and the file's line, or the variable or flag.
    pub fn load(sources: &Sources) -> Result<Self, Failure> {
        let mut settings = Self::default();
        let path = sources.config.clone().unwrap_or_else(|| DEFAULT_FILE.into());
        match std::fs::read_to_string(&path) {
            Ok(text) => file::read(&path, &text, &mut settings)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && sources.config.is_none() => {}
            Err(error) => {
                let failure = Failure::new(format!("read {}: {error}", path.display()));
                return Err(match error.kind() {
                    std::io::ErrorKind::NotFound => {
                        failure.help("`homing init` writes one; --config FILE names another")
                    }
                    _ => failure,
                });
            }
        }
        settings.read_variables(std::env::vars_os())?;
        for assignment in &sources.set {
            settings.read_flag(assignment)?;
        }
        settings.check()?;
        Ok(settings)
    }

    /// Checks the text of a file that is to be written to `path`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn check_text(path: &Path, text: &str) -> Result<(), Failure> {
        let mut settings = Self::default();
        file::read(path, text, &mut settings)?;
        settings.database()?;
        settings.check()
    }

    fn read_variables(
        &mut self,
        variables: impl Iterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
    ) -> Result<(), Failure> {
        for (name, text) in variables {
            let Some(name) = name.to_str().filter(|name| name.starts_with("HOMING_")) else { continue };
            if variables::is_no_setting(name) {
                continue;
            }
            let Some(text) = text.to_str() else {
                return Err(Failure::new(format!("variable {name}: its value is not UTF-8")));
            };
            let place = Place::Variable(name.to_owned());
            if let Some(rest) = name.strip_prefix("HOMING_KAFKA_CLIENT_") {
                // librdkafka's keys are lower case with dots.
                let key = rest.to_lowercase().replace('_', ".");
                // What containers call a secret: the variable names a file.
                match key.strip_suffix(".file") {
                    Some(key) => self.client.insert(key.to_owned(), (ClientValue::File(text.into()), place)),
                    None => self.client.insert(key, (text.into(), place)),
                };
            } else if let Some(key) = KEYS.iter().find(|key| key.variable() == name) {
                let value =
                    from_text(key.kind, text).map_err(|()| malformed(&place, key.name, text, key.kind))?;
                self.values.insert(key.name, Located { value, place });
            } else {
                let variables: Vec<String> = KEYS.iter().map(keys::Key::variable).collect();
                return Err(unknown(&place, name, nearest(name, variables.iter().map(String::as_str))));
            }
        }
        Ok(())
    }

    /// Takes `SECTION.KEY=VALUE`.
    fn read_flag(&mut self, assignment: &str) -> Result<(), Failure> {
        let Some((name, text)) = assignment.split_once('=') else {
            let shown = if is_secret(assignment) { "***" } else { assignment };
            return Err(Failure::new(format!("--set {shown}: there is no = in it"))
                .help("write --set relay.poll_max_ms=20"));
        };
        let (name, place) = (name.trim(), Place::Flag("--set"));
        if let Some(key) = name.strip_prefix(CLIENT).and_then(|rest| rest.strip_prefix('.')) {
            if is_secret(key) {
                return Err(Failure::new(format!(
                    "--set {CLIENT}.{key}: every user of this machine can read a flag"
                ))
                .help("name a file in homing.toml, or set a variable; docs/config.md shows how"));
            }
            self.client.insert(key.to_owned(), (text.into(), place));
            return Ok(());
        }
        let Some(key) = keys::find(name) else {
            return Err(unknown(&place, name, nearest(name, KEYS.iter().map(|key| key.name))));
        };
        self.set(key.name, text, place)
    }

    /// Sets a key from a flag's or variable's text.
    ///
    /// # Errors
    /// [`Failure`] when the text is not what the key takes.
    pub fn set(&mut self, name: &'static str, text: &str, place: Place) -> Result<(), Failure> {
        let kind = keys::find(name).map_or(Kind::Text, |key| key.kind);
        let value = from_text(kind, text).map_err(|()| malformed(&place, name, text, kind))?;
        self.values.insert(name, Located { value, place });
        Ok(())
    }

    /// The value of a key that was given.
    pub fn get(&self, name: &str) -> Option<&Value> {
        debug_assert!(keys::find(name).is_some(), "{name} is not in the list of keys");
        self.values.get(name).map(|located| &located.value)
    }

    /// Where a key was given; `None` when it has its default.
    pub fn place(&self, name: &str) -> Option<&Place> {
        self.values.get(name).map(|located| &located.place)
    }
}

fn malformed(place: &Place, name: &str, given: &str, kind: Kind) -> Failure {
    Failure::new(format!("{place}: {name} = {given}: must be {}", kind.expected()))
}

fn unknown(place: &Place, name: &str, meant: Option<&str>) -> Failure {
    let failure = Failure::new(format!("{place}: {name} is not a setting"));
    match meant {
        Some(meant) => failure.help(format!("did you mean {meant}?")),
        None => failure.help("docs/config.md lists all; `homing init --print` shows a commented file"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, Failure> {
        let mut settings = Settings::default();
        file::read(Path::new("homing.toml"), text, &mut settings).map(|()| settings)
    }

    fn error(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_key_is_named_with_file_and_line() {
        let error = error("[stream]\nname = \"a\"\n[relay]\nbatch_row = 5\n");
        assert!(error.contains("homing.toml:4") && error.contains("relay.batch_row "), "{error}");
        assert!(error.contains("relay.batch_rows"), "{error}");
        let error = self::error("[strem]\nname = \"a\"\n");
        assert!(error.contains("homing.toml:1") && error.contains("strem"), "{error}");
    }

    #[test]
    fn a_malformed_value_is_named_with_file_line_and_what_it_must_be() {
        let error = error("[relay]\n\nlease_ms = \"long\"\n");
        assert!(error.contains("homing.toml:3: relay.lease_ms"), "{error}");
        assert!(error.contains("milliseconds"), "{error}");
        assert!(self::error("[consumer]\nworkers = 0").contains("at least 1"));
        assert!(self::error("[consumer]\norder = \"random\"").contains("unordered"));
        assert!(self::error("[consumer]\nretry_jitter = 1.5").contains("from 0 to 1"));
        assert!(self::error("[stream\nname = 3").contains("homing.toml:1"));
    }

    #[test]
    fn client_keys_may_be_quoted_or_dotted_and_of_any_plain_type() {
        let settings = read(
            "[kafka.client]\n\"security.protocol\" = \"ssl\"\nlinger.ms = 7\n\"socket.keepalive.enable\" = true\n",
        )
        .unwrap();
        let client: Vec<_> =
            settings.client.iter().map(|(key, (value, _))| (key.as_str(), value.shown(key))).collect();
        let expected =
            [("linger.ms", "7"), ("security.protocol", "ssl"), ("socket.keepalive.enable", "true")];
        assert_eq!(client, expected.map(|(key, value)| (key, format!("{value:?}"))));
    }

    #[test]
    fn a_variable_wins_over_the_file_and_a_flag_over_both() {
        let mut settings = read("[relay]\nlease_ms = 1000\nbatch_rows = 3\npoll_min_ms = 2\n").unwrap();
        let variables =
            [("HOMING_RELAY_LEASE_MS", "2000"), ("HOMING_RELAY_BATCH_ROWS", "4"), ("HOMING_KEY", "x")];
        settings.read_variables(variables.iter().map(|(n, v)| (n.into(), v.into()))).unwrap();
        settings.read_flag("relay.lease_ms=3000").unwrap();
        assert_eq!(settings.get("relay.lease_ms"), Some(&Value::Whole(3000)));
        assert_eq!(settings.get("relay.batch_rows"), Some(&Value::Whole(4)));
        assert_eq!(settings.get("relay.poll_min_ms"), Some(&Value::Whole(2)));
    }

    #[test]
    fn a_variable_that_is_wrong_is_named() {
        let read = |name: &str, value: &str| {
            let mut settings = Settings::default();
            settings.read_variables([(name.into(), value.into())].into_iter()).map(|()| settings)
        };
        let error = read("HOMING_RELAY_LEASE_MS", "soon").unwrap_err().to_string();
        assert!(error.contains("HOMING_RELAY_LEASE_MS") && error.contains("relay.lease_ms"), "{error}");
        let error = read("HOMING_RELAY_LEASE", "1").unwrap_err().to_string();
        assert!(error.contains("HOMING_RELAY_LEASE_MS"), "{error}");
        let error = read("HOMING_DATABASE", "sqlite:a.db").unwrap_err().to_string();
        assert!(error.contains("HOMING_DATABASE is not a setting"), "{error}");
        let settings = read("HOMING_KAFKA_CLIENT_SSL_CA_LOCATION", "/ca.pem").unwrap();
        assert_eq!(settings.client["ssl.ca.location"].0, "/ca.pem".into());
        let settings = read("HOMING_KAFKA_CLIENT_SASL_PASSWORD_FILE", "/run/secrets/kafka").unwrap();
        assert_eq!(settings.client["sasl.password"].0, ClientValue::File("/run/secrets/kafka".into()));
    }

    #[test]
    fn a_secret_comes_from_a_file_or_a_variable_and_a_path_is_relative_to_the_file() {
        let mut settings = Settings::default();
        let text = "[kafka.client]\n\"sasl.password\" = { file = \"pass\" }\nsasl.username = { env = \"KAFKA_USER\" }\n";
        file::read(Path::new("/etc/homing/homing.toml"), text, &mut settings).unwrap();
        assert_eq!(settings.client["sasl.password"].0, ClientValue::File("/etc/homing/pass".into()));
        assert_eq!(settings.client["sasl.username"].0, ClientValue::Variable("KAFKA_USER".into()));
        let error = error("[kafka.client]\n\"sasl.password\" = { file = \"a\", env = \"B\" }\n");
        assert!(error.contains("homing.toml:2") && error.contains("sasl.password"), "{error}");
        let error = self::error("[kafka.client]\n\"sasl.password\" = { file = 3 }\n");
        assert!(error.contains("homing.toml:2"), "{error}");
    }

    #[test]
    fn no_error_and_no_debug_shows_a_secret() {
        let file = "[kafka.client]\nacks = 1\n\"sasl.password\" = \"hunter2\"\n";
        let settings = read(file).unwrap();
        assert!(!format!("{settings:?}").contains("hunter2"), "{settings:?}");
        let error = settings.check_kafka().unwrap_err().to_string();
        assert!(error.contains("acks") && !error.contains("hunter2"), "{error}");
        let mut settings = Settings::default();
        for flag in ["kafka.client.sasl.password=hunter2", "kafka.client.sasl.password:hunter2"] {
            let error = settings.read_flag(flag).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        for text in [
            "[kafka.client]\n\"sasl.password\" = \"hunter2\n",
            "[kafka.client]\n\"sasl.password\" = [\"hunter2\"]\n",
        ] {
            assert!(!self::error(text).contains("hunter2"), "{}", self::error(text));
        }
    }
}
