//! weir-endpoints(5): the documents and their fields, from the schema.

use clap_mangen::roff::{Roff, bold, italic, roman};
use serde_json::Value;

use super::schema::{DEPTH_MAX, class, default_of, deref, description, fields, range, required};
use weir_declare::config::schema;

/// The whole page.
pub(super) fn page() -> String {
    let mut roff = Roff::new();
    let version = format!("weir {}", env!("CARGO_PKG_VERSION"));
    roff.control("TH", ["weir-endpoints", "5", "", version.as_str(), "Weir"]);
    roff.control("SH", ["NAME"]);
    roff.text([roman(
        "weir-endpoints - the documents that declare endpoints, authentication, access lists and bridges",
    )]);
    roff.control("SH", ["DESCRIPTION"]);
    roff.text([roman(
        "A file has one or more YAML or JSON documents, separated by a line with three hyphens. Each document has one key, its kind, \
         and may have apiVersion: weir/v1. Unknown fields are errors. The name of a document defaults to the path of its file \
         without the extension.",
    )]);
    roff.control("PP", []);
    roff.text([roman(
        "The class of a field is the effect of a change on connected clients: cosmetic has none; live applies at once; new-connections \
         applies to connections from then on; drain closes the connections that the new declaration does not admit; rebind binds \
         a new socket and closes all connections of the former one.",
    )]);
    for (kind, body) in fields(schema()).filter(|(kind, _)| *kind != "apiVersion") {
        let body = deref(body);
        roff.control("SH", [kind.to_uppercase().as_str()]);
        roff.text([roman(description(body))]);
        rows(&mut roff, "", body, 0);
    }
    roff.control("SH", ["EXAMPLES"]);
    roff.control("EX", []);
    roff.text([roman(
        "endpoint:\n  port: 8883\n  maxConnectionSize: 5000\n  sslConfig: {certFile: server.pem, keyFile: server.key}\n  \
         auth: devices\n---\nauth:\n  name: devices\n  chain:\n    - password: {file: devices.passwd}",
    )]);
    roff.control("EE", []);
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman("weir(1), weir-validate(1), weir-plan(1)")]);
    roff.render()
}

fn rows(roff: &mut Roff, prefix: &str, parent: &Value, depth: usize) {
    for (name, field) in fields(parent) {
        let path = format!("{prefix}{name}");
        let mut facts = vec![range(field)];
        facts.extend(default_of(field).map(|default| format!("default {default}")));
        facts.extend(required(parent, name).then(|| "required".to_owned()));
        facts.extend(Some(class(field)).filter(|class| !class.is_empty()));
        facts.retain(|fact| !fact.is_empty());
        roff.control("TP", []);
        roff.text([bold(path.as_str()), roman(" "), italic(facts.join("; ").replace('`', ""))]);
        roff.text([roman(description(field))]);
        if depth < DEPTH_MAX {
            rows(roff, &format!("{path}."), deref(field), depth + 1);
            rows(roff, &format!("{path}[]."), deref(&deref(field)["items"]), depth + 1);
        }
    }
}
