//! A container that runs the agent, as a kubelet would start it: its arguments, its files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// What a kubelet knows and we do not.
const SAMPLES: [(&str, &str); 6] = [
    ("spec.nodeName", "node-1"),
    ("metadata.name", "mesh-agent-x7k2p"),
    ("metadata.namespace", "istio-system"),
    ("status.podIP", "fd00::7"),
    ("status.hostIP", "fd00::7"),
    ("spec.serviceAccountName", "mesh-agent"),
];
/// Kubernetes gives these to every container.
const SERVICE: [(&str, &str); 2] = [("KUBERNETES_SERVICE_HOST", "fd00::1"), ("KUBERNETES_SERVICE_PORT", "443")];
const IMAGE: &str = "mesh-agent";
const NONE: &[Value] = &[];

/// One container.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) name: String,
    pub(super) arguments: Vec<String>,
    /// Its configuration: the file's path, and the text that a ConfigMap has for it.
    files: Vec<(String, String)>,
}

/// The containers of an object that run the agent.
pub(super) fn of(object: &Value, objects: &[Value]) -> Result<Vec<Container>> {
    let pod = &object["spec"]["template"]["spec"];
    let listed = |field: &str| pod[field].as_array().map_or(NONE, Vec::as_slice);
    let all = listed("initContainers").iter().chain(listed("containers"));
    let ours = all.filter(|container| {
        let image = container["image"].as_str().unwrap_or_default();
        image.rsplit('/').next().is_some_and(|last| last.split([':', '@']).next() == Some(IMAGE))
    });
    ours.map(|container| read(container, pod, objects)).collect()
}

fn read(container: &Value, pod: &Value, objects: &[Value]) -> Result<Container> {
    let name = container["name"].as_str().context("a container has no name")?.to_owned();
    let variables = variables(container).with_context(|| name.clone())?;
    let given = container["args"].as_array().map_or(NONE, Vec::as_slice);
    let arguments = given.iter().map(|argument| {
        let written = argument.as_str().with_context(|| format!("{name}: an argument is no text: {argument}"))?;
        let expanded = variables
            .iter()
            .fold(written.to_owned(), |text, (variable, value)| text.replace(&format!("$({variable})"), value));
        ensure!(!expanded.contains("$("), "{name}: {written}: no such variable");
        Ok(expanded)
    });
    Ok(Container { arguments: arguments.collect::<Result<_>>()?, files: files(container, pod, objects)?, name })
}

fn variables(container: &Value) -> Result<BTreeMap<String, String>> {
    let mut variables: BTreeMap<String, String> = BTreeMap::new();
    for variable in container["env"].as_array().map_or(NONE, Vec::as_slice) {
        let name = variable["name"].as_str().context("a variable has no name")?;
        let field = variable["valueFrom"]["fieldRef"]["fieldPath"].as_str();
        let sample = |field: &str| SAMPLES.iter().find(|(known, _)| *known == field).map(|(_, value)| *value);
        let value = match field {
            Some(field) => sample(field).with_context(|| format!("{name}: {field} is no field of a pod"))?,
            None => variable["value"].as_str().with_context(|| format!("{name} has no value"))?,
        };
        variables.insert(name.to_owned(), value.to_owned());
    }
    Ok(variables)
}

/// What its volumes of ConfigMaps among `objects` put where.
fn files(container: &Value, pod: &Value, objects: &[Value]) -> Result<Vec<(String, String)>> {
    let volumes = pod["volumes"].as_array().map_or(NONE, Vec::as_slice);
    let mut files = Vec::new();
    for mount in container["volumeMounts"].as_array().map_or(NONE, Vec::as_slice) {
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]);
        let volume = volume.with_context(|| format!("no volume {}", mount["name"]))?;
        let Some(wanted) = volume["configMap"]["name"].as_str() else { continue };
        let is_it = |object: &&Value| object["kind"] == "ConfigMap" && object["metadata"]["name"] == wanted;
        let place = mount["mountPath"].as_str().context("a mount has no path")?;
        let data = objects.iter().find(is_it).and_then(|map| map["data"].as_object());
        for (name, text) in data.into_iter().flatten() {
            files.push((format!("{place}/{name}"), text.as_str().unwrap_or_default().to_owned()));
        }
    }
    Ok(files)
}

impl Container {
    /// Has the agent read the arguments, and the file that they name.
    pub(super) fn check(&self, agent: &Path) -> Result<()> {
        let place = tempfile::tempdir()?;
        let mut arguments = self.arguments.clone();
        for (number, (path, text)) in self.files.iter().enumerate() {
            let file = place.path().join(format!("{number}.yaml"));
            fs::write(&file, text)?;
            for argument in &mut arguments {
                *argument = argument.replace(path, &file.display().to_string());
            }
        }
        let mut command = Command::new(agent);
        command.env_clear().envs(SERVICE).args(["check-arguments", "--"]).args(&arguments);
        let output = command.output().with_context(|| agent.display().to_string())?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: the agent does not take {:?}\n{said}", self.name, self.arguments);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::of;

    #[test]
    fn a_container_is_read_as_a_kubelet_does() {
        let object = |args: serde_json::Value| {
            json!({"spec": {"template": {"spec": {
                "containers": [
                    {"name": "a", "image": "localhost/mesh-agent:dev", "args": args,
                     "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                     "volumeMounts": [{"name": "c", "mountPath": "/etc/x"}, {"name": "h", "mountPath": "/h"}]},
                    {"name": "b", "image": "other:1"},
                ],
                "volumes": [{"name": "c", "configMap": {"name": "map"}}, {"name": "h", "hostPath": {"path": "/h"}}],
            }}}})
        };
        let map = json!({"kind": "ConfigMap", "metadata": {"name": "map"}, "data": {"f.yaml": "x: 1"}});
        let found = of(&object(json!(["node", "--set=N=$(N)"])), &[map]).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].arguments, ["node", "--set=N=node-1"]);
        assert_eq!(found[0].files, [("/etc/x/f.yaml".to_owned(), "x: 1".to_owned())]);
        let error = of(&object(json!(["$(MISSING)"])), &[]).unwrap_err();
        assert!(error.to_string().contains("no such variable"), "{error}");
    }
}
