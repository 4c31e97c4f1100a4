//! Questions about cluster and topics: what is pinned, what is there, why nothing is heard.

use super::answer::Answer;
use super::error::RelayError;
use super::inbox::Inbox;
use super::obstacle::{Said, of_error, unwritable};
use super::worker::{Questions, Stop, Workers};
use crate::kafka::NativeError;
use crate::kafka::admin::{Admin, TopicAnswer, TopicFacts, TopicSettings};
use crate::kafka::config::KafkaConfig;
use homing_core::TopicName;
use homing_core::relay::TopicIx;
use std::time::{Duration, Instant};

/// A topic by place and name.
pub(super) type Asked = (TopicIx, TopicName);

/// What is asked.
#[derive(Debug)]
pub(super) enum Question {
    /// The cluster and the topics with an open epoch.
    Pins { in_doubt: bool, topics: Vec<Asked> },
    /// Topics without one.
    Topics(Vec<Asked>),
    /// Why these hear nothing.
    Reasons(Vec<Asked>),
    /// The client's settings have changed.
    Reopen,
}

/// What is known of a topic that is there.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub facts: TopicFacts,
    /// `None`: that question got no answer.
    pub settings: Option<TopicSettings>,
}

/// How a topic turned out.
#[derive(Debug, Clone)]
pub(super) enum Look {
    Found(Found),
    Missing,
    Hidden,
    /// It could not be told, or not be created.
    Unclear(Said),
}

/// Starts the thread that asks.
pub(super) fn start(
    kafka: &KafkaConfig,
    wait: Duration,
    inbox: Inbox<Answer>,
) -> Result<Workers<Question>, RelayError> {
    let kafka = kafka.clone();
    Workers::start("ask", 1, move |questions: &Questions<Question>, stop: &Stop| {
        let mut asker = Asker { kafka: &kafka, wait, admin: None, inbox: &inbox, stop };
        while let Some(question) = questions.next() {
            if stop.is_set() {
                return;
            }
            asker.answer(question);
        }
    })
}

struct Asker<'a> {
    kafka: &'a KafkaConfig,
    wait: Duration,
    admin: Option<Admin>,
    inbox: &'a Inbox<Answer>,
    stop: &'a Stop,
}

impl Asker<'_> {
    fn answer(&mut self, question: Question) {
        match question {
            Question::Reopen => self.admin = None,
            Question::Pins { in_doubt, topics } => {
                let found = self.pins(&topics);
                self.inbox.put(Answer::Pins { in_doubt, found });
            }
            Question::Topics(topics) => {
                let looks = self.topics(&topics);
                for ((ix, _), look) in topics.into_iter().zip(looks) {
                    self.inbox.put(Answer::Topic(ix, look));
                }
            }
            Question::Reasons(topics) => {
                for ((ix, _), said) in topics.iter().zip(self.reasons(&topics)) {
                    self.inbox.put(Answer::Reason(*ix, said));
                }
            }
        }
    }

    fn admin(&mut self) -> Result<&Admin, Said> {
        let admin = match self.admin.take() {
            Some(admin) => admin,
            None => Admin::open(self.kafka, self.wait).map_err(|error| Said::plain(error.to_string()))?,
        };
        Ok(self.admin.insert(admin))
    }

    fn pins(&mut self, topics: &[Asked]) -> Result<super::answer::Pins, Said> {
        let admin = self.admin()?;
        let cluster = admin.cluster().map_err(|error| of_error(&error))?;
        let names: Vec<&TopicName> = topics.iter().map(|(_, name)| name).collect();
        let answers = looks(admin, &names)?;
        let topics = topics.iter().map(|(ix, _)| *ix).zip(answers).collect();
        Ok(super::answer::Pins { cluster, topics })
    }

    fn topics(&mut self, topics: &[Asked]) -> Vec<Look> {
        let create = self.kafka.create_topics;
        let (kafka, wait, stop) = (self.kafka, self.wait, self.stop);
        let names: Vec<&TopicName> = topics.iter().map(|(_, name)| name).collect();
        let admin = match self.admin() {
            Ok(admin) => admin,
            Err(said) => return vec![Look::Unclear(said); topics.len()],
        };
        let mut found = match looks(admin, &names) {
            Ok(found) => found,
            Err(said) => return vec![Look::Unclear(said); topics.len()],
        };
        let mut created: Vec<usize> = Vec::new();
        for (at, look) in found.iter_mut().enumerate() {
            if !create || !matches!(look, Look::Missing) || stop.is_set() {
                continue;
            }
            match admin.create_topic(names[at], kafka) {
                Ok(()) => {
                    tracing::info!(topic = %names[at], partitions = kafka.topic_partitions, "topic created");
                    created.push(at);
                }
                Err(error) => *look = Look::Unclear(refused_creation(&error)),
            }
        }
        until_led(admin, &names, &created, &mut found, Instant::now() + wait, stop);
        found
    }

    fn reasons(&mut self, topics: &[Asked]) -> Vec<Said> {
        let names: Vec<&TopicName> = topics.iter().map(|(_, name)| name).collect();
        let found = self.admin().and_then(|admin| looks(admin, &names));
        let found = match found {
            Ok(found) => found,
            Err(said) => vec![Look::Unclear(said); topics.len()],
        };
        let well = "Kafka acknowledges nothing, though it answers and every partition has what it needs";
        let of = |(look, name): (Look, &&TopicName)| match look {
            Look::Found(found) => {
                let min_insync = found.settings.and_then(|settings| settings.min_insync);
                unwritable(name, &found.facts, min_insync).unwrap_or_else(|| Said::plain(well))
            }
            Look::Missing => Said::plain(format!("Kafka has no topic {name}, which this outbox writes to")),
            Look::Hidden => not_authorised(name),
            Look::Unclear(said) => said,
        };
        found.into_iter().zip(&names).map(of).collect()
    }
}

