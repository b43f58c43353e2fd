from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    operations = [
        migrations.CreateModel("Country", [
            ("code", models.CharField(max_length=2, primary_key=True)),
            ("name", models.TextField()),
        ]),
        migrations.CreateModel("Account", [
            ("id", models.BigIntegerField(primary_key=True)),
            ("name", models.CharField(max_length=80, db_index=True)),
            ("country", models.ForeignKey("shop.Country", models.PROTECT, null=True)),
            ("created", models.DateTimeField(auto_now_add=True)),
        ]),
        migrations.CreateModel("Order", [
            ("pk", models.CompositePrimaryKey("account_id", "number", primary_key=True)),
            ("account", models.ForeignKey("shop.Account", models.CASCADE, related_name="orders")),
            ("number", models.BigIntegerField()),
            ("total", models.DecimalField(max_digits=12, decimal_places=2)),
            ("extra", models.JSONField(null=True)),
            ("took", models.DurationField(null=True)),
            ("blob", models.BinaryField(null=True)),
        ]),
        migrations.CreateModel("Ticket", [
            ("id", models.BigAutoField(primary_key=True)),
            ("body", models.TextField()),
        ]),
    ]
