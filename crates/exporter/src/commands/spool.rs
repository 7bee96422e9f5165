//! A queue whose writer need not wait for its reader: beyond a bound on memory, items
//! wait in temporary files.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    marker::PhantomData,
    os::unix::fs::FileExt as _,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::sync::Notify;

/// Bounds on the JSON of the items that wait, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) memory: u64,
    pub(crate) file: u64,
}

/// A queue in the order of its items, for one reader.
pub(crate) struct Spool<T> {
    limits: Limits,
    state: Mutex<State>,
    /// An item or the end has come.
    filled: Notify,
    /// An item was taken.
    taken: Condvar,
    items: PhantomData<fn(T) -> T>,
}

/// Items are kept as JSON, so that their size is known.
#[derive(Default)]
struct State {
    memory: VecDeque<Vec<u8>>,
    memory_bytes: u64,
    /// Comes after what is in memory.
    spilled: Spilled,
    ended: bool,
}

/// The size at which another file is begun. A file that was read is gone, so that a reader
/// that never catches up does not fill the disk with what it has read.
const FILE_BYTES: u64 = 16 << 20;

/// Items in files: the length of each, and its JSON.
#[derive(Default)]
struct Spilled {
    /// In the order of the items.
    files: VecDeque<SpillFile>,
    items: u64,
    /// Of the items.
    bytes: u64,
}

/// A file without a name, so that it ends with the process.
struct SpillFile {
    file: File,
    start: u64,
    end: u64,
}

