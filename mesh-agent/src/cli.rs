//! The command line: one subcommand per role. The only reader of the environment, and the only place that turns an
//! error into an exit code.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::file::environment::{self, Machine};
use crate::file::given::Given;
use crate::node::source::Source;
use crate::node::uninstall::Then;
use crate::telemetry::log;
use crate::{cni, control, ctl, file, node};

/// A node-level ambient service mesh.
#[derive(Debug, Parser)]
#[command(name = "mesh-agent", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Enrol this node's pods and carry their traffic
    Node(NodeArgs),
    /// Serve the certificate authority
    Control(ControlArgs),
    /// Ask a running node agent
    Ctl(ctl::Args),
    /// Leave this node as it was before the agent came to it
    Uninstall(UninstallArgs),
    /// What Istio's DaemonSet calls its node proxy with: the same as `node --from-environment`
    #[command(hide = true)]
    Proxy(ProxyArgs),
    /// Read other arguments, and the file that they name, and do nothing else
    #[command(hide = true)]
    CheckArguments {
        #[arg(value_name = "ARG", last = true)]
        arguments: Vec<String>,
    },
    /// The CNI plugin, which container runtimes call by its own name, without arguments
    #[command(hide = true)]
    Cni,
}

#[derive(Debug, Args)]
struct ProxyArgs {
    #[arg(value_enum)]
    kind: ProxyKind,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProxyKind {
    Ztunnel,
}

#[derive(Debug, Args)]
struct NodeArgs {
    /// The node's YAML file; edits are picked up while the agent runs
    #[arg(long, value_name = "FILE", required_unless_present = "from_environment")]
    config: Option<PathBuf>,
    /// What `${NAME}` in the file stands for; may be repeated
    #[arg(long, value_name = "NAME=VALUE", requires = "config")]
    set: Vec<String>,
    /// Be configured by the variables of Istio's node proxy, in its place
    #[arg(long, conflicts_with = "config")]
    from_environment: bool,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Debug, Args)]
struct UninstallArgs {
    /// The node's YAML file, as the agent had it
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// What `${NAME}` in the file stands for; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Then wait to be ended: the containers of a DaemonSet are not to end by themselves
    #[arg(long)]
    stay: bool,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Debug, Args)]
#[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
struct ControlArgs {
    #[command(subcommand)]
    verb: Option<ControlVerb>,
    /// The authority's YAML file
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Debug, Subcommand)]
enum ControlVerb {
    /// Issue one certificate from the mounted root, for a machine that cannot ask by itself
    Issue(control::IssueArgs),
}

