"""Django's ORM: one small application with its migrations, on psycopg."""

import datetime
import decimal
import sys
import urllib.parse

import django
import psycopg
from django.conf import settings

from transcript import Transcript

dsn = urllib.parse.urlsplit(sys.argv[1])
settings.configure(
    INSTALLED_APPS=["shop"],
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    DATABASES={"default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": dsn.hostname,
        "PORT": dsn.port,
        "USER": dsn.username,
        "PASSWORD": urllib.parse.unquote(dsn.password or ""),
        "NAME": dsn.path[1:],
    }},
)
django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import DatabaseError, connection, transaction  # noqa: E402
from django.db.models import Avg, Case, Count, Exists, F, Max, OuterRef, Q, Sum, Value, When  # noqa: E402
from django.db.models.functions import Upper  # noqa: E402
from shop.models import Account, Country, Order, Ticket  # noqa: E402


def diagnose(error):
    inner = error if isinstance(error, psycopg.Error) else error.__cause__
    if not isinstance(inner, psycopg.Error) or inner.sqlstate is None:
        return None
    return inner.sqlstate, inner.diag.message_primary, inner.diag.message_detail, inner.diag.message_hint


t = Transcript(diagnose)


def order(account, number):
    return Order(account_id=account, number=number, total=decimal.Decimal(account * number) / 4, extra={"n": account, "none": None},
                 took=datetime.timedelta(hours=account), blob=bytes([account]), day=datetime.date(2024, 1, account))


with t.step("migrate"):
    call_command("migrate", verbosity=1, no_color=True)
    call_command("migrate", verbosity=1, no_color=True)
    call_command("showmigrations", no_color=True)

with t.step("introspection"):
    with connection.cursor() as cursor:
        t.show(sorted(connection.introspection.table_names(cursor)))
        for column in connection.introspection.get_table_description(cursor, "shop_order"):
            t.show(column.name, column.type_code, column.null_ok)
        constraints = connection.introspection.get_constraints(cursor, "shop_order")
        for found in sorted([(c["columns"], c["primary_key"], c["unique"], c["foreign_key"], c["index"]) for c in constraints.values()], key=str):
            t.show(found)

with t.step("create"):
    Country.objects.bulk_create([Country(code="de", name="Germany"), Country(code="jp", name="日本")])
    Account.objects.bulk_create([Account(id=i, name=f"account {i}", country_id="de" if i % 2 else "jp") for i in range(1, 21)])
    Order.objects.bulk_create([order(i, n) for i in range(1, 21) for n in (1, 2)], batch_size=7)
    t.show(Account.objects.create(id=50, name="fifty").created is not None)
    tickets = [Ticket.objects.create(body=f"ticket {i}") for i in range(3)]
    more = Ticket.objects.bulk_create([Ticket(body=f"bulk {i}") for i in range(4)])
    t.show(len({ticket.pk for ticket in tickets + more}), Ticket.objects.count())

with t.step("read"):
    account = Account.objects.select_related("country").get(id=7)
    t.show(account.name, account.country.name, account.active)
    for o in account.orders.order_by("number"):
        t.show(o.pk, o.total, o.extra, o.took, bytes(o.blob), o.day)
    t.rows(Account.objects.filter(id__in=[3, 5, 99]).order_by("id").values_list("id", "name"))
    t.rows(Account.objects.values("country__name").annotate(n=Count("id")).order_by("country__name").values_list("country__name", "n"))
    t.rows(Account.objects.annotate(spent=Sum("orders__total")).filter(spent__gt=10).order_by("id").values_list("id", "spent"))
    t.show(Order.objects.aggregate(Sum("total"), Avg("total"), Max("day")))
    t.rows(Order.objects.filter(extra__n=9).order_by("number").values_list("account_id", "number"))
    t.rows(Account.objects.filter(Q(name__startswith="account 1") & ~Q(country="de")).order_by("id").values_list("id", Upper("name")))
    t.rows(Account.objects.order_by("-id")[2:5].values_list("id"))
    t.show(Account.objects.filter(id=7).exists(), Account.objects.filter(id=777).exists(), Account.objects.count())
    t.rows(Account.objects.filter(Exists(Order.objects.filter(account=OuterRef("id"), total__gt=9))).order_by("id").values_list("id"))
    t.rows(Account.objects.order_by("id").annotate(kind=Case(When(id__lt=3, then=Value("old")), default=Value("new"))).values_list("id", "kind")[:4])
    for found in Account.objects.prefetch_related("orders").filter(id__lte=3).order_by("id"):
        t.show(found.id, sorted(o.number for o in found.orders.all()))

