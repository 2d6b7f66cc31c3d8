//! The tables: their SQL for each role, and their creation by the owner.
//!
//! Times are seconds since 1970. Tokens on record are partitioned by the week of their `iat`, which whoever redeems one
//! knows, so that one partition is searched, and a week is dropped as a whole. The service's role may neither create nor
//! drop; two functions of the owner do that for it, and nothing else.

use super::settings::{SchemaName, Settings};

/// The version of the tables that this program uses.
pub(super) const VERSION: i32 = 2;

/// The length of a partition, in seconds.
pub(super) const WEEK: u64 = 7 * 24 * 60 * 60;

/// The statements of the owner. `{s}` is the schema, `{w}` the role of the service.
const OWNER: &str = r#"CREATE SCHEMA IF NOT EXISTS {s};
REVOKE ALL ON SCHEMA {s} FROM PUBLIC;

-- The version of these tables.
CREATE TABLE IF NOT EXISTS {s}.meta (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  version integer NOT NULL
);

-- Whose tables these are, and the floors: up to them, records of uses may be missing.
CREATE TABLE IF NOT EXISTS {s}.installation (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  id text COLLATE "C",
  trust_domain text COLLATE "C",
  redemption_floor bigint NOT NULL DEFAULT 0,
  single_use_floor bigint NOT NULL DEFAULT 0,
  blocks_version bigint NOT NULL DEFAULT 0
);
INSERT INTO {s}.installation DEFAULT VALUES ON CONFLICT DO NOTHING;

-- Moved by heartbeats only: one row that each redemption moved would queue all instances behind one commit.
CREATE TABLE IF NOT EXISTS {s}.clock (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  last_event bigint NOT NULL DEFAULT 0,
  beat bigint NOT NULL DEFAULT 0,
  accepted_at bigint NOT NULL DEFAULT 0,
  swept bigint NOT NULL DEFAULT 0
);
INSERT INTO {s}.clock DEFAULT VALUES ON CONFLICT DO NOTHING;

-- The keys in use, private halves sealed. One row: the private half of a retired key is not kept.
CREATE TABLE IF NOT EXISTS {s}.ring (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  version bigint NOT NULL DEFAULT 0,
  document bytea,
  attempt bytea,
  changed_at timestamptz,
  changed_by text
);
INSERT INTO {s}.ring DEFAULT VALUES ON CONFLICT DO NOTHING;

-- Keys that are no longer published.
CREATE TABLE IF NOT EXISTS {s}.past_keys (
  kid text COLLATE "C" PRIMARY KEY,
  document bytea NOT NULL
);

-- Tokens on record, by the week of their iat.
CREATE TABLE IF NOT EXISTS {s}.tokens (
  iat bigint NOT NULL,
  signed_part bytea NOT NULL CHECK (octet_length(signed_part) = 32),
  keep_until bigint NOT NULL,
  txn text COLLATE "C" NOT NULL,
  PRIMARY KEY (iat, signed_part)
) PARTITION BY RANGE (iat);
-- A small index, by which a week whose tokens have all expired is found without reading it.
CREATE INDEX IF NOT EXISTS tokens_keep_until ON {s}.tokens USING brin (keep_until);

-- Counts of uses. Free space in each page keeps the next use of a row in it.
CREATE TABLE IF NOT EXISTS {s}.redemptions (
  txn text COLLATE "C" NOT NULL,
  purpose text COLLATE "C" NOT NULL,
  uses integer NOT NULL,
  client text COLLATE "C" NOT NULL,
  presented bytea NOT NULL,
  iat bigint NOT NULL,
  exp bigint NOT NULL,
  original_iat bigint NOT NULL,
  PRIMARY KEY (txn, purpose)
) WITH (fillfactor = 80);
CREATE INDEX IF NOT EXISTS redemptions_original_iat ON {s}.redemptions (original_iat);

-- Used single-use identifiers. Not partitioned: each must be unique across all of time.
CREATE TABLE IF NOT EXISTS {s}.single_use (
  id bytea PRIMARY KEY,
  keep_until bigint NOT NULL,
  attempt bytea NOT NULL
);
CREATE INDEX IF NOT EXISTS single_use_keep_until ON {s}.single_use (keep_until);

-- The kill switch.
CREATE TABLE IF NOT EXISTS {s}.blocks (
  id bytea PRIMARY KEY,
  selectors text NOT NULL,
  added_at bigint NOT NULL,
  until bigint
);

-- The instances that run, each as long as its lease.
CREATE TABLE IF NOT EXISTS {s}.instances (
  id text COLLATE "C" PRIMARY KEY,
  name text NOT NULL,
  lease_until timestamptz NOT NULL,
  ring_version bigint NOT NULL,
  blocks_version bigint NOT NULL,
  next_since bigint NOT NULL
);

-- What `writ store copy` notes: that these records are a copy, not yet complete while is_receiving; where they were moved.
CREATE TABLE IF NOT EXISTS {s}.copy (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  is_receiving boolean NOT NULL DEFAULT false,
  incoming text,
  outgoing text
);
INSERT INTO {s}.copy DEFAULT VALUES ON CONFLICT DO NOTHING;

