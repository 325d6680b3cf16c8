//! The claims of a token whose signature is valid.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::auth::RuleSet;
use crate::auth::api::Attempt;
use weir_broker::{Authorize, Subject};
use weir_declare::config::{Acl, AclAction, AclRule, Jwt, Name, Origin, Permission, TopicPattern};
use weir_mqtt::QoS;

/// A token's payload.
pub(super) struct Claims(Map<String, Value>);

/// An accepted token.
pub(super) struct Accepted {
    pub(super) username: Option<Box<str>>,
    /// For a client that sent none.
    pub(super) client_id: Option<Box<str>>,
    pub(super) claims_acl: Option<Arc<dyn Authorize>>,
    /// Seconds until it ends, leeway included.
    pub(super) remaining_s: Option<u64>,
}

/// Why a token is rejected.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rejected {
    Claim(&'static str),
    /// It is for this client id, and the client sent another.
    ClientId(Box<str>),
}

impl Claims {
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        serde_json::from_slice(payload).ok().map(Self)
    }

    pub(super) fn accept(&self, declared: &Jwt, attempt: &Attempt, unix_now_s: i64) -> Result<Accepted, Rejected> {
        let has_issuer = declared.issuer.as_deref().is_none_or(|wanted| self.word("iss") == Some(wanted));
        let has_audience = declared.audience.as_deref().is_none_or(|wanted| self.is_for(wanted));
        let has_claims = declared.required_claims.iter().all(|(claim, wanted)| self.has(claim, wanted));
        let demands = [
            (has_issuer, "iss is not the declared issuer"),
            (has_audience, "aud lacks the declared audience"),
            (has_claims, "a required claim is missing or has another value"),
        ];
        if let Some((_, why)) = demands.into_iter().find(|(is_met, _)| !is_met) {
            return Err(Rejected::Claim(why));
        }
        let username = match declared.username_claim.as_deref() {
            Some(claim) => {
                let username = self.word(claim).filter(|username| !username.is_empty());
                Some(Box::from(username.ok_or(Rejected::Claim("the user name's claim is missing or not a name"))?))
            }
            None => attempt.username.clone(),
        };
        let claims_acl = match declared.acl_claim.as_deref().and_then(|claim| self.0.get(claim)) {
            Some(claim) => {
                let rules = rules(claim).ok_or(Rejected::Claim("the rules' claim has an unknown form"))?;
                Some(Arc::new(rules) as Arc<dyn Authorize>)
            }
            None => None,
        };
        let remaining_s = self.remaining_s(declared, unix_now_s).map_err(Rejected::Claim)?;
        // Checked last: only a token that is valid otherwise reveals that the client id is wrong.
        let client_id = declared.client_id_claim.as_deref().map(|claim| self.client_id(claim, attempt));
        Ok(Accepted { username, client_id: client_id.transpose()?.flatten(), claims_acl, remaining_s })
    }

    /// The client id for a client that sent none; `None`: the client sent the token's.
    fn client_id(&self, claim: &str, attempt: &Attempt) -> Result<Option<Box<str>>, Rejected> {
        let own = self.word(claim).filter(|id| !id.is_empty() && !id.contains('\0'));
        let own = own.ok_or(Rejected::Claim("the client id's claim is missing or not a client id"))?;
        if attempt.client_id_assigned {
            Ok(Some(own.into()))
        } else if own == &*attempt.client_id {
            Ok(None)
        } else {
            Err(Rejected::ClientId(own.into()))
        }
    }

    /// RFC 7519, 4.1.4 and 4.1.5. `None`: without end.
    fn remaining_s(&self, declared: &Jwt, unix_now_s: i64) -> Result<Option<u64>, &'static str> {
        let leeway_s = i64::from(declared.leeway_s);
        if let Some(not_before) = self.0.get("nbf")
            && unix_now_s.saturating_add(leeway_s) < numeric_date(not_before).ok_or("nbf is not a time")?
        {
            return Err("the token is not valid yet (nbf)");
        }
        match self.0.get("exp") {
            Some(expiry) => {
                let end = numeric_date(expiry).ok_or("exp is not a time")?.saturating_add(leeway_s);
                let remaining_s =
                    u64::try_from(end.saturating_sub(unix_now_s)).ok().filter(|remaining_s| *remaining_s > 0);
                remaining_s.map(Some).ok_or("the token has expired (exp)")
            }
            None if declared.require_expiry => Err("the token has no exp"),
            None => Ok(None),
        }
    }

    fn has(&self, claim: &str, wanted: &Value) -> bool {
        match self.0.get(claim) {
            Some(Value::Array(found)) => found.contains(wanted),
            found => found == Some(wanted),
        }
    }

    fn word(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    /// RFC 7519, 4.1.3: `aud` is a string, or an array of them.
    fn is_for(&self, wanted: &str) -> bool {
        match self.0.get("aud") {
            Some(Value::String(audience)) => audience == wanted,
            Some(Value::Array(audiences)) => audiences.iter().any(|audience| audience.as_str() == Some(wanted)),
            _ => false,
        }
    }
}

