//! A declaration of any kind, and its fields as JSON.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    Acl, Auth, Ban, Bridge, ClusterSpec, Declared, Defaults, DocumentIdentity, Endpoint, EventTopics, Kind, Name,
    Origin, Reconcile,
};

/// A declaration of any kind.
#[derive(Debug, Clone)]
pub(super) enum Item {
    Endpoint(Arc<Endpoint>),
    Auth(Arc<Auth>),
    Acl(Arc<Acl>),
    Bridge(Arc<Bridge>),
    Ban(Arc<Ban>),
    Defaults(Arc<Defaults>),
    Reconcile(Arc<Reconcile>),
    Events(Arc<EventTopics>),
    Cluster(Arc<ClusterSpec>),
}

impl Item {
    /// Adds the declaration to `declared`.
    pub(super) fn insert_into(&self, name: &Name, declared: &mut Declared) {
        let name = name.clone();
        match self {
            Self::Endpoint(endpoint) => drop(declared.endpoints.insert(name, Arc::clone(endpoint))),
            Self::Auth(auth) => drop(declared.auths.insert(name, Arc::clone(auth))),
            Self::Acl(acl) => drop(declared.acls.insert(name, Arc::clone(acl))),
            Self::Bridge(bridge) => drop(declared.bridges.insert(name, Arc::clone(bridge))),
            Self::Ban(ban) => drop(declared.bans.insert(name, Arc::clone(ban))),
            Self::Defaults(defaults) => declared.defaults = Some(Arc::clone(defaults)),
            Self::Reconcile(reconcile) => declared.reconcile = Arc::clone(reconcile),
            Self::Events(events) => declared.events = Some(Arc::clone(events)),
            Self::Cluster(cluster) => declared.cluster = Some(Arc::clone(cluster)),
        }
    }

    /// Whether both are one allocation.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Endpoint(a), Self::Endpoint(b)) => Arc::ptr_eq(a, b),
            (Self::Auth(a), Self::Auth(b)) => Arc::ptr_eq(a, b),
            (Self::Acl(a), Self::Acl(b)) => Arc::ptr_eq(a, b),
            (Self::Bridge(a), Self::Bridge(b)) => Arc::ptr_eq(a, b),
            (Self::Ban(a), Self::Ban(b)) => Arc::ptr_eq(a, b),
            (Self::Defaults(a), Self::Defaults(b)) => Arc::ptr_eq(a, b),
            (Self::Reconcile(a), Self::Reconcile(b)) => Arc::ptr_eq(a, b),
            (Self::Events(a), Self::Events(b)) => Arc::ptr_eq(a, b),
            (Self::Cluster(a), Self::Cluster(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// Where the declaration stands.
    pub(super) fn origin(&self) -> &Origin {
        match self {
            Self::Endpoint(endpoint) => &endpoint.origin,
            Self::Auth(auth) => &auth.origin,
            Self::Acl(acl) => &acl.origin,
            Self::Bridge(bridge) => &bridge.origin,
            Self::Ban(ban) => &ban.origin,
            Self::Defaults(defaults) => &defaults.origin,
            Self::Reconcile(reconcile) => &reconcile.origin,
            Self::Events(events) => &events.origin,
            Self::Cluster(cluster) => &cluster.origin,
        }
    }
}

/// All declarations by kind and name, without `defaults`, which is applied already.
pub(super) fn all_items(declared: &Declared) -> impl Iterator<Item = (DocumentIdentity, Item)> {
    fn each<'a, T>(
        kind: Kind,
        of: &'a BTreeMap<Name, Arc<T>>,
        item: fn(Arc<T>) -> Item,
    ) -> impl Iterator<Item = (DocumentIdentity, Item)> + 'a {
        of.iter().map(move |(name, one)| (DocumentIdentity::new(kind, name.clone()), item(Arc::clone(one))))
    }
    each(Kind::Endpoint, &declared.endpoints, Item::Endpoint)
        .chain(each(Kind::Auth, &declared.auths, Item::Auth))
        .chain(each(Kind::Acl, &declared.acls, Item::Acl))
        .chain(each(Kind::Bridge, &declared.bridges, Item::Bridge))
        .chain(each(Kind::Ban, &declared.bans, Item::Ban))
        .chain([(DocumentIdentity::single(Kind::Reconcile), Item::Reconcile(Arc::clone(&declared.reconcile)))])
        .chain(
            declared.events.iter().map(|one| (DocumentIdentity::single(Kind::Events), Item::Events(Arc::clone(one)))),
        )
        .chain(
            declared
                .cluster
                .iter()
                .map(|one| (DocumentIdentity::single(Kind::Cluster), Item::Cluster(Arc::clone(one)))),
        )
}

/// The fields of a declaration that have a value.
pub(super) fn all_fields(item: &Item) -> Map<String, Value> {
    match item {
        Item::Endpoint(endpoint) => fields_of(&**endpoint),
        Item::Auth(auth) => fields_of(&**auth),
        Item::Acl(acl) => fields_of(&**acl),
        Item::Bridge(bridge) => fields_of(&**bridge),
        Item::Ban(ban) => fields_of(&**ban),
        Item::Reconcile(reconcile) => fields_of(&**reconcile),
        Item::Events(events) => fields_of(&**events),
        Item::Cluster(cluster) => fields_of(&**cluster),
        Item::Defaults(defaults) => {
            [("endpoint".to_owned(), Value::Object(defaults.endpoint.clone()))].into_iter().collect()
        }
    }
}

/// The fields of a document's type that have a value.
pub fn fields_of(document: &impl Serialize) -> Map<String, Value> {
    #[allow(clippy::expect_used)] // cannot fail: keys are strings, and numbers are finite
    let value = serde_json::to_value(document).expect("documents are JSON");
    match without_nulls(value) {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(fields.map(|(key, value)| (key, without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}
