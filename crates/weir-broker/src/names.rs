//! What names find: namespaces, here and as other shards number them, and sessions by client id.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use super::core::Space;
use super::link::Item;
use super::retained::Retained;
use super::session::{Session, SpaceId};
use super::subscriptions::{SessionId, Subscriptions};
use super::{Core, ShardId, stable_hash};

impl Core {
    /// The namespace of that name, made where it is new.
    pub(super) fn space(&mut self, name: &str) -> SpaceId {
        if let Some(&id) = self.space_index.get(name) {
            return id;
        }
        let (id, name) = (self.spaces.len() as SpaceId, Arc::<str>::from(name));
        self.space_index.insert(Arc::clone(&name), id);
        self.spaces.push(Space { name, subscriptions: Subscriptions::new(), retained: Retained::new() });
        id
    }

    /// Tells another shard what a namespace's number means, once.
    pub(super) fn define_space(&mut self, to: ShardId, id: SpaceId) {
        let link = &mut self.links[usize::from(to.0)];
        let place = id as usize;
        if link.defined.len() <= place {
            link.defined.resize(place + 1, false);
        }
        if !std::mem::replace(&mut link.defined[place], true) {
            link.push(Item::Space { id, name: Arc::clone(&self.spaces[place].name) });
        }
    }

    pub(super) fn learn_space(&mut self, from: ShardId, theirs: SpaceId, name: &str) {
        let ours = self.space(name);
        let spaces = &mut self.links[usize::from(from.0)].spaces;
        if spaces.len() <= theirs as usize {
            spaces.resize(theirs as usize + 1, ours);
        }
        spaces[theirs as usize] = ours;
    }

    pub(super) fn space_of(&mut self, from: ShardId, theirs: SpaceId) -> SpaceId {
        let known = self.links[usize::from(from.0)].spaces.get(theirs as usize).copied();
        debug_assert!(known.is_some(), "a namespace is told before it is used");
        known.unwrap_or_else(|| self.space(""))
    }

    fn session_hash(&self, space: SpaceId, client_id: &str) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u32(space);
        hasher.write(client_id.as_bytes());
        hasher.finish()
    }

    /// What stands for a session's client id where what it sent is still on its way.
    pub(super) fn client_hash(&self, id: SessionId) -> u64 {
        let name = |session: &Session| stable_hash(&[&self.spaces[session.space as usize].name, &session.client_id]);
        self.sessions.get(id).map_or(0, name)
    }

    pub(super) fn find_session(&self, space: SpaceId, client_id: &str) -> Option<SessionId> {
        let same =
            |&id: &SessionId| self.sessions.get(id).is_some_and(|s| s.space == space && *s.client_id == *client_id);
        self.session_index.find(self.session_hash(space, client_id), same).copied()
    }

    pub(super) fn index_session(&mut self, space: SpaceId, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        let hash = self.session_hash(space, &session.client_id);
        let (sessions, hasher) = (&self.sessions, &self.hasher);
        self.session_index.insert_unique(hash, id, |&id| {
            let mut hasher = hasher.build_hasher();
            if let Some(session) = sessions.get(id) {
                hasher.write_u32(session.space);
                hasher.write(session.client_id.as_bytes());
            }
            hasher.finish()
        });
    }

    pub(super) fn unindex_session(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        let hash = self.session_hash(session.space, &session.client_id);
        if let Ok(entry) = self.session_index.find_entry(hash, |&other| other == id) {
            entry.remove();
        }
    }
}
