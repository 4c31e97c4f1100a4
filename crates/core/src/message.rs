//! What the application hands over: a message with topic, key, payload and headers.

use crate::ids::{InvalidName, TopicName};
use uuid::Uuid;

/// One record header: a name and its bytes; `None` is Kafka's null value.
pub type Header = (String, Option<Vec<u8>>);

/// A message as the application hands it over.
///
/// A message without payload is a tombstone; one without key goes to a
/// partition of Homing's choice.
///
/// ```
/// use homing_core::Message;
/// let message = Message::new("orders")?.key("42").payload(r#"{"n":1}"#).header("source", "web");
/// assert_eq!(message.key.as_deref(), Some(&b"42"[..]));
/// # Ok::<(), homing_core::InvalidName>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The topic it goes to.
    pub topic: TopicName,
    /// The key: messages of one key keep their order.
    pub key: Option<Vec<u8>>,
    /// The payload; `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
    /// The application's own headers, in order; names may repeat.
    pub headers: Vec<Header>,
    /// The message's identity, a UUID v7; given at enqueue when `None`.
    pub id: Option<Uuid>,
}

impl Message {
    /// Starts a message for `topic`, without key, payload or headers.
    ///
    /// # Errors
    /// [`InvalidName`] when Kafka would refuse the topic's name.
    pub fn new(topic: &str) -> Result<Self, InvalidName> {
        Ok(Self { topic: TopicName::parse(topic)?, key: None, payload: None, headers: Vec::new(), id: None })
    }

    /// Sets the key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the payload.
    #[must_use]
    pub fn payload(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.payload = Some(payload.into());
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), Some(value.into())));
        self
    }

    /// Sets the identity instead of having one given at enqueue.
    #[must_use]
    pub fn id(mut self, id: Uuid) -> Self {
        self.id = Some(id);
        self
    }
}
