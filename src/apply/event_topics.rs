//! The document `events`: the declared events as messages below `$events/`, in the shared namespace.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::events::{EventFilter, Events};
use crate::net::DataPlane;
use weir_declare::config::EventTopics;

/// Events that are published before the shard has to have taken them: what it cannot keep up with is missed, and counted.
const EVENTS_PER_WAIT: usize = 64;
/// How often missed events are logged.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Publishes the declared events.
pub struct EventPublisher {
    plane: DataPlane,
    declared: Option<Arc<EventTopics>>,
    /// The task that publishes. It ends with this value.
    task: JoinSet<()>,
}

impl EventPublisher {
    /// A publisher of no events.
    pub fn new(plane: DataPlane) -> Self {
        Self { plane, declared: None, task: JoinSet::new() }
    }

    /// Publishes the events that are declared from now on. Returns what was declared until now.
    pub(super) fn apply(&mut self, declared: Option<&Arc<EventTopics>>) -> Option<Arc<EventTopics>> {
        let before = self.declared.clone();
        let settings = |topics: &Arc<EventTopics>| (topics.bits(), topics.message_topics.clone(), topics.retain_s);
        if declared.map(settings) == before.as_ref().map(settings) {
            return before;
        }
        self.declared = declared.cloned();
        self.task = JoinSet::new();
        if let Some(topics) = declared {
            let mut filter = EventFilter::bits(topics.bits());
            filter.limit_messages(&topics.message_topics);
            let events = self.plane.events(&filter);
            self.task.spawn(publish(events, self.plane.clone(), topics.retain_s));
            tracing::info!(topics = topics.topics.join(" "), retain_s = topics.retain_s, "events are published");
        } else {
            tracing::info!("events are no longer published");
        }
        before
    }
}

/// Publishes events until the server ends.
async fn publish(mut events: Events, plane: DataPlane, retain_s: u32) {
    let (mut published, mut missed) = (0_usize, 0);
    let mut logged_at: Option<Instant> = None;
    while let Some(event) = events.next().await {
        plane.publish_event(&event, retain_s);
        published = published.wrapping_add(1);
        if published.is_multiple_of(EVENTS_PER_WAIT) && plane.settled().await.is_err() {
            return;
        }
        let now_missed = events.missed();
        if now_missed > missed && logged_at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            tracing::warn!(missed = now_missed - missed, "events missed: more happened than could be published");
            (missed, logged_at) = (now_missed, Some(Instant::now()));
        }
    }
}
