//! Which file is taken, what is written, what is left; and that nothing is left to do once it is done.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn entry() -> Entry {
    Entry { socket: "/run/cni.sock".into(), excluded: Vec::new() }
}

fn list(plugin: &str) -> String {
    json!({"cniVersion": "1.0.0", "name": plugin, "plugins": [{"type": plugin}]}).to_string()
}

fn single(plugin: &str) -> String {
    json!({"cniVersion": "0.4.0", "name": plugin, "type": plugin}).to_string()
}

fn files(all: &[(&str, &str)]) -> Files {
    all.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

/// Does what is planned.
fn done(mut files: Files, network: Option<&str>) -> Files {
    let Plan { write, stale, .. } = plan(&files, network, &entry());
    if let Some(write) = write {
        assert!(files.contains_key(&write.like), "a file to follow: {write:?}");
        files.insert(write.file, write.text);
    }
    files.retain(|name, _| !stale.contains(name));
    files
}

/// What a runtime runs: the first file by name, which must be good, as containerd takes it.
fn runs(files: &Files) -> Option<Vec<String>> {
    let (name, text) = files.iter().next()?;
    let value: Value = serde_json::from_str(text).ok()?;
    let kind = |plugin: &Value| plugin["type"].as_str().map(ToOwned::to_owned);
    if name.ends_with(".conflist") {
        value["plugins"].as_array()?.iter().map(kind).collect()
    } else {
        Some(vec![kind(&value)?])
    }
}

/// Files, the network that is configured, and what comes of it.
type Case<'a> = (&'a [(&'a str, &'a str)], Option<&'a str>, &'a str);

#[test]
fn the_first_file_that_a_runtime_can_use_is_taken() {
    let (a, b, c) = (list("a"), list("b"), single("c"));
    let cases: [Case<'_>; 9] = [
        (&[("20-b.conflist", &b), ("10-a.conflist", &a)], None, "10-a.conflist"),
        (&[("10-a.conflist", &a), ("9-b.conflist", &b)], None, "10-a.conflist"),
        (&[("05-x.conflist", "{"), ("10-a.conflist", &a)], None, "10-a.conflist"),
        (&[("05-x.conf", &a), ("10-a.conflist", &a)], None, "10-a.conflist"),
        (&[("05-x.conflist", &c), ("10-a.conflist", &a)], Some("10-a.conflist"), "10-a.conflist"),
        (&[("10-a.conflist", &a), ("20-b.conflist", &b)], Some("20-b.conflist"), "20-b.conflist"),
        (&[("10-c.conf", &c), ("20-b.conflist", &b)], None, "10-c-mesh-agent.conflist"),
        (&[("10-c.json", &c)], None, "10-c-mesh-agent.conflist"),
        (&[("10-a.conflist", &a), ("20-c.conf", &c)], Some("20-c.conf"), "20-c-mesh-agent.conflist"),
    ];
    for (all, network, expected) in cases {
        let plan = plan(&files(all), network, &entry());
        assert_eq!(plan.chained.as_deref(), Ok(expected), "{all:?}");
        assert_eq!(plan.write.map(|write| write.file).as_deref(), Some(expected), "{all:?}");
    }
}

#[test]
fn without_a_network_it_waits_and_says_for_what() {
    let old = json!({"cniVersion": "0.2.0", "name": "n", "plugins": [{"type": "a"}]}).to_string();
    let a = list("a");
    let cases: [Case<'_>; 5] = [
        (&[], None, "no network yet"),
        (&[("10-a.conflist", &a)], Some("20-b.conflist"), "no 20-b.conflist yet"),
        (&[("05-x.conf", ""), ("06-x.conflist", "{}")], None, "05-x.conf: it is no network"),
        (
            &[("05-x.conf", ""), ("10-a.conflist", &old), ("20-a.conflist", &a)],
            None,
            "10-a.conflist: it is of CNI version 0.2.0",
        ),
        (&[("05-x.conf", ""), ("10-a.conflist", &a)], Some("05-x.conf"), "05-x.conf: it is no network"),
    ];
    for (all, network, expected) in cases {
        let plan = plan(&files(all), network, &entry());
        let waiting = plan.chained.unwrap_err().to_string();
        assert!(waiting.contains(expected), "{all:?}: {waiting}");
        assert_eq!(plan.write, None, "{all:?}");
    }
}

