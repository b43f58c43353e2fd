"""psql's tab completion: the real psql at a terminal, and what its TAB key makes of half a line."""

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import sys
import tempfile
import termios
import time

from transcript import Transcript

t = Transcript(lambda error: None)
dsn = sys.argv[1]

SECONDS_MAX = 30
# A line must fit: a dumb terminal scrolls what does not.
ROWS, COLUMNS = 200, 2000
PROMPT, CONTINUED = "ready> ", "more>> "
# Typed after a TAB: when it is shown, the completion before it is.
SENTINEL = "@@"
KILL_LINE = "\x05\x15"
READLINE = """
set bell-style none
set show-all-if-ambiguous on
set completion-query-items 0
set completion-display-width 0
set page-completions off
set print-completions-horizontally off
set enable-bracketed-paste off
set colored-stats off
set colored-completion-prefix off
"""

SCHEMA = """
CREATE TYPE tint AS ENUM ('red', 'green', 'Dark Blue', 'grey');
CREATE DOMAIN tally AS integer CHECK (VALUE >= 0);
CREATE TABLE tc_kinds (code text PRIMARY KEY, label text NOT NULL);
CREATE TABLE tc_tenants (tenant_id bigint PRIMARY KEY, tenant_name text NOT NULL, "Mixed Case" text, shade tint);
CREATE TABLE tc_events (tenant_id bigint NOT NULL REFERENCES tc_tenants, event_no integer NOT NULL, kind text REFERENCES tc_kinds,
    amount tally, CONSTRAINT amount_is_small CHECK (amount < 1000), PRIMARY KEY (tenant_id, event_no));
CREATE INDEX tc_events_by_amount ON tc_events (amount);
CREATE INDEX tc_events_by_kind ON tc_events (kind);
CREATE TABLE "TC Quoted" (id integer PRIMARY KEY);
CREATE VIEW tc_view AS SELECT code FROM tc_kinds;
CREATE SEQUENCE tc_sequence;
CREATE FUNCTION tc_twice(integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2';
CREATE FUNCTION tc_thrice(integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 3';
CREATE SCHEMA tc_store;
CREATE TABLE tc_store.shelves (shelf_id bigint PRIMARY KEY, place text);
CREATE TABLE tc_store.shapes (id integer PRIMARY KEY);
SELECT create_reference_table('tc_kinds');
SELECT create_distributed_table('tc_tenants', 'tenant_id');
SELECT create_distributed_table('tc_events', 'tenant_id');
"""
DROP = """
DROP VIEW tc_view;
DROP TABLE tc_events;
DROP TABLE tc_tenants;
DROP TABLE tc_kinds;
DROP TABLE "TC Quoted";
DROP TABLE tc_store.shelves;
DROP TABLE tc_store.shapes;
DROP SCHEMA tc_store;
DROP SEQUENCE tc_sequence;
DROP FUNCTION tc_twice(integer);
DROP FUNCTION tc_thrice(integer);
DROP DOMAIN tally;
DROP TYPE tint;
"""


def rendered(text):
    """The lines that a terminal would show; it knows no more than carriage return and backspace."""
    lines, line, column = [], [], 0
    for character in text:
        if character == "\n":
            lines.append("".join(line).rstrip())
            line, column = [], 0
        elif character == "\r":
            column = 0
        elif character == "\b":
            column = max(column - 1, 0)
        elif character >= " ":
            line[column : column + 1] = [character]
            column += 1
    return [*lines, "".join(line)]


