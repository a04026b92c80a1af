//! What the kernel counts for a container: its control groups, of version 1 or 2.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::files;

const ROOT: &str = "/sys/fs/cgroup";

/// The control groups of one container.
#[derive(Debug)]
pub(crate) struct Group {
    cpu: PathBuf,
    memory: PathBuf,
    is_unified: bool,
}

impl Group {
    /// Finds the groups of the container with this id below a group.
    pub(crate) fn of(below: &str, container: &str) -> Result<Self, String> {
        let root = Path::new(ROOT);
        let is_unified = root.join("cgroup.controllers").exists();
        let find = |controller: &str| {
            let root = if is_unified { root.to_owned() } else { root.join(controller) };
            let problem = || format!("no control group of {container} below {}", root.display());
            found(&root.join(below), container).ok_or_else(problem)
        };
        Ok(Self { cpu: find("cpuacct")?, memory: find("memory")?, is_unified })
    }

    /// Nanoseconds of CPU so far.
    pub(crate) fn cpu_ns(&self) -> Result<u64, String> {
        if self.is_unified {
            let text = files::read(self.cpu.join("cpu.stat"))?;
            return entry(&text, "usage_usec").map(|usec| usec.saturating_mul(1000));
        }
        number(&self.cpu.join("cpuacct.usage"))
    }

    /// Bytes of memory in use, without the files that the kernel may drop: what Kubernetes judges
    /// a pod by.
    pub(crate) fn working_set(&self) -> Result<u64, String> {
        let (all, idle) = if self.is_unified {
            ("memory.current", "inactive_file")
        } else {
            ("memory.usage_in_bytes", "total_inactive_file")
        };
        let idle = entry(&files::read(self.memory.join("memory.stat"))?, idle)?;
        Ok(number(&self.memory.join(all))?.saturating_sub(idle))
    }

    /// The most bytes that there ever were, with files, and how many there may be.
    pub(crate) fn peak_and_limit(&self) -> Result<(u64, u64), String> {
        let (peak, limit) = if self.is_unified {
            ("memory.peak", "memory.max")
        } else {
            ("memory.max_usage_in_bytes", "memory.limit_in_bytes")
        };
        Ok((number(&self.memory.join(peak))?, number(&self.memory.join(limit))?))
    }
}

/// The folder of this name at any depth.
fn found(folder: &Path, name: &str) -> Option<PathBuf> {
    let below = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let mut below = below.filter(|path| path.is_dir());
    below.find_map(|path| if path.ends_with(name) { Some(path) } else { found(&path, name) })
}

fn number(file: &Path) -> Result<u64, String> {
    let text = files::read(file)?;
    text.trim().parse().map_err(|_| format!("{}: {text}", file.display()))
}

/// The value of a line such as `usage_usec 5`.
fn entry(text: &str, name: &str) -> Result<u64, String> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.parse().ok()).ok_or_else(|| format!("no {name} in {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_by_its_whole_name() {
        let text = "inactive_file_x 1\ninactive_file 2\n";
        assert_eq!(entry(text, "inactive_file"), Ok(2));
        assert!(entry(text, "inactive").is_err());
    }
}
