//! Prometheus's text format 0.0.4, made of OpenMetrics.

use std::collections::HashMap;

/// Rewrites OpenMetrics as the text format 0.0.4: there a counter's family has its samples' name, `info` is a gauge,
/// and neither `UNIT` nor `EOF` exists.
pub(super) fn prometheus_text(openmetrics: &str) -> String {
    let kinds: HashMap<&str, &str> = openmetrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|described| described.split_once(' '))
        .collect();
    let sample_name = |family: &str| match kinds.get(family) {
        Some(&"counter") => format!("{family}_total"),
        Some(&"info") => format!("{family}_info"),
        _ => family.to_owned(),
    };
    let mut text = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines().filter(|line| !line.starts_with("# UNIT ") && *line != "# EOF") {
        let comment = line.strip_prefix("# ").and_then(|rest| rest.split_once(' '));
        match comment.and_then(|(word, rest)| Some((word, rest.split_once(' ')?))) {
            Some(("TYPE", (family, kind))) => {
                let kind = match kind {
                    "info" => "gauge",
                    "unknown" => "untyped",
                    other => other,
                };
                text.extend(["# TYPE ", &sample_name(family), " ", kind]);
            }
            Some(("HELP", (family, help))) => text.extend(["# HELP ", &sample_name(family), " ", help]),
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_text_format_names_families_as_samples() {
        let openmetrics = "# HELP a_x Things.\n# TYPE a_x counter\na_x_total{l=\"# TYPE\"} 1\n# HELP b B.\n# TYPE b info\n\
            b_info{v=\"1\"} 1\n# HELP c_seconds C.\n# TYPE c_seconds gauge\n# UNIT c_seconds seconds\nc_seconds 2.0\n# EOF\n";
        let text = "# HELP a_x_total Things.\n# TYPE a_x_total counter\na_x_total{l=\"# TYPE\"} 1\n# HELP b_info B.\n\
            # TYPE b_info gauge\nb_info{v=\"1\"} 1\n# HELP c_seconds C.\n# TYPE c_seconds gauge\nc_seconds 2.0\n";
        assert_eq!(prometheus_text(openmetrics), text);
    }
}
