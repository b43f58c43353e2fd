"""pg_dump through the gateway; its schema restored on one PostgreSQL; a dump of one PostgreSQL restored through the gateway."""

import os
import re
import subprocess
import sys

from transcript import Transcript

t = Transcript(lambda error: None)
dsn = sys.argv[1]
# Of one PostgreSQL: databases are made there.
single = sys.argv[2]

SCHEMA = """
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE DOMAIN price AS numeric(12, 2) CHECK (VALUE >= 0);
CREATE TABLE kinds (code text PRIMARY KEY, label text NOT NULL);
CREATE TABLE tenants (id bigint PRIMARY KEY, name text NOT NULL DEFAULT 'nobody', feeling mood, settings jsonb);
CREATE TABLE events (tenant_id bigint NOT NULL REFERENCES tenants ON DELETE CASCADE, id integer NOT NULL, kind text REFERENCES kinds,
    cost price, at timestamptz DEFAULT now(), PRIMARY KEY (tenant_id, id), CHECK (id > 0));
CREATE INDEX events_at ON events (at DESC) WHERE cost > 0;
CREATE TABLE notes (id serial PRIMARY KEY, body text);
CREATE VIEW recent AS SELECT id, body FROM notes WHERE id > 1;
CREATE FUNCTION twice(integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2';
COMMENT ON TABLE tenants IS 'who pays';
GRANT SELECT ON tenants TO app;
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
CREATE POLICY all_of_them ON notes USING (true);
"""
DISTRIBUTION = [
    "SELECT create_reference_table('kinds')",
    "SELECT create_distributed_table('tenants', 'id')",
    "SELECT create_distributed_table('events', 'tenant_id')",
]
ROWS = """
INSERT INTO kinds VALUES ('click', 'Click');
INSERT INTO tenants SELECT n, 'tenant ' || n, 'happy', jsonb_build_object('n', n) FROM generate_series(1, 20) AS n;
INSERT INTO events SELECT n, 1, 'click', n, '2024-01-01' FROM generate_series(1, 20) AS n;
INSERT INTO notes (body) VALUES ('one'), ('two');
"""
DROP = """
DROP VIEW recent;
DROP TABLE notes;
DROP TABLE events;
DROP TABLE tenants;
DROP TABLE kinds;
DROP FUNCTION twice(integer);
DROP DOMAIN price;
DROP TYPE mood;
"""
SECTIONS = ("pre-data", "data", "post-data")
SUMS = """
SELECT count(*), sum(id), min(name), max(feeling) FROM tenants;
SELECT count(*), sum(cost::numeric), max(at) FROM events;
SELECT * FROM kinds;
SELECT * FROM notes ORDER BY id;
SELECT * FROM recent;
SELECT twice(21);
"""


def run(*command, text=None):
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        t.show("exit status", done.returncode)
    for line in done.stderr.splitlines()[:12]:
        t.show(line.replace(dsn, "DSN"))
    return done.stdout


def psql(text, target=dsn):
    return run("psql", "--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "-v", "ON_ERROR_STOP=1", target, text=text)


def normalised(dump):
    """Without what differs between any two dumps, and the guards of a reference table."""
    lines = []
    for line in dump.splitlines():
        if line and not line.startswith(("--", "\\restrict", "\\unrestrict")) and "ringway" not in line:
            lines.append(line)
    return lines


def unguarded(dump):
    return "\n".join(line for line in dump.splitlines() if "ringway" not in line)


def dump(*options, target=dsn):
    # Ringway's own schema belongs to the shard, not to the application.
    return run("pg_dump", "--exclude-schema", "ringway", *options, target)


with t.step("create"):
    psql(SCHEMA)
    for statement in DISTRIBUTION:
        psql(statement)
    t.show(psql(ROWS + SUMS).splitlines())

with t.step("pg_dump --schema-only"):
    schema = dump("--schema-only")
    for line in normalised(schema):
        t.show(line)

with t.step("the schema restored on one PostgreSQL"):
    # The two sides run at the same time.
    name = f"restored_{os.getpid()}"
    admin = re.sub(r"/[^/]*$", "/postgres", single)
    psql(f"CREATE DATABASE {name}", admin)
    fresh = re.sub(r"/[^/]*$", f"/{name}", single)
    psql(unguarded(schema), fresh)
    again = dump("--schema-only", target=fresh)
    t.show(len(again.splitlines()) > 100, normalised(again) == normalised(schema))
    t.show(psql("SELECT twice(4)", fresh).splitlines())
    psql(f"DROP DATABASE {name}", admin)

with t.step("pg_dump of a table"):
    for line in normalised(dump("--schema-only", "--table", "events")):
        t.show(line)

with t.step("pg_dump in sections"):
    sections = {section: dump("--no-owner", f"--section={section}") for section in SECTIONS}
    for section, text in sections.items():
        t.show(section, len(normalised(text)))

with t.step("pg_dump with rows"):
    whole = dump("--no-owner")
    for line in sorted(normalised(whole)):
        t.show(line)

with t.step("drop"):
    psql(DROP)

with t.step("a dump restored: tables, then where they are, then rows, then keys"):
    for section in SECTIONS:
        psql(unguarded(sections[section]))
        for statement in DISTRIBUTION if section == "pre-data" else []:
            psql(statement)
    t.show(psql(SUMS).splitlines())
    t.show(psql("INSERT INTO notes (body) VALUES ('three') RETURNING id").splitlines())

with t.step("drop again"):
    psql(DROP)
t.end()