/// Seconds since 1970, perhaps with a fraction.
fn numeric_date(value: &Value) -> Option<i64> {
    value
        .as_i64()
        .or_else(|| value.as_f64().filter(|seconds| seconds.abs() < 1e15).map(|seconds| seconds.floor() as i64))
}

/// The rules that a credential carries. They are kept as they came, too: they travel with a client to the node that has its
/// session.
#[derive(Debug)]
pub struct ClaimedRules {
    rules: RuleSet,
    source: Box<str>,
}

impl ClaimedRules {
    /// Compiles rules as [`Authorize::source`] has answered them. `None`: they have another form.
    pub fn compile(claim: &Value) -> Option<Self> {
        rules(claim)
    }
}

impl Authorize for ClaimedRules {
    fn may_publish(&self, subject: Subject<'_>, topic: &str, qos: QoS, retain: bool) -> bool {
        self.rules.may_publish(subject, topic, qos, retain)
    }

    fn may_subscribe(&self, subject: Subject<'_>, filter: &str, qos: QoS) -> bool {
        self.rules.may_subscribe(subject, filter, qos)
    }

    fn may_receive(&self, subject: Subject<'_>, topic: &str) -> bool {
        self.rules.may_receive(subject, topic)
    }

    fn source(&self) -> Option<&str> {
        Some(&self.source)
    }
}

/// The rules of a claim: `{publish: [filter, ...], subscribe: [...], all: [...]}` (EMQX's `pub` and `sub` mean the
/// same), or a list of rules in the form of an acl document. They deny everything that they do not allow. `None`: the
/// claim has another form, and the token is rejected.
pub(in crate::auth) fn rules(claim: &Value) -> Option<ClaimedRules> {
    Some(ClaimedRules { rules: compile(claim)?, source: claim.to_string().into() })
}

fn compile(claim: &Value) -> Option<RuleSet> {
    let rules = match claim {
        Value::Object(lists) => {
            let mut rules = Vec::new();
            for (name, filters) in lists {
                let action = match name.as_str() {
                    "publish" | "pub" => AclAction::Publish,
                    "subscribe" | "sub" => AclAction::Subscribe,
                    "all" => AclAction::All,
                    _ => return None,
                };
                let topics: Vec<TopicPattern> = serde_json::from_value(filters.clone()).ok()?;
                rules.push(allow(action, topics));
            }
            rules
        }
        Value::Array(_) => serde_json::from_value(claim.clone()).ok()?,
        _ => return None,
    };
    Some(RuleSet::compile(&Acl {
        name: Name::default(),
        origin: Origin::default(),
        description: None,
        no_match: Permission::Deny,
        rules,
    }))
}

fn allow(action: AclAction, topics: Vec<TopicPattern>) -> AclRule {
    AclRule {
        permission: Permission::Allow,
        action,
        client_id: None,
        username: None,
        ipaddr: None,
        topics: Some(topics),
        qos: None,
        retain: None,
        priority: 0,
    }
}
