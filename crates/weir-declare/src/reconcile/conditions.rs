//! Conditions of an endpoint, as in Kubernetes: type, status, reason, message, generation, transition time.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// The type of a condition. Every endpoint has one of each type, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ConditionType {
    /// The document is valid. `False`: the last good declaration is held, or there is none.
    Accepted,
    /// Everything that the endpoint refers to exists: auth and acl documents, certificates, password files.
    ResolvedRefs,
    /// The listening socket is live with this declaration. Read from the socket.
    Programmed,
    /// Its connections are being drained.
    Draining,
    /// Another endpoint has its address and port.
    Conflicted,
}

impl ConditionType {
    /// All types, in display order.
    pub const ALL: [Self; 5] = [Self::Accepted, Self::ResolvedRefs, Self::Programmed, Self::Draining, Self::Conflicted];

    /// Whether `True` is the healthy status.
    pub fn healthy_when_true(self) -> bool {
        matches!(self, Self::Accepted | Self::ResolvedRefs | Self::Programmed)
    }
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Not known yet.
    Unknown,
}

macro_rules! reasons {
    ($($(#[doc = $meaning:literal])+ $reason:ident),+ $(,)?) => {
        /// The reason of a condition: one CamelCase word for machines. The message beside it is for people.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum ConditionReason { $($(#[doc = $meaning])+ $reason),+ }

        impl ConditionReason {
            /// All reasons and their meaning.
            pub const ALL: &[(Self, &str)] = &[$((Self::$reason, concat!($($meaning),+))),+];
        }
    };
}

reasons! {
    /// Everything is as declared.
    AsDeclared,
    /// The condition is not known yet.
    Pending,
    /// The document has errors; the last good declaration is held where there is one.
    Invalid,
    /// The document, or its file or directory, cannot be read.
    Unreadable,
    /// The document was removed. The guard keeps the endpoint until the deletion is confirmed or it is declared again.
    DeletionHeld,
    /// The change would disconnect more clients than `reconcile.maxDisconnects` allows, and waits for confirmation.
    DisconnectsHeld,
    /// After the change every CONNECT, or every topic, would be refused, so it waits for confirmation.
    LockOutHeld,
    /// `reconcile.suspend` is set, so nothing is applied.
    Suspended,
    /// A document, or an authenticator or interceptor of the program, that the endpoint refers to does not exist.
    MissingReference,
    /// A file that the endpoint refers to cannot be read, or its content is not valid.
    BadFile,
    /// `durability: disk`, and the broker has no data directory.
    NoStore,
    /// Another process uses the address and port.
    AddressInUse,
    /// The socket cannot be bound for another reason.
    BindFailed,
    /// The listener failed and is being bound again.
    ListenerLost,
    /// Another endpoint of this broker has the address and port.
    PortHeld,
    /// `enabled: false`.
    Disabled,
    /// `nodes` does not select this broker.
    NotSelected,
    /// The declaration was removed.
    Removed,
    /// The broker is shutting down.
    ShuttingDown,
    /// The broker runs without `--cluster`, so the document `cluster` has no effect on it.
    NotInCluster,
    /// The cluster was founded with another value, which it keeps.
    Founded,
}

/// One condition of one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which condition it is.
    #[serde(rename = "type")]
    pub kind: ConditionType,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Why, as one word.
    pub reason: ConditionReason,
    /// Why, as text.
    pub message: String,
    /// The generation of the declaration that the condition refers to.
    pub observed_generation: u64,
    /// When `status` last changed.
    pub last_transition_time: Timestamp,
}

/// An endpoint's conditions: one of each type; or those of the document `cluster`: `Accepted` and `Programmed`. Clones share them until one changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Conditions(Arc<Vec<Condition>>);

impl Conditions {
    /// Conditions whose status is `Unknown`.
    pub fn unknown(now: Timestamp) -> Self {
        Self::unknown_of(&ConditionType::ALL, now)
    }

    /// Conditions of these types, whose status is `Unknown`.
    pub fn unknown_of(kinds: &[ConditionType], now: Timestamp) -> Self {
        let unknown = |kind| Condition {
            kind,
            status: ConditionStatus::Unknown,
            reason: ConditionReason::Pending,
            message: String::new(),
            observed_generation: 0,
            last_transition_time: now,
        };
        Self(Arc::new(kinds.iter().copied().map(unknown).collect()))
    }

    /// All conditions, in the order of [`ConditionType::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = &Condition> {
        self.0.iter()
    }

    /// The condition of `kind`.
    pub fn get(&self, kind: ConditionType) -> Option<&Condition> {
        self.0.iter().find(|condition| condition.kind == kind)
    }

    /// Whether `kind` is `True`.
    pub fn is_true(&self, kind: ConditionType) -> bool {
        self.get(kind).is_some_and(|condition| condition.status == ConditionStatus::True)
    }

    /// Sets the condition of `kind`. The transition time changes only with the status. Returns whether anything but the
    /// generation changed.
    pub fn set(
        &mut self,
        kind: ConditionType,
        holds: bool,
        reason: ConditionReason,
        message: impl AsRef<str>,
        generation: u64,
        now: Timestamp,
    ) -> bool {
        let status = if holds { ConditionStatus::True } else { ConditionStatus::False };
        let message = message.as_ref();
        let Some(at) = self.0.iter().position(|condition| condition.kind == kind) else {
            Arc::make_mut(&mut self.0).push(Condition {
                kind,
                status,
                reason,
                message: message.to_owned(),
                observed_generation: generation,
                last_transition_time: now,
            });
            return true;
        };
        let known = &self.0[at];
        let moved = known.status != status;
        let changed = moved || known.reason != reason || known.message != message;
        if !changed && known.observed_generation == generation {
            return false;
        }
        let condition = &mut Arc::make_mut(&mut self.0)[at];
        condition.observed_generation = generation;
        if moved {
            condition.last_transition_time = now;
        }
        if changed {
            condition.status = status;
            condition.reason = reason;
            message.clone_into(&mut condition.message);
        }
        changed
    }

    /// Whether both are one allocation, and so equal.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether all conditions are healthy: accepted, resolved, programmed, neither draining nor conflicted.
    pub fn all_healthy(&self) -> bool {
        self.0.iter().all(|condition| match condition.status {
            ConditionStatus::True => condition.kind.healthy_when_true(),
            ConditionStatus::False => !condition.kind.healthy_when_true(),
            ConditionStatus::Unknown => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_time_changes_only_with_the_status() {
        let at = Timestamp::from_unix_ms;
        let mut conditions = Conditions::unknown(at(1));
        assert!(conditions.set(ConditionType::Programmed, false, ConditionReason::AddressInUse, "held by 7", 1, at(2)));
        assert!(conditions.set(ConditionType::Programmed, false, ConditionReason::AddressInUse, "held by 8", 2, at(3)));
        assert!(!conditions.set(
            ConditionType::Programmed,
            false,
            ConditionReason::AddressInUse,
            "held by 8",
            3,
            at(4)
        ));
        let programmed = conditions.get(ConditionType::Programmed).unwrap();
        assert_eq!(programmed.last_transition_time, at(2));
        assert_eq!(programmed.observed_generation, 3);
        assert!(conditions.set(ConditionType::Programmed, true, ConditionReason::AsDeclared, "", 3, at(5)));
        assert_eq!(conditions.get(ConditionType::Programmed).unwrap().last_transition_time, at(5));
    }

    #[test]
    fn the_healthy_status_depends_on_the_type() {
        let at = Timestamp::from_unix_ms(1);
        let mut conditions = Conditions::unknown(at);
        assert!(!conditions.all_healthy());
        for kind in ConditionType::ALL {
            conditions.set(kind, kind.healthy_when_true(), ConditionReason::AsDeclared, "", 1, at);
        }
        assert!(conditions.all_healthy());
        conditions.set(ConditionType::Conflicted, true, ConditionReason::PortHeld, "", 1, at);
        assert!(!conditions.all_healthy());
    }
}
