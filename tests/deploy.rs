//! The files under `deploy/`: every expression names metrics and labels that the server has.
//!
//! What the reader of rules takes is the part of YAML that the file is written in, and nothing else:
//! what it does not know fails.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cairn::telemetry::{ALL, COMMON_LABELS, Metric, MetricKind};
use serde_json::Value;

/// Labels that the scraper adds.
const SCRAPED_LABELS: [&str; 2] = ["instance", "job"];
const FUNCTIONS: &[&str] =
    &["sum", "min", "max", "rate", "increase", "changes", "histogram_quantile", "label_values"];
/// Words before a list of labels.
const GROUPINGS: &[&str] = &["by", "on", "without", "ignoring"];
const OPERATORS: &[&str] = &["and", "or", "unless"];

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path))
        .unwrap()
}

/// The labels of a series: those of its metric, and where it is a bucket, its bound.
fn labels_of(series: &str) -> Option<BTreeSet<&'static str>> {
    let mut labels: BTreeSet<_> = SCRAPED_LABELS.into();
    if series == "up" {
        return Some(labels);
    }
    labels.extend(COMMON_LABELS);
    let find = |name: &str| ALL.iter().find(|metric| metric.name == name);
    let is_histogram = |metric: &&Metric| matches!(metric.kind, MetricKind::Histogram(_));
    let part = ["_bucket", "_sum", "_count"]
        .into_iter()
        .find_map(|part| Some((find(series.strip_suffix(part)?).filter(is_histogram)?, part)));
    let metric = match part {
        Some((metric, part)) => {
            labels.extend((part == "_bucket").then_some("le"));
            metric
        }
        None => find(series).filter(|metric| !is_histogram(metric))?,
    };
    labels.extend(metric.labels);
    Some(labels)
}

/// Checks an expression; gives the labels that it may have in its result.
fn check(expression: &str) -> Result<BTreeSet<&'static str>, String> {
    let (mut known, mut grouped) = (BTreeSet::new(), Vec::new());
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        if first == '[' {
            rest = rest.split_once(']').ok_or("a bracket is open")?.1;
        } else if first.is_ascii_alphabetic() || first == '_' {
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            rest = after.trim_start();
            if FUNCTIONS.contains(&word) {
                // What it takes is looked at like everything else.
            } else if GROUPINGS.contains(&word) {
                let (list, after) = rest
                    .strip_prefix('(')
                    .and_then(|list| list.split_once(')'))
                    .ok_or_else(|| format!("`{word}` without labels"))?;
                grouped.extend(list.split(',').map(str::trim).filter(|label| !label.is_empty()));
                rest = after;
            } else if rest.starts_with('(') && !OPERATORS.contains(&word) {
                return Err(format!("unknown function `{word}`"));
            } else if !OPERATORS.contains(&word) {
                let labels = labels_of(word).ok_or_else(|| format!("unknown series `{word}`"))?;
                if let Some(matchers) = rest.strip_prefix('{') {
                    rest = check_matchers(word, matchers, &labels)?;
                }
                known.extend(labels);
            }
        } else if first.is_ascii_digit() {
            rest = rest.trim_start_matches(|c: char| is_word(c) || c == '.');
        } else if " ()+-*/<>=!,".contains(first) {
            rest = &rest[1..];
        } else {
            return Err(format!("unexpected `{first}`"));
        }
    }
    match grouped.iter().find(|label| !known.contains(**label)) {
        Some(label) => Err(format!("no series has the label `{label}`")),
        None if known.is_empty() => Err("no series".to_owned()),
        None => Ok(known),
    }
}

/// Checks `label="value",...}`; gives what follows.
fn check_matchers<'a>(
    series: &str,
    mut rest: &'a str,
    labels: &BTreeSet<&str>,
) -> Result<&'a str, String> {
    loop {
        let end = rest.find(['=', '!']).ok_or("a matcher without `=`")?;
        let label = rest[..end].trim();
        if !labels.contains(label) {
            return Err(format!("`{series}` has no label `{label}`"));
        }
        let value = rest[end..].split_once('"').ok_or("a matcher without a value")?.1;
        let after = value.split_once('"').ok_or("a value is open")?.1;
        match after.split_at_checked(1) {
            Some((",", next)) => rest = next,
            Some(("}", next)) => return Ok(next),
            _ => return Err("a list of matchers is open".to_owned()),
        }
    }
}

