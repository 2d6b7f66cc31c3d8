//! The records of an open store, below the domain interfaces.
//!
//! In: a function that reads records through a [`View`] and returns the writes. Out: its outcome, once the writes are
//! durable. One thread decides and writes everything (`writer`), so that transactions are serial and each sees those
//! before it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use writ_platform::clock::Timestamp;

use super::engine::VERSION_KEY;
use super::table::{Change, Record, Table};
use super::transaction::{Decision, Transaction, View};
use super::writer::{self, Command, Figures, Opening};
use crate::{OpenError, StoreError};

/// How many transactions that drop records are in progress at a time; they become durable together.
const DROPS_UNDER_WAY: usize = 8;

/// How long closing waits for a database that is still being opened.
const OPENING_TIMEOUT: Duration = Duration::from_secs(2);

/// The operations whose failures are counted.
const OPERATIONS: [&str; 4] = ["keep", "read", "scan", "swap"];

/// The records of an open store; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    path: PathBuf,
    writer: mpsc::Sender<Command>,
    /// Whether the last change was made durable.
    is_well: Arc<AtomicBool>,
    figures: Arc<Figures>,
}

impl Records {
    #[cfg(test)]
    pub(crate) async fn open(path: &Path) -> Result<Self, OpenError> {
        Ok(Self::begin(path).await?.0)
    }

    /// Opens the store. If its ledger is large, the small tables can be read before the opening is finished, and
    /// everything else waits for it; otherwise there is nothing to wait for.
    pub(crate) async fn begin(path: &Path) -> Result<(Self, Option<Opening>), OpenError> {
        // PromQL's `increase()` counts the first event only if the counter existed before it.
        for operation in OPERATIONS {
            metrics::counter!("writ_store_errors_total", "operation" => operation).absolute(0);
        }
        let figures = Arc::<Figures>::default();
        let (writer, opening) = writer::spawn(path.to_owned(), Arc::clone(&figures)).await?;
        Ok((Self { path: path.to_owned(), writer, is_well: Arc::new(AtomicBool::new(true)), figures }, opening))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) async fn keep(&self) -> Result<(), StoreError> {
        self.ask("keep", |answer| Command::Keep { answer }).await
    }

    /// The durable value of a record.
    pub(crate) async fn read(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let key = table.record(key);
        if let Some(records) = self.figures.start_records().as_ref().filter(|_| table.is_small()) {
            return Ok(records.get(&key).map(<[u8]>::to_vec));
        }
        self.ask("read", |answer| Command::Read { key, answer }).await
    }

    /// All records of a table in key order. One that changes during the scan is returned with its old or its new value.
    pub(crate) async fn scan(&self, table: Table) -> Result<Vec<Record>, StoreError> {
        let mut records = Vec::new();
        loop {
            let last: Option<Vec<u8>> = records.last().map(|(key, _): &Record| key.clone());
            let page = self.page(table, last.as_deref()).await?;
            if page.is_empty() {
                return Ok(records);
            }
            records.extend(page);
        }
    }

    /// The next page of a table's records, after the key `after` or from the beginning; empty at the end.
    async fn page(&self, table: Table, after: Option<&[u8]>) -> Result<Vec<Record>, StoreError> {
        let after = after.map(|key| table.record(key));
        if let Some(records) = self.figures.start_records().as_ref().filter(|_| table.is_small()) {
            return Ok(records.after(table, after.as_deref()));
        }
        self.ask("scan", |answer| Command::Page { table, after, answer }).await
    }

