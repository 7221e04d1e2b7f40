//! Reading the configuration's files: the main file, then `conf.d/*.toml` beside it, by name.
//!
//! Invariant: all files or none; a file that cannot be read is an error like a fault in it. What the text means is
//! `vmpath_core::spec`'s business.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vmpath_core::spec::{Fault, Source, Spec, parse};

/// Where the daemon looks when it is not told.
pub const DEFAULT_FILE: &str = "/etc/vmpath/vmpath.toml";

/// A valid configuration and where it came from.
#[derive(Clone, Debug)]
pub struct Config {
    pub spec: Arc<Spec>,
    pub warnings: Vec<Fault>,
    pub files: Vec<PathBuf>,
}

/// Why there is no configuration.
#[derive(Clone, Debug)]
pub enum ConfigError {
    /// Files that cannot be read; in words.
    Unreadable(Vec<String>),
    /// Every fault in them.
    Faults(Vec<Fault>),
}

impl ConfigError {
    /// One line or two for each thing that is wrong, as `FILE:LINE:COLUMN: what`.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Unreadable(files) => files.clone(),
            Self::Faults(faults) => faults.iter().map(ToString::to_string).collect(),
        }
    }
}

/// Reads and checks the configuration. Blocks on files: not for the control owner.
///
/// # Errors
/// All files that cannot be read, or all faults.
pub fn load(main: &Path) -> Result<Config, ConfigError> {
    let files = files(main).map_err(|error| ConfigError::Unreadable(vec![error]))?;
    let (mut texts, mut unreadable) = (Vec::new(), Vec::new());
    for file in &files {
        match fs::read_to_string(file) {
            Ok(text) => texts.push((file.display().to_string(), text)),
            Err(error) => unreadable.push(explain(file, &error)),
        }
    }
    if !unreadable.is_empty() {
        return Err(ConfigError::Unreadable(unreadable));
    }
    let sources: Vec<_> = texts.iter().map(|(name, text)| Source { name, text }).collect();
    let parsed = parse(&sources).map_err(ConfigError::Faults)?;
    Ok(Config { spec: Arc::new(parsed.spec), warnings: parsed.warnings, files })
}

fn files(main: &Path) -> Result<Vec<PathBuf>, String> {
    let conf_d = main.with_file_name("conf.d");
    let mut files = vec![main.to_owned()];
    match fs::read_dir(&conf_d) {
        Ok(entries) => {
            for entry in entries {
                let path = entry.map_err(|error| explain(&conf_d, &error))?.path();
                let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
                if path.extension().is_some_and(|ext| ext == "toml") && !hidden {
                    files.push(path);
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(explain(&conf_d, &error)),
    }
    files[1..].sort();
    Ok(files)
}

fn explain(file: &Path, error: &io::Error) -> String {
    let file = file.display();
    match error.kind() {
        io::ErrorKind::NotFound => format!("{file}: no such file; name the configuration with -c FILE"),
        io::ErrorKind::PermissionDenied => {
            format!("{file}: permission denied; run as root, or chmod the file")
        }
        io::ErrorKind::InvalidData => format!("{file}: not UTF-8 text"),
        _ => format!("{file}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_main_file_comes_first_and_conf_d_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let conf_d = dir.path().join("conf.d");
        fs::create_dir(&conf_d).unwrap();
        for name in ["b.toml", "a.toml", ".hidden.toml", "c.toml~"] {
            fs::write(conf_d.join(name), "").unwrap();
        }
        let main = dir.path().join("vmpath.toml");
        assert_eq!(files(&main).unwrap(), [main.clone(), conf_d.join("a.toml"), conf_d.join("b.toml")]);
    }

    #[test]
    fn every_unreadable_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("conf.d")).unwrap();
        fs::write(dir.path().join("conf.d/x.toml"), b"\xff").unwrap();
        let error = load(&dir.path().join("vmpath.toml")).unwrap_err();
        let lines = error.lines();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(
            lines[0].contains("vmpath.toml: no such file") && lines[1].contains("x.toml: not UTF-8"),
            "{lines:?}"
        );
    }
}
