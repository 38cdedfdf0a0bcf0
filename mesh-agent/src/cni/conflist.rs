//! The plugin's place in a network's configuration, on its text: everything else in it stays as it was, to the byte.
//!
//! A list (`.conflist`) gets the plugin as its last element, and has its old text back when that is cut out again. The
//! configuration of a single plugin (`.conf`, `.json`) cannot have a second one: from it a list is derived, in a file of
//! its own which sorts before it, so that runtimes take the list. Which file a list was derived from is said in it.

use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::PROGRAM;
use super::spec::is_supported;

/// The key of a derived list that names its source.
const DERIVED: &str = "mesh-agent.derivedFrom";

/// What the plugin is to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) socket: String,
    pub(super) excluded: Vec<String>,
}

/// Why the plugin cannot be chained.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    /// Runtimes do not take such a file either.
    #[error("it is no network configuration: {0}")]
    Broken(String),
    #[error("it is of CNI version {0}, which has no chained plugins; 0.3.0 is the first that has them")]
    Version(String),
    #[error("it has no key \"plugins\": its plugins are in a folder of their own")]
    Folder,
}

/// A list as it is written.
struct List<'a> {
    text: &'a str,
    plugins: Vec<Plugin<'a>>,
}

struct Plugin<'a> {
    /// Its place in the text.
    at: Range<usize>,
    written: &'a str,
    ours: bool,
}

/// An object's fields, in their order.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl Entry {
    fn value(&self) -> Value {
        json!({"type": PROGRAM, "name": PROGRAM, "socket": self.socket, "excludeNamespaces": self.excluded})
    }
}

/// The list with the plugin in it, once, with these options, after another one; nothing if it is like that. Behind the
/// plugin there may be others: whoever adds them may want to be the last as well, and there is nothing to win in that.
pub(super) fn with(text: &str, entry: &Entry) -> Result<Option<String>, Unfit> {
    let list = List::read(text)?;
    let ours: Vec<_> = list.plugins.iter().enumerate().filter(|(_, plugin)| plugin.ours).collect();
    if let [(place, plugin)] = ours.as_slice()
        && *place > 0
        && serde_json::from_str(plugin.written).is_ok_and(|written: Value| written == entry.value())
    {
        return Ok(None);
    }
    let others = list.without();
    let list = List::read(&others)?;
    let last = list.plugins.last().ok_or_else(no_plugin)?;
    // As far from the one before it as that is from what is before.
    let gap = others[..last.at.start].rfind(|c: char| !c.is_ascii_whitespace()).map_or(0, |before| before + 1);
    let (head, tail) = others.split_at(last.at.end);
    Ok(Some(format!("{head},{}{}{tail}", &others[gap..last.at.start], entry.value())))
}

/// The list without the plugin; nothing if it is not in it.
pub(super) fn without(text: &str) -> Result<Option<String>, Unfit> {
    let list = List::read(text)?;
    Ok(list.plugins.iter().any(|plugin| plugin.ours).then(|| list.without()))
}

/// The list that takes the place of a single plugin's configuration, whose file is `source`.
pub(super) fn derive(source: &str, text: &str, entry: &Entry) -> Result<String, Unfit> {
    let fields = Fields::read(text)?;
    let name = fields.text("name").filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| Unfit::Broken("the network has no name".to_owned()))?;
    let kind = fields.text("type").filter(|kind| !kind.is_empty() && kind != PROGRAM);
    kind.ok_or_else(|| Unfit::Broken("it does not say which plugin it is for".to_owned()))?;
    let version = fields.version()?;
    let (name, version, source) = (json!(name), json!(version), json!(source));
    Ok(format!(
        "{{\n  \"cniVersion\": {version},\n  \"name\": {name},\n  \"{DERIVED}\": {source},\n  \"plugins\": [\n    {},\n    {}\n  ]\n}}\n",
        text.trim(),
        entry.value()
    ))
}

/// The file that a list was derived from, if it is such a list.
pub(super) fn derived_from(text: &str) -> Option<String> {
    Fields::read(text).ok()?.text(DERIVED)
}

impl<'a> List<'a> {
    fn read(text: &'a str) -> Result<Self, Unfit> {
        let fields = Fields::read(text)?;
        fields.text("name").ok_or_else(|| Unfit::Broken("the network has no name".to_owned()))?;
        fields.version()?;
        let plugins = fields.get("plugins").ok_or(Unfit::Folder)?;
        let plugins: Vec<&RawValue> = serde_json::from_str(plugins).map_err(broken)?;
        let plugins: Vec<_> = plugins.into_iter().map(|raw| Plugin::read(text, raw.get())).collect::<Result<_, _>>()?;
        if plugins.is_empty() { Err(no_plugin()) } else { Ok(Self { text, plugins }) }
    }

    /// The text with each plugin of ours cut out, together with the comma that binds it.
    fn without(&self) -> String {
        let leading = self.plugins.iter().take_while(|plugin| plugin.ours).count();
        let mut cuts = Vec::new();
        if let Some(last) = leading.checked_sub(1) {
            let (first, last) = (&self.plugins[0].at, &self.plugins[last].at);
            cuts.push(first.start..self.plugins.get(leading).map_or(last.end, |next| next.at.start));
        }
        let pairs = self.plugins.windows(2).skip(leading).filter(|pair| pair[1].ours);
        cuts.extend(pairs.map(|pair| pair[0].at.end..pair[1].at.end));
        let mut text = self.text.to_owned();
        for cut in cuts.into_iter().rev() {
            text.replace_range(cut, "");
        }
        text
    }
}

impl<'a> Plugin<'a> {
    /// `written` is a part of `text`.
    fn read(text: &str, written: &'a str) -> Result<Self, Unfit> {
        let kind = Fields::read(written)?.text("type").filter(|kind| !kind.is_empty());
        let kind = kind.ok_or_else(|| Unfit::Broken("a plugin in it has no type".to_owned()))?;
        let start = written.as_ptr().addr() - text.as_ptr().addr();
        Ok(Self { at: start..start + written.len(), written, ours: kind == PROGRAM })
    }
}

impl<'a> Fields<'a> {
    fn read(text: &'a str) -> Result<Self, Unfit> {
        serde_json::from_str(text).map_err(broken)
    }

    /// A field's value as it is written; the last counts, as it does for runtimes.
    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().rev().find(|field| field.0 == name).map(|field| field.1.get())
    }

    fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.get(name)?).ok()
    }

    /// The version that a runtime will choose, as far as it has chained plugins.
    fn version(&self) -> Result<String, Unfit> {
        let more: Vec<String> =
            self.get("cniVersions").and_then(|all| serde_json::from_str(all).ok()).unwrap_or_default();
        let all = self.text("cniVersion").into_iter().chain(more);
        // Without any it is of the first version.
        let newest = all.max_by_key(|version| numbers(version)).unwrap_or_else(|| "0.1.0".to_owned());
        if is_supported(&newest) { Ok(newest) } else { Err(Unfit::Version(newest)) }
    }
}

fn numbers(version: &str) -> Vec<u32> {
    version.split(['.', '-', '+']).map_while(|number| number.parse().ok()).collect()
}

fn no_plugin() -> Unfit {
    Unfit::Broken("there is no plugin in it but the mesh's".to_owned())
}

fn broken(error: serde_json::Error) -> Unfit {
    Unfit::Broken(error.to_string())
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Object).map(Fields)
    }
}

#[cfg(test)]
mod tests;
