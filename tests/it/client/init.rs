//! `weir init`

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use super::{shown, weir};
use crate::programs::run;
use crate::support::ports;
use crate::support::weir::{PROGRAM, Weir};

fn init(directory: &Path, words: &str) -> Output {
    run(weir("init").args(words.split_whitespace()).current_dir(directory))
}

#[test]
fn the_starter_is_valid_serves_the_printed_user_and_refuses_others() {
    let place = tempfile::tempdir().unwrap();
    let output = init(place.path(), "");
    assert!(output.status.success(), "{}", shown(&output));
    let written = place.path().join("endpoints.d");
    let secret = fs::metadata(written.join("users.passwd")).unwrap().permissions().mode() & 0o777;
    assert_eq!(secret, 0o600);
    assert!(place.path().join(".github/workflows/weir.yaml").is_file());
    let validate = || run(weir("validate --strict endpoints.d").current_dir(place.path()));
    assert!(validate().status.success(), "{}", shown(&validate()));

    let port = ports::free();
    let mut broker = Weir::new();
    for name in ["mqtt.yaml", "auth.yaml", "acl.yaml", "users.passwd"] {
        let text = fs::read_to_string(written.join(name)).unwrap();
        broker.write(name, &text.replace("port: 1883", &format!("port: {port}")));
    }
    broker.run_until_accepting(&[([127, 0, 0, 1], port).into()]);
    // The printed commands, with the port of this test; a subscriber ends after a message.
    let text = String::from_utf8(output.stdout).unwrap().replace(":1883", &format!(":{port}"));
    let line = |start: &str| text.lines().find_map(|line| line.strip_prefix("  ").filter(|l| l.starts_with(start)));
    let [export, publish, subscribe] = ["export WEIR_URL=", "weir pub ", "weir sub "].map(|s| line(s).unwrap());
    let shell = |script: &str| {
        let path = format!("{}:/usr/bin:/bin", Path::new(PROGRAM).parent().unwrap().display());
        run(Command::new("sh").args(["-euc", script]).env_clear().env("PATH", path))
    };
    let good = shell(&format!("{export}\n{publish} -r\n{subscribe} -C 1 -W 100"));
    assert_eq!(String::from_utf8_lossy(&good.stdout), "hello/world it works\n", "{}", shown(&good));
    let refused = shell(&format!("{publish} --url mqtt://127.0.0.1:{port}"));
    assert_eq!(refused.status.code(), Some(1));
    assert!(shown(&refused).contains("the broker refused the connection: "), "{}", shown(&refused));

    // Where git has left the passwords out, the documents are valid all the same.
    fs::remove_file(written.join("users.passwd")).unwrap();
    assert!(validate().status.success(), "{}", shown(&validate()));
}

#[test]
fn nothing_is_overwritten() {
    let place = tempfile::tempdir().unwrap();
    assert!(init(place.path(), "conf").status.success());
    let before = fs::read_to_string(place.path().join("conf/users.passwd")).unwrap();
    let output = init(place.path(), "conf");
    assert_eq!(output.status.code(), Some(1));
    for name in ["conf/mqtt.yaml", "conf/users.passwd", ".github/workflows/weir.yaml"] {
        assert!(shown(&output).contains(name), "{}", shown(&output));
    }
    assert_eq!(fs::read_to_string(place.path().join("conf/users.passwd")).unwrap(), before);

    // Documents of the user would be served beside the starter's.
    fs::create_dir(place.path().join("mine")).unwrap();
    fs::write(place.path().join("mine/lab.yml"), "").unwrap();
    let output = init(place.path(), "mine --no-workflow");
    assert_eq!(output.status.code(), Some(1));
    assert!(shown(&output).contains("mine/lab.yml is there already"), "{}", shown(&output));
    assert_eq!(fs::read_dir(place.path().join("mine")).unwrap().count(), 1);
}

#[test]
fn the_workflow_goes_to_the_top_of_the_repository() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir_all(place.path().join("repository/.git")).unwrap();
    fs::create_dir_all(place.path().join("plain")).unwrap();
    for (work, words, workflow, names) in [
        ("repository", "site/endpoints.d", "repository/.github/workflows/weir.yaml", "\"site/endpoints.d/**\""),
        ("plain", ".", "plain/.github/workflows/weir.yaml", "\"**\""),
        ("plain", "../elsewhere", "elsewhere/.github/workflows/weir.yaml", "\"**\""),
    ] {
        let output = init(&place.path().join(work), words);
        assert!(output.status.success(), "{words}: {}", shown(&output));
        let text = fs::read_to_string(place.path().join(workflow)).unwrap();
        assert!(text.contains(names) && !text.contains("PATTERN") && !text.contains("DIRECTORY"), "{text}");
        serde_yaml::from_str::<serde_json::Value>(&text).unwrap();
    }
}
