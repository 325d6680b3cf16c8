//! Puts a set of documents under the prefix: in one transaction, or bracketed by the marker so that brokers take it as
//! one.

use std::path::Path;
use std::sync::Arc;

use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp, TxnResponse};

use super::client::{connect, list, list_values, prefix_end, with_timeout};
use super::marker::{MARKER_KEY, Marker, PushState};
use super::options::{EtcdAccess, EtcdRoot};
use super::push_plan::{BATCH_BYTES_MAX, Documents, OPERATIONS_MAX, Operation, PushPlan};
use super::replica::Listing;
use crate::source::SourceError;
use weir_declare::config::{Revision, Snapshot, SourceFile};

/// Why a push failed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error("{0}")]
    Source(#[from] SourceError),
    /// Another writer changed the prefix meanwhile.
    #[error("{0}")]
    Conflict(String),
}

/// The content of the store before a push, and the connection to it.
pub struct PushTarget {
    client: Client,
    url: String,
    prefix: String,
    listing: Listing,
}

/// Reads the present content from the first server that answers.
///
/// # Errors
/// The error of the last server, where none answers.
pub async fn read_target(access: &EtcdAccess, root: &EtcdRoot) -> Result<PushTarget, SourceError> {
    let mut turn = 0;
    loop {
        let attempt = async {
            let (client, url) = connect(access, turn).await?;
            let prefix = root.documents();
            let listing = list(&client, &url, &prefix, None).await?;
            Ok(PushTarget { client, url, prefix, listing })
        };
        match attempt.await {
            Err(error) if turn + 1 >= access.urls.len() => return Err(error),
            Err(_) => turn += 1, // the next one may answer
            Ok(target) => return Ok(target),
        }
    }
}

impl PushTarget {
    /// The store's revision.
    pub fn revision(&self) -> i64 {
        self.listing.revision
    }

    /// The marker of the last push.
    pub fn marker(&self) -> Option<Marker> {
        self.listing.marker()
    }

    /// Whether a push has begun and not ended.
    pub fn is_push_in_progress(&self) -> bool {
        self.marker().is_some_and(|marker| marker.state == PushState::Begun && marker.digest != self.listing.digest())
    }

    /// The documents.
    pub fn documents(&self) -> Documents {
        self.listing.documents().map(|(path, stored)| (path.to_string(), Arc::clone(&stored.bytes))).collect()
    }

    /// `documents` as a snapshot, for validation and comparison.
    pub fn snapshot(&self, documents: &Documents) -> Snapshot {
        let files = documents.iter().map(|(key, bytes)| SourceFile {
            free_ports: false,
            path: Arc::from(key.as_str()),
            shown: Arc::from(format!("{}{key}", self.prefix)),
            base: Arc::from(Path::new("")),
            content: Ok(Arc::clone(bytes)),
        });
        Snapshot {
            origin: Arc::from(format!("etcd {} {}", self.url, self.prefix)),
            revision: Revision::Etcd { cluster_id: self.listing.cluster_id, revision: self.listing.revision },
            files: files.collect(),
        }
    }

    /// The brokers' records, by key below `root`'s `nodes/`.
    ///
    /// # Errors
    /// The server does not answer, or reading them is not allowed.
    pub async fn brokers(&self, root: &EtcdRoot) -> Result<Vec<(String, Vec<u8>)>, SourceError> {
        Ok(list_values(&self.client, &self.url, &root.nodes()).await?.1)
    }

    fn marker_key(&self) -> String {
        format!("{}{MARKER_KEY}", self.prefix)
    }

    /// True while nothing under the prefix was written after `revision`.
    fn unwritten_since(&self, revision: i64) -> Compare {
        Compare::mod_revision(self.prefix.as_str(), CompareOp::Less, revision + 1).with_range(prefix_end(&self.prefix))
    }

    fn marker_is(&self, mod_revision: i64) -> Compare {
        Compare::mod_revision(self.marker_key(), CompareOp::Equal, mod_revision)
    }

    fn marker_revision(&self) -> i64 {
        self.listing.keys.get(MARKER_KEY.as_bytes()).map_or(0, |stored| stored.mod_revision)
    }

    fn put_marker(&self, marker: &Marker) -> TxnOp {
        TxnOp::put(self.marker_key(), marker.to_bytes(), None)
    }

    fn operation(&self, operation: &Operation) -> TxnOp {
        match operation {
            Operation::Put(key, bytes) => TxnOp::put(format!("{}{key}", self.prefix), bytes.to_vec(), None),
            Operation::Delete(key) => TxnOp::delete(format!("{}{key}", self.prefix), None),
        }
    }

    async fn transact(&self, when: Vec<Compare>, then: Vec<TxnOp>) -> Result<TxnResponse, SourceError> {
        let transaction = Txn::new().when(when).and_then(then);
        with_timeout(&self.url, self.client.kv_client().txn(transaction)).await
    }

