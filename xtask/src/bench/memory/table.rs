//! The figures for people, each beside its goal.

use super::CONNECTIONS;
use super::run::{AFTER, BURST, Both, Figures, Stages};
use crate::bench::listing::{Line, goal, listing};
use crate::bench::usage::Held;

/// MiB of one agent: ready, and with as many connections as the goals are about.
const IDLE: f64 = 15.0;
const CROWDED: f64 = 100.0;
/// What it may hold once they have gone, by what it held before.
const KEPT: f64 = 1.2;

/// One of the two agents.
type Which = fn(&Both) -> Held;

pub(super) fn table(figures: &Figures) -> String {
    let agents: [(_, Which); 2] =
        [("the client's agent", |both| both.client), ("the server's agent", |both| both.server)];
    let sections = agents.map(|(title, which)| {
        let mut lines = started(which(&figures.quiet.started));
        lines.extend(crowd("a few bytes each", figures.connections, &figures.quiet, which));
        let burst = format!("{} KiB each way", BURST >> 10);
        lines.extend(crowd(&burst, figures.connections, &figures.burst, which));
        format!("{title}\n{}", listing(&lines))
    });
    sections.join("\n")
}

fn started(held: Held) -> Vec<Line> {
    let mut lines = vec![resident("resident, ready and unused", held, goal(held.resident, IDLE, "MiB")), own(held)];
    let shared = format!("{:.1} MiB", held.proportional);
    lines.push(Line("... proportional: code that is shared in shares".to_owned(), shared, String::new()));
    lines
}

fn crowd(what: &str, connections: u32, stages: &Stages, which: Which) -> Vec<Line> {
    let (warm, open, closed) = (which(&stages.warm), which(&stages.open), which(&stages.closed));
    let limit = if connections == CONNECTIONS { goal(open.resident, CROWDED, "MiB") } else { String::new() };
    let each = (open.resident - warm.resident) * 1024.0 / f64::from(connections);
    let descriptors = open.descriptors.saturating_sub(warm.descriptors) as f64 / f64::from(connections);
    let kept = closed.resident / warm.resident;
    vec![
        resident(&format!("before {connections} connections, {what}"), warm, String::new()),
        own(warm),
        resident("... while all are open", open, limit),
        own(open),
        Line("... for each".to_owned(), format!("{each:.1} KiB, {descriptors:.2} files"), String::new()),
        resident(&format!("... {} s after the last has ended", AFTER.as_secs()), closed, String::new()),
        own(closed),
        Line("... beside what it was before".to_owned(), format!("{kept:.2} x"), goal(kept, KEPT, "x")),
    ]
}

fn resident(name: &str, held: Held, goal: String) -> Line {
    Line(name.to_owned(), format!("{:.1} MiB (peak {:.1})", held.resident, held.peak), goal)
}

fn own(held: Held) -> Line {
    Line("... of it heap and stacks".to_owned(), format!("{:.1} MiB", held.anonymous), String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(resident: f64, descriptors: usize) -> Both {
        let held = Held {
            resident,
            anonymous: resident / 2.0,
            proportional: resident * 0.75,
            peak: resident + 1.0,
            descriptors,
        };
        Both { client: held, server: Held { resident: resident + 10.0, ..held } }
    }

    fn figures(connections: u32) -> Figures {
        let stages =
            Stages { started: both(14.0, 50), warm: both(20.0, 60), open: both(98.0, 10_060), closed: both(24.0, 60) };
        Figures { connections, quiet: stages, burst: stages }
    }

    #[test]
    fn each_agent_beside_the_goals() {
        let text = table(&figures(10_000));
        let found: Vec<_> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        let expected = [
            "the client's agent",
            "resident, ready and unused 14.0 MiB (peak 15.0) goal 15 MiB",
            "... of it heap and stacks 7.0 MiB",
            "... proportional: code that is shared in shares 10.5 MiB",
            "before 10000 connections, a few bytes each 20.0 MiB (peak 21.0)",
            "... of it heap and stacks 10.0 MiB",
            "... while all are open 98.0 MiB (peak 99.0) goal 100 MiB",
            "... of it heap and stacks 49.0 MiB",
            "... for each 8.0 KiB, 1.00 files",
            "... 10 s after the last has ended 24.0 MiB (peak 25.0)",
            "... of it heap and stacks 12.0 MiB",
            "... beside what it was before 1.20 x goal 1.2 x",
            "before 10000 connections, 256 KiB each way 20.0 MiB (peak 21.0)",
        ];
        assert_eq!(found[..expected.len()], expected);
        let server = text.split_once("the server's agent").unwrap().1;
        assert_eq!(server.matches("MISSED").count(), 3, "idle, and twice with all open: {server}");
    }

    #[test]
    fn other_numbers_have_no_goal() {
        let text = table(&figures(10));
        assert!(!text.contains("goal 100 MiB") && text.contains("goal 15 MiB"), "{text}");
    }
}
