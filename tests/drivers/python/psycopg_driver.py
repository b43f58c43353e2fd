"""psycopg 3."""

import datetime
import decimal
import logging
import sys
import threading
import uuid

import psycopg
from psycopg.rows import dict_row
from psycopg.types.composite import CompositeInfo, register_composite
from psycopg.types.enum import EnumInfo, register_enum
from psycopg.types.json import Jsonb

from transcript import Transcript, statements, type_name

NOTIFY_SECONDS_MAX = 20
CANCEL_SECONDS_MAX = 20
UTC = datetime.timezone.utc


def diagnose(error):
    if not isinstance(error, psycopg.Error) or error.sqlstate is None:
        return None
    diag = error.diag
    named = [part for part in (diag.message_detail, diag.constraint_name, diag.statement_position) if part]
    if error.sqlstate == "0A000":
        named = [part for part in (diag.message_detail,) if part]
    return error.sqlstate, diag.message_primary, " / ".join(named), diag.message_hint


# Whether an error of a pipeline is raised inside it, or at its end, depends on when it arrives: of the one, psycopg warns.
logging.getLogger("psycopg").setLevel(logging.ERROR)
t = Transcript(diagnose)
dsn = sys.argv[1]
conn = psycopg.connect(dsn, autocommit=True)


def columns(cursor):
    t.show(", ".join(f"{column.name} {type_name(column.type_code)}" for column in cursor.description))


def select(query, parameters=None, on=None, **options):
    cursor = (on or conn).cursor(binary=options.pop("binary", False))
    cursor.execute(query, parameters, **options)
    columns(cursor)
    t.rows(cursor.fetchall())
    t.show(cursor.statusmessage)


EVENT = {
    "tenant_id": 7,
    "id": 1,
    "kind": "click",
    "small": -32768,
    "whole": 65536,
    "ratio": 0.1,
    "total": decimal.Decimal("12345678901.50"),
    "flag": True,
    "raw": b"\x00\xff\\'",
    "uid": uuid.UUID("9b2d5a52-6f0a-4b0e-9a55-0f6f6e0f7a11"),
    "tags": ["a", "b c", 'quote"d', "\\", None],
    "grid": [[1, 2], [3, 4]],
    "payload": Jsonb({"a": [1, 2.5, None], "ü": "€"}),
    "day": datetime.date(2024, 2, 29),
    "at": datetime.datetime(2024, 2, 29, 12, 34, 56, 789012, UTC),
    "wall": datetime.datetime(1999, 12, 31, 23, 59, 59),
    "took": datetime.timedelta(days=3, seconds=7, microseconds=9),
    "feeling": "happy",
}
INSERT = f"INSERT INTO events ({', '.join(EVENT)}) VALUES ({', '.join(f'%({name})s' for name in EVENT)})"

