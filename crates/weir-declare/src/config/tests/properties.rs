//! Properties that hold for every document.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::super::item::fields_of;
use super::generate::Generator;
use super::*;

/// A document as JSON, which is YAML, too.
fn text(document: &Value) -> String {
    document.to_string()
}

/// Codes of errors that a schema cannot express: between documents, or between fields.
fn is_beyond_schema(code: &str) -> bool {
    let codes = ["missing-reference", "address-conflict", "status-port", "two-defaults", "strip-prefix"];
    codes.contains(&code)
}

/// The errors that the schema can express.
fn errors(loaded: &Loaded) -> Vec<String> {
    let errors = loaded.diagnostics.iter().filter(|d| d.is_error() && !is_beyond_schema(d.code));
    errors.filter(|d| !d.message.starts_with("minMs")).map(ToString::to_string).collect()
}

/// A set of valid documents: endpoints on different ports, and documents of every kind.
fn valid_set(seed: u64) -> Vec<Value> {
    let mut generator = Generator::new(seed, 0);
    let mut documents = Vec::new();
    for port in 1..=3 {
        let kinds = [Kind::Endpoint, Kind::Auth, Kind::Acl, Kind::Bridge, Kind::Ban];
        for kind in kinds {
            let mut document = generator.document_of(kind);
            let body = &mut document[kind.key()];
            body["name"] = json!(format!("n{port}"));
            if kind == Kind::Endpoint {
                make_plain(body, port);
            }
            if kind == Kind::Bridge {
                body["reconnect"] = json!({});
            }
            documents.push(document);
        }
    }
    documents.push(generator.document_of(Kind::Reconcile));
    let loaded = first(&[("a.yaml", &stream(&documents))]);
    // Leaves out documents whose fields contradict each other.
    documents.retain(|document| {
        let Some((kind, body)) = Kind::ALL.iter().find_map(|kind| Some((*kind, document.get(kind.key())?))) else {
            return false;
        };
        let name = body.get("name").and_then(Value::as_str).and_then(|name| Name::parse(name).ok());
        let identity = name.map_or(DocumentIdentity::single(kind), |name| DocumentIdentity::new(kind, name));
        !loaded.refusals.contains_key(&identity)
    });
    documents
}

/// Gives an endpoint its own port, and removes references and Unix sockets.
fn make_plain(endpoint: &mut Value, port: u16) {
    let Some(fields) = endpoint.as_object_mut() else { return };
    for field in ["host", "auth", "acl", "bridges", "isDefault"] {
        fields.remove(field);
    }
    fields.insert("port".into(), json!(port));
}

fn stream(documents: &[Value]) -> String {
    documents.iter().map(|document| format!("---\n{document}\n")).collect()
}

/// The declaration without the origin of `reconcile`, which is absent if all its settings are defaults.
fn without_origin(loaded: &Loaded) -> Declared {
    let reconcile = Reconcile { origin: Origin::default(), ..(*loaded.declared.reconcile).clone() };
    Declared { reconcile: Arc::new(reconcile), ..loaded.declared.clone() }
}

