//! What a drawing needs of a run's document, which an older build may have written.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::bench::rounds::medians;
use crate::bench::row::Who;
use crate::bench::table::place;

/// What is drawn.
#[derive(Debug, PartialEq)]
pub(super) struct Document {
    /// Those that have bars, in order: id and name.
    pub(super) who: Vec<(&'static str, String)>,
    pub(super) groups: Vec<Group>,
    /// Where and how it was measured.
    pub(super) caption: Vec<String>,
}

/// The bars of a row.
#[derive(Debug, PartialEq)]
pub(super) struct Group {
    /// A heading, where the groups of another place begin.
    pub(super) heading: Option<&'static str>,
    pub(super) title: String,
    /// What no mesh does.
    pub(super) base: String,
    pub(super) bars: Vec<Bar>,
}

#[derive(Debug, PartialEq)]
pub(super) struct Bar {
    /// Which of those that have bars.
    pub(super) who: usize,
    /// Beside no mesh.
    pub(super) ratio: f64,
    pub(super) label: String,
}

#[derive(Debug, Deserialize)]
struct Written {
    machine: Machine,
    rounds: u32,
    secs: u32,
    peer: Option<Peer>,
    #[serde(default)]
    same_node: BTreeMap<String, Option<String>>,
    figures: Vec<Figure>,
}

#[derive(Debug, Deserialize)]
struct Machine {
    date: String,
    kernel: String,
    cpu: String,
    cores: u32,
}

#[derive(Debug, Deserialize)]
struct Peer {
    kind: String,
    version: String,
}

#[derive(Debug, Deserialize)]
struct Figure {
    target: Option<String>,
    title: String,
    unit: String,
    better: String,
    median: BTreeMap<String, f64>,
    to_direct: BTreeMap<String, f64>,
}

impl Document {
    pub(super) fn read(document: &Value) -> Result<Self> {
        let written = Written::deserialize(document).context("this is no document of `cargo xtask bench`")?;
        let has_bars = |who: &Who| written.figures.iter().any(|figure| figure.to_direct.contains_key(who.id()));
        let who: Vec<_> = Who::ALL.into_iter().filter(has_bars).map(|who| (who.id(), written.name(who))).collect();
        let mut place_before = None;
        let groups = written.figures.iter().filter(|figure| !figure.to_direct.is_empty()).map(|figure| {
            let place = place(figure.target.as_deref());
            let heading = (place_before.replace(place) != Some(place)).then_some(place);
            figure.group(heading, &who)
        });
        let groups = groups.collect();
        Ok(Self { who, groups, caption: written.caption() })
    }
}

impl Written {
    /// A contender in words.
    fn name(&self, who: Who) -> String {
        let name = match (who, &self.peer) {
            (Who::Peer, Some(peer)) if peer.kind == "mesh-agent" => "mesh-agent, the peer",
            (Who::Peer, Some(peer)) => &peer.kind,
            (Who::Peer, None) => "peer",
            (Who::Ours, _) => "mesh-agent",
            (Who::Direct, _) => "no mesh",
        };
        match self.same_node.get(who.id()) {
            Some(Some(mode)) => format!("{name} (on one node: {mode})"),
            _ => name.to_owned(),
        }
    }

    fn caption(&self) -> Vec<String> {
        let Machine { date, kernel, cpu, cores } = &self.machine;
        let day = date.split('T').next().unwrap_or_default();
        let mut lines = vec![
            format!("{day}; {cores} cores ({cpu}) for client, server and agents; kernel {kernel}"),
            format!("{}, {} s for each measurement", medians(self.rounds), self.secs),
        ];
        // Some say how they were built as well, which the line has no room for.
        let version = |peer: &Peer| peer.version.split(" (").next().unwrap_or_default().to_owned();
        lines.extend(self.peer.iter().map(version).filter(|version| !version.is_empty()));
        lines
    }
}

impl Figure {
    fn group(&self, heading: Option<&'static str>, who: &[(&'static str, String)]) -> Group {
        let arrow = if self.better == "higher" { "↑" } else { "↓" };
        // A ratio of two times of one contender has no unit.
        let value = |value: f64| format!("{value} {}", if self.unit == "x" { "times" } else { &self.unit });
        let of = |id: &str| self.median.get(id).copied().map(value).unwrap_or_default();
        let bar = |(at, (id, _)): (usize, &(&'static str, String))| {
            let ratio = *self.to_direct.get(*id)?;
            Some(Bar { who: at, ratio, label: format!("{ratio:.2} x  ({})", of(id)) })
        };
        Group {
            heading,
            title: format!("{} {arrow}", self.title),
            base: format!("no mesh: {}", of(Who::Direct.id())),
            bars: who.iter().enumerate().filter_map(bar).collect(),
        }
    }
}
