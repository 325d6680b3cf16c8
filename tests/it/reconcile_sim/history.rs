//! The history is the audit trail: after each edit, restart and fault it names the documents that changed, and no other.
//! `UPDATE_GOLDEN=1` rewrites `tests/golden/history/edits.txt`, which is to be read as a whole.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use weir_declare::config::{Revision, Snapshot, SourceFile};
use weir_declare::reconcile::Timestamp;
use weirmq::apply::{History, Next, Reconciler};
use weirmq::net::SocketKey;
use weirmq::source::{SourceError, SourceErrorKind, SourceReading};
use weirmq::state::SharedState;
use weirmq::store::{LastKnownGoodFile, Saved};

use super::world::{NoFiles, World};

/// A broker that is restarted, and what was done with it.
struct Script {
    place: tempfile::TempDir,
    world: World,
    documents: BTreeMap<&'static str, String>,
    reconciler: Reconciler<World, NoFiles>,
    state: Arc<SharedState>,
    now: u64,
    told: u64,
    text: String,
}

fn reconciler(place: &Path, world: &World, history: History, now: u64) -> Reconciler<World, NoFiles> {
    let saved = LastKnownGoodFile::new(place).load().unwrap();
    let last_known_good = saved.map(|saved| (saved.revision, saved.saved_at, saved.previous));
    let start = super::start(last_known_good, history, Timestamp::from_unix_ms(now));
    Reconciler::new(start, world.clone(), NoFiles).0
}

impl Script {
    fn new() -> Self {
        let (place, world) = (tempfile::tempdir().unwrap(), World::default());
        let reconciler = reconciler(place.path(), &world, History::default(), 0);
        let state = reconciler.state();
        let documents = BTreeMap::new();
        Self { place, world, documents, reconciler, state, now: 0, told: 0, text: String::new() }
    }

