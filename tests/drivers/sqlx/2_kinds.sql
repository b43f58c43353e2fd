-- no-transaction: tables are distributed outside transactions, each by a statement of its own.
SELECT create_reference_table('kinds');
