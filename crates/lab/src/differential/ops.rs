//! What can be asked of a broker: sensible, odd and wrong, made from a seed.

use super::batch::{Batch, FLAWS};
use super::garble::Garble;

/// xorshift64: repeats exactly for a seed.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Dice of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // Neighbouring seeds must not begin alike.
        let mut dice = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        dice.next();
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 16) % end
    }

    /// One of several.
    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).expect("an index")].clone()
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Where in the range of versions.
    fn version(&mut self) -> u8 {
        u8::try_from(self.below(256)).expect("below 256")
    }
}

/// A topic's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// One of the sequence's own, which may exist.
    Own(u8),
    /// One that is never made.
    Missing,
    /// One that no topic may have, used as it is.
    Bad(&'static str),
}

/// Which member or generation of a group is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The one that was given out last.
    Known,
    /// Nobody.
    Empty,
    /// One that was never given out.
    Stranger,
}

/// One request. `v`: where in the range of versions that both offer.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the fields are Kafka's own")]
pub enum Op {
    CreateTopic {
        v: u8,
        topic: Topic,
        partitions: i32,
        replicas: i16,
        config: Option<(&'static str, &'static str)>,
        validate_only: bool,
        twice: bool,
    },
    DeleteTopic {
        v: u8,
        topic: Topic,
    },
    Grow {
        v: u8,
        topic: Topic,
        count: i32,
        validate_only: bool,
    },
    DescribeConfig {
        v: u8,
        topic: Topic,
        keys: Option<Vec<&'static str>>,
    },
    AlterConfig {
        v: u8,
        topic: Topic,
        key: &'static str,
        how: i8,
        value: Option<&'static str>,
        validate_only: bool,
    },
    Metadata {
        v: u8,
        topics: Vec<Topic>,
    },
    DescribeCluster {
        v: u8,
    },
    InitProducerId {
        v: u8,
    },
    Produce {
        v: u8,
        topic: Topic,
        partition: i32,
        acks: i16,
        batch: Batch,
    },
    Fetch {
        v: u8,
        topic: Topic,
        partition: i32,
        offset: i64,
        bytes_max: i32,
    },
    ListOffsets {
        v: u8,
        topic: Topic,
        partition: i32,
        /// Above 0: so many milliseconds after the run began.
        timestamp: i64,
    },
    OffsetForLeaderEpoch {
        v: u8,
        topic: Topic,
        partition: i32,
        epoch: i32,
    },
    DeleteRecords {
        v: u8,
        topic: Topic,
        partition: i32,
        offset: i64,
    },
    FindCoordinator {
        v: u8,
        key: &'static str,
        kind: i8,
    },
    Commit {
        v: u8,
        group: u8,
        generation: Option<i32>,
        who: Who,
        topic: Topic,
        partition: i32,
        offset: i64,
        metadata: u16,
    },
    Committed {
        v: u8,
        group: u8,
        topic: Option<Topic>,
    },
    Join {
        v: u8,
        group: u8,
        who: Who,
        session_ms: i32,
        kind: &'static str,
        protocols: Vec<&'static str>,
    },
    Sync {
        v: u8,
        group: u8,
        who: Who,
        generation_off: i32,
    },
    Heartbeat {
        v: u8,
        group: u8,
        who: Who,
        generation_off: i32,
    },
    Leave {
        v: u8,
        group: u8,
        who: Who,
    },
    ListGroups {
        v: u8,
        state: Option<&'static str>,
    },
    DescribeGroup {
        v: u8,
        group: u8,
    },
    DeleteGroup {
        v: u8,
        group: u8,
    },
    ApiVersions {
        version: i16,
    },
    Garbled(Garble),
}

const PARTITIONS: [i32; 6] = [0, 0, 0, 1, -1, 99];
const OFFSETS: [i64; 8] = [0, 0, 1, 2, 5, -1, -2, 1_000_000];

impl Topic {
    fn random(dice: &mut Dice) -> Self {
        match dice.below(20) {
            0 => Self::Missing,
            1 => Self::Bad(dice.pick(&["", ".", "..", "with space", "with/slash", "ümlaut"])),
            n => Self::Own(u8::try_from(n % 3).expect("below three")),
        }
    }
}

