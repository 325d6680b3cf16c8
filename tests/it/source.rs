//! The directory source on a real file system, under the changes that editors and orchestrators make.

pub mod git;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use weirmq::source::{DirectoryOptions, DirectoryReader, SourceEvent, SourceHandle, SourceReading, spawn_directory};

/// What must happen, happens within this on the slowest machine.
const GUARD: Duration = Duration::from_secs(60);
/// So long that a test that needs the periodic pass would fail: what is seen is seen by events.
const NO_RESYNC: Duration = Duration::from_secs(3600);

fn write(path: impl AsRef<Path>, text: &str) {
    fs::create_dir_all(path.as_ref().parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn read(root: &Path) -> SourceReading {
    DirectoryReader::new(root).read(None).unwrap()
}

/// Each file's path below the root, and its text or what is wrong with it.
fn contents(reading: &SourceReading) -> BTreeMap<String, Result<String, String>> {
    let of = |file: &weir_declare::config::SourceFile| match &file.content {
        Ok(bytes) => Ok(String::from_utf8_lossy(bytes).into_owned()),
        Err(error) => Err(error.message.clone()),
    };
    reading.snapshot.files.iter().map(|file| (file.path.to_string(), of(file))).collect()
}

fn names(reading: &SourceReading) -> Vec<String> {
    contents(reading).into_keys().collect()
}

/// Follows a source with a guard on everything.
struct Follower {
    source: SourceHandle,
}

impl Follower {
    fn directory(root: &Path) -> Self {
        Self::with_linked(root, &[])
    }

    /// Links may lead to `linked`, too.
    fn with_linked(root: &Path, linked: &[&Path]) -> Self {
        let linked = linked.iter().map(|path| path.to_path_buf()).collect();
        Self { source: spawn_directory(DirectoryOptions { root: root.to_path_buf(), linked, resync: NO_RESYNC }) }
    }

    async fn event(&mut self) -> SourceEvent {
        tokio::time::timeout(GUARD, self.source.events.recv()).await.expect("an event in time").expect("a source")
    }

    /// The first settled reading for which `wanted` holds; and whether a file was missing in a settled one before it.
    async fn until(&mut self, wanted: impl Fn(&SourceReading) -> bool) -> SourceReading {
        let deadline = tokio::time::Instant::now() + GUARD;
        loop {
            assert!(tokio::time::Instant::now() < deadline, "it never came to that");
            if let SourceEvent::Read(reading) = self.event().await
                && reading.unsettled.is_none()
                && wanted(&reading)
            {
                return *reading;
            }
        }
    }

    async fn until_text(&mut self, path: &str, text: &str) {
        self.until(|reading| contents(reading).get(path) == Some(&Ok(text.to_owned()))).await;
    }

    async fn until_names(&mut self, wanted: &[&str]) {
        self.until(|reading| names(reading) == wanted).await;
    }
}

fn directory() -> (TempDir, PathBuf) {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path().join("endpoints.d");
    fs::create_dir(&root).unwrap();
    (tmp, root)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

#[test]
fn every_entry_of_a_directory_is_read_or_listed_as_ignored() {
    let (_tmp, root) = directory();
    write(root.join("a.yaml"), "a: 1\n");
    write(root.join("deep/er/b.yml"), "b: 1\n");
    write(root.join("c.json"), "{}\n");
    for ignored in [".hidden.yaml", ".git/config", "d.yaml~", "e.yaml.swp", "#f.yaml#", "README.md", ".yaml"] {
        write(root.join(ignored), "x\n");
    }
    write(root.join("empty.yaml"), "");
    write(root.join("large.yaml"), &"#".repeat(300 << 10));
    fs::create_dir(root.join("dir.yaml")).unwrap();
    symlink("nowhere", root.join("dangling.yaml")).unwrap();
    symlink("loop.yaml", root.join("loop.yaml")).unwrap();
    symlink(".", root.join("self")).unwrap();
    symlink("gone", root.join("team")).unwrap();
    symlink("/dev/zero", root.join("device.yaml")).unwrap();
    symlink("/proc/self/mem", root.join("unreadable.yaml")).unwrap();
    let made = Command::new("mkfifo").arg(root.join("pipe.yaml")).status().unwrap();
    assert!(made.success());
    let reading = read(&root);
    let contents = contents(&reading);
    let good: Vec<&String> = contents.iter().filter(|(_, content)| content.is_ok()).map(|(path, _)| path).collect();
    assert_eq!(good, ["a.yaml", "c.json", "deep/er/b.yml"]);
    for (path, words) in [
        ("empty.yaml", "the file is empty"),
        ("large.yaml", "at most 262144"),
        ("dir.yaml", "a directory"),
        ("dangling.yaml", "dangling symbolic link"),
        ("loop.yaml", "back to itself"),
        ("self/", "back to a directory above"),
        ("team/", "dangling symbolic link"),
        ("device.yaml", "a device"),
        ("pipe.yaml", "a pipe"),
        ("unreadable.yaml", "leads out of the directory"),
    ] {
        let problem = contents[path].as_ref().unwrap_err();
        assert!(problem.contains(words), "{path}: {problem}");
    }
    assert_eq!(contents.len(), 13);
    assert_eq!(reading.ignored.len(), 7, "{:?}", reading.ignored);
    assert!(reading.unsettled.is_none());
}

#[test]
fn a_missing_root_is_an_error_and_not_an_empty_reading() {
    let (tmp, root) = directory();
    fs::remove_dir(&root).unwrap();
    let error = DirectoryReader::new(&root).read(None).unwrap_err();
    assert!(error.message.contains("no such file or directory"), "{error}");
    write(tmp.path().join("file"), "");
    assert!(DirectoryReader::new(&tmp.path().join("file")).read(None).unwrap_err().message.contains("not a directory"));
}

#[test]
fn the_same_content_is_the_same_allocation_and_the_same_revision() {
    let (_tmp, root) = directory();
    write(root.join("a.yaml"), "a: 1\n");
    write(root.join("b.yaml"), "b: 1\n");
    let mut reader = DirectoryReader::new(&root);
    let first = reader.read(None).unwrap();
    write(root.join("b.yaml"), "b: 2\n");
    write(root.join("a.yaml"), "a: 1\n");
    let second = reader.read(None).unwrap();
    let bytes = |reading: &SourceReading, at: usize| reading.snapshot.files[at].content.clone().unwrap();
    assert!(std::sync::Arc::ptr_eq(&bytes(&first, 0), &bytes(&second, 0)));
    assert!(!std::sync::Arc::ptr_eq(&bytes(&first, 1), &bytes(&second, 1)));
    assert_ne!(first.snapshot.revision, second.snapshot.revision);
    assert_eq!(second.snapshot.revision, read(&root).snapshot.revision);
}

#[test]
fn editors_and_scripts_are_followed() {
    let (_tmp, root) = directory();
    write(root.join("a.yaml"), "one");
    runtime().block_on(async {
        let mut follower = Follower::directory(&root);
        follower.until_text("a.yaml", "one").await;
        // Renamed over, as editors do.
        write(root.join(".a.yaml.new"), "two");
        fs::rename(root.join(".a.yaml.new"), root.join("a.yaml")).unwrap();
        follower.until_text("a.yaml", "two").await;
        // Truncated, then written: whatever is seen of the moment between is no deletion.
        let file = fs::File::create(root.join("a.yaml")).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(file);
        write(root.join("a.yaml"), "three");
        follower.until_text("a.yaml", "three").await;
        // New directories, with files in them at once.
        write(root.join("x/y/z/b.yaml"), "b");
        follower.until_names(&["a.yaml", "x/y/z/b.yaml"]).await;
        write(root.join("x/y/z/c.yaml"), "c");
        follower.until_names(&["a.yaml", "x/y/z/b.yaml", "x/y/z/c.yaml"]).await;
        // A directory moved away and one moved in.
        fs::rename(root.join("x"), root.join("w")).unwrap();
        follower.until_names(&["a.yaml", "w/y/z/b.yaml", "w/y/z/c.yaml"]).await;
        write(root.join("w/y/z/b.yaml"), "b2");
        follower.until_text("w/y/z/b.yaml", "b2").await;
        // Removed and made again, under the same name.
        fs::remove_dir_all(root.join("w")).unwrap();
        write(root.join("w/b.yaml"), "b3");
        follower.until_text("w/b.yaml", "b3").await;
        write(root.join("w/b.yaml"), "b4");
        follower.until_text("w/b.yaml", "b4").await;
        // A file becomes a directory.
        fs::remove_file(root.join("a.yaml")).unwrap();
        write(root.join("a.yaml/inside.yaml"), "i");
        follower.until(|reading| contents(reading)["a.yaml"].is_err()).await;
    });
}

#[test]
fn a_config_map_is_followed() {
    // As the kubelet lays it out: files are links through `..data`, which is swapped.
    let (_tmp, root) = directory();
    write(root.join("..2026_01/a.yaml"), "one");
    symlink("..2026_01", root.join("..data")).unwrap();
    symlink("..data/a.yaml", root.join("a.yaml")).unwrap();
    runtime().block_on(async {
        let mut follower = Follower::directory(&root);
        follower.until_text("a.yaml", "one").await;
        write(root.join("..2026_02/a.yaml"), "two");
        symlink("..2026_02", root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
        fs::remove_dir_all(root.join("..2026_01")).unwrap();
        follower.until_text("a.yaml", "two").await;
    });
}

#[test]
fn a_root_that_is_a_swapped_link_is_followed() {
    // As git-sync does it.
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path().join("current/endpoints");
    write(tmp.path().join("rev-1/endpoints/a.yaml"), "one");
    symlink("rev-1", tmp.path().join("current")).unwrap();
    runtime().block_on(async {
        let mut follower = Follower::directory(&root);
        follower.until_text("a.yaml", "one").await;
        for (revision, text) in [("rev-2", "two"), ("rev-3", "three")] {
            write(tmp.path().join(revision).join("endpoints/a.yaml"), text);
            symlink(revision, tmp.path().join("next")).unwrap();
            fs::rename(tmp.path().join("next"), tmp.path().join("current")).unwrap();
            follower.until_text("a.yaml", text).await;
        }
        write(tmp.path().join("rev-3/endpoints/a.yaml"), "four");
        follower.until_text("a.yaml", "four").await;
    });
}

#[test]
fn a_file_that_is_a_link_is_followed_at_its_target() {
    let (tmp, root) = directory();
    write(tmp.path().join("elsewhere/real.yaml"), "one");
    symlink("../elsewhere/real.yaml", root.join("a.yaml")).unwrap();
    runtime().block_on(async {
        let mut follower = Follower::with_linked(&root, &[&tmp.path().join("elsewhere")]);
        follower.until_text("a.yaml", "one").await;
        write(tmp.path().join("elsewhere/real.yaml"), "two");
        follower.until_text("a.yaml", "two").await;
    });
}

#[test]
fn a_link_out_of_the_directory_is_an_error_and_not_followed() {
    let (tmp, root) = directory();
    write(tmp.path().join("elsewhere/secret.yaml"), "root: hash");
    symlink("../elsewhere/secret.yaml", root.join("a.yaml")).unwrap();
    symlink("../elsewhere", root.join("below")).unwrap();
    write(root.join("real/b.yaml"), "b");
    symlink("real/b.yaml", root.join("b.yaml")).unwrap();
    let found = contents(&read(&root));
    for path in ["a.yaml", "below/"] {
        assert!(found[path].as_ref().unwrap_err().contains("--allow-files"), "{found:?}");
    }
    assert_eq!(found["b.yaml"], Ok("b".to_owned()), "a link within the directory is followed");
    let linked = vec![tmp.path().join("elsewhere")];
    let reading = DirectoryReader::new(&root).with_linked(linked).read(None).unwrap();
    assert_eq!(contents(&reading)["below/secret.yaml"], Ok("root: hash".to_owned()));
}

#[test]
fn a_removed_root_is_an_error_and_is_followed_once_it_is_back() {
    let (_tmp, root) = directory();
    write(root.join("a.yaml"), "one");
    runtime().block_on(async {
        let mut follower = Follower::directory(&root);
        follower.until_text("a.yaml", "one").await;
        fs::remove_dir_all(&root).unwrap();
        while !matches!(follower.event().await, SourceEvent::Failed(_)) {}
        write(root.join("a.yaml"), "two");
        follower.until_text("a.yaml", "two").await;
        write(root.join("a.yaml"), "three");
        follower.until_text("a.yaml", "three").await;
    });
}

#[test]
fn a_resync_request_and_the_periodic_pass_read_without_an_event() {
    let (_tmp, root) = directory();
    write(root.join("a.yaml"), "one");
    runtime().block_on(async {
        let mut follower = Follower::directory(&root);
        follower.until_text("a.yaml", "one").await;
        follower.source.request_resync();
        follower.until_text("a.yaml", "one").await;
        let resync = Duration::from_millis(50);
        let mut periodic =
            Follower { source: spawn_directory(DirectoryOptions { root: root.clone(), linked: Vec::new(), resync }) };
        for _ in 0..3 {
            periodic.until_text("a.yaml", "one").await;
        }
    });
}

#[test]
fn a_reading_during_changes_is_repeated_after_them() {
    let (_tmp, root) = directory();
    write(root.join("a.yaml"), "first");
    runtime().block_on(async {
        let mut follower = Follower::directory(&root);
        follower.until_text("a.yaml", "first").await;
        for n in 0..20 {
            // The nudge falls into the time that is waited for quiet, and no event comes after it.
            write(root.join("a.yaml"), &n.to_string());
            tokio::time::sleep(Duration::from_millis(n * 5)).await;
            follower.source.request_resync();
            follower.until_text("a.yaml", &n.to_string()).await;
        }
    });
}

#[test]
fn thousands_of_files_at_once_arrive_whole() {
    let (_tmp, root) = directory();
    runtime().block_on(async {
        let mut follower = Follower::directory(&root);
        follower.until_names(&[]).await;
        for n in 0..5000 {
            write(root.join(format!("d{}/f{n}.yaml", n % 50)), "x");
        }
        let reading = follower.until(|reading| reading.snapshot.files.len() == 5000).await;
        assert!(reading.snapshot.files.iter().all(|file| file.content.is_ok()));
    });
}
