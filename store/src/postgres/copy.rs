//! The part of this engine in a move. All of it is done with the rights of the service.
//!
//! While a source is read, one transaction keeps every other session from writing. The same transaction marks it as moved,
//! and takes from the service the right to write here. While a target receives records, its floors refuse everything, and
//! each statement notes how far the copy is. One transaction lets no one else write, sets the floors, is read back, and
//! ends with the mark that all was received.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use writ_platform::clock::Timestamp;

use super::connection::{Connection, Connector, describe};
use super::history::History;
use super::pool::Values;
use super::schema::WEEK;
use super::settings::Settings;
use super::{RETRY_DELAY, START_TIMEOUT, blocks, own_folder, refused, ring, signed};
use crate::blocks::key;
use crate::folder::Lock;
use crate::portable::{Basis, CopyError, Incoming, Kind, Outgoing, Page, Read, State, Token, UsedId, Uses};
use crate::ring::version_of;
use crate::{OpenError, StoreError};

const NO_RECORD: CopyError = CopyError::Store(StoreError::Unreadable("a record cannot be read"));

/// How long a statement may take; one that waits for a standby waits for ever.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);
/// `iat` of tokens of which it is not known.
const UNKNOWN_IAT: i64 = 0;

/// Keeps everyone else from writing, until the end of the transaction. An automatic vacuum gives way after a second.
const HOLD: &str = "SET idle_in_transaction_session_timeout = 0; SET lock_timeout = '10s'; BEGIN;
  LOCK TABLE {s}.installation, {s}.clock, {s}.ring, {s}.past_keys, {s}.tokens, {s}.redemptions, {s}.single_use,
    {s}.blocks, {s}.instances, {s}.copy IN SHARE ROW EXCLUSIVE MODE";

const INSTANCES: &str = "SELECT name FROM {s}.instances WHERE lease_until > clock_timestamp() ORDER BY name";

const STATE: &str = "SELECT y.is_receiving, y.incoming, y.outgoing,
    x.id IS NOT NULL OR r.document IS NOT NULL OR EXISTS (SELECT 1 FROM {s}.past_keys) AS has_keys,
    EXISTS (SELECT 1 FROM {s}.tokens) OR EXISTS (SELECT 1 FROM {s}.redemptions)
      OR EXISTS (SELECT 1 FROM {s}.single_use) OR EXISTS (SELECT 1 FROM {s}.blocks) AS has_records
  FROM {s}.copy y, {s}.installation x, {s}.ring r";

const BASIS: &str =
    "SELECT x.id, x.trust_domain, r.document, c.last_event, c.swept, x.redemption_floor, x.single_use_floor,
    (SELECT coalesce(array_agg(kid ORDER BY kid), '{}') FROM {s}.past_keys) AS kids,
    (SELECT coalesce(array_agg(document ORDER BY kid), '{}') FROM {s}.past_keys) AS documents
  FROM {s}.installation x, {s}.ring r, {s}.clock c";

const BLOCKS: &str = "SELECT id, selectors, added_at, until FROM {s}.blocks";

/// `$1` and `$2` the last key, `$3` the redemption floor: a token from before is refused, and the other engine takes each
/// token on record for a later one. `$4` whether the floor was not raised since tokens without iat were received.
const TOKENS: &str = "SELECT iat, signed_part, keep_until, txn FROM {s}.tokens
  WHERE (iat, signed_part) > ($1::bigint, $2::bytea) AND (iat > $3::bigint OR (iat = 0 AND $4::boolean))
  ORDER BY iat, signed_part LIMIT 5000";

const FIRST_USES: &str = "SELECT txn, purpose, uses, original_iat, client, presented, iat, exp FROM {s}.redemptions
  ORDER BY txn, purpose LIMIT 5000";

/// `$1` and `$2` the last key.
const USES: &str = "SELECT txn, purpose, uses, original_iat, client, presented, iat, exp FROM {s}.redemptions
  WHERE (txn, purpose) > ($1::text, $2::text) ORDER BY txn, purpose LIMIT 5000";

/// `$1` the last key.
const SINGLE_USE: &str = "SELECT id, keep_until FROM {s}.single_use WHERE id > $1::bytea ORDER BY id LIMIT 5000";

