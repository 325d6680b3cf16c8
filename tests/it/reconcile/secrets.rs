//! The author of a document reads no file and no variable that the broker was not told to give, and what the
//! broker shows of documents has no secrets.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::broker::{Broker, endpoint};
use crate::support::ports;
use crate::support::weir;

#[test]
fn a_file_outside_of_the_allowed_directories_and_the_brokers_own_are_not_read() {
    let elsewhere = tempfile::tempdir().unwrap();
    let own = elsewhere.path().join("status.token");
    fs::write(elsewhere.path().join("other.key"), "the key of another program").unwrap();
    fs::write(&own, "correct-horse-battery-staple").unwrap();
    let ports = [ports::free(), ports::free()];
    let tls = |file: &str| format!(", sslConfig: {{certFile: server.pem, keyFile: '{file}'}}");
    let outside = tls(&elsewhere.path().join("other.key").display().to_string());
    let documents = [
        ("outside.yaml", endpoint("outside", ports[0], &outside)),
        ("linked.yaml", endpoint("linked", ports[1], &tls("link.key"))),
    ];
    let documents: Vec<(&str, &str)> = documents.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let prepare = |directory: &std::path::Path| {
        fs::write(directory.join("server.pem"), "no matter").unwrap();
        std::os::unix::fs::symlink(&own, directory.join("link.key")).unwrap();
    };
    let mut broker = Broker::start_prepared(&documents, prepare, &[]);
    for name in ["outside", "linked"] {
        let refused = broker.until_condition(name, "ResolvedRefs", false, "BadFile");
        assert!(refused.message.contains("--allow-files"), "{}", refused.message);
    }
    // Allowed by the flag, but for what is the broker's own.
    let allowed = elsewhere.path().display().to_string();
    let token = format!("file:{}", own.display());
    broker.restart(&["--allow-files", &allowed, "--status-bearer-token", &token]);
    broker.until("the file is read, and is no key", || broker.log().contains("other.key: "));
    broker.until("the token is refused", || broker.log().contains("link.key: it is the broker's own"));
}

#[test]
fn a_variable_is_read_only_with_the_prefix_or_where_it_is_declared() {
    let documents = |variable: &str| {
        format!(
            "{}---\nauth: {{name: a, chain: [{{http: {{url: 'http://127.0.0.1:9/', headers: {{x: 'env:{variable}'}}}}}}]}}\n",
            endpoint("e", ports::free(), ", auth: a").replace("enableAuth: false", "enableAuth: true")
        )
    };
    let broker = Broker::start(&[("e.yaml", &documents("HOME"))]);
    let refused = broker.until_condition("e", "ResolvedRefs", false, "BadFile");
    assert!(refused.message.contains("--allow-env HOME"), "{}", refused.message);
    let allowed = Broker::start_with(&[("e.yaml", &documents("HOME"))], &["--allow-env", "HOME"]);
    allowed.until_listening("e");
}

#[test]
fn urls_and_headers_are_masked_in_what_a_broker_shows_and_plans_compare_all_the_same() {
    let auth =
        "auth: {name: a, chain: [{http: {url: 'http://127.0.0.1:9/?key=hunter2', headers: {x-key: hunter2}}}]}\n";
    let text = format!(
        "{}---\n{auth}",
        endpoint("e", ports::free(), ", auth: a").replace("enableAuth: false", "enableAuth: true")
    );
    let broker = Broker::start(&[("e.yaml", &text)]);
    broker.until_listening("e");
    let declared = broker.get("/api/declared").to_string();
    assert!(!declared.contains("hunter2") && declared.contains("http://127.0.0.1:9/?***"), "{declared}");
    let export = broker.get("/api/endpoints/export").to_string();
    assert!(!export.contains("hunter2") && export.contains("\"x-key\":\"***\""), "{export}");
    let against = format!("http://{}", broker.status());
    let mut plan = weir::command();
    plan.args(["plan", "--detailed-exitcode", "--against", &against]).arg(broker.endpoints());
    let plan = plan.output().unwrap();
    assert_eq!(plan.status.code(), Some(0), "{}", String::from_utf8_lossy(&plan.stdout));
    let report = broker.endpoints().parent().unwrap().join("report.tar");
    let made = weir::command().args(["report", "--status", &against, "--output"]).arg(&report).output().unwrap();
    assert!(report.exists(), "{}", String::from_utf8_lossy(&made.stderr));
    assert!(!String::from_utf8_lossy(&fs::read(&report).unwrap()).contains("hunter2"));
}

#[test]
fn the_data_directory_and_its_files_are_for_the_brokers_user_only() {
    let mut broker = Broker::start(&[("e.yaml", &endpoint("e", ports::free(), ", durability: disk"))]);
    broker.until_listening("e");
    let history = broker.data().join("history.jsonl");
    broker.until("there is a history", || history.exists());
    fs::set_permissions(&history, fs::Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(broker.data(), fs::Permissions::from_mode(0o755)).unwrap();
    broker.restart(&[]);
    broker.until_listening("e");
    let mut paths = vec![broker.data()];
    while let Some(path) = paths.pop() {
        let meta = fs::metadata(&path).unwrap();
        assert_eq!(meta.permissions().mode() & 0o077, 0, "{}", path.display());
        if meta.is_dir() {
            paths.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
}
