"""asyncpg: the extended protocol and binary values only, statements prepared by itself."""

import asyncio
import datetime
import decimal
import json
import sys
import uuid

import asyncpg

from transcript import Transcript, statements

SECONDS_MAX = 20
UTC = datetime.timezone.utc


def diagnose(error):
    if not isinstance(error, asyncpg.PostgresError):
        return None
    named = [part for part in (error.detail, getattr(error, "constraint_name", None), error.position) if part]
    if error.sqlstate == "0A000":
        named = [part for part in (error.detail,) if part]
    return error.sqlstate, str(error.args[0]), " / ".join(named), getattr(error, "hint", None)


t = Transcript(diagnose)


def described(statement):
    t.show("parameters", ", ".join(p.name for p in statement.get_parameters()))
    t.show("columns", ", ".join(f"{a.name} {a.type.schema}.{a.type.name}" for a in statement.get_attributes()))


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
    "payload": json.dumps({"a": [1, 2.5, None], "ü": "€"}),
    "day": datetime.date(2024, 2, 29),
    "at": datetime.datetime(2024, 2, 29, 12, 34, 56, 789012, UTC),
    "wall": datetime.datetime(1999, 12, 31, 23, 59, 59),
    "took": datetime.timedelta(days=3, seconds=7, microseconds=9),
    "feeling": "happy",
}
INSERT = f"INSERT INTO events ({', '.join(EVENT)}) VALUES ({', '.join(f'${n}' for n in range(1, len(EVENT) + 1))})"


