//! The limit of failed attempts: by source and user name, so that one wrong device behind a shared address does not lock
//! out the others, and a larger one by source alone, against guesses over many names.

use std::sync::Arc;

use super::AttemptCounters;
use crate::auth::api::{AuthRefusal, Credentials, StartCheck};
use crate::auth::keyed_hash::Fingerprint;
use crate::auth::source_key::SourceKey;
use weir_broker::Millis;
use weir_declare::config::FailureRateLimit;

/// The limit as it applies to one attempt.
#[derive(Debug)]
pub(super) struct FailureLimit {
    counters: Arc<AttemptCounters>,
    source: SourceKey,
    /// Source and user name; without a user name, source and client id.
    user: Fingerprint,
    max_of_user: u32,
    max_of_source: u32,
    window_ms: Millis,
    now: Millis,
}

impl FailureLimit {
    /// `None`: on a Unix socket there is no address to count by.
    pub(super) fn new(
        limit: &FailureRateLimit,
        counters: &Arc<AttemptCounters>,
        credentials: &Credentials<'_>,
    ) -> Option<Self> {
        let source = SourceKey::new(credentials.peer);
        let (kind, name) = match credentials.username {
            Some(username) => (b"u", username),
            None => (b"c", credentials.client_id),
        };
        Some(Self {
            user: counters.keyed_hash.hash(&[&source.bytes(), kind, name.as_bytes()]),
            counters: Arc::clone(counters),
            source,
            max_of_user: limit.max_failures,
            max_of_source: limit.max_of_address(),
            window_ms: Millis::from(limit.window_s) * 1000,
            now: credentials.now,
        })
        .filter(|limit| limit.source.has_address())
    }

    /// Counts a failure.
    pub(super) fn count(&self) {
        self.counters.user_failures.add(self.user, self.now, self.window_ms);
        self.counters.source_failures.add(self.source, self.now, self.window_ms);
    }
}

impl StartCheck for FailureLimit {
    fn refusal(&self) -> Option<AuthRefusal> {
        let of_user = self.counters.user_failures.count(&self.user, self.now, self.window_ms);
        let of_source = self.counters.source_failures.count(&self.source, self.now, self.window_ms);
        (of_user >= self.max_of_user || of_source >= self.max_of_source).then_some(AuthRefusal::RateExceeded)
    }
}
