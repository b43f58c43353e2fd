-- no-transaction
SELECT create_distributed_table('owned', 'id');