class Terminal:
    """An interactive psql, read up to what is expected of it."""

    def __init__(self, readline):
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.text = ""
        environment = {**os.environ, "TERM": "dumb", "INPUTRC": readline, "PSQL_HISTORY": os.devnull, "PSQL_PAGER": "", "PAGER": ""}
        environment.pop("COLUMNS", None)
        settings = (f"PROMPT1={PROMPT}", f"PROMPT2={CONTINUED}", f"PROMPT3={CONTINUED}", "HISTFILE=" + os.devnull)
        command = ["psql", "-X", "-q", *(part for setting in settings for part in ("-v", setting)), "-P", "pager=off", dsn]
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
            os.execvpe(command[0], command, environment)
        self.until(lambda shown: shown[-1] == PROMPT)

    def until(self, expected):
        """What is shown, as soon as it is as expected."""
        deadline = time.monotonic() + SECONDS_MAX
        while not expected(shown := rendered(self.text)):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.master], [], [], left)[0]:
                raise TimeoutError(f"psql shows {shown[-5:]}")
            self.text += self.decoder.decode(os.read(self.master, 65536))
        self.text = shown[-1]
        return shown

    def type(self, keys):
        os.write(self.master, keys.encode())

    def command(self, text):
        """What a command prints. The terminal is idle before and after it."""
        self.type(f"{text}\n")
        shown = self.until(lambda shown: len(shown) > 1 and shown[-1] in (PROMPT, CONTINUED))
        return shown[1:-1]

    def complete(self, keys):
        """What is shown after these keys: the candidates, then the line."""
        self.type(keys + SENTINEL)
        shown = self.until(lambda shown: shown[-1].endswith(SENTINEL))
        self.type(KILL_LINE)
        self.command("")
        line = shown[-1].removesuffix(SENTINEL)
        prompt = PROMPT if line.startswith(PROMPT) else CONTINUED
        return shown[1:-1], line.removeprefix(prompt)

    def close(self):
        self.type("\\q\n")
        try:
            while os.read(self.master, 65536):
                pass
        except OSError:
            pass  # So the end of the terminal is told.
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def completed(terminal, *lines):
    for line in lines:
        candidates, result = terminal.complete(line)
        t.show(f"{line!r} [{result}]", *([" ".join(candidates)] if candidates else []))


STEPS = {
    "tables and columns": [
        "SELECT * FROM tc_t\t",
        "SELECT * FROM tc_\t",
        "select * from TC_\t",
        'SELECT * FROM "TC\t',
        "TABLE tc_e\t",
        "SELECT * FROM tc_tenants WHERE ten\t",
        "SELECT * FROM tc_tenants WHERE tenant_n\t",
        "SELECT tenant_id FROM tc_events ORDER BY event\t",
        "SELECT * FROM tc_tenants, tc_e\t",
        "SELECT * FROM tc_tenants JOIN tc_ev\t",
        "SELECT * FROM nothing_of_this_name\t",
    ],
    "writes": [
        "INSERT INTO tc_\t",
        "INSERT INTO tc_ten\t",
        "INSERT INTO tc_tenants \t",
        "INSERT INTO tc_tenants (tenant_n\t",
        "UPDATE tc_e\t",
        "UPDATE tc_events SET am\t",
        "DELETE FROM tc_k\t",
        "TRUNCATE tc_ev\t",
        "COPY tc_te\t",
        "\\copy tc_ki\t",
        "LOCK TABLE tc_\t",
        "MERGE INTO tc_\t",
    ],
    "schema-qualified names": [
        "SELECT * FROM tc_st\t",
        "SELECT * FROM tc_store.\t",
        "SELECT * FROM tc_store.she\t",
        "SELECT * FROM tc_store.shelves WHERE sh\t",
        "SELECT * FROM public.tc_ten\t",
        "SELECT * FROM pg_catalog.pg_sett\t",
        "SET search_path TO tc_\t",
        "DROP SCHEMA tc_\t",
    ],
    "psql's own commands": [
        "\\d tc_e\t",
        "\\d tc_\t",
        "\\dt tc_\t",
        "\\dt tc_store.\t",
        "\\di tc_\t",
        "\\dv tc_\t",
        "\\ds tc_\t",
        "\\df tc_\t",
        "\\dT ti\t",
        "\\dD tal\t",
        "\\dn tc_\t",
        "\\sf tc_tw\t",
        "\\sv tc_\t",
        "\\dp tc_t\t",
        "\\du post\t",
        "\\c ap\t",
        "\\encoding UTF\t",
        "\\dconfig search_\t",
    ],
    "settings": [
        "SET search_\t",
        "SHOW search_\t",
        "SHOW statement_\t",
        "SET statement_timeout \t",
        "RESET work_\t",
        "SET enable_hash\t",
        "SET bytea_output TO \t",
        "SET client_min_messages TO \t",
        "SET default_transaction_isolation TO \t",
        "ALTER SYSTEM SET log_min_du\t",
    ],
    "alterations": [
        "ALTER TABLE tc_ev\t",
        "ALTER TABLE tc_events \t",
        "ALTER TABLE tc_events DROP COLUMN am\t",
        "ALTER TABLE tc_events RENAME COLUMN ki\t",
        "ALTER TABLE tc_events DROP CONSTRAINT \t",
        "ALTER TABLE tc_events ALTER COLUMN event\t",
        "ALTER INDEX tc_\t",
        "ALTER TYPE tint RENAME VALUE \t",
        "ALTER TYPE tint RENAME VALUE 'gr\t",
        "ALTER TYPE tint ADD VALUE 'x' BEFORE 'r\t",
        "ALTER SEQUENCE tc_\t",
        "ALTER DOMAIN tally DROP CONSTRAINT \t",
    ],
    "drops": [
        "DROP INDEX tc_\t",
        "DROP INDEX tc_events_by_a\t",
        "DROP TABLE tc_\t",
        "DROP VIEW tc_\t",
        "DROP SEQUENCE tc_\t",
        "DROP FUNCTION tc_\t",
        "DROP FUNCTION tc_twice(\t",
        "DROP TYPE tin\t",
        "DROP DOMAIN tal\t",
    ],
    "functions and types": [
        "SELECT tc_tw\t",
        "ALTER FUNCTION tc_thr\t",
        "EXPLAIN SELECT * FROM tc_k\t",
        "COMMENT ON TABLE tc_k\t",
        "COMMENT ON COLUMN tc_kinds.\t",
        "CREATE INDEX ON tc_events (am\t",
        "REFRESH MATERIALIZED VIEW tc_\t",
        "VACUUM tc_ki\t",
        "ANALYZE tc_events (ki\t",
    ],
    "roles and databases": [
        "GRANT SELECT ON tc_tenants TO ap\t",
        "GRANT SELECT ON tc_t\t",
        "SET ROLE post\t",
        "ALTER ROLE ap\t",
        "REVOKE ALL ON tc_kinds FROM po\t",
        "ALTER TABLE tc_kinds OWNER TO post\t",
        "DROP DATABASE ap\t",
    ],
    "keywords": ["sel\t", "CREATE TA\t", "BEGIN ISO\t", "BEGIN ISOLATION LEVEL \t", "CREATE UNIQUE INDEX CONC\t"],
}

