//! Medians over the rounds, and ratios of medians.

use std::collections::BTreeMap;

use serde::Serialize;

use super::rounds::{Record, Sample};
use super::row::{Better, Row, Target, Who};

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Figure {
    /// Absent for memory.
    pub(super) target: Option<&'static str>,
    #[serde(rename = "row")]
    id: &'static str,
    title: &'static str,
    unit: &'static str,
    better: Better,
    pub(super) median: BTreeMap<&'static str, f64>,
    /// Ours and the peer's beside no mesh.
    pub(super) to_direct: BTreeMap<&'static str, f64>,
    /// Ours beside the peer.
    pub(super) ours_to_peer: Option<f64>,
    /// How far the rounds of the least steady contender lie apart, as a part of its median.
    pub(super) spread: f64,
    /// The figure of each round.
    rounds: BTreeMap<&'static str, Vec<f64>>,
    #[serde(skip)]
    pub(super) row: Row,
}

/// All figures, in the order of targets and rows.
pub(super) fn figures(record: &Record, targets: &[Target]) -> Vec<Figure> {
    let targets = targets.iter().copied().map(Some).chain([None]);
    let all = targets.flat_map(|target| Row::ALL.map(|row| Figure::new(&record.samples, target, row)));
    all.filter(|figure| !figure.median.is_empty()).collect()
}

impl Figure {
    fn new(samples: &[Sample], target: Option<Target>, row: Row) -> Self {
        let look = row.look();
        let of = |who| values(samples, target, row, who);
        let all = Who::ALL.map(|who| (who.id(), of(who)));
        let rounds: BTreeMap<_, _> = all.into_iter().filter(|(_, values)| !values.is_empty()).collect();
        let median: BTreeMap<_, _> = rounds.iter().map(|(who, values)| (*who, median(values))).collect();
        let ratio = |who: Who, base: Who| {
            let (value, base) = (median.get(who.id())?, median.get(base.id())?);
            (*value > 0.0 && *base > 0.0).then(|| rounded(value / base, 3))
        };
        let to_direct = [Who::Ours, Who::Peer].map(|who| (who.id(), ratio(who, Who::Direct)));
        Self {
            target: target.map(Target::pod),
            id: look.id,
            title: look.title,
            unit: look.unit,
            better: look.better,
            to_direct: to_direct.into_iter().filter_map(|(who, ratio)| Some((who, ratio?))).collect(),
            ours_to_peer: ratio(Who::Ours, Who::Peer),
            spread: rounded(rounds.values().map(|values| spread(values)).fold(0.0, f64::max), 3),
            median: median.into_iter().map(|(who, value)| (who, rounded(value, look.decimals))).collect(),
            rounds: rounds.into_iter().map(|(who, values)| (who, shortened(&values, look.decimals))).collect(),
            row,
        }
    }
}

/// One contender's figures, by round. What a mesh adds to the round trip is known where the round has both.
fn values(samples: &[Sample], target: Option<Target>, row: Row, who: Who) -> Vec<f64> {
    let of = |row: Row, who: Who| samples.iter().filter(move |s| (s.row, s.who, s.target) == (row, who, target));
    if row != Row::RoundTripAdded {
        return of(row, who).map(|sample| sample.value).collect();
    }
    if who == Who::Direct {
        return Vec::new();
    }
    let direct = |round: u32| of(Row::RoundTripMedian, Who::Direct).find(|sample| sample.round == round);
    of(Row::RoundTripMedian, who).filter_map(|mesh| Some(mesh.value - direct(mesh.round)?.value)).collect()
}

/// The middle one, or the mean of the two in the middle.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted.get((sorted.len().max(1) - 1) / 2), sorted.get(sorted.len() / 2));
    f64::midpoint(low.copied().unwrap_or_default(), high.copied().unwrap_or_default())
}

fn spread(values: &[f64]) -> f64 {
    let (least, most) = values.iter().fold((f64::MAX, f64::MIN), |(l, m), value| (l.min(*value), m.max(*value)));
    let median = median(values);
    if median > 0.0 { (most - least) / median } else { 0.0 }
}

fn shortened(values: &[f64], decimals: usize) -> Vec<f64> {
    values.iter().map(|value| rounded(*value, decimals)).collect()
}

fn rounded(value: f64, decimals: usize) -> f64 {
    let factor = 10_f64.powi(i32::try_from(decimals).unwrap_or_default());
    (value * factor).round() / factor
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds of one row, at the far target.
    fn record(all: &[(Who, &[f64])], row: Row) -> Record {
        let samples = all.iter().flat_map(|(who, values)| {
            let rounds = (1..).zip(*values);
            rounds.map(|(round, value)| Sample { round, who: *who, target: Some(Target::Far), row, value: *value })
        });
        Record { samples: samples.collect(), ..Record::default() }
    }

    #[test]
    fn medians_and_their_ratios() {
        let all: [(Who, &[f64]); 3] =
            [(Who::Direct, &[10.0, 12.0, 8.0]), (Who::Ours, &[5.0, 6.0]), (Who::Peer, &[4.0])];
        let figures = figures(&record(&all, Row::Throughput1), &[Target::Far, Target::Near]);
        let [figure] = &figures[..] else { panic!("one row was measured: {figures:?}") };
        assert_eq!(figure.median, BTreeMap::from([("direct", 10.0), ("ours", 5.5), ("peer", 4.0)]));
        assert_eq!(figure.to_direct, BTreeMap::from([("ours", 0.55), ("peer", 0.4)]));
        assert_eq!(figure.ours_to_peer, Some(1.375));
        assert_eq!(figure.spread, 0.4);
    }

    #[test]
    fn what_is_missing_has_no_ratio() {
        let all: [(Who, &[f64]); 2] = [(Who::Direct, &[0.0]), (Who::Ours, &[5.0])];
        let figures = figures(&record(&all, Row::Requests), &[Target::Far]);
        assert!(figures[0].to_direct.is_empty());
        assert_eq!(figures[0].ours_to_peer, None);
    }

    #[test]
    fn the_added_round_trip_is_a_difference_within_a_round() {
        let all: [(Who, &[f64]); 3] =
            [(Who::Direct, &[50.0, 60.0]), (Who::Ours, &[90.0, 104.0]), (Who::Peer, &[150.0, 164.0])];
        let figures = figures(&record(&all, Row::RoundTripMedian), &[Target::Far]);
        let added = figures.iter().find(|figure| figure.row == Row::RoundTripAdded).unwrap();
        assert_eq!(added.median, BTreeMap::from([("ours", 42.0), ("peer", 102.0)]));
        assert!(added.to_direct.is_empty());
        assert_eq!(added.ours_to_peer, Some(0.412));
    }
}
