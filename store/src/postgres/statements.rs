//! The SQL of the service. Each statement is one transaction, can be repeated with the same values, and is durable when it
//! is answered: whatever grants writes or locks a row, because only such a transaction waits for the standbys.

use super::guard;
use super::settings::SchemaName;

/// The time of the database.
const NOW: &str = "floor(extract(epoch FROM clock_timestamp()))::bigint";

/// `$1` instance, `$2` its name, `$3` and `$4` the versions that it serves, `$5` seconds of its lease, `$6` whether it has
/// one, `$7` for how many seconds it has published the next key. The database's clock is the last event: instances' clocks may
/// differ, and one that steps forward does not make the time longer for which the key was published. Until an instance has a
/// lease, its row is that of another: of itself before it was started. One whose lease has ended counts all the same, since
/// verifiers may hold what it published. A version that keeps the next key (an import, a revocation) does not begin its time
/// anew: every rotation would otherwise be refused for a while after it.
const BEAT: &str = "WITH c AS (UPDATE {s}.clock
    SET beat = beat + 1, last_event = greatest(last_event, {now})
    RETURNING beat, last_event, accepted_at),
  i AS (INSERT INTO {s}.instances AS i (id, name, lease_until, ring_version, blocks_version, next_since)
    SELECT $1, $2, clock_timestamp() + make_interval(secs => $5), $3, $4, {now} - $7::bigint WHERE $6
    ON CONFLICT (id) DO UPDATE SET name = excluded.name, lease_until = excluded.lease_until,
      ring_version = excluded.ring_version, blocks_version = excluded.blocks_version,
      next_since = CASE WHEN i.ring_version = excluded.ring_version THEN greatest(i.next_since, excluded.next_since)
        ELSE excluded.next_since END
    RETURNING next_since)
  SELECT c.beat, c.last_event, c.accepted_at, r.version AS ring_version, x.blocks_version,
    (SELECT system_identifier FROM pg_control_system()) AS system,
    o.oldest_ring, o.next_for, o.cut_off_at, o.was_behind, {guard}
  FROM c, {s}.ring r, {s}.installation x, LATERAL (SELECT
      min(ring_version) FILTER (WHERE lease_until > clock_timestamp()) AS oldest_ring,
      {now} - greatest(max(CASE WHEN ring_version < r.version THEN floor(extract(epoch FROM lease_until))::bigint
        ELSE next_since END), (SELECT next_since FROM i)) AS next_for,
      floor(extract(epoch FROM max(lease_until)
        FILTER (WHERE lease_until <= clock_timestamp() AND ring_version < r.version)))::bigint AS cut_off_at,
      coalesce(bool_or(id = $1 AND ring_version < r.version), false) AS was_behind
    FROM {s}.instances WHERE id <> $1 OR NOT $6) o";

/// What is checked on a connection before anything else.
const ADMIT: &str = "SELECT m.version AS schema_version, c.beat, c.accepted_at, x.id AS installation,
    (SELECT system_identifier FROM pg_control_system()) AS system, y.is_receiving, y.incoming, y.outgoing
  FROM {s}.meta m, {s}.clock c, {s}.installation x, {s}.copy y";

