//! How `weir run` joins a cluster.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, bail};

#[cfg(feature = "etcd")]
use super::etcd::EtcdArgs;
use crate::cluster::ClusterOptions;
use crate::cluster::engine::{Credentials, Discovery, EngineOptions, TlsFiles, check_cluster_name};
#[cfg(feature = "etcd")]
use crate::source::etcd::{EtcdUrlError, check_url};
use crate::status::Secret;

/// One broker made of many nodes. The nodes find each other through nats-servers with JetStream.
#[derive(Debug, clap::Args)]
pub(super) struct ClusterArgs {
    /// The nats-servers of the cluster, as nats://n1:4222,nats://n2:4222; tls:// for TLS; or srv:NAME for a name with SRV
    /// records, as srv:_nats._tcp.nats.default.svc.cluster.local; or etcd://HOST:PORT/KEY for a key of etcd that has such a
    /// list (etcds:// for TLS; credentials as --etcd-user, --etcd-ca say). Without it, this broker is alone
    #[arg(long, env = "WEIR_CLUSTER", value_name = "URL", value_delimiter = ',')]
    cluster: Vec<String>,
    /// The cluster's name, of A-Z a-z 0-9 _ -: nodes with the same name and nats-servers are one broker
    #[arg(long, env = "WEIR_CLUSTER_NAME", value_name = "NAME", default_value = "weir", requires = "cluster", value_parser = cluster_name)]
    cluster_name: String,
    /// Copies that the nats-servers keep of what the cluster stores there: 1, 3 or 5, and at least so many servers
    #[arg(long, env = "WEIR_CLUSTER_REPLICAS", value_name = "N", default_value_t = 3, requires = "cluster", value_parser = replicas)]
    cluster_replicas: u8,
    /// User for the nats-servers
    #[arg(long, env = "WEIR_CLUSTER_USER", value_name = "USER", requires_all = ["cluster", "cluster_password"])]
    cluster_user: Option<String>,
    /// The user's password
    #[arg(long, env = "WEIR_CLUSTER_PASSWORD", value_name = "file:PATH|env:NAME", requires = "cluster_user")]
    cluster_password: Option<Secret>,
    /// Token for the nats-servers
    #[arg(
        long,
        env = "WEIR_CLUSTER_TOKEN",
        value_name = "file:PATH|env:NAME",
        requires = "cluster",
        conflicts_with = "cluster_user"
    )]
    cluster_token: Option<Secret>,
    /// File with the seed of an nkey
    #[arg(long, env = "WEIR_CLUSTER_NKEY", value_name = "FILE", requires = "cluster", conflicts_with_all = ["cluster_user", "cluster_token"])]
    cluster_nkey: Option<PathBuf>,
    /// File with a JWT and a seed, as nsc writes it
    #[arg(long, env = "WEIR_CLUSTER_CREDS", value_name = "FILE", requires = "cluster", conflicts_with_all = ["cluster_user", "cluster_token", "cluster_nkey"])]
    cluster_creds: Option<PathBuf>,
    /// Authorities that may have issued the certificates of tls:// servers (PEM) [default: the system's]
    #[arg(long, env = "WEIR_CLUSTER_CA", value_name = "FILE", requires = "cluster")]
    cluster_ca: Option<PathBuf>,
    /// This node's certificate for the nats-servers (PEM)
    #[arg(long, env = "WEIR_CLUSTER_CERT", value_name = "FILE", requires_all = ["cluster", "cluster_key"])]
    cluster_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, env = "WEIR_CLUSTER_KEY", value_name = "FILE", requires_all = ["cluster", "cluster_cert"])]
    cluster_key: Option<PathBuf>,
}

fn cluster_name(text: &str) -> Result<String, String> {
    check_cluster_name(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

fn replicas(text: &str) -> Result<u8, &'static str> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err("the number of copies is 1, 3 or 5"),
    }
}