/// `$1` the mark.
const BEGIN: &str = "UPDATE {s}.copy SET is_receiving = true, incoming = $1";

/// `$1` id, `$2` trust domain. Until all is received, nothing is granted.
const PUT_INSTALLATION: &str = "UPDATE {s}.installation SET id = $1, trust_domain = $2, blocks_version = 1,
    redemption_floor = 9223372036854775807, single_use_floor = 9223372036854775807";

/// `$1` version, `$2` document.
const PUT_RING: &str = "UPDATE {s}.ring SET version = $1, document = $2, attempt = NULL,
    changed_at = clock_timestamp(), changed_by = 'writ store copy'";

const PUT_PAST_KEYS: &str = "INSERT INTO {s}.past_keys (kid, document) SELECT * FROM unnest($1::text[], $2::bytea[])";

const PUT_BLOCKS: &str = "INSERT INTO {s}.blocks (id, selectors, added_at, until)
  SELECT * FROM unnest($1::bytea[], $2::text[], $3::bigint[], $4::bigint[])";

/// `$1` last event, `$2` when records were last dropped.
const PUT_CLOCK: &str = "UPDATE {s}.clock SET last_event = $1, swept = $2";

/// `$1` the mark, and what is received with it.
const PUT_TOKENS: &str = "WITH c AS (UPDATE {s}.copy SET incoming = $1 WHERE is_receiving RETURNING 1)
  INSERT INTO {s}.tokens (iat, signed_part, keep_until, txn)
  SELECT q.* FROM c, unnest($2::bigint[], $3::bytea[], $4::bigint[], $5::text[]) AS q";

const PUT_USES: &str = "WITH c AS (UPDATE {s}.copy SET incoming = $1 WHERE is_receiving RETURNING 1)
  INSERT INTO {s}.redemptions (txn, purpose, uses, original_iat, client, presented, iat, exp)
  SELECT q.* FROM c, unnest($2::text[], $3::text[], $4::integer[], $5::bigint[], $6::text[], $7::bytea[], $8::bigint[],
    $9::bigint[]) AS q";

/// The empty attempt is that of no request.
const PUT_SINGLE_USE: &str = "WITH c AS (UPDATE {s}.copy SET incoming = $1 WHERE is_receiving RETURNING 1)
  INSERT INTO {s}.single_use (id, keep_until, attempt)
  SELECT q.*, ''::bytea FROM c, unnest($2::bytea[], $3::bigint[]) AS q";

/// `$1` and `$2` the floors. Instances that know an earlier state of this database accept it.
const SET_FLOORS: &str = "WITH c AS (UPDATE {s}.clock
    SET accepted_at = greatest(accepted_at + 1, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint))
  UPDATE {s}.installation SET redemption_floor = $1, single_use_floor = $2";

/// `$1` the mark.
const COMPLETE: &str = "UPDATE {s}.copy SET is_receiving = false, incoming = $1";

/// `$1` the mark.
const MOVE_AWAY: &str = "UPDATE {s}.copy SET outgoing = $1";

/// One connection to the database, and the instance's folder, which no one else uses.
struct Session {
    connection: Connection,
    /// The schema, for statements.
    schema: String,
    /// The store, for messages.
    store: String,
    _lock: Lock,
}

/// A store that is not in use, and is not while this exists.
pub(crate) struct Source {
    session: Session,
    outgoing: Option<Outgoing>,
    /// The redemption floor with which tokens without iat were received, if any were.
    received_floor: Option<Timestamp>,
}

/// A store that receives records.
pub(crate) struct Target {
    session: Session,
    received_floor: Timestamp,
    /// The weeks whose partitions are known to exist.
    weeks: BTreeSet<i64>,
}

impl Session {
    /// `remembers`: whether the database must have everything that the instance has seen in it.
    async fn open(settings: &Settings, remembers: bool) -> Result<Self, CopyError> {
        let (lock, history) = own_folder(settings).await?;
        let history = if remembers { history } else { History { seen: None, installation: None, ..history } };
        let connector = Connector::for_copy(settings.clone(), history);
        let deadline = Instant::now() + START_TIMEOUT;
        let connection = loop {
            match connector.connect().await {
                Ok(connection) => break connection,
                Err(error) if error.is_permanent() || Instant::now() > deadline => return Err(refused(&error).into()),
                Err(_) => sleep(RETRY_DELAY).await,
            }
        };
        let schema = settings.schema.as_str().to_owned();
        Ok(Self { connection, schema, store: settings.to_string(), _lock: lock })
    }

