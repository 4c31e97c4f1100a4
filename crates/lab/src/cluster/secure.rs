//! TLS, logins and an authorizer: the settings of a secure node, and those of its clients.
//!
//! Two users: [`ADMIN`] may do everything, [`APP`] nothing until
//! [`Cluster::allow`] says so. Who comes without a name ([`Access::Plain`],
//! [`Access::Ssl`]) may do everything too, as the brokers come this way.

use super::certs::{Authority, Issued, Subject, Validity};
use super::{Cluster, ClusterError, Listener};
use kafka_protocol::messages::IncrementalAlterConfigsRequest;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Someone who can log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// The name; also the common name of the user's certificates.
    pub name: &'static str,
    /// The password.
    pub password: &'static str,
}

/// May do everything.
pub const ADMIN: User = User { name: "admin", password: "admin-secret" };
/// May do what it has been allowed.
pub const APP: User = User { name: "app", password: "app-secret" };

/// How a client comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access<'a> {
    /// Without TLS and without a name.
    Plain,
    /// With TLS, without a name.
    Ssl,
    /// With TLS and a password, which the broker sees.
    SaslPlain(User),
    /// With TLS and a proof of the password.
    SaslScram(User),
    /// With TLS and a certificate.
    MutualTls(&'a Issued),
}

impl Access<'_> {
    /// Where this client knocks.
    #[must_use]
    pub fn listener(self) -> Listener {
        match self {
            Self::Plain => Listener::Plain,
            Self::Ssl => Listener::Ssl,
            Self::SaslPlain(_) | Self::SaslScram(_) => Listener::SaslSsl,
            Self::MutualTls(_) => Listener::MutualTls,
        }
    }
}

/// The certificates of a cluster.
#[derive(Debug)]
pub struct Certs {
    authority: Authority,
    client: Issued,
    servers: Vec<Issued>,
}

impl Certs {
    pub(super) fn create(dir: &Path, nodes: usize) -> Result<Self, ClusterError> {
        let authority = Authority::create(dir, "Homing test authority")?;
        let client = authority.issue_as("client", APP.name, "client", Validity::Long)?;
        let server = |index| authority.issue(Subject::Server(&server_name(index)), Validity::Long);
        let servers = (0..nodes).map(server).collect::<Result<_, _>>()?;
        Ok(Self { authority, client, servers })
    }

    /// The authority that the brokers trust, and that issued their certificates.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The authority's certificate (`ca.pem`).
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.authority.ca()
    }

    /// A certificate of the user [`APP`] (`client.pem`, `client.key`).
    #[must_use]
    pub fn client(&self) -> &Issued {
        &self.client
    }

    /// Settings of `server.properties` for node `index`.
    pub(super) fn settings(&self, index: usize) -> BTreeMap<String, String> {
        let mut settings = BTreeMap::new();
        let mut set = |name: &str, value: String| settings.insert(name.to_owned(), value);
        set("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer".to_owned());
        set("super.users", format!("User:ANONYMOUS;User:{}", ADMIN.name));
        let store = self.servers[index].store.display().to_string();
        for listener in [Listener::Ssl, Listener::SaslSsl, Listener::MutualTls] {
            let mut set = |name, value: String| set(&of_listener(listener, name), value);
            set("ssl.keystore.type", "PEM".to_owned());
            set("ssl.keystore.location", store.clone());
            set("ssl.truststore.type", "PEM".to_owned());
            set("ssl.truststore.location", self.ca().display().to_string());
            let asked = if listener == Listener::MutualTls { "required" } else { "none" };
            set("ssl.client.auth", asked.to_owned());
        }
        set(
            &of_listener(Listener::MutualTls, "ssl.principal.mapping.rules"),
            "RULE:^CN=([^,]+).*$/$1/".to_owned(),
        );
        let mut set = |name, value: String| set(&of_listener(Listener::SaslSsl, name), value);
        set("sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-512".to_owned());
        let users: String =
            [ADMIN, APP].iter().map(|user| format!(" user_{}=\"{}\"", user.name, user.password)).collect();
        let security = "org.apache.kafka.common.security";
        set("plain.sasl.jaas.config", format!("{security}.plain.PlainLoginModule required{users};"));
        set("scram-sha-512.sasl.jaas.config", format!("{security}.scram.ScramLoginModule required;"));
        settings
    }
}

