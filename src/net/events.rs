//! Events, as the control plane and embedding programs see them.

use super::plane::{DataPlane, PlaneError};
use super::shard::Control;
use crate::events::{Event, EventFilter, EventKind, Events};

impl DataPlane {
    /// A stream of events, from now on.
    pub fn events(&self, filter: &EventFilter) -> Events {
        self.event_hub().open(filter)
    }

    /// Events that streams have missed since the start, because their readers were too slow.
    pub fn events_missed(&self) -> u64 {
        self.event_hub().missed()
    }

    /// Reports an event of the control plane, where a stream has its kind.
    pub(crate) fn report(&self, kind: EventKind, event: impl FnOnce() -> Event) {
        if self.event_hub().wants(kind) {
            self.event_hub().publish(&event());
        }
    }

    /// Publishes an event as a message of the shared namespace; it is retained for this long, seconds; 0: not retained.
    pub(crate) fn publish_event(&self, event: &Event, retain_s: u32) {
        let topic = format!("$events/{}", event.kind());
        let retain = (retain_s > 0, Some(retain_s).filter(|&seconds| seconds > 0));
        self.publish_internal("", &topic, event.to_json().into_bytes(), retain);
    }

    /// Returns when what was published before has been taken.
    pub(crate) async fn settled(&self) -> Result<(), PlaneError> {
        self.ask_one(0, |reply| Control::Ping { reply }).await.map(drop)
    }
}
