// Sequelize: models whose tables it makes and alters itself, its queries, associations, transactions and errors.
'use strict';

const { DataTypes, Op, Sequelize, QueryTypes, Transaction, literal } = require('sequelize');
const { show, rows, step, fails, refused, end } = require('./transcript');

const ACCOUNTS = 20;
const sequelize = new Sequelize(process.argv[2], { dialect: 'postgres', logging: false, pool: { min: 0, max: 3 } });

const Country = sequelize.define('country', {
  code: { type: DataTypes.STRING(2), primaryKey: true },
  name: { type: DataTypes.TEXT, allowNull: false },
}, { timestamps: false });
const Account = sequelize.define('account', {
  id: { type: DataTypes.BIGINT, primaryKey: true },
  name: { type: DataTypes.STRING, allowNull: false, validate: { len: [1, 40] } },
  state: { type: DataTypes.ENUM('open', 'closed'), defaultValue: 'open' },
}, { indexes: [{ fields: ['name'] }] });
const Order = sequelize.define('order', {
  accountId: { type: DataTypes.BIGINT, primaryKey: true },
  number: { type: DataTypes.INTEGER, primaryKey: true },
  total: DataTypes.DECIMAL(12, 2),
  weight: DataTypes.DOUBLE,
  paid: { type: DataTypes.BOOLEAN, defaultValue: false },
  tags: DataTypes.ARRAY(DataTypes.TEXT),
  extra: DataTypes.JSONB,
  token: DataTypes.UUID,
  raw: DataTypes.BLOB,
  day: DataTypes.DATEONLY,
  at: DataTypes.DATE,
}, { timestamps: false });
const Ticket = sequelize.define('ticket', {
  id: { type: DataTypes.BIGINT, primaryKey: true, autoIncrement: true },
  body: DataTypes.TEXT,
}, { paranoid: true });
Country.hasMany(Account, { foreignKey: 'countryCode' });
Account.belongsTo(Country, { foreignKey: 'countryCode' });
Account.hasMany(Order, { foreignKey: 'accountId', onDelete: 'CASCADE' });
Order.belongsTo(Account, { foreignKey: 'accountId' });

const byNumber = { attributes: ['number', [sequelize.fn('COUNT', '*'), 'n'], [sequelize.fn('SUM', sequelize.col('total')), 'sum']], group: ['number'] };

const plain = (found) => (found === null ? 'null' : found.get({ plain: true }));
const all = (found) => found.forEach((one) => show(plain(one)));
/// Without the times at which rows were written.
const timeless = { attributes: { exclude: ['createdAt', 'updatedAt', 'deletedAt'] } };

/// Sequelize's own errors wrap the server's.
const failing = (body) => fails(async () => {
  try {
    await body();
  } catch (error) {
    show(error.name, (error.errors || []).map((one) => one.message), error.fields || '');
    throw error.original || error;
  }
});

const original = (error) => {
  throw error.original || error;
};

