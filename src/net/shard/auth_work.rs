//! Slow work of authentications: password checks on workers, and questions to services. Dropping it cancels it.

use std::net::SocketAddr;
use std::sync::Arc;

use super::table::ConnectionKey;
use super::{ShardContext, ShardEvent};
use crate::auth::{AuthRefusal, AuthTask, Busy, Decision, SourceKey};
use crate::net::auth_tasks::AuthTaskHandle;
use crate::net::mailbox::Mailbox;
use crate::net::workers::{JobFate, QueuedJob};
use weir_broker::EndpointId;

/// Slow work of an authentication, which dropping this cancels.
pub(super) enum AuthWork {
    Task(#[expect(dead_code, reason = "dropping it cancels the task")] AuthTaskHandle),
    Job(#[expect(dead_code, reason = "dropping it takes the job out of the queue")] QueuedJob),
}

/// The client that slow work is for.
pub(super) struct AuthClient {
    pub(super) key: ConnectionKey,
    pub(super) endpoint: EndpointId,
    pub(super) peer: Option<SocketAddr>,
    /// Approximate memory that the work holds.
    pub(super) bytes: usize,
}

/// Queues blocking work; [`Shard::on_auth_decision`] gets its decision.
///
/// # Errors
/// Too much work of the client's address or endpoint waits.
pub(super) fn queue_auth_job(
    shared: &ShardContext,
    mailbox: &Arc<Mailbox<ShardEvent>>,
    client: AuthClient,
    work: Box<dyn FnOnce() -> Decision + Send>,
) -> Result<QueuedJob, Busy> {
    let AuthClient { key, endpoint, peer, bytes } = client;
    let mailbox = Arc::clone(mailbox);
    let job = Box::new(move |fate| {
        let decision = match fate {
            JobFate::Run => work(),
            JobFate::Evicted => Decision::Refuse(AuthRefusal::Busy),
        };
        mailbox.send(ShardEvent::AuthDecision { key, decision });
    });
    shared.workers.submit(endpoint, SourceKey::new(peer), bytes, job)
}

/// Starts an authentication task; [`Shard::on_auth_decision`] gets its decision.
pub(super) fn spawn_auth_task(
    shared: &ShardContext,
    mailbox: &Arc<Mailbox<ShardEvent>>,
    key: ConnectionKey,
    task: AuthTask<Decision>,
) -> AuthTaskHandle {
    let mailbox = Arc::clone(mailbox);
    shared.auth_tasks.submit(async move { mailbox.send(ShardEvent::AuthDecision { key, decision: task.await }) })
}
