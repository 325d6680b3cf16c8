//! The codes of diagnostics: stable, for machines.

/// Every code and its meaning. `docs/validate.md` has the same table.
pub const CODES: &[(&str, &str)] = &[
    ("address-conflict", "two endpoints want one address and port"),
    ("anchor", "an anchor or an alias"),
    ("bad-key", "a key that is not a valid name"),
    ("bridge-mountpoint", "a bridge of endpoints with different mountpoints"),
    ("control-character", "a control character that text files must not contain"),
    ("declared-twice", "a name that is declared twice, or a second document of a kind that allows one"),
    ("document-kind", "a document without exactly one of the top-level keys"),
    ("duplicate-item", "an item that is twice in a list"),
    ("duplicate-key", "a key that is twice in a mapping"),
    ("empty", "an empty value where one is required; a warning when the named paths contain no document"),
    ("encoding", "a file that is not UTF-8"),
    ("environment", "a file, address or variable that this machine does not have (--environment)"),
    ("file-too-large", "a file of more than 256 KiB"),
    ("format", "a text that does not have the required form"),
    ("key-not-a-string", "a key that is not a string"),
    ("merge-conflict", "conflict markers of git"),
    ("merge-key", "YAML's `<<`"),
    ("missing-field", "a required field that is missing"),
    ("missing-reference", "a reference to a document that does not exist, or is refused"),
    ("name", "a document without a valid name"),
    ("never-matches", "an ACL rule that matches nothing"),
    ("no-acl", "an endpoint with enableAcl and no acl document: every topic will be refused"),
    ("no-auth", "an endpoint with enableAuth and no auth document: every CONNECT will be refused"),
    ("no-effect", "a field that has no effect beside the others"),
    ("not-a-number", "`.inf` or `.nan`"),
    ("not-allowed", "a value that is not one of those allowed, or not allowed beside another field"),
    ("not-understood", "a document that the schema accepts and weir cannot use: a bug in weir"),
    ("number-too-large", "a number of more than 64 bits"),
    ("out-of-range", "a number outside its range"),
    ("shadowed-rule", "an ACL rule that never decides, because an earlier rule covers it"),
    ("status-port", "an endpoint on the status listener's port"),
    ("strip-prefix", "a bridge's stripPrefix that is not a prefix of every topic of the filter"),
    ("syntax", "not YAML"),
    ("tab", "a tab in the indentation"),
    ("tag", "a YAML tag"),
    ("too-deep", "mappings and lists nested deeper than 64 levels"),
    ("too-few", "a list with too few items"),
    ("too-long", "a text that is too long"),
    ("too-many", "a list or mapping with too many items"),
    ("too-many-errors", "more errors in one document than weir shows"),
    ("two-defaults", "two endpoints with isDefault"),
    ("unknown-field", "a field that weir does not know"),
    ("unreadable", "a file that cannot be read"),
    ("wrong-type", "a value of the wrong type"),
];

/// The meaning of a code.
pub fn meaning(code: &str) -> Option<&'static str> {
    CODES.iter().find(|(known, _)| *known == code).map(|(_, meaning)| *meaning)
}
