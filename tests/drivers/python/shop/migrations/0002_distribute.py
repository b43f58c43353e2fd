from django.db import migrations


class Migration(migrations.Migration):
    # Tables are distributed outside transactions.
    atomic = False
    dependencies = [("shop", "0001_initial")]
    operations = [
        migrations.RunSQL("SELECT create_reference_table('shop_country')", migrations.RunSQL.noop),
        migrations.RunSQL("SELECT create_distributed_table('shop_account', 'id')", migrations.RunSQL.noop),
        migrations.RunSQL("SELECT create_distributed_table('shop_order', 'account_id')", migrations.RunSQL.noop),
        migrations.RunSQL("SELECT create_distributed_table('shop_ticket', 'id')", migrations.RunSQL.noop),
    ]
