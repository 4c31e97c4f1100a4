//! CSV records as JSON objects, by the header's column names.

use super::Parts;
use ::csv::{ReaderBuilder, StringRecord};
use serde_json::{Map, Value};

/// What to say of a header that has one column and another usual separator in it.
pub fn other_separator(header: &str) -> Option<String> {
    let header = header.trim();
    (!header.contains(',') && header.contains([';', '\t', '|'])).then(|| {
        format!("the header {header:?} is one column: fields are parted by commas here, not by ; or tabs")
    })
}

/// The column names, and which is the key.
#[derive(Debug)]
pub struct Header {
    columns: Vec<String>,
    key: Option<usize>,
}

impl Header {
    /// Reads the header line.
    pub fn read(text: &str, key_field: Option<&str>) -> Result<Self, String> {
        let columns: Vec<String> = parse(text)?.iter().map(|name| name.trim().to_owned()).collect();
        for (index, name) in columns.iter().enumerate() {
            if name.is_empty() {
                return Err(format!("the CSV header's column {} has no name", index + 1));
            }
            if columns[..index].contains(name) {
                return Err(format!("the CSV header has the column {name:?} twice"));
            }
        }
        let key = match key_field {
            None => None,
            Some(field) => Some(columns.iter().position(|name| name == field).ok_or_else(|| {
                format!("the CSV header has no column {field:?} for the key; it has {}", columns.join(", "))
            })?),
        };
        Ok(Self { columns, key })
    }

    /// Reads one record.
    pub fn record(&self, text: &str) -> Result<Parts, String> {
        let record = parse(text)?;
        if record.len() != self.columns.len() {
            let plural = if record.len() == 1 { "" } else { "s" };
            return Err(format!(
                "{} field{plural} where the header has {}",
                record.len(),
                self.columns.len()
            ));
        }
        let key = self.key.and_then(|index| record.get(index)).map(|key| key.as_bytes().to_vec());
        if key.as_ref().is_some_and(Vec::is_empty) {
            return Err("the key field is empty".into());
        }
        let object: Map<String, Value> =
            self.columns.iter().zip(&record).map(|(name, value)| (name.clone(), value.into())).collect();
        Ok((key, Value::Object(object).to_string().into_bytes()))
    }
}

fn parse(text: &str) -> Result<StringRecord, String> {
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .buffer_capacity(text.len() + 1)
        .from_reader(text.as_bytes());
    let mut record = StringRecord::new();
    match reader.read_record(&mut record) {
        Ok(true) => Ok(record),
        Ok(false) => Err("no fields".into()),
        Err(error) => Err(format!("not a CSV record: {error}")),
    }
}
