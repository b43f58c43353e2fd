// node-postgres, with its cursors, streams and COPY.
'use strict';

const { pipeline } = require('stream/promises');
const { Readable } = require('stream');
const { once } = require('events');
const { Client, Pool, types } = require('pg');
const Cursor = require('pg-cursor');
const QueryStream = require('pg-query-stream');
const copy = require('pg-copy-streams');
const { statements, typeName, show, rows, step, fails, end } = require('./transcript');

const CANCEL_ROUNDS_MAX = 400;
const connectionString = process.argv[2];
const enableChannelBinding = new URL(connectionString).searchParams.get('channel_binding') === 'require';
const login = { connectionString, enableChannelBinding };

const EVENT = {
  tenant_id: 7,
  id: 1,
  kind: 'click',
  small: -32768,
  whole: 65536,
  ratio: 0.1,
  total: '12345678901.50',
  flag: true,
  raw: Buffer.from([0, 255, 92, 39]),
  uid: '9b2d5a52-6f0a-4b0e-9a55-0f6f6e0f7a11',
  tags: ['a', 'b c', 'quote"d', '\\', null],
  grid: [[1, 2], [3, 4]],
  payload: { a: [1, 2.5, null], 'ü': '€' },
  day: '2024-02-29',
  at: new Date(Date.UTC(2024, 1, 29, 12, 34, 56, 789)),
  wall: '1999-12-31 23:59:59',
  took: '3 days 00:00:07.000009',
  feeling: 'happy',
};
const names = Object.keys(EVENT);
const INSERT = `INSERT INTO events (${names.join(', ')}) VALUES (${names.map((_, n) => `$${n + 1}`).join(', ')})`;

