//! The figures for people, each beside its goal.

use super::super::micro::{self, Timing};
use super::mesh::{SERVICES, WORKLOADS};
use super::pulse::Beats;
use super::run::{Figures, Memory};
use crate::bench::listing::{Line, goal, listing};

pub(super) fn table(figures: &Figures, timings: &[Timing]) -> String {
    let mut rows = memory(figures);
    rows.push(Line(
        format!("all of it pushed ({:.0} MiB) until in force", figures.message_mib),
        ms(figures.taken_over),
        String::new(),
    ));
    rows.push(Line("a new agent's stream until synced".to_owned(), ms(figures.synced), String::new()));
    let changes = figures.changes;
    rows.push(Line("changed endpoint until reached, p50".to_owned(), ms(changes.p50), goal(changes.p50, 100.0, "ms")));
    rows.push(Line("... worst of 20".to_owned(), ms(changes.worst), goal(changes.worst, 100.0, "ms")));
    rows.extend(stalls("quiet", figures.quiet, None));
    rows.extend(stalls("while all streams in", figures.streaming_in, Some(figures.quiet)));
    rows.extend(stalls("50 changes a second", figures.steady, Some(figures.quiet)));
    [listing(&rows), micro::table(timings)].concat()
}

fn memory(figures: &Figures) -> Vec<Line> {
    let all = figures.memory;
    let row = |name: &str, memory: Memory, limit: Option<f64>| {
        let found = format!("{:.0} MiB (peak {:.0})", memory.now, memory.peak);
        Line(format!("resident, {name}"), found, limit.map_or_else(String::new, |limit| goal(memory.now, limit, "MiB")))
    };
    let limit = Some(200.0);
    vec![
        row("4 workloads, 1 service", all.empty, None),
        row(&format!("{WORKLOADS} workloads, {SERVICES} services"), all.full, limit),
        row("... after 5 s", all.settled, limit),
        row("... after changes", all.changed, limit),
        row("... of a new agent", all.restarted, limit),
        row("... after 5 s", all.restarted_settled, limit),
    ]
}

fn stalls(name: &str, beats: Beats, before: Option<Beats>) -> [Line; 2] {
    let met = |before: Beats| if beats.worst <= before.worst.max(5.0) { "goal 5 ms" } else { "MISSED: goal 5 ms" };
    [
        Line(
            format!("round trip, {name}: p50 / p99"),
            format!("{:.2} / {:.2} ms", beats.p50, beats.p99),
            String::new(),
        ),
        Line(
            format!("... worst of {} (over 5 ms)", beats.count),
            format!("{:.2} ms ({})", beats.worst, beats.stalls),
            before.map_or_else(String::new, |before| met(before).to_owned()),
        ),
    ]
}

fn ms(value: f64) -> String {
    format!("{value:.1} ms")
}
