//! Topic aliases that a client sets [MQTT 5.0 section 3.3.2.3.4].

use crate::ids::ConnectionSlot;
use crate::observe::Site;
use crate::{Core, MemoryKind};
use std::num::NonZeroU16;
use weir_mqtt::{Publish, ReasonCode};

impl Core {
    /// Sets a topic alias, or checks that it is set [section 3.3.2.3.4].
    pub(crate) fn learn_alias(
        &mut self,
        slot: ConnectionSlot,
        alias: NonZeroU16,
        topic: &str,
    ) -> Result<(), ReasonCode> {
        let tables = self.clients.table_bytes().clone();
        let Some(connection) = self.clients.connection_mut(slot) else {
            self.observe.count_error(Site::ConnectionOfPacket);
            return Ok(());
        };
        if alias.get() > connection.policy.limits.topic_alias_maximum {
            return Err(ReasonCode::TopicAliasInvalid);
        }
        let index = usize::from(alias.get()) - 1;
        let cold = connection.cold_mut();
        let aliases = &mut cold.incoming_aliases;
        if topic.is_empty() {
            // One that was never set, perhaps in an earlier connection [MQTT-3.3.2-7].
            return if aliases.get(index).is_some_and(Option::is_some) {
                Ok(())
            } else {
                Err(ReasonCode::ProtocolError)
            };
        }
        if aliases.len() <= index {
            aliases.resize(index + 1, None);
        }
        let old = aliases[index].as_ref().map_or(0, |old| old.len());
        if topic.len() > old && tables.is_full() {
            self.memory.count_refusal(MemoryKind::Tables);
            return Err(ReasonCode::QuotaExceeded);
        }
        aliases[index] = Some(topic.into());
        let charge = cold.incoming_alias_charge.get_or_insert_with(|| tables.charge(0));
        charge.add(topic.len());
        charge.subtract(old);
        Ok(())
    }

    pub(crate) fn alias_slot(&mut self, slot: ConnectionSlot, publish: &Publish<'_>) -> Option<&mut Option<Box<str>>> {
        let alias = publish.properties.topic_alias?;
        let cold = self.clients.connection_mut(slot)?.cold.as_mut()?;
        cold.incoming_aliases.get_mut(usize::from(alias.get()) - 1)
    }
}
