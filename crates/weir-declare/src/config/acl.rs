//! `acl`: who may publish and subscribe.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::path::InstancePath;
use super::{Cidr, Glob, Name, Origin, Position, TopicPattern, yaml};

/// Rules. The one with the highest priority decides, among equals the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Acl {
    #[serde(default)]
    pub name: Name,
    #[serde(skip)]
    pub origin: Origin,
    #[serde(default)]
    pub description: Option<Arc<str>>,
    /// What holds where no rule matches.
    #[serde(default)]
    pub no_match: Permission,
    /// As written; [`Acl::by_precedence`] has them in the order in which they decide.
    pub rules: Vec<AclRule>,
}

impl Acl {
    /// The rules in the order in which they decide, each with its index as written.
    pub fn by_precedence(&self) -> Vec<(usize, &AclRule)> {
        let mut rules: Vec<_> = self.rules.iter().enumerate().collect();
        rules.sort_by_key(|(_, rule)| std::cmp::Reverse(rule.priority));
        rules
    }
}

/// Where a rule of `acl` stands in the file it came from; `None`: `content` is not that file.
pub fn rule_position(content: &[u8], acl: &Acl, rule: usize) -> Option<Position> {
    let path = InstancePath::of(&["acl", "rules"]).index(rule);
    let documents = yaml::parse(content).ok()?;
    let own = |node: &&yaml::SourceNode| node.entry("acl").is_some_and(|entry| entry.key_at == acl.origin.position);
    documents.iter().map(|document| &document.node).find(own).map(|node| path.position_in(node))
}

/// A verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Permission {
    Allow,
    #[default]
    Deny,
}

/// What a rule is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    Publish,
    Subscribe,
    #[default]
    All,
}

/// One rule: it matches where every condition that it names holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AclRule {
    pub permission: Permission,
    #[serde(default)]
    pub action: Action,
    #[serde(default)]
    pub client_id: Option<Glob>,
    #[serde(default)]
    pub username: Option<Arc<str>>,
    #[serde(default)]
    pub ipaddr: Option<Cidr>,
    /// `None`: every topic, those that begin with `$` included.
    #[serde(default)]
    pub topics: Option<Vec<TopicPattern>>,
    /// Only these QoS; `None`: all.
    #[serde(default)]
    pub qos: Option<Vec<u8>>,
    /// Publishes only: with or without the retain flag; `None`: both.
    #[serde(default)]
    pub retain: Option<bool>,
    /// Higher decides first.
    #[serde(default)]
    pub priority: i32,
}
