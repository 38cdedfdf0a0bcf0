//! What is added and cut out, to the byte; and that nothing else is touched, however the file is written.

use proptest::prelude::*;

use super::*;

fn entry() -> Entry {
    Entry { socket: "/run/mesh-agent/cni.sock".into(), excluded: vec!["kube-system".into()] }
}

fn ours() -> String {
    entry().value().to_string()
}

fn added(text: &str) -> String {
    with(text, &entry()).unwrap().expect("it is not in it yet")
}

const CALICO: &str = r#"{
  "name": "k8s-pod-network",
  "cniVersion": "0.3.1",
  "plugins": [
    {
      "type": "calico",
      "mtu": 0,
      "big": 12345678901234567890123, "ä": "\u00e4"
    },
    { "type": "portmap", "snat": true, "capabilities": {"portMappings": true} }
  ]
}
"#;

#[test]
fn the_plugin_is_the_last_and_the_rest_stays_to_the_byte() {
    let text = added(CALICO);
    let last = "{ \"type\": \"portmap\", \"snat\": true, \"capabilities\": {\"portMappings\": true} }";
    assert_eq!(text, CALICO.replace(last, &format!("{last},\n    {}", ours())));
    assert_eq!(with(&text, &entry()).unwrap(), None, "it is as it should be");
    assert_eq!(without(&text).unwrap().as_deref(), Some(CALICO));
    assert_eq!(without(CALICO).unwrap(), None);
    let expected = json!({"type": "mesh-agent-cni", "name": "mesh-agent-cni", "socket": "/run/mesh-agent/cni.sock",
        "excludeNamespaces": ["kube-system"]});
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["plugins"][2], expected);
}

