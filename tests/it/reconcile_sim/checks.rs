//! What must hold after each step.

use std::collections::{BTreeMap, BTreeSet};

use weir_declare::reconcile::{ConditionStatus, ConditionType, Timestamp};
use weir_mqtt::ProtocolVersion;
use weirmq::net::SocketKey;

use super::Simulation;
use super::file::{File, FileFault};
use super::world::Client;

/// What was before a step.
pub(super) struct Before {
    pub(super) files: BTreeMap<&'static str, File>,
    pub(super) clients: Vec<Client>,
    pub(super) listened: BTreeMap<String, SocketKey>,
    /// Where those listened that ran by what was to run. Others had an edit waiting, for an address to come free or a
    /// certificate to come, that may take force in any step.
    pub(super) settled: BTreeMap<String, SocketKey>,
    /// Those of them whose file was in force.
    pub(super) in_force: BTreeMap<String, SocketKey>,
    /// Those of them whose deletion is held.
    pub(super) held: BTreeMap<String, SocketKey>,
    /// What is in force without a file, wherever it listens.
    pub(super) kept: BTreeSet<String>,
    /// Those that some clients are about to leave.
    pub(super) draining: BTreeSet<String>,
}

impl Simulation {
    /// The clients that an endpoint had before, and how many of them stay.
    pub(super) fn had_and_stay(&self, before: &Before, name: &str) -> (usize, usize) {
        let left: BTreeSet<u64> = self.world.staying().iter().map(|client| client.id).collect();
        let had = before.clients.iter().filter(|client| client.name == *name);
        (had.clone().count(), had.filter(|client| left.contains(&client.id)).count())
    }

    /// An endpoint whose file was not edited keeps its listener and its clients, whatever fails elsewhere and whatever
    /// is wrong with the file; and stays accepted, whichever endpoint wants its address. A listener that died is back.
    pub(super) fn check_bystanders(&self, before: &Before) {
        let (now, state) = (self.listening(), self.state.load());
        for (name, file) in before.files.iter().filter(|(name, _)| !self.touched.contains_key(*name)) {
            let is_held = file.fault != FileFault::None;
            let known = if is_held { &before.settled } else { &before.in_force };
            let Some(key) = known.get(*name) else { continue };
            assert_eq!(now.get(*name), Some(key), "{name} lost its listener\n{}", self.story);
            let accepted = state.endpoints[*name].conditions.get(ConditionType::Accepted).unwrap();
            // Of two that had the address by their last good declarations, neither gives way.
            let accepted_or_held =
                is_held || accepted.status == ConditionStatus::True || self.is_wanted_back(before, key);
            assert!(accepted_or_held, "{name} is refused for another: {accepted:?}\n{}", self.story);
            let (had, stay) = self.had_and_stay(before, name);
            assert_eq!(stay, had, "{name} lost a client\n{}", self.story);
        }
    }

    /// A client that is still admitted is not disconnected: a lowered limit disconnects those above it, a raised one none.
    pub(super) fn check_edits(&self, before: &Before) {
        for (name, file) in self.files.iter().filter(|(name, _)| self.touched.get(*name) == Some(&1)) {
            let Some(was) = before.files.get(name) else { continue };
            let same_but_limit = File { limit: was.limit, ..file.clone() } == *was;
            // Who is on the way out still counts as connected, and may make others be over the limit.
            let drains = before.draining.contains(*name);
            if !same_but_limit || drains || !before.in_force.contains_key(*name) {
                continue;
            }
            let (had, stay) = self.had_and_stay(before, name);
            assert!(stay >= had.min(usize::from(file.limit)), "{name}: {stay} of {had} clients stay\n{}", self.story);
        }
    }

    /// FileFault deletes nothing and changes nothing.
    pub(super) fn check_faulty_files(&self, before: &Before) {
        let now = self.listening();
        let faulty = self.files.iter().filter(|(_, file)| file.fault != FileFault::None);
        for (name, _) in faulty.filter(|(name, _)| self.touched.get(*name).is_none_or(|times| *times == 1)) {
            let Some(key) = before.listened.get(*name) else { continue };
            if self.killed.contains(key) && !before.settled.contains_key(*name) {
                continue; // it is to be bound elsewhere, where it cannot be bound yet
            }
            assert!(now.contains_key(*name), "{name} at {key} fell to a fault of its file\n{}", self.story);
            let state = self.state.load();
            let conditions = &state.endpoints[*name].conditions;
            assert!(!conditions.is_true(ConditionType::Accepted), "{name} is held in silence\n{}", self.story);
            if before.settled.contains_key(*name) {
                let (had, stay) = self.had_and_stay(before, name);
                assert_eq!(stay, had, "{name} lost a client to a fault of its file\n{}", self.story);
            }
        }
    }