-- Makes the partitions of the weeks from first to last.
CREATE OR REPLACE FUNCTION {s}.ensure_weeks(first bigint, last bigint) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $body$
DECLARE week bigint; made integer := 0;
BEGIN
  IF first < 0 OR last - first > 20 THEN
    RAISE EXCEPTION 'weeks % to % are too many', first, last;
  END IF;
  FOR week IN first..last LOOP
    CONTINUE WHEN to_regclass('{s}.tokens_' || week) IS NOT NULL;
    -- One at a time makes them.
    LOCK TABLE {s}.tokens IN SHARE UPDATE EXCLUSIVE MODE;
    CONTINUE WHEN to_regclass('{s}.tokens_' || week) IS NOT NULL;
    EXECUTE format('CREATE TABLE {s}.tokens_%s (LIKE {s}.tokens INCLUDING ALL)', week);
    EXECUTE format('ALTER TABLE {s}.tokens ATTACH PARTITION {s}.tokens_%s FOR VALUES FROM (%s) TO (%s)',
      week, week * 604800, (week + 1) * 604800);
    made := made + 1;
  END LOOP;
  RETURN made;
END $body$;

-- Drops one partition whose tokens all expired before the given second, and two days ago; false if there is none.
CREATE OR REPLACE FUNCTION {s}.drop_week(before bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' AS $body$
DECLARE
  part name; is_needed boolean;
  cutoff bigint := least(before, extract(epoch FROM clock_timestamp())::bigint - 172800);
BEGIN
  FOR part IN SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = '{s}.tokens'::regclass AND (substr(c.relname, 8)::bigint + 1) * 604800 <= cutoff
    ORDER BY substr(c.relname, 8)::bigint
  LOOP
    BEGIN
      EXECUTE format('SELECT EXISTS (SELECT 1 FROM {s}.%I WHERE keep_until >= $1)', part) INTO is_needed USING cutoff;
      IF NOT is_needed THEN
        EXECUTE format('DROP TABLE {s}.%I', part);
        RETURN true;
      END IF;
    EXCEPTION WHEN undefined_table THEN NULL; -- another instance has dropped it
    END;
  END LOOP;
  RETURN false;
END $body$;

-- Removes what was received of a copy that is not complete.
CREATE OR REPLACE FUNCTION {s}.clear_copy() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '10s' AS $body$
BEGIN
  IF NOT (SELECT is_receiving FROM {s}.copy) THEN
    RAISE EXCEPTION 'the records are not those of an unfinished copy';
  END IF;
  TRUNCATE {s}.tokens, {s}.redemptions, {s}.single_use, {s}.past_keys, {s}.blocks, {s}.instances;
END $body$;

-- Once the records were moved, the service may not write here, whatever it has in memory.
CREATE OR REPLACE FUNCTION {s}.fence() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
  IF (SELECT outgoing IS NOT NULL FROM {s}.copy) THEN
    REVOKE INSERT, UPDATE, DELETE ON {s}.installation, {s}.clock, {s}.ring, {s}.past_keys, {s}.tokens,
      {s}.redemptions, {s}.single_use, {s}.blocks, {s}.instances, {s}.copy FROM {w};
  END IF;
END $body$;

REVOKE ALL ON ALL TABLES IN SCHEMA {s} FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {s} FROM PUBLIC;
GRANT USAGE ON SCHEMA {s} TO {w};
GRANT SELECT ON {s}.meta TO {w};
GRANT SELECT, UPDATE ON {s}.installation, {s}.clock, {s}.ring, {s}.copy TO {w};
GRANT SELECT, INSERT, UPDATE ON {s}.past_keys, {s}.tokens TO {w};
GRANT SELECT, INSERT, UPDATE, DELETE ON {s}.redemptions, {s}.single_use, {s}.blocks, {s}.instances TO {w};
GRANT EXECUTE ON FUNCTION {s}.ensure_weeks(bigint, bigint), {s}.drop_week(bigint), {s}.clear_copy(), {s}.fence() TO {w};
SELECT {s}.fence();
INSERT INTO {s}.meta (version) VALUES ({v}) ON CONFLICT (one) DO UPDATE SET version = excluded.version;
"#;

/// The statements of an administrator, before those of the owner. `{o}` is the owner's role, `{d}` the database.
const ADMINISTRATOR: &str = r"CREATE ROLE {o} LOGIN;
CREATE ROLE {w} LOGIN;
-- Each with a password (\password {w}) or a client certificate, as pg_hba.conf demands.
CREATE DATABASE {d} OWNER {o};
REVOKE ALL ON DATABASE {d} FROM PUBLIC;
GRANT CONNECT ON DATABASE {d} TO {w};
\connect {d}
REVOKE ALL ON SCHEMA public FROM PUBLIC;
";

/// The statements of an administrator, and those of the owner.
pub(super) fn both(settings: &Settings, role: &str) -> (String, String) {
    let Settings { address, schema, .. } = settings;
    (administrator(address.database(), role, address.user()), owner(schema, address.user()))
}

/// The statements of the owner, which can be repeated.
pub(super) fn owner(schema: &SchemaName, service: &str) -> String {
    let version = VERSION.to_string();
    OWNER.replace("{s}", schema.as_str()).replace("{w}", &quoted(service)).replace("{v}", &version)
}

fn administrator(database: &str, owner: &str, service: &str) -> String {
    ADMINISTRATOR.replace("{d}", &quoted(database)).replace("{o}", &quoted(owner)).replace("{w}", &quoted(service))
}

/// An identifier as SQL writes it.
fn quoted(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(is_plain) {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_breaks_out_of_the_sql() {
        let sql = owner(&SchemaName::parse("w").unwrap(), "a\"; DROP ROLE x; --");
        assert!(sql.contains("GRANT USAGE ON SCHEMA w TO \"a\"\"; DROP ROLE x; --\";"), "{sql}");
        assert!(!sql.contains("{s}") && !sql.contains("{w}") && !sql.contains("{v}"));
    }
}
