//! The state between two passes: parsed files, and the last good declaration of each identity.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::build_endpoint::{self, DeclarationError};
use super::document::{Body, Document, DocumentPlace, ParsedFile};
use super::item::Item;
use super::json_cache::JsonCache;
use super::path::InstancePath;
use super::{
    Acl, Auth, Ban, Bridge, ClusterSpec, Declared, Defaults, DocumentIdentity, Endpoint, EventTopics, Kind, Name,
    Origin, Position, Reconcile,
};
use super::{Diagnostic, Held, HeldCause, Severity, SourceFile};

/// The last good declarations, and the parsed files of the last pass. Opaque: the next [`super::load`] takes it, and
/// [`LastGoodWriter`] stores its declarations for a restart.
#[derive(Debug, Clone, Default)]
pub struct LastGood {
    // Shared with the thread that stores a clone.
    files: Arc<BTreeMap<Arc<str>, CachedFile>>,
    entries: Arc<BTreeMap<DocumentIdentity, LastGoodEntry>>,
    /// The entries that the source does not declare like this, or no longer.
    held: Arc<BTreeMap<DocumentIdentity, Held>>,
}

/// A file's bytes and its parsed documents.
#[derive(Debug, Clone)]
pub(super) struct CachedFile {
    shown: Arc<str>,
    base: Arc<Path>,
    bytes: Arc<[u8]>,
    pub(super) parsed: Arc<ParsedFile>,
}

impl CachedFile {
    /// Remembers that `file`, whose bytes are `bytes`, was parsed.
    pub(super) fn new(file: &SourceFile, bytes: &Arc<[u8]>, parsed: Arc<ParsedFile>) -> Self {
        Self { shown: Arc::clone(&file.shown), base: Arc::clone(&file.base), bytes: Arc::clone(bytes), parsed }
    }

    /// Whether parsing `file` would give the same. Pointers are compared first: a source shares unchanged bytes.
    pub(super) fn matches(&self, file: &SourceFile, bytes: &Arc<[u8]>) -> bool {
        self.shown == file.shown
            && (Arc::ptr_eq(&self.base, &file.base) || self.base == file.base)
            && (Arc::ptr_eq(&self.bytes, bytes) || self.bytes == *bytes)
    }
}

/// A declaration that was accepted.
#[derive(Debug, Clone)]
pub(super) struct LastGoodEntry {
    /// The file's path in the snapshot.
    pub(super) path: Arc<str>,
    /// `None` after a restart.
    pub(super) document: Option<Arc<Document>>,
    /// The defaults that an endpoint was built with.
    pub(super) defaults: Option<Arc<Defaults>>,
    pub(super) item: Item,
}

impl LastGoodEntry {
    pub(super) fn endpoint(&self) -> Option<&Arc<Endpoint>> {
        match &self.item {
            Item::Endpoint(endpoint) => Some(endpoint),
            _ => None,
        }
    }

    /// The endpoint, if it was built from the same document (by pointer) and the same defaults.
    pub(super) fn endpoint_if_unchanged(
        &self,
        document: &Arc<Document>,
        defaults: Option<&Arc<Defaults>>,
    ) -> Option<&Arc<Endpoint>> {
        let same_document = self.document.as_ref().is_some_and(|known| Arc::ptr_eq(known, document));
        let same_defaults = match (&self.defaults, defaults) {
            (None, None) => true,
            (Some(known), Some(now)) => Arc::ptr_eq(known, now),
            _ => false,
        };
        if same_document && same_defaults { self.endpoint() } else { None }
    }
}

impl LastGood {
    /// The files that were parsed, by path.
    pub(super) fn files(&self) -> &BTreeMap<Arc<str>, CachedFile> {
        &self.files
    }

    /// Keeps the files that were parsed.
    pub(super) fn set_files(&mut self, files: Vec<(Arc<str>, CachedFile)>) {
        self.files = Arc::new(files.into_iter().collect());
    }

    pub(super) fn entries(&self) -> &BTreeMap<DocumentIdentity, LastGoodEntry> {
        &self.entries
    }

    pub(super) fn get(&self, identity: &DocumentIdentity) -> Option<&LastGoodEntry> {
        self.entries.get(identity)
    }

    pub(super) fn insert(&mut self, identity: DocumentIdentity, good: LastGoodEntry) {
        Arc::make_mut(&mut self.entries).insert(identity, good);
    }

    /// Inserts many entries, which costs less than one by one.
    pub(super) fn insert_all(&mut self, entries: Vec<(DocumentIdentity, LastGoodEntry)>) {
        Arc::make_mut(&mut self.entries).append(&mut entries.into_iter().collect());
    }

    /// All last good declarations: the broker serves these until it has loaded a snapshot.
    pub fn declared(&self) -> Declared {
        let mut declared = Declared::default();
        for (identity, good) in &*self.entries {
            good.item.insert_into(&identity.name, &mut declared);
        }
        declared
    }

