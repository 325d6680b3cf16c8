//! What must be true of the nodes at any time, and at the end.

use std::collections::BTreeMap;
use std::sync::Arc;

use weir_cluster::slots::SlotOwner;

use super::World;
use crate::cluster_sim::client::{Client, Role};
use crate::cluster_sim::history::retained_of;

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

    /// All nodes retain what the log says.
    pub(super) fn check_retained(&mut self) -> Result<(), String> {
        let expected: BTreeMap<String, String> = retained_of(&self.engine);
        for number in 0..self.hosts.len() {
            let mut client = Client::new(Role::Subscriber, format!("check{number}"), number);
            let Some(process) = &mut self.hosts[number].process else { return Err(format!("n{number} does not run")) };
            let link = process.node.open(Arc::clone(&self.policy));
            let bytes = client.connect(link);
            process.node.send(link, &bytes);
            client.host = number;
            self.clients.push(client);
            let at = self.clients.len() - 1;
            let end = self.now + 2000;
            while self.now < end {
                self.advance_engine();
                for host in 0..self.hosts.len() {
                    self.turn(host, false)?;
                }
                if self.clients[at].is_connected {
                    self.subscribe(at, &[("r/#", 2)]);
                }
            }
            let received = &self.clients[at].sessions.last().map(|session| &session.received);
            let found: BTreeMap<String, String> = received
                .iter()
                .flat_map(|received| received.iter())
                .map(|received| (received.topic.clone(), received.payload.clone()))
                .collect();
            if found != expected {
                return Err(format!("n{number} retains {found:?}, and the log {expected:?}"));
            }
        }
        Ok(())
    }
}
