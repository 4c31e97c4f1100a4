//! What happens to a relay, and what it does about it.

use super::{BatchNo, LaneIx, Now, TopicIx, Trouble, Via};
use crate::{Offset, Seq, TopicName};

/// What the driver found or did.
#[derive(Debug, Clone)]
pub enum Event {
    /// Nothing but time has passed, or the last action is done and has no result.
    Nothing,
    /// The database could not do the last action now; nothing of it has happened.
    Hindered(Trouble),
    /// Something was heard while waiting, or at once.
    Polled(Polled),
    /// New rows of these topics were read and wait to be claimed.
    RowsRead(Vec<TopicName>),
    /// Someone asked the relay to stop.
    StopAsked,
    /// The lease is renewed.
    Renewed,
    /// The commit is durable.
    Committed(Committed),
    /// A batch of the manifests was read again; its unsettled parts.
    Loaded {
        /// The batch.
        batch: BatchNo,
        /// Its unsettled parts of open lanes.
        parts: Vec<NewPart>,
    },
    /// So much of the range was handed to the producer.
    Handed {
        /// The lane.
        lane: LaneIx,
        /// The seq after the last that was handed over.
        to: Seq,
        /// Through which producer.
        via: Via,
        /// Why it is not all.
        stopped: Option<Stopped>,
    },
    /// The producer is open.
    Opened(Via),
    /// The producer is gone.
    Closed(Via),
    /// The topic's epoch is open in the database.
    EpochOpened(BeganTopic),
    /// The topic's epoch is closed in the database, its unsettled rows voided or held again.
    TopicClosed(TopicIx),
    /// The topic's oldest order is done, and nothing of its epoch has changed.
    OrderDone(TopicIx),
}

/// What was heard while waiting.
#[derive(Debug, Clone, Default)]
pub struct Polled {
    /// Acknowledgements, in the order they came.
    pub acks: Vec<Ack>,
    /// Records that failed, in the order they came.
    pub failures: Vec<Failed>,
    /// The main producer can do nothing more.
    pub main_fatal: bool,
    /// The probe producer can do nothing more.
    pub probe_fatal: bool,
    /// What the client says of its connections or of a quota.
    pub client: Option<Trouble>,
    /// The main producer groups more bytes than some topic takes: it is to be replaced when nothing is out.
    pub regroup: bool,
    /// Whether Kafka may be another one since: nothing is settled before a look.
    pub doubt: bool,
    /// Answers to questions.
    pub seen: Vec<Seen>,
}

impl Polled {
    /// Whether nothing was heard.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.acks.is_empty()
            && self.failures.is_empty()
            && self.seen.is_empty()
            && self.client.is_none()
            && !self.doubt
            && !self.regroup
            && !self.main_fatal
            && !self.probe_fatal
    }
}

/// Records of consecutive seqs acknowledged at consecutive offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// By which producer.
    pub via: Via,
    /// The lane.
    pub lane: LaneIx,
    /// The first seq.
    pub first: Seq,
    /// How many.
    pub rows: u32,
    /// Where the first is.
    pub offset: Offset,
}

/// A record that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// By which producer.
    pub via: Via,
    /// The lane.
    pub lane: LaneIx,
    /// Its seq.
    pub seq: Seq,
    /// The error's code; `None`: acknowledged, but nobody knows where.
    pub code: Option<i32>,
}

/// Why a hand-over ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// The client holds as much as it may.
    Full,
    /// The client refused the next record with this code.
    Code(i32),
}

/// An answer to a question.
#[derive(Debug, Clone)]
pub enum Seen {
    /// The cluster and the pinned topics.
    Pins {
        /// Whether there was doubt when it was asked.
        in_doubt: bool,
        /// Each topic with an open epoch, or why nobody answered.
        topics: Result<Vec<(TopicIx, TopicSeen)>, Trouble>,
    },
    /// A topic without an open epoch.
    Topic(TopicIx, TopicSeen),
    /// Which epochs the log knows of a topic is found out: it may be opened.
    EpochFound(TopicIx),
    /// The epoch cannot be begun now.
    EpochUnknown(TopicIx, Trouble),
    /// A lane's tail is read to its end.
    Tail(TailRead),
    /// A lane's tail cannot be read for now; it is tried on.
    TailTrouble(LaneIx, Trouble),
    /// The log holds a record of a later epoch of this stream.
    Forked(LaneIx),
    /// A record of the log contradicts the row of the same seq: nothing found in this lane proves anything.
    Contradicted(LaneIx),
    /// Why a topic's lanes hear nothing.
    Reason(TopicIx, Trouble),
    /// An order for a topic.
    Order(Order),
}

/// How a topic turned out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicSeen {
    /// It is there and is the one that is pinned, if one is.
    Present,
    /// It is there with another partition count than the open epoch has.
    Grown,
    /// Kafka has no such topic.
    Missing(Trouble),
    /// It is another topic of the same name.
    Recreated(Trouble),
    /// It cannot be told, or not yet: rights, leaders, an answer that did not come.
    Unclear(Trouble),
}

