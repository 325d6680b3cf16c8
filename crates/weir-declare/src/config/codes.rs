//! The codes of diagnostics: stable, for machines.

/// Every code, and what it means. `docs/validate.md` has the same table.
pub const CODES: &[(&str, &str)] = &[
    ("address-conflict", "two endpoints want one address and port"),
    ("anchor", "an anchor or an alias"),
    ("bad-key", "a key that is no name here"),
    ("bridge-mountpoint", "a bridge that endpoints of several mountpoints name"),
    ("control-character", "a character that no text file has"),
    ("declared-twice", "a name that is declared twice, or a second document of a kind of which there is one"),
    ("document-kind", "a document without exactly one of the top-level keys"),
    ("duplicate-item", "an item that a list has twice"),
    ("duplicate-key", "a key that a mapping has twice"),
    ("empty", "something empty that must not be; a warning where no document is in what was named"),
    ("encoding", "a file that is not UTF-8"),
    ("environment", "this machine lacks what is declared (--environment)"),
    ("file-too-large", "a file of more than 256 KiB"),
    ("format", "a text that is not of the form that is wanted"),
    ("key-not-a-string", "a key that is not text"),
    ("merge-conflict", "git's marks of a conflict"),
    ("merge-key", "YAML's `<<`"),
    ("missing-field", "a field that must be given"),
    ("missing-reference", "the name of a document that is not there, or is refused"),
    ("name", "a document without a valid name"),
    ("never-matches", "an ACL rule that matches nothing"),
    ("no-acl", "an endpoint with enableAcl and no acl document: every topic will be refused"),
    ("no-auth", "an endpoint with enableAuth and no auth document: every CONNECT will be refused"),
    ("no-effect", "a field that has no effect beside the others"),
    ("not-a-number", "`.inf` or `.nan`"),
    ("not-allowed", "a value that is none of those allowed, or is not allowed beside another field"),
    ("not-understood", "what the schema accepts and weir does not: a fault of weir's"),
    ("number-too-large", "a number of more than 64 bits"),
    ("out-of-range", "a number beyond its range"),
    ("shadowed-rule", "an ACL rule that never decides"),
    ("status-port", "an endpoint on the status listener's port"),
    ("strip-prefix", "a bridge's stripPrefix that not every topic of the filter begins with"),
    ("syntax", "not YAML"),
    ("tab", "a tab in the indentation"),
    ("tag", "a YAML tag"),
    ("too-deep", "more than 64 mappings and lists within each other"),
    ("too-few", "a list with too few items"),
    ("too-long", "a text that is too long"),
    ("too-many", "a list or mapping with too many items"),
    ("too-many-errors", "more errors in one document than are shown"),
    ("two-defaults", "two endpoints with isDefault"),
    ("unknown-field", "a field that weir does not know"),
    ("unreadable", "a file that cannot be read"),
    ("wrong-type", "a value of another type than wanted"),
];

/// What a code means.
pub fn meaning(code: &str) -> Option<&'static str> {
    CODES.iter().find(|(known, _)| *known == code).map(|(_, meaning)| *meaning)
}
