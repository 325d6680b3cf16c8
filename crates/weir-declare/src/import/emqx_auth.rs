//! EMQX's `authentication` and `authorization`.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::acl_conf;
use super::draft::{Draft, DraftDocument};
use super::mosquitto_conf::beside;
use super::settings::Settings;
use super::{ImportFiles, emqx_http::http};
use crate::config::Kind;

/// Which clients may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Authenticated {
    /// EMQX has no authentication: it admits every client.
    Everyone,
    /// As an `auth` document demands.
    ByChain,
    /// By authenticators that cannot be imported.
    Unknown,
}

impl Authenticated {
    pub(super) fn apply(self, document: &mut DraftDocument) {
        match self {
            Self::ByChain => {}
            Self::Everyone => {
                document.set("enableAuth", false);
                document.add_decision(
                    "enableAuth: false, because the file has no authentication, and EMQX admits every client then; what \
                     was set up in the dashboard is in data/configs/cluster.hocon",
                );
            }
            Self::Unknown => {
                document.set("enabled", false);
                document.add_decision(
                    "enabled: false, because no authenticator could be imported: add one in an `auth` document",
                );
            }
        }
    }
}

/// What clients may publish and subscribe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Authorized {
    /// Everything.
    Everything,
    /// As the `acl` document `default` says.
    ByRules,
}

impl Authorized {
    pub(super) fn apply(self, document: &mut DraftDocument) {
        if self == Self::Everything {
            document.set("enableAcl", false);
        }
    }
}

/// Settings of authenticators without a counterpart.
const AUTHENTICATOR: &[(&str, &str)] = &[
    ("bootstrap_file", "write the users with `weir passwd`"),
    ("bootstrap_type", "write the users with `weir passwd`"),
    ("disconnect_after_expire", "a connection ends when its token does"),
    ("enable_pipelining", "connections to the service are kept"),
    ("iteration_count", "`weir passwd --scram` has its own"),
    ("password_hash_algorithm", "passwords are hashed with Argon2id"),
    ("pool_size", "see `maxConcurrent`"),
    ("precondition", "an authenticator is asked for all clients that it does not pass"),
    ("refresh_interval", "the file is reloaded when it changes"),
    ("secret_base64_encoded", "the file has the secret itself"),
    ("ssl", "the set of keys is a file"),
    ("pool_type", "connections to the service are kept"),
];

/// Takes `authentication` and declares it as the `auth` document `name`.
pub(super) fn import_authentication(section: &mut Settings, name: &str, draft: &mut Draft) -> Authenticated {
    let mut document = DraftDocument::new(Kind::Auth, name);
    let mut chain: Vec<Value> = Vec::new();
    let mut any = false;
    for mut each in section.sections("authentication") {
        if each.flag("enable") == Some(false) {
            let keys = each.keys();
            keys.iter().for_each(|key| each.omit(key, "the authenticator is not enabled"));
            each.finish(&[], draft);
            continue;
        }
        any = true;
        let (mechanism, backend) = (each.text("mechanism"), each.text("backend"));
        let item = match (mechanism.as_deref(), backend.as_deref()) {
            (Some("password_based"), Some("built_in_database")) => Ok(password_file(&mut each, name, &mut document)),
            (Some("password_based"), Some("http")) => http(&mut each, &mut document, draft),
            (Some("jwt"), None) => jwt(&mut each, name, &mut document, draft),
            (Some("scram"), Some("built_in_database")) => {
                each.text("algorithm");
                document.add_decision(format!(
                    "write the users into {name}.scram with `weir passwd --scram`; EMQX keeps them in its database"
                ));
                Ok(json!({ "scram": { "file": format!("{name}.scram") } }))
            }
            (Some(mechanism), backend) => {
                let backend = backend.map(|backend| format!(" with {backend}")).unwrap_or_default();
                Err(format!("{mechanism}{backend} is not offered; ask a service through `http`"))
            }
            (None, _) => Err("it names no mechanism".to_owned()),
        };
        match item {
            Ok(item) => chain.push(item),
            Err(why) => {
                document.add_decision(format!("an authenticator is missing here: {}: {why}", each.path_of("")));
                let keys = each.keys();
                each.refuse(None, "", &why);
                keys.iter().for_each(|key| each.omit(key, "its authenticator is left out"));
            }
        }
        each.finish(AUTHENTICATOR, draft);
    }
    if !any {
        return Authenticated::Everyone;
    }
    if chain.is_empty() {
        return Authenticated::Unknown;
    }
    document.set("chain", chain);
    draft.add(document);
    Authenticated::ByChain
}