/// `$1` txn, `$2` purpose, `$3` client, `$4` presented, `$5` now, `$6` exp, `$7` original iat, `$8` maximum of uses, `$9`
/// whether the token must be on record, `$10` when the transaction began. Always one row. Records from before a floor may
/// be those of a restored backup, so that they grant nothing. The records of tokens that were copied from the embedded
/// engine have iat 0.
const REDEEM: &str = "WITH o AS MATERIALIZED (
    SELECT $7 > x.redemption_floor AND ($10::bigint IS NULL OR $10 >= x.redemption_floor) AND (NOT $9::boolean
      OR EXISTS (SELECT 1 FROM {s}.tokens t WHERE t.iat = $7 AND t.signed_part = $4)
      OR EXISTS (SELECT 1 FROM {s}.tokens t WHERE t.iat = 0 AND t.signed_part = $4)) AS on_record
    FROM {s}.installation x),
  w AS (INSERT INTO {s}.redemptions AS r (txn, purpose, uses, client, presented, iat, exp, original_iat)
    SELECT $1, $2, 1, $3, $4, $5::bigint, $6::bigint, $7::bigint FROM o WHERE o.on_record AND $8 > 0
    ON CONFLICT (txn, purpose) DO UPDATE SET uses = r.uses + 1, client = excluded.client,
      presented = excluded.presented, iat = excluded.iat, exp = excluded.exp,
      original_iat = greatest(r.original_iat, excluded.original_iat)
    WHERE r.uses < $8::integer
      AND NOT (r.client = excluded.client AND r.presented = excluded.presented AND $5 < r.exp)
    RETURNING uses)
  SELECT o.on_record, w.uses AS spent, r.uses, r.iat, r.exp,
    coalesce(r.client = $3 AND r.presented = $4 AND $5 < r.exp, false) AS is_repeat
  FROM o LEFT JOIN w ON true LEFT JOIN {s}.redemptions r ON r.txn = $1 AND r.purpose = $2";

/// The same for several redemptions, each parameter but `$8` a list. Rows are taken in the order of their keys, so that two
/// such statements cannot wait for each other. Each `LIMIT 1` makes the database look up a row by its key: it does not know
/// how few rows are asked for, and would otherwise read whole tables.
const REDEEM_SEVERAL: &str = "WITH o AS MATERIALIZED (
    SELECT q.*, q.original_iat > x.redemption_floor AND (q.began IS NULL OR q.began >= x.redemption_floor)
      AND (NOT q.require_record
        OR (SELECT true FROM {s}.tokens t WHERE t.iat = q.original_iat AND t.signed_part = q.presented LIMIT 1) IS NOT NULL
        OR (SELECT true FROM {s}.tokens t WHERE t.iat = 0 AND t.signed_part = q.presented LIMIT 1) IS NOT NULL) AS on_record
    FROM (SELECT redemption_floor FROM {s}.installation LIMIT 1) x, unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bigint[], $6::bigint[],
      $7::bigint[], $9::boolean[], $10::bigint[]) WITH ORDINALITY
      AS q (txn, purpose, client, presented, now, exp, original_iat, require_record, began, number)),
  w AS (INSERT INTO {s}.redemptions AS r (txn, purpose, uses, client, presented, iat, exp, original_iat)
    SELECT txn, purpose, 1, client, presented, now, exp, original_iat FROM o WHERE on_record AND $8 > 0
    ORDER BY txn COLLATE \"C\", purpose COLLATE \"C\"
    ON CONFLICT (txn, purpose) DO UPDATE SET uses = r.uses + 1, client = excluded.client,
      presented = excluded.presented, iat = excluded.iat, exp = excluded.exp,
      original_iat = greatest(r.original_iat, excluded.original_iat)
    WHERE r.uses < $8::integer
      AND NOT (r.client = excluded.client AND r.presented = excluded.presented AND excluded.iat < r.exp)
    RETURNING txn, purpose, uses)
  SELECT o.on_record, w.uses AS spent, r.uses, r.iat, r.exp,
    coalesce(r.client = o.client AND r.presented = o.presented AND o.now < r.exp, false) AS is_repeat
  FROM o LEFT JOIN w ON w.txn = o.txn AND w.purpose = o.purpose
    LEFT JOIN LATERAL (SELECT * FROM {s}.redemptions r WHERE r.txn = o.txn AND r.purpose = o.purpose LIMIT 1) r ON true
  ORDER BY o.number";

/// `$1` iat, `$2` signed part, `$3` keep until, `$4` txn. A row that is there is locked, so that the answer is durable.
const RECORD: &str = "INSERT INTO {s}.tokens AS t (iat, signed_part, keep_until, txn) VALUES ($1, $2, $3, $4)
  ON CONFLICT (iat, signed_part) DO UPDATE SET keep_until = greatest(t.keep_until, excluded.keep_until)";

