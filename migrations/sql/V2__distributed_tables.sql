-- Distributed tables by the names that the topology knows. A schema change can neither rename one behind the topology's
-- back, nor give the name of a dropped one away before every gateway has forgotten it.

-- A row whose relation is gone is of a dropped table. The control plane deletes it when no gateway routes by that name.
CREATE TABLE ringway.distributed_table (
    relation oid PRIMARY KEY,
    table_schema name NOT NULL,
    table_name name NOT NULL,
    dropped_by xid8
);

CREATE FUNCTION ringway.record_table(rel regclass) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO ringway.distributed_table (relation, table_schema, table_name)
    SELECT c.oid, n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = rel
    ON CONFLICT (relation) DO UPDATE SET table_schema = excluded.table_schema, table_name = excluded.table_name
$$;

SELECT ringway.record_table(s.relation) FROM ringway.sharded_table s
    WHERE EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = s.relation);
SELECT ringway.record_table(t.tgrelid) FROM pg_catalog.pg_trigger t WHERE t.tgname = 'ringway_reference_guard';

-- What generate_functions has made for one table.
CREATE FUNCTION ringway.drop_functions(rel oid) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE f regprocedure;
BEGIN
    FOR f IN SELECT p.oid FROM pg_proc p WHERE p.pronamespace = 'ringway'::regnamespace
        AND p.proname IN ('guard_' || rel, 'apply_' || rel, 'current_' || rel, 'uncaptured_' || rel) LOOP
        EXECUTE format('DROP FUNCTION %s', f);
    END LOOP;
END $$;

-- A table is single from now on: nothing here guards it any more. The caller has it locked.
CREATE FUNCTION ringway.forget_table(rel regclass) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE t name;
BEGIN
    FOR t IN SELECT g.tgname FROM pg_trigger g WHERE g.tgrelid = rel
        AND (g.tgname LIKE 'ringway\_guard\_%' OR g.tgname = 'ringway_reference_guard') LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', t, rel);
    END LOOP;
    PERFORM ringway.drop_functions(rel);
    DELETE FROM ringway.sharded_table s WHERE s.relation = rel;
    DELETE FROM ringway.distributed_table d WHERE d.relation = rel;
END $$;

-- Called by the gateway behind every schema change, in its transaction. `everywhere`: the change runs on every shard.
CREATE FUNCTION ringway.finish_ddl(everywhere bool) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t record;
BEGIN
    FOR t IN
        SELECT d.relation, format('%I.%I', d.table_schema, d.table_name) AS known_as, d.dropped_by, c.oid AS present,
               (n.nspname, c.relname) = (d.table_schema, d.table_name) AS same_name, s.keyspace, s.key_column,
               EXISTS (SELECT FROM pg_class o JOIN pg_namespace m ON m.oid = o.relnamespace
                       WHERE m.nspname = d.table_schema AND o.relname = d.table_name AND o.oid <> d.relation) AS taken
        FROM ringway.distributed_table d
        LEFT JOIN pg_class c ON c.oid = d.relation
        LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN ringway.sharded_table s ON s.relation = d.relation
    LOOP
        IF t.present IS NOT NULL THEN
            IF NOT t.same_name THEN
                RAISE EXCEPTION 'table % cannot be renamed while it is distributed', t.known_as
                    USING ERRCODE = '0A000', DETAIL = 'The cluster knows it by its name.',
                    HINT = format('First SELECT undistribute_table(%L); rename it, then distribute it again.', t.known_as);
            END IF;
            IF t.key_column IS NOT NULL AND NOT EXISTS (
                    SELECT FROM pg_attribute a WHERE a.attrelid = t.relation AND a.attname = t.key_column AND a.attnotnull) THEN
                RAISE EXCEPTION 'the shard key "%" of % cannot be dropped, renamed or made nullable', t.key_column, t.known_as
                    USING ERRCODE = '0A000', DETAIL = 'The rows are placed by it.',
                    HINT = format('First SELECT undistribute_table(%L); change it, then distribute the table again.', t.known_as);
            END IF;
            CONTINUE;
        END IF;
        IF t.dropped_by IS NULL THEN
            IF NOT everywhere THEN
                RAISE EXCEPTION 'table % can only be dropped on all shards at once', t.known_as
                    USING ERRCODE = '0A000', DETAIL = 'The session works on one shard (ringway.shard).',
                    HINT = 'RESET ringway.shard, then drop it.';
            END IF;
            IF EXISTS (SELECT FROM ringway.move m WHERE m.keyspace = t.keyspace) THEN
                RAISE EXCEPTION 'table % cannot be dropped while rows of its keyspace are moving', t.known_as
                    USING ERRCODE = 'RW006', HINT = 'Wait for the move to end ("shardctl moves").';
            END IF;
            PERFORM ringway.drop_functions(t.relation);
            DELETE FROM ringway.sharded_table s WHERE s.relation::oid = t.relation;
            UPDATE ringway.distributed_table d SET dropped_by = pg_current_xact_id() WHERE d.relation = t.relation;
        END IF;
        IF t.taken AND (t.dropped_by IS NULL OR t.dropped_by = pg_current_xact_id()) THEN
            RAISE EXCEPTION 'the name % cannot be used again in the transaction that drops the distributed table', t.known_as
                USING ERRCODE = '0A000', DETAIL = 'Until it commits, the cluster knows the old table by this name.',
                HINT = 'Commit the DROP first, then create the table.';
        END IF;
        IF t.taken THEN
            RAISE EXCEPTION 'the name % is still known as that of a distributed table that was dropped', t.known_as
                USING ERRCODE = 'RW004',
                HINT = 'Try again in a moment; the control plane ("shardctl serve") forgets it when every gateway has.';
        END IF;
    END LOOP;
END $$;

-- The next value of an identity column, for whoever may insert: a gateway takes it before it knows the row's shard.
CREATE FUNCTION ringway.next_identity(rel regclass, column_name text) RETURNS int8
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT has_any_column_privilege(session_user, rel, 'INSERT') THEN
        RAISE EXCEPTION 'permission denied for table %', (SELECT c.relname FROM pg_class c WHERE c.oid = rel)
            USING ERRCODE = '42501';
    END IF;
    RETURN nextval(pg_get_serial_sequence(rel::text, column_name));
END $$;

REVOKE ALL ON FUNCTION ringway.next_identity(regclass, text), ringway.record_table(regclass), ringway.drop_functions(oid), ringway.forget_table(regclass),
    ringway.finish_ddl(bool) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ringway.finish_ddl(bool), ringway.next_identity(regclass, text) TO PUBLIC;
