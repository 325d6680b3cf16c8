//! The flags that lead to an etcd, for every verb that speaks to one.

use std::path::PathBuf;

use anyhow::anyhow;

use crate::source::etcd::{EtcdAccess, EtcdRoot, EtcdUrlError, check_url};
use weir_declare::config::SecretRef;

/// The etcd servers, the credentials and the root.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct EtcdArgs {
    /// etcd's servers, http:// or https://, separated by commas; one is used at a time
    #[arg(long, env = "WEIR_ETCD", value_name = "URL[,URL]", value_delimiter = ',', value_parser = url)]
    etcd: Vec<String>,
    /// The root of the cluster's keys: documents are below `endpoints/` in it, brokers below `nodes/`
    #[arg(long, env = "WEIR_ETCD_PREFIX", value_name = "PREFIX", default_value = "/weir/", value_parser = EtcdRoot::parse)]
    etcd_prefix: EtcdRoot,
    /// Certificate authority of the etcd servers (PEM)
    #[arg(long, env = "WEIR_ETCD_CA", value_name = "FILE")]
    etcd_ca: Option<PathBuf>,
    /// Client certificate for etcd (PEM)
    #[arg(long, env = "WEIR_ETCD_CERT", value_name = "FILE", requires = "etcd_key")]
    etcd_cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, env = "WEIR_ETCD_KEY", value_name = "FILE", requires = "etcd_cert")]
    etcd_key: Option<PathBuf>,
    /// User name for etcd
    #[arg(long, env = "WEIR_ETCD_USER", value_name = "USER", requires = "etcd_password")]
    etcd_user: Option<String>,
    /// The password: file:PATH or env:NAME
    #[arg(long, env = "WEIR_ETCD_PASSWORD", value_name = "REF", requires = "etcd_user", hide_env_values = true)]
    etcd_password: Option<String>,
}

fn url(text: &str) -> Result<String, EtcdUrlError> {
    check_url(text).map(|()| text.trim_end_matches('/').to_owned())
}

impl EtcdArgs {
    /// Whether a server is named.
    pub(super) fn is_given(&self) -> bool {
        !self.etcd.is_empty()
    }

    /// Servers and credentials.
    ///
    /// # Errors
    /// Options that contradict one another.
    pub(super) fn access(&self) -> anyhow::Result<EtcdAccess> {
        self.access_to(self.etcd.clone())
    }

    /// Other servers, with these credentials.
    ///
    /// # Errors
    /// Options that contradict one another.
    pub(super) fn access_to(&self, urls: Vec<String>) -> anyhow::Result<EtcdAccess> {
        let password = self.etcd_password.as_deref().map(|text| {
            // The value may be the password itself, so it is not repeated.
            SecretRef::parse(text).map_err(|_| anyhow!("--etcd-password is a reference: file:PATH or env:NAME"))
        });
        let password = password.transpose()?;
        let access = EtcdAccess {
            urls,
            ca_file: self.etcd_ca.clone(),
            identity: self.etcd_cert.clone().zip(self.etcd_key.clone()),
            user: self.etcd_user.clone().zip(password),
        };
        access.check()?;
        Ok(access)
    }

    /// The fleet's root.
    pub(super) fn root(&self) -> EtcdRoot {
        self.etcd_prefix.clone()
    }
}
