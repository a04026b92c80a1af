//! The children's output: each line goes to the terminal under the child's name, and to a file of
//! bounded size.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
};

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// A log file that grows beyond this becomes `NAME.log.1` and replaces the previous one.
const FILE_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// ANSI colours that can be told apart on a dark and on a light background.
const COLOURS: [&str; 6] = ["\x1b[36m", "\x1b[32m", "\x1b[33m", "\x1b[35m", "\x1b[34m", "\x1b[31m"];

/// Where the lines of one child go.
#[derive(Debug)]
pub(crate) struct Sink {
    prefix: String,
    path: PathBuf,
    file: Option<File>,
    written: u64,
}

impl Sink {
    /// Opens `<dir>/<name>.log` for appending. `colour` numbers the role; names are padded to
    /// `width`.
    ///
    /// # Errors
    /// Those of the file system. A retry does not help.
    pub(crate) fn open(dir: &Path, name: &str, colour: usize, width: usize) -> io::Result<Self> {
        let prefix = if io::stderr().is_terminal() {
            let colour = COLOURS[colour % COLOURS.len()];
            format!("{colour}{name:<width$} |\x1b[0m ")
        } else {
            format!("{name:<width$} | ")
        };
        let path = dir.join(format!("{name}.log"));
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let written = file.metadata()?.len();
        Ok(Self { prefix, path, file: Some(file), written })
    }

    /// Passes lines on until the child closes its end. Drops a line that cannot be written (a full
    /// disk, a terminal that is gone), because the child must never wait for its log.
    pub(crate) async fn pump(&mut self, from: impl AsyncRead + Unpin) {
        let mut reader = BufReader::new(from);
        let mut line = Vec::new();
        loop {
            line.clear();
            match reader.read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => return,
                Ok(_) => self.line(&line),
            }
        }
    }

    fn line(&mut self, line: &[u8]) {
        let mut out = Vec::with_capacity(self.prefix.len() + line.len() + 1);
        out.extend_from_slice(self.prefix.as_bytes());
        out.extend_from_slice(line);
        if !line.ends_with(b"\n") {
            out.push(b'\n');
        }
        // One write per line, so that lines of several children do not mix.
        drop(io::stderr().write_all(&out));
        if self.written > FILE_BYTES_MAX {
            self.rotate();
        }
        if let Some(file) = &mut self.file {
            let kept = &out[self.prefix.len()..];
            if file.write_all(kept).is_ok() {
                self.written = self.written.saturating_add(kept.len() as u64);
            }
        }
    }

    fn rotate(&mut self) {
        let mut old = self.path.clone().into_os_string();
        old.push(".1");
        drop(fs::rename(&self.path, old));
        self.file = OpenOptions::new().create(true).append(true).open(&self.path).ok();
        self.written = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_kept_without_the_prefix() {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = Sink::open(dir.path(), "order-0", 0, 10).unwrap();
        sink.pump(&b"first\nlast, unfinished"[..]).await;
        let text = fs::read_to_string(dir.path().join("order-0.log")).unwrap();
        assert_eq!(text, "first\nlast, unfinished\n");
    }

    #[tokio::test]
    async fn a_file_does_not_grow_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = Sink::open(dir.path(), "stock-0", 0, 10).unwrap();
        sink.pump(&b"old\n"[..]).await;
        sink.written = FILE_BYTES_MAX + 1;
        sink.pump(&b"new\n"[..]).await;
        let read = |name| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("stock-0.log.1"), "old\n");
        assert_eq!(read("stock-0.log"), "new\n");
    }
}
