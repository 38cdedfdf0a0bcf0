//! The figures for people.

use std::fmt::Write;

use super::row::{Better, Who};
use super::summary::Figure;

/// All figures, one section per target and one for memory. A column without any figure is left out.
pub(super) fn table(figures: &[Figure]) -> String {
    let shown: Vec<Who> =
        Who::ALL.into_iter().filter(|who| figures.iter().any(|f| f.median.contains_key(who.id()))).collect();
    let mut text = String::new();
    let mut section = None;
    for figure in figures {
        if section != Some(figure.target) {
            section = Some(figure.target);
            text.push_str(&heading(figure.target, &shown));
        }
        text.push_str(&line(figure, &shown));
    }
    text
}

/// What the figures of a section are about.
pub(super) fn place(target: Option<&str>) -> &'static str {
    match target {
        Some("near") => "to a pod on the same node",
        Some(_) => "to a pod on the other node",
        None => "memory of all agents",
    }
}

fn heading(target: Option<&str>, shown: &[Who]) -> String {
    let what = place(target);
    let names: String = shown.iter().map(|who| format!("{:>11}", title(*who))).collect();
    let peer = if shown.contains(&Who::Peer) { format!("{:>12}", "ours/peer") } else { String::new() };
    format!("\n{what:<37}{names}{:>15}{peer}{:>9}\n", "ours/no mesh", "spread")
}

fn line(figure: &Figure, shown: &[Who]) -> String {
    let look = figure.row.look();
    let arrow = match look.better {
        Better::Higher => "↑",
        Better::Lower => "↓",
    };
    let mut line = format!("  {:<26} {:>6} {arrow}", look.title, look.unit);
    for who in shown {
        let value = figure.median.get(who.id()).map(|value| format!("{value:.*}", look.decimals));
        // Writing to a string cannot fail.
        write!(line, "{:>11}", value.unwrap_or_else(|| "-".to_owned())).unwrap_or_default();
    }
    let ratio = |ratio: Option<f64>| ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2} x"));
    line.push_str(&format!("{:>15}", ratio(figure.to_direct.get(Who::Ours.id()).copied())));
    if shown.contains(&Who::Peer) {
        line.push_str(&format!("{:>12}", ratio(figure.ours_to_peer)));
    }
    line + &format!("{:>7.0} %\n", figure.spread * 100.0)
}

fn title(who: Who) -> &'static str {
    match who {
        Who::Direct => "no mesh",
        Who::Ours => "ours",
        Who::Peer => "peer",
    }
}

#[cfg(test)]
mod tests {
    use super::super::rounds::{Record, Sample};
    use super::super::row::{Row, Target};
    use super::super::summary::figures;
    use super::*;

    #[test]
    fn as_it_is_read() {
        let of = |who, target, row, value| Sample { round: 1, who, target, row, value };
        let far = Some(Target::Far);
        let samples = vec![
            of(Who::Direct, far, Row::Throughput1, 10.0),
            of(Who::Ours, far, Row::Throughput1, 5.5),
            of(Who::Ours, far, Row::CpuPerGigabyte1, 1.5),
            of(Who::Ours, None, Row::MemoryIdle, 20.25),
        ];
        let record = Record { samples, ..Record::default() };
        let expected = "
to a pod on the other node               no mesh       ours   ours/no mesh   spread
  throughput, 1 stream         Gb/s ↑      10.00       5.50         0.55 x      0 %
  agents' CPU, 1 stream        s/GB ↓          -      1.500              -      0 %

memory of all agents                     no mesh       ours   ours/no mesh   spread
  resident, idle                MiB ↓          -       20.3              -      0 %
";
        assert_eq!(table(&figures(&record, &[Target::Far])), expected);
    }
}
