//! What a program says of the server that it starts.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::error::ServerError;
use super::handle::ServerHandle;
use super::memory_size::MemorySize;
use super::options::{ServerOptions, SourceOptions};
use crate::auth::Authenticator;
#[cfg(feature = "etcd")]
use crate::source::etcd::EtcdOptions;
use crate::source::{DirectoryOptions, MemoryFile};
use weir_broker::Interceptor;

/// How often a directory or a git ref is read without an event.
const RESYNC: Duration = Duration::from_secs(20);

/// A broker inside of a program; the binary `weir` is one, too.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), weirmq::ServerError> {
/// let server = weirmq::Server::builder()
///     .documents([("mqtt.yaml", "endpoint: {name: mqtt, port: 0, enableAuth: false, enableAcl: false}")])
///     .start()
///     .await?;
/// println!("MQTT at {}", server.address("mqtt").expect("a declared endpoint"));
/// server.shutdown().await
/// # }
/// ```
#[derive(Debug)]
pub struct Server;

impl Server {
    /// A server without documents, data directory and status address. Its endpoints listen on `127.0.0.1` unless they or
    /// [`ServerBuilder::host`] say otherwise.
    pub fn builder() -> ServerBuilder {
        ServerBuilder { options: ServerOptions::default() }
    }
}

/// The options of a server; see [`Server::builder`].
#[derive(Debug, Clone)]
#[must_use]
pub struct ServerBuilder {
    options: ServerOptions,
}

impl ServerBuilder {
    /// Serves these files of documents: path and text of each. [`ServerHandle::apply`] replaces them.
    pub fn documents<P: Into<String>, T: Into<String>>(mut self, files: impl IntoIterator<Item = (P, T)>) -> Self {
        self.options.source = SourceOptions::Memory(memory_files(files));
        self
    }

    /// Follows the documents in a directory.
    pub fn directory(mut self, root: impl Into<PathBuf>) -> Self {
        let (root, linked) = (root.into(), Vec::new());
        self.options.source = SourceOptions::Directory(DirectoryOptions { root, linked, resync: RESYNC });
        self
    }

    /// Follows what is committed at `revision` of the git repository that `directory` lies in.
    pub fn git_ref(mut self, directory: impl Into<PathBuf>, revision: impl Into<String>) -> Self {
        let (directory, revision) = (directory.into(), revision.into());
        self.options.source = SourceOptions::GitRef { directory, revision, resync: RESYNC };
        self
    }

    /// Follows a prefix of an etcd.
    #[cfg(feature = "etcd")]
    pub fn etcd(mut self, etcd: EtcdOptions) -> Self {
        self.options.source = SourceOptions::Etcd(etcd);
        self
    }

