//! The traffic metrics, as a scraper sees them.

use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

use super::{Flag, IDLE, Key, LABELS, MOST_SETS, Table, Traffic};

/// A key in which only the first and some later labels have values.
fn key(reporter: &str, workload: &str) -> Key {
    let mut key = Key::default();
    for name in LABELS {
        key.push(match name {
            "reporter" => reporter,
            "source_workload" => workload,
            _ => "",
        });
    }
    key
}

fn page(traffic: &Traffic) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(traffic.clone()));
    let mut page = String::new();
    text::encode(&mut page, &registry).unwrap();
    page
}

/// The page's samples without labels that are `unknown`.
fn samples(traffic: &Traffic) -> Vec<String> {
    let short = |line: &str| {
        let (name, rest) = line.split_once('{').unwrap();
        let (labels, value) = rest.split_once("} ").unwrap();
        let labels: Vec<_> = labels.split(',').filter(|label| !label.ends_with("=\"unknown\"")).collect();
        format!("{} {} {value}", name.trim_start_matches("istio_tcp_"), labels.join(" "))
    };
    page(traffic).lines().filter(|line| !line.starts_with('#')).map(short).collect()
}

fn connection(table: &Table, key: &Key, flag: Flag, bytes: (u64, u64)) {
    let set = table.open(key);
    set.received(bytes.0);
    set.sent(bytes.1);
    table.close(&set, flag);
}

#[test]
fn shards_are_added_up() {
    let traffic = Traffic::default();
    let (one, two) = (traffic.table(), traffic.table());
    connection(&one, &key("source", "a"), Flag::None, (1, 10));
    connection(&two, &key("source", "a"), Flag::Connect, (2, 20));
    connection(&two, &key("destination", "b"), Flag::Deny, (0, 0));
    let live = two.open(&key("source", "a"));
    live.received(100);
    let (a, b) = ("reporter=\"source\" source_workload=\"a\"", "reporter=\"destination\" source_workload=\"b\"");
    let expected = [
        format!("connections_opened_total {b} request_protocol=\"tcp\" response_flags=\"-\" 1"),
        format!("connections_opened_total {a} request_protocol=\"tcp\" response_flags=\"-\" 3"),
        format!("received_bytes_total {b} request_protocol=\"tcp\" response_flags=\"-\" 0"),
        format!("received_bytes_total {a} request_protocol=\"tcp\" response_flags=\"-\" 103"),
        format!("sent_bytes_total {b} request_protocol=\"tcp\" response_flags=\"-\" 0"),
        format!("sent_bytes_total {a} request_protocol=\"tcp\" response_flags=\"-\" 30"),
        format!("connections_closed_total {b} request_protocol=\"tcp\" response_flags=\"-\" 0"),
        format!("connections_closed_total {b} request_protocol=\"tcp\" response_flags=\"DENY\" 1"),
        format!("connections_closed_total {a} request_protocol=\"tcp\" response_flags=\"-\" 1"),
        format!("connections_closed_total {a} request_protocol=\"tcp\" response_flags=\"CONNECT\" 1"),
        format!("connections_failed_total {b} request_protocol=\"tcp\" response_flags=\"DENY\" 1"),
        format!("connections_failed_total {a} request_protocol=\"tcp\" response_flags=\"CONNECT\" 1"),
        "sockets_open reporter=\"destination\" 0".to_owned(),
        "sockets_open reporter=\"source\" 1".to_owned(),
    ];
    assert_eq!(samples(&traffic), expected);
}

#[test]
fn trap_29_every_label_is_there_in_order() {
    let traffic = Traffic::default();
    let mut key = Key::default();
    // A value with the separator in it must not move the values behind it.
    LABELS.iter().for_each(|name| key.push(&format!("<{}\u{1f}>", name.to_uppercase())));
    drop(traffic.table().open(&key));
    let expected: Vec<String> = LABELS.iter().map(|name| format!("{name}=\"<{}>\"", name.to_uppercase())).collect();
    let (last, first) = expected.split_last().unwrap();
    let line = format!(
        "istio_tcp_connections_opened_total{{{},request_protocol=\"tcp\",response_flags=\"-\",{last}}} 1",
        first.join(",")
    );
    assert!(page(&traffic).lines().any(|got| got == line), "{line}\n{}", page(&traffic));
}

#[test]
fn idle_label_sets_are_dropped_from_all_shards_at_once() {
    let traffic = Traffic::default();
    let (one, two) = (traffic.table(), traffic.table());
    connection(&one, &key("source", "gone"), Flag::None, (1, 1));
    connection(&two, &key("source", "gone"), Flag::Deny, (1, 1));
    connection(&one, &key("source", "half"), Flag::None, (1, 1));
    let live = two.open(&key("source", "half"));
    traffic.sweep(IDLE - Duration::from_secs(1));
    assert_eq!((one.len(), two.len()), (2, 2));
    traffic.sweep(IDLE + Duration::from_secs(1));
    assert_eq!((one.len(), two.len()), (1, 1), "the live half keeps the other shard's half");
    assert!(samples(&traffic)[0].ends_with(" 2"), "{:?}", samples(&traffic));
    two.close(&live, Flag::None);
    traffic.sweep(IDLE + Duration::from_secs(1));
    assert_eq!((one.len(), two.len()), (0, 0));
    // A label set that comes back starts anew.
    connection(&one, &key("source", "gone"), Flag::None, (1, 1));
    assert!(samples(&traffic)[0].ends_with(" 1"));
}

#[test]
fn too_many_label_sets_share_one() {
    let traffic = Traffic::default();
    let table = traffic.table();
    for number in 0..MOST_SETS + 10 {
        connection(&table, &key("source", &number.to_string()), Flag::None, (1, 1));
    }
    assert_eq!(table.len(), MOST_SETS + 1);
    let shared = samples(&traffic).into_iter().find(|line| !line.contains("source_workload")).unwrap();
    assert_eq!(shared, "connections_opened_total reporter=\"source\" request_protocol=\"tcp\" response_flags=\"-\" 10");
}