impl Who {
    fn random(dice: &mut Dice) -> Self {
        dice.pick(&[Self::Known, Self::Known, Self::Known, Self::Empty, Self::Stranger])
    }
}

impl Batch {
    fn random(dice: &mut Dice) -> Self {
        let records = u8::try_from(1 + dice.below(4)).expect("small");
        match dice.below(12) {
            0 => Self::Empty,
            1..=4 => Self::Broken(dice.pick(&FLAWS)),
            5..=8 => Self::Numbered {
                records,
                sequence: dice.pick(&[0, 0, 0, 1, 2, 3, 4, 7, -1]),
                epoch_off: dice.pick(&[0, 0, 0, 0, -1, 1]),
            },
            _ => Self::Plain { records, codec: dice.pick(&[0, 0, 1, 2, 3, 4]) },
        }
    }
}

impl Op {
    /// What a sequence begins with: a topic and a producer's id, so that most of what follows finds something.
    #[must_use]
    pub fn beginning() -> [Self; 2] {
        let (v, topic) = (u8::MAX, Topic::Own(0));
        let topic = Self::CreateTopic {
            v,
            topic,
            partitions: 2,
            replicas: 1,
            config: None,
            validate_only: false,
            twice: false,
        };
        [topic, Self::InitProducerId { v }]
    }

    /// The next operation of the dice.
    pub fn random(dice: &mut Dice) -> Self {
        match dice.below(100) {
            0..=13 => Self::random_topic(dice),
            14..=17 => Self::DeleteTopic { v: dice.version(), topic: Topic::random(dice) },
            18..=27 => Self::random_config(dice),
            28..=33 => {
                Self::Metadata { v: dice.version(), topics: vec![Topic::random(dice), Topic::random(dice)] }
            }
            34 => Self::DescribeCluster { v: dice.version() },
            35..=66 => Self::random_records(dice),
            67..=92 => Self::random_group(dice),
            93..=94 => Self::ApiVersions { version: dice.pick(&[0, 1, 2, 3, 4, 5, 99]) },
            _ => Self::Garbled(Garble::random(dice)),
        }
    }

    fn random_topic(dice: &mut Dice) -> Self {
        let (v, topic) = (dice.version(), Topic::random(dice));
        if dice.chance(20) {
            let count = dice.pick(&[1, 2, 3, 4, 0, -1]);
            return Self::Grow { v, topic, count, validate_only: dice.chance(20) };
        }
        let config = dice.pick(&[
            None,
            None,
            None,
            Some(("retention.ms", "86400000")),
            Some(("retention.ms", "soon")),
            Some(("segment.bytes", "1048576")),
            Some(("min.insync.replicas", "1")),
            Some(("no.such.setting", "1")),
            Some(("max.message.bytes", "-5")),
        ]);
        Self::CreateTopic {
            v,
            topic,
            partitions: dice.pick(&[1, 2, 3, 3, -1, 0, -3]),
            replicas: dice.pick(&[1, 1, 1, 1, -1, 0, 2]),
            config,
            validate_only: dice.chance(10),
            twice: dice.chance(5),
        }
    }

    fn random_config(dice: &mut Dice) -> Self {
        let (v, topic) = (dice.version(), Topic::random(dice));
        if dice.chance(50) {
            let keys = dice.pick(&[
                Some(vec!["retention.ms"]),
                Some(vec!["retention.ms", "segment.bytes", "no.such.setting"]),
                Some(vec!["max.message.bytes", "cleanup.policy", "min.insync.replicas"]),
                Some(Vec::new()),
            ]);
            return Self::DescribeConfig { v, topic, keys };
        }
        let (key, value) = dice.pick(&[
            ("retention.ms", Some("3600000000")),
            ("retention.ms", Some("later")),
            ("retention.ms", None),
            ("max.message.bytes", Some("2000000")),
            ("no.such.setting", Some("1")),
            ("min.insync.replicas", Some("0")),
            ("flush.messages", Some("10")),
        ]);
        let how = dice.pick(&[0, 0, 0, 1, 2, 3, 9]);
        Self::AlterConfig { v, topic, key, how, value, validate_only: dice.chance(20) }
    }

