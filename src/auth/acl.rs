//! Compiled acl documents: whether a client may publish to a topic or subscribe to a filter.
//!
//! A subscription is evaluated as a filter: an `allow` rule must cover everything that the filter matches; a `deny` rule
//! applies as soon as it matches any of it. So a granted subscription never delivers what the rules deny, and a
//! message is evaluated again only if it was queued or sent before the rules changed, or is resent.

use std::net::IpAddr;
use std::sync::Arc;

use weir_broker::{Authorize, Subject};
use weir_declare::config::{Acl, AclAction, AclRule, Cidr, Glob, Permission, TopicPattern};
use weir_mqtt::QoS;

/// `enableAcl` without an acl document: denies everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DenyAll;

impl Authorize for DenyAll {
    fn may_publish(&self, _: Subject<'_>, _: &str, _: QoS, _: bool) -> bool {
        false
    }
    fn may_subscribe(&self, _: Subject<'_>, _: &str, _: QoS) -> bool {
        false
    }
    fn may_receive(&self, _: Subject<'_>, _: &str) -> bool {
        false
    }
}

/// A compiled acl document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSet {
    no_match: Permission,
    /// In the order in which they decide.
    rules: Vec<CompiledRule>,
}

/// A request to evaluate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AclRequest<'a> {
    Publish {
        topic: &'a str,
        qos: QoS,
        retain: bool,
    },
    /// For `$share/group/filter`, `filter` is what follows the group.
    Subscribe {
        filter: &'a str,
        qos: QoS,
    },
    /// Delivery of a message by a subscription that was granted before.
    Receive {
        topic: &'a str,
    },
}

/// The result, and the rule that it follows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AclDecision {
    pub permission: Permission,
    /// Index in the document's `rules`; `None`: none matched, `noMatch` decided.
    pub rule: Option<usize>,
}

impl RuleSet {
    /// Compiles a document.
    pub fn compile(acl: &Acl) -> Self {
        let rules = acl.by_precedence().into_iter().map(|(index, rule)| CompiledRule::compile(index, rule)).collect();
        Self { no_match: acl.no_match, rules }
    }

    /// Evaluates a request.
    pub fn evaluate(&self, subject: Subject<'_>, request: AclRequest<'_>) -> AclDecision {
        let decided = self.rules.iter().find(|rule| rule.matches(subject, request));
        decided.map_or(AclDecision { permission: self.no_match, rule: None }, |rule| AclDecision {
            permission: rule.permission,
            rule: Some(rule.index),
        })
    }

    fn allows(&self, subject: Subject<'_>, request: AclRequest<'_>) -> bool {
        self.evaluate(subject, request).permission == Permission::Allow
    }
}

impl Authorize for RuleSet {
    fn may_publish(&self, subject: Subject<'_>, topic: &str, qos: QoS, retain: bool) -> bool {
        self.allows(subject, AclRequest::Publish { topic, qos, retain })
    }

    fn may_subscribe(&self, subject: Subject<'_>, filter: &str, qos: QoS) -> bool {
        self.allows(subject, AclRequest::Subscribe { filter, qos })
    }