    /// Stores persistent sessions, retained messages, the last good declaration and the history here. Without it, nothing
    /// outlives the server.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.options.data_dir = Some(path.into());
        self
    }

    /// Serves the read-only HTTP API at this address; [`ServerHandle::status_address`] has the port that was picked for 0.
    #[cfg(feature = "status")]
    pub fn status_address(mut self, address: SocketAddr) -> Self {
        self.options.status_addr = Some(address);
        self
    }

    /// The name of this node; otherwise the host's.
    pub fn node_name(mut self, name: impl Into<String>) -> Self {
        self.options.node_name = Some(name.into());
        self
    }

    /// A label that `nodes:` selectors of endpoints are matched against.
    pub fn node_label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.node_labels.insert(key.into(), value.into());
        self
    }

    /// Address of endpoints that declare no `host`.
    pub fn host(mut self, host: IpAddr) -> Self {
        self.options.default_host = host;
        self
    }

    /// Threads that serve connections, 1 to 255; otherwise one less than there are cores.
    pub fn shards(mut self, shards: u16) -> Self {
        self.options.shards = Some(shards);
        self
    }

    /// The memory that connections, sessions and messages may take together; otherwise 75% of what there is.
    pub fn memory(mut self, memory: MemorySize) -> Self {
        self.options.memory = Some(memory);
        self
    }

    /// Rejects all documents where one has an error.
    pub fn atomic(mut self, atomic: bool) -> Self {
        self.options.atomic = atomic;
        self
    }

    /// A directory whose files documents may refer to, beside their own and `/etc/weir`.
    pub fn allow_files(mut self, directory: impl Into<PathBuf>) -> Self {
        self.options.allow_files.push(directory.into());
        self
    }

    /// An environment variable that documents may refer to, beside those that begin with `WEIR_SECRET_`.
    pub fn allow_env(mut self, name: impl Into<String>) -> Self {
        self.options.allow_env.push(name.into());
        self
    }

    /// Registers an authenticator that auth documents may name: `chain: [{custom: {name: device-db}}]`. It runs on the
    /// tokio runtime that starts the server. One that was registered under the same name is replaced.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), weirmq::ServerError> {
    /// use weirmq::{AuthDenial, AuthGrant, AuthRequest, AuthResponse};
    ///
    /// let devices = async |request: AuthRequest| match (request.username(), request.password()) {
    ///     (Some("meter-7"), Some(b"s3cret")) => AuthResponse::Allow(AuthGrant::new()),
    ///     _ => AuthResponse::Deny(AuthDenial::BadCredentials),
    /// };
    /// let server = weirmq::Server::builder()
    ///     .authenticator("device-db", devices)
    ///     .documents([
    ///         ("mqtt.yaml", "endpoint: {name: mqtt, port: 0, enableAcl: false}"),
    ///         ("auth.yaml", "auth: {name: default, chain: [{custom: {name: device-db}}]}"),
    ///     ])
    ///     .start()
    ///     .await?;
    /// server.shutdown().await
    /// # }
    /// ```
    pub fn authenticator(mut self, name: impl Into<String>, authenticator: impl Authenticator) -> Self {
        self.options.authenticators.register(name.into().into(), authenticator);
        self
    }

    /// Registers an interceptor that endpoints may name: `interceptors: [audit]`. One that was registered under the same name
    /// is replaced.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), weirmq::ServerError> {
    /// use weirmq::{DenyReason, InterceptedPublish, Interceptor, Subject, Verdict};
    ///
    /// struct NoSecrets;
    ///
    /// impl Interceptor for NoSecrets {
    ///     fn on_publish(&self, _: Subject<'_>, publish: &mut InterceptedPublish<'_>) -> Verdict {
    ///         let is_secret = publish.payload().starts_with(b"BEGIN PRIVATE KEY");
    ///         if is_secret { Verdict::Deny(DenyReason::NotAuthorized) } else { Verdict::Allow }
    ///     }
    /// }
    /// let endpoint = "endpoint: {name: mqtt, port: 0, enableAuth: false, enableAcl: false, interceptors: [no-secrets]}";
    /// let server = weirmq::Server::builder()
    ///     .interceptor("no-secrets", NoSecrets)
    ///     .documents([("mqtt.yaml", endpoint)])
    ///     .start()
    ///     .await?;
    /// server.shutdown().await
    /// # }
    /// ```
    pub fn interceptor(mut self, name: impl Into<String>, interceptor: impl Interceptor) -> Self {
        self.options.interceptors.register(name.into().into(), interceptor);
        self
    }

    /// Starts the server on the present tokio runtime, and returns when its first documents are applied. Connections are
    /// served by threads of the server's own.
    ///
    /// # Errors
    /// See [`ServerError`]. With documents in memory, also where one is not valid, or cannot be applied: a port that is in
    /// use, a file that is missing. (With other sources such errors are in [`ServerHandle::status`], and the server goes on.)
    pub async fn start(self) -> Result<ServerHandle, ServerError> {
        ServerHandle::start(self.options).await
    }
}

/// Documents in memory.
pub(super) fn memory_files<P: Into<String>, T: Into<String>>(
    files: impl IntoIterator<Item = (P, T)>,
) -> Vec<MemoryFile> {
    files.into_iter().map(|(path, text)| MemoryFile { path: path.into(), text: text.into() }).collect()
}
