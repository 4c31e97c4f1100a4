//! One record as JSON, the same wherever one is printed (docs/cli.md, "JSON of one record").

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use homing::Record;
use homing::core::header;
use serde::Serialize;
use serde::ser::SerializeMap;

/// The record as a JSON object.
pub struct RecordJson<'a>(pub &'a Record);

#[derive(Serialize)]
struct StampJson<'a> {
    stream: &'a str,
    epoch: u32,
    partition: i32,
    seq: u64,
}

impl Serialize for RecordJson<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let record = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("topic", record.topic())?;
        map.serialize_entry("partition", &record.partition().0)?;
        map.serialize_entry("offset", &record.offset().0)?;
        map.serialize_entry("timestamp", &record.timestamp_ms())?;
        bytes(&mut map, ["key", "key_encoding"], record.key())?;
        bytes(&mut map, ["payload", "encoding"], record.payload())?;
        map.serialize_entry("headers", &Headers(record))?;
        let stamp = record.stamp_ref().map(|stamp| StampJson {
            stream: stamp.stream,
            epoch: stamp.epoch.0,
            partition: stamp.partition.0,
            seq: stamp.seq.0,
        });
        map.serialize_entry("stamp", &stamp)?;
        map.serialize_entry("id", &record.id().map(|id| id.to_string()))?;
        map.end()
    }
}

/// Text as text, other bytes as base64 with a second entry that says so.
fn bytes<M: SerializeMap>(
    map: &mut M,
    [name, encoding]: [&'static str; 2],
    value: Option<&[u8]>,
) -> Result<(), M::Error> {
    match value.map(|bytes| std::str::from_utf8(bytes).map_err(|_| bytes)) {
        None => map.serialize_entry(name, &None::<&str>),
        Some(Ok(text)) => map.serialize_entry(name, text),
        Some(Err(bytes)) => {
            map.serialize_entry(name, &BASE64_STANDARD.encode(bytes))?;
            map.serialize_entry(encoding, "base64")
        }
    }
}

struct Headers<'a>(&'a Record);

/// A header's value: text, or base64 marked as such.
#[derive(Serialize)]
#[serde(untagged)]
enum HeaderJson<'a> {
    Text(Option<&'a str>),
    Encoded { base64: String },
}

impl Serialize for Headers<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // A name may repeat in Kafka; an object keeps the last, as Kafka's lastHeader does.
        let mut last: Vec<(&str, Option<&[u8]>)> = Vec::new();
        // Stamp and id stand beside the headers already; a broken one is shown as it is.
        let shown = |name: &str| match name {
            header::STAMP => self.0.stamp_ref().is_some(),
            header::ID => self.0.id().is_some(),
            _ => false,
        };
        for (name, value) in self.0.headers().filter(|(name, _)| !shown(name)) {
            match last.iter_mut().find(|(known, _)| *known == name) {
                Some(entry) => entry.1 = value,
                None => last.push((name, value)),
            }
        }
        serializer.collect_map(last.into_iter().map(|(name, value)| {
            let value = match value.map(|bytes| std::str::from_utf8(bytes).map_err(|_| bytes)) {
                None => HeaderJson::Text(None),
                Some(Ok(text)) => HeaderJson::Text(Some(text)),
                Some(Err(bytes)) => HeaderJson::Encoded { base64: BASE64_STANDARD.encode(bytes) },
            };
            (name, value)
        }))
    }
}
