//! The streams: their configuration, and creating them.

use std::time::Duration;

use async_nats::jetstream::context::{AccountErrorKind, Context, CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{ErrorCode, stream};
use tokio::time::Instant;

use super::connect::server_of;
use super::error::EngineError;
use super::options::EngineOptions;
use super::subjects::Names;

/// How long the engine recognises a message that was stored already.
pub(super) const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// Versions of the slot table that are kept.
const SLOT_TABLES_KEPT: i64 = 64;
/// Between two attempts to create or read a stream.
const PAUSE: Duration = Duration::from_millis(250);
/// How long a server without JetStream is asked: its neighbours may have it, and be connected in a moment.
const JETSTREAM_WITHIN: Duration = Duration::from_secs(3);

/// The stream of members: one heartbeat is kept per node. In files, because a stream in memory is lost with the last
/// server that restarts, and then its sequences begin again.
pub(super) fn members(names: &Names, options: &EngineOptions) -> Config {
    base(names.members_stream(), names.all_members(), options)
}

/// The register of the slot table: the newest table counts. Earlier ones are kept for a node that is a little behind.
pub(super) fn slots(names: &Names, options: &EngineOptions) -> Config {
    Config { max_messages_per_subject: SLOT_TABLES_KEPT, ..base(names.slots_stream(), names.slots(), options) }
}

/// The retained log: the messages of each topic, each with its own time to live. A log that is full refuses new
/// topics: if it discarded old messages instead, nodes would have different sets. A message that replaces another of at
/// least its size, and a deletion, are stored in a full log too.
pub(super) fn retained(names: &Names, options: &EngineOptions) -> Config {
    Config {
        // A node that is behind needs every message, not only the newest of each topic: the nodes remove what all have applied.
        max_messages_per_subject: -1,
        discard: DiscardPolicy::New,
        allow_message_ttl: true,
        duplicate_window: DUPLICATE_WINDOW,
        max_bytes: options.retained_bytes_max.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        ..base(names.retained_stream(), names.all_retained(), options)
    }
}

fn base(name: String, subject: String, options: &EngineOptions) -> Config {
    Config {
        name,
        subjects: vec![subject],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        num_replicas: usize::from(options.replicas),
        max_messages_per_subject: 1,
        max_messages: -1,
        max_bytes: -1,
        discard: DiscardPolicy::Old,
        description: Some(format!("Weir cluster {}", options.cluster)),
        ..Config::default()
    }
}

/// Waits until the server has JetStream.
///
/// # Errors
/// It has none.
pub(super) async fn check_jetstream(jetstream: &Context) -> Result<(), EngineError> {
    let deadline = Instant::now() + JETSTREAM_WITHIN;
    loop {
        let reason = match jetstream.query_account().await {
            Ok(_) => return Ok(()),
            Err(error) => match error.kind() {
                // No leader yet: creating the streams waits for one.
                AccountErrorKind::TimedOut => return Ok(()),
                AccountErrorKind::JetStream(error) if is_disabled(error.error_code()) => format!(" ({error})"),
                AccountErrorKind::JetStream(_) => return Ok(()),
                AccountErrorKind::JetStreamUnavailable | AccountErrorKind::Other => String::new(),
            },
        };
        if Instant::now() >= deadline {
            return Err(EngineError::NoJetStream { server: server_of(&jetstream.client()), reason });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn is_disabled(code: ErrorCode) -> bool {
    [ErrorCode::JETSTREAM_NOT_ENABLED, ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT].contains(&code)
}

/// What one attempt found.
enum Attempt {
    Again(EngineError),
    Refused(EngineError),
}

/// Creates the stream where it does not exist, and checks its configuration where it does. Waits until the deadline for
/// servers that are starting or electing.
///
/// # Errors
/// It has another configuration, cannot be placed, or cannot be created.
pub(super) async fn ensure(jetstream: &Context, config: &Config, deadline: Instant) -> Result<(), EngineError> {
    loop {
        let error = match ensure_once(jetstream, config).await {
            Ok(()) => return Ok(()),
            Err(Attempt::Refused(error)) => return Err(error),
            Err(Attempt::Again(error)) => error,
        };
        if Instant::now() >= deadline {
            return Err(error);
        }
        tracing::debug!(stream = config.name, %error, "engine stream is not ready");
        tokio::time::sleep(PAUSE).await;
    }
}

async fn ensure_once(jetstream: &Context, config: &Config) -> Result<(), Attempt> {
    let fails = |reason: String| EngineError::Stream { stream: config.name.clone(), reason };
    match jetstream.get_stream(&config.name).await {
        Ok(stream) => return compare(stream.cached_info(), config).map_err(Attempt::Refused),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {}
            _ => return Err(Attempt::Again(fails(error.to_string()))),
        },
    }
    let Err(error) = jetstream.create_stream(config.clone()).await else { return Ok(()) };
    let CreateStreamErrorKind::JetStream(refused) = error.kind() else {
        return Err(Attempt::Again(fails(error.to_string())));
    };
    let replicas = u8::try_from(config.num_replicas).unwrap_or(u8::MAX);
    let too_few = || EngineError::TooFewServers { stream: config.name.clone(), replicas, reason: refused.to_string() };
    Err(match refused.error_code() {
        ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED => Attempt::Refused(too_few()),
        ErrorCode::CLUSTER_NO_PEERS if replicas > 1 => Attempt::Again(too_few()),
        ErrorCode::STREAM_SUBJECT_OVERLAP => Attempt::Refused(fails(refused.to_string())),
        _ => Attempt::Again(fails(refused.to_string())),
    })
}

fn compare(info: &stream::Info, wanted: &Config) -> Result<(), EngineError> {
    let found = &info.config;
    let mut differences = Vec::new();
    let mut check = |name: &str, found: String, wanted: String| {
        if found != wanted {
            differences.push(format!("{name} is {found}, not {wanted}"));
        }
    };
    let unlimited = |limit: i64| if limit <= 0 { "unlimited".to_owned() } else { limit.to_string() };
    check("subjects", found.subjects.join(" "), wanted.subjects.join(" "));
    check("replicas", found.num_replicas.to_string(), wanted.num_replicas.to_string());
    check("storage", format!("{:?}", found.storage), format!("{:?}", wanted.storage));
    check("retention", format!("{:?}", found.retention), format!("{:?}", wanted.retention));
    check("discard", format!("{:?}", found.discard), format!("{:?}", wanted.discard));
    check(
        "max_msgs_per_subject",
        unlimited(found.max_messages_per_subject),
        unlimited(wanted.max_messages_per_subject),
    );
    check("max_msgs", unlimited(found.max_messages), unlimited(wanted.max_messages));
    check("max_bytes", unlimited(found.max_bytes), unlimited(wanted.max_bytes));
    check("max_age", format!("{:?}", found.max_age), format!("{:?}", wanted.max_age));
    check("allow_msg_ttl", found.allow_message_ttl.to_string(), wanted.allow_message_ttl.to_string());
    if wanted.duplicate_window != Duration::ZERO {
        check("duplicate_window", format!("{:?}", found.duplicate_window), format!("{:?}", wanted.duplicate_window));
    }
    if differences.is_empty() {
        return Ok(());
    }
    Err(EngineError::StreamDiffers { stream: wanted.name.clone(), differences })
}
