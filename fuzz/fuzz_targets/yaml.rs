//! Documents of any bytes: loading does not panic, says what is wrong where something is, and gives the same twice.
#![no_main]

use std::path::Path;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use weir_declare::config::{self, LastGood, NodeContext, Revision, Snapshot, SourceFile};

fuzz_target!(|bytes: &[u8]| {
    let file = SourceFile {
        free_ports: false,
        path: Arc::from("a.yaml"),
        shown: Arc::from("a.yaml"),
        base: Arc::from(Path::new("")),
        content: Ok(Arc::from(bytes)),
    };
    let revision = Revision::Content { hash: String::new() };
    let snapshot = Snapshot { origin: Arc::from("fuzz"), revision, files: vec![file] };
    let [first, second] = [(); 2].map(|()| config::load(&snapshot, &LastGood::default(), &NodeContext::default()));
    assert_eq!(format!("{:?}", first.declared), format!("{:?}", second.declared));
    assert_eq!(first.diagnostics.len(), second.diagnostics.len());
});
