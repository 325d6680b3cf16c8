//! The results of the rounds: medians, ratios, goals; as a table, as Markdown, as JSON.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::ledger::Faults;
use crate::rows::{Better, Goal, Measure, Outcome, Row};
use crate::stats::median;

/// Others' share of the machine above which a run is called disturbed, in cores.
pub const NOISY_CORES: f64 = 0.15;

/// One run of one row on one broker.
pub struct Run {
    pub outcome: Result<Outcome, String>,
    /// Cores that were busy with other work meanwhile.
    pub noise_cores: f64,
}

impl Run {
    /// The value of a measure, unless the run is void.
    pub fn value(&self, key: &str) -> Option<f64> {
        let outcome = self.outcome.as_ref().ok().filter(|outcome| outcome.faults.none())?;
        outcome.values.iter().find(|(name, _)| *name == key).map(|(_, value)| *value)
    }

    fn trouble(&self) -> Option<String> {
        match &self.outcome {
            Err(error) => Some(error.clone()),
            Ok(outcome) if !outcome.faults.none() => Some(format!("void: {}", outcome.faults)),
            Ok(_) => None,
        }
    }
}

/// All runs: `runs[row][broker][round]`; a broker that a row does not apply to has none.
pub struct Report<'a> {
    pub rows: Vec<&'a Row>,
    pub brokers: Vec<Broker>,
    pub reference: Option<usize>,
    pub runs: Vec<Vec<Vec<Run>>>,
    pub settings: Vec<(&'static str, String)>,
}

/// A broker as the report names it.
pub struct Broker {
    pub name: String,
    pub version: String,
    pub configuration: String,
}

struct Cell {
    value: f64,
    ratio: Option<f64>,
}

impl Report<'_> {
    /// The median over the rounds; the ratio is the median of the rounds' own ratios, each round being interleaved.
    fn cell(&self, row: usize, broker: usize, key: &str) -> Option<Cell> {
        let rounds = &self.runs[row][broker];
        let values: Vec<f64> = rounds.iter().filter_map(|run| run.value(key)).collect();
        let ratios: Vec<f64> = self.reference.map_or_else(Vec::new, |reference| {
            let pairs = rounds.iter().zip(&self.runs[row][reference]);
            pairs.filter_map(|(run, other)| Some(run.value(key)? / other.value(key)?)).collect()
        });
        Some(Cell { value: median(&values)?, ratio: median(&ratios).filter(|ratio| ratio.is_finite()) })
    }

    fn goal_text(measure: &Measure) -> String {
        let bound = if measure.better == Better::Higher { "≥" } else { "≤" };
        match measure.goal {
            None => String::new(),
            Some(Goal::Ratio(ratio)) => format!("{bound} {ratio} ×"),
            Some(Goal::Value(value)) => format!("{bound} {}", figure(value)),
        }
    }

    /// Whether weir, the first column, reaches the goal.
    fn met(&self, row: usize, measure: &Measure) -> Option<bool> {
        let weir = self.brokers.iter().position(|broker| broker.name.starts_with("weir"))?;
        let cell = self.cell(row, weir, measure.key)?;
        let (got, wanted) = match measure.goal? {
            Goal::Ratio(ratio) => (cell.ratio?, ratio),
            Goal::Value(value) => (cell.value, value),
        };
        Some(if measure.better == Better::Higher { got >= wanted } else { got <= wanted })
    }

    fn lines(&self, separator: &str) -> Vec<Vec<String>> {
        let mut lines = Vec::new();
        for (at, row) in self.rows.iter().enumerate() {
            for measure in &row.measures {
                let unit = if measure.unit.is_empty() { String::new() } else { format!(" [{}]", measure.unit) };
                let mut line = vec![format!("{}{unit}", measure.title)];
                for broker in 0..self.brokers.len() {
                    line.push(self.cell_text(at, broker, measure, separator));
                }
                let verdict = match self.met(at, measure) {
                    None => "",
                    Some(true) => " met",
                    Some(false) => " **missed**",
                };
                line.push(format!("{}{verdict}", Report::goal_text(measure)));
                lines.push(line);
            }
        }
        lines
    }

    fn cell_text(&self, row: usize, broker: usize, measure: &Measure, separator: &str) -> String {
        let runs = &self.runs[row][broker];
        let void = runs.iter().filter(|run| run.trouble().is_some()).count();
        let mark = if void > 0 { format!(" ({void} of {} void)", runs.len()) } else { String::new() };
        if measure.unit.is_empty() && void < runs.len() {
            return said(runs, measure.key);
        }
        match self.cell(row, broker, measure.key) {
            _ if runs.is_empty() => "n/a".to_owned(),
            None => "void".to_owned(),
            Some(Cell { value, ratio: Some(ratio) }) if Some(broker) != self.reference => {
                format!("{}{separator}{} ×{mark}", figure(value), figure(ratio))
            }
            Some(Cell { value, .. }) => format!("{}{mark}", figure(value)),
        }
    }

    fn header(&self) -> Vec<String> {
        let mut header = vec!["work".to_owned()];
        header.extend(self.brokers.iter().map(|broker| format!("{} {}", broker.name, broker.version)));
        header.push("goal".to_owned());
        header
    }

    /// What went wrong in which run, each once.
    fn troubles(&self) -> Vec<String> {
        let mut seen = Vec::new();
        for (row, of_row) in self.rows.iter().zip(&self.runs) {
            for (broker, runs) in self.brokers.iter().zip(of_row) {
                for trouble in runs.iter().filter_map(Run::trouble) {
                    seen.push(format!("{}, {}: {trouble}", row.id, broker.name));
                }
            }
        }
        seen.dedup();
        seen
    }

    /// How many runs shared the machine with other work.
    fn disturbed(&self) -> (usize, usize) {
        let runs = || self.runs.iter().flatten().flatten();
        (runs().filter(|run| run.noise_cores > NOISY_CORES).count(), runs().count())
    }

    fn remarks(&self) -> String {
        let mut text = String::new();
        let (disturbed, all) = self.disturbed();
        if disturbed > 0 {
            let _ = writeln!(
                text,
                "- {disturbed} of {all} runs shared the machine with other work (more than {NOISY_CORES} cores of it): \
                 their figures are worth little."
            );
        }
        for trouble in self.troubles() {
            let _ = writeln!(text, "- {}", trouble.replace('\n', " / "));
        }
        text
    }

    /// For the terminal.
    pub fn table(&self) -> String {
        let mut lines = vec![self.header()];
        lines.extend(self.lines("  "));
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
        let mut text = String::new();
        for line in &lines {
            let cells = line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
            let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
        }
        text + &self.remarks()
    }

    /// For a page.
    pub fn markdown(&self) -> String {
        let header = self.header();
        let mut text = format!("| {} |\n|{}\n", header.join(" | "), " --- |".repeat(header.len()));
        for line in self.lines(" · ") {
            let _ = writeln!(text, "| {} |", line.join(" | "));
        }
        text.push('\n');
        for (name, value) in &self.settings {
            let _ = writeln!(text, "- {name}: {value}");
        }
        for broker in &self.brokers {
            let _ = writeln!(text, "- {}: {}", broker.name, broker.configuration);
        }
        text + &self.remarks()
    }

    /// Every figure of every round.
    pub fn json(&self) -> Value {
        let run = |run: &Run| match &run.outcome {
            Err(error) => json!({"error": error, "noiseCores": run.noise_cores}),
            Ok(outcome) => json!({
                "values": outcome.values.iter().map(|(key, value)| ((*key).to_owned(), json!(value)))
                    .collect::<serde_json::Map<String, Value>>(),
                "words": outcome.words.iter().map(|(key, words)| ((*key).to_owned(), json!(words)))
                    .collect::<serde_json::Map<String, Value>>(),
                "void": (!outcome.faults.none()).then(|| faults_json(&outcome.faults)),
                "noiseCores": run.noise_cores,
            }),
        };
        let rows = self.rows.iter().zip(&self.runs).map(|(row, of_row)| {
            let brokers = self.brokers.iter().zip(of_row);
            let runs =
                brokers.map(|(broker, runs)| (broker.name.clone(), json!(runs.iter().map(run).collect::<Vec<_>>())));
            json!({
                "id": row.id,
                "measures": row.measures.iter()
                    .map(|measure| json!({
                        "key": measure.key,
                        "title": measure.title,
                        "unit": measure.unit,
                        "better": if measure.better == Better::Higher { "higher" } else { "lower" },
                        "goal": Report::goal_text(measure),
                    }))
                    .collect::<Vec<_>>(),
                "runs": runs.collect::<serde_json::Map<String, Value>>(),
            })
        });
        let brokers = self.brokers.iter().map(
            |broker| json!({"name": broker.name, "version": broker.version, "configuration": broker.configuration}),
        );
        json!({
            "settings": self.settings.iter().map(|(name, value)| ((*name).to_owned(), json!(value)))
                .collect::<serde_json::Map<String, Value>>(),
            "brokers": brokers.collect::<Vec<_>>(),
            "reference": self.reference.map(|reference| self.brokers[reference].name.clone()),
            "remarks": self.remarks().lines().map(|line| line.trim_start_matches("- ").to_owned()).collect::<Vec<_>>(),
            "rows": rows.collect::<Vec<_>>(),
        })
    }
}

