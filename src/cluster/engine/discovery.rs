//! Where the engine's servers are.

use std::net::SocketAddr;

use super::error::EngineError;
use super::srv;
#[cfg(feature = "etcd")]
use crate::source::etcd;

/// How the servers are found. A name of a server may have many addresses: all are tried, and the name is resolved again
/// for each connection.
#[derive(Debug, Clone)]
pub enum Discovery {
    /// `nats://HOST:PORT`, `tls://HOST:PORT`.
    Servers(Vec<String>),
    /// A name with SRV records, such as `_nats._tcp.example.org`. Without `name_servers`, the system's are asked.
    Srv { name: String, name_servers: Vec<SocketAddr> },
    /// A key in etcd, whose value is such a list with commas, blanks or line ends between.
    #[cfg(feature = "etcd")]
    EtcdKey { access: etcd::EtcdAccess, key: String },
}

impl Discovery {
    /// The servers' URLs.
    ///
    /// # Errors
    /// DNS or etcd cannot be read, or has no such name or key.
    pub(super) async fn urls(&self) -> Result<Vec<String>, EngineError> {
        match self {
            Self::Servers(urls) => Ok(urls.clone()),
            Self::Srv { name, name_servers } => {
                let targets = srv::lookup(name, name_servers).await;
                let targets = targets.map_err(|reason| EngineError::Discovery(format!("DNS SRV {name}: {reason}")))?;
                Ok(targets.iter().map(|target| format!("nats://{}:{}", target.host, target.port)).collect())
            }
            #[cfg(feature = "etcd")]
            Self::EtcdKey { access, key } => {
                for url in access.in_clear_text() {
                    tracing::warn!(
                        etcd = url,
                        "credentials in clear text: the etcd password goes over the network without TLS; write etcds:// and \
                         --etcd-ca"
                    );
                }
                let value = etcd_value(access, key).await?;
                Ok(value.split([',', ' ', '\n', '\r', '\t']).filter(|url| !url.is_empty()).map(str::to_owned).collect())
            }
        }
    }
}

/// The value of a key, from the first server that answers.
#[cfg(feature = "etcd")]
async fn etcd_value(access: &etcd::EtcdAccess, key: &str) -> Result<String, EngineError> {
    let mut failures = Vec::new();
    for turn in 0..access.urls.len() {
        let read = async {
            let (client, url) = etcd::connect(access, turn).await?;
            let mut kv = client.kv_client();
            let answer = etcd::with_timeout(&url, kv.get(key, None)).await?;
            Ok::<_, crate::source::SourceError>(answer.kvs().first().map(|pair| pair.value().to_vec()))
        };
        match read.await {
            Ok(Some(value)) => {
                return String::from_utf8(value)
                    .map_err(|_| EngineError::Discovery(format!("etcd key {key}: the value is not UTF-8")));
            }
            Ok(None) => {
                let message = format!("etcd has no key {key}: put a list like nats://n1:4222,nats://n2:4222 there");
                return Err(EngineError::Discovery(message));
            }
            Err(error) => failures.push(error.to_string()),
        }
    }
    Err(EngineError::Discovery(format!("etcd key {key}: {}", failures.join("; "))))
}
