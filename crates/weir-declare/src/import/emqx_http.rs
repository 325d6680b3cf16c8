//! EMQX's authentication by a service.

use serde_json::{Map, Value, json};

use super::draft::{Draft, DraftDocument};
use super::settings::{Limit, Settings};

/// EMQX's placeholders, and Weir's.
const PLACEHOLDERS: &[(&str, &str)] = &[
    ("${username}", "${username}"),
    ("${clientid}", "${clientid}"),
    ("${password}", "${password}"),
    ("${peerhost}", "${address}"),
    ("${cert_common_name}", "${certificatecommonname}"),
    ("%u", "${username}"),
    ("%c", "${clientid}"),
    ("%P", "${password}"),
    ("%a", "${address}"),
    ("%C", "${certificatecommonname}"),
];

/// Settings without a counterpart.
const NO_COUNTERPART: &[(&str, &str)] = &[
    ("certfile", "the service is asked without a client certificate"),
    ("ciphers", "rustls offers secure suites only"),
    ("depth", "certificate chains have a fixed bound"),
    ("keyfile", "the service is asked without a client certificate"),
    ("password", "the service is asked without a client certificate"),
    ("server_name_indication", "the certificate must be that of the URL's host"),
    ("verify", "certificates are always verified"),
    ("versions", "TLS 1.2 and 1.3 are supported"),
];

/// Headers whose values are secrets: references in Weir.
const SECRET_HEADERS: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "x-api-key"];

/// An `http` authenticator.
///
/// # Errors
/// Why it cannot be imported.
pub(super) fn http(each: &mut Settings, document: &mut DraftDocument, draft: &mut Draft) -> Result<Value, String> {
    let url = each.text("url").ok_or("it names no url")?;
    let method = each.text("method").unwrap_or_else(|| "post".to_owned()).to_uppercase();
    let mut ours = Map::new();
    let mut fields = Map::new();
    let (url, query) = url.split_once('?').unwrap_or((&url, ""));
    if url.contains("${") {
        return Err("its url has placeholders in the path; Weir has them in `fields`".to_owned());
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        field(key, value, &mut fields, each, document);
    }
    let mut body = each.section("body");
    for key in body.keys() {
        if let Some(value) = body.text(&key) {
            field(&key, &value, &mut fields, each, document);
        }
    }
    body.finish(&[], draft);
    ours.insert("url".into(), url.into());
    ours.insert("method".into(), method.into());
    headers(each, &mut ours, document, draft);
    if !fields.is_empty() {
        ours.insert("fields".into(), Value::Object(fields));
    }
    let mut tls = each.section("ssl");
    let enabled = tls.flag("enable") != Some(false);
    match tls.text("cacertfile").filter(|_| enabled) {
        Some(ca) => drop(ours.insert("caFile".into(), ca.into())),
        None if url.starts_with("https:") => {
            ours.insert("caFile".into(), "service-ca.pem".into());
            document.add_decision("caFile: the authority of the service's certificate");
        }
        None => {}
    }
    tls.finish(NO_COUNTERPART, draft);
    each.millis("connect_timeout");
    if let Some(Limit::Of(millis)) = each.millis("request_timeout") {
        ours.insert("timeoutMs".into(), millis.into());
    }
    document
        .add_decision("the service's answer 204 means ignore to Weir, allow to EMQX; 200 with a result is the same");
    Ok(json!({ "http": ours }))
}

fn field(key: &str, value: &str, fields: &mut Map<String, Value>, each: &mut Settings, document: &mut DraftDocument) {
    let mut ours = value.to_owned();
    for (theirs, name) in PLACEHOLDERS {
        ours = ours.replace(theirs, name);
    }
    let unknown = ours.split("${").skip(1).filter_map(|rest| rest.split('}').next()).find(|name| {
        !PLACEHOLDERS.iter().any(|(_, ours)| ours.trim_start_matches("${").trim_end_matches('}') == *name)
    });
    match unknown {
        Some(name) => {
            each.refuse(None, &format!("body.{key}"), format!("Weir has no value for ${{{name}}}"));
            document.add_decision(format!("the request has no field {key}: {value}"));
        }
        None => drop(fields.insert(key.to_owned(), ours.into())),
    }
}

fn headers(each: &mut Settings, ours: &mut Map<String, Value>, document: &mut DraftDocument, draft: &mut Draft) {
    let mut section = each.section("headers");
    let mut headers = Map::new();
    for name in section.keys() {
        let Some(value) = section.text(&name) else { continue };
        // What Weir sends itself.
        if ["content-type", "accept", "connection", "keep-alive", "cache-control"]
            .contains(&name.to_lowercase().as_str())
        {
            continue;
        }
        if SECRET_HEADERS.contains(&name.to_lowercase().as_str()) {
            let file = format!("file:{}.secret", name.to_lowercase());
            document.add_decision(format!(
                "write the value of the header {name} into {}",
                file.trim_start_matches("file:")
            ));
            headers.insert(name, file.into());
        } else {
            headers.insert(name, value.into());
        }
    }
    section.finish(&[], draft);
    if !headers.is_empty() {
        ours.insert("headers".into(), Value::Object(headers));
    }
}
