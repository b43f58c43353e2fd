"""SQLAlchemy's ORM, over psycopg and over asyncpg."""

import asyncio
import datetime
import decimal
import enum
import sys

from sqlalchemy import (
    BigInteger, Enum, ForeignKey, ForeignKeyConstraint, Identity, LargeBinary, Numeric, String, create_engine, delete, func,
    inspect, select, text, update,
)
from sqlalchemy.dialects.postgresql import ARRAY, INTERVAL, JSONB, insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, joinedload, mapped_column, relationship, selectinload

from transcript import Transcript

UTC = datetime.timezone.utc


def diagnose(error):
    if not isinstance(error, DBAPIError):
        return None
    inner = error.orig
    state = getattr(inner, "sqlstate", None)
    if state is None:
        return None
    diag = getattr(inner, "diag", None) or getattr(inner, "__cause__", None)
    message = getattr(diag, "message_primary", None) or str(getattr(diag, "args", [""])[0])
    detail = getattr(diag, "message_detail", None) or getattr(diag, "detail", None)
    hint = getattr(diag, "message_hint", None) or getattr(diag, "hint", None)
    return state, message, detail, hint


t = Transcript(diagnose)


class Base(DeclarativeBase):
    pass


class Level(enum.Enum):
    low = "low"
    high = "high"


class Country(Base):
    __tablename__ = "countries"
    code: Mapped[str] = mapped_column(String(2), primary_key=True)
    name: Mapped[str]


class Account(Base):
    __tablename__ = "accounts"
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(String(80), index=True)
    country_code: Mapped[str | None] = mapped_column(ForeignKey("countries.code"))
    level: Mapped[Level] = mapped_column(Enum(Level, name="level"), default=Level.low)
    created: Mapped[datetime.datetime] = mapped_column(server_default=func.now())
    country: Mapped[Country | None] = relationship()
    orders: Mapped[list["Order"]] = relationship(back_populates="account", cascade="all, delete-orphan", order_by="Order.number")


class Order(Base):
    __tablename__ = "orders"
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    total: Mapped[decimal.Decimal] = mapped_column(Numeric(12, 2))
    tags: Mapped[list[str]] = mapped_column(ARRAY(String), default=list)
    extra: Mapped[dict | None] = mapped_column(JSONB)
    blob: Mapped[bytes | None] = mapped_column(LargeBinary)
    took: Mapped[datetime.timedelta | None] = mapped_column(INTERVAL)
    version: Mapped[int] = mapped_column(default=1)
    account: Mapped[Account] = relationship(back_populates="orders")
    lines: Mapped[list["Line"]] = relationship(cascade="all, delete-orphan", order_by="Line.line")
    __mapper_args__ = {"version_id_col": version}


class Line(Base):
    __tablename__ = "lines"
    account_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    line: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    article: Mapped[str]
    __table_args__ = (
        ForeignKeyConstraint(["account_id", "number"], ["orders.account_id", "orders.number"], ondelete="CASCADE"),
    )


class Ticket(Base):
    __tablename__ = "tickets"
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    name: Mapped[str]
    level: Mapped[Level] = mapped_column(Enum(Level, name="level"), default=Level.low)


DISTRIBUTION = [
    "SELECT create_reference_table('countries')",
    "SELECT create_distributed_table('accounts', 'id')",
    "SELECT create_distributed_table('orders', 'account_id')",
    "SELECT create_distributed_table('lines', 'account_id')",
    "SELECT create_distributed_table('tickets', 'id')",
]


def order(number, i, **more):
    return Order(number=number, total=decimal.Decimal(i) / 4, tags=[f"t{i}", "x"], extra={"i": i, "none": None},
                 blob=bytes([i]), took=datetime.timedelta(hours=i), **more)


