//! Asks every case's question so many times, for callgrind, which counts what [`measured`] executes and nothing else.
//! `cargo xtask bench --check` runs it.

use std::io::{self, Write};

use mesh_bench::{Ask, Draws, Portable, cases};

/// Questions of a case that are counted. Where an entry is in a hash map differs from run to run: this many even out.
const QUESTIONS: u32 = 4096;

fn main() -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    for case in cases().iter().filter(|case| case.portable == Portable::Yes) {
        let mut ask = case.prepare()?;
        // What is done once, by whoever asks first, is not what is counted.
        let mut draws = Draws::default();
        (0..QUESTIONS / 8).for_each(|_| ask(draws.number()));
        // Before it is counted, so that the names are in the order of the counts.
        writeln!(output, "{QUESTIONS} {}/{}", case.group, case.name)?;
        measured(&mut ask);
    }
    Ok(())
}

/// Known to callgrind by its name.
#[inline(never)]
fn measured(ask: &mut Ask) {
    let mut draws = Draws::default();
    (0..QUESTIONS).for_each(|_| ask(draws.number()));
}
