"""A small shop: everything of an account lies where the account is."""

from django.db import models


class Country(models.Model):
    code = models.CharField(max_length=2, primary_key=True)
    name = models.TextField()


class Account(models.Model):
    id = models.BigIntegerField(primary_key=True)
    name = models.CharField(max_length=80, db_index=True)
    country = models.ForeignKey(Country, models.PROTECT, null=True)
    active = models.BooleanField(default=True)
    created = models.DateTimeField(auto_now_add=True)


class Order(models.Model):
    pk = models.CompositePrimaryKey("account_id", "number")
    account = models.ForeignKey(Account, models.CASCADE, related_name="orders")
    number = models.BigIntegerField()
    total = models.DecimalField(max_digits=12, decimal_places=2)
    extra = models.JSONField(null=True)
    took = models.DurationField(null=True)
    blob = models.BinaryField(null=True)
    day = models.DateField(null=True)


class Ticket(models.Model):
    body = models.TextField()