    /// Applies what `decide` decides; returns its outcome once its writes, and all that it read, are durable.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if it could not be made durable; it may still have been applied.
    /// [`StoreError::TooLarge`], [`StoreError::Unreadable`]: nothing was applied.
    pub(crate) async fn transact<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&View<'_>) -> Decision<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.submit(true, decide).await
    }

    /// As [`transact`](Self::transact), but while the store cannot be written, a transaction that decides to write
    /// nothing still succeeds.
    pub(crate) async fn transact_or_read<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&View<'_>) -> Decision<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.submit(false, decide).await
    }

    async fn submit<T: Send + 'static>(
        &self,
        needs_disk: bool,
        decide: impl FnOnce(&View<'_>) -> Decision<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let job = |answer| Command::Transact(Box::new(Transaction { decide, needs_disk, answer }));
        let outcome = self.ask("swap", job).await;
        match &outcome {
            Ok((_, wrote)) if needs_disk || *wrote => self.is_well.store(true, Ordering::Relaxed),
            Err(StoreError::Unavailable(_)) => self.is_well.store(false, Ordering::Relaxed),
            Ok(_) | Err(StoreError::TooLarge(_) | StoreError::Unreadable(_)) => {}
        }
        outcome.map(|(outcome, _)| outcome)
    }

    /// Removes those of the records that still have the value in `seen`, in batches.
    pub(crate) async fn remove_unchanged(&self, table: Table, seen: &[Record]) -> Result<(), StoreError> {
        for several in seen.chunks(DROPS_UNDER_WAY * Change::MAX_RECORDS) {
            let drops = several.chunks(Change::MAX_RECORDS).map(|records| {
                let records = records.to_vec();
                self.transact(move |view| {
                    let mut change = Change::new();
                    for (key, value) in records {
                        if view.get(table, &key)? == Some(value) {
                            change = change.remove(table, &key);
                        }
                    }
                    Ok((change, ()))
                })
            });
            try_join_all(drops).await?;
        }
        Ok(())
    }

    /// Finds the records of a table that `is_over` accepts, page by page: a table may be larger than memory.
    pub(crate) fn find_over<F>(&self, table: Table, is_over: F) -> FindOver<'_, F>
    where
        F: Fn(&[u8]) -> Result<bool, StoreError>,
    {
        FindOver { records: self, table, is_over, after: None, is_done: false }
    }

    /// The number of durable records in a table.
    pub(crate) fn count(&self, table: Table) -> u64 {
        self.figures.count(table)
    }

    /// The time of the last durable event.
    pub(crate) fn last_event(&self) -> Timestamp {
        self.figures.last_event()
    }

    pub(crate) fn is_well(&self) -> bool {
        self.is_well.load(Ordering::Relaxed)
    }

    /// Whether the database is open, and all of its records are proven.
    pub(crate) fn is_whole(&self) -> bool {
        self.figures.is_whole()
    }

    pub(crate) async fn wait_until_whole(&self) -> Result<(), StoreError> {
        if self.is_whole() {
            return Ok(());
        }
        // Requests to the thread wait until the database is open.
        let key = Table::Meta.record(VERSION_KEY);
        self.ask("read", |answer| Command::Read { key, answer }).await.map(drop)
    }

    pub(crate) async fn close(self) {
        self.figures.abandon_opening();
        let (answer, closed) = oneshot::channel();
        if self.writer.send(Command::Close { answer }).await.is_ok() {
            // If the reply is dropped, the writer has ended, which is the purpose. A database that is still being opened
            // has nothing to lose, and its disk may hang.
            let opened = if self.is_whole() { Duration::MAX } else { OPENING_TIMEOUT };
            let _ = timeout(opened, closed).await;
        }
    }

    async fn ask<T>(
        &self,
        operation: &'static str,
        command: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Command,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let closed = |()| StoreError::Unavailable("it is closed".to_owned());
        let sent = self.writer.send(command(answer)).await.map_err(|_| closed(()));
        let outcome = match sent {
            Ok(()) => answered.await.unwrap_or_else(|_| Err(closed(()))),
            Err(error) => Err(error),
        };
        if let Err(StoreError::Unavailable(_)) = &outcome {
            metrics::counter!("writ_store_errors_total", "operation" => operation).increment(1);
        }
        outcome
    }
}

/// Created by [`Records::find_over`].
pub(crate) struct FindOver<'a, F> {
    records: &'a Records,
    table: Table,
    is_over: F,
    after: Option<Vec<u8>>,
    is_done: bool,
}