with t.step("what the server says of itself"):
    t.show(conn.info.server_version // 10000 >= 14, conn.info.encoding, conn.info.dbname, conn.info.user)
    for name in ("standard_conforming_strings", "integer_datetimes", "DateStyle", "is_superuser"):
        t.show(name, conn.info.parameter_status(name))
    t.show(conn.info.transaction_status.name, conn.info.pipeline_status.name)

with t.step("create"):
    for statement in statements("schema.sql"):
        cursor = conn.execute(statement)
        t.show(cursor.statusmessage)
        if cursor.description:
            columns(cursor)
            t.rows(cursor.fetchall())

with t.step("executemany"):
    with conn.cursor() as cursor:
        cursor.executemany("INSERT INTO kinds VALUES (%s, %s)", [("click", "Click"), ("view", "View"), ("buy", "Buy")])
        t.show(cursor.rowcount)
        cursor.executemany("INSERT INTO tenants VALUES (%s, %s, %s)", [(i, f"tenant {i}", Jsonb({"n": i})) for i in range(1, 41)])
        t.show(cursor.rowcount)

with t.step("executemany with RETURNING"):
    with conn.cursor() as cursor:
        cursor.executemany("INSERT INTO events (tenant_id, id, whole) VALUES (%s, %s, %s) RETURNING tenant_id, whole",
                           [(i, 100, i * i) for i in range(1, 21)], returning=True)
        while True:
            t.rows(cursor.fetchall())
            if not cursor.nextset():
                break

with t.step("all types, one row"):
    conn.execute(INSERT, EVENT)
    conn.execute("INSERT INTO events (tenant_id, id) VALUES (8, 1)")

for binary in (False, True):
    with t.step(f"all types back, {'binary' if binary else 'text'}"):
        select("SELECT * FROM events WHERE tenant_id = %s ORDER BY id", (7,), binary=binary)
        select("SELECT * FROM events WHERE id = 1 ORDER BY tenant_id", binary=binary)

# The driver looks types up in the catalogs, and declares parameters and reads columns by their OIDs.
with t.step("an enum as a Python enum"):
    info = EnumInfo.fetch(conn, "mood")
    register_enum(info, conn)
    conn.execute("UPDATE events SET feeling = %s WHERE tenant_id = 8", (info.enum.sad,))
    t.show(conn.execute("SELECT feeling FROM events WHERE tenant_id = 8 AND id = 1").fetchone()[0] is info.enum.sad)
    t.show(conn.execute("SELECT array_agg(feeling ORDER BY id) FROM events WHERE tenant_id = 7").fetchone()[0])

with t.step("types of the application's own"):
    for statement in statements("own_types.sql"):
        conn.execute(statement)
    pair = CompositeInfo.fetch(conn, "pair")
    register_composite(pair, conn)
    make, feel = pair.python_type, info.enum
    rows = [(i, feel.ok, [feel.sad, None], make(i, feel.happy, [feel.ok]), [make(i, None, []), None]) for i in range(1, 21)]
    for row in rows[:10]:
        conn.execute("INSERT INTO owned VALUES (%s, %s, %s, %s, %s, '{happy}')", row)
    for row in rows[10:]:
        conn.execute("INSERT INTO owned VALUES (%b, %b, %b, %b, %b, '{happy}')", row)
    for binary in (False, True):
        cursor = conn.cursor(binary=binary)
        for i in range(1, 21):
            cursor.execute("SELECT feeling, feelings, p, ps, d, ROW(p, feelings) FROM owned WHERE id = %s", (i,), prepare=True)
            t.rows(cursor.fetchall())
        cursor.execute("SELECT id, ps, d FROM owned ORDER BY id")
        t.rows(cursor.fetchall())
    for i in range(1, 21):
        found = conn.execute("SELECT id FROM owned WHERE id = %s AND p = %b AND feelings = %b", (i, rows[i - 1][3], rows[i - 1][2]))
        t.rows(found.fetchall())
    t.show(conn.execute("UPDATE owned SET feelings = %b WHERE feelings = %b", ([feel.happy], [feel.sad, None])).rowcount)
    copied = "COPY owned (id, feeling, feelings, p) FROM STDIN"
    with conn.cursor().copy(copied) as copy:
        for i in range(21, 31):
            copy.write_row((i, feel.sad, [feel.ok], make(i, feel.ok, None)))
    t.show(conn.execute("SELECT count(*), count(DISTINCT feeling) FROM owned WHERE feelings = %s AND id = 22", ([feel.ok],)).fetchone())
    for statement in statements("drop_own_types.sql"):
        conn.execute(statement)

with t.step("an identity"):
    ids = [conn.execute("INSERT INTO events (tenant_id, whole) VALUES (%s, 1) RETURNING id", (i,)).fetchone()[0]
           for i in range(1, 11)]
    t.show(len(set(ids)), all(isinstance(i, int) for i in ids))
    t.show(conn.execute("DELETE FROM events WHERE whole = 1 AND id <> 100").rowcount)

with t.step("reads over all rows"):
    select("SELECT count(*), sum(whole), avg(whole), min(whole), max(whole) FROM events")
    select("SELECT t.id %% 3 AS class, count(*) AS n, sum(e.whole) FROM tenants t JOIN events e ON e.tenant_id = t.id "
           "WHERE e.whole > %s GROUP BY 1 HAVING count(*) > 1 ORDER BY 1 DESC", (10,))
    select("SELECT id, name FROM tenants ORDER BY id DESC LIMIT %s OFFSET %s", (5, 3))
    select("SELECT id FROM tenants WHERE id = ANY(%s) ORDER BY id", ([3, 1, 2, 99],))
    select("SELECT e.id, k.label FROM events e LEFT JOIN kinds k ON k.code = e.kind WHERE e.tenant_id IN (7, 8, 9) ORDER BY e.tenant_id, e.id")
    select("SELECT settings->'n' AS n FROM tenants WHERE settings @> %s", (Jsonb({"n": 12}),))

with t.step("dictionaries"):
    with conn.cursor(row_factory=dict_row) as cursor:
        t.show(cursor.execute("SELECT id, name FROM tenants WHERE id = 5").fetchone())

with t.step("stream"):
    with conn.cursor() as cursor:
        t.rows(cursor.stream("SELECT id, name FROM tenants ORDER BY id LIMIT 7"))
    t.show(conn.info.transaction_status.name)

with t.step("a cursor on the server"):
    with conn.transaction(), conn.cursor("some") as cursor:
        cursor.itersize = 2
        cursor.execute("SELECT id, whole FROM events WHERE tenant_id = 7 ORDER BY id")
        t.rows(cursor.fetchmany(1))
        t.rows(cursor)

with t.step("a scrolling cursor WITH HOLD"):
    with conn.cursor("held", scrollable=True, withhold=True) as cursor:
        cursor.execute("SELECT * FROM generate_series(1, 20) AS n")
        cursor.scroll(10)
        t.rows(cursor.fetchmany(2))
        cursor.scroll(0, mode="absolute")
        t.rows(cursor.fetchmany(2))

with t.step("a cursor over several shards"):
    with conn.transaction(), conn.cursor("wide") as cursor:
        cursor.itersize = 2
        cursor.execute("SELECT id, name FROM tenants WHERE id > %s ORDER BY id", [1])
        t.show([column.name for column in cursor.description])
        t.rows(cursor.fetchmany(3))
        conn.execute("UPDATE tenants SET name = 'written later' WHERE id = 5")
        t.rows(cursor)
    for binary in (False, True):
        with conn.transaction(), conn.cursor("Sideways", scrollable=True) as cursor:
            cursor.execute("SELECT id, name FROM tenants ORDER BY id", binary=binary)
            t.rows(cursor.fetchmany(2))
            cursor.scroll(-1)
            t.show(cursor.fetchone())
            cursor.scroll(4, mode="absolute")
            t.rows(cursor.fetchmany(2))
            cursor.scroll(0, mode="absolute")
            t.rows(cursor.fetchall())
    with conn.cursor("kept", scrollable=True, withhold=True) as cursor:
        cursor.execute("SELECT id FROM tenants ORDER BY id DESC", binary=True)
        t.rows(cursor.fetchmany(2))
        cursor.scroll(1, mode="absolute")
        t.rows(cursor.fetchmany(2))
    with conn.transaction(), conn.cursor("forwards", scrollable=False) as cursor:
        cursor.execute("SELECT count(*), sum(whole) FROM events")
        t.rows(cursor)
        with t.fails():
            cursor.scroll(-1)

with t.step("transactions"):
    with conn.transaction():
        conn.execute("UPDATE tenants SET name = upper(name) WHERE id <= 4")
        with conn.transaction() as inner:
            conn.execute("DELETE FROM events")
            t.show(conn.execute("SELECT count(*) FROM events").fetchone())
            raise psycopg.Rollback(inner)
        t.show(conn.info.transaction_status.name)
    t.show(conn.info.transaction_status.name)
    select("SELECT name FROM tenants WHERE id < 7 ORDER BY id")
    t.show(conn.execute("SELECT count(*) FROM events").fetchone())

with t.step("a transaction that the application gives up"):
    try:
        with conn.transaction():
            conn.execute("UPDATE events SET whole = 0")
            raise KeyError("changed my mind")
    except KeyError as error:
        t.show(error.args)
    t.show(conn.execute("SELECT sum(whole) FROM events").fetchone())

with t.step("errors and recovery"):
    for query, parameters in [
        ("INSERT INTO tenants VALUES (%s, 'again', NULL)", (7,)),
        ("INSERT INTO tenants VALUES (1000, 'x', NULL), (1001, 'y', NULL), (5, 'z', NULL)", None),
        ("INSERT INTO tenants (id) VALUES (%s)", (900,)),
        ("INSERT INTO events (tenant_id, id) VALUES (%s, 1)", (900,)),
        ("INSERT INTO events (tenant_id, id, kind) VALUES (1, 900, 'no such kind')", None),
        ("INSERT INTO events (tenant_id, id, whole) VALUES (1, 900, 2000000)", None),
        ("DELETE FROM tenants WHERE id = 7", None),
        ("SELEC 1", None),
        ("SELECT 1 FROM tenants WHERE", None),
        ("SELECT nothing FROM tenants WHERE id = 1", None),
        ("SELECT nothing FROM tenants", None),
        ("SELECT * FROM nowhere", None),
        ("SELECT no_function(1)", None),
        ("SELECT 1 / (id - 7) FROM tenants WHERE id = %s", (7,)),
        ("SELECT id FROM tenants WHERE 1 / (id - 7) > 0", None),
        ("SELECT 'x'::int", None),
        ("UPDATE events SET total = 1e20", None),
        ("SELECT %s::int", ("many",)),
        ("SELECT ('[' || %s)::jsonb", ("x",)),
    ]:
        with t.fails():
            conn.execute(query, parameters)
        t.show(conn.info.transaction_status.name, conn.execute("SELECT count(*) FROM tenants").fetchone())

with t.step("an error in a transaction"):
    with t.fails():
        with conn.transaction():
            conn.execute("UPDATE tenants SET name = 'lost' WHERE id = 1")
            with t.fails():
                conn.execute("INSERT INTO tenants VALUES (1, 'twice', NULL)")
            t.show(conn.info.transaction_status.name)
            conn.execute("SELECT 1")
    with conn.transaction():
        conn.execute("UPDATE tenants SET name = 'kept' WHERE id = 2")
        with t.fails():
            with conn.transaction():
                conn.execute("SELECT * FROM nowhere")
        conn.execute("UPDATE tenants SET name = 'kept too' WHERE id = 3")
    select("SELECT id, name FROM tenants WHERE id IN (1, 2, 3) ORDER BY id")

with t.step("prepared statements"):
    for i in (1, 7, 13, 25, 40):
        t.rows(conn.execute("SELECT id, settings->>'n' FROM tenants WHERE id = %s", (i,), prepare=True))
    for i in range(8):
        t.rows(conn.execute("SELECT count(*) FROM events WHERE whole > %s", (i * 40,)))
    conn.execute("ALTER TABLE tenants ADD COLUMN extra int DEFAULT 5")
    for i in (1, 7):
        t.rows(conn.execute("SELECT id, extra FROM tenants WHERE id = %s", (i,), prepare=True))
    conn.execute("ALTER TABLE tenants DROP COLUMN extra")

with t.step("a prepared statement whose result changes"):
    query = "SELECT * FROM notes WHERE id = %s"
    conn.execute("INSERT INTO notes VALUES (1, 'one')")
    t.rows(conn.execute(query, (1,), prepare=True))
    conn.execute("ALTER TABLE notes ADD COLUMN more text DEFAULT 'm'")
    with t.fails():
        conn.execute(query, (1,), prepare=True)
    conn.execute("DEALLOCATE ALL")
    t.rows(conn.execute("SELECT * FROM notes WHERE id = %s AND true", (1,), prepare=True))
    conn.execute("ALTER TABLE notes DROP COLUMN more")

with t.step("PREPARE and EXECUTE in SQL"):
    conn.execute("PREPARE named (bigint, text) AS SELECT id, $2 || name FROM tenants WHERE id = $1")
    for i in (2, 9):
        t.rows(conn.execute(f"EXECUTE named ({i}, 'the ')"))
    conn.execute("DEALLOCATE named")
    with t.fails():
        conn.execute("EXECUTE named (1, '')")

with t.step("a pipeline"):
    with conn.pipeline() as pipeline:
        first = conn.execute("SELECT name FROM tenants WHERE id = %s", (10,))
        second = conn.execute("SELECT count(*) FROM tenants")
        third = conn.execute("INSERT INTO notes VALUES (10, 'piped') RETURNING body")
        pipeline.sync()
        fourth = conn.execute("SELECT body FROM notes WHERE id = 10")
        for cursor in (first, second, third, fourth):
            t.rows(cursor.fetchall())
            t.show(cursor.statusmessage)

with t.step("a pipeline with an error"):
    with t.fails():
        with conn.pipeline() as pipeline:
            good = conn.execute("SELECT 1")
            bad = conn.execute("INSERT INTO tenants VALUES (7, 'again', NULL)")
            skipped = conn.execute("INSERT INTO notes VALUES (11, 'never')")
            pipeline.sync()
    t.show(conn.info.transaction_status.name)
    select("SELECT * FROM notes ORDER BY id")

with t.step("a pipeline in a transaction over both shards"):
    with conn.pipeline(), conn.transaction():
        for i in range(1, 11):
            conn.execute("UPDATE tenants SET name = %s WHERE id = %s", (f"piped {i}", i))
    select("SELECT id, name FROM tenants WHERE id <= 11 ORDER BY id")

with t.step("COPY FROM, text"):
    with conn.cursor() as cursor:
        with cursor.copy("COPY events (tenant_id, id, whole, tags, raw, payload) FROM STDIN") as copy:
            for i in range(1, 41):
                copy.write_row((i, 500, i, [f"t{i}", None], bytes([i]), Jsonb({"i": i})))
        t.show(cursor.rowcount, cursor.statusmessage)
    select("SELECT tenant_id, whole, tags, raw, payload FROM events WHERE id = 500 AND whole % 9 = 0 ORDER BY 1")

with t.step("COPY FROM, binary"):
    with conn.cursor() as cursor:
        with cursor.copy("COPY events (tenant_id, id, whole, total, at) FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int8", "int8", "int4", "numeric", "timestamptz"])
            for i in range(1, 41):
                copy.write_row((i, 501, None, decimal.Decimal(i) / 4, datetime.datetime(2024, 1, 1, i % 24, tzinfo=UTC)))
        t.show(cursor.rowcount, cursor.statusmessage)
    select("SELECT tenant_id, whole, total, at FROM events WHERE id = 501 AND tenant_id % 9 = 0 ORDER BY 1")

