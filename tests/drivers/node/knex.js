// knex: its migrations and its query builder.
'use strict';

const createKnex = require('knex');
const { show, rows, step, fails, end } = require('./transcript');

const connection = process.argv[2];

/// A migration that distributes tables runs outside a transaction, statement by statement.
const migrations = [
  {
    name: '001_tables',
    async up(knex) {
      await knex.schema.createTable('countries', (table) => {
        table.string('code', 2).primary();
        table.text('name').notNullable();
      });
      await knex.schema.createTable('accounts', (table) => {
        table.bigInteger('id').primary();
        table.string('name').notNullable().index();
        table.string('country', 2).references('countries.code');
        table.timestamps(true, true);
      });
      await knex.schema.createTable('orders', (table) => {
        table.bigInteger('account_id').notNullable().references('accounts.id').onDelete('CASCADE');
        table.bigInteger('number').notNullable();
        table.decimal('total', 12, 2);
        table.specificType('tags', 'text[]');
        table.jsonb('extra');
        table.enu('state', ['open', 'paid']).defaultTo('open');
        table.primary(['account_id', 'number']);
      });
      await knex.schema.createTable('tickets', (table) => {
        table.bigIncrements('id');
        table.text('body');
      });
    },
    async down(knex) {
      for (const table of ['tickets', 'orders', 'accounts', 'countries']) await knex.schema.dropTable(table);
    },
  },
  {
    name: '002_distribute',
    config: { transaction: false },
    async up(knex) {
      await knex.raw("SELECT create_reference_table('countries')");
      await knex.raw("SELECT create_distributed_table('accounts', 'id')");
      await knex.raw("SELECT create_distributed_table('orders', 'account_id')");
      await knex.raw("SELECT create_distributed_table('tickets', 'id')");
    },
    async down() {},
  },
  {
    name: '003_alter',
    async up(knex) {
      await knex.schema.alterTable('orders', (table) => {
        table.text('note').defaultTo('none');
        table.index(['account_id', 'state']);
      });
    },
    async down(knex) {
      await knex.schema.alterTable('orders', (table) => table.dropColumn('note'));
    },
  },
];
const migrationSource = {
  getMigrations: async () => migrations,
  getMigrationName: (migration) => migration.name,
  getMigration: async (migration) => migration,
};

async function main() {
  const knex = createKnex({ client: 'pg', connection, pool: { min: 0, max: 3 }, migrations: { migrationSource } });

  await step('migrate', async () => {
    show(await knex.migrate.latest());
    show(await knex.migrate.currentVersion());
    show(await knex.migrate.latest());
    show(await knex.schema.hasTable('orders'), await knex.schema.hasColumn('orders', 'note'));
    show(await knex('orders').columnInfo());
  });

  await step('insert', async () => {
    await knex('countries').insert([{ code: 'de', name: 'Germany' }, { code: 'jp', name: '日本' }]);
    const accounts = Array.from({ length: 20 }, (_, i) => ({ id: i + 1, name: `account ${i + 1}`, country: i % 2 ? 'de' : 'jp' }));
    await knex.batchInsert('accounts', accounts, 7);
    const orders = accounts.flatMap(({ id }) => [1, 2].map((number) => (
      { account_id: id, number, total: (id * number) / 4, tags: [`t${id}`, 'x'], extra: { id, none: null } })));
    await knex('orders').insert(orders);
    rows(await knex('orders').insert({ account_id: 7, number: 9 }).returning(['account_id', 'number', 'state', 'note']));
    const ids = await knex('tickets').insert([{ body: 'a' }, { body: 'b' }, { body: 'c' }]).returning('id');
    show(ids.length, new Set(ids.map(({ id }) => id)).size);
    rows(await knex('tickets').select('body').orderBy('body'));
  });

  await step('read', async () => {
    rows(await knex('accounts').select('id', 'name').where('id', 7));
    rows(await knex('accounts').whereIn('id', [3, 5, 99]).select('id', 'name').orderBy('id'));
    rows(await knex('orders').where({ account_id: 7 }).select('number', 'total', 'tags', 'extra', 'state', 'note').orderBy('number'));
    rows(await knex('accounts as a').join('orders as o', 'o.account_id', 'a.id').groupBy('a.country').select('a.country').sum('o.total').count('* as n').orderBy('a.country'));
    rows(await knex('accounts').leftJoin('countries', 'countries.code', 'accounts.country').where('accounts.id', '<', 4).select('accounts.id', 'countries.name').orderBy('accounts.id'));
    rows(await knex('accounts').orderBy('id', 'desc').limit(3).offset(2).select('id'));
    rows(await knex('orders').whereJsonPath('extra', '$.id', '=', 9).select('account_id', 'number').orderBy('number'));
    show(await knex('orders').avg('total as mean').first(), await knex('orders').max('total as most').first());
  });

  await step('stream', async () => {
    const seen = [];
    for await (const row of knex('accounts').select('id').orderBy('id').stream({ highWaterMark: 5 })) seen.push(row.id);
    show(seen);
  });

  await step('update, upsert, delete', async () => {
    show(await knex('orders').where('number', 2).update({ state: 'paid' }));
    show(await knex('orders').where({ account_id: 7, number: 1 }).increment('total', 5));
    rows(await knex('accounts').insert({ id: 7, name: 'seven' }).onConflict('id').merge(['name']).returning(['id', 'name']));
    show(await knex('accounts').where('id', 9).delete());
    rows(await knex('orders').select('state').count('*').groupBy('state').orderBy('state'));
  });

  await step('transactions', async () => {
    await knex.transaction(async (trx) => {
      await trx('accounts').where('id', '<=', 4).update({ name: 'changed' });
      await fails(() => trx.transaction(async (inner) => inner('accounts').insert({ id: 1, name: 'again' })));
      rows(await trx('accounts').where('id', 3).forUpdate().select('name'));
    });
    await fails(() => knex.transaction(async (trx) => {
      await trx('accounts').delete();
      await trx('orders').insert({ account_id: 12345, number: 1 });
    }));
    show(await knex('accounts').count('*').first());
    await fails(() => knex.raw('SELECT * FROM nowhere'));
    await fails(() => knex('accounts').select('nothing'));
    show(await knex('accounts').where('name', 'changed').count('*').first());
  });

  await step('a subquery over rows of all shards', async () => {
    show(await knex('orders').where('total', knex('orders').max('total')).select('account_id').orderBy('account_id'));
  });

  await step('roll migrations back', async () => {
    show(await knex.migrate.rollback(undefined, true));
    await knex.schema.dropTable('knex_migrations');
    await knex.schema.dropTable('knex_migrations_lock');
  });
  await knex.destroy();
  end();
}

main().catch((error) => {
  console.log(error);
  process.exit(1);
});