impl<F: Fn(&[u8]) -> Result<bool, StoreError>> FindOver<'_, F> {
    /// The next page of matching records; empty at the end.
    pub(crate) async fn next(&mut self) -> Result<Vec<Record>, StoreError> {
        let mut over = Vec::new();
        while !self.is_done && over.len() < DROPS_UNDER_WAY * Change::MAX_RECORDS {
            let page = self.records.page(self.table, self.after.as_deref()).await?;
            self.is_done = page.is_empty();
            self.after = page.last().map(|(last, _)| last.clone());
            for (key, value) in page {
                if (self.is_over)(&value)? {
                    over.push((key, value));
                }
            }
        }
        Ok(over)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::super::transaction::Undecided;
    use super::*;

    async fn open(folder: &tempfile::TempDir) -> Records {
        Records::open(&folder.path().join("store")).await.unwrap()
    }

    async fn read(records: &Records, key: &[u8]) -> Option<Vec<u8>> {
        records.read(Table::Uses, key).await.unwrap()
    }

    async fn put(records: &Records, change: Change) {
        records.transact(|_| Ok((change, ()))).await.unwrap();
    }

    /// Writes `to` if the record is `from`; returns whether it was.
    async fn step(records: &Records, key: &'static [u8], from: Option<u8>, to: u8) -> Result<bool, StoreError> {
        records
            .transact(move |view| {
                let is_from = view.get(Table::Uses, key)? == from.map(|from| vec![from]);
                let change = if is_from { Change::new().put(Table::Uses, key, [to]) } else { Change::new() };
                Ok((change, is_from))
            })
            .await
    }

    #[tokio::test]
    async fn change_is_applied_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let records = open(&folder).await;
        let long = vec![0; Change::MAX_RECORD_LEN];
        let refused = Change::new().put(Table::Uses, b"a", "1").put(Table::Uses, b"b", long);
        let outcome = records.transact(|_| Ok((refused, ()))).await;
        assert!(matches!(outcome, Err(StoreError::TooLarge(_))));
        assert_eq!((read(&records, b"a").await, read(&records, b"b").await), (None, None));
        put(&records, Change::new().put(Table::Uses, b"a", "1").put(Table::Uses, b"b", "2")).await;
        put(&records, Change::new().put(Table::Uses, b"a", "2").remove(Table::Uses, b"b")).await;
        assert_eq!((read(&records, b"a").await, read(&records, b"b").await), (Some(b"2".to_vec()), None));
    }

    #[tokio::test]
    async fn transaction_decides_by_what_was_written_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let records = open(&folder).await;
        assert!(step(&records, b"a", None, 1).await.unwrap());
        assert!(!step(&records, b"a", None, 2).await.unwrap());
        assert!(step(&records, b"a", Some(1), 2).await.unwrap());
        assert!(!step(&records, b"a", Some(1), 3).await.unwrap());
        assert_eq!(read(&records, b"a").await, Some(vec![2]));
    }

    #[tokio::test]
    async fn record_that_cannot_be_read_stops_the_transaction() {
        let folder = tempfile::tempdir().unwrap();
        let records = open(&folder).await;
        let outcome = records.transact(|_| Err::<(Change, ()), _>(Undecided::Unreadable("a record"))).await;
        assert!(matches!(outcome, Err(StoreError::Unreadable("a record"))));
        assert!(records.is_well());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn eight_tasks_cannot_spend_the_same_record() {
        let folder = tempfile::tempdir().unwrap();
        let records = open(&folder).await;
        for round in 0..20_u8 {
            let racers = (0..8_u8).map(|racer| {
                let records = records.clone();
                let spend = move |view: &View<'_>| {
                    let is_first = view.get(Table::Uses, &[round])?.is_none();
                    let change =
                        if is_first { Change::new().put(Table::Uses, &[round], [racer]) } else { Change::new() };
                    Ok((change, is_first))
                };
                tokio::spawn(async move { (racer, records.transact(spend).await.unwrap()) })
            });
            let mut winners = Vec::new();
            for racer in racers.collect::<Vec<_>>() {
                let (racer, is_first) = racer.await.unwrap();
                winners.extend(is_first.then_some(racer));
            }
            assert_eq!(winners.len(), 1, "{winners:?}");
            assert_eq!(read(&records, &[round]).await, Some(winners));
        }
    }

    #[tokio::test]
    async fn transactions_of_one_batch_see_each_other_in_the_order_of_their_arrival() {
        let folder = tempfile::tempdir().unwrap();
        let records = open(&folder).await;
        assert!(step(&records, b"a", None, 0).await.unwrap());
        // Polled in order before the thread can answer any, so that all are queued together.
        let steps = join_all((0..100).map(|from| step(&records, b"a", Some(from), from + 1))).await;
        assert!(steps.into_iter().all(|outcome| outcome.unwrap()));
        assert_eq!(read(&records, b"a").await, Some(vec![100]));
    }

    #[tokio::test]
    async fn every_request_of_a_long_queue_is_answered() {
        let folder = tempfile::tempdir().unwrap();
        let records = open(&folder).await;
        let reads = join_all((0..2000).map(|_| records.read(Table::Meta, b"version"))).await;
        assert!(reads.into_iter().all(|read| read.unwrap().is_some()));
    }

    #[tokio::test]
    async fn scan_has_every_record_of_one_table_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let records = open(&folder).await;
        let name = |number: u16| number.to_be_bytes();
        for hundred in 0..11 {
            let numbers = hundred * 100..hundred * 100 + 100;
            put(&records, numbers.fold(Change::new(), |change, number| change.put(Table::Single, &name(number), "x")))
                .await;
        }
        let scanned = records.scan(Table::Single).await.unwrap();
        let keys: Vec<_> = scanned.into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, (0..1100).map(|number| name(number).to_vec()).collect::<Vec<_>>());
        assert!(records.scan(Table::Tokens).await.unwrap().is_empty());
    }

    /// A record that changed before it was dropped stays; the others are removed all the same.
    #[tokio::test]
    async fn what_has_changed_meanwhile_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let records = open(&folder).await;
        let all = (0..5_u8).fold(Change::new(), |change, number| change.put(Table::Tokens, &[number], "1"));
        put(&records, all).await;
        let mut seen = records.scan(Table::Tokens).await.unwrap();
        put(&records, Change::new().put(Table::Tokens, &[3], "2")).await;
        seen.push((vec![9; 32], b"removed already".to_vec()));
        records.remove_unchanged(Table::Tokens, &seen).await.unwrap();
        assert_eq!(records.scan(Table::Tokens).await.unwrap(), [(vec![3], b"2".to_vec())]);
    }

    #[tokio::test]
    async fn closed_store_is_free_at_once_and_unavailable_to_its_clones() {
        let folder = tempfile::tempdir().unwrap();
        let records = open(&folder).await;
        put(&records, Change::new().put(Table::Uses, b"a", "1")).await;
        let clone = records.clone();
        records.close().await;
        assert!(matches!(clone.read(Table::Uses, b"a").await, Err(StoreError::Unavailable(_))));
        assert!(matches!(step(&clone, b"a", None, 1).await, Err(StoreError::Unavailable(_))));
        assert!(!clone.is_well());
        assert_eq!(read(&open(&folder).await, b"a").await, Some(b"1".to_vec()));
    }

    #[tokio::test]
    async fn change_that_no_engine_takes_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let records = open(&folder).await;
        let many = (0..=100_u8).fold(Change::new(), |change, number| change.put(Table::Uses, &[number], "x"));
        assert!(matches!(records.transact(|_| Ok((many, ()))).await, Err(StoreError::TooLarge(_))));
        assert_eq!(records.scan(Table::Uses).await.unwrap(), vec![]);
    }
}