#[test]
fn a_derived_list_follows_its_source() {
    let first = done(files(&[("10-c.conf", &single("c")), ("20-b.conflist", &list("b"))]), None);
    let names: Vec<_> = first.keys().map(String::as_str).collect();
    assert_eq!(names, ["10-c-mesh-agent.conflist", "10-c.conf", "20-b.conflist"], "the list sorts before its source");
    assert_eq!(runs(&first), Some(vec!["c".to_owned(), "mesh-agent-cni".to_owned()]));
    assert_eq!(plan(&first, None, &entry()).write, None);

    let mut edited = first.clone();
    edited.insert("10-c.conf".into(), single("d"));
    assert_eq!(plan(&edited, None, &entry()).write.map(|write| write.found), Some(Found::OldList));
    assert_eq!(runs(&done(edited, None)), Some(vec!["d".to_owned(), "mesh-agent-cni".to_owned()]));

    let mut gone = first.clone();
    gone.remove("10-c.conf");
    assert_eq!(plan(&gone, None, &entry()).stale, ["10-c-mesh-agent.conflist"]);
    assert_eq!(runs(&done(gone, None)), Some(vec!["b".to_owned(), "mesh-agent-cni".to_owned()]));

    let mut lower = first;
    lower.insert("05-a.conflist".into(), list("a"));
    assert_eq!(
        plan(&lower, None, &entry()).write.map(|write| (write.file, write.found)),
        Some(("05-a.conflist".into(), Found::NotChained))
    );
}

#[test]
fn somebody_elses_file_of_that_name_is_theirs() {
    let all = files(&[("10-a-mesh-agent.conflist", &list("a"))]);
    let after = done(all, None);
    assert_eq!(runs(&after), Some(vec!["a".to_owned(), "mesh-agent-cni".to_owned()]));
    assert_eq!(undo("10-a-mesh-agent.conflist", &after["10-a-mesh-agent.conflist"]), Left::Text(list("a")));
}

#[test]
fn what_is_found_is_told() {
    let a = list("a");
    let with = done(files(&[("a.conflist", &a)]), None);
    let other = with["a.conflist"].replace("/run/cni.sock", "/run/old.sock");
    let cases = [(a.as_str(), Some(Found::NotChained)), (&other, Some(Found::Otherwise)), (&with["a.conflist"], None)];
    for (text, expected) in cases {
        let found = plan(&files(&[("a.conflist", text)]), None, &entry()).write.map(|write| write.found);
        assert_eq!(found, expected, "{text}");
    }
}

fn any_files() -> impl Strategy<Value = Files> {
    let name = ("[0-2][ab-]{0,2}(-mesh-agent)?", prop::sample::select(&ENDINGS[..])).prop_map(|(stem, end)| stem + end);
    let text = prop_oneof![
        4 => "[a-c]".prop_map(|plugin| list(&plugin)),
        3 => "[a-c]".prop_map(|plugin| single(&plugin)),
        1 => Just(String::new()),
        1 => Just("{\"plugins\":[]}".to_owned()),
    ];
    prop::collection::btree_map(name, text, 0..5)
}

proptest! {
    #[test]
    fn once_done_there_is_nothing_to_do_and_all_can_be_undone(before in any_files()) {
        let after = done(before.clone(), None);
        let again = plan(&after, None, &entry());
        prop_assert_eq!((&again.write, &again.stale), (&None, &Vec::new()), "{:?}", after);
        // Unless a broken file is the first, which no runtime gets over, the mesh is in what is run.
        let good = runs(&before).filter(|_| again.chained.is_ok());
        if let Some(plugins) = good.filter(|plugins| plugins.len() == 1) {
            prop_assert_eq!(runs(&after), Some(vec![plugins[0].clone(), "mesh-agent-cni".to_owned()]));
        }
        let undone: Files = after.into_iter().filter_map(|(name, text)| match undo(&name, &text) {
            Left::AsItIs => Some((name, text)),
            Left::Text(text) => Some((name, text)),
            Left::Nothing => None,
        }).collect();
        // A broken list of such a name is one of ours that was spoilt.
        let spoilt = |name: &str, text: &str| name.ends_with(DERIVED) && (text.is_empty() || text.ends_with("[]}"));
        let expected = before.into_iter().filter(|(name, text)| !spoilt(name, text));
        let undone = undone.into_iter().filter(|(name, text)| !spoilt(name, text));
        prop_assert_eq!(undone.collect::<Files>(), expected.collect::<Files>());
    }
}