    fn text(&self, statement: &str) -> String {
        statement.replace("{s}", &self.schema)
    }

    async fn rows(&self, statement: &str, values: Values<'_>) -> Result<Vec<Row>, CopyError> {
        let text = self.text(statement);
        self.ask(self.connection.client.query(&text, values)).await
    }

    async fn row(&self, statement: &str, values: Values<'_>) -> Result<Row, CopyError> {
        self.rows(statement, values).await?.pop().ok_or(NO_RECORD)
    }

    /// Returns how many rows were written.
    async fn write(&self, statement: &str, values: Values<'_>) -> Result<u64, CopyError> {
        let text = self.text(statement);
        self.ask(self.connection.client.execute(&text, values)).await
    }

    async fn run(&self, statements: &str) -> Result<(), CopyError> {
        let text = self.text(statements);
        self.ask(self.connection.client.batch_execute(&text)).await
    }

    /// An answer counts only in time and without a warning: what it says was done may not be durable otherwise.
    async fn ask<T>(&self, answer: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, CopyError> {
        match timeout(STATEMENT_TIMEOUT, answer).await {
            Err(_) => Err(CopyError::Database("it did not answer in time".to_owned())),
            Ok(_) if self.connection.is_poisoned() => {
                Err(CopyError::Database("it warned of its own answer".to_owned()))
            }
            Ok(Err(error)) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                Err(self.in_use("another session of the database".to_owned()))
            }
            Ok(answer) => answer.map_err(|error| CopyError::Database(describe(&error))),
        }
    }

    fn in_use(&self, by: String) -> CopyError {
        CopyError::InUse { store: self.store.clone(), by }
    }

    /// Begins a transaction in which no one else can write. No instance may be running: it would wait.
    async fn hold(&self) -> Result<(), CopyError> {
        self.expect_no_instance().await?;
        self.run(HOLD).await?;
        self.expect_no_instance().await
    }

    async fn expect_no_instance(&self) -> Result<(), CopyError> {
        let rows = self.rows(INSTANCES, &[]).await?;
        let names = rows.iter().map(|row| row.try_get("name")).collect::<Result<Vec<&str>, _>>().map_err(unreadable)?;
        if names.is_empty() {
            return Ok(());
        }
        // One that was killed is known to have ended when its lease is over.
        Err(self.in_use(format!("instances with a lease, of at most 10 seconds, on {}", names.join(", "))))
    }

    async fn marks(&self) -> Result<(bool, Option<Incoming>, Option<Outgoing>, Row), CopyError> {
        let row = self.row(STATE, &[]).await?;
        let (incoming, outgoing): (Option<&str>, Option<&str>) =
            (row.try_get("incoming").map_err(unreadable)?, row.try_get("outgoing").map_err(unreadable)?);
        let incoming = incoming.map(serde_json::from_str).transpose().map_err(|_| NO_RECORD)?;
        let outgoing = outgoing.map(serde_json::from_str).transpose().map_err(|_| NO_RECORD)?;
        Ok((row.try_get("is_receiving").map_err(unreadable)?, incoming, outgoing, row))
    }

    async fn basis(&self) -> Result<Option<Basis>, CopyError> {
        let row = self.row(BASIS, &[]).await?;
        let Some(stored) = ring::parse(&row)? else { return Ok(None) };
        let time = |column: &str| row.try_get(column).map(time).map_err(unreadable);
        let blocks = self.rows(BLOCKS, &[]).await?;
        let blocks = blocks.iter().map(|row| blocks::parse(row).ok().flatten().flatten().ok_or(NO_RECORD));
        Ok(Some(Basis {
            ring: stored.ring,
            blocks: blocks.collect::<Result<_, _>>()?,
            last_event: stored.last_event,
            swept: time("swept")?,
            redemption_floor: time("redemption_floor")?,
            single_use_floor: time("single_use_floor")?,
        }))
    }