/// The names in `{{ $labels.NAME }}` and `{{NAME}}`.
fn placeholders(text: &str) -> Vec<&str> {
    text.split("{{")
        .skip(1)
        .map(|part| part.split_once("}}").expect("an open placeholder").0.trim())
        .filter(|name| !name.starts_with("$value"))
        .map(|name| name.strip_prefix("$labels.").unwrap_or(name))
        .collect()
}

fn assert_labels(text: &str, labels: &BTreeSet<&str>, place: &str) {
    for name in placeholders(text) {
        assert!(labels.contains(name), "{place}: there is no label `{name}`");
    }
}

/// One alert: its keys, those of its annotations and labels as `annotations.summary`.
type Alert = BTreeMap<String, String>;

/// The alerts of a file of rules.
fn alerts(text: &str) -> Vec<Alert> {
    let mut alerts: Vec<Alert> = Vec::new();
    let mut section = String::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let (indent, line) = (line.len() - line.trim_start().len(), line.trim());
        let (key, value) = line.split_once(':').unwrap_or_else(|| panic!("{line}"));
        let value = value.trim();
        let value = match value.strip_prefix('"') {
            Some(quoted) => quoted.strip_suffix('"').filter(|inner| !inner.contains('"')).unwrap(),
            None => value,
        };
        match (indent, key) {
            (0, "groups") | (2, "- name") | (4, "rules") => {}
            (6, "- alert") => {
                alerts.push(BTreeMap::from([("alert".to_owned(), value.to_owned())]));
            }
            (8, "labels" | "annotations") if value.is_empty() => section = format!("{key}."),
            (8, "expr" | "for") | (10, _) => {
                let key = if indent == 10 { format!("{section}{key}") } else { key.to_owned() };
                let before = alerts.last_mut().unwrap().insert(key, value.to_owned());
                assert!(before.is_none() && !value.is_empty(), "{line}");
            }
            _ => panic!("unexpected: {line}"),
        }
    }
    alerts
}

#[test]
fn every_alert_can_fire_and_says_what_to_do() {
    let alerts = alerts(&read("prometheus/cairn.rules.yaml"));
    assert!(alerts.len() >= 9);
    let names: BTreeSet<_> = alerts.iter().map(|alert| &alert["alert"]).collect();
    assert_eq!(names.len(), alerts.len(), "two alerts have one name");
    for alert in &alerts {
        let name = &alert["alert"];
        let labels = check(&alert["expr"]).unwrap_or_else(|error| panic!("{name}: {error}"));
        for annotation in ["summary", "description", "remedy"] {
            let text = alert.get(&format!("annotations.{annotation}"));
            assert_labels(text.unwrap_or_else(|| panic!("{name}: no {annotation}")), &labels, name);
        }
        let severity = alert["labels.severity"].as_str();
        assert!(["critical", "warning", "info"].contains(&severity), "{name}: {severity}");
    }
}

#[test]
fn every_panel_of_the_dashboard_shows_what_the_server_has() {
    let dashboard: Value = serde_json::from_str(&read("grafana/cairn.json")).unwrap();
    let mut ids = BTreeSet::new();
    let mut num_expressions = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is taken");
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            let labels = check(expression).unwrap_or_else(|error| panic!("{title}: {error}"));
            assert_labels(target["legendFormat"].as_str().unwrap(), &labels, title);
            num_expressions += 1;
        }
        let is_row = panel["type"] == "row";
        assert_eq!(is_row, panel["targets"].is_null(), "{title}");
    }
    assert!(num_expressions > 30);
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if let Some(query) = variable["query"]["query"].as_str() {
            let inner = query.strip_prefix("label_values(").unwrap().strip_suffix(')').unwrap();
            let (series, label) = inner.split_once(", ").unwrap();
            assert!(labels_of(series).unwrap().contains(label), "{query}");
        }
    }
}

#[test]
fn what_the_server_does_not_have_is_found() {
    for (expression, expected) in [
        ("rate(cairn_nothing_total[5m])", "unknown series `cairn_nothing_total`"),
        ("cairn_ready{path=\"/\"}", "`cairn_ready` has no label `path`"),
        ("sum by (reason) (cairn_ready)", "no series has the label `reason`"),
        ("vllm:time_to_first_token_seconds", "unknown series `vllm:time_to_first_token_seconds`"),
        ("vllm:num_requests_running_bucket", "unknown series `vllm:num_requests_running_bucket`"),
        ("guess(cairn_ready)", "unknown function `guess`"),
    ] {
        assert_eq!(check(expression), Err(expected.to_owned()), "{expression}");
    }
    assert!(check("sum by (le) (rate(vllm:e2e_request_latency_seconds_bucket[5m]))").is_ok());
}
