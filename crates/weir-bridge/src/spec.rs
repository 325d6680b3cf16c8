//! What a link is told, what it counts, and why it fails.

use super::loop_guard::LoopGuard;
use super::rule::Rule;
use weir_mqtt::{EncodeError, ProtocolVersion};

/// What a link is to do: compiled from a declaration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// 3.1.1 or 5.0.
    pub version: ProtocolVersion,
    /// At the other broker.
    pub client_id: Box<str>,
    pub username: Option<Box<str>>,
    pub password: Option<Box<[u8]>>,
    /// 0: none.
    pub keep_alive_s: u16,
    pub clean_start: bool,
    /// How long the other broker keeps the session, 5.0.
    pub session_expiry_s: u32,
    /// Here; begins with [`super::LOCAL_ID_PREFIX`].
    pub local_id: Box<str>,
    pub mark: LoopGuard,
    /// From here to there.
    pub out: Vec<Rule>,
    /// From there to here.
    pub inward: Vec<Rule>,
}

/// Why a link is not up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub cause: Cause,
    pub message: String,
}

/// The classes of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// No connection to the address, or no TLS on it.
    Unreachable,
    /// CONNACK says no.
    Refused,
    /// The connection ended.
    Lost,
    /// The other broker does not answer.
    TimedOut,
    /// The other broker breaks the protocol.
    Protocol,
    /// This broker does not let its own bridge in: it shuts down.
    Local,
}

impl Failure {
    /// A failure, in words.
    pub fn new(cause: Cause, message: impl Into<String>) -> Self {
        Self { cause, message: message.into() }
    }
}

impl From<EncodeError> for Failure {
    fn from(error: EncodeError) -> Self {
        Self::new(Cause::Protocol, format!("a packet cannot be written: {error}"))
    }
}

/// What a link has counted since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages carried to the other broker; one that is sent again counts again.
    pub sent: u64,
    /// Messages carried from the other broker.
    pub received: u64,
    /// Messages that no rule is about any more, or that would have no valid name on the other side.
    pub dropped_no_rule: u64,
    /// Messages that came back.
    pub dropped_loop: u64,
    /// Messages larger than the other broker takes, or of a QoS that it does not take.
    pub dropped_unfit: u64,
    /// Messages that the other broker did not accept.
    pub refused: u64,
}