    /// The next page; `received_floor` is the floor with which tokens without iat were received.
    async fn read(
        &self,
        kind: Kind,
        after: Option<&[u8]>,
        received_floor: Option<Timestamp>,
    ) -> Result<Read, CopyError> {
        let (page, last) = match kind {
            Kind::Tokens => {
                let floor = self.row("SELECT redemption_floor FROM {s}.installation", &[]).await?;
                let floor: i64 = floor.try_get(0).map_err(unreadable)?;
                let is_unraised = received_floor.is_some_and(|received| signed(received) == floor);
                let (iat, part) = after.map_or(Some((-1, &[][..])), token_place).ok_or(NO_RECORD)?;
                let rows = self.rows(TOKENS, &[&iat, &part, &floor, &is_unraised]).await?;
                let tokens = rows.iter().map(token).collect::<Result<Vec<_>, _>>()?;
                let last = tokens.last().map(place_of_token);
                (Page::Tokens(tokens), last)
            }
            Kind::Uses => {
                let rows = match after {
                    None => self.rows(FIRST_USES, &[]).await?,
                    Some(after) => {
                        let place = std::str::from_utf8(after).ok().and_then(|place| place.split_once('\0'));
                        let (txn, purpose) = place.ok_or(NO_RECORD)?;
                        self.rows(USES, &[&txn, &purpose]).await?
                    }
                };
                let several = rows.iter().map(uses).collect::<Result<Vec<_>, _>>()?;
                let last = several.last().map(|uses| format!("{}\0{}", uses.txn, uses.purpose).into_bytes());
                (Page::Uses(several), last)
            }
            Kind::SingleUse => {
                let rows = self.rows(SINGLE_USE, &[&after.unwrap_or_default()]).await?;
                let ids = rows.iter().map(used_id).collect::<Result<Vec<_>, _>>()?;
                let last = ids.last().map(|used| used.id.clone());
                (Page::SingleUse(ids), last)
            }
        };
        Ok(Read { page, after: last.or_else(|| after.map(<[u8]>::to_vec)).unwrap_or_default() })
    }
}

impl Source {
    /// Opens a store that is not in use, and keeps it so; one that was moved, too.
    pub(crate) async fn open(settings: &Settings) -> Result<Self, CopyError> {
        let session = Session::open(settings, true).await?;
        let (is_receiving, incoming, outgoing, _) = session.marks().await?;
        if is_receiving && outgoing.is_none() {
            let from = incoming.map_or_else(String::new, |incoming| incoming.from);
            return Err(OpenError::Unfinished { store: session.store, from }.into());
        }
        if outgoing.is_none() {
            session.hold().await?;
        }
        let received_floor = incoming.map(|incoming| incoming.redemption_floor);
        Ok(Self { session, outgoing, received_floor })
    }

    /// The mark of an earlier move.
    pub(crate) fn outgoing(&self) -> Option<&Outgoing> {
        self.outgoing.as_ref()
    }

    pub(crate) async fn basis(&self) -> Result<Option<Basis>, CopyError> {
        self.session.basis().await
    }

    pub(crate) async fn read(&self, kind: Kind, after: Option<&[u8]>) -> Result<Read, CopyError> {
        self.session.read(kind, after, self.received_floor).await
    }

    /// Marks the store as moved: from the end of the transaction the service has no right to write here.
    pub(crate) async fn move_away(&mut self, outgoing: &Outgoing) -> Result<(), CopyError> {
        self.session.write(MOVE_AWAY, &[&mark(outgoing)?]).await?;
        self.session.run("SELECT {s}.fence(); COMMIT").await?;
        self.outgoing = Some(outgoing.clone());
        Ok(())
    }
}

impl Target {
    pub(crate) async fn open(settings: &Settings) -> Result<Self, CopyError> {
        let session = Session::open(settings, false).await?;
        Ok(Self { session, received_floor: Timestamp::default(), weeks: BTreeSet::new() })
    }

