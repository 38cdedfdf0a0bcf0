//! Images made from files, as archives that a container runtime imports: there is no registry, and no daemon builds them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

/// An image to be made. Each call of [`Image::layer`] begins another layer.
#[derive(Clone, Debug, Default)]
pub struct Image {
    name: String,
    layers: Vec<Vec<Entry>>,
    entrypoint: Vec<String>,
    variables: Vec<String>,
}

#[derive(Clone, Debug)]
enum Entry {
    /// A program or another file: executable for all.
    File(String, PathBuf),
    /// A symbolic link, and what it says.
    Link(String, String),
    /// All of a folder, to the root.
    Folder(PathBuf),
    /// An empty folder.
    Empty(String),
}

impl Image {
    /// `name` with its tag, such as `lab/tools:1`. Pods that use it need `imagePullPolicy: Never` or `IfNotPresent`.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), layers: vec![Vec::new()], ..Self::default() }
    }

    /// What comes from here on is in a layer of its own.
    #[must_use]
    pub fn layer(mut self) -> Self {
        self.layers.push(Vec::new());
        self
    }

    /// A file of this machine at `path`, executable for all.
    #[must_use]
    pub fn file(self, path: &str, from: &Path) -> Self {
        self.with(Entry::File(path.to_owned(), from.to_owned()))
    }

    /// A program of this machine with the libraries that it is linked with, all at their own paths.
    pub fn program(self, path: &str) -> Result<Self> {
        Ok(self.libraries(Path::new(path))?.file(path, Path::new(path)))
    }

    /// The libraries that a program is linked with, at their own paths.
    pub fn libraries(self, program: &Path) -> Result<Self> {
        let output = Command::new("ldd").arg(program).output().context("ldd")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{} is not linked with libraries: {text}", program.display());
        let libraries = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
        Ok(libraries.fold(self, |image, file| image.file(file, Path::new(file))))
    }

    /// A symbolic link at `path`.
    #[must_use]
    pub fn link(self, path: &str, to: &str) -> Self {
        self.with(Entry::Link(path.to_owned(), to.to_owned()))
    }

    /// All that is in a folder of this machine, as the image's root.
    #[must_use]
    pub fn directory(self, from: &Path) -> Self {
        self.with(Entry::Folder(from.to_owned()))
    }

    /// An empty folder.
    #[must_use]
    pub fn empty(self, path: &str) -> Self {
        self.with(Entry::Empty(path.to_owned()))
    }

    /// What its containers run.
    #[must_use]
    pub fn entrypoint(mut self, words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.entrypoint = words.into_iter().map(Into::into).collect();
        self
    }

    /// A variable of its containers' environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push(format!("{name}={value}"));
        self
    }

    fn with(mut self, entry: Entry) -> Self {
        if let Some(layer) = self.layers.last_mut() {
            layer.push(entry);
        }
        self
    }

    /// Writes the archive to `directory`, under a name of its own; gives the file.
    pub fn write(&self, directory: &Path) -> Result<PathBuf> {
        ensure!(self.name.contains(':'), "{}: an image's name has a tag", self.name);
        let place = tempfile::tempdir_in(directory).context("a folder for an image")?;
        let (mut names, mut hashes) = (Vec::new(), Vec::new());
        for (number, entries) in self.layers.iter().enumerate() {
            let (name, root) = (format!("{number}.tar"), place.path().join(format!("{number}")));
            fs::create_dir(&root)?;
            fs::set_permissions(&root, fs::Permissions::from_mode(0o755))?;
            entries.iter().try_for_each(|entry| entry.put(&root))?;
            let file = place.path().join(&name);
            tar(&root, &file, &["."])?;
            fs::remove_dir_all(&root)?;
            hashes.push(format!("sha256:{}", hash(&file)?));
            names.push(name);
        }
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
        let variables: Vec<_> = [path].into_iter().chain(self.variables.clone()).collect();
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {"Entrypoint": self.entrypoint, "Env": variables},
            "rootfs": {"type": "layers", "diff_ids": hashes},
        });
        let manifest = json!([{"Config": "config.json", "RepoTags": [self.name], "Layers": names}]);
        fs::write(place.path().join("config.json"), config.to_string())?;
        fs::write(place.path().join("manifest.json"), manifest.to_string())?;
        let file = directory.join(format!("{}.tar", self.name.replace(['/', ':'], "_")));
        let all = ["manifest.json", "config.json"].into_iter().chain(names.iter().map(String::as_str));
        tar(place.path(), &file, &all.collect::<Vec<_>>())?;
        Ok(file)
    }
}

impl Entry {
    fn put(&self, root: &Path) -> Result<()> {
        let inside = |path: &str| -> Result<PathBuf> {
            let place = root.join(path.trim_start_matches('/'));
            fs::create_dir_all(place.parent().context("a path")?)?;
            Ok(place)
        };
        match self {
            Self::File(path, from) => {
                let place = inside(path)?;
                fs::copy(from, &place).with_context(|| from.display().to_string())?;
                fs::set_permissions(&place, fs::Permissions::from_mode(0o755))?;
            }
            Self::Link(path, to) => symlink(to, inside(path)?)?,
            Self::Empty(path) => fs::create_dir_all(inside(path)?)?,
            Self::Folder(from) => run(Command::new("cp").arg("-a").arg(from.join(".")).arg(root))?,
        }
        Ok(())
    }
}

/// The machine's, as images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    }
}

/// The same files give the same archive.
fn tar(root: &Path, to: &Path, what: &[&str]) -> Result<()> {
    let mut command = Command::new("tar");
    command.args(["--create", "--numeric-owner", "--owner=0", "--group=0", "--sort=name", "--mtime=@0"]);
    run(command.arg("--file").arg(to).arg("--directory").arg(root).args(what))
}

fn hash(file: &Path) -> Result<String> {
    let output = Command::new("sha256sum").arg(file).output().context("sha256sum")?;
    let text = String::from_utf8(output.stdout)?;
    text.split_whitespace().next().map(str::to_owned).context("a hash")
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("{:?}: {}", command.get_program(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_its_layers_and_says_their_hashes() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("program");
        fs::write(&file, "x").unwrap();
        let image =
            Image::new("lab/x:1").file("/bin/x", &file).link("/bin/y", "x").layer().empty("/tmp").entrypoint(["x"]);
        let archive = image.write(place.path()).unwrap();
        let first = fs::read(&archive).unwrap();
        let listed = Command::new("tar").arg("-tf").arg(&archive).output().unwrap().stdout;
        assert_eq!(String::from_utf8(listed).unwrap(), "manifest.json\nconfig.json\n0.tar\n1.tar\n");
        let config = Command::new("tar").args(["-xOf"]).arg(&archive).arg("config.json").output().unwrap().stdout;
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 2);
        image.write(place.path()).unwrap();
        assert_eq!(fs::read(&archive).unwrap(), first, "the same files give the same archive");
    }

    #[test]
    fn a_program_comes_with_its_libraries() {
        let image = Image::new("lab/x:1").program("/bin/sh").unwrap();
        let files: Vec<_> = image.layers[0].iter().map(|entry| format!("{entry:?}")).collect();
        assert!(
            files.iter().any(|file| file.contains("/libc.so")) && files.iter().any(|file| file.contains("/bin/sh"))
        );
        assert!(Image::new("lab/x:1").program("/etc/hostname").is_err());
    }

    #[test]
    fn a_name_needs_a_tag() {
        let place = tempfile::tempdir().unwrap();
        assert!(Image::new("lab/x").write(place.path()).is_err());
    }
}