#[test]
fn the_plugin_is_put_in_order() {
    let list = |plugins: &[&str]| format!(r#"{{"cniVersion":"1.0.0","name":"n","plugins":[{}]}}"#, plugins.join(","));
    let (a, b, old) = (r#"{"type":"a"}"#, r#"{"type":"b"}"#, r#"{"type":"mesh-agent-cni","socket":"/old"}"#);
    let ours = ours();
    let spaced = ours.replace(",\"", " ,\n\"");
    let cases: [(&[&str], Option<&[&str]>); 8] = [
        (&[a, old], Some(&[a, &ours])),
        (&[old, a], Some(&[a, &ours])),
        (&[&ours, a], Some(&[a, &ours])),
        (&[a, &ours, &ours], Some(&[a, &ours])),
        (&[&ours, &ours, a, old, b, old, old], Some(&[a, b, &ours])),
        (&[a, &ours, b], None),
        (&[a, &spaced], None),
        (&[a, b, &ours], None),
    ];
    for (before, after) in cases {
        assert_eq!(with(&list(before), &entry()).unwrap(), after.map(list), "{before:?}");
    }
}

#[test]
fn what_cannot_be_chained_to_says_why() {
    let list = |fields: &str| format!("{{{fields}}}");
    let cases = [
        (String::new(), "EOF"),
        ("{".into(), "EOF"),
        ("[]".into(), "an object"),
        (list(r#""cniVersion":"1.0.0","plugins":[{"type":"a"}]"#), "no name"),
        (list(r#""cniVersion":"1.0.0","name":"n","plugins":[]"#), "no plugin"),
        (list(r#""cniVersion":"1.0.0","name":"n","plugins":{}"#), "sequence"),
        (list(r#""cniVersion":"1.0.0","name":"n","plugins":[{}]"#), "no type"),
        (list(r#""cniVersion":"1.0.0","name":"n","plugins":[{"type":"mesh-agent-cni"}]"#), "but the mesh's"),
        (list(r#""cniVersion":"1.0.0","name":"n""#), "a folder of their own"),
        (list(r#""cniVersion":"0.2.0","name":"n","plugins":[{"type":"a"}]"#), "CNI version 0.2.0"),
        (list(r#""name":"n","plugins":[{"type":"a"}]"#), "CNI version 0.1.0"),
    ];
    for (text, expected) in cases {
        let error = with(&text, &entry()).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    let newest =
        list(r#""cniVersion":"0.2.0","cniVersions":["0.2.0","1.10.0","1.9.0"],"name":"n","plugins":[{"type":"a"}]"#);
    assert!(with(&newest, &entry()).unwrap().is_some(), "the newest of the versions is what runtimes choose");
}

#[test]
fn a_list_is_derived_from_a_single_plugin() {
    let single = "{\n  \"cniVersion\": \"0.3.1\", \"name\": \"flannel\",\n  \"type\": \"flannel\", \"keep\": 1.0 }\n\n";
    let list = derive("10-flannel.conf", single, &entry()).unwrap();
    assert!(list.contains(single.trim()), "as it is written: {list}");
    assert_eq!(derived_from(&list).as_deref(), Some("10-flannel.conf"));
    let value: Value = serde_json::from_str(&list).unwrap();
    assert_eq!((&value["name"], &value["cniVersion"]), (&json!("flannel"), &json!("0.3.1")));
    assert_eq!(with(&list, &entry()).unwrap(), None, "it has the plugin");
    assert_eq!((derived_from(CALICO), derived_from(single), derived_from("")), (None, None, None));
    let cases = [
        (r#"{"cniVersion":"0.3.1","name":"n"}"#, "which plugin"),
        (r#"{"cniVersion":"0.3.1","name":"n","type":"mesh-agent-cni"}"#, "which plugin"),
        (r#"{"cniVersion":"0.3.1","type":"a"}"#, "no name"),
        (r#"{"name":"n","type":"a"}"#, "CNI version 0.1.0"),
        ("null", "an object"),
    ];
    for (text, expected) in cases {
        let error = derive("a.conf", text, &entry()).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

/// White space as an editor or a program may leave it.
fn gap() -> impl Strategy<Value = String> {
    "[ \n\t\r]{0,4}"
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::hash_map(".{0,4}", inner, 0..3).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

/// A plugin with some fields, or one of ours with other options.
fn plugin() -> impl Strategy<Value = String> {
    let other = ("[a-z]{1,6}", prop::collection::hash_map("x[a-z]{0,4}", value(), 0..3), any::<bool>());
    let other = other.prop_map(|(kind, fields, pretty)| {
        let mut object: serde_json::Map<_, _> = fields.into_iter().collect();
        object.insert("type".into(), kind.into());
        let object = Value::from(object);
        if pretty { serde_json::to_string_pretty(&object).unwrap() } else { object.to_string() }
    });
    prop_oneof![6 => other, 1 => "[a-z/]{0,5}".prop_map(|socket| json!({"type": PROGRAM, "socket": socket}).to_string())]
}

/// A list, written in any way, and its plugins.
fn list() -> impl Strategy<Value = (String, Vec<Value>)> {
    let plugins = prop::collection::vec((gap(), plugin(), gap()), 1..5);
    let fields = prop::collection::hash_map("y[a-z\"\\\\]{0,4}", value(), 0..3);
    (plugins, fields, gap(), any::<bool>()).prop_map(|(plugins, fields, gap, first)| {
        let values = plugins.iter().map(|plugin| serde_json::from_str(&plugin.1).unwrap()).collect();
        let plugins: Vec<_> = plugins.into_iter().map(|(before, plugin, after)| before + &plugin + &after).collect();
        let plugins = format!("\"plugins\"{gap}:{gap}[{}]", plugins.join(","));
        let mut parts = vec!["\"cniVersion\":\"1.0.0\"".to_owned(), format!("\"name\"{gap}:\"n\"")];
        parts.extend(fields.iter().map(|(name, value)| format!("{}:{gap}{value}", json!(name))));
        parts.insert(if first { 0 } else { parts.len() }, plugins);
        (format!("{gap}{{{gap}{}{gap}}}{gap}", parts.join(&format!("{gap},"))), values)
    })
}

proptest! {
    #[test]
    fn others_stay_and_ours_comes_and_goes((text, plugins) in list()) {
        let others: Vec<_> = plugins.into_iter().filter(|plugin| plugin["type"] != PROGRAM).collect();
        let cut = without(&text).unwrap();
        let old: Value = serde_json::from_str(&text).unwrap();
        let check = |text: &str, plugins: Vec<Value>| {
            let mut expected = old.clone();
            expected["plugins"] = plugins.into();
            assert_eq!(serde_json::from_str::<Value>(text).unwrap(), expected, "{text}");
        };
        check(cut.as_deref().unwrap_or(&text), others.clone());
        if others.is_empty() {
            prop_assert!(with(&text, &entry()).is_err());
            return Ok(());
        }
        // Whatever was there of ours, it ends as the last, once; and cutting that out leaves the others as they were written.
        let done = with(&text, &entry()).unwrap().unwrap();
        check(&done, others.iter().cloned().chain([entry().value()]).collect());
        prop_assert_eq!(with(&done, &entry()).unwrap(), None);
        prop_assert_eq!(without(&done).unwrap(), Some(cut.unwrap_or(text)));
    }

    #[test]
    fn no_text_is_too_strange((text, _) in list(), at in any::<prop::sample::Index>(), part in ".{0,3}", cut in 0..20usize) {
        let start = text.floor_char_boundary(at.index(text.len()));
        let end = text.ceil_char_boundary((start + cut).min(text.len()));
        let mut spoilt = text;
        spoilt.replace_range(start..end, &part);
        if let Ok(Some(done)) = with(&spoilt, &entry()) {
            prop_assert!(serde_json::from_str::<Value>(&done).is_ok(), "a good file was made bad: {}", done);
            prop_assert_eq!(with(&done, &entry()).unwrap(), None);
        }
        let _never_panics = (without(&spoilt).is_ok(), derive("a.conf", &spoilt, &entry()).is_ok());
    }
}