    pub(crate) async fn state(&self) -> Result<State, CopyError> {
        let (is_receiving, incoming, outgoing, row) = self.session.marks().await?;
        let has = |what: &str| row.try_get::<_, bool>(what).map_err(unreadable);
        Ok(match (outgoing, incoming) {
            (Some(Outgoing { to, .. }), _) => State::Occupied(format!("records that were moved to {to}")),
            (None, Some(incoming)) if is_receiving => State::Receiving(incoming),
            (None, Some(incoming)) => State::Complete(incoming),
            (None, None) if has("has_keys")? => State::Occupied("a key ring".to_owned()),
            (None, None) if has("has_records")? => State::Occupied("records".to_owned()),
            (None, None) => State::Empty,
        })
    }

    /// Begins to receive a copy; what was received before is removed.
    pub(crate) async fn begin(&mut self, incoming: &Incoming, basis: &Basis) -> Result<(), CopyError> {
        let session = &self.session;
        session.hold().await?;
        match self.state().await? {
            State::Empty => {}
            State::Receiving(earlier) if earlier.installation == incoming.installation => {
                session.run("SELECT {s}.clear_copy()").await?;
            }
            _ => return Err(session.in_use("another copy, or a service that has just begun".to_owned())),
        }
        let Basis { ring, blocks, last_event, swept, .. } = basis;
        session.write(BEGIN, &[&mark(incoming)?]).await?;
        session.write(PUT_INSTALLATION, &[&ring.installation.id, &ring.installation.trust_domain]).await?;
        let version = version_of(&ring.document).ok_or(NO_RECORD)?;
        session.write(PUT_RING, &[&signed(Timestamp::from_epoch(version)), &ring.document]).await?;
        let kids = column(&ring.past, |key| key.kid.as_str());
        session.write(PUT_PAST_KEYS, &[&kids, &column(&ring.past, |key| key.document.as_slice())]).await?;
        let ids = column(blocks, |block| key(&block.selectors));
        let selectors = column(blocks, |block| block.selectors.as_str());
        let added = column(blocks, |block| signed(block.added_at));
        session
            .write(PUT_BLOCKS, &[&ids, &selectors, &added, &column(blocks, |block| block.until.map(signed))])
            .await?;
        session.write(PUT_CLOCK, &[&signed(*last_event), &signed(*swept)]).await?;
        session.run("COMMIT").await?;
        self.resume(incoming);
        Ok(())
    }

    /// Goes on with a copy that was interrupted.
    pub(crate) fn resume(&mut self, incoming: &Incoming) {
        self.received_floor = incoming.redemption_floor;
    }

    /// Writes records, and how far the copy is.
    pub(crate) async fn put(&mut self, page: &Page, incoming: &Incoming) -> Result<(), CopyError> {
        let (session, mark) = (&self.session, mark(incoming)?);
        let written = match page {
            Page::Tokens(tokens) => {
                self.make_weeks(tokens).await?;
                let values: Values<'_> = &[
                    &mark,
                    &column(tokens, stored_iat),
                    &column(tokens, |token| &token.signed_part[..]),
                    &column(tokens, |token| signed(token.keep_until)),
                    &column(tokens, |token| token.txn.as_str()),
                ];
                self.session.write(PUT_TOKENS, values).await?
            }
            Page::Uses(several) => {
                let values: Values<'_> = &[
                    &mark,
                    &column(several, |uses| uses.txn.as_str()),
                    &column(several, |uses| uses.purpose.as_str()),
                    &column(several, |uses| i32::try_from(uses.count).unwrap_or(i32::MAX)),
                    &column(several, |uses| signed(uses.original_iat)),
                    &column(several, |uses| uses.client.as_str()),
                    &column(several, |uses| &uses.presented[..]),
                    &column(several, |uses| signed(uses.iat)),
                    &column(several, |uses| signed(uses.exp)),
                ];
                session.write(PUT_USES, values).await?
            }
            Page::SingleUse(ids) => {
                let values: Values<'_> =
                    &[&mark, &column(ids, |used| &used.id[..]), &column(ids, |used| signed(used.keep_until))];
                session.write(PUT_SINGLE_USE, values).await?
            }
        };
        if written == page.len() as u64 { Ok(()) } else { Err(self.session.in_use("another copy".to_owned())) }
    }

    async fn make_weeks(&mut self, tokens: &[Token]) -> Result<(), CopyError> {
        let seconds = i64::try_from(WEEK).unwrap_or(i64::MAX);
        for week in tokens.iter().map(|token| stored_iat(token) / seconds) {
            if !self.weeks.contains(&week) {
                self.session.rows("SELECT {s}.ensure_weeks($1, $1)", &[&week]).await?;
                self.weeks.insert(week);
            }
        }
        Ok(())
    }

    /// Begins the transaction in which everything is read back, with the floors of the source.
    pub(crate) async fn freeze(&mut self, incoming: &Incoming, basis: &Basis) -> Result<(), CopyError> {
        self.session.hold().await?;
        let floors: Values<'_> = &[&signed(basis.redemption_floor), &signed(basis.single_use_floor)];
        self.session.write(SET_FLOORS, floors).await?;
        self.session.write(COMPLETE, &[&mark(incoming)?]).await.map(drop)
    }

    pub(crate) async fn basis(&self) -> Result<Option<Basis>, CopyError> {
        self.session.basis().await
    }

    pub(crate) async fn read(&self, kind: Kind, after: Option<&[u8]>) -> Result<Read, CopyError> {
        self.session.read(kind, after, Some(self.received_floor)).await
    }

    /// Ends the transaction: from now on the store can be served.
    pub(crate) async fn complete(&self) -> Result<(), CopyError> {
        self.session.run("COMMIT").await
    }
}

