//! What the core counts, by endpoint.

/// Why a message went no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Dropped {
    /// QoS 0 for a subscriber that does not keep up.
    Slow,
    /// The session's queue is full.
    QueueFull,
    /// The message expired.
    Expired,
    /// Larger than the receiver's Maximum Packet Size.
    TooLarge,
    /// The publisher may not publish there.
    NotAuthorized,
    /// The receiver lost the right to it.
    Revoked,
    /// No member of a shared subscription could take it.
    NoMember,
}

impl Dropped {
    /// Every reason.
    pub const ALL: [Self; 7] = [
        Self::Slow,
        Self::QueueFull,
        Self::Expired,
        Self::TooLarge,
        Self::NotAuthorized,
        Self::Revoked,
        Self::NoMember,
    ];

    /// The metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::QueueFull => "queue_full",
            Self::Expired => "expired",
            Self::TooLarge => "too_large",
            Self::NotAuthorized => "not_authorized",
            Self::Revoked => "revoked",
            Self::NoMember => "no_member",
        }
    }
}

/// Counters of one endpoint in one core. They only grow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointCounters {
    /// PUBLISH packets from clients.
    pub messages_received: u64,
    /// PUBLISH packets to clients.
    pub messages_sent: u64,
    /// Bytes fed to the core.
    pub bytes_received: u64,
    /// Bytes of PUBLISH packets to clients.
    pub bytes_sent: u64,
    /// By [`Dropped`].
    pub dropped: [u64; Dropped::ALL.len()],
    /// Connections ended for breaking the protocol.
    pub protocol_errors: u64,
}

/// A connection and its session, for the status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionDetail {
    pub client_id: String,
    pub keep_alive_s: u16,
    /// `u32::MAX`: never.
    pub session_expiry_s: u32,
    /// Filters, shared ones as `$share/group/filter`.
    pub subscriptions: Vec<String>,
    /// Messages sent and not yet acknowledged.
    pub inflight: usize,
    /// Messages that wait.
    pub queued: usize,
    pub queued_bytes: u64,
    /// Bytes that wait for the socket.
    pub waiting_bytes: usize,
    /// It did not keep up lately: nobody waits for it.
    pub slow: bool,
    /// Its reading pauses, for a slow receiver or for its rate.
    pub paused: bool,
}

/// What a core holds now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CoreGauges {
    pub connections: usize,
    pub sessions: usize,
    pub subscriptions: usize,
    pub retained_messages: usize,
    pub retained_bytes: usize,
    pub inflight: usize,
    pub queued: usize,
}