    fn may_receive(&self, subject: Subject<'_>, topic: &str) -> bool {
        self.allows(subject, AclRequest::Receive { topic })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct CompiledRule {
    /// As written in the document.
    index: usize,
    permission: Permission,
    publish: bool,
    subscribe: bool,
    client_id: Option<Glob>,
    username: Option<Arc<str>>,
    network: Option<Cidr>,
    topics: Option<Vec<Pattern>>,
    qos: Option<Vec<u8>>,
    retain: Option<bool>,
}

impl CompiledRule {
    fn compile(index: usize, rule: &AclRule) -> Self {
        Self {
            index,
            permission: rule.permission,
            publish: matches!(rule.action, AclAction::Publish | AclAction::All),
            subscribe: matches!(rule.action, AclAction::Subscribe | AclAction::All),
            client_id: rule.client_id.clone(),
            username: rule.username.clone(),
            network: rule.ipaddr,
            topics: rule.topics.as_ref().map(|topics| topics.iter().map(Pattern::compile).collect()),
            qos: rule.qos.clone(),
            retain: rule.retain,
        }
    }

    fn matches(&self, subject: Subject<'_>, request: AclRequest<'_>) -> bool {
        let is_action = match request {
            AclRequest::Publish { .. } => self.publish,
            AclRequest::Subscribe { .. } | AclRequest::Receive { .. } => self.subscribe,
        };
        is_action
            && self.matches_subject(subject)
            && self.matches_flags(request)
            && self.matches_topic(subject, request)
    }

    fn matches_subject(&self, subject: Subject<'_>) -> bool {
        let in_network = |network: &Cidr| subject.address.is_some_and(|address: IpAddr| network.contains(address));
        self.username.as_deref().is_none_or(|wanted| subject.username == Some(wanted))
            && self.network.as_ref().is_none_or(in_network)
            && self.client_id.as_ref().is_none_or(|glob| glob.matches(subject.client_id))
    }

    fn matches_flags(&self, request: AclRequest<'_>) -> bool {
        let qos_is = |qos: QoS| self.qos.as_ref().is_none_or(|wanted| wanted.contains(&(qos as u8)));
        match request {
            AclRequest::Publish { qos, retain, .. } => qos_is(qos) && self.retain.is_none_or(|wanted| wanted == retain),
            // Only publishers retain: a rule with `retain` does not apply to subscriptions.
            AclRequest::Subscribe { qos, .. } => self.retain.is_none() && qos_is(qos),
            // The granted QoS of the subscription is not known: the rule that may have granted it applies.
            AclRequest::Receive { .. } => {
                self.retain.is_none() && (self.qos.is_none() || self.permission == Permission::Allow)
            }
        }
    }

    fn matches_topic(&self, subject: Subject<'_>, request: AclRequest<'_>) -> bool {
        let Some(patterns) = &self.topics else { return true };
        patterns.iter().any(|pattern| pattern.matches(subject, request, self.permission))
    }
}

/// One entry of `topics`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    /// `{eq: ...}`: the text itself is meant.
    exact: bool,
    levels: Vec<Level>,
    placeholders: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Level {
    Literal(Box<str>),
    Template(Template),
    Plus,
    Hash,
}

/// A level with placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Template {
    parts: Vec<LevelPart>,
    /// The characters between the placeholders. `None`: two of them touch.
    separators: Option<Box<[char]>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum LevelPart {
    Text(Box<str>),
    ClientId,
    Username,
}

impl Pattern {
    fn compile(pattern: &TopicPattern) -> Self {
        let exact = matches!(pattern, TopicPattern::Eq(_));
        let mut levels: Vec<Level> = pattern.as_str().split('/').map(|text| Level::compile(text, exact)).collect();
        if levels == [Level::Plus, Level::Hash] {
            levels.remove(0); // the same topics, and a subscription to `#` is covered
        }
        let placeholders = levels.iter().any(|level| matches!(level, Level::Template(_)));
        Self { exact, levels, placeholders }
    }

    fn matches(&self, subject: Subject<'_>, request: AclRequest<'_>, permission: Permission) -> bool {
        if !self.placeholders {
            return self.matches_levels(&self.levels, request, permission);
        }
        match self.filled(subject, permission) {
            Some(levels) => self.matches_levels(&levels, request, permission),
            None => false,
        }
    }

    /// The levels with the client's own values. A value is text, never a wildcard. A value with a separator, a wildcard
    /// or a leading `$` matches no allow rule: a client with the id `a/b` must not get the permissions of `a`. Neither does
    /// a value with a character that separates it from another one in its level: of `a-b` and `c`, and `a` and `b-c`,
    /// `${clientid}-${username}` makes the same text.
    fn filled(&self, subject: Subject<'_>, permission: Permission) -> Option<Vec<Level>> {
        let mut levels = Vec::with_capacity(self.levels.len());
        for level in &self.levels {
            let Level::Template(template) = level else {
                levels.push(level.clone());
                continue;
            };
            let mut text = String::new();
            for part in &template.parts {
                let value = match part {
                    LevelPart::Text(text) => &**text,
                    LevelPart::ClientId => subject.client_id,
                    LevelPart::Username => subject.username?,
                };
                if permission == Permission::Allow && !matches!(part, LevelPart::Text(_)) {
                    let unsafe_text = value.is_empty() || value.starts_with('$') || value.contains(['/', '+', '#']);
                    let separators = template.separators.as_deref();
                    let ambiguous = separators.is_none_or(|separators| value.contains(separators));
                    if unsafe_text || ambiguous {
                        return None;
                    }
                }
                text.push_str(value);
            }
            levels.extend(text.split('/').map(|text| Level::Literal(text.into())));
        }
        Some(levels)
    }

    fn matches_levels(&self, levels: &[Level], request: AclRequest<'_>, permission: Permission) -> bool {
        match request {
            AclRequest::Publish { topic, .. } | AclRequest::Receive { topic } => covers(levels, topic, true),
            AclRequest::Subscribe { filter, .. } if self.exact => covers(levels, filter, true),
            AclRequest::Subscribe { filter, .. } => match permission {
                Permission::Allow => covers(levels, filter, false),
                Permission::Deny => overlaps(levels, filter),
            },
        }
    }
}

impl Level {
    fn compile(text: &str, exact: bool) -> Self {
        match text {
            "+" if !exact => Level::Plus,
            "#" if !exact => Level::Hash,
            _ => {
                let parts = parts(text);
                match <[LevelPart; 1]>::try_from(parts) {
                    Ok([LevelPart::Text(text)]) => Level::Literal(text),
                    Ok([part]) => Level::Template(Template::new(vec![part])),
                    Err(parts) if parts.is_empty() => Level::Literal("".into()),
                    Err(parts) => Level::Template(Template::new(parts)),
                }
            }
        }
    }
}

fn parts(text: &str) -> Vec<LevelPart> {
    const PLACEHOLDERS: [(&str, LevelPart); 2] =
        [("${clientid}", LevelPart::ClientId), ("${username}", LevelPart::Username)];
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let next =
            PLACEHOLDERS.iter().filter_map(|(name, part)| Some((rest.find(name)?, name, part))).min_by_key(|n| n.0);
        let Some((at, name, part)) = next else {
            parts.push(LevelPart::Text(rest.into()));
            break;
        };
        let (before, from) = rest.split_at(at);
        if !before.is_empty() {
            parts.push(LevelPart::Text(before.into()));
        }
        parts.push(part.clone());
        rest = from.strip_prefix(name).unwrap_or_default();
    }
    parts
}

impl Template {
    fn new(parts: Vec<LevelPart>) -> Self {
        Self { separators: separators_between(&parts), parts }
    }
}

fn separators_between(parts: &[LevelPart]) -> Option<Box<[char]>> {
    let is_placeholder = |part: &LevelPart| !matches!(part, LevelPart::Text(_));
    if parts.windows(2).any(|pair| pair.iter().all(is_placeholder)) {
        return None;
    }
    let first = parts.iter().position(is_placeholder)?;
    let last = parts.iter().rposition(is_placeholder)?;
    let between = parts.get(first..last).unwrap_or_default().iter();
    let texts = between.filter_map(|part| match part {
        LevelPart::Text(text) => Some(text.chars()),
        LevelPart::ClientId | LevelPart::Username => None,
    });
    Some(texts.flatten().collect())
}

/// Whether `levels` match everything that `filter` does. With `literal`, `filter` is a topic name (or to be taken as
/// written), and this is plain matching. Wildcards of the first level pass over `$` topics [MQTT-4.7.2-1].
fn covers(levels: &[Level], filter: &str, literal: bool) -> bool {
    let mut theirs = filter.split('/');
    for (depth, level) in levels.iter().enumerate() {
        let next = theirs.next();
        let dollar = depth == 0 && next.is_some_and(|text| text.starts_with('$'));
        match (level, next) {
            (Level::Hash, _) => return !dollar,
            (_, None) => return false,
            (Level::Plus, Some(text)) => {
                if dollar || (!literal && text == "#") {
                    return false;
                }
            }
            (Level::Literal(own), Some(text)) => {
                if **own != *text {
                    return false;
                }
            }
            (Level::Template(_), Some(_)) => return false, // filled before
        }
    }
    theirs.next().is_none()
}

/// Whether there is a topic that both `levels` and `filter` match.
fn overlaps(levels: &[Level], filter: &str) -> bool {
    let mut ours = levels.iter();
    let mut theirs = filter.split('/');
    let mut first = true;
    loop {
        let (own, other) = (ours.next(), theirs.next());
        let own_wild = matches!(own, Some(Level::Plus | Level::Hash));
        let other_wild = matches!(other, Some("+" | "#"));
        let own_dollar = matches!(own, Some(Level::Literal(text)) if text.starts_with('$'));
        let other_dollar = other.is_some_and(|text| text.starts_with('$'));
        if first && ((own_wild && other_dollar) || (other_wild && own_dollar)) {
            return false;
        }
        first = false;
        match (own, other) {
            (Some(Level::Hash), _) | (_, Some("#")) => return true,
            (None, None) => return true,
            (None, _) | (_, None) => return false,
            (Some(Level::Plus), _) | (_, Some("+")) => {}
            (Some(Level::Literal(own)), Some(other)) if **own == *other => {}
            (Some(_), Some(_)) => return false,
        }
    }
}

#[cfg(test)]
mod tests;
