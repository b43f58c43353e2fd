"""pgbench in all three protocol modes: with its own tables, distributed, and with scripts of pipelines and aggregates.

The same random seed gives the same transactions, so that the sums are the same."""

import os
import re
import subprocess
import sys
import tempfile
import time

from transcript import Transcript

SEED = "20240607"
TRANSACTIONS = "60"
ROUNDS_MAX = 100
ROUND_SECONDS = 0.05
t = Transcript(lambda error: None)
dsn = sys.argv[1]

PIPELINE = r"""
\set aid random(1, 100000)
\set delta random(-500, 500)
\startpipeline
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
COMMIT;
\endpipeline
"""
GSET = r"""
\set aid random(1, 100000)
SELECT bid AS branch, abalance AS had FROM pgbench_accounts WHERE aid = :aid \gset
SELECT count(*) AS tellers FROM pgbench_tellers WHERE bid = :branch \aset
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, :branch, :aid, 0, CURRENT_TIMESTAMP);
"""


def run(*command, env=None):
    done = subprocess.run(command, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        t.show("exit status", done.returncode)
        for line in done.stderr.splitlines()[:12]:
            t.show(line)
    return done


def pgbench(*options):
    done = run("pgbench", "--random-seed", SEED, *options, dsn)
    for line in done.stdout.splitlines():
        # Times differ; what was done does not.
        if re.match(r"query mode|number of transactions|number of failed", line):
            t.show(line)


def sql(*statements):
    for statement in statements:
        done = run("psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--command", statement, dsn)
        t.show(statement, *done.stdout.splitlines())


SUMS = [
    "SELECT count(*), sum(abalance) FROM pgbench_accounts",
    "SELECT sum(tbalance) FROM pgbench_tellers",
    "SELECT sum(bbalance) FROM pgbench_branches",
    "SELECT count(*), sum(delta) FROM pgbench_history",
]

def settled():
    """Another session sees every part of a transaction over shards soon after its commit: ask until it does."""
    for _ in range(ROUNDS_MAX):
        sums = []
        for statement in SUMS:
            done = run("psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--command", statement, dsn)
            sums.append(done.stdout.strip().split("|")[-1])
        accounts, tellers, branches, history = sums
        if accounts == history and tellers == branches:
            break
        time.sleep(ROUND_SECONDS)
    sql(*SUMS)


with t.step("pgbench -i"):
    done = run("pgbench", "--initialize", "--scale", "1", dsn)
    t.show([line for line in done.stderr.splitlines() if re.match(r"(dropping|creating|generating|vacuuming)", line)])
    sql(*SUMS)

with t.step("distribute"):
    sql("SELECT create_distributed_table('pgbench_accounts', 'aid')",
        "SELECT create_distributed_table('pgbench_tellers', 'tid')",
        "SELECT create_distributed_table('pgbench_branches', 'bid')",
        "ALTER TABLE pgbench_history ALTER aid SET NOT NULL",
        "SELECT create_distributed_table('pgbench_history', 'aid')")
    sql(*SUMS)

for mode in ("simple", "extended", "prepared"):
    with t.step(f"TPC-B, {mode}"):
        # The first run vacuums, and truncates the history.
        pgbench(*([] if mode == "simple" else ["--no-vacuum"]), "--client", "2", "--transactions", TRANSACTIONS, "--protocol", mode)
        settled()
    with t.step(f"simple update and select only, {mode}"):
        pgbench("--no-vacuum", "--builtin", "simple-update", "--client", "2", "--transactions", TRANSACTIONS, "--protocol", mode)
        pgbench("--no-vacuum", "--select-only", "--client", "2", "--transactions", TRANSACTIONS, "--protocol", mode)
        settled()

for name, script, modes in (("a pipeline", PIPELINE, ("extended", "prepared")), ("gset and aset", GSET, ("simple", "prepared"))):
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        for mode in modes:
            with t.step(f"{name}, {mode}"):
                pgbench("--no-vacuum", "--file", f"{file.name}@1", "--transactions", "20", "--protocol", mode)
                sql(*SUMS)

with t.step("drop"):
    run("pgbench", "--initialize", "--init-steps", "d", dsn)
    sql("SELECT count(*) FROM pg_class WHERE relname LIKE 'pgbench%'")
t.end()
