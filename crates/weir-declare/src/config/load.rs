//! Loads a snapshot: the declaration, diagnostics, and the last good declarations for the next pass.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::conflicts::{self, Candidate, Candidates, ReferenceTargets};
use super::document::{Body, Document, ParsedFile};
use super::item::Item;
use super::last_good::{CachedFile, LastGoodEntry};
use super::parse::parse_file;
use super::path::InstancePath;
use super::sorted_cursor::SortedCursor;
use super::{
    Declared, Defaults, Diagnostic, DocumentIdentity, Kind, LastGood, Name, NodeContext, Position, Related, Severity,
};
use super::{Snapshot, SourceFile, build_endpoint};

/// The result of [`load`].
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// The declaration.
    pub declared: Declared,
    /// Sorted by file and position.
    pub diagnostics: Vec<Diagnostic>,
    /// Identities whose live declaration differs from the snapshot's.
    pub refusals: BTreeMap<DocumentIdentity, DocumentRefusal>,
    /// The input of the next pass.
    pub last_good: LastGood,
}

impl Loaded {
    /// Whether the whole snapshot is valid.
    pub fn is_valid(&self) -> bool {
        !self.diagnostics.iter().any(Diagnostic::is_error)
    }
}

/// Why the declaration of an identity is not the snapshot's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentRefusal {
    /// Why it was rejected.
    pub reason: RefusalReason,
    /// One line, with the position of the error.
    pub message: String,
    /// Whether the last good declaration stays in force. `false`: there is none, and the identity is absent.
    pub held: bool,
}

/// The reasons of refusals; each maps to the reason of a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefusalReason {
    /// The document has errors.
    Invalid,
    /// The file could not be parsed, so its declarations are unknown.
    Unparsable,
    /// The file could not be read.
    Unreadable,
    /// Another endpoint has the address.
    /// Another document has the address or the name.
    Conflicted {
        /// The other document.
        holder: Name,
    },
    /// The document was removed, but a held declaration refers to it.
    StillReferenced,
}

/// Loads `snapshot`. An invalid document affects only its own identity, which keeps its last good declaration of
/// `previous`. Files whose bytes did not change are not parsed again.
pub fn load(snapshot: &Snapshot, previous: &LastGood, node: &NodeContext) -> Loaded {
    let mut pass = SnapshotLoader {
        previous,
        node,
        loaded: Loaded::default(),
        documents: BTreeMap::new(),
        failures: BTreeMap::new(),
    };
    pass.read(&snapshot.files);
    pass.refuse_duplicates();
    pass.refuse_invalid();
    pass.declare_others();
    pass.declare_endpoints();
    pass.finish()
}

/// A document, and the path of its file.
type PlacedDocument = (Arc<str>, Arc<Document>);

/// A file that could not be read or parsed as a whole.
struct FileFailure {
    reason: RefusalReason,
    message: String,
}

struct SnapshotLoader<'a> {
    previous: &'a LastGood,
    node: &'a NodeContext,
    loaded: Loaded,
    /// The documents of the snapshot. An identity that is declared twice has two.
    documents: BTreeMap<DocumentIdentity, Vec<PlacedDocument>>,
    /// By path; a directory's path ends in `/`.
    failures: BTreeMap<Arc<str>, FileFailure>,
}