/// What the rounds say in words; each once.
fn said(runs: &[Run], key: &str) -> String {
    let words = runs.iter().filter_map(|run| run.outcome.as_ref().ok()).flat_map(|outcome| &outcome.words);
    let mut said: Vec<&str> = words.filter(|(name, _)| *name == key).map(|(_, words)| words.as_str()).collect();
    said.sort_unstable();
    said.dedup();
    said.join("; or ")
}

fn faults_json(faults: &Faults) -> Value {
    json!({
        "lost": faults.lost,
        "duplicated": faults.duplicated,
        "disordered": faults.disordered,
        "wrong": faults.wrong,
        "misacknowledged": faults.misacknowledged,
    })
}

/// Three significant digits, thousands apart.
fn figure(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let digits = 2 - value.abs().log10().floor() as i32;
    if digits > 0 {
        let text = format!("{value:.*}", digits as usize);
        return if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text };
    }
    let unit = 10f64.powi(-digits);
    let whole = format!("{:.0}", (value / unit).round() * unit);
    let mut apart = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            apart.push(',');
        }
        apart.push(digit);
    }
    apart
}

/// Writes `table` to `path` between its markers (`<!-- name:begin -->`, `<!-- name:end -->`); a new file gets them.
pub fn write_markdown(path: &Path, name: &str, table: &str) -> Result<()> {
    let (begin_mark, end_mark) = (format!("<!-- {name}:begin -->"), format!("<!-- {name}:end -->"));
    let present = if path.exists() { fs::read_to_string(path)? } else { String::new() };
    let text = match (present.find(&begin_mark), present.find(&end_mark)) {
        (Some(begin), Some(end)) if begin < end => {
            format!("{}{begin_mark}\n\n{table}\n{}", &present[..begin], &present[end..])
        }
        _ => {
            let is_ours = present.trim().is_empty() || present.starts_with("<!-- ");
            ensure!(is_ours, "{} has text but no {begin_mark} and {end_mark}", path.display());
            format!("{present}{begin_mark}\n\n{table}\n{end_mark}\n")
        }
    };
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