/// Looks at topics and, where they are there, at their settings.
fn looks(admin: &Admin, names: &[&TopicName]) -> Result<Vec<Look>, Said> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let answers = admin.topics(names).map_err(|error| of_error(&error))?;
    let present = |answer: &TopicAnswer| matches!(answer, TopicAnswer::Present(_));
    let there: Vec<&TopicName> =
        names.iter().zip(&answers).filter(|(_, answer)| present(answer)).map(|(name, _)| *name).collect();
    let mut settings = match admin.topic_settings(&there) {
        Ok(settings) => settings.into_iter().map(Some).collect(),
        Err(error) => {
            tracing::debug!(%error, "the topics' settings are not known now");
            vec![None; there.len()]
        }
    }
    .into_iter();
    let of = |answer| match answer {
        TopicAnswer::Present(facts) => {
            Look::Found(Found { facts, settings: settings.next().expect("one answer a topic that is there") })
        }
        TopicAnswer::Missing => Look::Missing,
        TopicAnswer::NotAuthorised => Look::Hidden,
        TopicAnswer::Unclear(error) => Look::Unclear(of_error(&error)),
    };
    Ok(answers.into_iter().map(of).collect())
}

/// Waits until each partition of the topics just created has a leader (P12).
fn until_led(
    admin: &Admin,
    names: &[&TopicName],
    created: &[usize],
    found: &mut [Look],
    until: Instant,
    stop: &Stop,
) {
    let mut waiting = created.to_vec();
    loop {
        let asked: Vec<&TopicName> = waiting.iter().map(|at| names[*at]).collect();
        let answers = looks(admin, &asked).unwrap_or_default();
        let mut left = Vec::new();
        for (at, look) in waiting.into_iter().zip(answers) {
            match look {
                Look::Found(there) if there.facts.is_led() => found[at] = Look::Found(there),
                _ => {
                    let what = format!("topic {} was created and has no leaders yet", names[at]);
                    found[at] = Look::Unclear(Said::plain(what));
                    left.push(at);
                }
            }
        }
        if left.is_empty() || Instant::now() >= until || stop.is_set() {
            return;
        }
        waiting = left;
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Kafka would not create a topic.
fn refused_creation(error: &NativeError) -> Said {
    let said = of_error(error);
    Said { code: said.code.or(Some("X11")), what: format!("Kafka does not create the topic: {}", said.what) }
}

/// What is said of a topic that may not be looked at.
pub(super) fn not_authorised(topic: &TopicName) -> Said {
    Said::coded(
        "N05",
        format!("Kafka does not let this user look at topic {topic}: give it Write and Read on the topic"),
    )
}
