//! The application's headers: JSON in the outbox's column, packed bytes on the way to Kafka.
//!
//! The column holds one JSON object. A value is a string; or null (Kafka's null
//! value); or `{"base64": "…"}` for bytes that are no UTF-8; or a number or
//! boolean, sent as its JSON text; or an array of these when the name repeats.
//! Packed, a header is `name length u32, value length u32 (MAX = null), name,
//! value`, little-endian, one after the other.

use super::error::MessageError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use homing_core::{Header, header};
use serde_json::{Map, Value};

const NULL: u32 = u32::MAX;

/// Checks that no header is nameless or takes a name that is Homing's.
pub(crate) fn check_names<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), MessageError> {
    for name in names {
        if name.is_empty() {
            return Err(MessageError::EmptyHeaderName);
        }
        if name.len() >= header::RESERVED_PREFIX.len()
            && name.as_bytes()[..header::RESERVED_PREFIX.len()]
                .eq_ignore_ascii_case(header::RESERVED_PREFIX.as_bytes())
        {
            return Err(MessageError::ReservedHeader { name: name.to_owned() });
        }
    }
    Ok(())
}

/// The column's JSON for `headers`; `None` when there are none.
///
/// A name that repeats keeps its values' order; values of different names may
/// change places.
pub(crate) fn to_json(headers: &[Header]) -> Option<String> {
    if headers.is_empty() {
        return None;
    }
    let mut object = Map::new();
    for (name, value) in headers {
        let value = match value {
            None => Value::Null,
            Some(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Value::String(text.to_owned()),
                Err(_) => {
                    Value::Object(Map::from_iter([("base64".to_owned(), STANDARD.encode(bytes).into())]))
                }
            },
        };
        match object.get_mut(name) {
            None => {
                object.insert(name.clone(), value);
            }
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    Some(Value::Object(object).to_string())
}

/// Reads the column's JSON and appends the packed form to `out`.
///
/// # Errors
/// What is wrong with it, as a sentence for the dead-letter table. `out` is
/// then as long as before.
pub(crate) fn pack_json(json: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let before = out.len();
    pack_object(json, out).inspect_err(|_| out.truncate(before))
}

fn pack_object(json: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let value: Value =
        serde_json::from_slice(json).map_err(|error| format!("headers are not valid JSON: {error}"))?;
    let Value::Object(object) = value else {
        return Err("headers must be one JSON object".to_owned());
    };
    check_names(object.keys().map(String::as_str)).map_err(|error| error.to_string())?;
    for (name, value) in &object {
        match value {
            Value::Array(values) => values.iter().try_for_each(|value| pack_value(name, value, out))?,
            value => pack_value(name, value, out)?,
        }
    }
    Ok(())
}

fn pack_value(name: &str, value: &Value, out: &mut Vec<u8>) -> Result<(), String> {
    match value {
        Value::Null => pack(name, None, out),
        Value::String(text) => pack(name, Some(text.as_bytes()), out),
        Value::Number(_) | Value::Bool(_) => pack(name, Some(value.to_string().as_bytes()), out),
        Value::Object(object) => match (object.len(), object.get("base64")) {
            (1, Some(Value::String(text))) => {
                let bytes = STANDARD
                    .decode(text)
                    .map_err(|error| format!("header {name:?}: its base64 does not decode: {error}"))?;
                pack(name, Some(&bytes), out);
            }
            _ => return Err(format!("header {name:?}: an object value must be {{\"base64\": \"…\"}}")),
        },
        Value::Array(_) => return Err(format!("header {name:?}: arrays may not nest")),
    }
    Ok(())
}

fn pack(name: &str, value: Option<&[u8]>, out: &mut Vec<u8>) {
    let length = |n: usize| u32::try_from(n).expect("a row is smaller than 4 GiB");
    out.extend_from_slice(&length(name.len()).to_le_bytes());
    out.extend_from_slice(&value.map_or(NULL, |value| length(value.len())).to_le_bytes());
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(value.unwrap_or_default());
}

/// Walks over packed headers.
#[derive(Debug, Clone)]
pub struct PackedHeaders<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for PackedHeaders<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        let (name_len, rest) = self.0.split_first_chunk::<4>()?;
        let (value_len, rest) = rest.split_first_chunk::<4>()?;
        let (name, rest) = rest.split_at(u32::from_le_bytes(*name_len) as usize);
        let value_len = u32::from_le_bytes(*value_len);
        let (value, rest) = if value_len == NULL {
            (None, rest)
        } else {
            let (value, rest) = rest.split_at(value_len as usize);
            (Some(value), rest)
        };
        self.0 = rest;
        Some((name, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(json: &str) -> Result<Vec<Header>, String> {
        let mut out = Vec::new();
        pack_json(json.as_bytes(), &mut out)?;
        Ok(PackedHeaders(&out)
            .map(|(name, value)| (String::from_utf8(name.to_vec()).unwrap(), value.map(<[u8]>::to_vec)))
            .collect())
    }

    #[test]
    fn headers_survive_the_column() {
        let headers: Vec<Header> = vec![
            ("a".into(), Some(b"text".to_vec())),
            ("b".into(), None),
            ("c".into(), Some(vec![0xff, 0])),
            ("d".into(), Some(b"1".to_vec())),
            ("d".into(), Some(b"2".to_vec())),
            ("d".into(), None),
            ("e".into(), Some(Vec::new())),
        ];
        assert_eq!(packed(&to_json(&headers).unwrap()).unwrap(), headers);
        assert_eq!(to_json(&[]), None);
    }

    #[test]
    fn plain_json_values_are_sent_as_their_text() {
        let got = packed(r#"{"n": 1.5, "t": true}"#).unwrap();
        assert_eq!(got, [("n".into(), Some(b"1.5".to_vec())), ("t".into(), Some(b"true".to_vec()))]);
    }

    #[test]
    fn each_bad_column_is_refused_with_its_reason() {
        for (json, part) in [
            ("{", "not valid JSON"),
            ("[1]", "one JSON object"),
            (r#"{"Homing-stamp":"x"}"#, "Homing's own"),
            (r#"{"":"x"}"#, "may not be empty"),
            (r#"{"a":{"b":1}}"#, "base64"),
            (r#"{"a":{"base64":"!"}}"#, "does not decode"),
            (r#"{"a":[["x"]]}"#, "may not nest"),
        ] {
            let error = packed(json).unwrap_err();
            assert!(error.contains(part), "{json}: {error}");
        }
    }
}
