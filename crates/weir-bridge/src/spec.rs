//! The specification of a link, its counters, and its failures.

use super::loop_guard::LoopGuard;
use super::rule::TopicRule;
use weir_mqtt::{EncodeError, ProtocolVersion};

/// The specification of a link, compiled from a declaration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeSpec {
    /// 3.1.1 or 5.0.
    pub version: ProtocolVersion,
    /// The client id at the remote broker.
    pub client_id: Box<str>,
    /// The user name at the remote broker.
    pub username: Option<Box<str>>,
    /// The password at the remote broker.
    pub password: Option<Box<[u8]>>,
    /// 0: none.
    pub keep_alive_s: u16,
    /// Whether the remote broker discards an earlier session.
    pub clean_start: bool,
    /// Session Expiry Interval at the remote broker (5.0), seconds.
    pub session_expiry_s: u32,
    /// The client id at this broker; begins with [`super::LOCAL_ID_PREFIX`].
    pub local_id: Box<str>,
    /// Marks messages that have passed this bridge.
    pub mark: LoopGuard,
    /// Rules from this broker to the remote one.
    pub out: Vec<TopicRule>,
    /// Rules from the remote broker to this one.
    pub inward: Vec<TopicRule>,
}

/// Why a link failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeFailure {
    /// The kind of failure.
    pub cause: FailureCause,
    /// The failure as text.
    pub message: String,
}

/// The classes of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureCause {
    /// No connection to the address, or no TLS on it.
    Unreachable,
    /// CONNACK refused the connection.
    Refused,
    /// The connection was closed or lost.
    Lost,
    /// The remote broker did not answer in time.
    TimedOut,
    /// The remote broker violated the protocol.
    Protocol,
    /// The connection to this broker failed: it shuts down.
    Local,
}

impl BridgeFailure {
    /// A failure with a message.
    pub fn new(cause: FailureCause, message: impl Into<String>) -> Self {
        Self { cause, message: message.into() }
    }
}

impl From<EncodeError> for BridgeFailure {
    fn from(error: EncodeError) -> Self {
        Self::new(FailureCause::Protocol, format!("packet encoding failed: {error}"))
    }
}

/// Counters of a link since it was created.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BridgeCounters {
    /// Messages sent to the remote broker; a resent message counts again.
    pub sent: u64,
    /// Messages received from the remote broker.
    pub received: u64,
    /// Messages that no rule matches any more, or whose name on the other side is not valid.
    pub dropped_no_rule: u64,
    /// Messages that came back (loop detection).
    pub dropped_loop: u64,
    /// Messages larger than the remote broker accepts, or of a QoS that it does not support.
    pub dropped_unfit: u64,
    /// Messages that the remote broker refused.
    pub refused: u64,
}
