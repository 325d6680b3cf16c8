//! Compares `docs/` and `examples/` with the program. `UPDATE_GOLDEN=1` rewrites the generated pages.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use weir_broker::Dropped;
use weir_declare::reconcile::{ConditionReason, ConditionType};
use weirmq::net::RefusalCounts;

use super::client::request;
use super::fake;
use crate::support::weir;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Compares a file with what it should be, or rewrites it.
fn hold(path: &str, wanted: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(root().join(path), wanted).unwrap();
        return;
    }
    let is = std::fs::read_to_string(root().join(path)).unwrap_or_default();
    let diff = similar::TextDiff::from_lines(is.as_str(), wanted).unified_diff().to_string();
    assert!(diff.is_empty(), "{path} is out of date:\n{diff}\n(UPDATE_GOLDEN=1 rewrites it)");
}

/// Compares the part of a file between its `begin` and `end` comments.
fn hold_part(path: &str, wanted: &str) {
    let text = read(path);
    let (before, rest) = text.split_once("<!-- begin").unwrap();
    let (begin, rest) = rest.split_once("-->\n").unwrap();
    let (_, after) = rest.split_once("<!-- end -->").unwrap();
    hold(path, &format!("{before}<!-- begin{begin}-->\n{wanted}<!-- end -->{after}"));
}

/// A metric family as a scrape shows it.
#[derive(Default)]
struct Family {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
    samples: BTreeSet<String>,
}

async fn families() -> Vec<(String, Family)> {
    let server = fake::serve(&fake::Fake::new());
    let accept = [("Accept", "application/openmetrics-text")];
    let scraped = request(server.local_addr(), "GET", "/metrics", &accept, "").await;
    let mut families: Vec<(String, Family)> = Vec::new();
    for line in scraped.text().lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            let (name, help) = described.split_once(' ').unwrap();
            families.push((name.to_owned(), Family { help: help.to_owned(), ..Family::default() }));
        } else if let Some(described) = line.strip_prefix("# TYPE ") {
            families.last_mut().unwrap().1.kind = described.split_once(' ').unwrap().1.to_owned();
        } else if !line.starts_with('#') {
            let family = &mut families.last_mut().unwrap().1;
            let end = line.find(['{', ' ']).unwrap();
            family.samples.insert(line[..end].to_owned());
            let labels =
                line[end..].strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(labels, _)| labels);
            let names = labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
            family.labels.extend(names.filter(|name| name != "le"));
        }
    }
    families
}

/// A family's name as queries use it.
fn shown(name: &str, kind: &str) -> String {
    match kind {
        "counter" => format!("{name}_total"),
        "info" => format!("{name}_info"),
        _ => name.to_owned(),
    }
}

#[test]
fn the_reference_of_fields_is_the_schemas() {
    let output = weir::command().args(["schema", "--format", "markdown"]).output().unwrap();
    assert!(output.status.success());
    hold("docs/fields.md", &String::from_utf8(output.stdout).unwrap());
}

#[tokio::test]
async fn the_reference_of_metrics_is_the_scrapes() {
    let mut table = "| metric | type | labels | what it tells |\n| --- | --- | --- | --- |\n".to_owned();
    for (name, family) in families().await {
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let name = shown(&name, &family.kind);
        table.push_str(&format!("| `{name}` | {} | {} | {} |\n", family.kind, labels.join(", "), family.help));
    }
    hold_part("docs/metrics.md", &table);
}

