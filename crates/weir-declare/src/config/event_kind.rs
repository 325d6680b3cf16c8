//! The kinds of events, and patterns that select them.

use std::fmt;

macro_rules! kinds {
    ($($(#[doc = $meaning:literal])+ $kind:ident $topic:literal),+ $(,)?) => {
        /// A kind of event. Its topic, as in the document `events`, is `client/connected` and the like.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        #[repr(u8)]
        pub enum EventKind { $($(#[doc = $meaning])+ $kind),+ }

        impl EventKind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$kind),+];

            /// Its topic, below `$events/`.
            pub const fn topic(self) -> &'static str {
                match self { $(Self::$kind => $topic),+ }
            }
        }
    };
}

kinds! {
    /// A client got a CONNACK with success.
    ClientConnected "client/connected",
    /// A connection of an admitted client ended.
    ClientDisconnected "client/disconnected",
    /// A session began.
    SessionCreated "session/created",
    /// A client connected to its existing session.
    SessionResumed "session/resumed",
    /// A connection with the same client id took over the session of one that was open.
    SessionTakenOver "session/taken-over",
    /// A session ended: its expiry is over, or it was 0 and its client disconnected.
    SessionExpired "session/expired",
    /// A session ended: its client connected with Clean Start.
    SessionDiscarded "session/discarded",
    /// A subscription was made, or made again.
    SessionSubscribed "session/subscribed",
    /// A subscription was removed by its client, or because the rules do not permit it any more.
    SessionUnsubscribed "session/unsubscribed",
    /// A CONNECT was refused: its credentials, a ban, or too many attempts.
    AuthenticationRefused "authentication/refused",
    /// An access list refused a publish, a subscription or a will.
    AuthorizationRefused "authorization/refused",
    /// The broker accepted a message of a client, or its will was due.
    MessagePublished "message/published",
    /// A message was sent to a client, or sent again.
    MessageDelivered "message/delivered",
    /// A client acknowledged a message of QoS 1 (PUBACK) or 2 (PUBREC).
    MessageAcknowledged "message/acknowledged",
    /// A message was dropped.
    MessageDropped "message/dropped",
    /// An endpoint listens, or listens at another address.
    EndpointBound "endpoint/bound",
    /// An endpoint does not listen any more.
    EndpointClosed "endpoint/closed",
    /// A declaration of an endpoint cannot be used.
    EndpointRejected "endpoint/rejected",
    /// A pass of the reconciler changed what is declared or live, or was refused.
    ReconcileCompleted "reconcile/completed",
}

impl EventKind {
    /// The kind's bit in a set of kinds.
    pub const fn bit(self) -> u32 {
        1 << self as u32
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.topic())
    }
}

/// A topic filter that selects kinds of events: `client/#`, `session/created`, `#`. It selects one at least.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPattern(String);

/// A pattern that selects no kind of event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} selects no kind of event; the kinds are {kinds}", kinds = list())]
pub struct UnknownEventPattern(pub String);

fn list() -> String {
    EventKind::ALL.iter().map(|kind| kind.topic()).collect::<Vec<_>>().join(", ")
}

impl EventPattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// It selects no kind of event.
    pub fn parse(text: &str) -> Result<Self, UnknownEventPattern> {
        let selects = |kind: &EventKind| matches(text, kind.topic());
        if EventKind::ALL.iter().any(selects) {
            Ok(Self(text.to_owned()))
        } else {
            Err(UnknownEventPattern(text.to_owned()))
        }
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The kinds that it selects, as bits; see [`EventKind::bit`].
    pub fn bits(&self) -> u32 {
        EventKind::ALL.iter().filter(|kind| matches(&self.0, kind.topic())).map(|kind| kind.bit()).sum()
    }
}

/// Whether a topic filter matches a topic of events.
fn matches(filter: &str, topic: &str) -> bool {
    let mut levels = topic.split('/');
    for part in filter.split('/') {
        match (part, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (part, Some(level)) if part == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_select_kinds_and_a_pattern_that_selects_none_is_an_error_with_the_list() {
        let bits = |pattern: &str| EventPattern::parse(pattern).unwrap().bits();
        assert_eq!(bits("#").count_ones() as usize, EventKind::ALL.len());
        assert_eq!(bits("client/#"), EventKind::ClientConnected.bit() | EventKind::ClientDisconnected.bit());
        assert_eq!(bits("+/refused").count_ones(), 2);
        assert_eq!(bits("message/dropped"), EventKind::MessageDropped.bit());
        for wrong in ["", "client", "clients/#", "client/connected/x", "+"] {
            let error = EventPattern::parse(wrong).unwrap_err().to_string();
            assert!(error.contains("client/connected, client/disconnected, session/created"), "{error}");
        }
    }
}
