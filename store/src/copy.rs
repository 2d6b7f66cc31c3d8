//! Moves a whole store to another one, of the same engine or the other.
//!
//! Neither store is in use meanwhile. The source is counted, copied, and what the target then contains is read back and
//! compared with it. Only then the source is marked as moved, durably, and after that the target as complete. Before the
//! first mark only the source can be served, after the second one only the target, and between them neither: the same
//! command finishes it. An interrupted copy goes on where it stopped if the source is as it was and what was received is
//! whole, and begins anew if not.

use std::path::Path;

use tokio::task::block_in_place;
use uuid::Uuid;

use crate::handles::Engine;
use crate::portable::{Basis, Incoming, Kind, Outgoing, Page, Progress, Read, State};
use crate::ring::StoredRing;
use crate::{OpenError, Settings, embedded, folder, postgres};

pub use crate::portable::{Contents, CopyError, Tally};

type Source = Engine<Box<embedded::copy::Source>, Box<postgres::copy::Source>>;
type Target = Engine<Box<embedded::copy::Target>, Box<postgres::copy::Target>>;

/// Two stores that are not in use, and are not while this exists.
pub struct Copy {
    source: Source,
    target: Target,
    state: State,
    basis: Basis,
    from: String,
    to: String,
    /// Whether both engines record `iat` of tokens.
    has_iat: bool,
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The source is counted.
    Count,
    /// Records are written to the target.
    Copy,
    /// The target is read back.
    Verify,
}

/// How far a step is, in records of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// The step.
    pub step: Step,
    /// How many records it has done.
    pub done: u64,
    /// How many there are; `None` while that is not known.
    pub total: Option<u64>,
}

/// A source that was marked as moved, and a target that has everything and cannot be served yet. Both stay in use.
#[must_use = "the target cannot be served before the move is completed"]
pub struct Moved {
    copy: Copy,
    incoming: Incoming,
    contents: Contents,
}

impl Copy {
    /// Opens both stores; nothing in them is changed.
    ///
    /// # Errors
    /// [`CopyError`] if one of them is in use or cannot be opened, there is nothing in the source, or something else in the
    /// target.
    pub async fn open(from: &Settings, to: &Settings) -> Result<Self, CopyError> {
        check_folders(from.path(), to.path())?;
        let source = Source::open(from).await.map_err(|error| in_use(error, from))?;
        let name = describe(from);
        let basis = source.basis().await?.ok_or_else(|| CopyError::Nothing { store: name.clone() })?;
        let target = Target::open(to).await.map_err(|error| in_use(error, to))?;
        let state = target.state().await?;
        let has_iat = matches!((&source, &target), (Engine::Postgres(_), Engine::Postgres(_)));
        let copy = Self { source, target, state, basis, from: name, to: describe(to), has_iat };
        copy.check_marks()?;
        Ok(copy)
    }

    /// The source, for people.
    pub fn source(&self) -> String {
        self.from.clone()
    }

    /// The target, for people.
    pub fn target(&self) -> String {
        self.to.clone()
    }

    /// The key ring, so that it can be checked whether a service would open it.
    pub fn ring(&self) -> StoredRing {
        StoredRing { ring: self.basis.ring.clone(), last_event: self.basis.last_event }
    }

    /// Whether an earlier run has moved everything.
    pub fn is_done(&self) -> bool {
        matches!(&self.state, State::Complete(incoming) if self.is_same_move(incoming))
    }

