//! `acl`: which clients may publish and subscribe.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::path::InstancePath;
use super::{Cidr, Glob, Name, Origin, Position, TopicPattern, yaml};

/// An access list. Of the rules that match, the one with the highest priority decides; of equals, the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Acl {
    /// The document's name.
    #[serde(default)]
    pub name: Name,
    /// Where the document is.
    #[serde(skip)]
    pub origin: Origin,
    /// Free text for people.
    #[serde(default)]
    pub description: Option<Arc<str>>,
    /// Applies where no rule matches.
    #[serde(default)]
    pub no_match: Permission,
    /// The rules as written; see [`Acl::by_precedence`].
    pub rules: Vec<AclRule>,
}

impl Acl {
    /// The rules in the order in which they are evaluated, each with its index as written.
    pub fn by_precedence(&self) -> Vec<(usize, &AclRule)> {
        let mut rules: Vec<_> = self.rules.iter().enumerate().collect();
        rules.sort_by_key(|(_, rule)| std::cmp::Reverse(rule.priority));
        rules
    }
}

/// The position of a rule of `acl` in `content`, its file. `None`: `content` is not that file.
pub fn rule_position(content: &[u8], acl: &Acl, rule: usize) -> Option<Position> {
    let path = InstancePath::from_keys(&["acl", "rules"]).index(rule);
    let documents = yaml::parse(content).ok()?;
    let own = |node: &&yaml::SourceNode| node.entry("acl").is_some_and(|entry| entry.key_at == acl.origin.position);
    documents.iter().map(|document| &document.node).find(own).map(|node| path.position_in(node))
}

/// The decision of a rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Permission {
    /// The action is allowed.
    Allow,
    /// The action is denied.
    #[default]
    Deny,
}

/// The actions that a rule applies to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AclAction {
    /// Publishing.
    Publish,
    /// Subscribing.
    Subscribe,
    /// Both.
    #[default]
    All,
}

/// One rule. It matches if all its conditions match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AclRule {
    /// The decision of the rule.
    pub permission: Permission,
    /// The actions that it is about.
    #[serde(default)]
    pub action: AclAction,
    /// The client ids that it is about; `None`: all.
    #[serde(default)]
    pub client_id: Option<Glob>,
    /// The user name that it is about; `None`: all.
    #[serde(default)]
    pub username: Option<Arc<str>>,
    /// The addresses that it is about; `None`: all.
    #[serde(default)]
    pub ipaddr: Option<Cidr>,
    /// `None`: every topic, including those that begin with `$`.
    #[serde(default)]
    pub topics: Option<Vec<TopicPattern>>,
    /// QoS levels that the rule matches; `None`: all.
    #[serde(default)]
    pub qos: Option<Vec<u8>>,
    /// Publishes with (`true`) or without (`false`) the retain flag; `None`: both.
    #[serde(default)]
    pub retain: Option<bool>,
    /// Rules with a higher priority are evaluated first.
    #[serde(default)]
    pub priority: i32,
}
