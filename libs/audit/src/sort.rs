//! An external sort of byte strings. Entries that do not fit in memory go to temporary files, in
//! sorted runs that are merged at the end (Knuth, TAOCP vol. 3, 5.4).

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek, Write},
};

/// Upper limit on the runs that are open at once. When it is reached, they are merged into one.
const RUNS_MAX: usize = 64;
/// Size in bytes below which a batch is sorted in place, which is faster than in another thread.
const INLINE_MAX: usize = 1 << 20;

/// Takes byte strings in any order and sorts them as bytes. Duplicates are kept.
#[derive(Debug)]
pub struct Sorter {
    memory_bytes: usize,
    batch: Batch,
    runs: Vec<File>,
}

/// Entries stored back to back, and the start and end of each.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    spans: Vec<(usize, usize)>,
}

impl Batch {
    fn size(&self) -> usize {
        self.bytes.len() + self.spans.len() * size_of::<(usize, usize)>()
    }

    fn get(&self, span: (usize, usize)) -> &[u8] {
        self.bytes.get(span.0..span.1).unwrap_or_default()
    }

    fn sort(&mut self) {
        let mut spans = std::mem::take(&mut self.spans);
        spans.sort_unstable_by(|left, right| self.get(*left).cmp(self.get(*right)));
        self.spans = spans;
    }

    fn spill(mut self) -> io::Result<File> {
        self.sort();
        let mut run = BufWriter::new(tempfile::tempfile()?);
        for span in &self.spans {
            write_entry(&mut run, self.get(*span))?;
        }
        rewound(run)
    }
}

impl Sorter {
    /// Keeps at most about `memory_bytes` in memory.
    pub fn new(memory_bytes: usize) -> Self {
        Self { memory_bytes, batch: Batch::default(), runs: Vec::new() }
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// If a temporary file cannot be written. A retry helps once there is room for it.
    pub async fn push(&mut self, entry: &[u8]) -> io::Result<()> {
        let start = self.batch.bytes.len();
        self.batch.bytes.extend_from_slice(entry);
        self.batch.spans.push((start, self.batch.bytes.len()));
        if self.batch.size() < self.memory_bytes {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        self.runs.push(aside(move || batch.spill()).await?);
        if self.runs.len() >= RUNS_MAX {
            let runs = std::mem::take(&mut self.runs);
            self.runs.push(aside(move || merge_into_one(runs)).await?);
        }
        Ok(())
    }

    /// Returns all entries, sorted.
    ///
    /// # Errors
    /// If a temporary file cannot be read. A retry does not help.
    pub async fn finish(self) -> io::Result<Sorted> {
        let mut last = self.batch;
        if last.size() <= INLINE_MAX {
            last.sort();
        } else {
            last = aside(move || {
                last.sort();
                Ok(last)
            })
            .await?;
        }
        Sorted::new(self.runs, last)
    }
}

/// Runs long work in a blocking thread.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn merge_into_one(runs: Vec<File>) -> io::Result<File> {
    let mut run = BufWriter::new(tempfile::tempfile()?);
    let mut sorted = Sorted::new(runs, Batch::default())?;
    while let Some(entry) = sorted.next_entry()? {
        write_entry(&mut run, &entry)?;
    }
    rewound(run)
}

fn rewound(run: BufWriter<File>) -> io::Result<File> {
    let mut file = run.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.rewind()?;
    Ok(file)
}

fn write_entry(run: &mut impl Write, entry: &[u8]) -> io::Result<()> {
    let length = u32::try_from(entry.len()).map_err(io::Error::other)?;
    run.write_all(&length.to_be_bytes())?;
    run.write_all(entry)
}

fn read_entry(run: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match run.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = usize::try_from(u32::from_be_bytes(length)).map_err(io::Error::other)?;
    let mut entry = vec![0; length];
    run.read_exact(&mut entry)?;
    Ok(Some(entry))
}

/// Entries in sorted order.
#[derive(Debug)]
pub struct Sorted {
    files: Vec<BufReader<File>>,
    last: Batch,
    /// Index of the next entry of `last`.
    next: usize,
    /// The smallest entry of each run that has one left. The run after those of the files is
    /// `last`.
    heads: BinaryHeap<Reverse<(Vec<u8>, usize)>>,
}

impl Sorted {
    fn new(runs: Vec<File>, last: Batch) -> io::Result<Self> {
        let files: Vec<_> = runs.into_iter().map(BufReader::new).collect();
        let all = files.len() + 1;
        let mut sorted = Self { files, last, next: 0, heads: BinaryHeap::with_capacity(all) };
        for run in 0..all {
            sorted.refill(run)?;
        }
        Ok(sorted)
    }

    fn refill(&mut self, run: usize) -> io::Result<()> {
        let entry = if let Some(file) = self.files.get_mut(run) {
            read_entry(file)?
        } else {
            let span = self.last.spans.get(self.next).copied();
            self.next += 1;
            span.map(|span| self.last.get(span).to_vec())
        };
        self.heads.extend(entry.map(|entry| Reverse((entry, run))));
        Ok(())
    }

    /// The next entry, without taking it.
    pub fn peek(&self) -> Option<&[u8]> {
        self.heads.peek().map(|Reverse((entry, _))| entry.as_slice())
    }

    /// Takes the next entry.
    ///
    /// # Errors
    /// If a temporary file cannot be read. A retry does not help.
    pub fn next_entry(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(Reverse((entry, run))) = self.heads.pop() else { return Ok(None) };
        self.refill(run)?;
        Ok(Some(entry))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sorted(entries: &[Vec<u8>], memory_bytes: usize) -> Vec<Vec<u8>> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut sorter = Sorter::new(memory_bytes);
            for entry in entries {
                sorter.push(entry).await.unwrap();
            }
            let mut sorted = sorter.finish().await.unwrap();
            let mut all = Vec::new();
            while let Some(entry) = sorted.next_entry().unwrap() {
                all.push(entry);
            }
            all
        })
    }

    proptest! {
        #[test]
        fn entries_come_out_in_order_whatever_fits_in_memory(
            entries in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6), 0..300),
            memory_bytes in 1_usize..3_000,
        ) {
            let mut expected = entries.clone();
            expected.sort();
            prop_assert_eq!(sorted(&entries, memory_bytes), expected);
        }
    }

    #[test]
    fn more_runs_than_may_be_open_are_merged_on_the_way() {
        let entries: Vec<_> = (0..500_u32).rev().map(|each| each.to_be_bytes().to_vec()).collect();
        let expected: Vec<_> = (0..500_u32).map(|each| each.to_be_bytes().to_vec()).collect();
        assert_eq!(sorted(&entries, 1), expected);
    }
}
