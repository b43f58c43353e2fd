-- Rows of this shard that a write of one of the images would be refused for, by a UNIQUE index other than the primary key's (23505)
-- or an exclusion constraint (23P01), and whether they lie in the arcs. A partial index compares only rows that it holds.
CREATE OR REPLACE FUNCTION ringway.unique_conflicts(rel regclass, arcs int8multirange, images text[])
RETURNS TABLE (row_now text, moving bool)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'
SET TimeZone = 'UTC' SET extra_float_digits = 3 SET bytea_output = 'hex' SET lc_monetary = 'C' SET xmloption = 'content' AS $$
DECLARE
    t ringway.sharded_table;
    row_type text := ringway.row_type(rel);
    i record;
BEGIN
    SELECT * INTO STRICT t FROM ringway.sharded_table s WHERE s.relation = rel;
    FOR i IN
        SELECT x.indexrelid, coalesce(pg_get_expr(x.indpred, x.indrelid), 'TRUE') AS predicate,
            ARRAY(SELECT pg_get_indexdef(x.indexrelid, g, true) FROM generate_series(1, x.indnkeyatts) g) AS keys,
            -- The constraint's own operators, or equality as the index's operator class has it.
            ARRAY(SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname) FROM generate_series(1, x.indnkeyatts) g
                  JOIN pg_opclass oc ON oc.oid = x.indclass[g - 1]
                  LEFT JOIN pg_constraint c ON c.conindid = x.indexrelid AND c.contype = 'x'
                  LEFT JOIN pg_amop am ON c.oid IS NULL AND am.amopfamily = oc.opcfamily AND am.amopstrategy = 3
                      AND am.amoplefttype = oc.opcintype AND am.amoprighttype = oc.opcintype
                  JOIN pg_operator o ON o.oid = coalesce(c.conexclop[g], am.amopopr) JOIN pg_namespace n ON n.oid = o.oprnamespace
                  ORDER BY g) AS operators,
            -- A column that only newer servers have.
            coalesce((to_jsonb(x) ->> 'indnullsnotdistinct')::bool, false) AS nulls_are_equal
        FROM pg_index x WHERE x.indrelid = rel AND (x.indisunique OR x.indisexclusion) AND NOT x.indisprimary
    LOOP
        RETURN QUERY EXECUTE (
            SELECT format('SELECT (t."ringway row")::text, coalesce($1 @> ringway.token((t."ringway row").%I), false)
                FROM (SELECT %s FROM (SELECT (i.image::%s).* FROM unnest($2) i(image)) n WHERE %s) k,
                     (SELECT (r.*)::%s AS "ringway row", r.* FROM %s r WHERE %s) t WHERE %s',
                t.key_column,
                string_agg(format('%s AS "ringway key %s"', key, place), ', ' ORDER BY place), row_type, i.predicate,
                row_type, row_type, i.predicate,
                string_agg(format(CASE WHEN i.nulls_are_equal
                        THEN '(%1$s %2$s k."ringway key %3$s" OR %1$s IS NULL AND k."ringway key %3$s" IS NULL)'
                        ELSE '%1$s %2$s k."ringway key %3$s"' END, key, operator, place), ' AND ' ORDER BY place))
            FROM unnest(i.keys, i.operators) WITH ORDINALITY u(key, operator, place))
            USING arcs, images;
    END LOOP;
END $$;
