//! At which of a pod's ports the kubelet may connect: those of its probes and of the hooks of its containers.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::object::{Container, Handler, Port, Spec, Target};

/// The ports, sorted, each once. `addresses` are the pod's: a probe of another host is none of the pod's.
pub(super) fn ports(spec: &Spec, addresses: &[IpAddr]) -> Vec<u16> {
    let containers = spec.init_containers.iter().chain(&spec.containers);
    let ports = containers.flat_map(|container| {
        let ours = targets(container).filter(|target| of_pod(target, addresses));
        ours.filter_map(|target| number(&target.port, container))
    });
    ports.collect::<BTreeSet<_>>().into_iter().collect()
}

fn targets(container: &Container) -> impl Iterator<Item = &Target> {
    let Container { liveness_probe, readiness_probe, startup_probe, lifecycle, .. } = container;
    let probes = [liveness_probe, readiness_probe, startup_probe].into_iter().flatten();
    let hooks = lifecycle.iter().flat_map(|lifecycle| [&lifecycle.post_start, &lifecycle.pre_stop]).flatten();
    probes.chain(hooks).flat_map(|Handler { http_get, tcp_socket, grpc }| [http_get, tcp_socket, grpc]).flatten()
}

fn of_pod(target: &Target, addresses: &[IpAddr]) -> bool {
    let Some(host) = target.host.as_deref().filter(|host| !host.is_empty()) else { return true };
    host.parse::<IpAddr>().is_ok_and(|host| addresses.contains(&host.to_canonical()))
}

/// A name is one of the container's own ports; the kubelet takes one that is not for a number.
fn number(port: &Port, container: &Container) -> Option<u16> {
    let number = match port {
        Port::Number(number) => *number,
        Port::Name(name) => {
            let named = container.ports.iter().find(|port| port.name.as_ref() == Some(name));
            named.map(|port| port.container_port).or_else(|| name.parse().ok())?
        }
    };
    u16::try_from(number).ok().filter(|number| *number != 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::object::PodObject;
    use super::ports;

    fn of(spec: Value) -> Vec<u16> {
        let pod: PodObject = serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": spec})).unwrap();
        ports(&pod.spec, &["10.1.2.3".parse().unwrap(), "fd00::3".parse().unwrap()])
    }

    fn of_container(container: Value) -> Vec<u16> {
        of(json!({"containers": [container]}))
    }

    #[test]
    fn each_kind_of_probe_and_hook_counts() {
        let cases = [
            (json!({"livenessProbe": {"httpGet": {"path": "/", "port": 80}}}), vec![80]),
            (json!({"readinessProbe": {"tcpSocket": {"port": 81}, "periodSeconds": 3}}), vec![81]),
            (json!({"startupProbe": {"grpc": {"port": 82, "service": "x"}}}), vec![82]),
            (json!({"livenessProbe": {"exec": {"command": ["true"]}}}), vec![]),
            (json!({"lifecycle": {"postStart": {"httpGet": {"port": 83}}, "preStop": {"tcpSocket": {"port": 84}}}}), {
                vec![83, 84]
            }),
            (json!({"lifecycle": {"preStop": {"sleep": {"seconds": 5}}}}), vec![]),
            (json!({"livenessProbe": {"httpGet": {"port": 9}}, "readinessProbe": {"httpGet": {"port": 9}}}), vec![9]),
            (json!({"livenessProbe": null, "lifecycle": null, "ports": null}), vec![]),
        ];
        for (container, expected) in cases {
            assert_eq!(of_container(container.clone()), expected, "{container}");
        }
    }

    #[test]
    fn names_are_of_the_container_itself() {
        let named = [
            (json!("web"), vec![8080]),
            (json!("other"), vec![]),
            // The kubelet takes it for a number.
            (json!("8081"), vec![8081]),
            (json!("70000"), vec![]),
            (json!(0), vec![]),
            (json!(65535), vec![65535]),
            (json!(65536), vec![]),
            (json!(-1), vec![]),
        ];
        for (port, expected) in named {
            let found = of(json!({"containers": [
                {"ports": [{"containerPort": 7}, {"name": "web", "containerPort": 8080}], "livenessProbe": {"httpGet": {"port": port}}},
                {"ports": [{"name": "other", "containerPort": 5}]},
            ]}));
            assert_eq!(found, expected, "{port}");
        }
    }

    #[test]
    fn a_probe_of_another_host_is_not_the_pods() {
        let hosts =
            [(json!(null), true), (json!(""), true), (json!("10.1.2.3"), true), (json!("FD00:0::3"), true)].into_iter();
        let others = ["10.1.2.4", "127.0.0.1", "localhost", "example.org"].map(|host| (json!(host), false));
        for (host, ours) in hosts.chain(others) {
            let found = of_container(json!({"livenessProbe": {"httpGet": {"host": host, "port": 80}}}));
            assert_eq!(found == [80], ours, "{host}");
        }
    }

    #[test]
    fn init_containers_that_stay_have_probes() {
        let probe = |port: u16| json!({"restartPolicy": "Always", "startupProbe": {"tcpSocket": {"port": port}}});
        assert_eq!(of(json!({"initContainers": [probe(9000)], "containers": [probe(80)]})), [80, 9000]);
        assert_eq!(of(json!({"initContainers": null, "containers": null})), [0_u16; 0]);
    }

    proptest! {
        #[test]
        fn ports_are_sorted_and_each_once(numbers in prop::collection::vec(-5_i64..70_000, 0..20)) {
            let containers: Vec<_> =
                numbers.iter().map(|port| json!({"livenessProbe": {"tcpSocket": {"port": port}}})).collect();
            let found = of(json!({"containers": containers}));
            prop_assert!(found.is_sorted_by(|a, b| a < b));
            for number in numbers {
                let expected = (1..=65535).contains(&number);
                prop_assert_eq!(found.iter().any(|port| i64::from(*port) == number), expected);
            }
        }
    }
}
