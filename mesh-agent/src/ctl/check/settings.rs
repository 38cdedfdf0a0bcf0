//! What the agent is told on this node, or what it would be told if nothing is known.

use std::path::{Path, PathBuf};

use super::super::client::CtlError;
use super::super::{CheckArgs, SOCKET};
use super::finding::{Report, some};
use crate::file::given::Given;
use crate::file::problem::parse;
use crate::file::schema::{Node, NodeFile};
use crate::file::{self};

/// A file that leaves everything as it usually is: where to look when none was named.
const USUAL: &str =
    "node: {name: unknown, kubernetes: {}, cni: {}, ca: {address: 'https://unknown', root: '', token: ''}}";

/// The settings of the node, and where they are from.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) node: Node,
    pub(super) told: Told,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    Nothing,
    By(PathBuf),
    /// The file cannot be taken, for this reason.
    Badly(String),
}

/// Where the agent's pods come from, as far as that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pods {
    Unknown,
    /// They are listed in the file.
    File,
    /// Istio's CNI agent hands them over on this socket.
    CniAgent(PathBuf),
    Kubernetes(Plugin),
}

/// Whether new pods are announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plugin {
    /// The plugin is added to this file, or to the one that the runtime takes.
    In(Option<String>),
    None,
}

impl Settings {
    pub(super) fn read(args: &CheckArgs) -> Result<Self, CtlError> {
        let given = Given::read(args.set.iter().map(String::as_str)).map_err(CtlError::Arguments)?;
        let Some(path) = &args.config else { return Self::usual(Told::Nothing) };
        match file::read(path, &given) {
            Ok(config) => Ok(Self { node: config.node, told: Told::By(path.clone()) }),
            Err(problems) => Self::usual(Told::Badly(problems.to_string())),
        }
    }

    fn usual(told: Told) -> Result<Self, CtlError> {
        let file: NodeFile = parse(Path::new("the usual settings"), USUAL)
            .map_err(|problems| CtlError::Arguments(problems.to_string()))?;
        Ok(Self { node: file.node, told })
    }

    /// The admin socket: as it was asked for, or where the file has it.
    pub(super) fn socket(&self, asked: &Path) -> PathBuf {
        let own = self.node.run_dir.join("admin.sock");
        if asked == Path::new(SOCKET) { own } else { asked.to_owned() }
    }

    pub(super) fn pods(&self) -> Pods {
        let Told::By(_) = self.told else { return Pods::Unknown };
        match (&self.node.zds, &self.node.kubernetes, &self.node.cni) {
            (Some(zds), _, _) => Pods::CniAgent(zds.socket.clone()),
            (None, Some(_), Some(cni)) => Pods::Kubernetes(Plugin::In(cni.network.clone())),
            (None, Some(_), None) => Pods::Kubernetes(Plugin::None),
            (None, None, _) => Pods::File,
        }
    }

    /// The node's name, if it is known.
    pub(super) fn name(&self) -> Option<&str> {
        matches!(self.told, Told::By(_)).then_some(self.node.name.as_str())
    }

    /// The files that the settings name and the agent reads, each with its field.
    pub(super) fn files(&self) -> Vec<(&'static str, &Path)> {
        let Told::By(_) = self.told else { return Vec::new() };
        let Node { ca, xds, kubernetes, .. } = &self.node;
        let xds = xds.as_ref();
        let kubernetes = kubernetes.as_ref();
        [
            ("ca.root", Some(&ca.root)),
            ("ca.token", Some(&ca.token)),
            ("xds.root", xds.and_then(|xds| xds.root.as_ref())),
            ("xds.token", xds.and_then(|xds| xds.token.as_ref())),
            ("kubernetes.root", kubernetes.map(|kubernetes| &kubernetes.root)),
            ("kubernetes.token", kubernetes.map(|kubernetes| &kubernetes.token)),
        ]
        .into_iter()
        .filter_map(|(field, path)| Some((field, path?.as_path())))
        .collect()
    }

    /// `unreadable` are those of the files that cannot be read, each with the reason.
    pub(super) fn judge(&self, unreadable: &[String], report: &mut Report) {
        const WHAT: &str = "configuration";
        match &self.told {
            Told::Nothing => report.ok(WHAT, "none was named: the usual places are looked at (--config FILE)"),
            Told::Badly(reason) => report.wrong(WHAT, reason, "correct the file: with it the agent does not start"),
            Told::By(path) if unreadable.is_empty() => report.ok(WHAT, path.display().to_string()),
            Told::By(_) => report.wrong(
                WHAT,
                format!("it names files that cannot be read: {}", some(unreadable)),
                "put them there, or mount them into the agent's container",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{Plugin, Pods, Settings, Told};
    use crate::ctl::CheckArgs;
    use crate::ctl::check::finding::{Group, Level, Report};

    fn read(text: &str) -> Settings {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.yaml");
        std::fs::write(&path, text).unwrap();
        Settings::read(&CheckArgs { config: Some(path), set: vec!["NAME=n1".into()], json: false }).unwrap()
    }

    fn level(settings: &Settings, unreadable: &[String]) -> Level {
        let mut report = Report::about(Group::Node);
        settings.judge(unreadable, &mut report);
        report.finish()[0].level
    }

    const CA: &str = "ca: {address: 'https://ca', root: r, token: t}";

    #[test]
    fn where_the_pods_come_from() {
        let xds = "xds: {address: 'https://x'}";
        let cases = [
            (String::new(), Pods::File),
            (format!("{xds}, kubernetes: {{}},"), Pods::Kubernetes(Plugin::None)),
            (format!("{xds}, kubernetes: {{}}, cni: {{}},"), Pods::Kubernetes(Plugin::In(None))),
            (
                format!("{xds}, kubernetes: {{}}, cni: {{network: a.conflist}},"),
                Pods::Kubernetes(Plugin::In(Some("a.conflist".into()))),
            ),
            ("zds: {socket: /z},".to_owned(), Pods::CniAgent("/z".into())),
        ];
        for (fields, pods) in cases {
            let settings = read(&format!("node: {{name: '${{NAME}}', {fields} {CA}}}"));
            assert_eq!(settings.pods(), pods, "{:?}", settings.told);
            assert_eq!(settings.name(), Some("n1"));
        }
    }

    #[test]
    fn without_a_file_that_can_be_taken() {
        let args = CheckArgs { config: None, set: Vec::new(), json: false };
        let usual = Settings::read(&args).unwrap();
        assert_eq!((&usual.told, usual.pods(), usual.name()), (&Told::Nothing, Pods::Unknown, None));
        assert_eq!(usual.node.bpf_fs, Path::new("/sys/fs/bpf"));
        assert_eq!(level(&usual, &[]), Level::Ok);
        let bad = read("node: {nam: x}");
        assert!(matches!(&bad.told, Told::Badly(reason) if reason.contains("nam")), "{:?}", bad.told);
        assert_eq!(level(&bad, &[]), Level::Wrong);
    }

    #[test]
    fn the_socket_is_the_files_unless_another_is_asked_for() {
        let settings = read(&format!("node: {{name: n1, run_dir: /r, {CA}}}"));
        assert_eq!(settings.socket(Path::new(super::SOCKET)), PathBuf::from("/r/admin.sock"));
        assert_eq!(settings.socket(Path::new("/other")), PathBuf::from("/other"));
        let fields: Vec<_> = settings.files().into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["ca.root", "ca.token"]);
        assert_eq!((level(&settings, &[]), level(&settings, &["ca.root r: gone".into()])), (Level::Ok, Level::Wrong));
    }
}
