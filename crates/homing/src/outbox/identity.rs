//! A message's identity: read from the column, or derived from the row, the same at each resend.

use uuid::Uuid;

/// The 16 random bytes that tell this outbox from every other; given at `homing init`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instance(pub [u8; 16]);

/// Derives the identity of a row whose `message_id` is null.
///
/// Shaped like a UUID v7: 48 bits of time, then bits that are a one-to-one
/// image of the row id for this instance, so that two rows of one outbox never
/// share one, and rows of two outboxes only by chance.
pub(crate) fn derive(instance: Instance, row_id: i64, created_at_ms: i64) -> [u8; 16] {
    let (low, high) = instance.0.split_at(8);
    let low = u64::from_le_bytes(low.try_into().expect("half of 16 bytes"));
    let high = u64::from_le_bytes(high.try_into().expect("half of 16 bytes"));
    let row = row_id as u64;
    let image = mix(row ^ low);
    let more = mix(row.wrapping_add(high) ^ image.rotate_left(32));
    let mut id = [0u8; 16];
    id[..6].copy_from_slice(&created_at_ms.max(0).to_be_bytes()[2..]);
    id[6] = 0x70 | (more & 0x0f) as u8;
    id[7] = (image >> 56) as u8;
    id[8] = 0x80 | (more >> 8 & 0x3f) as u8;
    id[9..].copy_from_slice(&image.to_be_bytes()[1..]);
    id
}

/// The finalizer of MurmurHash3 (Austin Appleby, public domain): a bijection on 64 bits.
fn mix(mut k: u64) -> u64 {
    k ^= k >> 33;
    k = k.wrapping_mul(0xff51_afd7_ed55_8ccd);
    k ^= k >> 33;
    k = k.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    k ^ k >> 33
}

/// Reads a `message_id` cell: 16 bytes, or a UUID's text.
pub(crate) fn parse(cell: &[u8]) -> Result<[u8; 16], String> {
    if let Ok(bytes) = <[u8; 16]>::try_from(cell) {
        return Ok(bytes);
    }
    Uuid::try_parse_ascii(cell)
        .map(Uuid::into_bytes)
        .map_err(|error| format!("message_id is neither 16 bytes nor a UUID's text: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn derived_ids_are_repeatable_distinct_and_v7() {
        let instance = Instance([7; 16]);
        let mut seen = HashSet::new();
        for row in 1..20_000 {
            let id = derive(instance, row, 1_700_000_000_000);
            assert_eq!(id, derive(instance, row, 1_700_000_000_000));
            let uuid = Uuid::from_bytes(id);
            assert_eq!(uuid.get_version_num(), 7);
            assert_eq!(uuid.get_variant(), uuid::Variant::RFC4122);
            assert!(seen.insert(id), "row {row}");
        }
        assert_ne!(derive(Instance([8; 16]), 1, 0), derive(instance, 1, 0));
    }

    #[test]
    fn ids_are_read_as_bytes_and_as_text() {
        let uuid = Uuid::from_bytes(derive(Instance([1; 16]), 5, 99));
        assert_eq!(parse(uuid.as_bytes()).unwrap(), uuid.into_bytes());
        assert_eq!(parse(uuid.to_string().as_bytes()).unwrap(), uuid.into_bytes());
        assert_eq!(parse(uuid.simple().to_string().as_bytes()).unwrap(), uuid.into_bytes());
        assert!(parse(b"42").unwrap_err().contains("UUID"));
    }
}
