//! The plugin as a program: a runtime's call in, one question to the agent, a document and an exit code out.
//!
//! It fails closed: what cannot be asked, and what the agent cannot capture, is not started, and the runtime is told to try
//! again. What was there before is never changed; the result of the plugins before is passed on to the byte.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::ask::ask;
use super::call::{Call, Place, Variables};
use super::spec::{self, Code, Config, Fault};
use super::wire::{Answer, Request, Sandbox};

/// The longest configuration with the result in it, in bytes.
const LONGEST_INPUT: u64 = 4 << 20;

/// How long the answer to each operation is waited for.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// The agent itself gives a pod up after 20 s.
    add: Duration,
    check: Duration,
    /// For what is told rather than asked.
    tell: Duration,
}

const PATIENCE: Patience =
    Patience { add: Duration::from_secs(25), check: Duration::from_secs(10), tell: Duration::from_secs(2) };

/// Whether a program that was started by this path is the plugin: a runtime starts plugins by their file's name.
pub fn is_plugin(program: &Path) -> bool {
    program.file_name().is_some_and(|name| name == super::PROGRAM)
}

/// Runs the plugin: `variable` gives the environment's, configuration and result are on stdin and stdout.
pub fn plugin(variable: impl Fn(&str) -> Option<String>) -> ExitCode {
    let (document, code) = match run(&variable, io::stdin().lock(), &PATIENCE) {
        Ok(document) => (document, ExitCode::SUCCESS),
        Err(document) => (document, ExitCode::FAILURE),
    };
    let mut out = io::stdout().lock();
    match out.write_all(document.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => code,
        // A runtime that did not get the result must not take the pod as started.
        Err(_) => ExitCode::FAILURE,
    }
}

/// The document for stdout, and whether all went well.
fn run(variables: Variables<'_>, input: impl Read, patience: &Patience) -> Result<String, String> {
    let mut text = String::new();
    let read = input.take(LONGEST_INPUT).read_to_string(&mut text);
    let version = spec::version_of(&text);
    let io = |error: io::Error| Fault::new(Code::InputOutput, "stdin cannot be read", error.to_string());
    let done = read.map_err(io).and_then(|_| act(variables, &text, patience));
    done.map_err(|fault| fault.document(&version))
}

fn act(variables: Variables<'_>, text: &str, patience: &Patience) -> Result<String, Fault> {
    let call = Call::read(variables)?;
    if call == Call::Version {
        return Ok(spec::versions(&spec::version_of(text)));
    }
    let config = Config::read(text)?;
    match call {
        Call::Add(place) => {
            let previous = config.previous()?;
            if let Some(sandbox) = sandbox(place, previous, &config)? {
                start(&config, Request::Add, sandbox, patience.add)?;
            }
            return Ok(previous.to_owned());
        }
        Call::Check(place) => {
            if let Some(sandbox) = sandbox(place, config.previous()?, &config)? {
                start(&config, Request::Check, sandbox, patience.check)?;
            }
        }
        Call::Delete { container, pod } => {
            if let Some(pod) = pod.filter(|pod| !config.excludes(&pod.namespace)) {
                tell(&config, &Request::Delete { container, uid: pod.uid }, patience)?;
            }
        }
        Call::Gc => {
            if let Some(containers) = config.valid_containers() {
                tell(&config, &Request::Gc { containers }, patience)?;
            }
        }
        // Without the agent only pods that ask it cannot start. A network that is not ready would keep all others from
        // starting as well, and have the node drained.
        Call::Status | Call::Version => {}
    }
    Ok(String::new())
}

/// What the agent is to be asked about; nothing for pods that start without it.
fn sandbox(place: Place, previous: &str, config: &Config<'_>) -> Result<Option<Sandbox>, Fault> {
    let Place { container, netns, interface, pod } = place;
    let Some(pod) = pod.filter(|pod| !config.excludes(&pod.namespace)) else { return Ok(None) };
    let addresses = spec::addresses(previous, &interface)?;
    let (uid, name, namespace) = (pod.uid, pod.name, pod.namespace);
    Ok(Some(Sandbox { container, uid, name, namespace, netns, interface, addresses }))
}

/// Asks about one pod. Only a pod that the agent has captured, or that is none of its pods, is good.
fn start(config: &Config<'_>, request: fn(Sandbox) -> Request, sandbox: Sandbox, limit: Duration) -> Result<(), Fault> {
    let pod = format!("pod {}/{}", sandbox.namespace, sandbox.name);
    match ask(config.socket()?, &request(sandbox), limit) {
        Ok(Answer::Member | Answer::Outside(_)) => Ok(()),
        Ok(Answer::Refused(reason)) => {
            Err(Fault::new(Code::TryAgainLater, format!("{pod} cannot be in the mesh yet"), reason))
        }
        Err(error) => Err(Fault::new(Code::TryAgainLater, error.to_string(), format!("{pod} is not started"))),
    }
}

/// Tells the agent what has gone. An agent that is away finds that out by itself, and a pod's end must not wait for it.
fn tell(config: &Config<'_>, request: &Request, patience: &Patience) -> Result<(), Fault> {
    ask(config.socket()?, request, patience.tell).ok();
    Ok(())
}

#[cfg(test)]
mod tests;