with t.step("COPY TO"):
    with conn.cursor() as cursor:
        with cursor.copy("COPY (SELECT tenant_id, id, tags FROM events WHERE tenant_id = 7 ORDER BY id LIMIT 4) TO STDOUT") as copy:
            copy.set_types(["int8", "int8", "text[]"])
            t.rows(copy.rows())
        with cursor.copy("COPY tenants TO STDOUT (FORMAT csv)") as copy:
            lines = b"".join(copy).splitlines()
        t.show(len(lines), sorted(lines)[:3])
        with cursor.copy("COPY (SELECT id, total FROM events WHERE tenant_id = 7 ORDER BY id) TO STDOUT (FORMAT binary)") as copy:
            copy.set_types(["int8", "numeric"])
            t.rows(copy.rows())

with t.step("COPY that fails"):
    with t.fails():
        with conn.cursor() as cursor, cursor.copy("COPY events (tenant_id, id) FROM STDIN") as copy:
            copy.write_row((1, 600))
            copy.write_row((2, 100))
    with t.fails():
        with conn.cursor() as cursor, cursor.copy("COPY events (tenant_id, id, whole) FROM STDIN") as copy:
            copy.write("1\t601\tnot a number\n")
    try:
        with conn.cursor() as cursor, cursor.copy("COPY events (tenant_id, id) FROM STDIN") as copy:
            copy.write_row((1, 602))
            raise KeyError("no more")
    except KeyError as error:
        t.show(error.args, conn.info.transaction_status.name)
    t.show(conn.execute("SELECT count(*) FROM events WHERE id BETWEEN 600 AND 699").fetchone())