/// Why an item cannot wait.
#[derive(Debug, Error)]
pub(crate) enum SpoolError {
    #[error("more than {0} bytes wait for Redis")]
    Full(u64),
    #[error("cannot write to a temporary file: {0}")]
    File(#[from] io::Error),
}

/// Items that cannot be read.
#[derive(Debug, Error)]
#[error("cannot read a temporary file, so {items} items are lost: {cause}")]
pub(crate) struct Lost {
    pub(crate) items: u64,
    cause: io::Error,
}

impl<T: Serialize + DeserializeOwned> Spool<T> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: Mutex::default(),
            filled: Notify::new(),
            taken: Condvar::new(),
            items: PhantomData,
        }
    }

    /// Adds an item, in the file if there is no room in memory.
    ///
    /// # Errors
    /// There is no room in the file either. The item is left out.
    pub(crate) fn push(&self, item: &T) -> Result<(), SpoolError> {
        let item = json(item)?;
        let mut state = self.lock();
        if state.spilled.items == 0 && state.has_room(&item, self.limits.memory) {
            state.keep(item);
        } else {
            state.spilled.write(&item, self.limits.file)?;
        }
        self.filled.notify_one();
        Ok(())
    }

    /// Adds an item when there is room in memory.
    ///
    /// # Errors
    /// The item cannot be serialised.
    pub(crate) fn push_when_there_is_room(&self, item: &T) -> Result<(), SpoolError> {
        let item = json(item)?;
        let mut state = self.lock();
        while !state.has_room(&item, self.limits.memory) {
            state = self
                .taken
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.keep(item);
        self.filled.notify_one();
        Ok(())
    }

    /// Marks the end: no item comes any more.
    pub(crate) fn end(&self) {
        self.lock().ended = true;
        self.filled.notify_one();
    }

    /// Waits for the next item; `None` at the end.
    ///
    /// # Errors
    /// The file cannot be read. All items in it are lost, and later ones still come.
    pub(crate) async fn pop(&self) -> Result<Option<T>, Lost> {
        loop {
            if let Some(item) = self.take()? {
                self.taken.notify_one();
                let item = serde_json::from_slice(&item);
                return item.map(Some).map_err(|error| Lost {
                    items: 1,
                    cause: error.into(),
                });
            }
            if self.lock().is_at_end() {
                return Ok(None);
            }
            self.filled.notified().await;
        }
    }

    /// The number of items that wait.
    pub(crate) fn waiting(&self) -> u64 {
        let state = self.lock();
        state.memory.len() as u64 + state.spilled.items
    }

    fn take(&self) -> Result<Option<Vec<u8>>, Lost> {
        let mut state = self.lock();
        match state.memory.pop_front() {
            Some(item) => {
                state.memory_bytes -= item.len() as u64;
                Ok(Some(item))
            }
            None => {
                let items = state.spilled.items;
                let item = state.spilled.read();
                item.map_err(|cause| {
                    // It would fail again, for ever.
                    state.spilled = Spilled::default();
                    Lost { items, cause }
                })
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// An item larger than the bound has room when it is alone.
    fn has_room(&self, item: &[u8], limit: u64) -> bool {
        self.memory.is_empty() || self.memory_bytes + item.len() as u64 <= limit
    }

    fn keep(&mut self, item: Vec<u8>) {
        self.memory_bytes += item.len() as u64;
        self.memory.push_back(item);
    }

    fn is_at_end(&self) -> bool {
        self.ended && self.memory.is_empty() && self.spilled.items == 0
    }
}

impl Spilled {
    fn write(&mut self, item: &[u8], limit: u64) -> Result<(), SpoolError> {
        let length = (item.len() as u64).to_le_bytes();
        let bytes = [&length, item].concat();
        let total = self.bytes + bytes.len() as u64;
        if total > limit {
            return Err(SpoolError::Full(limit));
        }
        if self.files.back().is_none_or(|last| last.end >= FILE_BYTES) {
            self.files.push_back(SpillFile {
                file: tempfile::tempfile()?,
                start: 0,
                end: 0,
            });
        }
        if let Some(last) = self.files.back_mut() {
            last.file.write_all_at(&bytes, last.end)?;
            last.end += bytes.len() as u64;
        }
        self.bytes = total;
        self.items += 1;
        Ok(())
    }

    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(first) = self.files.front_mut() else {
            return Ok(None);
        };
        let mut length = [0; 8];
        first.file.read_exact_at(&mut length, first.start)?;
        let length = u64::from_le_bytes(length);
        let mut item = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        first.file.read_exact_at(&mut item, first.start + 8)?;
        first.start += 8 + length;
        self.bytes -= 8 + length;
        self.items -= 1;
        if first.start == first.end {
            self.files.pop_front();
        }
        Ok(Some(item))
    }
}

fn json(item: &impl Serialize) -> Result<Vec<u8>, SpoolError> {
    serde_json::to_vec(item).map_err(|error| SpoolError::File(error.into()))
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;

    /// Each of these items has ten bytes as JSON, and eighteen in the file.
    fn item(number: u32) -> String {
        format!("{number:08}")
    }

    async fn pop(spool: &Spool<String>) -> Option<String> {
        spool.pop().await.expect("the file can be read")
    }

    #[tokio::test]
    async fn items_come_in_order_from_memory_and_file() {
        let limits = Limits {
            memory: 100,
            file: 10_000,
        };
        let spool = Spool::new(limits);
        let (mut next_in, mut next_out) = (0, 0);
        for (pushed, popped) in [(5, 3), (30, 1), (1, 20), (40, 52)] {
            for _ in 0..pushed {
                spool.push(&item(next_in)).expect("there is room");
                next_in += 1;
                assert!(spool.lock().memory_bytes <= 100);
            }
            for _ in 0..popped {
                assert_eq!(pop(&spool).await, Some(item(next_out)));
                next_out += 1;
            }
            assert_eq!(spool.waiting(), u64::from(next_in - next_out));
        }
        assert_eq!(spool.waiting(), 0);
        // Nothing is left in the file.
        let file_bytes = || {
            let state = spool.lock();
            let files = state.spilled.files.iter();
            let lengths = files.map(|file| file.file.metadata().expect("its length").len());
            lengths.sum::<u64>()
        };
        assert_eq!(file_bytes(), 0);
        spool.push(&item(0)).expect("there is room");
        spool.end();
        assert_eq!(pop(&spool).await, Some(item(0)));
        assert_eq!(pop(&spool).await, None);
    }

    #[tokio::test]
    async fn what_has_no_room_is_an_error_and_the_rest_stays() {
        let limits = Limits {
            memory: 10,
            file: 40,
        };
        let spool = Spool::new(limits);
        let pushed: Vec<_> = (0..5).map(|number| spool.push(&item(number))).collect();
        assert!(pushed[..3].iter().all(Result::is_ok), "{pushed:?}");
        let errors = pushed[3..].iter().map(|result| match result {
            Err(error) => error.to_string(),
            Ok(()) => String::new(),
        });
        let full = "more than 40 bytes wait for Redis";
        assert_eq!(errors.collect::<Vec<_>>(), [full, full]);
        for number in 0..3 {
            assert_eq!(pop(&spool).await, Some(item(number)));
        }
        spool.push(&item(9)).expect("there is room again");
        assert_eq!(pop(&spool).await, Some(item(9)));
    }

    #[tokio::test]
    async fn a_reader_that_never_catches_up_frees_what_it_has_read() {
        const ITEM_BYTES: usize = 1 << 20;
        let limits = Limits {
            memory: 1,
            file: 4 * FILE_BYTES,
        };
        let spool = Spool::new(limits);
        let item = |number: u32| format!("{number:08}{}", " ".repeat(ITEM_BYTES));
        let mut next = 0;
        let mut push = || {
            spool.push(&item(next)).expect("there is room");
            next += 1;
        };
        // Two files wait at all times, and four times the limit passes.
        (0..34).for_each(|_| push());
        for number in 0..256 {
            push();
            assert_eq!(pop(&spool).await, Some(item(number)));
            assert!(spool.lock().spilled.files.len() <= 4);
        }
    }

    #[tokio::test]
    async fn a_writer_that_can_wait_fills_memory_alone() {
        let limits = Limits {
            memory: 20,
            file: 0,
        };
        let spool = Arc::new(Spool::new(limits));
        let writer = Arc::clone(&spool);
        let writing = thread::spawn(move || {
            for number in 0..1000 {
                let pushed = writer.push_when_there_is_room(&item(number));
                pushed.expect("it waits for room");
            }
            writer.end();
        });
        for number in 0..1000 {
            assert_eq!(pop(&spool).await, Some(item(number)));
            assert!(spool.lock().memory_bytes <= 20);
        }
        assert_eq!(pop(&spool).await, None);
        writing.join().expect("no panic");
    }

    #[tokio::test]
    async fn items_of_a_file_that_cannot_be_read_are_lost_and_others_come() {
        let limits = Limits {
            memory: 20,
            file: 10_000,
        };
        let spool = Spool::new(limits);
        for number in 0..5 {
            spool.push(&item(number)).expect("there is room");
        }
        let file = spool
            .lock()
            .spilled
            .files
            .front()
            .map(|file| file.file.set_len(4));
        file.expect("it is used").expect("it is truncated");
        for number in 0..2 {
            assert_eq!(pop(&spool).await, Some(item(number)));
        }
        let error = spool.pop().await.expect_err("the third is in the file");
        assert!(error.to_string().contains("failed to fill"), "{error}");
        assert_eq!(error.items, 3);
        assert_eq!(spool.waiting(), 0);
        for number in 5..8 {
            spool.push(&item(number)).expect("there is room");
        }
        spool.end();
        for number in 5..8 {
            assert_eq!(pop(&spool).await, Some(item(number)));
        }
        assert_eq!(pop(&spool).await, None);
    }
}
