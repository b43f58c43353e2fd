-- no-transaction
SELECT create_distributed_table('events', 'tenant_id');