#[derive(Debug, Args)]
struct LogArgs {
    /// What to log, such as `info` or `info,access=off` [default: info]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// How a log line looks [default: text]
    #[arg(long, value_enum)]
    log_format: Option<Format>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Runs what the command line asks for.
pub fn run() -> ExitCode {
    if std::env::args_os().next().is_some_and(|program| cni::is_plugin(Path::new(&program))) {
        return cni::plugin(variable);
    }
    let result = match Cli::parse().role {
        Role::Cni => return cni::plugin(variable),
        Role::Node(NodeArgs { config: Some(config), set, log, .. }) => from_file(&log, config, &set),
        Role::Node(NodeArgs { config: None, log, .. }) | Role::Proxy(ProxyArgs { log, .. }) => from_environment(log),
        Role::Control(args) => run_control(args),
        Role::Ctl(args) => ctl::run(&args),
        Role::Uninstall(args) => uninstall(args),
        Role::CheckArguments { arguments } => check_arguments(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mesh-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What is no text does not count as not set.
fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

fn from_file(log: &LogArgs, config: PathBuf, set: &[String]) -> anyhow::Result<()> {
    run_node(log, Source::File(config, given(set)?))
}

/// What the command line gives, and where Kubernetes tells its containers that the API server is.
fn given(set: &[String]) -> anyhow::Result<Given> {
    let name = |setting: &str| setting.starts_with(&format!("{API_SERVER}="));
    let told = |name| variable(name).filter(|value| !value.is_empty());
    let known = match (told("KUBERNETES_SERVICE_HOST"), told("KUBERNETES_SERVICE_PORT")) {
        (Some(host), Some(port)) if !set.iter().any(|setting| name(setting)) => {
            let host = if host.contains(':') { format!("[{host}]") } else { host };
            Some(format!("{API_SERVER}=https://{host}:{port}"))
        }
        _ => None,
    };
    Given::read(set.iter().chain(&known).map(String::as_str)).map_err(anyhow::Error::msg)
}

/// Reads what a command line says and does nothing of it.
fn check_arguments(arguments: &[String]) -> anyhow::Result<()> {
    let read = Cli::try_parse_from(["mesh-agent"].into_iter().chain(arguments.iter().map(String::as_str)))?;
    let (Role::Node(NodeArgs { config: Some(config), set, .. }) | Role::Uninstall(UninstallArgs { config, set, .. })) =
        read.role
    else {
        return Ok(());
    };
    file::read(&config, &given(&set)?)?;
    Ok(())
}

fn uninstall(args: UninstallArgs) -> anyhow::Result<()> {
    let source = Source::File(args.config, given(&args.set)?);
    let then = if args.stay { Then::Stay } else { Then::End };
    node::uninstall::run(&source, then, args.log.start()?)
}

fn run_node(log: &LogArgs, source: Source) -> anyhow::Result<()> {
    node::run(&source, log.start()?)
}

/// A node that is configured as Istio's node proxy is. What the command line says of the log goes before.
fn from_environment(log: LogArgs) -> anyhow::Result<()> {
    let text = |value: std::ffi::OsString| value.into_string().ok();
    let variables: BTreeMap<_, _> = std::env::vars_os().filter_map(|(n, v)| Some((text(n)?, text(v)?))).collect();
    let machine = Machine {
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        run_dir: run_dir(),
        mesh_config: std::fs::read_to_string(MESH_CONFIG).ok(),
    };
    let written = environment::read(&variables, &machine)?;
    let format = if written.json { Format::Json } else { Format::Text };
    let log =
        LogArgs { log: log.log.or_else(|| Some(written.log.clone())), log_format: log.log_format.or(Some(format)) };
    run_node(&log, Source::Environment(written))
}

/// The value that a file may leave open without `--set`.
const API_SERVER: &str = "API_SERVER";
/// Where Istio mounts the mesh's configuration.
const MESH_CONFIG: &str = "./etc/istio/config/mesh";

/// Where it is said, or the usual place, or, in a container whose root is read only, the one that Istio's DaemonSet mounts
/// for such things.
fn run_dir() -> PathBuf {
    if let Some(told) = std::env::var_os("MESH_AGENT_RUN_DIR").filter(|told| !told.is_empty()) {
        return told.into();
    }
    let usual = Path::new("/run/mesh-agent");
    match std::fs::create_dir_all(usual) {
        Ok(()) => usual.to_owned(),
        Err(_) => PathBuf::from("/tmp/mesh-agent"),
    }
}

fn run_control(args: ControlArgs) -> anyhow::Result<()> {
    if let Some(ControlVerb::Issue(issue)) = args.verb {
        return control::issue(&issue);
    }
    let config = args.config.ok_or_else(|| anyhow::anyhow!("control needs --config FILE"))?;
    let _log = args.log.start()?;
    control::run(&config)
}

impl LogArgs {
    fn start(&self) -> anyhow::Result<log::Log> {
        let format = match self.log_format.unwrap_or(Format::Text) {
            Format::Text => log::Format::Text,
            Format::Json => log::Format::Json,
        };
        Ok(log::start(self.log.as_deref().unwrap_or("info"), format)?)
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::Cli;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn a_node_has_one_source() {
        let parses = |line: &str| Cli::try_parse_from(line.split(' ')).is_ok();
        assert!(parses("mesh-agent node --config f"));
        assert!(parses("mesh-agent node --from-environment"));
        assert!(parses("mesh-agent node --config f --set A=b --set C=d"));
        assert!(parses("mesh-agent proxy ztunnel"), "what Istio's DaemonSet says");
        assert!(!parses("mesh-agent node"));
        assert!(!parses("mesh-agent node --config f --from-environment"));
        assert!(!parses("mesh-agent proxy sidecar"));
    }

    #[test]
    fn what_a_daemonset_says_is_checked() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("node.yaml");
        std::fs::write(&file, "node: {name: '${N}', ca: {address: 'https://ca:1', root: /r, token: /t}}").unwrap();
        let config = format!("--config={}", file.display());
        let check = |arguments: &[&str]| {
            let arguments: Vec<_> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
            super::check_arguments(&arguments).map_err(|error| format!("{error:#}"))
        };
        assert_eq!(check(&["node", &config, "--set=N=n1"]), Ok(()));
        assert_eq!(check(&["uninstall", &config, "--set=N=n1", "--stay"]), Ok(()));
        assert!(check(&["node", &config]).unwrap_err().contains("${N} has no value"));
        assert!(check(&["node", &config, "--sat=N=n1"]).unwrap_err().contains("--sat"));
    }

    #[test]
    fn the_plugin_has_no_arguments() {
        let parses = |line: &str| Cli::try_parse_from(line.split(' ')).is_ok();
        assert!(parses("mesh-agent cni"));
        assert!(!parses("mesh-agent cni add"));
    }

    #[test]
    fn control_serves_or_issues() {
        let parses = |line: &str| Cli::try_parse_from(line.split(' ')).is_ok();
        assert!(parses("mesh-agent control --config f"));
        assert!(parses("mesh-agent control issue --config f --identity i --out-cert c --out-key k"));
        assert!(!parses("mesh-agent control"));
    }
}
