from django.db import migrations, models


def rename(apps, schema_editor):
    country = apps.get_model("shop", "Country")
    country.objects.create(code="xx", name="nowhere")


class Migration(migrations.Migration):
    dependencies = [("shop", "0002_distribute")]
    operations = [
        migrations.AddField("Account", "active", models.BooleanField(default=True)),
        migrations.AddField("Order", "day", models.DateField(null=True)),
        migrations.AddIndex("Order", models.Index(fields=["account", "day"], name="order_day")),
        migrations.RunPython(rename, migrations.RunPython.noop),
    ]