/// Where the servers are.
fn discovery(urls: &[String], #[cfg(feature = "etcd")] etcd: &EtcdArgs) -> anyhow::Result<Discovery> {
    if urls.iter().any(|url| is_etcd(url)) {
        #[cfg(not(feature = "etcd"))]
        bail!("--cluster etcd://: this build of weir has no etcd: give the list of nats-servers, or srv:NAME");
        #[cfg(feature = "etcd")]
        return etcd_key(urls, etcd);
    }
    match urls {
        [one] if one.starts_with("srv:") => {
            Ok(Discovery::Srv { name: one["srv:".len()..].to_owned(), name_servers: Vec::<SocketAddr>::new() })
        }
        many if many.iter().any(|url| url.starts_with("srv:")) => {
            bail!("--cluster: write either srv:NAME, or a list of servers")
        }
        many => Ok(Discovery::Servers(many.to_vec())),
    }
}

fn is_etcd(url: &str) -> bool {
    url.starts_with("etcd://") || url.starts_with("etcds://")
}

/// A key of etcd: `etcd://HOST:PORT/KEY`, of each server of etcd the same key. A text that has a password is not repeated.
#[cfg(feature = "etcd")]
fn etcd_key(urls: &[String], etcd: &EtcdArgs) -> anyhow::Result<Discovery> {
    let (mut servers, mut keys) = (Vec::new(), Vec::new());
    for url in urls {
        let (scheme, rest) = match (url.strip_prefix("etcd://"), url.strip_prefix("etcds://")) {
            (Some(rest), _) => ("http", rest),
            (_, Some(rest)) => ("https", rest),
            _ => bail!("--cluster: write either etcd://HOST:PORT/KEY, or a list of servers"),
        };
        let Some((authority, key)) = rest.split_once('/').filter(|(_, key)| !key.is_empty()) else {
            bail!("--cluster: the key is missing: write etcd://HOST:PORT/KEY, as etcd://etcd1:2379/weir/nats");
        };
        let server = format!("{scheme}://{authority}");
        match check_url(&server) {
            Ok(()) => {}
            Err(error @ EtcdUrlError::Password) => bail!("--cluster: {error}"),
            Err(_) => bail!("--cluster: write etcd://HOST:PORT/KEY, as etcd://etcd1:2379/weir/nats"),
        }
        servers.push(server);
        keys.push(format!("/{key}"));
    }
    keys.dedup();
    let [key] = &keys[..] else {
        bail!("--cluster: servers of one etcd have the same keys: write the same key for each of them");
    };
    Ok(Discovery::EtcdKey { access: etcd.access_to(servers).context("--cluster")?, key: key.clone() })
}

fn secret(secret: &Secret, flag: &str) -> anyhow::Result<String> {
    let text = match secret {
        Secret::File(path) => {
            std::fs::read_to_string(path).with_context(|| format!("{flag} file:{}", path.display()))?
        }
        Secret::Environment(name) => std::env::var(name).with_context(|| format!("{flag} env:{name}"))?,
    };
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

impl ClusterArgs {
    /// The options; `None`: the broker is alone.
    pub(super) fn options(
        self,
        addresses: Vec<String>,
        #[cfg(feature = "etcd")] etcd: &EtcdArgs,
    ) -> anyhow::Result<Option<ClusterOptions>> {
        if self.cluster.is_empty() {
            return Ok(None);
        }
        let credentials = if let Some((user, password)) = self.cluster_user.zip(self.cluster_password.as_ref()) {
            Credentials::User { user, password: secret(password, "--cluster-password")? }
        } else if let Some(token) = &self.cluster_token {
            Credentials::Token(secret(token, "--cluster-token")?)
        } else if let Some(seed) = self.cluster_nkey {
            Credentials::NkeySeedFile(seed)
        } else if let Some(creds) = self.cluster_creds {
            Credentials::CredsFile(creds)
        } else {
            Credentials::None
        };
        let tls = TlsFiles { ca_file: self.cluster_ca, identity: self.cluster_cert.zip(self.cluster_key) };
        let servers = discovery(
            &self.cluster,
            #[cfg(feature = "etcd")]
            etcd,
        )?;
        let engine = EngineOptions {
            credentials,
            tls,
            replicas: self.cluster_replicas,
            ..EngineOptions::new(&self.cluster_name, "", 0, servers)
        };
        Ok(Some(ClusterOptions { engine, addresses }))
    }
}