def synchronous(dsn):
    engine = create_engine(dsn.replace("postgresql://", "postgresql+psycopg://"), pool_use_lifo=True)

    with t.step("create_all and distribute"):
        Base.metadata.create_all(engine)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for statement in DISTRIBUTION:
                t.rows(connection.execute(text(statement)))

    with t.step("reflection"):
        found = inspect(engine)
        t.show(sorted(found.get_table_names()))
        for table in ("accounts", "orders", "lines"):
            # A sharded table's sequence counts in another stride.
            for column in found.get_columns(table):
                t.show(table, column["name"], str(column["type"]), column["nullable"], "identity" in column)
            t.show(found.get_pk_constraint(table)["constrained_columns"], found.get_indexes(table))
            t.show([(key["constrained_columns"], key["referred_table"], key["options"]) for key in found.get_foreign_keys(table)])
        t.show(found.has_table("orders"), found.has_table("nowhere"), [e["labels"] for e in found.get_enums()])

    with t.step("create_all again changes nothing"):
        Base.metadata.create_all(engine)

    with t.step("a unit of work over both shards"):
        with Session(engine) as session:
            session.add_all([Country(code="de", name="Germany"), Country(code="jp", name="日本")])
            session.flush()
            accounts = [Account(id=i, name=f"account {i}", country_code="de" if i % 2 else "jp") for i in range(1, 21)]
            session.add_all(accounts)
            session.flush()
            for account in accounts:
                account.orders = [order(n, account.id, lines=[Line(line=1, article="bolt"), Line(line=2, article="nut")]) for n in (1, 2)]
            session.commit()
            t.show(session.scalar(select(func.count()).select_from(Line)), accounts[6].created is not None)

    with t.step("identities of the server's"):
        with Session(engine) as session:
            one = Ticket(name="one")
            session.add(one)
            session.flush()
            t.show(one.id > 0)
            session.add_all([Ticket(name=f"several {i}") for i in range(5)])
            session.commit()
            rows = session.execute(select(Ticket.id, Ticket.name, Ticket.level).order_by(Ticket.name)).all()
            t.show(len({row.id for row in rows}), [(row.name, row.level.name) for row in rows])
            names = [f"many {i}" for i in range(20)]
            query = insert(Ticket).returning(Ticket.id, Ticket.name, sort_by_parameter_order=True)
            rows = session.execute(query, [{"name": name} for name in names]).all()
            t.show(len({row.id for row in rows}), [row.name for row in rows] == names)
            session.commit()

    with t.step("reads"):
        with Session(engine) as session:
            account = session.get(Account, 7)
            t.show(account.name, account.country.name, account.level.name)
            for o in account.orders:
                t.show(o.number, o.total, o.tags, o.extra, o.blob, o.took, [line.article for line in o.lines])
            t.rows(session.execute(select(Account.id, Account.name).where(Account.id.in_([3, 5, 99])).order_by(Account.id)))
            t.rows(session.execute(select(Country.name, func.count(Account.id)).join(Account.country).group_by(Country.name).order_by(func.count(Account.id), Country.name)))
            t.rows(session.execute(select(func.sum(Order.total), func.avg(Order.total), func.max(Order.number))))
            t.rows(session.execute(select(Account.id, func.sum(Order.total)).join(Account.orders).group_by(Account.id).having(func.sum(Order.total) > 8).order_by(Account.id)))
            t.rows(session.execute(select(Order.account_id, Order.number).where(Order.tags.contains(["t7"])).order_by(Order.number)))
            t.rows(session.execute(select(Order.account_id).where(Order.extra["i"].as_integer() == 9, Order.number == 1)))
            t.rows(session.execute(select(Account.id).order_by(Account.id.desc()).limit(3).offset(2)))
            t.show(session.scalar(select(select(Account).where(Account.id == 7).exists())))

    with t.step("eager loading"):
        with Session(engine) as session:
            query = select(Account).options(selectinload(Account.orders).selectinload(Order.lines)).where(Account.id <= 4).order_by(Account.id)
            for account in session.scalars(query):
                t.show(account.id, [(o.number, len(o.lines)) for o in account.orders])
            query = select(Account).options(joinedload(Account.orders), joinedload(Account.country)).where(Account.id.between(5, 7)).order_by(Account.id)
            for account in session.scalars(query).unique():
                t.show(account.id, account.country.code, [o.number for o in account.orders])

    with t.step("update, version check, delete with cascades"):
        with Session(engine) as session:
            o = session.get(Order, (7, 1))
            o.total += 1
            o.tags = [*o.tags, "more"]
            session.commit()
            t.show(o.total, o.tags, o.version)
        with Session(engine) as first, Session(engine) as second:
            mine, theirs = first.get(Order, (8, 1)), second.get(Order, (8, 1))
            mine.total, theirs.total = 1, 2
            first.commit()
            try:
                second.commit()
            except Exception as error:
                t.show(type(error).__name__)
        with Session(engine) as session:
            session.delete(session.get(Account, 9))
            session.commit()
            t.show(session.scalar(select(func.count()).where(Line.account_id == 9)), session.scalar(select(func.count(Line.line))))

    with t.step("bulk statements"):
        with Session(engine) as session:
            t.show(session.execute(update(Order).where(Order.number == 2).values(total=Order.total + 10)).rowcount)
            session.execute(insert(Account), [{"id": 100 + i, "name": f"bulk {i}"} for i in range(30)])
            t.show(session.execute(delete(Account).where(Account.id >= 120)).rowcount)
            statement = insert(Account).values([{"id": 7, "name": "seven"}, {"id": 500, "name": "new"}])
            statement = statement.on_conflict_do_update(index_elements=[Account.id], set_={"name": statement.excluded.name})
            t.rows(sorted(session.execute(statement.returning(Account.id, Account.name)).all()))
            session.commit()
            t.show(session.scalar(select(func.count(Account.id))))

    with t.step("savepoints and errors"):
        with Session(engine) as session:
            session.add(Account(id=600, name="kept"))
            with t.fails():
                with session.begin_nested():
                    session.add(Order(account_id=7, number=1, total=1))
                    session.flush()
            session.commit()
            with t.fails():
                session.add(Order(account_id=12345, number=1, total=1))
                session.commit()
            session.rollback()
            with t.fails():
                session.execute(text("SELECT * FROM nowhere"))
            session.rollback()
            t.show(session.get(Account, 600).name)

    with t.step("locking reads and isolation"):
        with Session(engine) as session:
            account = session.scalar(select(Account).where(Account.id == 7).with_for_update())
            account.name = "locked"
            session.commit()
        with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            t.rows(connection.execute(text("SHOW transaction_isolation")))
            t.rows(connection.execute(select(func.count(Account.id))))
        with engine.connect() as connection:
            t.rows(connection.execute(text("SHOW transaction_isolation")))

    with t.step("yield_per"):
        with Session(engine) as session:
            t.show([a.id for a in session.scalars(select(Account).where(Account.id == 7).execution_options(yield_per=2))])

    with t.step("yield_per, a cursor over all shards"):
        with Session(engine) as session:
            t.show([a.id for a in session.scalars(select(Account).order_by(Account.id).execution_options(yield_per=5))])
            for few in session.scalars(select(Account).order_by(Account.id).execution_options(yield_per=3)).partitions(4):
                t.show([a.id for a in few])

    with t.step("a subquery over rows of all shards"):
        with Session(engine) as session:
            most = select(func.max(Order.total)).scalar_subquery()
            t.show(sorted(session.scalars(select(Order.account_id).where(Order.total == most))))

    engine.dispose()


