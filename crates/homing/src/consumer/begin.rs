//! Finds out where assigned partitions begin: asks for commits, topic ids and ends, in a thread.
//!
//! Each partition is answered for by itself, as soon as all of it is known: one
//! whose leader is away holds up no other, and nothing that is at work already.
//! What is not known is asked again until it is, or until nobody wants to know;
//! in particular no offset is trusted while the topic's id is unknown, because
//! it may be a former topic's.

use super::question::{Answer, Asking, Question};
use super::start::{Begin, judge};
use super::status::ConsumerStatus;
use crate::kafka::TopicId;
use crate::kafka::bell::Bell;
use crate::kafka::native::{NativeError, describe};
use crate::kafka::native_call::SharedClient;
use crate::kafka::native_describe::Described;
use crate::kafka::partition_list::{Entry, TopicPartition};
use homing_core::{Offset, TopicName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The wait for ends in the first round: who is well answers at once, and those behind wait for it.
const ENDS_FIRST: Duration = Duration::from_millis(250);
/// One attempt at any other question; also how late the thread notices that nobody wants to know.
const ASK: Duration = Duration::from_secs(2);
/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two words about what does not answer.
const WORD_EVERY: Duration = Duration::from_secs(10);

/// All there is to know of where a partition begins.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub committed: Entry,
    /// `None` from a broker without topic ids.
    pub topic_id: Option<TopicId>,
    /// First offset, and the one after the last; asked only where no commit says where to begin.
    pub ends: Option<(Offset, Offset)>,
}

/// What comes back from the asking thread.
#[derive(Debug)]
enum Word {
    Known(Box<Known>),
    /// The client cannot go on.
    Fatal(NativeError),
}

/// Partitions that are ours and have not begun.
#[derive(Debug, Default)]
pub(crate) struct Beginnings {
    wanted: BTreeSet<TopicPartition>,
    questions: Vec<Question<Word>>,
}

impl Beginnings {
    /// Asks where these begin.
    pub fn ask(
        &mut self,
        at: Vec<TopicPartition>,
        (client, bell, status): (&SharedClient, &Arc<Bell>, &Arc<ConsumerStatus>),
    ) -> std::io::Result<()> {
        if at.is_empty() {
            return Ok(());
        }
        self.wanted.extend(at.iter().cloned());
        let (client, status) = (Arc::clone(client), Arc::clone(status));
        let question = Question::put(bell, move |asking| Round { client, status, open: at }.run(asking))?;
        self.questions.push(question);
        Ok(())
    }

    /// Takes what has become known of partitions that are still wanted.
    pub fn take(&mut self) -> Result<Vec<Known>, NativeError> {
        let (mut known, mut fatal) = (Vec::new(), None);
        let wanted = &mut self.wanted;
        self.questions.retain(|question| {
            loop {
                match question.take() {
                    Answer::Here(Word::Known(one)) if wanted.remove(&one.committed.at) => known.push(*one),
                    Answer::Here(Word::Known(_)) => {}
                    Answer::Here(Word::Fatal(error)) => fatal = Some(error),
                    Answer::NotYet => return true,
                    Answer::Over => return false,
                }
            }
        });
        fatal.map_or(Ok(known), Err)
    }

    /// Forgets partitions that are ours no more. One of them that comes again is asked about anew, so
    /// what its old question finds out is no answer: that question is put again without it.
    pub fn forget(&mut self, at: &[TopicPartition]) -> Vec<TopicPartition> {
        let before = self.wanted.len();
        self.wanted.retain(|wanted| !at.contains(wanted));
        if self.wanted.len() == before {
            return Vec::new();
        }
        self.questions.clear();
        std::mem::take(&mut self.wanted).into_iter().collect()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    pub fn len(&self) -> usize {
        self.wanted.len()
    }

    pub fn contains(&self, at: &TopicPartition) -> bool {
        self.wanted.contains(at)
    }
}

/// The asking thread's own.
struct Round {
    client: SharedClient,
    status: Arc<ConsumerStatus>,
    /// Not answered for yet; those that kept others waiting come last.
    open: Vec<TopicPartition>,
}

impl Round {
    fn run(mut self, asking: &Asking<Word>) {
        let (mut ends_wait, mut spoken_at) = (ENDS_FIRST, None::<Instant>);
        loop {
            let failed = match self.ask_all(asking, ends_wait) {
                Err(fatal) => return asking.answer(Word::Fatal(fatal)),
                Ok(failed) => failed,
            };
            self.open.retain(|at| failed.contains_key(at));
            self.open.sort_by_key(|at| failed.get(at).cloned());
            if self.open.is_empty() || asking.is_called_off() {
                return;
            }
            if spoken_at.is_none_or(|at| at.elapsed() >= WORD_EVERY) {
                spoken_at = Some(Instant::now());
                self.tell(&failed);
            }
            ends_wait = ASK;
            std::thread::sleep(PAUSE);
        }
    }