with t.step("several statements in one query"):
    cursor = conn.execute("SELECT count(*) FROM tenants; INSERT INTO notes VALUES (20, 'multi'); SELECT body FROM notes WHERE id = 20")
    while True:
        t.show(cursor.statusmessage, cursor.fetchall() if cursor.description else "-")
        if not cursor.nextset():
            break
    with t.fails():
        conn.execute("INSERT INTO notes VALUES (21, 'undone'); SELECT 1/0")
    t.show(conn.execute("SELECT count(*) FROM notes WHERE id = 21").fetchone())

with t.step("notices"):
    seen = []
    conn.add_notice_handler(lambda diag: seen.append((diag.severity, diag.sqlstate, diag.message_primary)))
    conn.execute("DROP TABLE IF EXISTS never_was")
    conn.execute("DO $$ BEGIN RAISE NOTICE 'n %', 1; RAISE WARNING 'w'; END $$")
    conn.execute("COMMIT")
    for notice in seen:
        t.show(notice)

with t.step("LISTEN and NOTIFY"):
    with psycopg.connect(dsn, autocommit=True) as other:
        conn.execute("LISTEN news")
        with other.transaction():
            other.execute("NOTIFY news, 'first'")
            other.execute("SELECT pg_notify('news', %s)", ("second ü",))
        for notify in conn.notifies(timeout=NOTIFY_SECONDS_MAX, stop_after=2):
            t.show(notify.channel, notify.payload)
    heard = []
    conn.add_notify_handler(lambda notify: heard.append((notify.channel, notify.payload)))
    with conn.transaction():
        conn.execute("LISTEN \"Other news\"")
        conn.execute("NOTIFY news, 'own'")
        t.show(heard)
    t.show(heard)
    select("SELECT pg_listening_channels()")
    conn.execute("UNLISTEN *")
    select("SELECT * FROM pg_listening_channels()")

