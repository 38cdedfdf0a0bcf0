//! `cargo xtask bench plot`: a run's figures beside no mesh as bars, in SVG.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::step::say;

mod document;
mod drawing;

use document::Document;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The SVG file
    #[arg(long, value_name = "FILE", default_value = "target/bench/plot.svg")]
    out: PathBuf,
}

/// Draws the last run that is remembered.
pub(super) fn run(history: &Path, args: &Args) -> Result<()> {
    let text = fs::read_to_string(history)
        .with_context(|| format!("{}: no run is remembered, `cargo xtask bench` is one", history.display()))?;
    let last = text.lines().rfind(|line| !line.trim().is_empty()).context("no run is remembered")?;
    let document = serde_json::from_str(last).with_context(|| format!("the last line of {}", history.display()))?;
    write(&document, &args.out)
}

pub(super) fn write(document: &Value, file: &Path) -> Result<()> {
    let drawing = draw(document)?;
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(file, drawing).with_context(|| file.display().to_string())?;
    say(format_args!("drawn into {}", file.display()));
    Ok(())
}

fn draw(document: &Value) -> Result<String> {
    let document = Document::read(document)?;
    ensure!(!document.groups.is_empty(), "nothing was measured both in a mesh and without: there is nothing to draw");
    Ok(drawing::draw(&document))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A document as a run writes it: one row with bars, and two without no mesh.
    fn document() -> Value {
        let figure = |target: Value, title: &str, median: Value, to_direct: Value| {
            json!({
                "target": target, "row": "r", "title": title, "unit": "Gb/s", "better": "higher", "median": median,
                "to_direct": to_direct, "ours_to_peer": null, "spread": 0.1, "rounds": {},
            })
        };
        json!({
            "machine": {"date": "2026-01-02T03:04:05Z", "kernel": "6.18", "cpu": "A & B", "cores": 2},
            "rounds": 4, "secs": 4, "same_node": {"ours": null, "peer": "direct"},
            "peer": {"binary": "/x", "kind": "mesh-agent", "version": "mesh-agent 0.1.0"},
            "figures": [
                figure(json!("far"), "throughput", json!({"direct": 10.0, "ours": 5.5, "peer": 80.0}), json!({"ours": 0.55, "peer": 8.0})),
                figure(json!("far"), "CPU", json!({"ours": 5.5}), json!({})),
                figure(json!("near"), "throughput", json!({"direct": 20.0, "ours": 10.0}), json!({"ours": 0.5})),
                figure(Value::Null, "memory", json!({"ours": 5.5}), json!({})),
            ],
        })
    }

    #[test]
    fn rows_that_no_mesh_has_too() {
        let document = Document::read(&document()).unwrap();
        let names: Vec<_> = document.who.iter().map(|(_, name)| &name[..]).collect();
        assert_eq!(names, ["mesh-agent", "mesh-agent, the peer (on one node: direct)"]);
        let shown = |group: &document::Group| {
            let labels: Vec<_> = group.bars.iter().map(|bar| bar.label.clone()).collect();
            (group.heading, group.title.clone(), group.base.clone(), labels)
        };
        let labels = |labels: &[&str]| labels.iter().map(|&label| label.to_owned()).collect::<Vec<_>>();
        let far = (
            Some("to a pod on the other node"),
            "throughput ↑".to_owned(),
            "no mesh: 10 Gb/s".to_owned(),
            labels(&["0.55 x  (5.5 Gb/s)", "8.00 x  (80 Gb/s)"]),
        );
        let near = (
            Some("to a pod on the same node"),
            "throughput ↑".to_owned(),
            "no mesh: 20 Gb/s".to_owned(),
            labels(&["0.50 x  (10 Gb/s)"]),
        );
        assert_eq!(document.groups.iter().map(shown).collect::<Vec<_>>(), [far, near]);
    }

    #[test]
    fn bars_are_as_long_as_they_say() {
        let drawing = draw(&document()).unwrap();
        let width = |class: &str| -> Vec<f64> {
            let bars = drawing.split("<rect").skip(1).filter(|tag| tag.contains(&format!("class=\"{class}\"")));
            let widths = bars.map(|tag| tag.split("width=\"").nth(1).unwrap().split('"').next().unwrap());
            // After the legend's.
            widths.skip(1).map(|width| width.parse().unwrap()).collect()
        };
        let (ours, peer) = (width("bar0"), width("bar1"));
        assert!((ours[0] / ours[1] - 1.1).abs() < 1e-9, "{ours:?}");
        assert_eq!(peer.len(), 2, "one that is beyond the scale is broken: {peer:?}");
        assert!(peer[0] < 8.0 * ours[1] / 0.5 && drawing.contains("8.00 x  (80 Gb/s)"));
        assert!(drawing.contains("A &amp; B") && !drawing.contains("A & B"));
    }

    #[test]
    fn what_cannot_be_drawn() {
        let mut document = document();
        document["figures"] = json!([]);
        assert!(draw(&document).unwrap_err().to_string().contains("nothing was measured both"));
        assert!(draw(&json!({"figures": []})).is_err());
        let args = Args { out: PathBuf::from("unused") };
        let error = run(Path::new("/nonexistent"), &args).unwrap_err();
        assert!(format!("{error:#}").contains("no run is remembered"), "{error:#}");
    }
}