#[tokio::test]
async fn every_metric_named_in_docs_and_examples_exists() {
    let mut known: BTreeSet<String> = BTreeSet::new();
    for (name, family) in families().await {
        known.insert(shown(&name, &family.kind));
        known.extend(family.samples);
    }
    let mut files =
        vec!["README.md", "README.zh-CN.md", "examples/grafana/weir.json", "examples/prometheus/alerts.yaml"];
    let docs: Vec<String> = documents();
    files.extend(docs.iter().map(String::as_str));
    let mut wrong = Vec::new();
    for file in files {
        let text = read(file);
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            let is_metric = [
                "weir_endpoint_",
                "weir_reconcile_",
                "weir_source_",
                "weir_cluster_",
                "weir_publish_",
                "weir_telemetry_",
                "process_",
            ]
            .iter()
            .any(|start| word.starts_with(start));
            if is_metric && !word.ends_with('_') && !known.contains(word) {
                wrong.push(format!("{file}: {word}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_verb_documents_its_exit_codes_and_has_json_output() {
    let help = |arguments: &[&str]| {
        let output = weir::command().args(arguments).arg("--help").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let commands = |text: &str| -> Vec<String> {
        let lines = text.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
        // What an explanation goes on with is indented further.
        let names = lines.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
        names.map(str::to_owned).collect()
    };
    let verbs = commands(&help(&[]));
    assert!(verbs.len() > 10, "{verbs:?}");
    assert_eq!(first_column(&read("docs/operations.md"), "verb"), words(verbs.iter().map(String::as_str)));
    for verb in &verbs {
        let said = help(&[verb]);
        assert!(said.contains("Exits with 0"), "weir {verb} --help says nothing of exit codes: {said}");
        let below = commands(&said);
        let forms: Vec<String> = match below.is_empty() {
            true => vec![said],
            false => below.iter().filter(|name| *name != "export").map(|name| help(&[verb, name])).collect(),
        };
        let for_machines = forms.iter().all(|said| said.contains("--format <") && said.contains("json"));
        assert_eq!(
            for_machines,
            !["run", "dev", "init", "pub", "completions", "man"].contains(&verb.as_str()),
            "{verb}: {forms:?}"
        );
    }
}

fn documents() -> Vec<String> {
    let found = std::fs::read_dir(root().join("docs")).unwrap();
    let names = found.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}")).collect()
}

/// The words of the first column of the table whose head begins with `head`.
fn first_column(text: &str, head: &str) -> BTreeSet<String> {
    let mut rows = text.lines().skip_while(|line| !line.starts_with(&format!("| {head} |"))).skip(2);
    let rows = rows.by_ref().take_while(|line| line.starts_with('|'));
    rows.map(|row| row.split('|').nth(1).unwrap().trim().trim_matches('`').to_owned()).collect()
}

fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    words.into_iter().map(str::to_owned).collect()
}

#[test]
fn the_words_of_labels_are_all_explained_and_no_others() {
    let text = read("docs/metrics.md");
    assert_eq!(first_column(&text, "reason"), words(Dropped::ALL.map(Dropped::label)));
    let refusals = RefusalCounts::default();
    let refusals: BTreeSet<String> = words(refusals.iter().map(|(name, _)| name).filter(|name| *name != "shutdown"));
    let outcomes = first_column(&text, "outcome");
    let kinds = first_column(&text, "kind");
    assert!(outcomes.contains("success") && outcomes.is_disjoint(&kinds));
    let explained: BTreeSet<String> = outcomes.union(&kinds).filter(|word| *word != "success").cloned().collect();
    assert_eq!(explained, refusals);
}

#[test]
fn conditions_and_reasons_are_all_explained_and_no_others() {
    let mut table = "| reason | means |\n| --- | --- |\n".to_owned();
    for (reason, meaning) in ConditionReason::ALL {
        table.push_str(&format!("| `{reason:?}` | {} |\n", meaning.trim()));
    }
    hold_part("docs/conditions.md", &table);
    let text = read("docs/conditions.md");
    let types: Vec<String> = ConditionType::ALL.iter().map(|kind| format!("{kind:?}")).collect();
    assert_eq!(first_column(&text, "condition"), words(types.iter().map(String::as_str)));
    let reasons: Vec<String> = ConditionReason::ALL.iter().map(|(reason, _)| format!("{reason:?}")).collect();
    let (_, to_do) = text.split_once("## What to do").unwrap();
    assert_eq!(first_column(to_do, "reason"), words(reasons.iter().map(String::as_str)));
}

#[test]
fn links_in_the_docs_have_targets() {
    let mut wrong = Vec::new();
    let mut files = documents();
    files.extend(["README.md", "README.zh-CN.md", "ARCHITECTURE.md"].map(str::to_owned));
    for file in files {
        let text = read(&file);
        let directory = root().join(&file).parent().map(Path::to_path_buf).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target) {
            let path = target.split('#').next().unwrap();
            if !path.is_empty() && !path.contains("://") && !directory.join(path).exists() {
                wrong.push(format!("{file}: {target}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The text outside of generated parts.
fn written(page: &str) -> String {
    let mut text = read(page);
    while let Some((before, rest)) = text.split_once("<!-- begin") {
        let after = rest.split_once("<!-- end -->").unwrap().1;
        text = format!("{before}{after}");
    }
    text
}

#[test]
fn every_page_begins_with_what_its_reader_can_do_and_has_an_example() {
    // The schema makes docs/fields.md.
    for page in documents().iter().filter(|page| *page != "docs/fields.md") {
        let text = written(page);
        let paragraphs = text.split("\n\n").filter(|part| !part.starts_with('#') && !part.starts_with("<!--"));
        let first = paragraphs.clone().next().unwrap();
        let good = first.starts_with("After ") || page == "docs/README.md";
        assert!(good, "{page} does not begin with \"After reading this page you can ...\": {first}");
        let example = text.contains("\n```") || text.contains("`tools/") || text.contains("`curl ");
        assert!(example || page == "docs/README.md", "{page} has no example");
    }
}

#[test]
fn pages_avoid_words_that_readers_do_not_search_for() {
    let avoided = [
        "who does",
        "who is",
        "who may",
        "nobody",
        "somebody",
        "everybody",
        "told",
        "said",
        "says",
        "stands",
        "lies",
        "in force",
        "by itself",
        "by themselves",
        "comes of",
        "left aside",
    ];
    let mut pages = documents();
    pages.retain(|page| page != "docs/fields.md" && page != "docs/conformance.md");
    pages.push("README.md".to_owned());
    let mut found = Vec::new();
    for page in pages {
        let text = written(&page);
        for (number, line) in text.lines().enumerate() {
            let spaced = format!(" {} ", line.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), " "));
            found.extend(
                avoided
                    .iter()
                    .filter(|word| spaced.contains(&format!(" {word} ")))
                    .map(|word| format!("{page}:{}: {word}: {line}", number + 1)),
            );
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_dashboard_has_a_place_for_every_panel() {
    let dashboard: serde_json::Value = serde_json::from_str(&read("examples/grafana/weir.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut taken: BTreeMap<(u64, u64), &str> = BTreeMap::new();
    for panel in panels {
        let (title, grid) = (panel["title"].as_str().unwrap(), &panel["gridPos"]);
        let at = |key: &str| grid[key].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{title} is wider than the page");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert_eq!(taken.insert((x, y), title), None, "{title} lies over another");
            }
        }
    }
}

#[test]
fn the_debian_package_has_everything_it_names() {
    let manifest: toml::Value = toml::from_str(&read("Cargo.toml")).unwrap();
    let deb = &manifest["package"]["metadata"]["deb"];
    let mut checked = 0;
    for asset in deb["assets"].as_array().unwrap() {
        let source = asset[0].as_str().unwrap();
        // Made by packaging/debian/build.
        if source.starts_with("target/") {
            continue;
        }
        let (directory, name) = source.rsplit_once('/').unwrap_or(("", source));
        let ending = name.strip_prefix('*');
        let found = std::fs::read_dir(root().join(directory)).unwrap().any(|file| {
            let file = file.unwrap().file_name().into_string().unwrap();
            ending.map_or(file == name, |ending| file.ends_with(ending))
        });
        assert!(found, "{source}");
        checked += 1;
    }
    assert!(checked > 5);
    let units = root().join(deb["systemd-units"]["unit-scripts"].as_str().unwrap());
    assert!(units.join("weir.service").exists());
    assert!(root().join(deb["maintainer-scripts"].as_str().unwrap()).join("postinst").exists());
}