    fn tell(&self, failed: &BTreeMap<TopicPartition, String>) {
        let Some((at, why)) = failed.iter().next() else { return };
        let count = failed.len();
        tracing::warn!(%at, why, count, "where partitions begin is not answered, asking again; others go on");
        self.status.failed(format!("where {at} begins is not answered: {why}"));
    }

    /// Asks once for everything; answers for what is known, returns why the others are not.
    fn ask_all(
        &self,
        asking: &Asking<Word>,
        ends_wait: Duration,
    ) -> Result<BTreeMap<TopicPartition, String>, NativeError> {
        let everything_failed = |error: NativeError| match error.fatal {
            true => Err(error),
            false => Ok(self.open.iter().map(|at| (at.clone(), error.to_string())).collect()),
        };
        let bare: Vec<Entry> = self.open.iter().cloned().map(Entry::of).collect();
        let committed = match self.client.committed(&bare, ASK) {
            Ok(committed) => committed,
            Err(error) => return everything_failed(error),
        };
        let ids = match self.topic_ids() {
            Ok(ids) => ids,
            Err(error) => return everything_failed(error),
        };
        let (mut failed, mut ready, mut without_commit) = (BTreeMap::new(), Vec::new(), Vec::new());
        for entry in committed {
            let topic_id = ids.get(&entry.at.topic).cloned();
            match known(entry, topic_id) {
                Err((at, why)) => drop(failed.insert(at, why)),
                Ok(known) if needs_ends(&known) => without_commit.push(known),
                Ok(known) => ready.push(known),
            }
        }
        // In the order of `open`: those that kept others waiting before come last.
        without_commit.sort_by_key(|known| self.open.iter().position(|at| *at == known.committed.at));
        // All together while all goes well: a question waits behind a fetch that waits for records.
        let tell = |ready: &mut Vec<Known>| {
            ready.drain(..).for_each(|known| asking.answer(Word::Known(Box::new(known))));
        };
        for known in without_commit {
            if asking.is_called_off() {
                break;
            }
            let at = known.committed.at.clone();
            match self.client.watermarks(&at, ends_wait) {
                Ok(ends) => ready.push(Known { ends: Some(ends), ..known }),
                Err(error) if error.fatal => return Err(error),
                Err(error) => {
                    drop(failed.insert(at, error.to_string()));
                    tell(&mut ready);
                }
            }
        }
        tell(&mut ready);
        Ok(failed)
    }

    fn topic_ids(&self) -> Result<BTreeMap<TopicName, Described>, NativeError> {
        let topics: BTreeSet<TopicName> = self.open.iter().map(|at| at.topic.clone()).collect();
        let topics: Vec<TopicName> = topics.into_iter().collect();
        match self.client.describe_topics(&topics, ASK) {
            Ok(described) => Ok(topics.into_iter().zip(described).collect()),
            // A broker that cannot describe topics has no ids either.
            Err(error) if error.is_unsupported() => {
                let here = Described::Here { id: None, partitions: 0 };
                Ok(topics.into_iter().map(|topic| (topic, here)).collect())
            }
            Err(error) => Err(error),
        }
    }
}

/// What a commit and its topic's description say together, or why that is not enough. Pure.
fn known(committed: Entry, topic: Option<Described>) -> Result<Known, (TopicPartition, String)> {
    let at = committed.at.clone();
    if committed.error != 0 {
        return Err((at, format!("its commit: {}", describe(committed.error))));
    }
    match topic {
        Some(Described::Here { id, .. }) => Ok(Known { committed, topic_id: id, ends: None }),
        Some(Described::Unclear(code)) => Err((at, format!("its topic's id: {}", describe(code)))),
        Some(Described::Missing) | None => {
            Err((at, "its topic's id: there is no such topic (A03)".to_owned()))
        }
    }
}

fn needs_ends(known: &Known) -> bool {
    !matches!(judge(&known.committed, known.topic_id.as_ref()), Begin::Resume(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use homing_core::Partition;

    fn entry(offset: i64) -> Entry {
        let at = TopicPartition { topic: TopicName::parse("t").unwrap(), partition: Partition(0) };
        Entry { offset, ..Entry::of(at) }
    }

    #[test]
    fn no_commit_is_trusted_while_the_topics_id_is_unknown() {
        for topic in [None, Some(Described::Missing), Some(Described::Unclear(5))] {
            assert!(known(entry(10), topic).is_err(), "{topic:?}");
        }
        let id = Some([7; 16]);
        let here = known(entry(10), Some(Described::Here { id, partitions: 1 })).unwrap();
        assert_eq!((here.topic_id, needs_ends(&here)), (id, false));
        assert!(
            known(Entry { error: 14, ..entry(10) }, Some(Described::Here { id, partitions: 1 })).is_err()
        );
    }

    #[test]
    fn only_a_partition_without_a_usable_commit_is_asked_for_its_ends() {
        let here = |offset| known(entry(offset), Some(Described::Here { id: None, partitions: 1 })).unwrap();
        assert!(!needs_ends(&here(3)));
        assert!(needs_ends(&here(-1001)));
    }
}
