-- A cutover looks once, before writes are held, at everything that makes a copy worthless; while they are held it only asks
-- whether the catalog has changed since. Everything here is PL/pgSQL, whose plans a session keeps: what the first call cost
-- is not paid again under the fence.

-- Different after any change to these tables, their partitions, columns, triggers, constraints or indexes, and after a failover.
-- Also after changes that do no harm: it says that one must look, not what is found.
CREATE FUNCTION ringway.catalog_stamp(table_schemas text[], table_names text[]) RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    relations oid[];
    stamp text;
BEGIN
    relations := ARRAY(
        SELECT coalesce(p.relid::oid, c.oid) FROM unnest(table_schemas, table_names) wanted(schema_name, table_name)
        JOIN pg_namespace n ON n.nspname = wanted.schema_name
        JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.table_name
        LEFT JOIN LATERAL pg_partition_tree(c.oid) p ON true);
    SELECT md5(string_agg(line, ',' ORDER BY line)) INTO stamp FROM (
        SELECT concat_ws(':', 'class', c.oid, c.xmin, c.relfilenode) FROM pg_class c WHERE c.oid = ANY (relations)
        UNION ALL SELECT concat_ws(':', 'column', a.attrelid, a.attnum, a.xmin) FROM pg_attribute a
            WHERE a.attrelid = ANY (relations) AND a.attnum > 0
        UNION ALL SELECT concat_ws(':', 'default', d.adrelid, d.adnum, d.xmin) FROM pg_attrdef d WHERE d.adrelid = ANY (relations)
        UNION ALL SELECT concat_ws(':', 'trigger', t.oid, t.xmin) FROM pg_trigger t WHERE t.tgrelid = ANY (relations)
        UNION ALL SELECT concat_ws(':', 'constraint', c.oid, c.xmin) FROM pg_constraint c WHERE c.conrelid = ANY (relations)
        UNION ALL SELECT concat_ws(':', 'index', i.indexrelid, i.xmin) FROM pg_index i WHERE i.indrelid = ANY (relations)
        UNION ALL SELECT concat_ws(':', 'inherits', i.inhrelid, i.xmin) FROM pg_inherits i WHERE i.inhparent = ANY (relations)
    ) lines(line);
    RETURN concat_ws(':', (SELECT s.system_identifier FROM pg_control_system() s),
        substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8), stamp);
END $$;

-- Until this transaction ends nobody rewrites one of these tables, changes its triggers or its partitions; writers are not
-- hindered. With the stamp as it is then.
CREATE FUNCTION ringway.fence_tables(table_schemas text[], table_names text[]) RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE wanted regclass;
DECLARE part regclass;
BEGIN
    FOR wanted IN SELECT c.oid FROM unnest(table_schemas, table_names) WITH ORDINALITY w(schema_name, table_name, place)
        JOIN pg_namespace n ON n.nspname = w.schema_name
        JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.table_name ORDER BY w.place
    LOOP
        -- Partitions come and go under a weaker lock than a writer's conflicts with. It comes first: whoever attaches one has it
        -- and then wants the partitions'.
        FOR part IN SELECT p.relid FROM pg_partition_tree(wanted) p WHERE NOT p.isleaf ORDER BY p.level, p.relid LOOP
            EXECUTE format('LOCK TABLE ONLY %s IN SHARE UPDATE EXCLUSIVE MODE', part);
        END LOOP;
        -- As any writer does; conflicts with whatever rewrites a table or changes its triggers.
        EXECUTE format('LOCK TABLE %s IN ROW EXCLUSIVE MODE', wanted);
    END LOOP;
    RETURN ringway.catalog_stamp(table_schemas, table_names);
END $$;

REVOKE ALL ON FUNCTION ringway.catalog_stamp(text[], text[]), ringway.fence_tables(text[], text[]) FROM PUBLIC;
