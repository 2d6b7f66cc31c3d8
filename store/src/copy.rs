//! Moves a whole store to another one, of the same engine or the other.
//!
//! Neither store is in use meanwhile. The source is counted, copied, and what the target then contains is read back and
//! compared with it. Only then the source is marked as moved, durably, and after that the target as complete. Before the
//! first mark only the source can be served, after the second one only the target, and between them neither: the same
//! command finishes it. An interrupted copy goes on where it stopped if the source is as it was, and begins anew if not.

use std::path::Path;

use tokio::task::block_in_place;
use uuid::Uuid;

use crate::handles::Engine;
use crate::portable::{Basis, Incoming, Kind, Outgoing, Page, Progress, Read, State};
use crate::ring::StoredRing;
use crate::{OpenError, Settings, embedded, postgres};

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

/// How a copy begins.
enum Begin {
    New(Incoming),
    Again(Incoming),
}

impl Copy {
    /// Opens both stores; nothing in them is changed.
    ///
    /// # Errors
    /// [`CopyError`] if one of them is in use or cannot be opened, there is nothing in the source, or something else in the
    /// target.
    pub async fn open(from: &Settings, to: &Settings) -> Result<Self, CopyError> {
        let folder = |settings: &Settings| std::fs::canonicalize(settings.path()).ok();
        if let Some(path) = folder(from).filter(|path| folder(to).as_ref() == Some(path)) {
            return Err(CopyError::SameFolder { path: path.display().to_string() });
        }
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

    /// Moves everything, unless that is done; returns what the target then contains. It can be interrupted at any moment,
    /// and run again.
    ///
    /// # Errors
    /// [`CopyError`].
    pub async fn run(mut self, mut report: impl FnMut(Report)) -> Result<Contents, CopyError> {
        let contents = self.count_source(&mut report).await?;
        let incoming = match self.begin(contents) {
            Begin::New(incoming) => {
                self.target.begin(&incoming, &self.basis).await?;
                incoming
            }
            Begin::Again(incoming) => {
                self.target.resume(&incoming)?;
                incoming
            }
        };
        let incoming = self.transfer(incoming, &mut report).await?;
        self.target.freeze(&incoming, &self.basis).await?;
        let found = self.count_target(contents, &mut report).await?;
        if let Some(kind) = found.difference(&contents) {
            return Err(CopyError::Differs { store: self.to, kind });
        }
        if self.source.outgoing().is_none() {
            let outgoing = Outgoing { copy: incoming.copy.clone(), to: self.to.clone() };
            self.source.move_away(&outgoing).await?;
        }
        self.target.complete(&incoming).await?;
        Ok(contents)
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

    /// What there is to do, once the marks are checked.
    fn begin(&self, contents: Contents) -> Begin {
        match &self.state {
            State::Receiving(incoming) if self.is_same_move(incoming) => Begin::Again(incoming.clone()),
            // Before anything was noted as received, it is not known how much of the beginning was written.
            State::Receiving(incoming)
                if incoming.contents == contents && incoming.progress != Progress::beginning() =>
            {
                Begin::Again(incoming.clone())
            }
            _ => Begin::New(self.incoming(contents)),
        }
    }

    fn incoming(&self, contents: Contents) -> Incoming {
        Incoming {
            copy: Uuid::new_v4().to_string(),
            installation: self.basis.ring.installation.id.clone(),
            from: self.from.clone(),
            contents,
            redemption_floor: self.basis.redemption_floor,
            progress: Progress::beginning(),
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

    fn resume(&mut self, incoming: &Incoming) -> Result<(), CopyError> {
        match self {
            Self::Sled(target) => block_in_place(|| target.resume(incoming)),
            Self::Postgres(target) => {
                target.resume(incoming);
                Ok(())
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

    async fn complete(&mut self, incoming: &Incoming) -> Result<(), CopyError> {
        match self {
            Self::Sled(target) => block_in_place(|| target.complete(incoming)),
            Self::Postgres(target) => target.complete().await,
        }
    }
}
