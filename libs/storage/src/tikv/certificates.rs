//! Watches the certificate files for changes.

use std::{path::PathBuf, time::Duration};

use super::TikvTls;

/// Interval between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The files as they were last read.
pub(super) struct Certificates {
    paths: Vec<PathBuf>,
    seen: Option<Vec<Vec<u8>>>,
}

impl Certificates {
    /// Watches the files of this configuration. Without TLS nothing ever changes.
    pub(super) fn of(tls: Option<&TikvTls>) -> Self {
        let paths = tls
            .map(|tls| vec![tls.ca.clone(), tls.cert.clone(), tls.key.clone()])
            .unwrap_or_default();
        Self { paths, seen: None }
    }

    /// Waits until a file differs from the first reading, or from that of the last return. A file
    /// that cannot be read counts as being changed right now.
    pub(super) async fn changed(&mut self) {
        if self.paths.is_empty() {
            return std::future::pending().await;
        }
        loop {
            let now = self.read().await;
            match (now, &self.seen) {
                (Some(now), Some(seen)) if now != *seen => {
                    self.seen = Some(now);
                    return;
                }
                (Some(now), None) => self.seen = Some(now),
                (Some(_) | None, _) => {}
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn read(&self) -> Option<Vec<Vec<u8>>> {
        let mut contents = Vec::with_capacity(self.paths.len());
        for path in &self.paths {
            contents.push(tokio::fs::read(path).await.ok()?);
        }
        Some(contents)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn each_change_of_a_file_is_noticed_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let tls = TikvTls { ca: path("ca"), cert: path("cert"), key: path("key") };
        for name in ["ca", "cert", "key"] {
            fs::write(path(name), "one").unwrap();
        }
        let mut files = Certificates::of(Some(&tls));
        assert!(timeout(SOON, files.changed()).await.is_err(), "nothing has changed");
        fs::remove_file(path("key")).unwrap();
        assert!(timeout(SOON, files.changed()).await.is_err(), "half of a change");
        fs::write(path("key"), "two").unwrap();
        timeout(SOON, files.changed()).await.unwrap();
        assert!(timeout(SOON, files.changed()).await.is_err(), "it was noticed");
        assert!(timeout(SOON, Certificates::of(None).changed()).await.is_err());
    }
}
