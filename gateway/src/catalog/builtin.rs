//! Functions of PostgreSQL's own whose answers depend on where or when they are called, beyond what `provolatile` says.

/// State of the server or of one session on it: sequences, locks, transaction ids, files, activity.
pub fn is_of_server(name: &str) -> bool {
    const PREFIXES: &[&str] = &[
        "pg_advisory",
        "pg_try_advisory",
        "pg_stat_",
        "pg_current_wal",
        "pg_last_",
        "pg_wal",
        "pg_control_",
        "pg_ls_",
        "pg_read_",
        "pg_logical_",
        "pg_replication_",
        "inet_server_",
        "inet_client_",
        "lo_",
        "dblink",
    ];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

const NAMES: &[&str] = &[
    "nextval",
    "setval",
    "currval",
    "lastval",
    "pg_notify",
    "set_config",
    "txid_current",
    "txid_current_if_assigned",
    "txid_current_snapshot",
    "pg_current_xact_id",
    "pg_current_xact_id_if_assigned",
    "pg_current_snapshot",
    "pg_backend_pid",
    "pg_cancel_backend",
    "pg_terminate_backend",
    "pg_export_snapshot",
    "pg_total_relation_size",
    "pg_relation_size",
    "pg_table_size",
    "pg_indexes_size",
    "pg_database_size",
    "pg_tablespace_size",
    "pg_relation_filepath",
    "pg_relation_filenode",
    "pg_postmaster_start_time",
    "pg_conf_load_time",
    "pg_is_in_recovery",
    "pg_blocking_pids",
    "pg_lock_status",
    "pg_prepared_xact",
    "pg_listening_channels",
    "pg_notification_queue_usage",
    "pg_my_temp_schema",
    "query_to_xml",
    "cursor_to_xml",
    "table_to_xml",
    "schema_to_xml",
    "database_to_xml",
    "query_to_xml_and_xmlschema",
    "table_to_xml_and_xmlschema",
    "loread",
    "lowrite",
    "pg_sequence_last_value",
    "pg_get_serial_sequence",
];

/// Key words that read the clock; they are reserved, so no unquoted name is one of them.
pub fn is_clock_word(word: &str) -> bool {
    matches!(word, "current_timestamp" | "current_date" | "current_time" | "localtime" | "localtimestamp")
}

/// Functions without arguments that read the clock, as it was when the transaction or the statement began.
pub fn is_clock_function(name: &str) -> bool {
    matches!(name, "now" | "transaction_timestamp" | "statement_timestamp")
}

/// Views and functions that list what a server knows of its own session.
pub fn is_list_of_session(name: &str) -> bool {
    matches!(name, "pg_prepared_statements" | "pg_prepared_statement" | "pg_cursors" | "pg_cursor")
}

/// What reads like a function and is grammar.
pub fn is_grammar(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "coalesce",
        "nullif",
        "greatest",
        "least",
        "grouping",
        "row",
        "array",
        "exists",
        "any",
        "all",
        "some",
        "cast",
        "treat",
        "normalize",
        "overlay",
        "position",
        "substring",
        "trim",
        "extract",
    ];
    NAMES.contains(&name)
        || name.starts_with("xml")
        || name.starts_with("json_")
        || crate::sql::dialect::is_made_up_call(name)
}