fn rendered(loaded: &Loaded) -> String {
    canonical_yaml(&canonical(&loaded.declared, BuiltInDefaults::LeftOut))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// The parser accepts what the schema accepts, and nothing else.
    #[test]
    fn the_schema_and_the_parser_agree(seed: u64) {
        let document = Generator::new(seed, 4).document();
        let loaded = first(&[("a.yaml", &text(&document))]);
        codes(&loaded);
        let schema_accepts = super::super::schema_check::check(&document).is_empty();
        let errors = errors(&loaded);
        prop_assert_eq!(schema_accepts, errors.is_empty(), "{}\n{:#?}", document, errors);
        prop_assert!(!errors.iter().any(|error| error.contains("not-understood")));
    }

    #[test]
    fn rendered_documents_declare_the_same(seed: u64) {
        let loaded = first(&[("a.yaml", &stream(&valid_set(seed)))]);
        prop_assert!(loaded.is_valid(), "{:#?}", errors(&loaded));
        let text = rendered(&loaded);
        let again = first(&[("b.yaml", &text)]);
        prop_assert!(again.is_valid(), "{text}\n{:#?}", errors(&again));
        prop_assert!(without_origin(&again) == without_origin(&loaded), "{text}");
        prop_assert_eq!(rendered(&again), text);
        prop_assert_eq!(declaration_digest(&again.declared), declaration_digest(&loaded.declared));
        let all = canonical_yaml(&canonical(&loaded.declared, BuiltInDefaults::WrittenOut));
        let again = first(&[("b.yaml", &all)]);
        prop_assert_eq!(declaration_digest(&again.declared), declaration_digest(&loaded.declared), "{}", all);
    }

    /// The order of documents, files and keys does not change the digest.
    #[test]
    fn the_digest_is_stable_under_permutation(seed: u64) {
        let mut documents = valid_set(seed);
        let digest = declaration_digest(&first(&[("a.yaml", &stream(&documents))]).declared);
        let mut generator = Generator::new(!seed, 0);
        generator.shuffle(&mut documents);
        for document in &mut documents {
            reorder(document, &mut generator);
        }
        let half = documents.split_off(documents.len() / 2);
        let files = [("z.yaml", format!("# a comment\n{}", stream(&documents))), ("b/c.json", stream(&half))];
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
        prop_assert_eq!(declaration_digest(&first(&files).declared), digest);
    }

    #[test]
    fn changes_applied_to_the_old_endpoint_give_the_new_one(seed: u64, other: u64) {
        let endpoint = |seed| {
            let mut document = Generator::new(seed, 0).document_of(Kind::Endpoint);
            make_plain(&mut document["endpoint"], 1);
            first(&[("a.yaml", &text(&document))]).declared.endpoints.into_values().next()
        };
        let (Some(old), Some(new)) = (endpoint(seed), endpoint(other)) else { return Ok(()) };
        prop_assert_eq!(changes(&old, &old), vec![]);
        let (mut model, wanted) = (Value::Object(fields_of(&*old)), Value::Object(fields_of(&*new)));
        let changes = changes(&old, &new);
        for change in &changes {
            set(&mut model, &change.path, change.new.clone());
        }
        // All differences are among the changes; the name is the file's.
        prop_assert_eq!(model, wanted, "{:#?}", changes);
        let diff = diff_documents(&[document(&old)], &[document(&new)]);
        let same = without_defaults(&old) == without_defaults(&new);
        prop_assert_eq!(diff.is_empty(), same, "{}", diff);
    }

    #[test]
    fn bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut snapshot = snapshot(&[("a.yaml", "")]);
        snapshot.files[0].content = Ok(bytes.into());
        load(&snapshot, &LastGood::default(), &NodeContext::default());
    }

    /// Valid text with an insertion or deletion: the diagnostics have positions in the file.
    #[test]
    fn positions_in_damaged_text_are_in_the_file(seed: u64, at: prop::sample::Index, with in "[ -~\n\t]{0,6}", cut in 0_usize..8) {
        let documents = valid_set(seed);
        let mut text = canonical_yaml(&canonical(&first(&[("a.yaml", &stream(&documents))]).declared, BuiltInDefaults::LeftOut));
        let at = text.floor_char_boundary(at.index(text.len().max(1)));
        let end = text.ceil_char_boundary((at + cut).min(text.len()));
        text.replace_range(at..end, &with);
        let loaded = first(&[("a.yaml", &text)]);
        let lines = text.split('\n').count() as u32;
        codes(&loaded);
        for diagnostic in &loaded.diagnostics {
            prop_assert!((1..=lines + 1).contains(&diagnostic.position.line), "{diagnostic}\n{text}");
            prop_assert!(diagnostic.position.col >= 1 && diagnostic.position.len >= 1, "{diagnostic}");
            prop_assert!(diagnostic.code != "not-understood", "{diagnostic}\n{text}");
        }
    }
}

fn document(endpoint: &Endpoint) -> CanonicalDocument {
    CanonicalDocument {
        identity: DocumentIdentity::new(Kind::Endpoint, endpoint.name.clone()),
        body: without_defaults(endpoint),
    }
}

fn without_defaults(endpoint: &Endpoint) -> Map<String, Value> {
    let endpoints = [(endpoint.name.clone(), Arc::new(endpoint.clone()))].into_iter().collect();
    let declared = Declared { endpoints, ..Declared::default() };
    canonical(&declared, BuiltInDefaults::LeftOut).into_iter().next().map(|document| document.body).unwrap_or_default()
}

fn reorder(value: &mut Value, generator: &mut Generator) {
    match value {
        Value::Object(fields) => {
            let mut entries: Vec<(String, Value)> = std::mem::take(fields).into_iter().collect();
            generator.shuffle(&mut entries);
            for (_, value) in &mut entries {
                reorder(value, generator);
            }
            fields.extend(entries);
        }
        Value::Array(items) => items.iter_mut().for_each(|item| reorder(item, generator)),
        _ => {}
    }
}

/// Sets or removes the field at `a.b`.
fn set(model: &mut Value, path: &str, value: Option<Value>) {
    let (parents, field) = path.rsplit_once('.').unwrap_or(("", path));
    let target = parents.split('.').filter(|part| !part.is_empty()).fold(model, |value, part| &mut value[part]);
    let Some(fields) = target.as_object_mut() else { return };
    match value {
        Some(value) => drop(fields.insert(field.to_owned(), value)),
        None => drop(fields.shift_remove(field)),
    }
}