async function main() {
  await step('sync', async () => {
    await sequelize.authenticate();
    await sequelize.sync();
    show((await sequelize.getQueryInterface().showAllTables()).sort());
  });

  await step('distribute', async () => {
    await sequelize.query("SELECT create_reference_table('countries')");
    for (const [table, key] of [['accounts', 'id'], ['orders', '"accountId"'], ['tickets', 'id']]) {
      await sequelize.query(`SELECT create_distributed_table('${table}', '${key}')`);
    }
  });

  await step('sync again, describe, migrate', async () => {
    await sequelize.sync();
    const queries = sequelize.getQueryInterface();
    show(await queries.describeTable('orders'));
    await queries.addColumn('orders', 'note', { type: DataTypes.TEXT, defaultValue: 'none' });
    await queries.addIndex('orders', ['accountId', 'paid'], { name: 'orders_by_paid' });
    await queries.changeColumn('accounts', 'name', { type: DataTypes.STRING(100), allowNull: false });
    await queries.renameColumn('orders', 'note', 'remark');
    show(Object.keys(await queries.describeTable('orders')), (await queries.describeTable('accounts')).name);
    for (const { name, unique, primary, fields } of await queries.showIndex('orders')) {
      show(name, unique, primary, fields.map((field) => field.attribute));
    }
    await queries.removeIndex('orders', 'orders_by_paid');
    await queries.removeColumn('orders', 'remark');
  });

  await step('sync with alter', async () => {
    await Order.sync({ alter: true });
    show(Object.keys(await sequelize.getQueryInterface().describeTable('orders')));
  });

  await step('create', async () => {
    await Country.bulkCreate([{ code: 'de', name: 'Germany' }, { code: 'jp', name: '日本' }]);
    const account = await Account.create({ id: 1, name: 'account 1', countryCode: 'jp' });
    show(account.id, account.state, account.createdAt instanceof Date, account.isNewRecord);
    const accounts = Array.from({ length: ACCOUNTS - 1 }, (_, i) => ({ id: i + 2, name: `account ${i + 2}`, countryCode: i % 2 ? 'jp' : 'de' }));
    show((await Account.bulkCreate(accounts, { validate: true })).length);
    const orders = [1, 2].flatMap((number) => Array.from({ length: ACCOUNTS }, (_, i) => (
      { accountId: i + 1, number, total: ((i + 1) * number) / 4, weight: 0.1 * (i + 1), tags: [`t${i + 1}`, 'x"y'], extra: { n: i + 1, none: null } })));
    show((await Order.bulkCreate(orders)).length);
    const order = await Order.create({
      accountId: 7,
      number: 9,
      total: '12345678.50',
      weight: 0.1,
      paid: true,
      tags: ['a b', '\\', null],
      extra: { 'ü': ['€', 1.5, null] },
      token: '9b2d5a52-6f0a-4b0e-9a55-0f6f6e0f7a11',
      raw: Buffer.from([0, 255, 92, 39]),
      day: '2024-02-29',
      at: new Date(Date.UTC(2024, 1, 29, 12, 34, 56, 789)),
    });
    show(plain(order));
  });

  await step('instances after bulkCreate', async () => {
    const made = await Account.bulkCreate(Array.from({ length: 20 }, (_, i) => ({ id: i + 200, name: `bulk ${i}` })), { returning: true });
    show(made.map(({ id, name }) => `${id} ${name}`));
    show(await Account.destroy({ where: { id: { [Op.gte]: 200 } } }));
  });

  await step('keys of a sequence', async () => {
    const tickets = await Ticket.bulkCreate([{ body: 'a' }, { body: 'b' }, { body: 'c' }]);
    show(tickets.length, new Set(tickets.map(({ id }) => id)).size, tickets.map(({ body }) => body));
    for (const { id, body } of tickets) show((await Ticket.findByPk(id)).body === body);
    const saved = Ticket.build({ body: 'd' });
    await saved.save();
    show(typeof saved.id, saved.body);
  });

  await step('find', async () => {
    show(plain(await Account.findByPk(7, timeless)), plain(await Account.findByPk(999)));
    show(plain(await Order.findOne({ where: { accountId: 7, number: 9 } })));
    all(await Account.findAll({ where: { id: { [Op.in]: [3, 5, 99] } }, order: ['id'], ...timeless }));
    all(await Account.findAll({ where: { [Op.or]: [{ name: { [Op.like]: 'account 1_' } }, { id: { [Op.lt]: 3 } }] }, order: [['id', 'DESC']], limit: 4, offset: 2, attributes: ['id'] }));
    all(await Order.findAll({ where: { extra: { n: 9 } }, order: ['number'], attributes: ['accountId', 'number'] }));
    all(await Order.findAll({ where: { tags: { [Op.contains]: ['t4'] } }, order: ['number'], attributes: ['accountId', 'number', 'tags'] }));
    const { count, rows: some } = await Account.findAndCountAll({ where: { countryCode: 'de' }, order: ['id'], limit: 2, attributes: ['id'] });
    show(count);
    all(some);
    rows((await Ticket.findAll({ order: ['body'] })).map(({ body }) => ({ body })));
  });

  await step('associations', async () => {
    show(plain(await Account.findByPk(7, { include: [{ model: Order, attributes: ['number', 'total'] }, Country], order: [[Order, 'number', 'ASC']], ...timeless })));
    all(await Order.findAll({ where: { number: 2 }, include: [{ model: Account, where: { countryCode: 'de' }, attributes: ['name'] }], order: ['accountId'], limit: 3, attributes: ['accountId', 'total'] }));
    all(await Account.findAll({ where: { id: { [Op.lte]: 3 } }, include: [{ model: Order, required: true, separate: true, order: ['number'], attributes: ['accountId', 'number'] }], order: ['id'], attributes: ['id'] }));
    const account = await Account.findByPk(4);
    show((await account.getOrders({ order: ['number'] })).map(({ number }) => number), await account.countOrders());
    await account.createOrder({ number: 3, total: 1 });
    show(await account.countOrders(), (await account.getCountry()).name);
    const nested = await Account.create({ id: 100, name: 'nested', orders: [{ number: 1 }, { number: 2 }] }, { include: [Order] });
    show(nested.orders.map(({ accountId, number }) => [accountId, number]));
  });

  await step('aggregates', async () => {
    show(await Account.count(), await Order.sum('total'), await Order.max('total'), await Order.min('number'));
    show(await Order.count({ where: { accountId: 7 } }), await Order.sum('total', { where: { accountId: 7 } }));
    all(await Order.findAll({ ...byNumber, order: [sequelize.col('number')] }));
    all(await Order.findAll({ attributes: ['accountId', [sequelize.fn('AVG', sequelize.col('total')), 'mean']], group: ['accountId'], having: literal('count(*) > 2'), order: ['accountId'] }));
  });

  // SELECT "number" ... GROUP BY "number" ORDER BY "order"."number"
  await step('groups ordered by the full name of their column', async () => {
    all(await Order.findAll({ ...byNumber, order: ['number'] }));
  });

  await step('update, upsert, delete', async () => {
    show(await Order.update({ paid: true }, { where: { number: 2 } }));
    const [count, changed] = await Account.update({ state: 'closed' }, { where: { id: 7 }, returning: true });
    show(count, changed.map(({ id, state }) => [id, state]));
    const account = await Account.findByPk(8);
    account.name = 'eight';
    await account.save();
    show(plain(await account.reload(timeless)).name);
    const order = await Order.findOne({ where: { accountId: 8, number: 1 } });
    await order.increment('number', { by: 10 });
    show((await Order.findAll({ where: { accountId: 8 }, order: ['number'] })).map(({ number }) => number));
    for (const id of [9, 101]) {
      const [upserted] = await Account.upsert({ id, name: `upserted ${id}` });
      show(upserted.id, upserted.name, upserted.state);
    }
    const put = await Account.bulkCreate([{ id: 9, name: 'nine' }, { id: 102, name: 'new' }], { updateOnDuplicate: ['name'] });
    show(put.map(({ id, name }) => [id, name]));
    const ignored = await Account.bulkCreate([{ id: 9, name: 'ignored' }], { ignoreDuplicates: true });
    show(ignored.length, (await Account.findByPk(9)).name);
    await (await Account.findByPk(10)).destroy();
    show(await Account.destroy({ where: { id: { [Op.gt]: 100 } } }), await Order.count({ where: { accountId: 10 } }));
    show(await Ticket.destroy({ where: { body: 'a' } }), await Ticket.count(), await Ticket.count({ paranoid: false }));
    await Ticket.restore({ where: { body: 'a' } });
    show(await Ticket.count());
  });

  await step('find or create', async () => {
    for (const id of [7, 103]) {
      const [found, created] = await Account.findCreateFind({ where: { id }, defaults: { name: 'made' } });
      show(found.id, found.name, created);
    }
  });

  await refused('find or create, in a function of the session', () => (
    Account.findOrCreate({ where: { id: 104 }, defaults: { name: 'made' } }).catch(original)));
  await Account.destroy({ where: { id: 104 } });

  await step('transactions', async () => {
    await sequelize.transaction(async (transaction) => {
      await Account.update({ name: 'changed' }, { where: { id: { [Op.lte]: 4 } }, transaction });
      const account = await Account.findByPk(3, { transaction, lock: transaction.LOCK.UPDATE });
      show(account.name);
      const inner = await sequelize.transaction({ transaction });
      await Order.destroy({ where: { accountId: 3 }, transaction: inner });
      show(await Order.count({ where: { accountId: 3 }, transaction: inner }));
      await inner.rollback();
      show(await Order.count({ where: { accountId: 3 }, transaction }));
    });
    show(await Account.count({ where: { name: 'changed' } }));
    await failing(() => sequelize.transaction(async (transaction) => {
      await Order.destroy({ where: {}, transaction });
      await Account.create({ id: 7, name: 'again' }, { transaction });
    }));
    const unmanaged = await sequelize.transaction({ isolationLevel: Transaction.ISOLATION_LEVELS.REPEATABLE_READ });
    await Account.destroy({ where: { id: 7 }, transaction: unmanaged });
    show(plain(await Account.findByPk(7, { transaction: unmanaged })));
    await unmanaged.rollback();
    show((await Account.findByPk(7)).name, await Order.count());
  });

  await step('errors', async () => {
    await failing(() => Account.create({ id: 7, name: 'again' }));
    await failing(() => Account.bulkCreate([{ id: 900, name: 'x' }, { id: 7, name: 'again' }]));
    await failing(() => Order.create({ accountId: 900, number: 1 }));
    await failing(() => Account.create({ id: 901, name: 'x', countryCode: 'xx' }));
    await failing(() => sequelize.query('SELECT * FROM nowhere'));
    await failing(() => sequelize.query('SELECT nothing FROM accounts'));
    await failing(() => sequelize.query('SELEC 1'));
    await failing(() => sequelize.query('SELECT 1 / ("id" - 7) FROM accounts WHERE "id" = $1', { bind: [7] }));
    await Account.create({ id: 902, name: '' }).catch((error) => show(error.name, error.message));
    show(await Account.count());
  });

  await step('raw queries', async () => {
    rows(await sequelize.query('SELECT "id", "name" FROM accounts WHERE "id" = $id', { bind: { id: 7 }, type: QueryTypes.SELECT }));
    rows(await sequelize.query('SELECT "id" FROM accounts WHERE "id" IN (:ids) ORDER BY "id"', { replacements: { ids: [5, 1, 99] }, type: QueryTypes.SELECT }));
    rows(await sequelize.query('SELECT count(*), sum("total") FROM orders WHERE "number" > $1', { bind: [1], type: QueryTypes.SELECT }));
    show(await sequelize.query('UPDATE orders SET "paid" = $2 WHERE "accountId" = $1', { bind: [7, true], type: QueryTypes.UPDATE }));
    all(await sequelize.query('SELECT * FROM orders WHERE "accountId" = ? ORDER BY "number"', { replacements: [7], model: Order, mapToModel: true }));
  });

  await step('a pool', async () => {
    const found = await Promise.all(Array.from({ length: 12 }, (_, i) => sequelize.transaction(async (transaction) => {
      await Account.update({ name: `pooled ${i + 11}` }, { where: { id: i + 11 }, transaction });
      return (await Account.findByPk(i + 11, { transaction }))?.name || 'none';
    })));
    show(found);
  });

  await step('a page of accounts with their orders', async () => {
    const page = await Account.findAll({ include: [Order], order: ['id', [Order, 'number', 'ASC']], limit: 3 });
    show(page.map((account) => [account.id, account.orders.map(({ number, total }) => [number, total])]));
  });

  await step('drop', async () => {
    await sequelize.drop({});
    show((await sequelize.getQueryInterface().showAllTables()).length);
  });
  await sequelize.close();
  end();
}

main().catch((error) => {
  console.log(error);
  process.exit(1);
});
