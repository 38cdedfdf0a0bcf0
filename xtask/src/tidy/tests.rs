//! Each rule, shown to fail on what it forbids and to let pass what it allows; and the repository itself.

use std::path::Path;

use super::source::{Function, Source};
use super::{Finding, Rule, Sizes, check, fences, lexer, prose, ranks};

const LIB: &str = "// Rank 0: a.\npub mod sys;\npub mod admin;\npub mod task;\n// Rank 1: b.\npub mod model;\n";

/// What all rules find in one file, as `line rule`.
fn findings(path: &str, text: &str) -> Vec<String> {
    let source = Source::new(path, text);
    let mut found = Vec::new();
    ranks::check(&source, &ranks::read(LIB), &mut found);
    fences::check(&source, &mut found);
    Sizes::default().check(&source, &mut found);
    prose::check(&source, &mut found);
    found.iter().map(|finding| format!("{} {:?}", finding.line, finding.rule)).collect()
}

fn assert_found(path: &str, text: &str, expected: &[&str]) {
    assert_eq!(findings(path, &format!("//! Doc.\n{text}")), expected, "{path}: {text}");
}

#[test]
fn the_repository_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of it");
    let (found, _) = check(root).expect("its files can be read");
    let lines: Vec<_> = found.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "\n{}", lines.join("\n"));
}

#[test]
fn a_module_imports_only_lower_ranks() {
    let (sys, model) = ("mesh-agent/src/sys/netns.rs", "mesh-agent/src/model.rs");
    assert_found(model, "use crate::sys::netns;", &[]);
    assert_found(model, "use crate::model::addr;", &[]);
    assert_found(sys, "use crate::model::Pod;", &["2 Rank"]);
    assert_found(sys, "use crate::task::Tasks;", &["2 Rank"]);
    assert_found(sys, "\nfn f() { crate::model::f() }", &["3 Rank"]);
    assert_found(sys, "use crate::{\n    sys::{a, b},\n    model::{self, c},\n};", &["4 Rank"]);
    assert_found(sys, "use super::super::model;", &["2 Rank"]);
    assert_found(sys, "use super::socket;", &[]);
    assert_found(sys, "#[cfg(test)]\nmod tests {\n    use crate::model::Pod;\n}", &[]);
    assert_found(sys, "// crate::model is above\nconst S: &str = \"crate::model\";", &[]);
    assert_found(sys, "use crate::nowhere::X;", &["2 Rank"]);
    assert_found("mesh-agent/src/unlisted.rs", "", &["1 Rank"]);
}

#[test]
fn an_exception_is_one_way() {
    assert_found("mesh-agent/src/admin.rs", "use crate::task::Tasks;", &[]);
    assert_found("mesh-agent/src/task.rs", "use crate::admin::ready;", &["2 Rank"]);
}

#[test]
fn crates_stay_in_their_rooms() {
    assert_found("mesh-agent/src/sys.rs", "use aya::Ebpf;", &["2 Fence"]);
    assert_found("mesh-agent/src/sys.rs", "fn f(e: h2::Error) {}", &["2 Fence"]);
    assert_found("mesh-agent/src/sys.rs", "use kube::Client;", &["2 Fence"]);
    assert_found("mesh-agent/src/sys.rs", "use crate::sys::h2::Frame;", &[]);
    assert_found("mesh-agent/src/model.rs", "use tokio::sync::watch;", &["2 Fence"]);
    assert_found("mesh-agent/src/admin/server.rs", "use hyper::Request;", &[]);
    assert_found("mesh-agent/src/sys.rs", "#[cfg(test)]\nmod tests {\n    use h2::client;\n}", &[]);
    assert_found("tests/src/peer.rs", "use rcgen::KeyPair;", &[]);
}

