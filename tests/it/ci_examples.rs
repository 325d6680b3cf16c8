//! The pipelines of `examples/ci`, run: on a good change, on an invalid one, and on one with an outdated golden file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::weir;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn example(name: &str) -> Value {
    let text = fs::read_to_string(root().join("examples/ci").join(name)).unwrap();
    serde_yaml::from_str(&text).unwrap()
}

/// Runs a script as the pipelines' shells do; steps share the directory and the environment.
fn sh(place: &Path, script: &str) -> Output {
    let bin = Path::new(weir::PROGRAM).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let git = ["AUTHOR", "COMMITTER"]
        .map(|who| [("NAME", "ci"), ("EMAIL", "ci@example.com")].map(|(k, v)| (format!("GIT_{who}_{k}"), v)));
    Command::new("bash")
        .args(["-euo", "pipefail", "-c", script])
        .current_dir(place)
        .env("PATH", path)
        .envs(git.into_iter().flatten())
        .envs([("GITHUB_BASE_REF", "main"), ("CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "main")])
        .env("GITHUB_STEP_SUMMARY", place.join("summary.md"))
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A repository with the examples' declarations on `main`, and a branch of it checked out.
fn repository() -> (TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let work = place.path().join("work");
    fs::create_dir_all(work.join("golden")).unwrap();
    let script = format!(
        "cp -r {}/examples/endpoints.d endpoints.d && weir render endpoints.d > golden/endpoints.yaml
         git init -q -b main . && git add -A && git commit -qm one
         git clone -q --bare . ../origin && git remote add origin ../origin && git fetch -q origin
         git checkout -q -b change",
        root().display()
    );
    let made = sh(&work, &script);
    assert!(made.status.success(), "{}", text(&made));
    (place, work)
}

const GOOD: &str = "sed -i 's/1884/1885/' endpoints.d/lab.yaml; weir render endpoints.d > golden/endpoints.yaml";
const BAD: &str = "sed -i 's/1884/70000/' endpoints.d/lab.yaml";
const FORGOTTEN: &str = "sed -i 's/1884/1885/' endpoints.d/lab.yaml";

/// The commands of a workflow's steps that have these names.
fn steps(workflow: &Value, names: &[&str]) -> Vec<String> {
    let all = workflow["jobs"]["endpoints"]["steps"].as_array().unwrap();
    let step =
        |name: &&str| all.iter().find(|step| step["name"] == **name).unwrap()["run"].as_str().unwrap().to_owned();
    names.iter().map(step).collect()
}

#[test]
fn the_github_workflow() {
    let steps = steps(&example("github-workflow.yaml"), &["Validate", "Golden file", "Plan"]);
    let run = |change: &str| {
        let (_place, work) = repository();
        assert!(sh(&work, change).status.success());
        let outputs: Vec<Output> = steps.iter().map(|step| sh(&work, step)).collect();
        let plan = fs::read_to_string(work.join("summary.md")).unwrap_or_default();
        let succeeded: Vec<bool> = outputs.iter().map(|output| output.status.success()).collect();
        (succeeded, outputs.iter().map(text).collect::<String>(), plan)
    };
    let (succeeded, shown, plan) = run(GOOD);
    assert_eq!(succeeded, [true; 3], "{shown}");
    assert!(plan.contains("lab") && plan.contains("1885"), "{plan}");
    let (succeeded, shown, _) = run(BAD);
    assert_eq!(succeeded, [false; 3], "{shown}");
    assert!(shown.contains("::error file=endpoints.d/lab.yaml,line=4,col=9,"), "{shown}");
    let (succeeded, shown, _) = run(FORGOTTEN);
    assert_eq!(succeeded, [true, false, true], "{shown}");
    assert!(shown.contains("+  port: 1885"), "{shown}");
}

#[test]
fn the_gitlab_job() {
    let job = example("gitlab-ci.yaml");
    let script: Vec<&str> =
        job["endpoints"]["script"].as_array().unwrap().iter().map(|l| l.as_str().unwrap()).collect();
    for (change, succeeds, shows) in
        [(GOOD, true, "1885"), (BAD, false, "70000 is more than 65535"), (FORGOTTEN, false, "+  port: 1885")]
    {
        let (_place, work) = repository();
        assert!(sh(&work, change).status.success());
        let output = sh(&work, &script.join("\n"));
        assert_eq!(output.status.success(), succeeds, "{}", text(&output));
        assert!(text(&output).contains(shows), "{}", text(&output));
        let report = fs::read_to_string(work.join("validate.xml")).unwrap();
        assert_eq!(report.contains("<failure"), change == BAD, "{report}");
    }
}

#[test]
fn the_pre_commit_hooks() {
    let config = example("pre-commit-config.yaml");
    let hooks = config["repos"][0]["hooks"].as_array().unwrap();
    for (change, validates, changes) in [(GOOD, true, false), (BAD, false, false), (FORGOTTEN, true, true)] {
        let (_place, work) = repository();
        assert!(sh(&work, &format!("{change}\ngit add -A")).status.success());
        let outputs: Vec<Output> = hooks.iter().map(|hook| sh(&work, hook["entry"].as_str().unwrap())).collect();
        let shown = outputs.iter().map(text).collect::<String>();
        assert_eq!(outputs.first().map(|output| output.status.success()), Some(validates), "{shown}");
        // pre-commit fails where a hook has changed a file.
        if validates {
            assert_eq!(!sh(&work, "git diff --exit-code").status.success(), changes, "{shown}");
        }
    }
}

/// The files are what their services read, as the services' own schemas have it.
#[test]
fn the_services_schemas_accept_them() {
    let program = root().join("target/test-tools/venv/bin/check-jsonschema");
    if !crate::programs::is_there(&program) {
        return;
    }
    for (schema, file) in [("vendor.github-workflows", "github-workflow.yaml"), ("vendor.gitlab-ci", "gitlab-ci.yaml")]
    {
        let file = root().join("examples/ci").join(file);
        let mut command = Command::new(&program);
        let output =
            command.args(["--builtin-schema", schema, "--data-transform", "gitlab-ci"]).arg(file).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
    }
}
