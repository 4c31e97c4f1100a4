//! A refusal with a sentence for whoever reads the client's log.

use kafka_protocol::ResponseError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub error: ResponseError,
    pub why: String,
}

pub(crate) fn refusal(error: ResponseError, why: impl Into<String>) -> Refusal {
    Refusal { error, why: why.into() }
}

impl From<ResponseError> for Refusal {
    fn from(error: ResponseError) -> Self {
        let why = match error {
            ResponseError::UnknownTopicOrPartition => "there is no such topic or partition".to_owned(),
            ResponseError::UnknownTopicId => "there is no topic with this id".to_owned(),
            ResponseError::KafkaStorageError => {
                "the broker's disk refuses or the partition is damaged; its log says more".to_owned()
            }
            other => other.to_string(),
        };
        Self { error, why }
    }
}