    /// Writes files; an empty text removes one. Then the broker follows.
    async fn edit(&mut self, what: &str, files: &[(&'static str, &str)]) {
        for (name, text) in files {
            match text {
                &"" => drop(self.documents.remove(name)),
                text => drop(self.documents.insert(name, (*text).to_owned())),
            }
        }
        self.read().await;
        self.log(what);
    }

    async fn read(&mut self) {
        for _ in 0..3 {
            self.now += 300;
            let files = self.documents.iter().map(|(name, text)| SourceFile {
                free_ports: false,
                path: Arc::from(format!("{name}.yaml")),
                shown: Arc::from(format!("d/{name}.yaml")),
                base: Arc::from(Path::new("/nowhere")),
                content: Ok(Arc::from(text.as_bytes())),
            });
            let snapshot = Snapshot {
                origin: Arc::from("sim"),
                revision: Revision::Content { hash: format!("at {}", self.now) },
                files: files.collect(),
            };
            let reading = SourceReading {
                snapshot,
                commit: None,
                unsettled: None,
                absence_is_deletion: false,
                ignored: Vec::new(),
                notes: Vec::new(),
                store: None,
                read: None,
            };
            if self.reconciler.read(reading, Timestamp::from_unix_ms(self.now)).await != Next::Recheck {
                break;
            }
        }
    }

    async fn lose_the_source(&mut self, what: &str) {
        self.now += 300;
        let error = SourceError { kind: SourceErrorKind::Unreadable, message: "gone".into() };
        self.reconciler.source_failed(&error, Timestamp::from_unix_ms(self.now)).await;
        self.log(what);
    }

    /// Ends the process and begins another one, with the last known good as the loop keeps it.
    fn restart(&mut self) {
        if let Some((revision, previous)) = self.reconciler.last_known_good() {
            let saved = Saved { source: "sim".into(), revision, saved_at: Timestamp::from_unix_ms(self.now), previous };
            LastKnownGoodFile::new(self.place.path()).save(&saved).unwrap();
        }
        let entries = (*self.state.load().history).clone();
        self.world = World::default();
        self.reconciler = reconciler(self.place.path(), &self.world, History::resume(None, entries), self.now);
        self.state = self.reconciler.state();
    }

    /// Writes down the entries that are new.
    fn log(&mut self, what: &str) {
        let state = self.state.load();
        let _ok = writeln!(self.text, "# {what}");
        let new: Vec<_> = state.history.iter().filter(|entry| entry.sequence > self.told).collect();
        if new.is_empty() {
            self.text.push_str("no entry\n");
        }
        for entry in new {
            self.told = entry.sequence;
            let revision = if entry.revision.is_empty() { "no revision" } else { "a revision" };
            let _ok = writeln!(self.text, "{:?}, {revision}: {}", entry.outcome, entry.summary);
            for action in &entry.actions {
                let error = action.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
                let _ok = writeln!(self.text, "  {} {}{error}", action.action, action.endpoint);
            }
            for line in entry.diff.lines() {
                let _ok = writeln!(self.text, "  | {line}");
            }
        }
        self.text.push('\n');
    }
}

fn endpoint(name: &str, port: u16, fields: &str) -> String {
    format!("endpoint: {{name: {name}, port: {port}, enableAuth: false{fields}}}\n")
}

fn readers(topic: &str) -> String {
    format!("acl:\n  name: readers\n  rules:\n    - {{permission: allow, action: subscribe, topics: [\"{topic}\"]}}\n")
}

const WRITERS: &str = "acl: {name: writers, rules: [{permission: allow, topics: ['#']}]}\n";
const LISTED: &str = ", acl: readers";

async fn play(script: &mut Script) {
    let a = endpoint("a", 1001, LISTED);
    script.edit("the first start: an endpoint and its access list", &[("a", &a), ("readers", &readers("x"))]).await;
    script.edit("nothing changes", &[]).await;
    script.edit("another endpoint comes, with the same access list", &[("b", &endpoint("b", 1002, LISTED))]).await;
    script.edit("an access list comes that no endpoint uses", &[("writers", WRITERS)]).await;
    script.edit("an endpoint uses it", &[("b", &endpoint("b", 1002, ", acl: writers"))]).await;
    script.edit("an endpoint uses no access list", &[("b", &endpoint("b", 1002, ", enableAcl: false"))]).await;
    script.edit("an endpoint goes back to the first access list", &[("b", &endpoint("b", 1002, LISTED))]).await;
    script.edit("the access list of two endpoints changes", &[("readers", &readers("y"))]).await;
    script.edit("an endpoint goes, its access list stays", &[("b", "")]).await;
    script.edit("a comment, and other lines", &[("readers", &format!("# why\n\n{}", readers("y")))]).await;
    script.edit("the access list moves to another file", &[("readers", ""), ("lists", &readers("y"))]).await;
    script.edit("the access list is invalid: the last good one stays", &[("lists", &readers("y/#/z"))]).await;
    script.edit("it is mended as it was", &[("lists", &readers("y"))]).await;
    script.edit("an endpoint is disabled", &[("a", &endpoint("a", 1001, ", acl: readers, enabled: false"))]).await;
    script.edit("an endpoint is enabled", &[("a", &a)]).await;
    script.edit("a ban comes", &[("ban", "ban: {name: loud, entries: [{clientId: x}]}\n")]).await;
    script
        .edit("an endpoint's document goes for other nodes", &[("far", &endpoint("far", 1003, ", nodes: {at: sea}"))])
        .await;
    faults(script).await;
    restarts(script).await;
    held(script).await;
}

/// What becomes live later, or not at all, was declared before.
async fn faults(script: &mut Script) {
    let taken = SocketKey::Tcp("0.0.0.0:1004".parse().unwrap());
    script.world.lock().taken.insert(taken.clone());
    script.edit("an endpoint cannot bind", &[("c", &endpoint("c", 1004, LISTED))]).await;
    script.world.lock().taken.clear();
    script.edit("its address comes free", &[]).await;
    script.world.lock().listeners.get_mut(&taken).unwrap().alive = false;
    script.edit("a listener dies and is bound again", &[]).await;
    script.edit("reconciliation is suspended", &[("r", "reconcile: {suspend: true}\n")]).await;
    script.edit("meanwhile an access list changes", &[("lists", &readers("z"))]).await;
    script.restart();
    script.edit("a restart while it is suspended", &[]).await;
    script.edit("it goes on", &[("r", "")]).await;
}

async fn restarts(script: &mut Script) {
    script.restart();
    script.edit("a restart, nothing changed", &[]).await;
    script.restart();
    script.edit("a restart, an access list changed meanwhile", &[("lists", &readers("z/+"))]).await;
    script.restart();
    script.lose_the_source("a start by the last known good, without a source").await;
    script.edit("the source is there again", &[]).await;
    script.restart();
    script.edit("a restart with an invalid access list", &[("lists", &readers("z/#/z"))]).await;
    script.edit("it is mended as it was", &[("lists", &readers("z/+"))]).await;
}

async fn held(script: &mut Script) {
    let gone = [("a", ""), ("c", ""), ("far", ""), ("lists", "")];
    let was: Vec<(&str, String)> = gone.iter().map(|(name, _)| (*name, script.documents[name].clone())).collect();
    let back: Vec<(&str, &str)> = was.iter().map(|(name, text)| (*name, text.as_str())).collect();
    script.edit("one more endpoint", &[("d", &endpoint("d", 1005, ", enableAcl: false"))]).await;
    script.edit("most endpoints and their access list are deleted: it is held", &gone).await;
    script.restart();
    script.edit("a restart while it is held", &[]).await;
    script.restart();
    script.lose_the_source("a start by the last known good while it is held").await;
    script.edit("the documents are put back", &back).await;
    script.edit("they are deleted again", &gone).await;
    script.edit("it is confirmed", &[("r", "reconcile: {prune: {confirm: [a, c, far]}}\n")]).await;
}

#[tokio::test]
async fn an_entry_names_the_documents_that_changed_and_no_other() {
    let mut script = Script::new();
    play(&mut script).await;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/history/edits.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &script.text).unwrap();
        return;
    }
    let is = std::fs::read_to_string(&path).unwrap_or_default();
    let diff = similar::TextDiff::from_lines(is.as_str(), &script.text).unified_diff().to_string();
    assert!(diff.is_empty(), "{}:\n{diff}\n(UPDATE_GOLDEN=1 rewrites it)", path.display());
}
