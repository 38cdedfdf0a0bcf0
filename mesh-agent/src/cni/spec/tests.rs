//! The specification's tables: versions, error codes, results of each version.

use serde_json::{Value, json};

use super::*;

#[test]
fn versions_that_are_taken() {
    let taken = ["0.3.0", "0.3.1", "0.4.0", "0.4.1", "1.0.0", "1.1.0", "1.2.0", "1.0.0-rc1", "1.1.0+build"];
    let others = ["", "0.1.0", "0.2.0", "2.0.0", "1", "1.1", "1.1.0.0", "v1.0.0", "one", "0.-3.1"];
    assert!(taken.iter().all(|version| is_supported(version)));
    assert!(!others.iter().any(|version| is_supported(version)));
    assert!(VERSIONS.iter().all(|version| is_supported(version)));
}

#[test]
fn version_is_answered_in_the_version_asked_in() {
    let cases = [
        (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
        (r#"{"cniVersion":"9.0.0"}"#, "1.1.0"),
        (r#"{"cniVersion":4}"#, "1.1.0"),
        ("", "1.1.0"),
    ];
    for (input, expected) in cases {
        let answer: Value = serde_json::from_str(&versions(&version_of(input))).unwrap();
        let all = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
        assert_eq!(answer, json!({"cniVersion": expected, "supportedVersions": all}), "{input}");
    }
}

#[test]
fn errors_have_the_codes_of_the_specification() {
    let codes = [
        (Code::IncompatibleVersion, 1),
        (Code::Variables, 4),
        (Code::InputOutput, 5),
        (Code::Decoding, 6),
        (Code::Configuration, 7),
        (Code::TryAgainLater, 11),
    ];
    for (code, number) in codes {
        let document: Value =
            serde_json::from_str(&Fault::new(code, "short", "long \"text\"").document("0.4.0")).unwrap();
        assert_eq!(
            document,
            json!({"cniVersion": "0.4.0", "code": number, "msg": "short", "details": "long \"text\""})
        );
    }
}

#[test]
fn configurations_that_are_not_taken() {
    let cases = [
        ("", Code::Decoding, "EOF"),
        ("[]", Code::Decoding, "invalid"),
        (r#"{"cniVersion":"1.0.0","name":"n","excludeNamespaces":"kube-system"}"#, Code::Decoding, "sequence"),
        (r#"{"name":"n"}"#, Code::IncompatibleVersion, "0.1.0"),
        (r#"{"cniVersion":"0.2.0","name":"n"}"#, Code::IncompatibleVersion, "0.2.0"),
        (r#"{"cniVersion":"2.0.0","name":"n"}"#, Code::IncompatibleVersion, "supported are 0.3.0, 0.3.1"),
        (r#"{"cniVersion":"1.0.0"}"#, Code::Configuration, "name"),
        (r#"{"cniVersion":"1.0.0","name":""}"#, Code::Configuration, "name"),
    ];
    for (text, code, details) in cases {
        let fault = Config::read(text).unwrap_err();
        assert_eq!(fault.code, code, "{text}: {fault:?}");
        assert!(fault.details.contains(details), "{text}: {fault:?}");
    }
}

#[test]
fn what_a_configuration_says() {
    let text = r#"{"cniVersion":"1.1.0","name":"n","type":"mesh-agent-cni","socket":"/run/a.sock",
        "excludeNamespaces":["kube-system"],"runtimeConfig":{},"prevResult":{ "a" : 1.50 },
        "cni.dev/valid-attachments":[{"containerID":"b","ifname":"eth0"},{"containerID":"a","ifname":"eth0"},
        {"containerID":"b","ifname":"net1"}]}"#;
    let config = Config::read(text).unwrap();
    assert_eq!(config.socket().unwrap(), &PathBuf::from("/run/a.sock"));
    assert!(config.excludes("kube-system") && !config.excludes("kube") && !config.excludes(""));
    assert_eq!(config.previous().unwrap(), r#"{ "a" : 1.50 }"#);
    assert_eq!(config.valid_containers().unwrap(), ["a", "b"]);
    let former = r#"{"cniVersion":"1.1.0","name":"n","cni.dev/attachments":[{"containerID":"a","ifname":"eth0"}]}"#;
    assert_eq!(Config::read(former).unwrap().valid_containers().unwrap(), ["a"]);

    let bare = r#"{"cniVersion":"1.1.0","name":"n","prevResult":null}"#;
    let config = Config::read(bare).unwrap();
    let faults = [config.socket().err(), config.previous().err()];
    assert!(faults.into_iter().flatten().all(|fault| fault.code == Code::Configuration));
    assert_eq!(config.valid_containers(), None);
    assert!(config.previous().unwrap_err().details.contains("chained after"));
}

#[test]
fn the_addresses_of_results_of_each_version() {
    let interfaces = json!([
        {"name": "cni0", "mac": "0a:00:00:00:00:01"},
        {"name": "veth1", "mac": "0a:00:00:00:00:02", "sandbox": ""},
        {"name": "eth0", "mac": "0a:00:00:00:00:03", "sandbox": "/run/netns/x"},
    ]);
    let ip = |address: &str, interface: i64| json!({"address": address, "interface": interface});
    let cases = [
        // 0.3.x and 0.4.0 say the family.
        (
            json!({"cniVersion": "0.3.1", "interfaces": interfaces, "ips": [
            {"version": "4", "address": "10.0.0.7/24", "gateway": "10.0.0.1", "interface": 2},
            {"version": "6", "address": "fd00::7/64", "interface": 2}]}),
            vec!["10.0.0.7", "fd00::7"],
        ),
        (json!({"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.0.0.7/24"}]}), vec!["10.0.0.7"]),
        (
            json!({"cniVersion": "1.0.0", "interfaces": interfaces, "ips": [ip("10.0.0.7/24", 2), ip("10.0.0.1/24", 0)]}),
            vec!["10.0.0.7"],
        ),
        (
            json!({"ips": [ip("10.0.0.1/24", 1), ip("10.0.0.2/24", 3), ip("10.0.0.3/24", -1)], "interfaces": interfaces}),
            vec![],
        ),
        // Plugins that leave out the sandbox, or all interfaces.
        (
            json!({"interfaces": [{"name": "eth0"}, {"name": "veth1"}], "ips": [ip("10.0.0.7/32", 0), ip("10.0.0.8/32", 1)]}),
            vec!["10.0.0.7"],
        ),
        (json!({"interfaces": null, "ips": [ip("10.0.0.7/32", 0)], "dns": {}}), vec!["10.0.0.7"]),
        (json!({"ips": [{"address": "::ffff:10.0.0.7/120"}, {"address": "10.0.0.7"}]}), vec!["10.0.0.7"]),
        (json!({"ips": null}), vec![]),
        (json!({}), vec![]),
    ];
    for (result, expected) in cases {
        let expected: Vec<IpAddr> = expected.into_iter().map(|address| address.parse().unwrap()).collect();
        assert_eq!(addresses(&result.to_string(), "eth0"), Ok(expected), "{result}");
    }
    for bad in ["[]", r#"{"ips":[{"address":"10.0.0/24"}]}"#, r#"{"ips":[{}]}"#, r#"{"ips":7}"#] {
        assert_eq!(addresses(bad, "eth0").unwrap_err().code, Code::Decoding, "{bad}");
    }
}
