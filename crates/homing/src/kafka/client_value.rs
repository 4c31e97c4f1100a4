//! A client setting's value: as given, or to be read from a file or a variable; secrets are never shown.

use super::config::ConfigError;
use std::fmt;
use std::path::PathBuf;

/// The value of a client key.
///
/// A file or variable is read each time a client is opened, so that a changed
/// password is used as soon as the old one is refused. `Debug` never shows a
/// value that was given in place: it may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub enum ClientValue {
    /// This text.
    Given(String),
    /// The text of a file, without the line breaks at its end.
    File(PathBuf),
    /// The text of an environment variable.
    Variable(String),
}

impl From<String> for ClientValue {
    fn from(text: String) -> Self {
        Self::Given(text)
    }
}

impl From<&str> for ClientValue {
    fn from(text: &str) -> Self {
        Self::Given(text.to_owned())
    }
}

impl ClientValue {
    /// The value, read from where it is.
    ///
    /// # Errors
    /// [`ConfigError::Unreadable`] naming `key` and the file or variable.
    pub(super) fn read(&self, key: &str) -> Result<String, ConfigError> {
        let unreadable =
            |reason: String| ConfigError::Unreadable { key: key.to_owned(), from: self.shown(key), reason };
        match self {
            Self::Given(text) => Ok(text.clone()),
            Self::File(path) => match std::fs::read_to_string(path) {
                Ok(text) if text.trim_end_matches(['\r', '\n']).is_empty() => {
                    Err(unreadable("it is empty".to_owned()))
                }
                Ok(text) => Ok(text.trim_end_matches(['\r', '\n']).to_owned()),
                Err(error) => Err(unreadable(error.to_string())),
            },
            Self::Variable(name) => std::env::var(name).map_err(|error| {
                unreadable(match error {
                    std::env::VarError::NotPresent => "it is not set".to_owned(),
                    std::env::VarError::NotUnicode(_) => "it is not UTF-8".to_owned(),
                })
            }),
        }
    }

    /// What messages may say of the value of `key`: never a secret, and never what was read.
    #[must_use]
    pub fn shown(&self, key: &str) -> String {
        match self {
            Self::Given(_) if is_secret(key) => "***".to_owned(),
            Self::Given(text) => format!("{text:?}"),
            Self::File(path) => format!("file {}", path.display()),
            Self::Variable(name) => format!("variable {name}"),
        }
    }
}

impl fmt::Debug for ClientValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // "password" stands for every key: which one this is is not known here.
        f.write_str(&self.shown("password"))
    }
}

/// Whether a client key's value is a secret.
#[must_use]
pub fn is_secret(key: &str) -> bool {
    ["password", "secret", "passphrase", "key.pem", "sasl.oauthbearer.config", "sasl.kerberos.kinit.cmd"]
        .iter()
        .any(|part| key.contains(part))
}

/// `text` without the value of a secret key in it.
pub(super) fn without_secret(key: &str, value: &str, text: String) -> String {
    if is_secret(key) && !value.is_empty() { text.replace(value, "***") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_that_was_given_in_place_shows_in_debug() {
        let secret = ClientValue::from("hunter2");
        assert_eq!(format!("{secret:?}"), "***");
        assert_eq!(secret.shown("sasl.password"), "***");
        assert_eq!(secret.shown("client.id"), "\"hunter2\"");
        assert_eq!(format!("{:?}", ClientValue::File("/run/x".into())), "file /run/x");
    }

    #[test]
    fn every_key_of_librdkafka_that_holds_a_secret_is_one() {
        for key in [
            "sasl.password",
            "ssl.key.password",
            "ssl.keystore.password",
            "ssl.key.pem",
            "sasl.oauthbearer.config",
            "sasl.oauthbearer.client.secret",
            "sasl.oauthbearer.client.credentials.client.secret",
            "sasl.oauthbearer.assertion.private.key.passphrase",
            "sasl.oauthbearer.assertion.private.key.pem",
        ] {
            assert!(is_secret(key), "{key}");
        }
        for key in ["sasl.username", "ssl.key.location", "ssl.ca.pem", "ssl.certificate.pem", "acks"] {
            assert!(!is_secret(key), "{key}");
        }
    }

    #[test]
    fn a_file_is_read_without_its_line_end_and_a_missing_one_is_named_with_its_key() {
        let file = std::env::temp_dir().join(format!("homing-value-{}", std::process::id()));
        std::fs::write(&file, "hunter2\r\n").unwrap();
        assert_eq!(ClientValue::File(file.clone()).read("sasl.password").unwrap(), "hunter2");
        std::fs::remove_file(&file).unwrap();
        let error = ClientValue::File(file).read("sasl.password").unwrap_err().to_string();
        assert!(error.contains("sasl.password") && error.contains("homing-value-"), "{error}");
        let error = ClientValue::Variable("HOMING_NO_SUCH".into()).read("sasl.password").unwrap_err();
        assert!(error.to_string().contains("HOMING_NO_SUCH"), "{error}");
    }
}
