//! Internal inconsistencies: an index that must exist and does not. They fail a debug build, and are counted in a release
//! build (`weir_internal_errors_total`).

/// The place in the code that found an inconsistency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum Site {
    /// A live connection has no session.
    SessionOfConnection,
    /// A session names a connection that does not exist.
    ConnectionOfSession,
    /// The topic tree names a session that does not exist.
    SessionOfSubscription,
    /// The topic tree names a shared group that does not exist.
    GroupOfFilter,
    /// The index of client identifiers names a session that does not exist.
    SessionOfClientId,
    /// A session names a subscription that the topic tree does not have.
    SubscriptionOfSession,
    /// Another shard used the number of a namespace that it had not defined.
    NamespaceOfShard,
    /// A PUBLISH from another shard could not be decoded, or one for it not be encoded.
    ForwardedPublish,
    /// A packet was handled for a connection that does not exist.
    ConnectionOfPacket,
    /// A topic alias that is set has no topic.
    TopicOfAlias,
    /// A connection lost the state of its handshake, or of its re-authentication.
    HandshakeOfConnection,
    /// The core sent a batch to a shard that does not exist.
    ShardOfBatch,
}

impl Site {
    /// Every site.
    pub const ALL: [Self; 12] = [
        Self::SessionOfConnection,
        Self::ConnectionOfSession,
        Self::SessionOfSubscription,
        Self::GroupOfFilter,
        Self::SessionOfClientId,
        Self::SubscriptionOfSession,
        Self::NamespaceOfShard,
        Self::ForwardedPublish,
        Self::ConnectionOfPacket,
        Self::TopicOfAlias,
        Self::HandshakeOfConnection,
        Self::ShardOfBatch,
    ];

    /// The metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Self::SessionOfConnection => "session_of_connection",
            Self::ConnectionOfSession => "connection_of_session",
            Self::SessionOfSubscription => "session_of_subscription",
            Self::GroupOfFilter => "group_of_filter",
            Self::SessionOfClientId => "session_of_client_id",
            Self::SubscriptionOfSession => "subscription_of_session",
            Self::NamespaceOfShard => "namespace_of_shard",
            Self::ForwardedPublish => "forwarded_publish",
            Self::ConnectionOfPacket => "connection_of_packet",
            Self::TopicOfAlias => "topic_of_alias",
            Self::HandshakeOfConnection => "handshake_of_connection",
            Self::ShardOfBatch => "shard_of_batch",
        }
    }
}

/// Inconsistencies found, by [`Site`]. They only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InternalErrors([u64; Site::ALL.len()]);

impl InternalErrors {
    /// An inconsistency was found: the operation is abandoned.
    #[cold]
    #[track_caller]
    pub(crate) fn count_error(&mut self, site: Site) {
        self.0[site as usize] += 1;
        debug_assert!(false, "internal inconsistency: {}", site.label());
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(count, other)| *count += other);
    }

    /// How many were found at each site.
    pub fn counts(&self) -> impl Iterator<Item = (Site, u64)> {
        Site::ALL.into_iter().zip(self.0)
    }

    /// How many were found.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}
