-- no-transaction
SELECT create_distributed_table('tenants', 'id');