    fn random_records(dice: &mut Dice) -> Self {
        let (v, topic, partition) = (dice.version(), Topic::random(dice), dice.pick(&PARTITIONS));
        match dice.below(32) {
            0..=2 => Self::InitProducerId { v },
            3..=15 => {
                let acks = dice.pick(&[-1, -1, -1, 1, 2, -2]);
                Self::Produce { v, topic, partition, acks, batch: Batch::random(dice) }
            }
            16..=22 => {
                let bytes_max = dice.pick(&[1 << 20, 1 << 20, 100, 1, 0]);
                Self::Fetch { v, topic, partition, offset: dice.pick(&OFFSETS), bytes_max }
            }
            23..=27 => {
                let timestamp = dice.pick(&[-1, -2, -3, 0, 1, 2, 1_000_000, -9]);
                Self::ListOffsets { v, topic, partition, timestamp }
            }
            28..=29 => Self::OffsetForLeaderEpoch { v, topic, partition, epoch: dice.pick(&[0, -1, 5]) },
            _ => Self::DeleteRecords { v, topic, partition, offset: dice.pick(&OFFSETS) },
        }
    }

    fn random_group(dice: &mut Dice) -> Self {
        let (v, group) = (dice.version(), u8::try_from(dice.below(2)).expect("below two"));
        let (who, generation_off) = (Who::random(dice), dice.pick(&[0, 0, 0, 1, -1]));
        match dice.below(26) {
            0..=6 => Self::Join {
                v,
                group,
                who: dice.pick(&[Who::Empty, Who::Known, Who::Known, Who::Stranger]),
                session_ms: dice.pick(&[10_000, 10_000, 10_000, 1, 100_000_000]),
                kind: dice.pick(&["consumer", "consumer", "consumer", "connect", ""]),
                protocols: dice.pick(&[
                    vec!["range"],
                    vec!["range", "roundrobin"],
                    vec!["other"],
                    Vec::new(),
                ]),
            },
            7..=9 => Self::Sync { v, group, who, generation_off },
            10..=11 => Self::Heartbeat { v, group, who, generation_off },
            12..=13 => Self::Leave { v, group, who },
            14..=17 => Self::Commit {
                v,
                group,
                generation: dice.pick(&[None, None, Some(-1), Some(-1), Some(7)]),
                who,
                topic: Topic::random(dice),
                partition: dice.pick(&PARTITIONS),
                offset: dice.pick(&OFFSETS),
                metadata: dice.pick(&[0, 10, 4096, 4097]),
            },
            18..=20 => Self::Committed { v, group, topic: dice.chance(60).then(|| Topic::random(dice)) },
            21 => Self::FindCoordinator { v, key: dice.pick(&["group", ""]), kind: dice.pick(&[0, 0, 9]) },
            22 => Self::ListGroups {
                v,
                state: dice.pick(&[None, Some("Empty"), Some("Stable"), Some("nonsense")]),
            },
            23..=24 => Self::DescribeGroup { v, group },
            _ => Self::DeleteGroup { v, group },
        }
    }

    /// Whether it changes nothing, so that it may be asked again while news of a change spreads.
    #[must_use]
    pub fn only_reads(&self) -> bool {
        matches!(
            self,
            Self::DescribeConfig { .. }
                | Self::Metadata { .. }
                | Self::DescribeCluster { .. }
                | Self::Fetch { .. }
                | Self::ListOffsets { .. }
                | Self::OffsetForLeaderEpoch { .. }
                | Self::FindCoordinator { .. }
                | Self::Committed { .. }
                | Self::ListGroups { .. }
                | Self::DescribeGroup { .. }
        )
    }

    /// What to look at until both sides agree, before the next operation: a cluster spreads the news
    /// of topics after it has answered.
    #[must_use]
    pub fn settles(&self) -> Option<Self> {
        match self {
            Self::CreateTopic { topic, .. } | Self::DeleteTopic { topic, .. } | Self::Grow { topic, .. } => {
                Some(Self::Metadata { v: 255, topics: vec![*topic] })
            }
            _ => None,
        }
    }
}