with t.step("isolation, read only, deferrable"):
    with psycopg.connect(dsn) as other:
        other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        other.read_only = True
        select("SHOW transaction_isolation", on=other)
        select("SHOW transaction_read_only", on=other)
        with t.fails():
            other.execute("UPDATE tenants SET name = 'no' WHERE id = 1")
        other.rollback()
        other.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        other.deferrable = True
        select("SELECT count(*) FROM events WHERE tenant_id = 7", on=other)
        select("SHOW transaction_isolation", on=other)
        other.commit()

with t.step("without autocommit"):
    with psycopg.connect(dsn) as other:
        other.execute("INSERT INTO notes VALUES (30, 'mine')")
        t.show(other.info.transaction_status.name, conn.execute("SELECT count(*) FROM notes WHERE id = 30").fetchone())
    t.show(conn.execute("SELECT count(*) FROM notes WHERE id = 30").fetchone())

with t.step("settings of the connection"):
    with psycopg.connect(dsn, autocommit=True, options="-c timezone=Asia/Tokyo -c statement_timeout=12345",
                         application_name="drivers") as other:
        for name in ("TimeZone", "statement_timeout", "application_name"):
            select(f"SHOW {name}", on=other)
        t.rows(other.execute("SELECT at::text FROM events WHERE tenant_id = 7 AND id = 1"))
        other.execute("SET TIME ZONE 'UTC'")
        t.show(other.info.timezone)

