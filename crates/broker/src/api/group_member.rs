//! What the group APIs share: who asks.

use kafka_protocol::protocol::StrBytes;

use crate::groups::Identity;

/// The client behind a connection.
pub(crate) struct Client<'a> {
    /// Its `client.id`; may be empty.
    pub id: &'a str,
    /// As Kafka shows it: a slash and the address.
    pub host: &'a str,
}

pub(crate) fn identity(member_id: &StrBytes, instance_id: Option<&StrBytes>) -> Identity {
    Identity { member_id: member_id.to_string(), instance_id: instance_id.map(ToString::to_string) }
}

pub(crate) fn text(value: String) -> StrBytes {
    StrBytes::from_string(value)
}
