//! Every normative statement has scripts, or an exception with its reason. `docs/conformance.md` is made from the same data.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use serde::Deserialize;

use crate::script::{Script, load_directory};
use crate::wire::Version;

/// A statement of a specification.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Statement {
    id: String,
    binds: Binds,
    says: String,
}

#[derive(Debug, Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Binds {
    Server,
    Client,
    Both,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exceptions {
    exception: Vec<Exception>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    version: String,
    ids: Vec<String>,
    reason: String,
    /// A test in Rust that holds the statements.
    test: Option<String>,
}

/// What accounts for a statement.
#[derive(Default)]
struct Account<'a> {
    scripts: BTreeSet<&'a str>,
    exception: Option<&'a Exception>,
}

struct Everything {
    statements: Vec<(Version, Vec<Statement>)>,
    scripts: Vec<Script>,
    exceptions: Vec<Exception>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn everything() -> Everything {
    let directory = root().join("tests/conformance");
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).expect(name);
    let statements = |name: &str| serde_yaml::from_str(&read(name)).expect(name);
    let exceptions: Exceptions = toml::from_str(&read("exceptions.toml")).expect("exceptions.toml");
    Everything {
        statements: vec![
            (Version::V3_1_1, statements("statements-3.1.1.yaml")),
            (Version::V5, statements("statements-5.0.yaml")),
        ],
        scripts: load_directory(&directory).unwrap_or_else(|error| panic!("{error}")),
        exceptions: exceptions.exception,
    }
}

type Accounts<'a> = BTreeMap<(Version, &'a str), Account<'a>>;

impl Everything {
    /// What accounts for each statement, and everything that is wrong with the accounting.
    fn accounts(&self) -> (Accounts<'_>, Vec<String>) {
        let mut wrong = Vec::new();
        let mut accounts = Accounts::new();
        for (version, statements) in &self.statements {
            for statement in statements {
                if accounts.insert((*version, &*statement.id), Account::default()).is_some() {
                    wrong.push(format!("{} {} is listed twice", version.name(), statement.id));
                }
            }
        }
        for script in &self.scripts {
            let cited = script.clauses.iter().flat_map(|(version, ids)| ids.iter().map(|id| (*version, id)));
            for (version, id) in cited {
                match accounts.get_mut(&(version, id.as_str())) {
                    Some(account) => _ = account.scripts.insert(&script.file),
                    None => wrong.push(format!("{}: {} has no statement {id}", script.file, version.name())),
                }
            }
        }
        for exception in &self.exceptions {
            for id in &exception.ids {
                let version = Version::from_name(&exception.version).expect("a version of a specification");
                match accounts.get_mut(&(version, id.as_str())) {
                    Some(account) if account.exception.is_none() => account.exception = Some(exception),
                    Some(_) => wrong.push(format!("two exceptions for {} {id}", version.name())),
                    None => wrong.push(format!("exceptions.toml: {} has no statement {id}", version.name())),
                }
            }
        }
        for ((version, id), account) in &accounts {
            match (account.scripts.is_empty(), account.exception) {
                (true, None) => wrong.push(format!("{} {id} has neither script nor exception", version.name())),
                (false, Some(_)) => wrong.push(format!("{} {id} has scripts and an exception", version.name())),
                _ => {}
            }
        }
        (accounts, wrong)
    }
}

#[test]
fn every_statement_has_a_script_or_an_exception() {
    let everything = everything();
    let (_, mut wrong) = everything.accounts();
    let sources = sources();
    for exception in &everything.exceptions {
        if let Some(test) = &exception.test
            && !sources.contains(&format!("fn {test}()"))
        {
            wrong.push(format!("exceptions.toml: there is no test {test}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every Rust source of the crate and its tests, one after the other.
fn sources() -> String {
    let mut all = String::new();
    let mut directories = vec![root().join("src"), root().join("tests")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                directories.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                all.push_str(&std::fs::read_to_string(&entry).expect("a source file"));
            }
        }
    }
    all
}

/// `docs/conformance.md`; UPDATE_GOLDEN=1 writes it anew.
#[test]
fn the_table_in_the_docs_is_current() {
    let everything = everything();
    let (accounts, _) = everything.accounts();
    let page = page(&everything, &accounts);
    let path = root().join("docs/conformance.md");
    if std::env::var("UPDATE_GOLDEN").is_ok_and(|value| value == "1") {
        std::fs::write(&path, &page).expect("docs/conformance.md");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/conformance.md is out of date: run this test with UPDATE_GOLDEN=1");
}

fn page(everything: &Everything, accounts: &Accounts<'_>) -> String {
    let mut page = String::from(
        "# Conformance\n\n\
         <!-- Made by tests/it/statements.rs from tests/conformance; UPDATE_GOLDEN=1 cargo test --test it statements -->\n\n\
         After reading this page you know which test covers each normative statement of MQTT 3.1.1 and 5.0. The statements \
         are in our words; the last column has the scripts under `tests/conformance` that test the broker, or the reason \
         why there is none. The scripts run against the broker's core in memory and against the broker over TCP, on one \
         shard and on three:\n\n```sh\ncargo test --test it conformance\n```\n",
    );
    for (version, statements) in &everything.statements {
        let cited = statements.iter().filter(|statement| !accounts[&(*version, &*statement.id)].scripts.is_empty());
        let scripted = cited.count();
        let title = if version.is_v5() { "5.0" } else { version.name() };
        let _ = write!(
            page,
            "\n## MQTT {title}\n\n{} statements: {scripted} with scripts, {} with an exception.\n\n\
             | statement | binds | text | test |\n| --- | --- | --- | --- |\n",
            statements.len(),
            statements.len() - scripted,
        );
        for statement in statements {
            let account = &accounts[&(*version, &*statement.id)];
            let binds = format!("{:?}", statement.binds).to_lowercase();
            let says = statement.says.replace('|', "\\|");
            let _ = writeln!(page, "| MQTT-{} | {binds} | {says} | {} |", statement.id, held_by(account));
        }
    }
    page
}

fn held_by(account: &Account<'_>) -> String {
    match account.exception {
        Some(Exception { reason, test: Some(test), .. }) => format!("{reason} Test `{test}`."),
        Some(Exception { reason, .. }) => reason.clone(),
        None => account.scripts.iter().copied().collect::<Vec<_>>().join(", "),
    }
}