with t.refused("another client encoding"):
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("SET client_encoding TO latin1")

with t.step("COPY of a sorted query over all shards"):
    with conn.cursor() as cursor, cursor.copy("COPY (SELECT id FROM tenants ORDER BY id) TO STDOUT") as copy:
        t.show(b"".join(bytes(block) for block in copy))

with t.step("statement_timeout"):
    conn.execute("SET statement_timeout = 150")
    for query in ("SELECT pg_sleep(30)", "SELECT pg_sleep(30) FROM tenants WHERE id = 1"):
        with t.fails():
            conn.execute(query)
    conn.execute("RESET statement_timeout")
    t.show(conn.execute("SELECT 1").fetchone())

with t.step("cancel"):
    for query in ("SELECT pg_sleep(60)", "SELECT pg_sleep(60) FROM tenants WHERE id = 7"):
        with psycopg.connect(dsn, autocommit=True) as other:
            ended = threading.Event()

            # A request before the statement's start cancels nothing: ask until it ends.
            def cancel(other=other, ended=ended):
                for _ in range(CANCEL_SECONDS_MAX * 20):
                    other.cancel_safe()
                    if ended.wait(0.05):
                        return

            helper = threading.Thread(target=cancel)
            helper.start()
            with t.fails():
                try:
                    other.execute(query)
                finally:
                    ended.set()
            helper.join()

with t.step("upsert"):
    for i in (7, 2000, 2001):
        select("INSERT INTO tenants VALUES (%s, 'new', NULL) ON CONFLICT (id) DO UPDATE SET name = tenants.name || '!' RETURNING id, name", (i,))
    t.show(conn.execute("DELETE FROM tenants WHERE id >= 1000").rowcount)

with t.step("RETURNING over both shards"):
    cursor = conn.execute("UPDATE events SET flag = true WHERE id = 500 AND whole <= 6 RETURNING tenant_id, flag")
    t.show(cursor.statusmessage, sorted(cursor.fetchall()))

with t.refused("two-phase commit of the application's own"):
    other = psycopg.connect(dsn)
    try:
        other.tpc_begin(other.xid(1, "gtrid", "bqual"))
        other.execute("INSERT INTO notes VALUES (40, 'two phases')")
        other.tpc_prepare()
        other.tpc_rollback()
    finally:
        other.close()

with t.step("a window over rows of all shards"):
    t.rows(conn.execute("SELECT id, rank() OVER (ORDER BY name) FROM tenants ORDER BY id"))

with t.step("drop"):
    for statement in statements("drop.sql"):
        t.show(conn.execute(statement).statusmessage)
    with t.fails():
        conn.execute("SELECT 1 FROM events")

conn.close()
t.end()