/// The same for several tokens, each parameter a list.
const RECORD_SEVERAL: &str = "INSERT INTO {s}.tokens AS t (iat, signed_part, keep_until, txn)
  SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bigint[], $4::text[]) AS q (iat, signed_part, keep_until, txn)
  ORDER BY iat, signed_part
  ON CONFLICT (iat, signed_part) DO UPDATE SET keep_until = greatest(t.keep_until, excluded.keep_until)";

/// `$1` id, `$2` keep until, `$3` attempt, `$4` made, `$5` iat or null, `$6` signed part, `$7` keep until, `$8` txn. The same
/// attempt may repeat itself; another finds the identifier used.
const USE_UP: &str = "WITH once AS (INSERT INTO {s}.single_use AS s (id, keep_until, attempt)
    SELECT $1, $2, $3 FROM {s}.installation x WHERE $4::bigint > x.single_use_floor
    ON CONFLICT (id) DO UPDATE SET attempt = excluded.attempt WHERE s.attempt = excluded.attempt RETURNING 1),
  t AS (INSERT INTO {s}.tokens AS t (iat, signed_part, keep_until, txn)
    SELECT $5::bigint, $6, $7, $8 FROM once WHERE $5::bigint IS NOT NULL
    ON CONFLICT (iat, signed_part) DO UPDATE SET keep_until = greatest(t.keep_until, excluded.keep_until))
  SELECT count(*) > 0 AS is_recorded FROM once";

/// Everything of the key ring, as of one instant.
const RING: &str = "WITH durable AS (SELECT 1 FROM {s}.clock FOR UPDATE)
  SELECT x.id, x.trust_domain, r.document, c.last_event,
    (SELECT coalesce(array_agg(kid ORDER BY kid), '{}') FROM {s}.past_keys) AS kids,
    (SELECT coalesce(array_agg(document ORDER BY kid), '{}') FROM {s}.past_keys) AS documents
  FROM {s}.installation x, {s}.ring r, {s}.clock c, durable";

/// `$1` version before, `$2` version, `$3` document, `$4` attempt, `$5` instance, `$6` kids, `$7` their documents.
const SWAP_RING: &str = "WITH v AS (UPDATE {s}.ring SET version = $2, document = $3, attempt = $4, changed_by = $5,
      changed_at = clock_timestamp() WHERE version = $1 AND document IS NOT NULL RETURNING 1),
  p AS (INSERT INTO {s}.past_keys (kid, document) SELECT k.kid, k.document
    FROM unnest($6::text[], $7::bytea[]) AS k (kid, document), v
    ON CONFLICT (kid) DO UPDATE SET document = excluded.document)
  SELECT EXISTS (SELECT 1 FROM v) AS is_done, (SELECT pg_notify('writ', '')::text FROM v) AS notified,
    coalesce(r.attempt = $4, false) AS was_done FROM {s}.ring r";

/// `$1` version, `$2` document, `$3` attempt, `$4` instance, `$5` kids, `$6` their documents, `$7` id, `$8` trust domain, `$9`
/// whether to replace a ring that is there.
const PUT_RING: &str = "WITH v AS (UPDATE {s}.ring SET version = $1, document = $2, attempt = $3, changed_by = $4,
      changed_at = clock_timestamp() WHERE document IS NULL OR $9::boolean RETURNING 1),
  i AS (UPDATE {s}.installation SET id = $7, trust_domain = $8 FROM v),
  p AS (INSERT INTO {s}.past_keys (kid, document) SELECT k.kid, k.document
    FROM unnest($5::text[], $6::bytea[]) AS k (kid, document), v
    ON CONFLICT (kid) DO UPDATE SET document = excluded.document)
  SELECT EXISTS (SELECT 1 FROM v) AS is_done, (SELECT pg_notify('writ', '')::text FROM v) AS notified,
    coalesce(r.attempt = $3, false) AS was_done FROM {s}.ring r";