    /// The paths in the snapshot of the files that contain the last good declarations. Held ones are in no file.
    pub fn paths(&self) -> BTreeSet<Arc<str>> {
        let there = self.entries.iter().filter(|(identity, _)| !self.held.contains_key(*identity));
        there.map(|(_, good)| Arc::clone(&good.path)).collect()
    }

    /// The declarations that the guard holds, although the source does not declare them like this, or no longer.
    pub fn held(&self) -> &BTreeMap<DocumentIdentity, Held> {
        &self.held
    }

    /// Replaces the held declarations.
    pub fn set_held(&mut self, held: &BTreeMap<DocumentIdentity, Held>) {
        // An unreadable document is held only until it is read: the next reading decides.
        let held = held.iter().filter(|(_, held)| held.cause != HeldCause::Unreadable);
        self.held = Arc::new(held.map(|(identity, held)| (identity.clone(), held.clone())).collect());
    }

    /// Replaces the entry of `identity` by that of `other`; removes it where `other` has none.
    pub fn copy_entry(&mut self, other: &LastGood, identity: &DocumentIdentity) {
        let good = Arc::make_mut(&mut self.entries);
        match other.entries.get(identity) {
            Some(new) => drop(good.insert(identity.clone(), new.clone())),
            None => drop(good.remove(identity)),
        }
    }

    /// A diagnostic at `pointer` (`/endpoint/sslConfig/certFile`) of a declaration. `None`: it was restored after a
    /// restart, so its document is not available.
    pub fn diagnostic(
        &self,
        identity: &DocumentIdentity,
        severity: Severity,
        code: &'static str,
        pointer: &str,
        message: String,
    ) -> Option<Diagnostic> {
        let document = self.entries.get(identity)?.document.as_ref()?;
        Some(document.diagnostic(severity, code, &InstancePath::from_pointer(pointer), message))
    }

    /// Where a declaration, or the field of it at `path` (`rateLimit.windowS`), is written; `None`: there is none.
    pub fn place(&self, identity: &DocumentIdentity, path: Option<&str>) -> Option<DocumentPlace> {
        let good = self.entries.get(identity)?;
        if let (Some(path), Some(document)) = (path, &good.document) {
            return Some(document.place(identity.clone(), identity.kind.key(), path));
        }
        let origin = good.item.origin();
        Some(DocumentPlace { identity: identity.clone(), file: Arc::clone(&origin.file), line: origin.position.line })
    }

    /// Where the field of an endpoint at `path` (`sslConfig.certFile`) is written: in its document, or else in `defaults`. `None`:
    /// in neither, or the documents are not available.
    pub fn field_place(&self, endpoint: &Name, path: &str) -> Option<DocumentPlace> {
        let field = path.split('.').next().unwrap_or_default();
        let identity = DocumentIdentity::new(Kind::Endpoint, endpoint.clone());
        let good = self.entries.get(&identity)?;
        let document = good.document.as_ref()?;
        let Ok(Body::Endpoint(fields)) = &document.body else { return None };
        // A broker shows endpoints with the fields of `defaults` written out.
        let inherited = good.defaults.as_ref().and_then(|defaults| defaults.endpoint.get(field));
        if fields.contains_key(field) && fields.get(field) != inherited {
            return Some(document.place(identity, "endpoint", path));
        }
        inherited?;
        let identity = DocumentIdentity::single(Kind::Defaults);
        let document = self.entries.get(&identity)?.document.as_ref()?;
        Some(document.place(identity, "defaults.endpoint", path))
    }

    /// Reads what [`LastGoodWriter::write`] wrote in an earlier run.
    ///
    /// # Errors
    /// Another version wrote it, or it is damaged.
    pub fn from_json(value: &Value) -> Result<Self, LastGoodError> {
        if value.get("format") != Some(&Value::from(FORMAT)) {
            return Err(LastGoodError::Format(value.get("format").cloned().unwrap_or_default()));
        }
        let stored = value.get("declarations").map(Vec::<StoredEntry>::deserialize).transpose()?;
        let mut entries = BTreeMap::new();
        for stored in stored.unwrap_or_default() {
            let identity = stored.identity.clone();
            let entry = stored.restore().map_err(|source| LastGoodError::Declaration(identity.clone(), source))?;
            entries.insert(identity, entry);
        }
        // An earlier version wrote no `held`.
        let held = value.get("held").map(Vec::<StoredHeld>::deserialize).transpose()?.unwrap_or_default();
        let held = held.into_iter().map(|stored| (stored.identity, stored.held)).collect();
        Ok(Self { files: Arc::default(), entries: Arc::new(entries), held: Arc::new(held) })
    }
}

/// Serializes last good declarations for a restart. Declarations that did not change are serialized once.
#[derive(Debug, Default)]
pub struct LastGoodWriter {
    cache: JsonCache,
}

