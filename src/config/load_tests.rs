//! Whole snapshots in, declarations and diagnostics out.

use std::path::Path;
use std::sync::Arc;

use super::*;

fn snapshot(files: &[(&str, &str)]) -> Snapshot {
    let files = files.iter().map(|(path, text)| SourceFile {
        path: Arc::from(*path),
        shown: Arc::from(*path),
        base: Arc::from(Path::new("/etc/weir")),
        content: Ok(Arc::from(text.as_bytes())),
    });
    let revision = Revision::Content { hash: "0".into() };
    Snapshot { origin: Arc::from("test"), revision, files: files.collect() }
}

fn lines(loaded: &Loaded) -> Vec<String> {
    loaded.diagnostics.iter().map(ToString::to_string).collect()
}

fn first(files: &[(&str, &str)]) -> Loaded {
    load(&snapshot(files), &Previous::default(), &NodeContext::default())
}

fn then(loaded: &Loaded, files: &[(&str, &str)]) -> Loaded {
    load(&snapshot(files), &loaded.previous, &NodeContext::default())
}

const OPEN: &str = "enableAuth: false, enableAcl: false";

fn ports(loaded: &Loaded) -> Vec<(String, u16)> {
    let ports = loaded.declared.endpoints.iter();
    ports.map(|(name, endpoint)| (name.to_string(), endpoint.listen.port().unwrap_or_default())).collect()
}

#[test]
fn scratch() {
    let l = first(&[
        (
            "a.yaml",
            "endpoint:\n  port: 70000\n  hots: 1\n  sslConfig: {clientAuth: required}\n  maxConnectionSize: '5'\n  messageMaxSize: 4MB\n---\nendpoint:\n  port: 1\n",
        ),
        (
            "b/c.yaml",
            "endpoint: {port: 8080}\n---\nendpoint: {name: x, port: 1883, auth: defualt, host: 127.0.0.1}\n---\nauth: {name: default, chain: [{anonymous: {}}]}\n---\nacl: {name: default, rules: [{permission: allow}, {permission: deny, topics: ['a/#/b']}]}\n",
        ),
        ("t.yaml", "endpoint:\n\tport: 1"),
        ("d.yaml", "endpoint:\n  port: 1\n  port: 2\n  a: &x 1\n  b: *x\n  <<: {}\n  c: !foo 1"),
    ]);
    for line in lines(&l) {
        eprintln!("{line}");
    }
    for (i, r) in &l.refusals {
        eprintln!("{i}: {r:?}");
    }
    eprintln!("{}", canonical_yaml(&canonical(&l.declared, BuiltInDefaults::WrittenOut)));
    let _ = (then(&l, &[]), ports(&l), OPEN);
}