impl SnapshotLoader<'_> {
    fn read(&mut self, files: &[SourceFile]) {
        let mut files: Vec<&SourceFile> = files.iter().collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let mut known = SortedCursor::over(self.previous.files());
        let mut kept = Vec::with_capacity(files.len());
        let mut documents: Vec<(DocumentIdentity, PlacedDocument)> = Vec::with_capacity(files.len());
        for file in files {
            let bytes = match &file.content {
                Ok(bytes) => bytes,
                Err(error) => {
                    let diagnostic = unreadable_file(file, &error.message);
                    let failure = FileFailure { reason: RefusalReason::Unreadable, message: diagnostic.to_string() };
                    self.failures.insert(Arc::clone(&file.path), failure);
                    self.loaded.diagnostics.push(diagnostic);
                    continue;
                }
            };
            let parsed = match known.get(&file.path).filter(|known| known.matches(file, bytes)) {
                Some(known) => Arc::clone(&known.parsed),
                None => Arc::new(parse_file(file, bytes)),
            };
            self.add_documents(file, &parsed, &mut documents);
            kept.push((Arc::clone(&file.path), CachedFile::new(file, bytes, parsed)));
        }
        self.loaded.last_good.set_files(kept);
        // A stable sort: documents of one identity keep their order.
        documents.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut by_identity: Vec<(DocumentIdentity, Vec<PlacedDocument>)> = Vec::with_capacity(documents.len());
        for (identity, placed) in documents {
            match by_identity.last_mut() {
                Some((last, all)) if *last == identity => all.push(placed),
                _ => by_identity.push((identity, vec![placed])),
            }
        }
        self.documents = by_identity.into_iter().collect();
    }

    fn add_documents(
        &mut self,
        file: &SourceFile,
        parsed: &ParsedFile,
        documents: &mut Vec<(DocumentIdentity, PlacedDocument)>,
    ) {
        self.loaded.diagnostics.extend(parsed.problems.iter().cloned());
        for document in &parsed.documents {
            self.loaded.diagnostics.extend(document.warnings.iter().cloned());
            if let Err(errors) = &document.body {
                self.loaded.diagnostics.extend(errors.iter().cloned());
            }
            if let Some(identity) = &document.identity {
                documents.push((identity.clone(), (Arc::clone(&file.path), Arc::clone(document))));
            }
        }
        if parsed.has_unknown {
            let nameless = parsed.documents.iter().filter(|document| document.identity.is_none());
            let first =
                parsed.problems.first().or_else(|| nameless.filter_map(|d| d.body.as_ref().err()?.first()).next());
            let message = first.map(ToString::to_string).unwrap_or_default();
            self.failures.insert(Arc::clone(&file.path), FileFailure { reason: RefusalReason::Unparsable, message });
        }
    }

    /// Refuses names that are declared twice: none of the documents applies.
    fn refuse_duplicates(&mut self) {
        for (identity, documents) in self.documents.iter().filter(|(_, documents)| documents.len() > 1) {
            let Some(((_, first), rest)) = documents.split_first() else { continue };
            for (_, document) in rest {
                let path = InstancePath::from_keys(&[identity.kind.key()]);
                let message = if identity.kind.is_single() {
                    format!("at most one `{}` document is allowed", identity.kind)
                } else {
                    format!("`{}` is declared twice", identity.name)
                };
                let mut diagnostic = document.diagnostic(Severity::Error, "declared-twice", &path, message);
                diagnostic.help = Some(if identity.kind.is_single() {
                    "merge them into one".into()
                } else {
                    "give one of them another `name`".into()
                });
                diagnostic.related.push(Related {
                    file: Arc::clone(&first.origin.file),
                    position: first.origin.position,
                    message: "first declared".into(),
                });
                refuse(&mut self.loaded, self.previous, identity, RefusalReason::Invalid, &diagnostic.to_string());
                self.loaded.diagnostics.push(diagnostic);
            }
        }
    }

    /// Refuses documents with errors, and identities whose file could not be read or parsed.
    fn refuse_invalid(&mut self) {
        for (identity, documents) in &self.documents {
            let errors = documents.iter().find_map(|(_, document)| document.body.as_ref().err());
            if let Some(errors) = errors {
                refuse(&mut self.loaded, self.previous, identity, RefusalReason::Invalid, &first_error(errors));
            }
        }
        let has_failures = !self.failures.is_empty();
        let directories: Vec<(&Arc<str>, &FileFailure)> =
            self.failures.iter().filter(|(path, _)| path.ends_with('/')).collect();
        let failure_of = |path: &Arc<str>| {
            let above = || directories.iter().find(|(directory, _)| path.starts_with(&***directory));
            self.failures.get(path).or_else(|| above().map(|(_, failure)| *failure))
        };
        for (identity, good) in self.previous.entries().iter().filter(|_| has_failures) {
            if let (false, Some(failure)) = (self.documents.contains_key(identity), failure_of(&good.path)) {
                refuse(&mut self.loaded, self.previous, identity, failure.reason.clone(), &failure.message);
            }
        }
    }

    /// Declares every document that is not an endpoint.
    fn declare_others(&mut self) {
        let valid: Vec<(DocumentIdentity, Arc<str>, Arc<Document>)> = self
            .documents
            .iter()
            .filter(|(identity, _)| identity.kind != Kind::Endpoint)
            .filter_map(|(identity, placed)| {
                valid(placed).map(|(path, d)| (identity.clone(), Arc::clone(path), Arc::clone(d)))
            })
            .collect();
        for (identity, path, document) in valid {
            let Ok(body) = &document.body else { continue };
            let item = match body {
                Body::Auth(auth) => Item::Auth(Arc::clone(auth)),
                Body::Acl(acl) => Item::Acl(Arc::clone(acl)),
                Body::Bridge(bridge) => Item::Bridge(Arc::clone(bridge)),
                Body::Ban(ban) => Item::Ban(Arc::clone(ban)),
                Body::Defaults(defaults) => Item::Defaults(Arc::clone(defaults)),
                Body::Reconcile(reconcile) => Item::Reconcile(Arc::clone(reconcile)),
                Body::Events(events) => Item::Events(Arc::clone(events)),
                Body::Cluster(cluster) => Item::Cluster(Arc::clone(cluster)),
                Body::Endpoint(_) => continue,
            };
            self.accept(identity, LastGoodEntry { path, document: Some(document), defaults: None, item });
        }
        let held: Vec<DocumentIdentity> =
            self.loaded.refusals.keys().filter(|id| id.kind != Kind::Endpoint).cloned().collect();
        for identity in held {
            self.keep_last_good(&identity);
        }
    }

    fn accept(&mut self, identity: DocumentIdentity, good: LastGoodEntry) {
        good.item.insert_into(&identity.name, &mut self.loaded.declared);
        self.loaded.last_good.insert(identity, good);
    }

    fn keep_last_good(&mut self, identity: &DocumentIdentity) {
        if let Some(good) = self.previous.get(identity) {
            self.accept(identity.clone(), good.clone());
        }
    }

    /// The refusal of `defaults` without a last good one: the inherited fields of endpoints are unknown.
    fn defaults_unknown(&self) -> Option<&DocumentRefusal> {
        self.loaded.refusals.get(&DocumentIdentity::single(Kind::Defaults)).filter(|refusal| !refusal.held)
    }

    fn declare_endpoints(&mut self) {
        let mut candidates = self.candidates();
        let refused: BTreeSet<(Kind, Name)> = self
            .loaded
            .refusals
            .iter()
            .filter(|(_, refusal)| !refusal.held)
            .map(|(identity, _)| (identity.kind, identity.name.clone()))
            .collect();
        // A refused endpoint falls back to its last good declaration, which may conflict with another endpoint. The
        // loop ends: each round refuses at least one endpoint, and a held one is never refused.
        loop {
            let targets = ReferenceTargets { declared: &self.loaded.declared, refused: &refused };
            let found = conflicts::find(&candidates, self.node, &targets);
            if found.is_empty() {
                break;
            }
            for conflict in found {
                let identity = DocumentIdentity::new(Kind::Endpoint, conflict.name.clone());
                let reason =
                    conflict.holder.map_or(RefusalReason::Invalid, |holder| RefusalReason::Conflicted { holder });
                refuse(&mut self.loaded, self.previous, &identity, reason, &conflict.diagnostic.to_string());
                self.loaded.diagnostics.push(conflict.diagnostic);
                let incumbent = candidates.remove(&conflict.name).and_then(|candidate| candidate.incumbent);
                if let Some(incumbent) = incumbent {
                    candidates.insert(conflict.name, Candidate::held(incumbent));
                }
            }
        }
        self.keep_referenced(&candidates);
        self.accept_candidates(candidates);
    }

    /// The endpoints of the snapshot, and the held ones.
    fn candidates(&mut self) -> Candidates {
        let mut candidates = Vec::with_capacity(self.documents.len());
        let defaults = self.loaded.declared.defaults.clone();
        let unknown = self.defaults_unknown().map(|refusal| refusal.message.clone());
        let mut last_good = SortedCursor::over(self.previous.entries());
        for (identity, placed) in self.documents.iter().filter(|(identity, _)| identity.kind == Kind::Endpoint) {
            let Some((_, document)) = valid(placed) else { continue };
            if let Some(cause) = &unknown {
                let message = format!("its inherited fields are unknown: {cause}");
                refuse(&mut self.loaded, self.previous, identity, RefusalReason::Invalid, &message);
                continue;
            }
            let good = last_good.get(identity);
            match endpoint_of(identity, document, good, defaults.as_ref()) {
                Ok(endpoint) => {
                    let incumbent = good.and_then(LastGoodEntry::endpoint).cloned();
                    let candidate = Candidate { endpoint, document: Some(Arc::clone(document)), incumbent };
                    candidates.push((identity.name.clone(), candidate));
                }
                Err(diagnostic) => {
                    refuse(&mut self.loaded, self.previous, identity, RefusalReason::Invalid, &diagnostic.to_string());
                    self.loaded.diagnostics.push(*diagnostic);
                }
            }
        }
        let mut candidates: Candidates = candidates.into_iter().collect();
        for identity in self.loaded.refusals.keys().filter(|identity| identity.kind == Kind::Endpoint) {
            if let Some(endpoint) = self.previous.get(identity).and_then(LastGoodEntry::endpoint) {
                candidates.insert(identity.name.clone(), Candidate::held(Arc::clone(endpoint)));
            }
        }
        candidates
    }

    /// Keeps removed documents that held endpoints refer to.
    fn keep_referenced(&mut self, candidates: &Candidates) {
        let mut needed = BTreeMap::new();
        for candidate in candidates.values().filter(|candidate| candidate.document.is_none()) {
            let endpoint = &candidate.endpoint;
            let named = [(Kind::Auth, &endpoint.auth), (Kind::Acl, &endpoint.acl)];
            let named = named.into_iter().filter_map(|(kind, name)| Some((kind, name.clone()?)));
            let bridges = endpoint.bridges.iter().map(|name| (Kind::Bridge, name.clone()));
            for (kind, name) in named.chain(bridges) {
                needed.insert(DocumentIdentity::new(kind, name), endpoint.name.clone());
            }
        }
        for (identity, by) in needed {
            if self.loaded.last_good.get(&identity).is_none() {
                let message = format!(
                    "{identity} was removed, but endpoint `{by}` is held at its last good declaration and refers to it"
                );
                refuse(&mut self.loaded, self.previous, &identity, RefusalReason::StillReferenced, &message);
                self.keep_last_good(&identity);
            }
        }
    }

    fn accept_candidates(&mut self, candidates: Candidates) {
        let defaults = self.loaded.declared.defaults.clone();
        let mut documents = SortedCursor::over(&self.documents);
        let mut good = Vec::with_capacity(candidates.len());
        let mut held = Vec::new();
        for (name, candidate) in candidates {
            let identity = DocumentIdentity::new(Kind::Endpoint, name);
            let Some(document) = candidate.document else {
                held.push(identity);
                continue;
            };
            let found = conflicts::warnings(&document, &candidate.endpoint, &self.loaded.declared);
            self.loaded.diagnostics.extend(found);
            let placed = documents.get(&identity).and_then(|placed| valid(placed));
            let path = placed.map(|(path, _)| Arc::clone(path)).unwrap_or_default();
            let item = Item::Endpoint(candidate.endpoint);
            good.push((identity, LastGoodEntry { path, document: Some(document), defaults: defaults.clone(), item }));
        }
        let endpoints = good.iter().filter_map(|(id, good)| Some((id.name.clone(), Arc::clone(good.endpoint()?))));
        self.loaded.declared.endpoints = endpoints.collect();
        self.loaded.last_good.insert_all(good);
        for identity in held {
            self.keep_last_good(&identity);
        }
    }

    fn finish(mut self) -> Loaded {
        self.loaded.diagnostics.sort_by(|a, b| {
            (&a.file, a.position, &a.path, &a.message).cmp(&(&b.file, b.position, &b.path, &b.message))
        });
        self.loaded
    }
}