async def main(dsn):
    conn = await asyncpg.connect(dsn)

    with t.step("what the server says of itself"):
        t.show(conn.get_server_version().major >= 14, conn.get_settings().standard_conforming_strings)

    with t.step("create"):
        for statement in statements("schema.sql"):
            t.show(await conn.execute(statement))

    with t.step("executemany"):
        await conn.executemany("INSERT INTO kinds VALUES ($1, $2)", [("click", "Click"), ("view", "View"), ("buy", "Buy")])
        await conn.executemany("INSERT INTO tenants VALUES ($1, $2, $3)",
                               [(i, f"tenant {i}", json.dumps({"n": i})) for i in range(1, 41)])
        await conn.executemany("INSERT INTO events (tenant_id, id, whole) VALUES ($1, $2, $3)",
                               [(i, 100, i * i) for i in range(1, 21)])
        t.show(await conn.fetchval("SELECT count(*) FROM tenants"), await conn.fetchval("SELECT sum(whole) FROM events"))

    with t.step("executemany that fails does nothing"):
        with t.fails():
            await conn.executemany("INSERT INTO tenants VALUES ($1, 'x', NULL)", [(1000,), (1001,), (7,), (1002,)])
        t.show(await conn.fetchval("SELECT count(*) FROM tenants"))

    with t.step("fetchmany of INSERT ... RETURNING"):
        rows = await conn.fetchmany("INSERT INTO tenants VALUES ($1, $2) RETURNING id, name", [(50, "fifty"), (51, "fifty-one")])
        t.rows(rows)
        t.show(await conn.execute("DELETE FROM tenants WHERE id IN (50, 51)"))

    with t.step("all types"):
        t.show(await conn.execute(INSERT, *EVENT.values()))
        t.show(await conn.execute("INSERT INTO events (tenant_id, id) VALUES (8, 1)"))
        t.rows(await conn.fetch("SELECT * FROM events WHERE tenant_id = $1 ORDER BY id", 7))
        t.rows(await conn.fetch("SELECT * FROM events WHERE id = 1 ORDER BY tenant_id"))

    with t.step("more types"):
        for query, value in [
            ("SELECT $1::inet", "10.1.2.3/24"),
            ("SELECT $1::int4range", asyncpg.Range(1, 10)),
            ("SELECT $1::numeric", decimal.Decimal("NaN")),
            ("SELECT $1::bit(4)", asyncpg.BitString("1010")),
            ("SELECT $1::point", asyncpg.Point(1.5, -2)),
            ("SELECT $1::time", datetime.time(1, 2, 3, 4)),
            ("SELECT $1::text[][]", [["a", None], ["b", "c"]]),
            ("SELECT ROW($1::int, 'x', NULL::date)", 5),
            ("SELECT $1::date", datetime.date.max),
            ("SELECT $1::mood[]", ["sad", "happy"]),
            ("SELECT $1::mood", "ok"),
        ]:
            t.show(query, await conn.fetchval(query, value))
        # The type is looked up in the catalogs: composite types of tables too.
        t.show(await conn.fetchval("SELECT k FROM kinds k WHERE code = 'buy'"))
        t.show(await conn.fetchval("SELECT tenants FROM tenants WHERE id = 7"))

    with t.step("a codec of the application's own"):
        await conn.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
        t.show(await conn.fetchval("SELECT payload FROM events WHERE tenant_id = 7 AND id = 1"))
        t.show(await conn.fetch("SELECT id, settings FROM tenants WHERE settings @> $1", {"n": 12}))
        await conn.reset_type_codec("jsonb", schema="pg_catalog")
        await conn.set_builtin_type_codec("mood", codec_name="text", schema="public")
        t.show(await conn.fetchval("SELECT feeling FROM events WHERE tenant_id = 7 AND id = 1"))

    with t.step("types of the application's own"):
        own = await asyncpg.connect(dsn)
        for statement in statements("own_types.sql"):
            await own.execute(statement)
        insert = await own.prepare("INSERT INTO owned VALUES ($1, $2, $3, $4, $5, $6) RETURNING p, ps, d")
        described(insert)
        for i in range(1, 21):
            row = (i, "ok", ["sad", None], (i, "happy", ["ok"]), [(i, None, []), None], ["happy", "sad"])
            t.rows(await insert.fetch(*row))
        select = await own.prepare("SELECT feeling, feelings, p, ps, d, ROW(p, feelings), owned FROM owned WHERE id = $1")
        described(select)
        for i in range(1, 21):
            t.rows(await select.fetch(i))
        t.rows(await own.fetch("SELECT id, ps, d FROM owned ORDER BY id"))
        t.show(await own.execute("UPDATE owned SET feelings = $1 WHERE p = $2::pair OR feelings <> $1", ["ok"], (1, "ok", [])))
        async with own.transaction():
            await own.execute("CREATE TYPE fresh AS ENUM ('a', 'b')")
            for i in range(1, 11):
                t.rows(await own.fetch("SELECT ARRAY['a'::fresh], $2::fresh[], ROW($2[1]) FROM owned WHERE id = $1", i, ["b"]))
            await own.execute("DROP TYPE fresh")
        for statement in statements("drop_own_types.sql"):
            await own.execute(statement)
        await own.close()

    with t.step("prepared statements"):
        by_key = await conn.prepare("SELECT id, name FROM tenants WHERE id = $1")
        described(by_key)
        for i in (1, 7, 13, 25, 40, 99):
            t.rows(await by_key.fetch(i))
        over_all = await conn.prepare("SELECT count(*), sum(whole), avg(whole), max(ratio) FROM events WHERE whole > $1")
        described(over_all)
        for i in (0, 100, 1000):
            t.rows(await over_all.fetch(i))
        insert = await conn.prepare("INSERT INTO notes VALUES ($1, $2) RETURNING *")
        described(insert)
        t.rows(await insert.fetch(1, "one"))
        t.show(insert.get_statusmsg())
        nothing = await conn.prepare("UPDATE tenants SET name = $2 WHERE id = $1")
        described(nothing)
        t.show(await nothing.fetch(9, "nine"), nothing.get_statusmsg())

    with t.step("a schema that changes under prepared statements"):
        t.rows(await conn.fetch("SELECT * FROM notes WHERE id = $1", 1))
        other = await asyncpg.connect(dsn)
        await other.execute("ALTER TABLE notes ADD COLUMN more text DEFAULT 'm'")
        t.rows(await conn.fetch("SELECT * FROM notes WHERE id = $1", 1))
        await other.execute("ALTER TABLE notes DROP COLUMN more")
        await other.close()

    with t.step("reads over all rows"):
        for query, parameters in [
            ("SELECT t.id % 3 AS class, count(*) AS n, sum(e.whole) FROM tenants t JOIN events e ON e.tenant_id = t.id "
             "WHERE e.whole > $1 GROUP BY 1 ORDER BY 1 DESC", (10,)),
            ("SELECT id, name FROM tenants ORDER BY id DESC LIMIT $1 OFFSET $2", (5, 3)),
            ("SELECT id FROM tenants WHERE id = ANY($1::bigint[]) ORDER BY id", ([3, 1, 2, 99],)),
            ("SELECT e.id, k.label FROM events e LEFT JOIN kinds k ON k.code = e.kind WHERE e.tenant_id BETWEEN $1 AND $2 "
             "ORDER BY e.tenant_id, e.id", (7, 9)),
        ]:
            t.rows(await conn.fetch(query, *parameters))

    with t.step("a cursor of one shard's rows"):
        async with conn.transaction():
            cursor = await conn.cursor("SELECT id, whole FROM events WHERE tenant_id = $1 ORDER BY id", 7)
            t.rows(await cursor.fetch(1))
            t.show(await cursor.forward(1))
            t.show(await cursor.fetchrow())

    with t.step("a cursor over all rows"):
        async with conn.transaction():
            seen = [record async for record in conn.cursor("SELECT id, name FROM tenants ORDER BY id", prefetch=7)]
            t.show(len(seen), seen[0], seen[-1])
            cursor = await conn.cursor("SELECT id FROM tenants ORDER BY id DESC")
            t.rows(await cursor.fetch(3))
            # It is left open when the transaction ends.

    with t.step("transactions"):
        async with conn.transaction():
            await conn.execute("UPDATE tenants SET name = upper(name) WHERE id <= 4")
            try:
                async with conn.transaction():
                    t.show(await conn.execute("DELETE FROM events"))
                    raise KeyError("changed my mind")
            except KeyError as error:
                t.show(error.args, await conn.fetchval("SELECT count(*) FROM events"))
        t.rows(await conn.fetch("SELECT name FROM tenants WHERE id < 7 ORDER BY id"))
        for options in ({"isolation": "repeatable_read", "readonly": True}, {"isolation": "serializable", "readonly": True, "deferrable": True}):
            async with conn.transaction(**options):
                t.show(await conn.fetchval("SHOW transaction_isolation"), await conn.fetchval("SHOW transaction_read_only"))
                t.show(await conn.fetchval("SELECT count(*) FROM tenants"))
                with t.fails():
                    async with conn.transaction():
                        await conn.execute("UPDATE tenants SET name = 'no' WHERE id = 1")

    with t.step("errors and recovery"):
        for query, parameters in [
            ("INSERT INTO tenants VALUES ($1, 'again', NULL)", (7,)),
            ("INSERT INTO tenants VALUES (1000, 'x', NULL), (1001, 'y', NULL), (5, 'z', NULL)", ()),
            ("INSERT INTO tenants (id) VALUES ($1)", (900,)),
            ("INSERT INTO events (tenant_id, id) VALUES ($1, 1)", (900,)),
            ("INSERT INTO events (tenant_id, id, whole) VALUES (1, 900, 2000000)", ()),
            ("DELETE FROM tenants WHERE id = $1", (7,)),
            ("SELEC 1", ()),
            ("SELECT nothing FROM tenants", ()),
            ("SELECT * FROM nowhere", ()),
            ("SELECT no_function(1)", ()),
            ("SELECT 1 / (id - 7) FROM tenants WHERE id = $1", (7,)),
            ("SELECT id FROM tenants WHERE 1 / (id - 7) > 0", ()),
            ("SELECT $1", (1,)),
            ("SELECT $1 + $2", ("a", "b")),
        ]:
            try:
                with t.fails():
                    await conn.fetch(query, *parameters)
            except asyncpg.InterfaceError as error:
                t.show(type(error).__name__, str(error).splitlines()[0])
            t.show(conn.is_in_transaction(), await conn.fetchval("SELECT count(*) FROM tenants"))
        with t.fails():
            async with conn.transaction():
                await conn.execute("UPDATE tenants SET name = 'lost' WHERE id = 1")
                with t.fails():
                    await conn.execute("INSERT INTO tenants VALUES (1, 'twice', NULL)")
                await conn.fetchval("SELECT 1")
        t.show(await conn.fetchval("SELECT name FROM tenants WHERE id = 1"))

    with t.step("COPY in and out"):
        t.show(await conn.copy_records_to_table("events", columns=["tenant_id", "id", "whole", "tags", "raw", "total"],
                                                records=[(i, 500, i, [f"t{i}", None], bytes([i]), decimal.Decimal(i) / 4) for i in range(1, 41)]))
        t.rows(await conn.fetch("SELECT tenant_id, whole, tags, raw, total FROM events WHERE id = 500 AND whole % 9 = 0 ORDER BY 1"))
        t.show(await conn.copy_to_table("events", source=Lines(b"1,600,{a}\n2,600,\n3,600,\"{b,c}\"\n"),
                                        columns=["tenant_id", "id", "tags"], format="csv"))
        t.rows(await conn.fetch("SELECT tenant_id, tags FROM events WHERE id = 600 ORDER BY 1"))
        out = Lines()
        t.show(await conn.copy_from_query("SELECT tenant_id, id, whole FROM events WHERE tenant_id = $1 ORDER BY id", 7, output=out.write))
        t.show(bytes(out.data))
        out = Lines()
        t.show(await conn.copy_from_table("tenants", output=out.write, format="csv", header=True))
        lines = bytes(out.data).splitlines()
        t.show(lines[0], sorted(lines)[:3])
        with t.fails():
            await conn.copy_records_to_table("events", columns=["tenant_id", "id"], records=[(1, 700), (2, 100)])
        t.show(await conn.fetchval("SELECT count(*) FROM events WHERE id = 700"))

    with t.step("LISTEN and NOTIFY"):
        other = await asyncpg.connect(dsn)
        heard = asyncio.Queue()
        await conn.add_listener("news", lambda _conn, _pid, channel, payload: heard.put_nowait((channel, payload)))
        await other.execute("NOTIFY news, 'first'")
        await other.execute("SELECT pg_notify('news', $1)", "second ü")
        for _ in range(2):
            t.show(await asyncio.wait_for(heard.get(), SECONDS_MAX))
        t.show(await conn.fetch("SELECT pg_listening_channels()"))
        await conn.reset()
        t.show(await conn.fetch("SELECT pg_listening_channels()"))
        await other.close()

    with t.step("notices"):
        seen = []
        conn.add_log_listener(lambda _conn, message: seen.append((message.sqlstate, message.message)))
        await conn.execute("DO $$ BEGIN RAISE NOTICE 'n %', 1; RAISE WARNING 'w'; END $$")
        await asyncio.sleep(0)
        for notice in seen:
            t.show(notice)

    with t.step("time-outs"):
        with t.fails():
            await conn.execute("SET statement_timeout = 150; SELECT pg_sleep(30)")
        await conn.execute("SET statement_timeout = 150")
        with t.fails():
            await conn.fetchval("SELECT pg_sleep(30) FROM tenants WHERE id = $1", 1)
        await conn.execute("RESET statement_timeout")
        # The driver's own time-out sends a cancel request, and the connection goes on.
        try:
            await conn.fetchval("SELECT pg_sleep(60) FROM tenants WHERE id = $1", 7, timeout=0.2)
        except TimeoutError:
            t.show("timed out")
        t.show(await conn.fetchval("SELECT count(*) FROM tenants"))

    with t.step("reset and pool"):
        await conn.execute("SET application_name = 'changed'")
        await conn.reset()
        t.show(await conn.fetchval("SHOW application_name"))
        async with asyncpg.create_pool(dsn, min_size=1, max_size=3) as pool:
            async def one(i):
                async with pool.acquire() as member, member.transaction():
                    await member.execute("UPDATE tenants SET name = $2 WHERE id = $1", i, f"pooled {i}")
                    return await member.fetchval("SELECT name FROM tenants WHERE id = $1", i)
            t.show(await asyncio.gather(*(one(i) for i in range(1, 13))))

    with t.step("an aggregate over distinct values of all shards"):
        t.show(await conn.fetchval("SELECT count(DISTINCT whole) FROM events"))

    with t.step("drop"):
        await conn.reset()
        for statement in statements("drop.sql"):
            t.show(await conn.execute(statement))
    await conn.close()
    t.end()


class Lines:
    """What COPY reads from and writes to."""

    def __init__(self, data=b""):
        self.data = bytearray(data)

    def __aiter__(self):
        return self

    async def __anext__(self):
        if not self.data:
            raise StopAsyncIteration
        piece, self.data = bytes(self.data[:7]), self.data[7:]
        return piece

    async def write(self, data):
        self.data += data


asyncio.run(main(sys.argv[1]))