/// What Kafka's formatting tool needs so that the users can log in with SCRAM.
pub(super) fn scram_arguments() -> Vec<String> {
    let user = |user: &User| {
        let credential = format!("SCRAM-SHA-512=[name={},password={}]", user.name, user.password);
        ["--add-scram".to_owned(), credential]
    };
    [ADMIN, APP].iter().flat_map(user).collect()
}

impl Cluster {
    /// The cluster's certificates.
    ///
    /// # Panics
    /// When the cluster was not started as `secure`.
    #[must_use]
    pub fn certs(&self) -> &Certs {
        self.certs.as_ref().expect("only a secure cluster has certificates")
    }

    /// librdkafka's settings for a client that comes in this way, `bootstrap.servers` among them.
    ///
    /// # Panics
    /// When the cluster was not started as `secure` and `access` is another than [`Access::Plain`].
    #[must_use]
    pub fn client_settings(&self, access: Access) -> BTreeMap<&'static str, String> {
        let listener = access.listener();
        let mut settings = BTreeMap::from([
            ("bootstrap.servers", self.bootstrap_of(listener)),
            ("security.protocol", listener.protocol().to_owned()),
        ]);
        if listener != Listener::Plain {
            settings.insert("ssl.ca.location", self.certs().ca().display().to_string());
        }
        match access {
            Access::Plain | Access::Ssl => {}
            Access::SaslPlain(user) | Access::SaslScram(user) => {
                let scram = matches!(access, Access::SaslScram(_));
                settings.insert("sasl.mechanism", if scram { "SCRAM-SHA-512" } else { "PLAIN" }.to_owned());
                settings.insert("sasl.username", user.name.to_owned());
                settings.insert("sasl.password", user.password.to_owned());
            }
            Access::MutualTls(issued) => {
                settings.insert("ssl.certificate.location", issued.cert.display().to_string());
                settings.insert("ssl.key.location", issued.key.display().to_string());
            }
        }
        settings
    }

    /// Gives a running node another certificate, without a restart: new connections
    /// get it, old ones stay. It survives the node's restarts.
    ///
    /// Take it from any [`Authority`], for the name of [`Cluster::server_name`], as Kafka
    /// refuses another name.
    ///
    /// # Errors
    /// When the node does not run or does not take it.
    pub fn install_certificate(&self, index: usize, issued: &Issued) -> Result<(), ClusterError> {
        let config = |listener| {
            AlterableConfig::default()
                .with_name(StrBytes::from_string(of_listener(listener, "ssl.keystore.location")))
                .with_value(Some(StrBytes::from_string(issued.store.display().to_string())))
        };
        let listeners = [Listener::Ssl, Listener::SaslSsl, Listener::MutualTls];
        let resource = AlterConfigsResource::default()
            .with_resource_type(4) // a broker
            .with_resource_name(StrBytes::from_string((index + 1).to_string()))
            .with_configs(listeners.into_iter().map(config).collect());
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        let doing = format!("giving node {index} another certificate");
        let answer = self.ask(index, 1, &request).map_err(ClusterError::io(&doing))?;
        let refused = answer.responses.into_iter().find(|response| response.error_code != 0);
        refused.map_or(Ok(()), |response| {
            let message = response.error_message.as_ref().map_or("", |text| text.as_str()).to_owned();
            Err(ClusterError::Refused { doing, code: response.error_code, message })
        })
    }

    /// Whose certificate node `index` needs.
    #[must_use]
    pub fn server_name(index: usize) -> String {
        server_name(index)
    }
}

fn server_name(index: usize) -> String {
    format!("node{}", index + 1)
}

fn of_listener(listener: Listener, name: &str) -> String {
    format!("listener.name.{}.{name}", listener.name().to_lowercase())
}
