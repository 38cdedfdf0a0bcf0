//! What the runtime asks the plugin for, by the variables of its environment (section 2 of the CNI specification; the
//! `K8S_` ones are what every runtime of Kubernetes passes).

use std::path::PathBuf;

use super::spec::{Code, Fault};

/// One call of the plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Add(Place),
    Check(Place),
    Delete { container: String, pod: Option<Pod> },
    Gc,
    Status,
    Version,
}

/// A sandbox that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) container: String,
    pub(super) netns: PathBuf,
    pub(super) interface: String,
    /// None: the runtime is not one of Kubernetes.
    pub(super) pod: Option<Pod>,
}

/// Whose sandbox it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) uid: Option<String>,
}

/// Gives a variable's value.
pub(super) type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Call {
    pub(super) fn read(variables: Variables<'_>) -> Result<Self, Fault> {
        let command = required(variables, "CNI_COMMAND")?;
        match command.as_str() {
            "ADD" => place(variables).map(Self::Add),
            "CHECK" => place(variables).map(Self::Check),
            "DEL" => Ok(Self::Delete { container: container(variables)?, pod: pod(variables)? }),
            "GC" => Ok(Self::Gc),
            "STATUS" => Ok(Self::Status),
            "VERSION" => Ok(Self::Version),
            other => Err(bad("CNI_COMMAND", format!("{other:?} is no operation of CNI"))),
        }
    }
}

fn place(variables: Variables<'_>) -> Result<Place, Fault> {
    let netns = PathBuf::from(required(variables, "CNI_NETNS")?);
    if !netns.is_absolute() {
        return Err(bad("CNI_NETNS", format!("{} is not an absolute path", netns.display())));
    }
    let interface = required(variables, "CNI_IFNAME")?;
    if !is_interface(&interface) {
        return Err(bad("CNI_IFNAME", format!("{interface:?} cannot be the name of an interface")));
    }
    Ok(Place { container: container(variables)?, netns, interface, pod: pod(variables)? })
}

fn container(variables: Variables<'_>) -> Result<String, Fault> {
    let id = required(variables, "CNI_CONTAINERID")?;
    let starts = id.starts_with(|first: char| first.is_ascii_alphanumeric());
    let rest = id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    if starts && rest { Ok(id) } else { Err(bad("CNI_CONTAINERID", format!("{id:?} cannot be the id of a container"))) }
}

/// As Linux has it: at most 15 bytes, and nothing that means something in a path.
fn is_interface(name: &str) -> bool {
    let strange = |c: char| c == '/' || c == ':' || c.is_whitespace();
    name.len() < 16 && !matches!(name, "." | "..") && !name.contains(strange)
}

/// The pod in `CNI_ARGS`. One that is only half named is an error: it must not pass for none.
fn pod(variables: Variables<'_>) -> Result<Option<Pod>, Fault> {
    let arguments = variables("CNI_ARGS").unwrap_or_default();
    let mut pairs = Vec::new();
    for pair in arguments.split(';').filter(|pair| !pair.is_empty()) {
        pairs.push(pair.split_once('=').ok_or_else(|| bad("CNI_ARGS", format!("{pair:?} is not NAME=VALUE")))?);
    }
    // A name that is given twice has its last value.
    let value = |name: &str| pairs.iter().rev().find(|pair| pair.0 == name).map(|pair| pair.1).unwrap_or_default();
    let (name, namespace) = (value("K8S_POD_NAME"), value("K8S_POD_NAMESPACE"));
    let uid = Some(value("K8S_POD_UID")).filter(|uid| !uid.is_empty()).map(ToOwned::to_owned);
    match (name, namespace) {
        ("", "") if uid.is_none() => Ok(None),
        ("", _) => Err(bad("CNI_ARGS", "there is no K8S_POD_NAME".to_owned())),
        (_, "") => Err(bad("CNI_ARGS", "there is no K8S_POD_NAMESPACE".to_owned())),
        (name, namespace) => Ok(Some(Pod { name: name.to_owned(), namespace: namespace.to_owned(), uid })),
    }
}

fn required(variables: Variables<'_>, name: &str) -> Result<String, Fault> {
    let hint = || bad(name, format!("it is not set; {} is called by container runtimes", super::PROGRAM));
    variables(name).filter(|value| !value.is_empty()).ok_or_else(hint)
}

