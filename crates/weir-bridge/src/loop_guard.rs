//! How a message that comes back is known for one that was here before.

use weir_mqtt::{EncodeError, PublishProperties, UserProperties, push_user_property};

/// The user property that a link adds to every message that it carries out over MQTT 5; its value names the broker, and
/// the namespace where it has one. A message keeps those of all brokers it came through.
pub const LOOP_GUARD_PROPERTY: &str = "weir-bridge";

/// One broker's mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoopGuard {
    origin: Box<str>,
    /// The user property, encoded.
    block: Box<[u8]>,
}

impl LoopGuard {
    /// The mark of a node's namespace (empty: the shared one).
    ///
    /// # Errors
    /// The name is too long for a property.
    pub fn new(node: &str, namespace: &str) -> Result<Self, EncodeError> {
        let origin = if namespace.is_empty() { node.to_owned() } else { format!("{node} {namespace}") };
        let mut block = Vec::new();
        push_user_property(&mut block, LOOP_GUARD_PROPERTY, &origin)?;
        Ok(Self { origin: origin.into(), block: block.into() })
    }

    /// The user property, as it stands in a packet.
    pub(super) fn block(&self) -> &[u8] {
        &self.block
    }

    /// Whether a message was here before.
    pub(super) fn is_on(&self, properties: &PublishProperties<'_>) -> bool {
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
    fn only_its_own_broker_knows_it() {
        let (here, tenant, there) = (LoopGuard::new("a", ""), LoopGuard::new("a", "tenant/"), LoopGuard::new("b", ""));
        let (here, tenant, there) = (here.unwrap(), tenant.unwrap(), there.unwrap());
        let both = [there.block(), here.block()].concat();
        let on = |raw: &[u8], mark: &LoopGuard| mark.is_on(&PublishProperties { raw, ..Default::default() });
        assert!(on(&both, &here) && on(&both, &there) && !on(&both, &tenant));
        assert!(!on(&[], &here) && !on(there.block(), &here));
    }
}