    /// Copies everything, reads it back and marks the source as moved, unless all that [is done](Self::is_done). It can be
    /// interrupted at any moment, and run again.
    ///
    /// # Errors
    /// [`CopyError`].
    pub async fn run(mut self, mut report: impl FnMut(Report)) -> Result<Moved, CopyError> {
        let contents = self.count_source(&mut report).await?;
        let earlier = match self.earlier(contents) {
            Some(earlier) if self.target.resume(&earlier, &self.basis)? => Some(earlier),
            _ => None,
        };
        let is_resumed = earlier.is_some();
        let incoming = match earlier {
            Some(incoming) => incoming,
            None => self.begin(contents).await?,
        };
        let incoming = match self.fill(incoming, contents, &mut report).await {
            // What was received earlier may be damaged, and the source is whole. No service writes to an unfinished folder.
            Err(_) if is_resumed && matches!(self.target, Engine::Sled(_)) => {
                let incoming = self.begin(contents).await?;
                self.fill(incoming, contents, &mut report).await?
            }
            filled => filled?,
        };
        self.target.settle()?;
        if self.source.outgoing().is_none() {
            let outgoing = Outgoing { copy: incoming.copy.clone(), to: self.to.clone() };
            self.source.move_away(&outgoing).await?;
        }
        Ok(Moved { copy: self, incoming, contents })
    }

    /// Whether the target may receive this source, or has received it.
    fn check_marks(&self) -> Result<(), CopyError> {
        let not_empty = |what| Err(CopyError::NotEmpty { store: self.to.clone(), what });
        match (&self.state, self.source.outgoing()) {
            (State::Complete(incoming) | State::Receiving(incoming), _) if self.is_same_move(incoming) => Ok(()),
            (_, Some(Outgoing { to, .. })) => Err(CopyError::Moved { store: self.from.clone(), to: to.clone() }),
            (State::Empty, None) => Ok(()),
            (State::Receiving(incoming), None) if incoming.installation == self.basis.ring.installation.id => Ok(()),
            (State::Receiving(Incoming { from, .. }), None) => not_empty(format!("an unfinished copy of {from}")),
            (State::Complete(Incoming { from, .. }), None) => not_empty(format!("a copy of {from}")),
            (State::Occupied(what), None) => not_empty(what.clone()),
        }
    }

    /// Whether the source was marked as moved by the copy that the target received.
    fn is_same_move(&self, incoming: &Incoming) -> bool {
        self.source.outgoing().is_some_and(|outgoing| outgoing.copy == incoming.copy)
    }

    /// The interrupted copy that goes on, once the marks are checked.
    fn earlier(&self, contents: Contents) -> Option<Incoming> {
        match &self.state {
            // Before anything was noted as received, it is not known how much of the beginning was written.
            State::Receiving(incoming)
                if incoming.contents == contents && incoming.progress != Progress::beginning() =>
            {
                Some(incoming.clone())
            }
            _ => None,
        }
    }

    /// Begins anew; a source that was marked as moved remains so, by the same copy.
    async fn begin(&mut self, contents: Contents) -> Result<Incoming, CopyError> {
        let marked = self.source.outgoing().map(|outgoing| outgoing.copy.clone());
        let incoming = Incoming {
            copy: marked.unwrap_or_else(|| Uuid::new_v4().to_string()),
            installation: self.basis.ring.installation.id.clone(),
            from: self.from.clone(),
            contents,
            redemption_floor: self.basis.redemption_floor,
            progress: Progress::beginning(),
        };
        self.target.begin(&incoming, &self.basis).await?;
        Ok(incoming)
    }

    /// Copies what the target has not yet received, and compares all that it then contains with the source.
    async fn fill(
        &mut self,
        incoming: Incoming,
        contents: Contents,
        report: &mut impl FnMut(Report),
    ) -> Result<Incoming, CopyError> {
        let incoming = self.transfer(incoming, report).await?;
        self.target.freeze(&incoming, &self.basis).await?;
        let found = self.count_target(contents, report).await?;
        match found.difference(&contents) {
            None => Ok(incoming),
            Some(kind) => Err(CopyError::Differs { store: self.to.clone(), kind }),
        }
    }

