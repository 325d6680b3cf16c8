//! What must be true of the nodes at any time, and at the end.

use std::collections::BTreeMap;

use weir_cluster::slots::SlotOwner;

use super::super::client::Role;
use super::World;

impl World {
    /// No two nodes serve one slot.
    pub(super) fn check_one_owner(&mut self) -> Result<(), String> {
        let now = self.now;
        let mut served: BTreeMap<u16, usize> = BTreeMap::new();
        for host in self.hosts.iter_mut().filter(|host| host.runs(now)) {
            let Some(process) = &mut host.process else { continue };
            if !process.is_in(now) {
                continue;
            }
            let view = process.node.gateway().slot_view();
            for slot in (0..view.per_class * 2).filter(|slot| view.owner(*slot) == SlotOwner::Here) {
                if let Some(other) = served.insert(slot, host.number) {
                    return Err(format!("n{} and n{other} serve slot {slot}", host.number));
                }
            }
        }
        Ok(())
    }

    /// Of two connections with one client identifier, one is left [MQTT-3.1.4-3].
    pub(super) fn check_twins(&mut self) -> Result<(), String> {
        let mut connected = Vec::new();
        for client in self.clients.iter().filter(|client| client.role == Role::Twin) {
            let host = &mut self.hosts[client.host];
            if let (Some(link), Some(process)) = (client.link, &mut host.process)
                && !process.node.is_closed(link)
            {
                connected.push(host.number);
            }
        }
        if connected.len() > 1 { Err(format!("one client is connected to {connected:?}")) } else { Ok(()) }
    }
}
