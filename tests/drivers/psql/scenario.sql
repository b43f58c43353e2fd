-- psql: its own commands, whose queries read the catalogs; meta-commands with variables; \copy both ways; errors and recovery.
\set VERBOSITY default
\set SHOW_CONTEXT never
\pset pager off
\set ECHO none

\echo == step create
CREATE TABLE kinds (code text PRIMARY KEY, label text NOT NULL);
CREATE TABLE tenants (id bigint PRIMARY KEY, name text NOT NULL DEFAULT 'nobody', settings jsonb);
CREATE TABLE events (
    tenant_id bigint NOT NULL REFERENCES tenants ON DELETE CASCADE,
    id integer NOT NULL,
    kind text REFERENCES kinds,
    whole integer CHECK (whole < 1000000),
    total numeric(14, 2) DEFAULT 0,
    at timestamptz,
    PRIMARY KEY (tenant_id, id));
CREATE INDEX events_at ON events (at DESC) WHERE whole > 0;
CREATE TABLE notes (id integer PRIMARY KEY, body text);
COMMENT ON TABLE tenants IS 'who pays';
COMMENT ON COLUMN tenants.name IS 'as on the bill';
CREATE VIEW recent AS SELECT id, body FROM notes WHERE id > 1;
CREATE SEQUENCE strays;
CREATE FUNCTION twice(integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2';
SELECT create_reference_table('kinds');
SELECT create_distributed_table('tenants', 'id');
SELECT create_distributed_table('events', 'tenant_id');

\echo == step lists
\d
\dt+ notes
\dt *n*
\dv
\ds
\di
\df
\dn public
\dT
\l app
\dp tenants
\du postgres
\dd
\dx

\echo == step descriptions
\d tenants
\d+ events
\d events_at
\d notes
\d+ recent
\sf twice
\sv recent
\d nowhere

\echo == known a reference table shows its guard
\d kinds

\echo == known the schema ringway is listed
\dn

\echo == step write
INSERT INTO kinds VALUES ('click', 'Click'), ('view', 'View');
INSERT INTO tenants SELECT n, 'tenant ' || n, jsonb_build_object('n', n) FROM generate_series(1, 40) AS n;
INSERT INTO events (tenant_id, id, kind, whole, at) SELECT n, 1, 'click', n * n, timestamptz '2024-01-01' + n * interval '1 day' FROM generate_series(1, 40) AS n;
INSERT INTO notes VALUES (1, 'one'), (2, 'two');
SELECT :ROW_COUNT AS rows;

\echo == step read
SELECT count(*), sum(whole), avg(whole) FROM events;
SELECT id, name, settings FROM tenants WHERE id IN (3, 7, 39) ORDER BY id;
SELECT t.id % 2 AS odd, min(e.at), max(e.whole) FROM tenants t JOIN events e ON e.tenant_id = t.id GROUP BY 1 ORDER BY 1;
\x on
SELECT * FROM events WHERE tenant_id = 7;
\x off
TABLE notes;

\echo == step variables, conditions, gset, gexec, gdesc, crosstabview
SELECT id AS found, name FROM tenants WHERE id = 7 \gset got_
\echo :got_found :got_name
SELECT count(*) = 40 AS full FROM tenants \gset
\if :full
\echo all there
\else
\echo some are missing
\endif
SELECT format('INSERT INTO notes VALUES (%s, %L)', n, 'by gexec') FROM generate_series(10, 12) AS n \gexec
SELECT id, name, settings FROM tenants WHERE id = :got_found \gdesc
SELECT sum(whole) AS total, avg(total) AS mean FROM events \gdesc
SELECT id % 2 AS odd, id % 3 AS three, count(*) FROM tenants GROUP BY 1, 2 ORDER BY 1, 2 \crosstabview
SELECT name FROM tenants WHERE id = :'got_found' OR name = :'got_name';

\echo == step PREPARE and EXECUTE
PREPARE by_key (bigint) AS SELECT id, name FROM tenants WHERE id = $1;
EXECUTE by_key(7);
EXECUTE by_key(8);
DEALLOCATE by_key;

\echo == step errors
INSERT INTO tenants VALUES (7, 'again');
\echo :SQLSTATE
INSERT INTO events (tenant_id, id) VALUES (900, 1);
\echo :SQLSTATE
SELEC 1;
\echo :SQLSTATE :LAST_ERROR_SQLSTATE
SELECT nothing FROM tenants;
\echo :SQLSTATE
SELECT name FROM tenants WHERE;
\echo :SQLSTATE
SELECT 1/0;
\errverbose
SELECT 1 AS fine;
\echo :SQLSTATE

\echo == step transactions
BEGIN;
UPDATE tenants SET name = upper(name) WHERE id <= 3;
SAVEPOINT here;
DELETE FROM events;
SELECT count(*) FROM events;
ROLLBACK TO here;
SELECT count(*) FROM events;
INSERT INTO tenants VALUES (1, 'again');
SELECT 1;
ROLLBACK;
SELECT name FROM tenants WHERE id <= 3 ORDER BY id;
\set AUTOCOMMIT off
UPDATE notes SET body = 'changed' WHERE id = 1;
ROLLBACK;
\set AUTOCOMMIT on
SELECT body FROM notes WHERE id = 1;
\set ON_ERROR_ROLLBACK on
BEGIN;
INSERT INTO tenants VALUES (1, 'again');
UPDATE tenants SET name = 'kept' WHERE id = 2;
COMMIT;
SELECT name FROM tenants WHERE id = 2;
\set ON_ERROR_ROLLBACK off

\echo == step copy both ways
\copy events (tenant_id, id, whole) FROM PROGRAM 'for n in $(seq 1 40); do echo "$n,2,$n"; done' (FORMAT csv)
SELECT count(*), sum(whole) FROM events WHERE id = 2;
\copy tenants TO PROGRAM 'sort | head -n 3' (FORMAT csv)
\copy (SELECT id, body FROM notes ORDER BY id) TO STDOUT (FORMAT csv, HEADER)
\copy (SELECT tenant_id, id, whole FROM events WHERE tenant_id = 7 ORDER BY id) TO STDOUT
\copy events (tenant_id, id) FROM STDIN
1	3
2	3
3	x
\.
\echo :SQLSTATE
COPY notes FROM STDIN;
20	twenty
21	\N
\.
TABLE notes ORDER BY id;

\echo == step cursors in chunks (FETCH_COUNT)
\set FETCH_COUNT 10
SELECT id, whole FROM events WHERE tenant_id = 7 ORDER BY id;
SELECT n FROM generate_series(1, 12) AS n;
\set FETCH_COUNT 0

\echo == step a cursor over rows of all shards (FETCH_COUNT)
\set FETCH_COUNT 3
SELECT id FROM tenants ORDER BY id LIMIT 7;
SELECT count(*) FROM events;
\set FETCH_COUNT 0

\echo == step settings
SET TIME ZONE 'Asia/Tokyo';
SELECT at FROM events WHERE tenant_id = 7 AND id = 1;
SHOW timezone;
RESET timezone;
\encoding
\dconfig search_path

\echo == step drop
DROP VIEW recent;
DROP FUNCTION twice;
DROP SEQUENCE strays;
DROP TABLE notes;
DROP TABLE events;
DROP TABLE tenants;
DROP TABLE kinds;
\d
\echo == end