with tempfile.NamedTemporaryFile("w", prefix="inputrc-") as file:
    file.write(READLINE)
    file.flush()
    psql = Terminal(file.name)

with t.step("create"):
    for statement in SCHEMA.split(";\n"):
        t.show(psql.command(" ".join(statement.split()) + ";" if statement.strip() else ""))

for name, lines in STEPS.items():
    with t.step(name):
        completed(psql, *lines)

with t.step("a statement of several lines"):
    psql.command("SELECT * FROM tc_tenants")
    completed(psql, "JOIN tc_ev\t", "WHERE tenant_n\t")
    t.show(psql.command("\\r"))

with t.step("in a transaction, and in one that has failed"):
    t.show(psql.command("BEGIN;"))
    t.show(psql.command("CREATE TABLE tc_young (young_id integer PRIMARY KEY);"))
    completed(psql, "SELECT * FROM tc_y\t", "SELECT * FROM tc_young WHERE you\t")
    t.show(psql.command("SELECT 1/0;"))
    completed(psql, "SELECT * FROM tc_y\t", "SELECT * FROM tc_young WHERE you\t")
    t.show(psql.command("ROLLBACK;"))
    completed(psql, "SELECT * FROM tc_y\t")

with t.step("what was completed runs"):
    t.show(psql.command("INSERT INTO tc_ten\t(tenant_id, tenant_name) VALUES (7, 'seven');"))
    t.show(psql.command("SELECT tenant_id FROM tc_ten\tWHERE tenant_n\t= 'seven';"))

with t.known("the schema ringway is a candidate"):
    completed(psql, "\\dn r\t")

with t.step("drop"):
    for statement in DROP.split(";\n"):
        t.show(psql.command(f"{statement.strip()};" if statement.strip() else ""))

with t.step("end of the terminal"):
    t.show(psql.close())
t.end()
