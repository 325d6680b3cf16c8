//! Work trees that git changes, the commit as the revision, and a ref that is served in the work tree's stead.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use weir_declare::config::Revision;
use weirmq::source::{GitRefReader, SourceEvent, spawn_git_ref};

use super::{Follower, NO_RESYNC, contents, directory, names, read, runtime, write};

/// Runs git as Ann.
pub fn git(directory: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=Ann", "-c", "user.email=ann@example.com", "-c", "init.defaultBranch=main"])
        .args(args)
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

#[test]
fn a_checkout_of_thousands_of_files_is_never_read_half_done() {
    let tmp = tempfile::tempdir().unwrap();
    let top = tmp.path();
    git(top, &["init", "-q"]);
    for branch in ["one", "two"] {
        git(top, &["checkout", "-q", "--orphan", branch]);
        fs::remove_dir_all(top.join("endpoints")).unwrap_or_default();
        for n in 0..5000 {
            write(top.join(format!("endpoints/d{}/f{n}.yaml", n % 50)), branch);
        }
        git(top, &["add", "-A"]);
        git(top, &["commit", "-qm", branch]);
    }
    runtime().block_on(async {
        let mut follower = Follower::directory(&top.join("endpoints"));
        follower.until(|reading| reading.snapshot.files.len() == 5000).await;
        let checkout = tokio::task::spawn_blocking({
            let top = top.to_path_buf();
            move || git(&top, &["checkout", "-q", "one"])
        });
        loop {
            let SourceEvent::Read(reading) = follower.event().await else { panic!("trouble in a checkout") };
            if reading.unsettled.is_some() {
                continue;
            }
            let contents = contents(&reading);
            assert_eq!(contents.len(), 5000, "a settled reading has files missing");
            let of = |branch: &str| contents.values().filter(|text| **text == Ok(branch.to_owned())).count();
            assert!(of("one") == 5000 || of("two") == 5000, "a settled reading has a mixture");
            if of("one") == 5000 {
                break;
            }
        }
        checkout.await.unwrap();
        let id = git(top, &["rev-parse", "one"]);
        let clean = Revision::Git { commit: id, dirty: false, content: None };
        follower.source.request_resync();
        follower.until(|reading| reading.snapshot.revision == clean).await;
    });
}

#[test]
fn while_git_locks_its_index_readings_are_unsettled() {
    let (_tmp, root) = directory();
    git(&root, &["init", "-q"]);
    write(root.join("a.yaml"), "one");
    write(root.join(".git/index.lock"), "");
    runtime().block_on(async {
        let mut follower = Follower::directory(&root);
        let SourceEvent::Read(reading) = follower.event().await else { panic!("trouble") };
        assert!(reading.unsettled.is_some());
        follower.source.request_resync();
        let SourceEvent::Read(reading) = follower.event().await else { panic!("trouble") };
        assert!(reading.unsettled.is_some());
        fs::remove_file(root.join(".git/index.lock")).unwrap();
        follower.until_text("a.yaml", "one").await;
    });
}

/// `dirty`, where the revision is a commit's.
fn dirty(root: &Path, commit: &str) -> bool {
    match read(root).snapshot.revision {
        Revision::Git { commit: found, dirty, content } => {
            assert_eq!((found.as_str(), dirty), (commit, content.is_some()));
            dirty
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_revision_is_the_commit_and_shows_changed_files() {
    let tmp = tempfile::tempdir().unwrap();
    let top = tmp.path();
    let root = top.join("deploy/endpoints");
    git(top, &["init", "-q"]);
    write(root.join("a.yaml"), "a");
    write(root.join("sub/b.yaml"), "b");
    assert!(matches!(read(&root).snapshot.revision, Revision::Content { .. }), "no commit yet");
    symlink("a.yaml", root.join("link.yaml")).unwrap();
    git(top, &["add", "-A"]);
    git(top, &["commit", "-qm", "First\n\nand more"]);
    let id = git(top, &["rev-parse", "HEAD"]);
    let reading = read(&root);
    assert_eq!(reading.snapshot.revision, Revision::Git { commit: id.clone(), dirty: false, content: None });
    let commit = reading.commit.unwrap();
    assert_eq!((commit.author.as_str(), commit.subject.as_str()), ("Ann <ann@example.com>", "First"));
    // Files elsewhere, or that are not read, do not matter here.
    write(top.join("other.yaml"), "x");
    write(root.join("notes.txt"), "x");
    assert!(!dirty(&root, &id));
    write(root.join("a.yaml"), "A");
    assert!(dirty(&root, &id));
    write(root.join("a.yaml"), "a");
    assert!(!dirty(&root, &id), "the content counts, not the time");
    write(root.join("new.yaml"), "n");
    assert!(dirty(&root, &id), "a file that is not committed");
    fs::remove_file(root.join("new.yaml")).unwrap();
    fs::remove_file(root.join("sub/b.yaml")).unwrap();
    assert!(dirty(&root, &id), "a committed file that is gone");
    git(top, &["checkout", "-q", "--", "."]);
    git(top, &["pack-refs", "--all"]);
    git(top, &["gc", "-q"]);
    assert!(!dirty(&root, &id), "packed");
    let worktree = tmp.path().join("linked");
    git(top, &["worktree", "add", "-q", worktree.to_str().unwrap(), "-b", "side"]);
    assert!(!dirty(&worktree.join("deploy/endpoints"), &id), "a linked work tree");
    git(top, &["checkout", "-q", "--detach"]);
    assert!(!dirty(&root, &id), "a detached head");
}

#[test]
fn a_commit_changes_the_revision_without_changing_a_file() {
    let (_tmp, root) = directory();
    git(&root, &["init", "-q"]);
    write(root.join("a.yaml"), "one");
    git(&root, &["add", "-A"]);
    git(&root, &["commit", "-qm", "one"]);
    write(root.join("a.yaml"), "two");
    runtime().block_on(async {
        let mut follower = Follower::directory(&root);
        follower.until(|reading| matches!(reading.snapshot.revision, Revision::Git { dirty: true, .. })).await;
        git(&root, &["commit", "-qam", "two"]);
        let reading = follower.until(|r| matches!(r.snapshot.revision, Revision::Git { dirty: false, .. })).await;
        assert_eq!(reading.commit.unwrap().subject, "two");
    });
}

#[test]
fn no_program_that_a_repository_configures_is_run() {
    let (tmp, root) = directory();
    let trap = tmp.path().join("ran");
    let script = tmp.path().join("trap.sh");
    write(&script, &format!("#!/bin/sh\ntouch {}\ncat\n", trap.display()));
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    git(&root, &["init", "-q"]);
    write(root.join("a.yaml"), "one");
    git(&root, &["add", "-A"]);
    git(&root, &["commit", "-qm", "one"]);
    let script = script.to_str().unwrap();
    for key in ["core.fsmonitor", "core.pager", "core.sshCommand", "gpg.program", "filter.x.clean", "filter.x.smudge"] {
        git(&root, &["config", key, script]);
    }
    git(&root, &["config", "log.showSignature", "true"]);
    write(root.join(".git/info/attributes"), "*.yaml filter=x\n");
    for hook in ["post-checkout", "reference-transaction", "post-index-change"] {
        fs::create_dir_all(root.join(".git/hooks")).unwrap();
        fs::copy(script, root.join(".git/hooks").join(hook)).unwrap();
    }
    if trap.exists() {
        fs::remove_file(&trap).unwrap();
    }
    assert!(matches!(read(&root).snapshot.revision, Revision::Git { .. }));
    GitRefReader::new(&root, "HEAD").read(None).unwrap();
    assert!(!trap.exists(), "something was run");
}

#[test]
fn a_git_ref_serves_its_committed_files() {
    let tmp = tempfile::tempdir().unwrap();
    let top = tmp.path().join("repo");
    let root = top.join("endpoints");
    fs::create_dir(&top).unwrap();
    git(&top, &["init", "-q", "-b", "main"]);
    write(root.join("a.yaml"), "one");
    write(root.join("sub/b.yaml"), "b");
    write(root.join(".hidden.yaml"), "h");
    write(top.join("outside.yaml"), "o");
    symlink("a.yaml", root.join("link.yaml")).unwrap();
    git(&top, &["add", "-A"]);
    git(&top, &["commit", "-qm", "one"]);
    write(root.join("a.yaml"), "not committed");
    runtime().block_on(async {
        let mut follower = Follower { source: spawn_git_ref(&root, "main", NO_RESYNC) };
        let reading = follower.until(|_| true).await;
        assert_eq!(names(&reading), ["a.yaml", "link.yaml", "sub/b.yaml"]);
        assert_eq!(contents(&reading)["a.yaml"], Ok("one".to_owned()));
        assert!(contents(&reading)["link.yaml"].as_ref().unwrap_err().contains("symbolic link"));
        git(&top, &["commit", "-qam", "two"]);
        follower.until_text("a.yaml", "not committed").await;
        // Another branch checked out, without the directory, is no matter.
        git(&top, &["checkout", "-q", "--orphan", "other"]);
        git(&top, &["rm", "-rfq", "."]);
        let reading = GitRefReader::new(&root, "main").read(None).unwrap();
        assert_eq!(contents(&reading)["a.yaml"], Ok("not committed".to_owned()));
    });
    let bare = tmp.path().join("bare.git");
    git(tmp.path(), &["clone", "-q", "--bare", "repo", "bare.git"]);
    for (place, expected) in [(bare.clone(), "endpoints/a.yaml"), (bare.join("endpoints"), "a.yaml")] {
        let reading = GitRefReader::new(&place, "main").read(None).unwrap();
        assert_eq!(names(&reading)[0], expected);
    }
    for (place, revision, words) in [
        (bare.join("nowhere"), "main", "not a directory at main"),
        (bare.clone(), "no-such-branch", "no commit called"),
        (bare, "--upload-pack=x", "no commit called"),
        (tmp.path().join("x"), "main", "not in a git repository"),
    ] {
        let error = GitRefReader::new(&place, revision).read(None).unwrap_err();
        assert!(error.message.contains(words), "{error}");
    }
}