fn password_file(each: &mut Settings, name: &str, document: &mut DraftDocument) -> Value {
    document.add_decision(format!(
        "write the users into {name}.passwd with `weir passwd`; EMQX keeps them in its database, with hashes of another form"
    ));
    if each.text("user_id_type").as_deref() == Some("clientid") {
        document.add_decision("user_id_type: EMQX finds users by client id, Weir by username");
    }
    json!({ "passwordFile": { "file": format!("{name}.passwd") } })
}

fn jwt(each: &mut Settings, name: &str, document: &mut DraftDocument, draft: &mut Draft) -> Result<Value, String> {
    if each.text("from").is_some_and(|from| from != "password") {
        return Err("Weir reads the token from the password".to_owned());
    }
    let mut ours = Map::new();
    let uses_jwks = each.flag("use_jwks") == Some(true);
    let algorithm = each.text("algorithm");
    match (uses_jwks, algorithm.as_deref()) {
        (true, _) => {
            let endpoint = each.text("endpoint").unwrap_or_default();
            ours.insert("algorithm".into(), "RS256".into());
            ours.insert("jwksFile".into(), format!("{name}.jwks.json").into());
            document.add_decision(format!(
                "algorithm: that of your tokens; fetch {endpoint} into {name}.jwks.json regularly: Weir reads a file"
            ));
        }
        (false, Some("public-key")) => {
            ours.insert("algorithm".into(), "RS256".into());
            document.add_decision("algorithm: that of your tokens (RS256, ES256, ...); EMQX does not name it");
            let key = each.text("public_key").unwrap_or_default();
            let is_path = !key.is_empty() && !key.contains("BEGIN");
            ours.insert("keyFile".into(), if is_path { key } else { format!("{name}.pem") }.into());
            if !is_path {
                document.add_decision(format!("write the public key into {name}.pem"));
            }
        }
        (false, _) => {
            ours.insert("algorithm".into(), "HS256".into());
            ours.insert("keyFile".into(), format!("{name}.secret").into());
            each.text("secret");
            document.add_decision(format!(
                "algorithm: that of your tokens (HS256, HS384, HS512); write the secret into {name}.secret: declarations \
                 never contain it"
            ));
        }
    }
    if let Some(claim) = each.text("acl_claim_name") {
        ours.insert("aclClaim".into(), claim.into());
        document.add_decision("aclClaim: the rules of a token have another form here: see docs/authentication.md");
    }
    claims(each, &mut ours, document, draft);
    Ok(json!({ "jwt": ours }))
}

/// `verify_claims {username = "${username}"}`.
fn claims(each: &mut Settings, ours: &mut Map<String, Value>, document: &mut DraftDocument, draft: &mut Draft) {
    let mut claims = each.section("verify_claims");
    let mut required = Map::new();
    for claim in claims.keys() {
        let line = claims.line_of(&claim);
        match claims.text(&claim).as_deref() {
            Some("${username}" | "%u") => {
                ours.insert("usernameClaim".into(), claim.into());
                document.add_note(
                    "usernameClaim: the claim becomes the username; EMQX compares it with the CONNECT packet's",
                );
            }
            Some("${clientid}" | "%c") => drop(ours.insert("clientIdClaim".into(), claim.into())),
            Some(value) if value.contains("${") => {
                claims.refuse(line, &claim, "a claim is compared with the username, the client id, or a fixed value");
                document.add_decision(format!("the claim {claim} is not compared with {value}"));
            }
            Some(value) => drop(required.insert(claim, value.into())),
            None => {}
        }
    }
    claims.finish(&[], draft);
    if !required.is_empty() {
        ours.insert("requiredClaims".into(), Value::Object(required));
    }
}

