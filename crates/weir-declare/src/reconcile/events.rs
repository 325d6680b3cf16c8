//! Plans the action from live to declared events.

use std::sync::Arc;

use super::action::ActionKind;
use crate::config::{self, EventTopics, FieldChange, Kind};

/// The action for the document `events`.
#[derive(Debug, Clone, PartialEq)]
pub struct EventsAction {
    /// `Add`, `Update` or `Remove`.
    pub kind: ActionKind,
    /// Of `Update`.
    pub changes: Vec<FieldChange>,
    /// The topics that are published after it, below `$events/`; `Remove`: none.
    pub topics: Vec<Arc<str>>,
}

/// Plans the action from `live` to `wanted`; `None`: there is nothing to do.
pub(super) fn plan_events(wanted: Option<&Arc<EventTopics>>, live: Option<&Arc<EventTopics>>) -> Option<EventsAction> {
    let (kind, changes) = match (live, wanted) {
        (None, None) => return None,
        (None, Some(_)) => (ActionKind::Add, Vec::new()),
        (Some(_), None) => (ActionKind::Remove, Vec::new()),
        (Some(live), Some(wanted)) if Arc::ptr_eq(live, wanted) => return None,
        (Some(live), Some(wanted)) => {
            let (from, to) = (config::fields_of(&**live), config::fields_of(&**wanted));
            let changes: Vec<FieldChange> = config::field_changes(Kind::Events, &from, &to);
            if changes.is_empty() {
                return None;
            }
            (ActionKind::Update, changes)
        }
    };
    Some(EventsAction { kind, changes, topics: wanted.map(|wanted| wanted.topics.clone()).unwrap_or_default() })
}