    /// While clients are still to be disconnected, the condition says so.
    pub(super) fn check_drains(&self) {
        let state = self.state.load();
        for name in self.draining() {
            let said = state.endpoints.get(&*name).is_some_and(|e| e.conditions.is_true(ConditionType::Draining));
            assert!(said, "{name} drains in silence\n{}", self.story);
        }
    }

    /// After a pass there is nothing left to do that could be done.
    pub(super) async fn check_idle(&mut self) {
        let before = self.listening();
        let history = self.state.load().history.len();
        self.now += 100;
        self.reconciler.tick(Timestamp::from_unix_ms(self.now)).await;
        let state = self.state.load();
        assert_eq!(state.plan.due().count(), 0, "{:?}\n{}", state.plan.due().collect::<Vec<_>>(), self.story);
        assert_eq!(self.listening(), before, "{}", self.story);
        assert_eq!(state.history.len(), history, "history is written for nothing\n{}", self.story);
        let world = self.world.lock();
        for (name, endpoint) in &state.endpoints {
            let listens = world.listeners.values().any(|l| l.alive && *l.policy.endpoint.name == **name);
            let programmed = endpoint.conditions.is_true(ConditionType::Programmed);
            assert!(listens || !programmed, "{name} is said to listen\n{}", self.story);
        }
    }

    /// Without any fault, live is what is declared.
    pub(super) fn check_converged(&self) {
        let state = self.state.load();
        let world = self.world.lock();
        let faulty = self.files.values().any(|file| file.fault != FileFault::None || file.certificate);
        let keys: Vec<SocketKey> = self.files.values().filter(|file| file.enabled).map(File::key).collect();
        let clash = keys.iter().enumerate().any(|(at, key)| keys.iter().skip(at + 1).any(|other| other.overlaps(key)));
        let taken = keys.iter().any(|key| world.taken.iter().any(|taken| taken.overlaps(key)));
        let kept = state.declared.endpoints.keys().any(|name| !self.files.contains_key(name.as_str()));
        if faulty || clash || taken || kept || self.files.is_empty() {
            return;
        }
        drop(world);
        let enabled = self.files.iter().filter(|(_, file)| file.enabled);
        let declared: BTreeMap<String, SocketKey> =
            enabled.map(|(name, file)| ((*name).to_owned(), file.key())).collect();
        assert_eq!(self.listening(), declared, "{}", self.story);
        assert!(state.plan.is_empty(), "{:?}\n{}", state.plan, self.story);
        self.check_policies();
        for (name, endpoint) in state.endpoints.iter().filter(|(name, _)| declared.contains_key(&***name)) {
            let programmed = endpoint.conditions.get(ConditionType::Programmed);
            assert!(endpoint.conditions.is_true(ConditionType::Programmed), "{name}: {programmed:?}\n{}", self.story);
        }
        for (name, file) in self.files.iter().filter(|(_, file)| file.enabled) {
            let open = self.world.staying().iter().filter(|client| client.name == **name).count();
            let most = if file.v3_only { 0 } else { usize::from(file.limit) };
            assert!(open <= most, "{name} has {open} clients of {most}\n{}", self.story);
        }
    }

    /// Each listener admits by what its file declares.
    pub(super) fn check_policies(&self) {
        for listener in self.world.lock().listeners.values() {
            let (policy, file) = (&listener.policy, &self.files[&*listener.policy.endpoint.name]);
            let admits_5 = policy.endpoint.versions.admits(ProtocolVersion::V5);
            let live = (policy.max_connections, policy.websocket.is_some(), admits_5);
            let declared = (Some(u32::from(file.limit)), file.websocket, !file.v3_only);
            assert_eq!(live, declared, "{}\n{}", policy.endpoint.name, self.story);
        }
    }
}