/// Waits until what was read before is durable.
const SETTLE: &str = "SELECT 1 FROM {s}.clock FOR UPDATE";

const BLOCKS: &str = "WITH durable AS (SELECT 1 FROM {s}.clock FOR UPDATE)
  SELECT b.id, b.selectors, b.added_at, b.until FROM durable LEFT JOIN {s}.blocks b ON true";

/// `$1` id, `$2` selectors, `$3` added at, `$4` until.
const ADD_BLOCK: &str = "WITH b AS (INSERT INTO {s}.blocks (id, selectors, added_at, until) VALUES ($1, $2, $3, $4)
    ON CONFLICT (id) DO UPDATE SET added_at = excluded.added_at, until = excluded.until),
  v AS (UPDATE {s}.installation SET blocks_version = blocks_version + 1 RETURNING 1)
  SELECT pg_notify('writ', '')::text FROM v";

/// `$1` id.
const REMOVE_BLOCK: &str = "WITH b AS (DELETE FROM {s}.blocks WHERE id = $1),
  v AS (UPDATE {s}.installation SET blocks_version = blocks_version + 1 RETURNING 1)
  SELECT pg_notify('writ', '')::text FROM v";

/// `$1` now, `$2` seconds that a clock may be behind. The time that counts is at most the database's.
const RECORD_EVENT: &str = "WITH v AS (UPDATE {s}.clock SET last_event = greatest(last_event,
      least($1::bigint, {now}))
    WHERE last_event <= $1::bigint + $2::bigint RETURNING last_event)
  SELECT (SELECT last_event FROM v) AS last_event";

/// As [`RECORD_EVENT`], and that records are dropped.
const RECORD_DROP: &str = "WITH v AS (UPDATE {s}.clock SET last_event = greatest(last_event,
      least($1::bigint, {now})), swept = greatest(swept, $1::bigint)
    WHERE last_event <= $1::bigint + $2::bigint RETURNING last_event)
  SELECT (SELECT last_event FROM v) AS last_event";

/// `$1` now, `$2` the retention margin. Returns the database's time.
const TRUST: &str = "WITH o AS (SELECT greatest(last_event, swept) > $1::bigint + $2::bigint AS is_dropped
    FROM {s}.clock FOR UPDATE),
  c AS (UPDATE {s}.clock SET last_event = $1::bigint FROM o),
  x AS (UPDATE {s}.installation SET single_use_floor = greatest(single_use_floor, $1::bigint)
    FROM o WHERE o.is_dropped)
  SELECT {now} AS database_time FROM o";

/// `$1` whether counted uses may be missing. Every instance follows, and refuses a database that lacks this.
const ACCEPT: &str = "WITH c AS (UPDATE {s}.clock
    SET accepted_at = greatest(accepted_at + 1, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint),
      last_event = greatest(last_event, {now})
    RETURNING last_event),
  x AS (UPDATE {s}.installation SET redemption_floor = greatest(redemption_floor, c.last_event),
      single_use_floor = greatest(single_use_floor, c.last_event) FROM c WHERE $1::boolean)
  SELECT c.last_event FROM c";

/// `$1` the second before which an identifier has expired, `$2` how many at most.
const EXPIRE_SINGLE_USE: &str = "WITH d AS (DELETE FROM {s}.single_use WHERE id = ANY (ARRAY(
    SELECT id FROM {s}.single_use
    WHERE keep_until < least($1::bigint, {now} - 172800)
    ORDER BY keep_until LIMIT $2 FOR UPDATE SKIP LOCKED)) RETURNING 1) SELECT count(*) AS dropped FROM d";