#[test]
fn unsafe_stays_in_its_rooms_and_is_explained() {
    let bare = "fn f() {\n    unsafe { g() };\n}";
    let explained = "fn f() {\n    // SAFETY: g asks nothing.\n    unsafe { g() };\n}";
    let statement = "fn f() {\n    // SAFETY: g asks nothing.\n    let found =\n        unsafe { g() };\n}";
    let other = "fn f() {\n    // SAFETY: g asks nothing.\n    let a = 1;\n    unsafe { g() };\n}";
    assert_found("mesh-agent/src/model.rs", explained, &["4 Fence"]);
    assert_found("mesh-agent/src/sys.rs", explained, &[]);
    assert_found("mesh-agent/src/sys.rs", statement, &[]);
    assert_found("mesh-agent/src/sys.rs", bare, &["3 Safety"]);
    assert_found("mesh-ebpf/src/act.rs", other, &["5 Safety"]);
    assert_found("mesh-ebpf/src/act.rs", "unsafe impl P for X {}", &["2 Safety"]);
    assert_found("mesh-agent/src/sys.rs", "#[expect(unsafe_code, reason = \"unsafe {\")]\nfn f() {}", &[]);
}

#[test]
fn files_and_functions_are_short() {
    let path = "mesh-common/src/a.rs";
    let lines = |count: usize| "const A: u8 = 1;\n".repeat(count);
    assert_found(path, &lines(399), &[]);
    assert_found(path, &lines(400), &["1 Size"]);
    assert_found(path, &format!("#[cfg(test)]\nmod tests {{\n{}}}", lines(400)), &[]);
    assert_found(path, &format!("#[cfg(test)]\nmod tests {{\n{}}}", lines(600)), &["1 Size"]);
    let function = |count: usize| format!("\nfn long() {{\n{}}}", "    f();\n".repeat(count));
    assert_found(path, &function(78), &[]);
    assert_found(path, &function(79), &["3 Size"]);
}

#[test]
fn budgets_of_the_whole_are_kept() {
    let report = |lines: usize| {
        let mut sizes = Sizes::default();
        let mut found: Vec<Finding> = Vec::new();
        let text = format!("fn f() {{\n{}}}\n", "    f();\n".repeat(lines)).repeat(10);
        sizes.check(&Source::new("mesh-common/src/a.rs", &text), &mut found);
        found.clear();
        sizes.report(&mut found);
        found.len()
    };
    assert_eq!(report(28), 0);
    assert_eq!(report(29), 1);
}

#[test]
fn files_have_docs_and_nothing_is_left_for_later() {
    assert_eq!(findings("mesh-common/src/a.rs", "use a;\n"), ["1 Doc"]);
    let word = concat!("TO", "DO");
    assert_found("mesh-common/src/a.rs", &format!("// {word}: later"), &["2 Later"]);
    assert_found("mesh-common/src/a.rs", &format!("// {word}(#12): later"), &[]);
    assert_found("mesh-common/src/a.rs", &format!("fn f() {{ {}!() }}", word.to_lowercase()), &["2 Later"]);
}

#[test]
fn comments_and_literals_are_blanked() {
    for (text, code) in [
        ("a // b\nc", "a     \nc"),
        ("a /* b /* c */ d */ e", "a                   e"),
        (r#"f("a\"b", x)"#, "f(      , x)"),
        ("r#\"a\"b\"# c", "         c"),
        ("'a' 'b", "    'b"),
        (r"'\'' 'c", "     'c"),
        ("b\"x\" y", "b    y"),
        ("r#type", "r#type"),
    ] {
        assert_eq!(lexer::blank(text), code);
    }
}

#[test]
fn functions_are_measured() {
    let text = "trait T { fn none(&self); }\nfn one(f: fn(u8) -> u8) -> [u8; 2] {\n    |x| { x };\n}\n#[cfg(test)]\nfn two() {}";
    let source = Source::new("a.rs", text);
    let one = Function { name: "one", line: 2, lines: 3, test: false };
    assert_eq!(source.functions(), [one, Function { name: "two", line: 6, lines: 1, test: true }]);
}

#[test]
fn a_finding_names_the_place_and_the_rule() {
    let source = Source::new("a.rs", "");
    assert_eq!(Finding::new(&source, 7, Rule::Later, "x".into()).to_string(), "a.rs:7: later: x");
}
