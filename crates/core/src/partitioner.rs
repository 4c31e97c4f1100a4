//! Chooses a key's partition as Kafka's Java client does, so that other producers agree.
//!
//! Source: Apache Kafka, `org.apache.kafka.common.utils.Utils.murmur2` and
//! `BuiltInPartitioner.partitionForKey`.

use crate::ids::Partition;

/// How many partitions a topic has, 1 or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionCount(i32);

impl PartitionCount {
    /// Keeps `count` if a topic can have that many partitions.
    #[must_use]
    pub fn new(count: i32) -> Option<Self> {
        (count >= 1).then_some(Self(count))
    }

    /// The count, 1 or more.
    #[must_use]
    pub fn get(self) -> i32 {
        self.0
    }
}

/// The 32-bit murmur2 hash with the Java client's seed.
#[must_use]
pub fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    let mut hash = SEED ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (i, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * i);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
}

/// The partition that records of `key` go to.
///
/// ```
/// use homing_core::{Partition, PartitionCount, partition_for_key};
/// let count = PartitionCount::new(7).expect("7 is positive");
/// assert_eq!(partition_for_key(b"21", count), Partition(3));
/// ```
#[must_use]
pub fn partition_for_key(key: &[u8], partitions: PartitionCount) -> Partition {
    let positive = (murmur2(key) & 0x7fff_ffff) as i32;
    Partition(positive % partitions.get())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hashes_equal_those_of_kafkas_own_test() {
        // Apache Kafka, clients/src/test/java/.../utils/UtilsTest.java, testMurmur2.
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }

    #[test]
    fn a_topic_without_partitions_cannot_be_named() {
        assert_eq!(PartitionCount::new(0), None);
        assert_eq!(PartitionCount::new(-1), None);
        assert_eq!(PartitionCount::new(1).map(PartitionCount::get), Some(1));
    }

    /// Byte by byte, as the Java source reads.
    fn murmur2_naive(data: &[u8]) -> i32 {
        let (m, r) = (0x5bd1_e995_u32 as i32, 24);
        let mut h = 0x9747_b28c_u32 as i32 ^ data.len() as i32;
        let at = |i: usize| i32::from(data[i]) & 0xff;
        let length4 = data.len() / 4;
        for i in 0..length4 {
            let i4 = i * 4;
            let mut k = at(i4) + (at(i4 + 1) << 8) + (at(i4 + 2) << 16) + (at(i4 + 3) << 24);
            k = k.wrapping_mul(m);
            k ^= (k as u32 >> r) as i32;
            k = k.wrapping_mul(m);
            h = h.wrapping_mul(m);
            h ^= k;
        }
        let rest = data.len() & !3;
        if data.len() % 4 == 3 {
            h ^= at(rest + 2) << 16;
        }
        if data.len() % 4 >= 2 {
            h ^= at(rest + 1) << 8;
        }
        if data.len() % 4 >= 1 {
            h ^= at(rest);
            h = h.wrapping_mul(m);
        }
        h ^= (h as u32 >> 13) as i32;
        h = h.wrapping_mul(m);
        h ^ (h as u32 >> 15) as i32
    }

    proptest! {
        #[test]
        fn any_key_hashes_as_in_java(key: Vec<u8>, partitions in 1..=i32::MAX) {
            prop_assert_eq!(murmur2(&key) as i32, murmur2_naive(&key));
            let partition = partition_for_key(&key, PartitionCount::new(partitions).unwrap());
            prop_assert_eq!(partition.0, (murmur2_naive(&key) & 0x7fff_ffff) % partitions);
        }
    }
}