fn mark(mark: &impl serde::Serialize) -> Result<String, CopyError> {
    serde_json::to_string(mark).map_err(|_| NO_RECORD)
}

/// The values of a column.
fn column<'a, T, V>(rows: &'a [T], value: impl Fn(&'a T) -> V) -> Vec<V> {
    rows.iter().map(value).collect()
}

fn stored_iat(token: &Token) -> i64 {
    token.iat.map_or(UNKNOWN_IAT, signed)
}

fn place_of_token(token: &Token) -> Vec<u8> {
    [&stored_iat(token).to_be_bytes()[..], &token.signed_part].concat()
}

fn token_place(place: &[u8]) -> Option<(i64, &[u8])> {
    let (iat, part) = place.split_first_chunk()?;
    Some((i64::from_be_bytes(*iat), part))
}

fn token(row: &Row) -> Result<Token, CopyError> {
    let iat: i64 = row.try_get("iat").map_err(unreadable)?;
    let keep_until: i64 = row.try_get("keep_until").map_err(unreadable)?;
    Ok(Token {
        signed_part: hash(row, "signed_part")?,
        txn: row.try_get("txn").map_err(unreadable)?,
        iat: (iat != UNKNOWN_IAT).then(|| time(iat)),
        keep_until: time(keep_until),
    })
}

fn uses(row: &Row) -> Result<Uses, CopyError> {
    let count: i32 = row.try_get("uses").map_err(unreadable)?;
    let at = |column: &str| row.try_get(column).map(time).map_err(unreadable);
    Ok(Uses {
        txn: row.try_get("txn").map_err(unreadable)?,
        purpose: row.try_get("purpose").map_err(unreadable)?,
        count: u32::try_from(count).map_err(|_| NO_RECORD)?,
        original_iat: at("original_iat")?,
        client: row.try_get("client").map_err(unreadable)?,
        presented: hash(row, "presented")?,
        iat: at("iat")?,
        exp: at("exp")?,
    })
}

fn used_id(row: &Row) -> Result<UsedId, CopyError> {
    let keep_until: i64 = row.try_get("keep_until").map_err(unreadable)?;
    Ok(UsedId { id: row.try_get("id").map_err(unreadable)?, keep_until: time(keep_until) })
}

fn hash(row: &Row, column: &str) -> Result<[u8; 32], CopyError> {
    let bytes: &[u8] = row.try_get(column).map_err(unreadable)?;
    bytes.try_into().map_err(|_| NO_RECORD)
}

fn time(seconds: i64) -> Timestamp {
    Timestamp::from_epoch(u64::try_from(seconds).unwrap_or(0))
}

fn unreadable(_: tokio_postgres::Error) -> CopyError {
    NO_RECORD
}
