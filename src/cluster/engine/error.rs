//! Why the engine cannot be used, with what to do about it.

use std::path::PathBuf;

use super::subjects::NameError;

/// The oldest server that is used: major and minor version.
pub(super) const SERVER_VERSION_MIN: (u64, u64) = (2, 14);

/// Why a node cannot use the engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("replicas: {0} is not possible: use 1, 3 or 5")]
    Replicas(u8),
    #[error("no server of the engine is given: name at least one, as nats://HOST:4222")]
    NoServers,
    #[error("`{url}` is not a server of the engine ({reason}): write nats://HOST:PORT, or tls://HOST:PORT")]
    ServerUrl { url: String, reason: String },
    #[error("engine discovery failed: {0}")]
    Discovery(String),
    #[error("{}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    #[error(
        "no server of the engine can be reached: {}: start nats-server there, or correct the list of servers",
        .0.join("; ")
    )]
    Unreachable(Vec<String>),
    #[error(
        "authorization violation: {server} refuses the credentials: give a user and password, a token, an nkey seed or \
         a .creds file that this server knows"
    )]
    Authorization { server: String },
    #[error(
        "{server} runs nats-server {version}, which is older than {}.{}: upgrade every server of the engine",
        SERVER_VERSION_MIN.0, SERVER_VERSION_MIN.1
    )]
    ServerTooOld { server: String, version: String },
    #[error(
        "JetStream is not enabled on {server}{reason}: start nats-server with `jetstream {{ store_dir: ... }}` in its \
         configuration (or -js), and enable it for the account"
    )]
    NoJetStream { server: String, reason: String },
    #[error(
        "{replicas} replicas need at least {replicas} servers with JetStream in one cluster, and the engine cannot place \
         stream {stream} ({reason}): add servers, or use fewer replicas"
    )]
    TooFewServers { stream: String, replicas: u8, reason: String },
    #[error(
        "stream {stream} has another configuration: {}: change it with `nats stream edit {stream}`, use the options that \
         it was created with, or another cluster name",
        .differences.join(", ")
    )]
    StreamDiffers { stream: String, differences: Vec<String> },
    #[error(
        "stream {stream} cannot be created or read: {reason}: check that the user may publish to $JS.API.> and subscribe \
         to _INBOX.>, and that the servers have elected a leader (`nats server report jetstream`)"
    )]
    Stream { stream: String, reason: String },
    #[error(
        "{server} does not deliver messages to {subject}: {reason}: check that the user may publish and subscribe to \
         weir.CLUSTER.>"
    )]
    Links { server: String, subject: String, reason: String },
    #[error("the runtime of the engine has ended")]
    RuntimeEnded,
}