    /// Copies the records that the target has not yet received.
    async fn transfer(
        &mut self,
        mut incoming: Incoming,
        report: &mut impl FnMut(Report),
    ) -> Result<Incoming, CopyError> {
        let total = Some(incoming.contents.of_ledger());
        loop {
            let Progress { kind, after, records } = &incoming.progress;
            report(Report { step: Step::Copy, done: *records, total });
            let Read { page, after } = self.read_source(*kind, after.as_deref()).await?;
            if page.len() == 0 {
                let Some(next) = kind.next() else { return Ok(incoming) };
                incoming.progress = Progress { kind: next, after: None, records: *records };
                continue;
            }
            incoming.progress = Progress { kind: *kind, after: Some(after), records: records + page.len() as u64 };
            self.target.put(&page, &incoming).await?;
        }
    }

    async fn read_source(&self, kind: Kind, after: Option<&[u8]>) -> Result<Read, CopyError> {
        self.source.read(kind, after).await.map(|read| self.comparable(read))
    }

    /// What both engines record.
    fn comparable(&self, mut read: Read) -> Read {
        if let (Page::Tokens(tokens), false) = (&mut read.page, self.has_iat) {
            for token in tokens {
                token.iat = None;
            }
        }
        read
    }

    async fn count_source(&self, report: &mut impl FnMut(Report)) -> Result<Contents, CopyError> {
        let report = |done| report(Report { step: Step::Count, done, total: None });
        count(&self.basis, async |kind, after| self.read_source(kind, after).await, report).await
    }

    async fn count_target(&self, expected: Contents, report: &mut impl FnMut(Report)) -> Result<Contents, CopyError> {
        let total = Some(expected.of_ledger());
        let report = |done| report(Report { step: Step::Verify, done, total });
        let basis = self.target.basis().await?.ok_or_else(|| CopyError::Nothing { store: self.to.clone() })?;
        let read =
            async |kind, after: Option<&[u8]>| self.target.read(kind, after).await.map(|read| self.comparable(read));
        count(&basis, read, report).await
    }
}

impl Moved {
    /// What the target contains.
    pub fn contents(&self) -> Contents {
        self.contents
    }

    /// Marks the target as complete: from now on it can be served.
    ///
    /// # Errors
    /// [`CopyError`]; the same move can be run again.
    pub async fn complete(mut self) -> Result<(), CopyError> {
        self.copy.target.complete(&self.incoming).await
    }
}

/// Refuses two stores of which one would be in the folder of the other, before anything in them is touched.
fn check_folders(from: &Path, to: &Path) -> Result<(), CopyError> {
    let [source, target] = [from, to].map(folder::resolve);
    let text = |path: &Path| path.display().to_string();
    match (source.starts_with(&target), target.starts_with(&source)) {
        (true, true) => Err(CopyError::SameFolder { path: text(&source) }),
        (true, false) => Err(CopyError::NestedFolder { inner: text(&source), outer: text(&target) }),
        (false, true) => Err(CopyError::NestedFolder { inner: text(&target), outer: text(&source) }),
        (false, false) => Ok(()),
    }
}

/// Reads all records once.
async fn count(
    basis: &Basis,
    read: impl AsyncFn(Kind, Option<&[u8]>) -> Result<Read, CopyError>,
    mut report: impl FnMut(u64),
) -> Result<Contents, CopyError> {
    let mut contents = Contents::of(basis);
    for kind in Kind::ALL {
        let mut place: Option<Vec<u8>> = None;
        loop {
            let Read { page, after } = read(kind, place.as_deref()).await?;
            if page.len() == 0 {
                break;
            }
            contents.add(&page);
            report(contents.of_ledger());
            place = Some(after);
        }
    }
    Ok(contents)
}

fn describe(settings: &Settings) -> String {
    match settings {
        Settings::Sled { path } => format!("the store {}", absolute(path)),
        Settings::Postgres(settings) => settings.to_string(),
    }
}

fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

fn in_use(error: CopyError, settings: &Settings) -> CopyError {
    match error {
        CopyError::Open(OpenError::Locked { pid, .. }) => {
            let by = pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
            CopyError::InUse { store: describe(settings), by }
        }
        error => error,
    }
}

