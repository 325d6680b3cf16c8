//! The fields of a request: everything that is known of the client, or the declared ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::auth::api::Attempt;
use weir_mqtt::ProtocolVersion;

/// The declared fields, in the order in which they are written.
pub(super) struct RequestFields {
    /// Names, and the parts of their values; empty: everything that is known.
    declared: Vec<(Arc<str>, Vec<TemplatePart>)>,
}

#[derive(Debug, PartialEq, Eq)]
enum TemplatePart {
    Text(Box<str>),
    /// The value of the known field of that name, in any case.
    Field(Box<str>),
}

impl RequestFields {
    pub(super) fn new(fields: &BTreeMap<Arc<str>, Arc<str>>) -> Self {
        Self { declared: fields.iter().map(|(name, template)| (Arc::clone(name), parts(template))).collect() }
    }

    /// Whether the service gets the user name of CONNECT, where there is one: only then it may confirm it.
    pub(super) fn have_username(&self) -> bool {
        let mut parts = self.declared.iter().flat_map(|(_, parts)| parts);
        let is_username =
            |part: &TemplatePart| matches!(part, TemplatePart::Field(name) if name.eq_ignore_ascii_case("username"));
        self.declared.is_empty() || parts.any(is_username)
    }

    /// The fields of one attempt.
    pub(super) fn fill(&self, attempt: &Attempt) -> Map<String, Value> {
        let known = known(attempt);
        if self.declared.is_empty() {
            return known;
        }
        let filled = |parts: &[TemplatePart]| parts.iter().map(|part| part.fill(&known)).collect::<Option<String>>();
        let fields = self.declared.iter().filter_map(|(name, parts)| Some((name.to_string(), json!(filled(parts)?))));
        fields.collect()
    }
}

impl TemplatePart {
    /// `None`: nothing is known under that name.
    fn fill(&self, known: &Map<String, Value>) -> Option<String> {
        match self {
            Self::Text(text) => Some(text.to_string()),
            Self::Field(wanted) => {
                let (_, value) = known.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted))?;
                Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
            }
        }
    }
}

fn parts(template: &str) -> Vec<TemplatePart> {
    let mut parts = Vec::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("${") {
        let Some((name, after)) = after.split_once('}') else { break };
        parts.extend((!before.is_empty()).then(|| TemplatePart::Text(before.into())));
        parts.push(TemplatePart::Field(name.into()));
        rest = after;
    }
    parts.extend((!rest.is_empty()).then(|| TemplatePart::Text(rest.into())));
    parts
}

/// Everything that is known of a client. A password that is not UTF-8 is sent as `passwordBase64`.
fn known(attempt: &Attempt) -> Map<String, Value> {
    let protocol = match attempt.version {
        ProtocolVersion::V3_1 => "3.1",
        ProtocolVersion::V3_1_1 => "3.1.1",
        ProtocolVersion::V5 => "5.0",
    };
    let mut fields = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            fields.insert(name.to_owned(), value);
        }
    };
    put("endpoint", Some(json!(&*attempt.endpoint)));
    put("clientId", Some(json!(attempt.client_id)));
    put("username", attempt.username.as_deref().map(|username| json!(username)));
    match attempt.password.as_deref().map(|password| (password, std::str::from_utf8(password))) {
        Some((_, Ok(text))) => put("password", Some(json!(text))),
        Some((bytes, Err(_))) => put("passwordBase64", Some(json!(STANDARD.encode(bytes)))),
        None => {}
    }
    put("address", attempt.peer.map(|peer| json!(peer.ip().to_canonical().to_string())));
    put("protocol", Some(json!(protocol)));
    put("tls", Some(json!(attempt.tls)));
    let certificate = attempt.certificate.as_ref();
    put("certificateCommonName", certificate.and_then(|shown| shown.common_name.as_ref()).map(|name| json!(name)));
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_split_into_text_and_field_names() {
        let field = |name: &str| TemplatePart::Field(name.into());
        let text = |text: &str| TemplatePart::Text(text.into());
        for (template, expected) in [
            ("", vec![]),
            ("x", vec![text("x")]),
            ("${username}", vec![field("username")]),
            ("a${clientid}-${username}b", vec![text("a"), field("clientid"), text("-"), field("username"), text("b")]),
            ("$5 ${", vec![text("$5 ${")]),
        ] {
            assert_eq!(parts(template), expected, "{template}");
        }
    }
}
