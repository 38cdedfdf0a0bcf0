//! `cargo xtask demo`: the mesh at work, told step by step. It checks what it shows: a step that does not show what it
//! should ends the demo with an error.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;

use crate::lab::agent;

mod latency;
mod screen;
mod story;

use screen::Screen;
use story::Story;

/// Lines of each log that are shown when a step fails.
const LOG: usize = 12;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(root: &Path, _args: &Args) -> Result<()> {
    let binary = agent::build(root)?;
    let start = Instant::now();
    let screen = Screen::new();
    screen.title("mesh-agent: two nodes whose pods, unchanged and unaware, talk in mutual TLS");
    let mut story = Story::begin(&screen, binary)?;
    let told = story.tell();
    if let Err(error) = &told {
        screen.failed(&format!("{error:#}"));
        screen.quote(&story.logs(LOG));
    }
    story.end()?;
    told?;
    screen.say("");
    screen
        .passed(&format!("All of it was checked while it was shown; it took {:.0} s.", start.elapsed().as_secs_f64()));
    screen.say("Keep the lab to play with: cargo xtask lab up. Every claim as a test: cargo xtask test.");
    Ok(())
}