impl Source {
    async fn open(settings: &Settings) -> Result<Self, CopyError> {
        Ok(match settings {
            Settings::Sled { path } => Self::Sled(block_in_place(|| embedded::copy::Source::open(path))?.into()),
            Settings::Postgres(settings) => {
                Self::Postgres(Box::pin(postgres::copy::Source::open(settings)).await?.into())
            }
        })
    }

    fn outgoing(&self) -> Option<&Outgoing> {
        match self {
            Self::Sled(source) => source.outgoing(),
            Self::Postgres(source) => source.outgoing(),
        }
    }

    async fn basis(&self) -> Result<Option<Basis>, CopyError> {
        match self {
            Self::Sled(source) => block_in_place(|| source.basis()),
            Self::Postgres(source) => source.basis().await,
        }
    }

    async fn read(&self, kind: Kind, after: Option<&[u8]>) -> Result<Read, CopyError> {
        match self {
            Self::Sled(source) => block_in_place(|| source.read(kind, after)),
            Self::Postgres(source) => source.read(kind, after).await,
        }
    }

    async fn move_away(&mut self, outgoing: &Outgoing) -> Result<(), CopyError> {
        match self {
            Self::Sled(source) => block_in_place(|| source.move_away(outgoing)),
            Self::Postgres(source) => source.move_away(outgoing).await,
        }
    }
}

impl Target {
    async fn open(settings: &Settings) -> Result<Self, CopyError> {
        Ok(match settings {
            Settings::Sled { path } => Self::Sled(block_in_place(|| embedded::copy::Target::open(path))?.into()),
            Settings::Postgres(settings) => {
                Self::Postgres(Box::pin(postgres::copy::Target::open(settings)).await?.into())
            }
        })
    }

    async fn state(&self) -> Result<State, CopyError> {
        match self {
            Self::Sled(target) => block_in_place(|| target.state()),
            Self::Postgres(target) => target.state().await,
        }
    }

    async fn begin(&mut self, incoming: &Incoming, basis: &Basis) -> Result<(), CopyError> {
        match self {
            Self::Sled(target) => block_in_place(|| target.begin(incoming, basis)),
            Self::Postgres(target) => target.begin(incoming, basis).await,
        }
    }

    /// Whether what was received is there, and the copy can go on.
    fn resume(&mut self, incoming: &Incoming, basis: &Basis) -> Result<bool, CopyError> {
        match self {
            Self::Sled(target) => block_in_place(|| target.resume(incoming, basis)),
            Self::Postgres(target) => {
                target.resume(incoming);
                Ok(true)
            }
        }
    }

    async fn put(&mut self, page: &Page, incoming: &Incoming) -> Result<(), CopyError> {
        match self {
            Self::Sled(target) => block_in_place(|| target.put(page, incoming)),
            Self::Postgres(target) => target.put(page, incoming).await,
        }
    }

    async fn freeze(&mut self, incoming: &Incoming, basis: &Basis) -> Result<(), CopyError> {
        match self {
            Self::Sled(target) => block_in_place(|| target.freeze()),
            Self::Postgres(target) => target.freeze(incoming, basis).await,
        }
    }

    async fn basis(&self) -> Result<Option<Basis>, CopyError> {
        match self {
            Self::Sled(target) => block_in_place(|| target.basis()),
            Self::Postgres(target) => target.basis().await,
        }
    }

    async fn read(&self, kind: Kind, after: Option<&[u8]>) -> Result<Read, CopyError> {
        match self {
            Self::Sled(target) => block_in_place(|| target.read(kind, after)),
            Self::Postgres(target) => target.read(kind, after).await,
        }
    }

    /// Makes durable what was read back; a database has done so with each commit.
    fn settle(&mut self) -> Result<(), CopyError> {
        match self {
            Self::Sled(target) => block_in_place(|| target.settle()),
            Self::Postgres(_) => Ok(()),
        }
    }

    async fn complete(&mut self, incoming: &Incoming) -> Result<(), CopyError> {
        match self {
            Self::Sled(target) => block_in_place(|| target.complete(incoming)),
            Self::Postgres(target) => target.complete().await,
        }
    }
}