/// `$1` the second before which the latest token of a transaction was issued, `$2` how many at most.
const EXPIRE_USES: &str = "WITH over AS MATERIALIZED (SELECT txn, purpose FROM {s}.redemptions
    WHERE original_iat < $1 ORDER BY original_iat LIMIT $2 FOR UPDATE SKIP LOCKED),
  d AS (DELETE FROM {s}.redemptions r USING over o WHERE r.txn = o.txn AND r.purpose = o.purpose
    AND r.original_iat < $1 RETURNING 1) SELECT count(*) AS dropped FROM d";

const COUNTS: &str = "SELECT
    (SELECT coalesce(sum(greatest(c.reltuples, s.n_live_tup, 0)), 0)::bigint FROM pg_inherits i
      JOIN pg_class c ON c.oid = i.inhrelid LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
      WHERE i.inhparent = '{s}.tokens'::regclass) AS tokens,
    (SELECT greatest(c.reltuples, s.n_live_tup, 0)::bigint FROM pg_class c
      LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid WHERE c.oid = '{s}.redemptions'::regclass) AS uses,
    (SELECT greatest(c.reltuples, s.n_live_tup, 0)::bigint FROM pg_class c
      LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid WHERE c.oid = '{s}.single_use'::regclass) AS single_use";

/// The statements, in a schema.
#[derive(Debug)]
pub(super) struct Statements {
    pub(super) guard: String,
    pub(super) admit: String,
    pub(super) beat: String,
    pub(super) redeem: String,
    pub(super) redeem_several: String,
    pub(super) record: String,
    pub(super) record_several: String,
    pub(super) use_up: String,
    pub(super) ring: String,
    pub(super) swap_ring: String,
    pub(super) put_ring: String,
    pub(super) settle: String,
    pub(super) blocks: String,
    pub(super) add_block: String,
    pub(super) remove_block: String,
    pub(super) record_event: String,
    pub(super) record_drop: String,
    pub(super) trust: String,
    pub(super) accept: String,
    pub(super) expire_single_use: String,
    pub(super) expire_uses: String,
    pub(super) ensure_weeks: String,
    pub(super) drop_week: String,
    pub(super) counts: String,
    pub(super) forget_instances: String,
    pub(super) leave: String,
}

impl Statements {
    pub(super) fn new(schema: &SchemaName) -> Self {
        let of = |text: &str| {
            let text = text.replace("{guard}", guard::COLUMNS).replace("{now}", NOW);
            text.replace("{s}", schema.as_str())
        };
        Self {
            guard: of("SELECT {guard}"),
            admit: of(ADMIT),
            beat: of(BEAT),
            redeem: of(REDEEM),
            redeem_several: of(REDEEM_SEVERAL),
            record: of(RECORD),
            record_several: of(RECORD_SEVERAL),
            use_up: of(USE_UP),
            ring: of(RING),
            swap_ring: of(SWAP_RING),
            put_ring: of(PUT_RING),
            settle: of(SETTLE),
            blocks: of(BLOCKS),
            add_block: of(ADD_BLOCK),
            remove_block: of(REMOVE_BLOCK),
            record_event: of(RECORD_EVENT),
            record_drop: of(RECORD_DROP),
            trust: of(TRUST),
            accept: of(ACCEPT),
            expire_single_use: of(EXPIRE_SINGLE_USE),
            expire_uses: of(EXPIRE_USES),
            ensure_weeks: of("SELECT {s}.ensure_weeks($1, $2)"),
            drop_week: of("SELECT {s}.drop_week($1) AS is_dropped"),
            counts: of(COUNTS),
            // One that was cut off may sign for the rest of the period of its key.
            forget_instances: of(
                "DELETE FROM {s}.instances WHERE lease_until < clock_timestamp() - interval '400 days'",
            ),
            // Not while verifiers may hold what it published with an older ring: then it counts as if it had been killed.
            leave: of("DELETE FROM {s}.instances WHERE id = $1 AND ring_version = (SELECT version FROM {s}.ring)
                  AND next_since <= {now} - $2"),
        }
    }
}