/// What a lane's tail held.
#[derive(Debug, Clone)]
pub struct TailRead {
    /// The lane.
    pub lane: LaneIx,
    /// Its records found there.
    pub found: Vec<(Seq, Offset)>,
    /// All before this offset is read.
    pub end: Offset,
    /// Whether the log begins above where it was to be read from.
    pub cut: bool,
}

/// What to look for in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TailQuestion {
    /// The lane.
    pub lane: LaneIx,
    /// From where.
    pub from: Offset,
    /// The first seq that is not settled.
    pub first: Seq,
}

/// What an order wants of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OrderKind {
    /// Void what is not settled and end the epoch.
    Close,
    /// Give what is not settled new numbers in a new epoch.
    Reopen,
    /// As `Reopen`, and send again what is settled and still kept.
    ReopenKept,
    /// Set the held rows aside.
    Discard,
}

/// An order for a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// Its number.
    pub id: i64,
    /// The topic.
    pub topic: TopicIx,
    /// What is wanted.
    pub kind: OrderKind,
}

/// A topic's new epoch.
#[derive(Debug, Clone)]
pub struct BeganTopic {
    /// The topic.
    pub topic: TopicIx,
    /// Where each partition ends.
    pub ends: Vec<Offset>,
}

/// One lane's share of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewPart {
    /// The lane.
    pub lane: LaneIx,
    /// Its place in the manifest.
    pub place: u32,
    /// The first seq.
    pub first: Seq,
    /// How many.
    pub rows: u32,
}

/// A part that is wholly decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartRef {
    /// The batch.
    pub batch: BatchNo,
    /// The lane.
    pub lane: LaneIx,
    /// Its place in the manifest.
    pub place: u32,
    /// The first seq.
    pub first: Seq,
    /// How many.
    pub rows: u32,
}

/// What a commit brought about.
#[derive(Debug, Clone, Default)]
pub struct Committed {
    /// The parts it settled.
    pub settled: Vec<PartRef>,
    /// The batch it numbered, in memory now.
    pub batch: Option<(BatchNo, Vec<NewPart>)>,
    /// What it claimed.
    pub claim: Option<ClaimKind>,
    /// Topics that are held from now on.
    pub held: Vec<TopicIx>,
    /// Whether the claimed held rows were the topic's last.
    pub hold_ended: bool,
}

/// What is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimKind {
    /// The rows that were read.
    Live,
    /// A topic's held rows.
    Held(TopicIx),
}

/// Rows to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendRange {
    /// The lane.
    pub lane: LaneIx,
    /// The batch that holds them.
    pub batch: BatchNo,
    /// Their part's place in the manifest.
    pub place: u32,
    /// Their part's first seq.
    pub part_first: Seq,
    /// The first seq.
    pub from: Seq,
    /// The seq after the last.
    pub to: Seq,
    /// Through which producer.
    pub via: Via,
}

/// A record that is set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejection {
    /// The lane.
    pub lane: LaneIx,
    /// The batch that holds it.
    pub batch: BatchNo,
    /// Its part's place in the manifest.
    pub place: u32,
    /// Its part's first seq.
    pub part_first: Seq,
    /// Its seq.
    pub seq: Seq,
    /// The error's code.
    pub code: i32,
}

/// What to do next. Each has one event as its answer; questions are answered later by [`Seen`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Wait for something to happen, at most until then.
    Wait {
        /// When.
        until: Now,
    },
    /// Renew the lease.
    Renew,
    /// Ask for the cluster and the pinned topics.
    AskPins {
        /// Whether there is doubt.
        in_doubt: bool,
    },
    /// Ask about topics without an epoch; create them if that is allowed.
    AskTopics(Vec<TopicIx>),
    /// Ask why these topics' lanes hear nothing.
    AskReasons(Vec<TopicIx>),
    /// Read these lanes' tails.
    AskTails(Vec<TailQuestion>),
    /// Ask the log which epochs a topic had.
    AskEpoch(TopicIx),
    /// Open the topic's epoch in the database.
    OpenEpoch(TopicIx),
    /// Close the topic's epoch in the database: by an order, or (X12) with new numbers for what is unsettled.
    CloseTopic(TopicIx, Option<Order>),
    /// Set the topic's held rows aside: by an order, or because it was missing for too long.
    DiscardHeld(TopicIx, Option<Order>),
    /// Open a producer.
    Open(Via),
    /// Drop a producer; all its reports that count are taken.
    Close(Via),
    /// Hand rows over.
    Send(SendRange),
    /// Note why a record is set aside; it counts as decided.
    Void(Rejection),
    /// Settle, and claim.
    Commit {
        /// Parts to settle.
        settle: Vec<PartRef>,
        /// What to claim.
        claim: Option<ClaimKind>,
        /// Topics whose rows among the claimed are held.
        hold: Vec<TopicIx>,
    },
    /// Read the unsettled batch that holds this seq of a lane.
    Load {
        /// The lane.
        lane: LaneIx,
        /// The seq.
        from: Seq,
    },
    /// Drop a batch's rows.
    Unload(BatchNo),
    /// All is done, or the time for it is over.
    Stop,
}