    /// Describes which keys another writer changed.
    async fn conflict(&self, since: i64, aftermath: &str) -> PushError {
        let now = list(&self.client, &self.url, &self.prefix, None).await.unwrap_or_default();
        let written = now.keys.iter().filter(|(_, stored)| stored.mod_revision > since).map(|(key, _)| key);
        let gone = self.listing.keys.keys().filter(|key| !now.keys.contains_key(*key));
        let names: Vec<String> = written.chain(gone).map(|key| String::from_utf8_lossy(key).into_owned()).collect();
        let shown = names.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        let more = if names.len() > 3 { format!(" and {} more", names.len() - 3) } else { String::new() };
        PushError::Conflict(format!(
            "another writer changed {} after revision {since}: {shown}{more}; {aftermath}",
            self.prefix
        ))
    }
}

/// Executes a plan that was made against `target`. `marker` is that of the complete push. Returns the revision of the
/// complete push.
///
/// # Errors
/// Another writer changed the prefix meanwhile, or the server failed; the message says what etcd holds then.
pub async fn push(target: &PushTarget, plan: &PushPlan, marker: &Marker) -> Result<i64, PushError> {
    let batches = plan.batches(OPERATIONS_MAX - 1, BATCH_BYTES_MAX);
    let guards = target.listing.keys.len() + 2;
    if batches.len() <= 1 && guards <= OPERATIONS_MAX {
        return push_at_once(target, batches.into_iter().flatten(), marker).await;
    }
    push_bracketed(target, plan, batches, marker).await
}

/// Every existing key is compared too: no comparison of a range can detect a deletion.
async fn push_at_once(
    target: &PushTarget,
    operations: impl Iterator<Item = Operation>,
    marker: &Marker,
) -> Result<i64, PushError> {
    let mut when = vec![target.unwritten_since(target.listing.revision), target.marker_is(target.marker_revision())];
    when.extend(target.listing.keys.iter().map(|(key, stored)| {
        let key = [target.prefix.as_bytes(), key].concat();
        Compare::mod_revision(key, CompareOp::Equal, stored.mod_revision)
    }));
    let mut then: Vec<TxnOp> = operations.map(|operation| target.operation(&operation)).collect();
    then.push(target.put_marker(marker));
    let response = target.transact(when, then).await?;
    if !response.succeeded() {
        return Err(target
            .conflict(target.listing.revision, "nothing was pushed; review the change, then push again")
            .await);
    }
    Ok(revision_of(&response))
}

fn revision_of(response: &TxnResponse) -> i64 {
    response.header().map_or(0, etcd_client::ResponseHeader::revision)
}

const HALF: &str = "the push is incomplete, and brokers keep the former documents until a push completes: push again";

async fn push_bracketed(
    target: &PushTarget,
    plan: &PushPlan,
    batches: Vec<Vec<Operation>>,
    marker: &Marker,
) -> Result<i64, PushError> {
    let begun_at = begin(target, marker).await?;
    let mut last = begun_at;
    for batch in batches {
        let then: Vec<TxnOp> = batch.iter().map(|operation| target.operation(operation)).collect();
        let response = target.transact(vec![target.marker_is(begun_at), target.unwritten_since(last)], then).await?;
        if !response.succeeded() {
            return Err(target.conflict(last, HALF).await);
        }
        last = revision_of(&response);
    }
    // Only a listing shows a deletion meanwhile.
    let there = list(&target.client, &target.url, &target.prefix, None).await?;
    if there.digest() != plan.digest {
        return Err(target.conflict(last, HALF).await);
    }
    let when = vec![target.marker_is(begun_at), target.unwritten_since(last)];
    let response = target.transact(when, vec![target.put_marker(marker)]).await?;
    if !response.succeeded() {
        return Err(target.conflict(last, HALF).await);
    }
    Ok(revision_of(&response))
}

/// From here on, brokers apply nothing until the documents are those of the marker.
async fn begin(target: &PushTarget, marker: &Marker) -> Result<i64, PushError> {
    let base = target.listing.revision;
    let when = vec![target.unwritten_since(base), target.marker_is(target.marker_revision())];
    // The base of a push that died is older than the current content.
    let earlier = target.marker().filter(|_| target.is_push_in_progress()).map(|marker| marker.base);
    let begun = Marker { state: PushState::Begun, base: earlier.unwrap_or(base), ..marker.clone() };
    let response = target.transact(when, vec![target.put_marker(&begun)]).await?;
    if !response.succeeded() {
        return Err(target.conflict(base, "nothing was pushed; review the change, then push again").await);
    }
    let begun_at = revision_of(&response);
    let before = list(&target.client, &target.url, &target.prefix, Some(begun_at)).await?;
    if before.digest() == target.listing.digest() {
        return Ok(begun_at);
    }
    let undo = match target.listing.keys.get(MARKER_KEY.as_bytes()) {
        Some(stored) => TxnOp::put(target.marker_key(), stored.bytes.to_vec(), None),
        None => TxnOp::delete(target.marker_key(), None),
    };
    target.transact(vec![target.marker_is(begun_at)], vec![undo]).await?;
    Err(target.conflict(base, "nothing was pushed; review the change, then push again").await)
}