with t.step("distinct values"):
    t.show(len(Account.objects.dates("created", "year")), sorted(Account.objects.values_list("country", flat=True).distinct(), key=str))

with t.step("update and delete"):
    t.show(Order.objects.filter(number=2).update(total=F("total") + 10))
    o = Order.objects.get(pk=(7, 1))
    o.total += 1
    o.save()
    t.show(Order.objects.get(account_id=7, number=1).total)
    t.show(Account.objects.get(id=9).delete())
    t.show(Account.objects.update_or_create(id=8, defaults={"name": "eight"})[1], Account.objects.get_or_create(id=60, defaults={"name": "sixty"})[1])
    t.show(len(Account.objects.bulk_create([Account(id=8, name="upserted"), Account(id=61, name="new")], update_conflicts=True,
                                           unique_fields=["id"], update_fields=["name"])))
    accounts = list(Account.objects.filter(id__lte=3).order_by("id"))
    for found in accounts:
        found.name = f"bulk {found.id}"
    t.show(Account.objects.bulk_update(accounts, ["name"]))
    t.rows(Account.objects.filter(id__in=[1, 2, 3, 8, 61]).order_by("id").values_list("id", "name"))

with t.step("transactions and errors"):
    with transaction.atomic():
        Account.objects.filter(id__lte=4).update(name="changed")
        with t.fails():
            with transaction.atomic():
                Account.objects.create(id=7, name="again")
        t.show(Account.objects.select_for_update().get(id=5).name)
    t.show(Account.objects.filter(name="changed").count())
    with t.fails():
        with transaction.atomic():
            Order.objects.create(account_id=12345, number=1, total=1)
    try:
        with transaction.atomic():
            Order.objects.all().delete()
            raise KeyError("changed my mind")
    except KeyError as error:
        t.show(error.args, Order.objects.count())
    with t.fails():
        Account.objects.raw("SELECT nothing FROM shop_account")[0]
    try:
        with transaction.atomic():
            Country.objects.get(code="de").delete()
    except DatabaseError as error:
        t.show(type(error).__name__)
    except Exception as error:
        t.show(type(error).__name__)

with t.step("iterator, rows of one account"):
    t.show([o.number for o in Order.objects.filter(account_id=7).order_by("number").iterator(chunk_size=1)])

with t.step("single statements by hand"):
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, name FROM shop_account WHERE id = %s", [5])
        t.rows(cursor.fetchall())
        cursor.executemany("INSERT INTO shop_ticket (id, body) VALUES (%s, %s)", [(-1, "a"), (-2, "b")])
        t.show(cursor.rowcount)

with t.step("iterator, a cursor over all accounts"):
    t.show([a.id for a in Account.objects.order_by("id").iterator(chunk_size=5)])
    with transaction.atomic():
        rows = Order.objects.order_by("account_id", "number").iterator(chunk_size=3)
        t.show(next(rows).account_id)
        Account.objects.filter(id=3).update(name="meanwhile")
        t.show(len(list(rows)), Account.objects.get(id=3).name)
    t.rows(Account.objects.values("country_id").annotate(n=Count("id")).order_by("country_id").values_list("country_id", "n").iterator(chunk_size=1))

with t.step("an outer join that keeps rows of a reference table"):
    t.rows(Country.objects.annotate(n=Count("account")).order_by("code").values_list("code", "n"))

with t.step("distinct values counted"):
    t.show(Account.objects.aggregate(Count("country", distinct=True)))

with t.step("roll migrations back"):
    call_command("migrate", "shop", "0002", verbosity=1, no_color=True)
    call_command("migrate", "shop", "zero", verbosity=1, no_color=True)
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE django_migrations")
        t.show(connection.introspection.table_names(cursor))
t.end()
