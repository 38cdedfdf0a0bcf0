//! What must be written for the plugin to be in the network that the runtime takes. Pure.

use std::collections::BTreeMap;

use crate::cni::conflist::{self, Entry, Unfit};

/// The texts of the configuration files in the runtime's folder, by name, in the order in which runtimes look at them.
pub(super) type Files = BTreeMap<String, String>;

/// The files' endings that runtimes look for.
pub(super) const ENDINGS: [&str; 3] = [".conf", ".conflist", ".json"];
const LIST: &str = ".conflist";
/// Behind the stem of a single plugin's file: `10-a.conf` sorts after `10-a-mesh-agent.conflist`, because a dot does after
/// a hyphen, and nothing that was there sorts between the two as long as that file was the first.
const DERIVED: &str = "-mesh-agent.conflist";

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) write: Option<Write>,
    /// Derived files whose source has gone.
    pub(super) stale: Vec<String>,
    /// The file that has the plugin once this is done; or why there is none.
    pub(super) chained: Result<String, Waiting>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) file: String,
    pub(super) text: String,
    /// The file whose mode it gets.
    pub(super) like: String,
    pub(super) found: Found,
}

/// What was not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The file that the runtime takes is without the plugin.
    NotChained,
    /// The plugin is in it with other options, several times, or in front of all others.
    Otherwise,
    /// The list that was derived from a single plugin's file is missing.
    NoList,
    /// That list is not what would be derived now.
    OldList,
}

/// Why there is no network to chain the plugin to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// The network plugin has not written its configuration yet.
    NoFile,
    Missing(String),
    /// Each file, and what is wrong with it.
    Unusable(Vec<(String, String)>),
}

/// Looks at all `files`; `network` is the one to be used, else it is the first that a runtime can use.
pub(super) fn plan(files: &Files, network: Option<&str>, entry: &Entry) -> Plan {
    let stale =
        files.iter().filter(|(file, text)| source(file, text).is_some_and(|source| !files.contains_key(&source)));
    let stale = stale.map(|(file, _)| file.clone()).collect();
    let (write, chained) = match choose(files, network, entry) {
        Ok((file, write)) => (write, Ok(file)),
        Err(waiting) => (None, Err(waiting)),
    };
    Plan { write, stale, chained }
}

fn choose(files: &Files, network: Option<&str>, entry: &Entry) -> Result<(String, Option<Write>), Waiting> {
    if let Some(network) = network.filter(|network| !files.contains_key(*network)) {
        return Err(Waiting::Missing(network.to_owned()));
    }
    let mut unusable = Vec::new();
    for (file, text) in files {
        let wanted = network.map_or_else(|| source(file, text).is_none(), |network| network == file);
        if !wanted {
            continue;
        }
        match chain(files, file, text, entry) {
            Ok(chained) => return Ok(chained),
            Err(unfit) => {
                unusable.push((file.clone(), unfit.to_string()));
                // The runtime takes it. To be in another network would not help, and would hide that.
                if !matches!(unfit, Unfit::Broken(_)) {
                    break;
                }
            }
        }
    }
    Err(if unusable.is_empty() { Waiting::NoFile } else { Waiting::Unusable(unusable) })
}

/// The file that has the plugin when it is in this network, and what must be written for that.
fn chain(files: &Files, file: &str, text: &str, entry: &Entry) -> Result<(String, Option<Write>), Unfit> {
    let like = file.to_owned();
    if file.ends_with(LIST) {
        let found = || match conflist::without(text) {
            Ok(Some(_)) => Found::Otherwise,
            Ok(None) | Err(_) => Found::NotChained,
        };
        let write = conflist::with(text, entry)?;
        let write = write.map(|text| Write { file: file.to_owned(), text, like, found: found() });
        return Ok((file.to_owned(), write));
    }
    let wanted = conflist::derive(file, text, entry)?;
    let list = derived(file);
    let found = match files.get(&list) {
        Some(text) if *text == wanted => return Ok((list, None)),
        Some(_) => Found::OldList,
        None => Found::NoList,
    };
    let write = Write { file: list.clone(), text: wanted, like, found };
    Ok((list, Some(write)))
}

/// The derived list of a single plugin's file.
fn derived(file: &str) -> String {
    let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    format!("{stem}{DERIVED}")
}

/// The file that this one was derived from; none, if it is no derived list.
pub(super) fn source(file: &str, text: &str) -> Option<String> {
    conflist::derived_from(text).filter(|source| derived(source) == file)
}

/// What `remove` leaves of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Left {
    AsItIs,
    Text(String),
    Nothing,
}

/// The file without anything of ours.
pub(super) fn undo(file: &str, text: &str) -> Left {
    if source(file, text).is_some() {
        return Left::Nothing;
    }
    match conflist::without(text) {
        Ok(Some(text)) => Left::Text(text),
        // One that cannot be read as a list has nothing of ours.
        Ok(None) | Err(_) => Left::AsItIs,
    }
}

#[cfg(test)]
mod tests;
