//! `ctl flows --follow`: the same table, refreshed in place like `top`, busiest connections first.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use super::client::{CtlError, Socket};
use super::flows::{Look, Rates, render};
use super::text::bytes;
use super::{FlowsArgs, Output, fetch_flows};
use crate::admin::documents::Flows;

const EVERY: Duration = Duration::from_secs(1);

/// The size of a screen that does not tell.
const USUAL: (usize, usize) = (160, 50);

/// Shows the flows until Ctrl-C. An agent that goes away is waited for.
pub(super) async fn run(
    socket: &Socket<'_>,
    args: &FlowsArgs,
    output: Output,
    out: &mut impl Write,
) -> Result<(), CtlError> {
    let (mut interrupt, mut terminate) = stop_signals().map_err(CtlError::Output)?;
    let screen = Screen::enter(out, output).map_err(CtlError::Output)?;
    let watching = watch(socket, args, output, &screen, out);
    let result = tokio::select! {
        result = watching => result,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    screen.leave(out).map_err(CtlError::Output)?;
    result
}

fn stop_signals() -> io::Result<(tokio::signal::unix::Signal, tokio::signal::unix::Signal)> {
    Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
}

async fn watch(
    socket: &Socket<'_>,
    args: &FlowsArgs,
    output: Output,
    screen: &Screen,
    out: &mut impl Write,
) -> Result<(), CtlError> {
    let mut last: Option<(Look, Instant)> = None;
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The first answer decides whether there is an agent at all.
    let mut seen = Seen::Never;
    loop {
        ticks.tick().await;
        let text = match fetch_flows(socket, args).await {
            Ok(document) => {
                seen = Seen::Before;
                let rates = match last.take() {
                    Some((look, taken)) => Rates::Since(look.aged(taken.elapsed())),
                    None => Rates::Average,
                };
                last = Some((Look::at(&document), Instant::now()));
                picture(document, &rates, output)?
            }
            Err(error) if seen == Seen::Before => waiting(&error, output),
            Err(error) => return Err(error),
        };
        screen.draw(out, &text).map_err(CtlError::Output)?;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    Never,
    Before,
}

fn waiting(error: &CtlError, output: Output) -> String {
    match output {
        Output::Table => format!("{error}\nwaiting for it to come back; Ctrl-C ends\n"),
        Output::Json => String::new(),
    }
}

fn picture(mut document: Flows, rates: &Rates, output: Output) -> Result<String, CtlError> {
    match output {
        Output::Json => Ok(serde_json::to_string(&document).map_err(CtlError::Document)? + "\n"),
        Output::Table => {
            document.flows.sort_by_key(|flow| (std::cmp::Reverse(rates.of(flow)), flow.shard, flow.number));
            let total: u64 = document.flows.iter().map(|flow| rates.of(flow)).sum();
            let (count, node) = (document.flows.len(), &document.node);
            let head = format!("{count} connections on {node}, {}/s; Ctrl-C ends\n\n", bytes(total));
            Ok(head + &render(&document, rates))
        }
    }
}

/// Where the pictures are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Screen {
    /// A terminal, switched to its second screen.
    Terminal,
    /// A file or a pipe: one picture after the other.
    Stream,
}

const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

impl Screen {
    fn enter(out: &mut impl Write, output: Output) -> io::Result<Self> {
        if output == Output::Json || !io::stdout().is_terminal() {
            return Ok(Self::Stream);
        }
        out.write_all(ENTER.as_bytes())?;
        Ok(Self::Terminal)
    }

    fn draw(self, out: &mut impl Write, text: &str) -> io::Result<()> {
        match self {
            Self::Terminal => out.write_all(fit(text, size()).as_bytes())?,
            Self::Stream => out.write_all(text.as_bytes())?,
        }
        out.flush()
    }

    fn leave(self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Terminal => out.write_all(LEAVE.as_bytes())?,
            Self::Stream => {}
        }
        out.flush()
    }
}

fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 1 => (size.ws_col.into(), size.ws_row.into()),
        Ok(_) | Err(_) => USUAL,
    }
}

/// Cuts a text to the screen and adds what redraws it in place without flicker.
fn fit(text: &str, (columns, rows): (usize, usize)) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let shown = if lines.len() > rows { rows - 1 } else { lines.len() };
    let mut picture = HOME.to_owned();
    for (index, line) in lines[..shown].iter().enumerate() {
        let line: String = line.chars().take(columns).collect();
        let end = if index + 1 < rows { "\r\n" } else { "" };
        // Writing to a string cannot fail.
        write!(picture, "{line}{CLEAR_LINE}{end}").unwrap_or_default();
    }
    if shown < lines.len() {
        write!(picture, "... {} more{CLEAR_LINE}", lines.len() - shown).unwrap_or_default();
    }
    picture + CLEAR_BELOW
}

#[cfg(test)]
mod tests {
    use super::fit;

    #[test]
    fn pictures_fit_the_screen() {
        let cases = [
            ("ab\ncd\n", (1, 9), "a|c|"),
            ("ab\ncd\n", (9, 2), "ab|cd"),
            ("a\nb\nc\n", (9, 2), "a|... 2 more"),
            ("", (9, 9), ""),
        ];
        for (text, size, expected) in cases {
            let expected = format!("\x1b[H{}\x1b[J", expected.replace('|', "\x1b[K\r\n"));
            let expected = expected.replace("cd\x1b[J", "cd\x1b[K\x1b[J").replace("more", "more\x1b[K");
            assert_eq!(fit(text, size), expected, "{text:?} in {size:?}");
        }
    }
}
