//! One JSON value per line: the line is the payload, one of its fields the key.

use super::Parts;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use std::fmt;

/// Checks the line and takes the key out of it.
pub fn read(text: &str, key_field: Option<&str>) -> Result<Parts, String> {
    let text = text.trim();
    let mut parser = serde_json::Deserializer::from_str(text);
    let key = match key_field {
        None => serde::de::Deserialize::deserialize(&mut parser).map(|_: IgnoredAny| None),
        Some(field) => parser.deserialize_any(Object { field }),
    };
    let key = key.and_then(|key| parser.end().map(|()| key)).map_err(|error| explain(&error))?;
    let payload = text.as_bytes().to_vec();
    let Some(field) = key_field else { return Ok((None, payload)) };
    match key {
        None => Err(format!("no field {field:?} for the key")),
        Some(Err(problem)) => Err(format!("field {field:?} is {problem}")),
        Some(Ok(key)) => Ok((Some(key.into_bytes()), payload)),
    }
}

fn explain(error: &serde_json::Error) -> String {
    if error.is_data() {
        return "not a JSON object, so it has no field for the key".into();
    }
    // The parser's "line 1" is not the file's line; the column holds.
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    format!("not a whole JSON value on one line: {what} at column {}", error.column())
}

/// The key's text, or why the value cannot be one.
type Key = Result<String, &'static str>;

struct Object<'a> {
    field: &'a str,
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = Option<Key>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut key = None;
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            if name == self.field {
                key = Some(map.next_value_seed(KeyValue)?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(key)
    }
}

struct KeyValue;

impl<'de> DeserializeSeed<'de> for KeyValue {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for KeyValue {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, number or switch")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Key, E> {
        Ok(if text.is_empty() { Err("empty: a key must tell records apart") } else { Ok(text.to_owned()) })
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Key, E> {
        Ok(Ok(number.to_string()))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Key, E> {
        Ok(Ok(number.to_string()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Key, E> {
        // Beyond 2^53 two different numbers could become one key.
        let exact = number.abs() < 9_007_199_254_740_992.0;
        Ok(if exact { Ok(number.to_string()) } else { Err("a number too large to keep; write it as a text") })
    }

    fn visit_bool<E: Error>(self, switch: bool) -> Result<Key, E> {
        Ok(Ok(switch.to_string()))
    }

    fn visit_unit<E: Error>(self) -> Result<Key, E> {
        Ok(Err("null: a key must tell records apart"))
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Key, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Err("a list; a key is a text or a number"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Key, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Err("an object; a key is a text or a number"))
    }
}