/// Takes `authorization` and declares it as the `acl` document `default`.
pub(super) fn import_authorization(
    root: &mut Settings,
    file: &Path,
    files: &dyn ImportFiles,
    draft: &mut Draft,
) -> Authorized {
    const REASONS: &[(&str, &str)] = &[
        ("cache", "the rules are in memory"),
        ("node_cache", "the rules are in memory"),
        ("include_mountpoint", "rules see topics without the mountpoint"),
    ];
    let is_set = root.has("authorization");
    let mut authorization = root.section("authorization");
    let no_match = authorization.text("no_match").unwrap_or_else(|| "allow".to_owned());
    if authorization.text("deny_action").is_some_and(|action| action == "disconnect") {
        authorization.refuse(None, "deny_action", "a refused publish is dropped, and answered with 0x87 in MQTT 5");
    }
    let mut document = DraftDocument::new(Kind::Acl, "default");
    let mut rules = Vec::new();
    let mut skipped = false;
    let has_sources = authorization.has("sources");
    for mut source in authorization.sections("sources") {
        let kind = source.text("type").unwrap_or_default();
        let path_line = source.line_of("path");
        match (source.flag("enable") != Some(false), kind.as_str()) {
            (false, _) => {
                let keys = source.keys();
                keys.iter().for_each(|key| source.omit(key, "the source is not enabled"));
            }
            (true, "file") => {
                let path = source.text("path").unwrap_or_else(|| "${EMQX_ETC_DIR}/acl.conf".to_owned());
                if let Err(why) = read_rules(&path, (file, files), &mut rules, &mut document, draft) {
                    source.refuse(path_line, "path", why);
                    document.add_decision(format!("the rules of {path} are missing here"));
                }
            }
            (true, kind) => {
                skipped = true;
                let keys = source.keys();
                source.refuse(None, "", format!("rules are in `acl` documents or in a token; {kind} is not asked"));
                keys.iter().for_each(|key| source.omit(key, "its source is left out"));
                document.add_decision(format!("the rules of source {kind} are missing here"));
            }
        }
        source.finish(&[], draft);
    }
    authorization.finish(REASONS, draft);
    if !has_sources {
        // EMQX's default source.
        let path = "${EMQX_ETC_DIR}/acl.conf";
        if let Err(why) = read_rules(path, (file, files), &mut rules, &mut document, draft) {
            document.add_decision(format!("EMQX reads {path} by default, and it is not here: {why}"));
        }
    }
    if rules.is_empty() && no_match == "allow" && is_set && has_sources && !skipped {
        return Authorized::Everything;
    }
    document.set("noMatch", no_match);
    document.set("rules", rules);
    draft.add(document);
    Authorized::ByRules
}

/// The rules of an `acl.conf`: beside the configuration, or where `path` says.
fn read_rules(
    path: &str,
    (file, files): (&Path, &dyn ImportFiles),
    rules: &mut Vec<Value>,
    document: &mut DraftDocument,
    draft: &mut Draft,
) -> Result<(), String> {
    let name = Path::new(path).file_name().unwrap_or_default();
    let candidates: Vec<PathBuf> = [path, &name.to_string_lossy()].iter().map(|path| beside(file, path)).collect();
    let mut outcome = Err(String::new());
    for candidate in &candidates {
        match files.read(candidate) {
            Err(error) => outcome = Err(format!("{}: {error}", candidate.display())),
            Ok(text) => {
                let found = acl_conf::rules(&text, Some(candidate), document, draft);
                rules.extend(found.map_err(|error| format!("{}: {error}", candidate.display()))?);
                return Ok(());
            }
        }
    }
    outcome
}
