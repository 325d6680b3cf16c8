//! The commands of `docs/client.md`, as they stand there: what a `text` block shows is what the commands before it print.

use std::path::Path;
use std::process::Command;

use super::{Dev, shown};
use crate::programs::run;
use crate::support::weir::PROGRAM;

/// The fenced blocks of a page: their language and text.
fn blocks(page: &str) -> Vec<(&str, &str)> {
    let parts: Vec<&str> = page.split("```").collect();
    parts.iter().skip(1).step_by(2).filter_map(|block| block.split_once('\n')).collect()
}

#[test]
fn the_commands_of_the_client_page_print_what_it_says() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/client.md")).unwrap();
    let place = tempfile::tempdir().unwrap();
    let dev = Dev::start();
    let path = format!("{}:/usr/bin:/bin", Path::new(PROGRAM).parent().unwrap().display());
    let blocks = blocks(&page);
    let mut ran = 0;
    for (n, (language, script)) in blocks.iter().enumerate() {
        // The page's broker is the one that runs here already.
        if *language != "sh" || script.starts_with("weir dev") {
            continue;
        }
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", script]).current_dir(place.path());
        let output = run(command.env_clear().env("PATH", &path).env("WEIR_URL", &dev.url));
        assert!(output.status.success(), "{script}\n{}", shown(&output));
        if let Some(("text", expected)) = blocks.get(n + 1) {
            assert_eq!(String::from_utf8_lossy(&output.stdout), *expected, "{script}");
            ran += 1;
        }
    }
    assert!(ran >= 4, "{ran} blocks of output");
}
