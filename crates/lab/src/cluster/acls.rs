//! Who may do what: rules given and taken, in force on every node before the call returns.

use super::secure::User;
use super::{Cluster, ClusterError};
use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::messages::delete_acls_request::DeleteAclsFilter;
use kafka_protocol::messages::{CreateAclsRequest, DeleteAclsRequest, DescribeAclsRequest};
use kafka_protocol::protocol::StrBytes;
use std::io;

const ALLOW: i8 = 3;
const LITERAL: i8 = 3;
const PREFIXED: i8 = 4;
const ANY_HOST: &str = "*";

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource<'a> {
    /// A topic; `*` is every topic.
    Topic(&'a str),
    /// Every topic whose name begins so.
    TopicPrefix(&'a str),
    /// A consumer group; `*` is every group.
    Group(&'a str),
    /// A transactional id.
    TransactionalId(&'a str),
    /// The cluster itself.
    Cluster,
}

/// What a rule permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Everything.
    All = 2,
    /// Fetching, joining a group, committing.
    Read = 3,
    /// Producing.
    Write = 4,
    /// Creating topics.
    Create = 5,
    /// Deleting topics or groups.
    Delete = 6,
    /// Changing topics.
    Alter = 7,
    /// Metadata and offsets.
    Describe = 8,
    /// Reading settings.
    DescribeConfigs = 10,
    /// Changing settings.
    AlterConfigs = 11,
    /// Producing with idempotence.
    IdempotentWrite = 12,
}

impl Resource<'_> {
    fn parts(&self) -> (i8, i8, StrBytes) {
        let (kind, pattern, name) = match *self {
            Self::Topic(name) => (2, LITERAL, name),
            Self::TopicPrefix(name) => (2, PREFIXED, name),
            Self::Group(name) => (3, LITERAL, name),
            Self::TransactionalId(name) => (5, LITERAL, name),
            Self::Cluster => (4, LITERAL, "kafka-cluster"),
        };
        (kind, pattern, StrBytes::from_string(name.to_owned()))
    }
}

impl Cluster {
    /// Allows a user something, and waits until every running node knows.
    ///
    /// # Errors
    /// When Kafka refuses (the cluster must be `secure`), or it takes too long.
    pub fn allow(&self, user: User, on: Resource, operations: &[Operation]) -> Result<(), ClusterError> {
        let (kind, pattern, name) = on.parts();
        let creation = |operation: &Operation| {
            AclCreation::default()
                .with_resource_type(kind)
                .with_resource_name(name.clone())
                .with_resource_pattern_type(pattern)
                .with_principal(principal(user))
                .with_host(StrBytes::from_static_str(ANY_HOST))
                .with_operation(*operation as i8)
                .with_permission_type(ALLOW)
        };
        let request = CreateAclsRequest::default().with_creations(operations.iter().map(creation).collect());
        let doing = format!("allowing {} {operations:?} on {on:?}", user.name);
        let answer = self.ask_any(3, &request).map_err(ClusterError::io(&doing))?;
        let results = answer.results.into_iter().map(|result| (result.error_code, result.error_message));
        refused(&doing, results)?;
        self.wait_for_rules(user, on, operations, true)
    }

    /// Takes back what was allowed, and waits until every running node knows.
    ///
    /// # Errors
    /// When Kafka refuses (the cluster must be `secure`), or it takes too long.
    pub fn disallow(&self, user: User, on: Resource, operations: &[Operation]) -> Result<(), ClusterError> {
        let (kind, pattern, name) = on.parts();
        let filter = |operation: &Operation| {
            DeleteAclsFilter::default()
                .with_resource_type_filter(kind)
                .with_resource_name_filter(Some(name.clone()))
                .with_pattern_type_filter(pattern)
                .with_principal_filter(Some(principal(user)))
                .with_host_filter(None)
                .with_operation(*operation as i8)
                .with_permission_type(ALLOW)
        };
        let request = DeleteAclsRequest::default().with_filters(operations.iter().map(filter).collect());
        let doing = format!("taking {operations:?} on {on:?} from {}", user.name);
        let answer = self.ask_any(3, &request).map_err(ClusterError::io(&doing))?;
        let results =
            answer.filter_results.into_iter().map(|result| (result.error_code, result.error_message));
        refused(&doing, results)?;
        self.wait_for_rules(user, on, operations, false)
    }

    fn wait_for_rules(
        &self,
        user: User,
        on: Resource,
        operations: &[Operation],
        wanted: bool,
    ) -> Result<(), ClusterError> {
        self.wait_for(&format!("the rules for {} on {on:?} on all nodes", user.name), || {
            for index in self.running() {
                match self.allowed_on(index, user, on) {
                    Ok(known) if operations.iter().all(|o| known.contains(&(*o as i8)) == wanted) => {}
                    other => return Ok(Err(format!("node {index} knows {other:?}"))),
                }
            }
            Ok(Ok(()))
        })
    }

    /// The operations that one node knows a user may do.
    fn allowed_on(&self, index: usize, user: User, on: Resource) -> io::Result<Vec<i8>> {
        let (kind, pattern, name) = on.parts();
        let request = DescribeAclsRequest::default()
            .with_resource_type_filter(kind)
            .with_resource_name_filter(Some(name))
            .with_pattern_type_filter(pattern)
            .with_principal_filter(Some(principal(user)))
            .with_host_filter(None)
            .with_operation(1) // any
            .with_permission_type(ALLOW);
        let answer = self.ask(index, 3, &request)?;
        if answer.error_code != 0 {
            return Err(io::Error::other(format!("error {}", answer.error_code)));
        }
        Ok(answer.resources.iter().flat_map(|resource| &resource.acls).map(|acl| acl.operation).collect())
    }
}

fn principal(user: User) -> StrBytes {
    StrBytes::from_string(format!("User:{}", user.name))
}

fn refused(
    doing: &str,
    results: impl IntoIterator<Item = (i16, Option<StrBytes>)>,
) -> Result<(), ClusterError> {
    let Some((code, message)) = results.into_iter().find(|(code, _)| *code != 0) else { return Ok(()) };
    let message = message.as_ref().map_or("", |text| text.as_str()).to_owned();
    Err(ClusterError::Refused { doing: doing.to_owned(), code, message })
}