async def asynchronous(dsn):
    engine = create_async_engine(dsn.replace("postgresql://", "postgresql+asyncpg://"), pool_use_lifo=True)
    sessions = async_sessionmaker(engine, expire_on_commit=False)

    with t.step("asyncpg: a unit of work"):
        async with sessions() as session, session.begin():
            for i in range(700, 710):
                session.add(Account(id=i, name=f"async {i}", level=Level.high))
        async with sessions() as session, session.begin():
            for i in range(700, 710):
                session.add(order(1, i - 690, account_id=i))
        async with sessions() as session:
            query = select(Account).options(selectinload(Account.orders)).where(Account.id >= 700).order_by(Account.id)
            for account in await session.scalars(query):
                t.show(account.id, account.level.name, [(o.total, o.tags, o.extra, o.took) for o in account.orders])

    with t.step("asyncpg: errors and recovery"):
        async with sessions() as session:
            with t.fails():
                session.add(Account(id=700, name="again"))
                await session.commit()
            await session.rollback()
            t.show(await session.scalar(select(func.count(Account.id)).where(Account.id >= 700)))

    with t.step("asyncpg: stream of one shard's rows"):
        async with sessions() as session:
            result = await session.stream(select(Order.number, Order.total).where(Order.account_id == 7).order_by(Order.number))
            async for row in result:
                t.show(row.number, row.total)

    with t.step("asyncpg: stream of all rows"):
        async with sessions() as session:
            result = await session.stream(select(Account.id).where(Account.id <= 20).order_by(Account.id))
            t.show([row.id async for row in result])

    await engine.dispose()


def drop(dsn):
    engine = create_engine(dsn.replace("postgresql://", "postgresql+psycopg://"))
    with t.step("drop_all"):
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            Base.metadata.drop_all(connection)
        t.show(inspect(engine).get_table_names())
    engine.dispose()


synchronous(sys.argv[1])
asyncio.run(asynchronous(sys.argv[1]))
drop(sys.argv[1])
t.end()
