//! Reading homing.toml with the line of each value.

use super::keys::{self, CLIENT, KEYS, Kind, SECTIONS, nearest};
use super::value::{Located, Place, Value, check};
use super::{Settings, malformed, unknown};
use crate::exit::Failure;
use homing::kafka::client_value::ClientValue;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

/// Takes the settings of `text` into `settings`.
pub fn read(path: &Path, text: &str, settings: &mut Settings) -> Result<(), Failure> {
    let file = File { path, text };
    let document = DeTable::parse(text).map_err(|error| {
        let at = file.place(error.span().map_or(0, |span| span.start));
        Failure::new(format!("{at}: {}", error.message()))
            .help("the file is TOML: [section] lines, then key = value lines, texts in \"quotes\"")
    })?;
    for (name, value) in document.get_ref() {
        let at = file.place(name.span().start);
        let section = name.get_ref().as_ref();
        let names = || SECTIONS.iter().map(|(name, _)| *name);
        if !names().any(|known| known == section) {
            return Err(unknown(&at, &format!("[{section}]"), nearest(section, names())));
        }
        let Some(table) = value.get_ref().as_table() else {
            return Err(Failure::new(format!("{at}: {section} is a section"))
                .help(format!("write a line [{section}] and its keys below it")));
        };
        for (name, value) in table {
            file.take(section, name.get_ref(), name.span().start, value, settings)?;
        }
    }
    Ok(())
}

impl File<'_> {
    fn place(&self, byte: usize) -> Place {
        let before = self.text.get(..byte).unwrap_or(self.text);
        Place::File(self.path.to_owned(), before.matches('\n').count() + 1)
    }

    fn take(
        &self,
        section: &str,
        leaf: &str,
        at: usize,
        value: &Spanned<DeValue<'_>>,
        settings: &mut Settings,
    ) -> Result<(), Failure> {
        let name = format!("{section}.{leaf}");
        let place = self.place(at);
        if name == CLIENT {
            let Some(table) = value.get_ref().as_table() else {
                return Err(Failure::new(format!("{place}: {CLIENT} is a section of librdkafka's keys")));
            };
            return self.take_client("", table, settings);
        }
        let Some(key) = keys::find(&name) else {
            return Err(unknown(&place, &name, nearest(&name, KEYS.iter().map(|key| key.name))));
        };
        let spelled = self.text.get(value.span()).unwrap_or_default();
        let refuse = || malformed(&place, key.name, spelled, key.kind);
        let value = plain(key.kind, value.get_ref()).ok_or_else(refuse)?;
        let value = check(key.kind, value).map_err(|()| refuse())?;
        settings.values.insert(key.name, Located { value, place });
        Ok(())
    }

    /// Client keys; `linger.ms = 7` unquoted is a table within a table to TOML, and meant as one key.
    fn take_client(&self, prefix: &str, table: &DeTable<'_>, settings: &mut Settings) -> Result<(), Failure> {
        for (name, value) in table {
            let key = format!("{prefix}{}", name.get_ref());
            let place = self.place(name.span().start);
            let text = match value.get_ref() {
                DeValue::Table(inner) if inner.keys().any(|name| is_source(name.get_ref())) => {
                    let value = self.source(inner).ok_or_else(|| {
                        Failure::new(format!(
                            "{place}: {CLIENT}.{key}: says where its value is in a way unknown"
                        ))
                        .help("write { file = \"/run/secrets/kafka\" } or { env = \"KAFKA_PASSWORD\" }")
                    })?;
                    settings.client.insert(key, (value, place));
                    continue;
                }
                DeValue::Table(inner) => {
                    self.take_client(&format!("{key}."), inner, settings)?;
                    continue;
                }
                DeValue::String(text) => text.to_string(),
                DeValue::Integer(number) => number.as_str().replace('_', ""),
                DeValue::Float(number) => number.as_str().to_owned(),
                DeValue::Boolean(switch) => switch.to_string(),
                other => {
                    return Err(Failure::new(format!(
                        "{place}: {CLIENT}.{key}: must be a text, number or switch, not a {}",
                        other.type_str()
                    )));
                }
            };
            settings.client.insert(key, (text.into(), place));
        }
        Ok(())
    }

    /// `{ file = "…" }`, the path relative to this file, or `{ env = "…" }`.
    fn source(&self, table: &DeTable<'_>) -> Option<ClientValue> {
        let mut entries = table.iter();
        let (Some((name, value)), None) = (entries.next(), entries.next()) else { return None };
        let text = value.get_ref().as_str().filter(|text| !text.is_empty())?;
        let base = self.path.parent().unwrap_or(Path::new(""));
        Some(match name.get_ref().as_ref() {
            "file" => ClientValue::File(base.join(text)),
            _ => ClientValue::Variable(text.to_owned()),
        })
    }
}

/// No key of librdkafka's ends in these words, so a table with one of them says where a value is.
fn is_source(name: &str) -> bool {
    matches!(name, "file" | "env")
}

fn plain(kind: Kind, value: &DeValue<'_>) -> Option<Value> {
    Some(match (kind, value) {
        (Kind::Text | Kind::Choice(_), DeValue::String(text)) => Value::Text(text.to_string()),
        (Kind::Bool, DeValue::Boolean(switch)) => Value::Bool(*switch),
        (Kind::Count(_) | Kind::Millis(_), DeValue::Integer(number)) => {
            Value::Whole(u64::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok()?)
        }
        (Kind::Ratio(..), DeValue::Integer(number)) => Value::Number(number.as_str().parse().ok()?),
        (Kind::Ratio(..), DeValue::Float(number)) => Value::Number(number.as_str().parse().ok()?),
        _ => return None,
    })
}