/// The first error of a document by position, and the number of further errors.
fn first_error(errors: &[Diagnostic]) -> String {
    let first = errors.iter().min_by_key(|error| error.position).map(ToString::to_string).unwrap_or_default();
    match errors.len() {
        0 | 1 => first,
        count => format!("{first} (and {} more in this document)", count - 1),
    }
}

/// The valid document of an identity that is declared once.
fn valid(placed: &[PlacedDocument]) -> Option<&PlacedDocument> {
    match placed {
        [one] if one.1.body.is_ok() => Some(one),
        _ => None,
    }
}

/// The endpoint of a document. Returns the last good one when neither the document nor `defaults` changed.
fn endpoint_of(
    identity: &DocumentIdentity,
    document: &Arc<Document>,
    good: Option<&LastGoodEntry>,
    defaults: Option<&Arc<Defaults>>,
) -> Result<Arc<super::Endpoint>, Box<Diagnostic>> {
    if let Some(endpoint) = good.and_then(|good| good.endpoint_if_unchanged(document, defaults)) {
        return Ok(Arc::clone(endpoint));
    }
    let path = InstancePath::from_keys(&["endpoint"]);
    let Ok(Body::Endpoint(fields)) = &document.body else {
        return Err(Box::new(document.diagnostic(Severity::Error, "not-understood", &path, "it is not an endpoint")));
    };
    build_endpoint::with_defaults(fields, defaults.map(Arc::as_ref), &identity.name, &document.origin)
        .map(Arc::new)
        .map_err(|error| Box::new(document.diagnostic(Severity::Error, "not-understood", &path, error.to_string())))
}

fn unreadable_file(file: &SourceFile, message: &str) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        code: "unreadable",
        file: Arc::clone(&file.shown),
        position: Position::START,
        path: String::new(),
        message: format!("the file cannot be read: {message}"),
        help: None,
        related: Vec::new(),
        identity: None,
    }
}

/// Records that the snapshot's declaration of `identity` does not apply. The first reason wins.
fn refuse(loaded: &mut Loaded, previous: &LastGood, identity: &DocumentIdentity, reason: RefusalReason, message: &str) {
    let held = previous.get(identity).is_some();
    let refusal = || DocumentRefusal { reason, message: message.to_owned(), held };
    loaded.refusals.entry(identity.clone()).or_insert_with(refusal);
}
