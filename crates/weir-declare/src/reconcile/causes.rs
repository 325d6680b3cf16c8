//! The line of a document that causes a change. One line of `defaults`, or one `auth` document, may change many endpoints.

use std::collections::BTreeMap;

use super::plan::Plan;
use crate::config::{DocumentIdentity, DocumentPlace, Kind, LastGood, Name};

/// The line that causes a change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChangeCause {
    /// Where the document is.
    pub place: DocumentPlace,
    /// The line is in the former documents: it was removed.
    pub removed: bool,
}

impl ChangeCause {
    /// `defaults.yaml:3`; `defaults.yaml:3 (removed)`.
    pub fn shown(&self) -> String {
        let DocumentPlace { file, line, .. } = &self.place;
        match self.removed {
            false => format!("{file}:{line}"),
            // A broker has no files.
            true if file.contains("://") => format!("{} (removed)", self.place.document()),
            true => format!("{file}:{line} (removed)"),
        }
    }

    /// Whether it is a document that other endpoints have in common with the changed one.
    pub fn is_shared(&self) -> bool {
        self.place.identity.kind != Kind::Endpoint
    }
}

/// The causes of the changes of a plan, by endpoint and path of the changed field.
#[derive(Debug, Clone, Default)]
pub struct ChangeCauses(BTreeMap<Name, BTreeMap<String, ChangeCause>>);

impl ChangeCauses {
    /// Finds the causes of `plan`, which leads from the documents `old` to the documents `new`.
    pub fn find(plan: &Plan, old: &LastGood, new: &LastGood) -> Self {
        let causes_of = |name: &Name, paths: &mut dyn Iterator<Item = &String>| {
            paths.filter_map(|path| Some((path.clone(), find_cause(name, path, old, new)?))).collect()
        };
        let of_actions = plan.actions.iter().map(|action| {
            let mut paths = action.changes.iter().map(|change| &change.path);
            (action.name.clone(), causes_of(&action.name, &mut paths))
        });
        Self(of_actions.collect())
    }

    /// The cause of the change of an endpoint at `path`.
    pub fn get(&self, endpoint: &Name, path: &str) -> Option<&ChangeCause> {
        self.0.get(endpoint)?.get(path)
    }
}

fn find_cause(endpoint: &Name, path: &str, old: &LastGood, new: &LastGood) -> Option<ChangeCause> {
    let at = |place: Option<DocumentPlace>, removed| place.map(|place| ChangeCause { place, removed });
    match document_of(path) {
        Some((identity, field)) => {
            at(new.place(&identity, field), false).or_else(|| at(old.place(&identity, field), true))
        }
        None => at(new.field_place(endpoint, path), false).or_else(|| at(old.field_place(endpoint, path), true)),
    }
}

/// The document that a path names, and the field in it: `auth default`, `acl eu: rules`, `ban mallory: entries`. `None`: it is a
/// field of the endpoint.
fn document_of(path: &str) -> Option<(DocumentIdentity, Option<&str>)> {
    let (kind, rest) = path.split_once(' ')?;
    let kind = Kind::from_key(kind).filter(|kind| matches!(kind, Kind::Auth | Kind::Acl | Kind::Ban))?;
    let (name, field) = rest.split_once(": ").map_or((rest, None), |(name, field)| (name, Some(field)));
    Some((DocumentIdentity::new(kind, Name::parse(name).ok()?), field))
}
