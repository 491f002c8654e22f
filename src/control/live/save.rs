//! Writing the running configuration to the files natgate starts from.

use super::running::hash;
use super::{Live, lock};
use crate::config::{self, Text};
use crate::control::api::{Failure, FailureKind, SaveRequest, Saved};
use crate::control::runtime::refused;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

impl Live {
    /// Writes what differs from the files, each file by rename; the file before stays as `FILE~`.
    pub(super) fn save_running(&self, request: &SaveRequest) -> Result<Saved, Failure> {
        let _one_at_a_time = lock(&self.changing);
        let (loaded, boot_file, boot_hash, unconfirmed) = {
            let running = lock(&self.running);
            (
                running.loaded.clone(),
                running.boot_file.clone(),
                running.boot_hash.clone(),
                running.pending.is_some(),
            )
        };
        let refuse = |why: String, hint: &str| {
            let what = format!("save to {}", boot_file.display());
            Err(Failure::new(FailureKind::Refused, what, why).hint(hint))
        };
        if unconfirmed {
            return refuse(
                "the last change is not confirmed yet".into(),
                "`natgate confirm` keeps it",
            );
        }
        let report = |report| refused(FailureKind::Failed, &boot_file, &report);
        // A file that is gone holds nothing that could be lost.
        let on_disk = match boot_file.exists() {
            true => config::texts(&boot_file).map_err(report)?,
            false => Vec::new(),
        };
        let untouched = hash(&config::shown(&on_disk, &loaded.environment)) == boot_hash;
        if !untouched && !on_disk.is_empty() && !request.force {
            return refuse(
                "it was changed since natgate read it".into(),
                "`natgate diff` shows how, `natgate reload` takes it, `natgate save --force` writes over it",
            );
        }
        let texts = for_boot_file(&loaded.texts, &boot_file);
        let stray = on_disk.iter().skip(1);
        let mut stray = stray.filter(|disk| texts.iter().all(|text| text.name != disk.name));
        if let Some(stray) = stray.next() {
            return refuse(
                format!("{} would be read with it and is not running", stray.name),
                "remove it, or reload with it",
            );
        }
        let mut files = Vec::new();
        for text in texts.iter().rev().filter(|text| !on_disk.contains(text)) {
            write_by_rename(Path::new(&text.name), &text.content).map_err(|e| {
                Failure::new(FailureKind::Failed, text.name.clone(), e.to_string())
                    .hint("natgate must be able to write the file's directory")
            })?;
            files.push(text.name.clone());
        }
        let saved = config::read(texts, &loaded.environment).map_err(report)?;
        let mut saved = saved.with_lists_of(&loaded.validated, |_, _| true);
        saved.followed.clone_from(&loaded.followed);
        let mut running = lock(&self.running);
        running.hash = hash(&saved.text());
        running.boot_hash = running.hash.clone();
        running.loaded = Arc::new(saved);
        running.file = boot_file;
        tracing::info!(?files, "configuration saved");
        Ok(Saved {
            files,
            hash: running.hash.clone(),
        })
    }
}

/// The texts under the names they have as the boot file and its drop-ins.
fn for_boot_file(texts: &[Text], boot_file: &Path) -> Vec<Text> {
    let drop_ins = boot_file.with_extension("d");
    let text = |(index, text): (usize, &Text)| {
        let name = match index {
            0 => boot_file.to_owned(),
            _ => drop_ins.join(Path::new(&text.name).file_name().unwrap_or_default()),
        };
        Text {
            name: name.display().to_string(),
            content: text.content.clone(),
        }
    };
    texts.iter().enumerate().map(text).collect()
}

/// Replaces a file's content so that a reader sees the old one or the new one, whatever happens; keeps its permissions, and the
/// old one as `FILE~`. A symbolic link keeps pointing where it does.
fn write_by_rename(path: &Path, content: &str) -> io::Result<()> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = |name: String| -> PathBuf { directory.join(name) };
    let new = beside(format!(".{name}.new"));
    let mut file = File::create(&new)?;
    file.write_all(content.as_bytes())?;
    if let Ok(old) = fs::metadata(&path) {
        file.set_permissions(old.permissions())?;
    }
    file.sync_all()?;
    if path.exists() {
        fs::copy(&path, beside(format!("{name}~")))?;
    }
    fs::rename(&new, &path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_permissions_and_the_old_one_kept() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.toml");
        write_by_rename(&path, "one").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let link = directory.path().join("link.toml");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        write_by_rename(&link, "two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(
            fs::read_to_string(directory.path().join("a.toml~")).unwrap(),
            "one"
        );
        assert!(link.is_symlink());
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o640
        );
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);
    }

    #[test]
    fn drop_ins_move_along_with_their_names() {
        let text = |name: &str| Text {
            name: name.to_owned(),
            content: String::new(),
        };
        let moved = for_boot_file(
            &[text("/tmp/x.toml"), text("/tmp/x.d/10-a.toml")],
            Path::new("/etc/natgate/natgate.toml"),
        );
        let names: Vec<&str> = moved.iter().map(|text| text.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "/etc/natgate/natgate.toml",
                "/etc/natgate/natgate.d/10-a.toml"
            ]
        );
    }
}