/// The specification wants the names of invalid variables in the message.
fn bad(name: &str, details: String) -> Fault {
    Fault::new(Code::Variables, format!("invalid environment variable {name}"), details)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ADD: [(&str, &str); 5] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c0ffee_1.a-b"),
        ("CNI_NETNS", "/run/netns/x"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=u1;"),
    ];

    fn read(changes: &[(&str, Option<&str>)]) -> Result<Call, Fault> {
        Call::read(&|name| {
            let changed = changes.iter().find(|change| change.0 == name).map(|change| change.1);
            let usual = || ADD.iter().find(|variable| variable.0 == name).map(|variable| variable.1);
            changed.unwrap_or_else(usual).map(ToOwned::to_owned)
        })
    }

    fn web(uid: Option<&str>) -> Option<Pod> {
        Some(Pod { name: "web".into(), namespace: "shop".into(), uid: uid.map(ToOwned::to_owned) })
    }

    #[test]
    fn each_operation_needs_its_variables() {
        let place = Place {
            container: "c0ffee_1.a-b".into(),
            netns: "/run/netns/x".into(),
            interface: "eth0".into(),
            pod: web(Some("u1")),
        };
        assert_eq!(read(&[]), Ok(Call::Add(place.clone())));
        assert_eq!(read(&[("CNI_COMMAND", Some("CHECK"))]), Ok(Call::Check(place.clone())));
        let delete = Call::Delete { container: place.container, pod: place.pod };
        let gone = [("CNI_COMMAND", Some("DEL")), ("CNI_NETNS", None)];
        assert_eq!(read(&gone), Ok(delete), "a namespace may be gone already");
        for (command, call) in [("GC", Call::Gc), ("STATUS", Call::Status), ("VERSION", Call::Version)] {
            let only = [("CNI_CONTAINERID", None), ("CNI_NETNS", None), ("CNI_IFNAME", None), ("CNI_ARGS", None)];
            let all: Vec<_> = only.into_iter().chain([("CNI_COMMAND", Some(command))]).collect();
            assert_eq!(read(&all), Ok(call));
        }
    }

    #[test]
    fn the_pod_is_named_in_whole_or_not_at_all() {
        let cases = [
            (None, Ok(None)),
            (Some(""), Ok(None)),
            (Some("IgnoreUnknown=1;FOO=BAR"), Ok(None)),
            (Some("K8S_POD_NAME=web;K8S_POD_NAMESPACE=shop"), Ok(web(None))),
            (Some("K8S_POD_NAME=x;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID="), Ok(web(None))),
            (Some("K8S_POD_NAME=web"), Err("no K8S_POD_NAMESPACE")),
            (Some("K8S_POD_NAMESPACE=shop"), Err("no K8S_POD_NAME")),
            (Some("K8S_POD_UID=u1"), Err("no K8S_POD_NAME")),
            (Some("K8S_POD_NAME=web;K8S_POD_NAMESPACE"), Err("not NAME=VALUE")),
        ];
        for (arguments, expected) in cases {
            match (read(&[("CNI_ARGS", arguments)]), expected) {
                (Ok(Call::Add(place)), Ok(pod)) => assert_eq!(place.pod, pod, "{arguments:?}"),
                (Err(fault), Err(text)) => {
                    assert_eq!(fault.code, Code::Variables);
                    assert!(fault.msg.contains("CNI_ARGS") && fault.details.contains(text), "{arguments:?}: {fault:?}");
                }
                (other, _) => panic!("{arguments:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn an_invalid_variable_is_named() {
        let cases = [
            ("CNI_COMMAND", vec![None, Some(""), Some("add"), Some("REMOVE")]),
            ("CNI_CONTAINERID", vec![None, Some(""), Some("-a"), Some("a/b"), Some("ä"), Some("a b")]),
            ("CNI_NETNS", vec![None, Some(""), Some("run/netns/x")]),
            ("CNI_IFNAME", vec![None, Some(""), Some("."), Some(".."), Some("a/b"), Some("a:b"), Some("a b")]),
            ("CNI_IFNAME", vec![Some("sixteen-letters-")]),
        ];
        for (name, value) in cases.into_iter().flat_map(|(name, values)| values.into_iter().map(move |v| (name, v))) {
            let fault = read(&[(name, value)]).unwrap_err();
            assert_eq!(fault.code, Code::Variables, "{name}={value:?}");
            assert!(fault.msg.contains(name), "{fault:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_in_the_variables_is_too_strange(value in ".{0,40}", name in 0..ADD.len()) {
            let _never_panics = read(&[(ADD[name].0, Some(&value))]);
        }
    }
}
