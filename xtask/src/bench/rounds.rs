//! Rounds: in each, everyone has a turn, one after the other, so that what the machine does meanwhile hits all alike.

use std::time::Instant;

use anyhow::{Context, Result};

use super::awake::Awake;
use super::contender::Contender;
use super::load::Load;
use super::row::{Measurement, Row, Target, Who};
use super::usage::Resident;
use crate::step::say;

/// What is to be measured.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) rounds: u32,
    pub(super) seconds: u32,
    pub(super) targets: Vec<Target>,
    pub(super) measurements: Vec<Measurement>,
}

/// One figure of one round; memory is not a target's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) round: u32,
    pub(super) who: Who,
    pub(super) target: Option<Target>,
    pub(super) row: Row,
    pub(super) value: f64,
}

/// All that was measured.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) samples: Vec<Sample>,
    /// What should be known of some of them.
    pub(super) remarks: Vec<String>,
    /// What could not be measured.
    pub(super) failures: Vec<String>,
}

/// A contender's part of a round.
struct Turn<'a> {
    plan: &'a Plan,
    round: u32,
    record: &'a mut Record,
}

impl Plan {
    /// Plays all rounds, telling each figure as it comes. What fails is noted; a contender that does not run ends it.
    pub(super) fn play(&self, contenders: &mut [Contender]) -> Result<Record> {
        let _awake = Awake::start()?;
        let mut record = Record::default();
        let started = Instant::now();
        let turns = self.rounds as usize * contenders.len();
        for turn in 0..turns {
            let round = u32::try_from(turn / contenders.len())? + 1;
            let at = turn % contenders.len();
            let Some(contender) = contenders.get_mut(at) else { continue };
            let left = self.seconds_left(turn, turns, started);
            say(format_args!("round {round} of {}, {} (about {left} s to go)", self.rounds, contender.who));
            let played = Turn { plan: self, round, record: &mut record }.play(contender);
            if let Err(error) = played {
                let failure = format!("round {round}, {}: {error:#}", contender.who);
                say(format_args!("FAILED {failure}\n{}", contender.logs()));
                record.failures.push(failure);
                break;
            }
        }
        Ok(record)
    }

    /// By the turns so far; before them, by what is planned.
    fn seconds_left(&self, turn: usize, turns: usize, started: Instant) -> u64 {
        const START: f64 = 1.5;
        const TOOL: f64 = 0.7;
        let planned = START + (f64::from(self.seconds) + TOOL) * (self.targets.len() * self.measurements.len()) as f64;
        let each = if turn == 0 { planned } else { started.elapsed().as_secs_f64() / turn as f64 };
        (each * (turns - turn) as f64).ceil() as u64
    }
}

impl Turn<'_> {
    fn play(&mut self, contender: &mut Contender) -> Result<()> {
        let start = Instant::now();
        contender.start().context("it does not start")?;
        if contender.has_agents() {
            say(format_args!("  its agents run after {:.1} s", start.elapsed().as_secs_f64()));
            self.note(contender.who, None, Row::MemoryIdle, contender.mebibytes(Resident::Now)?);
        }
        if self.plan.targets.contains(&Target::Far) {
            contender.check_way().context("what is measured would not be what is said")?;
        }
        let plan = self.plan;
        for target in &plan.targets {
            for measurement in &plan.measurements {
                self.measure(contender, *target, *measurement);
            }
        }
        if contender.has_agents() {
            self.note(contender.who, None, Row::MemoryPeak, contender.mebibytes(Resident::Peak).context("its agents")?);
        }
        contender.stop().context("it does not stop")
    }

    fn measure(&mut self, contender: &Contender, target: Target, measurement: Measurement) {
        let who = contender.who;
        let outcome = Load::new(contender, target, self.plan.seconds).run(measurement);
        let place = format!("round {}, {who}, {}, {}", self.round, target.pod(), measurement.title());
        match outcome {
            Ok(outcome) => {
                let told: Vec<_> = outcome.values.iter().map(|(row, value)| in_words(*row, *value)).collect();
                say(format_args!("  {:<6}{:<24}{}", target.pod(), measurement.title(), told.join("   ")));
                for (row, value) in outcome.values {
                    self.note(who, Some(target), row, value);
                }
                self.record.remarks.extend(outcome.remark.map(|remark| format!("{place}: {remark}")));
            }
            Err(error) => {
                say(format_args!("  {:<6}{:<24}FAILED {error:#}", target.pod(), measurement.title()));
                self.record.failures.push(format!("{place}: {error:#}"));
            }
        }
    }

    fn note(&mut self, who: Who, target: Option<Target>, row: Row, value: f64) {
        self.record.samples.push(Sample { round: self.round, who, target, row, value });
    }
}

/// What figures are made of.
pub(super) fn medians(rounds: u32) -> String {
    if rounds == 1 { "one round".to_owned() } else { format!("medians of {rounds} rounds") }
}

/// A figure within a line: the title of the line's measurement says the rest.
pub(super) fn in_words(row: Row, value: f64) -> String {
    let look = row.look();
    let prefix = match row {
        Row::RoundTripMedian | Row::LoadedMedian => "p50 ",
        Row::RoundTripP99 | Row::LoadedP99 | Row::RequestP99 => "p99 ",
        Row::RoundTripP999 => "p99.9 ",
        Row::LoadedToIdle => "p99 to idle ",
        Row::LoadedThroughput => "meanwhile ",
        Row::CpuPerGigabyte1 | Row::CpuPerGigabyte8 | Row::CpuPerRequest | Row::CpuPerConnection => "CPU ",
        Row::Throughput1
        | Row::Throughput8
        | Row::RoundTripAdded
        | Row::Requests
        | Row::Connections
        | Row::MemoryIdle
        | Row::MemoryPeak => "",
    };
    format!("{prefix}{value:.*} {}", look.decimals, look.unit)
}