async function main() {
  const client = new Client(login);
  await client.connect();
  const query = async (text, values) => {
    const result = await client.query(text, values);
    show(result.command, result.rowCount, result.fields.map((field) => `${field.name} ${typeName(field.dataTypeID)}`).join(', '));
    rows(result.rows);
  };

  await step('create', async () => {
    for (const statement of statements('schema.sql')) await query(statement);
  });

  await step('write', async () => {
    await query("INSERT INTO kinds VALUES ('click', 'Click'), ('view', 'View')");
    for (let i = 1; i <= 40; i += 1) await client.query('INSERT INTO tenants VALUES ($1, $2, $3)', [i, `tenant ${i}`, { n: i }]);
    const values = Array.from({ length: 20 }, (_, i) => `(${i + 1}, 100, ${(i + 1) ** 2})`);
    await query(`INSERT INTO events (tenant_id, id, whole) VALUES ${values.join(', ')}`);
    await query(INSERT, Object.values(EVENT));
    await query('INSERT INTO events (tenant_id, id) VALUES (8, 1)');
  });

  await step('read all types', async () => {
    await query('SELECT * FROM events WHERE tenant_id = $1 ORDER BY id', [7]);
    await query('SELECT * FROM events WHERE id = 1 ORDER BY tenant_id');
    await query({ text: 'SELECT id, name FROM tenants WHERE id = $1', values: [7], rowMode: 'array' });
    await query({ text: 'SELECT id, whole, flag, raw FROM events WHERE tenant_id = $1 ORDER BY id', values: [7], binary: true });
  });

  await step('types of the application\'s own', async () => {
    types.setTypeParser(20, BigInt);
    await query('SELECT id, count(*) OVER (PARTITION BY id) FROM tenants WHERE id < 4 ORDER BY id');
    await query('SELECT count(*) FROM tenants');
    types.setTypeParser(20, (text) => text);
  });

  await step('read over all rows', async () => {
    await query('SELECT count(*), sum(whole), avg(whole), max(whole) FROM events');
    await query(
      'SELECT t.id % 3 AS class, count(*) AS n FROM tenants t JOIN events e ON e.tenant_id = t.id WHERE e.whole > $1 GROUP BY 1 ORDER BY 1',
      [10],
    );
    await query('SELECT id, name FROM tenants ORDER BY id DESC LIMIT $1 OFFSET $2', [5, 3]);
    await query('SELECT id FROM tenants WHERE id = ANY($1) ORDER BY id', [[3, 1, 2, 99]]);
    await query("SELECT id FROM tenants WHERE settings->>'n' = $1", ['12']);
  });

  await step('prepared statements', async () => {
    for (const id of [1, 7, 13, 25, 40, 99]) {
      await query({ name: 'by-key', text: 'SELECT id, name FROM tenants WHERE id = $1', values: [id] });
    }
    for (const least of [0, 100, 1000]) {
      await query({ name: 'over-all', text: 'SELECT count(*) FROM events WHERE whole > $1', values: [least] });
    }
  });

  await step('several statements in one query', async () => {
    const results = await client.query("SELECT count(*) FROM tenants; INSERT INTO notes VALUES (1, 'x'); SELECT * FROM notes");
    for (const result of results) show(result.command, result.rowCount, result.rows);
  });

  await step('transactions', async () => {
    await query('BEGIN');
    await query('UPDATE tenants SET name = upper(name) WHERE id <= 4');
    await query('SAVEPOINT here');
    await fails(() => client.query('INSERT INTO tenants VALUES (7, $1)', ['again']));
    await fails(() => client.query('SELECT 1'));
    await query('ROLLBACK TO here');
    await query('COMMIT');
    await query('SELECT name FROM tenants WHERE id < 6 ORDER BY id');
    await query('BEGIN');
    await query('DELETE FROM events');
    await query('ROLLBACK');
    await query('SELECT count(*) FROM events');
  });

  await step('errors and recovery', async () => {
    for (const [text, values] of [
      ['INSERT INTO tenants VALUES ($1, $2)', [7, 'again']],
      ['INSERT INTO tenants (id) VALUES ($1)', [900]],
      ['INSERT INTO events (tenant_id, id) VALUES ($1, 1)', [900]],
      ['INSERT INTO events (tenant_id, id, whole) VALUES (1, 900, 2000000)'],
      ['SELEC 1'],
      ['SELECT 1 FROM tenants WHERE'],
      ['SELECT nothing FROM tenants'],
      ['SELECT * FROM nowhere'],
      ['SELECT 1 / (id - 7) FROM tenants WHERE id = $1', [7]],
      ['SELECT id FROM tenants WHERE id = $1', ['seven']],
      ['SELECT $1::int', ['many']],
      ['SELECT id FROM tenants WHERE id = $1', []],
    ]) {
      await fails(() => client.query(text, values));
    }
    await query('SELECT count(*) FROM tenants');
  });

  await step('a cursor of one shard\'s rows', async () => {
    const cursor = client.query(new Cursor('SELECT id, whole FROM events WHERE tenant_id = $1 ORDER BY id', [7]));
    rows(await cursor.read(1));
    rows(await cursor.read(10));
    show((await cursor.read(10)).length);
    await cursor.close();
  });

  await step('a cursor over all rows', async () => {
    const cursor = client.query(new Cursor('SELECT id FROM tenants ORDER BY id'));
    rows(await cursor.read(3));
    rows(await cursor.read(2));
    await cursor.close();
    await query('SELECT 1 AS one');
  });

  await step('a stream over all rows', async () => {
    let count = 0;
    for await (const row of client.query(new QueryStream('SELECT id FROM tenants ORDER BY id DESC', [], { batchSize: 7 }))) {
      count += 1;
      if (count <= 2) show(row);
    }
    show(count);
  });

  await step('COPY in and out', async () => {
    const lines = Array.from({ length: 40 }, (_, i) => `${i + 1}\t500\t${i + 1}\t{t${i + 1},NULL}\n`);
    const into = client.query(copy.from('COPY events (tenant_id, id, whole, tags) FROM STDIN'));
    await pipeline(Readable.from(lines), into);
    show(into.rowCount);
    await query('SELECT tenant_id, whole, tags FROM events WHERE id = 500 AND whole % 9 = 0 ORDER BY 1');
    const out = client.query(copy.to('COPY tenants TO STDOUT (FORMAT csv)'));
    let text = '';
    for await (const chunk of out) text += chunk;
    show(text.trim().split('\n').sort().slice(0, 3), out.rowCount);
    await fails(() => pipeline(Readable.from(['1\t100\n']), client.query(copy.from('COPY events (tenant_id, id) FROM STDIN'))));
    await query('SELECT count(*) FROM events');
  });

  await step('LISTEN and NOTIFY', async () => {
    const other = new Client(login);
    await other.connect();
    await client.query('LISTEN news');
    const heard = once(client, 'notification');
    await other.query("SELECT pg_notify('news', $1)", ['hello ü']);
    const [notification] = await heard;
    show(notification.channel, notification.payload);
    await other.end();
    await client.query('UNLISTEN *');
  });

  await step('notices', async () => {
    const heard = once(client, 'notice');
    await client.query("DO $$ BEGIN RAISE NOTICE 'n %', 1; END $$");
    const [notice] = await heard;
    show(notice.severity, notice.code, notice.message);
  });

  await step('statement_timeout and cancel', async () => {
    const limited = new Client({ ...login, statement_timeout: 150, application_name: 'drivers' });
    await limited.connect();
    await fails(() => limited.query('SELECT pg_sleep(30)'));
    await fails(() => limited.query('SELECT pg_sleep(30) FROM tenants WHERE id = $1', [7]));
    show((await limited.query('SHOW application_name')).rows);
    await limited.end();
    // A request before the statement's start cancels nothing: ask until it ends.
    const sleeper = new Client(login);
    await sleeper.connect();
    let ended = false;
    const sleeping = fails(() => sleeper.query('SELECT pg_sleep(60) FROM tenants WHERE id = $1', [7]));
    sleeping.finally(() => { ended = true; });
    for (let round = 0; !ended && round < CANCEL_ROUNDS_MAX; round += 1) {
      const { connection, ssl } = new Client(login);
      const asked = once(connection, 'end');
      const cancel = () => connection.cancel(sleeper.processID, sleeper.secretKey);
      connection.on('connect', () => (ssl ? connection.requestSsl() : cancel()));
      connection.on('sslconnect', cancel);
      connection.connect(client.port, client.host);
      await asked;
    }
    await sleeping;
    await sleeper.end();
  });

  await step('a pool', async () => {
    const pool = new Pool({ ...login, max: 3 });
    const done = await Promise.all(Array.from({ length: 12 }, async (_, i) => {
      const member = await pool.connect();
      try {
        await member.query('BEGIN');
        await member.query('UPDATE tenants SET name = $2 WHERE id = $1', [i + 1, `pooled ${i + 1}`]);
        const { rows: found } = await member.query('SELECT name FROM tenants WHERE id = $1', [i + 1]);
        await member.query('COMMIT');
        return found[0].name;
      } finally {
        member.release();
      }
    }));
    show(done);
    await pool.end();
  });

  await step('distinct values of all shards counted', async () => {
    await query('SELECT count(DISTINCT whole) FROM events');
  });

  await step('drop', async () => {
    for (const statement of statements('drop.sql')) await query(statement);
  });
  await client.end();
  end();
}

main().catch((error) => {
  console.log(error);
  process.exit(1);
});