impl LastGoodWriter {
    /// Appends `last_good` to `json`, in the form that [`LastGood::from_json`] reads.
    pub fn write(&mut self, last_good: &LastGood, json: &mut String) {
        let items = last_good.entries.iter().map(|(identity, good)| (identity.clone(), good.item.clone()));
        let make = |identity: &DocumentIdentity, item: &Item| {
            let origin = item.origin();
            let stored = StoredEntry {
                identity: identity.clone(),
                path: last_good.entries.get(identity).map(|good| Arc::clone(&good.path)).unwrap_or_default(),
                file: Arc::clone(&origin.file),
                line: origin.position.line,
                col: origin.position.col,
                base: origin.base.display().to_string(),
                declaration: super::item::all_fields(item),
            };
            // Cannot fail: keys are strings, and numbers are finite.
            serde_json::to_string(&stored).unwrap_or_default()
        };
        let declarations = self.cache.texts_of(items, make);
        json.reserve(declarations.clone().map(|text| text.len() + 2).sum::<usize>() + 100);
        json.push_str("{\"format\":\"");
        json.push_str(FORMAT);
        json.push_str("\",\"declarations\":[");
        for (at, text) in declarations.enumerate() {
            json.push_str(if at == 0 { "\n" } else { ",\n" });
            json.push_str(text);
        }
        json.push_str("\n],\"held\":");
        let held = last_good.held.iter().map(|(identity, held)| (identity.clone(), held.clone()));
        let held: Vec<StoredHeld> = held.map(|(identity, held)| StoredHeld { identity, held }).collect();
        json.push_str(&serde_json::to_string(&held).unwrap_or_else(|_| "[]".to_owned()));
        json.push('}');
    }
}

/// Why stored declarations cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LastGoodError {
    /// Holds the format that was found.
    #[error("the format is {}, not {}", .0, FORMAT)]
    Format(Value),
    /// It is not JSON of the expected shape.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// A document in it is not valid.
    #[error("{0}: {1}")]
    Declaration(DocumentIdentity, DeclarationError),
}

/// The version of [`LastGoodWriter::write`]'s output.
const FORMAT: &str = "weir/last-known-good/v1";

/// A last good declaration as stored.
#[derive(Serialize, Deserialize)]
struct StoredEntry {
    #[serde(flatten)]
    identity: DocumentIdentity,
    path: Arc<str>,
    file: Arc<str>,
    line: u32,
    col: u32,
    base: String,
    /// With `defaults` applied.
    declaration: Map<String, Value>,
}

/// A held declaration as stored.
#[derive(Serialize, Deserialize)]
struct StoredHeld {
    #[serde(flatten)]
    identity: DocumentIdentity,
    #[serde(flatten)]
    held: Held,
}

impl StoredEntry {
    fn restore(self) -> Result<LastGoodEntry, DeclarationError> {
        fn parse<T: serde::de::DeserializeOwned>(
            body: Map<String, Value>,
            finish: impl FnOnce(&mut T),
        ) -> Result<Arc<T>, DeclarationError> {
            let mut parsed: T = serde_json::from_value(Value::Object(body))?;
            finish(&mut parsed);
            Ok(Arc::new(parsed))
        }
        let position = Position { line: self.line, col: self.col, len: 1 };
        let origin = Origin { file: self.file, position, base: Arc::from(Path::new(&self.base)) };
        let name = self.identity.name;
        let body = self.declaration;
        let item = match self.identity.kind {
            Kind::Endpoint => Item::Endpoint(Arc::new(build_endpoint::from_fields(body, &name, &origin)?)),
            Kind::Auth => Item::Auth(parse(body, |auth: &mut Auth| (auth.name, auth.origin) = (name, origin))?),
            Kind::Acl => Item::Acl(parse(body, |acl: &mut Acl| (acl.name, acl.origin) = (name, origin))?),
            Kind::Bridge => {
                Item::Bridge(parse(body, |bridge: &mut Bridge| (bridge.name, bridge.origin) = (name, origin))?)
            }
            Kind::Ban => Item::Ban(parse(body, |ban: &mut Ban| (ban.name, ban.origin) = (name, origin))?),
            Kind::Reconcile => Item::Reconcile(parse(body, |reconcile: &mut Reconcile| reconcile.origin = origin)?),
            Kind::Events => Item::Events(parse(body, |events: &mut EventTopics| events.origin = origin)?),
            Kind::Cluster => Item::Cluster(parse(body, |cluster: &mut ClusterSpec| cluster.origin = origin)?),
            Kind::Defaults => {
                let mut body = body;
                let endpoint = match body.remove("endpoint") {
                    Some(Value::Object(fields)) => fields,
                    _ => Map::new(),
                };
                Item::Defaults(Arc::new(Defaults { origin, endpoint }))
            }
        };
        Ok(LastGoodEntry { path: self.path, document: None, defaults: None, item })
    }
}
