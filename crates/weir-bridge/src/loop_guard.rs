//! Loop detection: recognizes messages that this broker has sent before.

use weir_mqtt::{EncodeError, PublishProperties, UserProperties, push_user_property};

/// The user property that a link adds to every message that it sends over MQTT 5. The value has the broker's name, the
/// namespace if there is one, and a random number: a client that has not read a forwarded message cannot guess it, so it
/// cannot keep its messages from being forwarded. A message has one for each broker that it passed through.
pub const LOOP_GUARD_PROPERTY: &str = "weir-bridge";

/// The loop-guard property of one broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoopGuard {
    origin: Box<str>,
    /// The user property, encoded.
    block: Box<[u8]>,
}

impl LoopGuard {
    /// The loop guard of a node's namespace (empty: the default one). `secret` is a random number that all bridges of the
    /// process have in common.
    ///
    /// # Errors
    /// The name is too long for a property.
    pub fn new(node: &str, namespace: &str, secret: u64) -> Result<Self, EncodeError> {
        let namespace = if namespace.is_empty() { String::new() } else { format!(" {namespace}") };
        let origin = format!("{node}{namespace} {secret:016x}");
        let mut block = Vec::new();
        push_user_property(&mut block, LOOP_GUARD_PROPERTY, &origin)?;
        Ok(Self { origin: origin.into(), block: block.into() })
    }

    /// The encoded user property.
    pub(super) fn block(&self) -> &[u8] {
        &self.block
    }

    /// Whether the properties contain this broker's loop guard.
    pub(super) fn is_in(&self, properties: &PublishProperties<'_>) -> bool {
        !properties.raw.is_empty()
            && UserProperties { raw: properties.raw }
                .iter()
                .any(|(name, value)| name == LOOP_GUARD_PROPERTY && value == &*self.origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_guard_matches_only_its_broker_and_namespace() {
        let guard = |node, namespace, secret| LoopGuard::new(node, namespace, secret).unwrap();
        let (here, tenant, there) = (guard("a", "", 1), guard("a", "tenant/", 1), guard("b", "", 1));
        let both = [there.block(), here.block()].concat();
        let on = |raw: &[u8], mark: &LoopGuard| mark.is_in(&PublishProperties { raw, ..Default::default() });
        assert!(on(&both, &here) && on(&both, &there) && !on(&both, &tenant));
        assert!(!on(&[], &here) && !on(there.block(), &here));
        let (mut forged, other_secret) = (Vec::new(), guard("a", "", 2));
        push_user_property(&mut forged, LOOP_GUARD_PROPERTY, "a").unwrap();
        assert!(!on(&forged, &here) && !on(other_secret.block(), &here), "a guess");
    }
}
