SELECT json_build_object(
  -- The database's default collation is byte order: C and C.UTF-8 of the C library, or the builtin provider (17 and newer).
  'strings_by_bytes', (
    SELECT CASE coalesce(to_jsonb(d)->>'datlocprovider', 'c')
        WHEN 'c' THEN d.datcollate IN ('C', 'POSIX', 'C.UTF-8', 'C.utf8')
        WHEN 'b' THEN coalesce(to_jsonb(d)->>'datlocale', '') IN ('C', 'C.UTF-8')
        ELSE false END
      AND pg_catalog.pg_encoding_to_char(d.encoding) = 'UTF8'
    FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()),
  'schemas', (SELECT json_agg(nspname) FROM pg_catalog.pg_namespace),
  'system', (
    SELECT json_agg(json_build_array(n.nspname, c.relname))
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname IN ('pg_catalog', 'information_schema') AND c.relkind IN ('r', 'v', 'p', 'm')),
  'relations', (
    SELECT json_agg(json_build_object(
      'schema', n.nspname, 'name', c.relname, 'kind', c.relkind,
      'columns', coalesce((
        SELECT json_agg(json_build_object(
            'name', a.attname, 'type_oid', a.atttypid::int8, 'typmod', a.atttypmod, 'not_null', a.attnotnull,
            'default', pg_catalog.pg_get_expr(d.adbin, d.adrelid),
            'identity', a.attidentity <> '', 'generated', a.attgenerated <> '',
            'nondeterministic', coalesce(NOT l.collisdeterministic, false),
            'own_collation', a.attcollation NOT IN (0, 100))
          ORDER BY a.attnum)
        FROM pg_catalog.pg_attribute a
        LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '[]'),
      'primary_key', coalesce((
        SELECT json_agg(a.attname ORDER BY k.place)
        FROM pg_catalog.pg_constraint p, unnest(p.conkey) WITH ORDINALITY AS k(attnum, place)
        JOIN pg_catalog.pg_attribute a ON a.attnum = k.attnum
        WHERE p.conrelid = c.oid AND p.contype = 'p' AND a.attrelid = c.oid), '[]'),
      'reads', coalesce((
        SELECT json_agg(DISTINCT jsonb_build_array(rn.nspname, rc.relname))
        FROM pg_catalog.pg_rewrite w
        JOIN pg_catalog.pg_depend e ON e.classid = 'pg_catalog.pg_rewrite'::regclass AND e.objid = w.oid
          AND e.refclassid = 'pg_catalog.pg_class'::regclass AND e.refobjid <> c.oid
        JOIN pg_catalog.pg_class rc ON rc.oid = e.refobjid
        JOIN pg_catalog.pg_namespace rn ON rn.oid = rc.relnamespace
        WHERE w.ev_class = c.oid), '[]'),
      'parents', coalesce((
        SELECT json_agg(json_build_array(pn.nspname, pc.relname))
        FROM pg_catalog.pg_inherits i
        JOIN pg_catalog.pg_class pc ON pc.oid = i.inhparent
        JOIN pg_catalog.pg_namespace pn ON pn.oid = pc.relnamespace
        WHERE i.inhrelid = c.oid), '[]'),
      'triggers', EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal
          AND t.tgname NOT LIKE 'ringway\_%')
        OR EXISTS (SELECT FROM pg_catalog.pg_rewrite w WHERE w.ev_class = c.oid AND w.ev_type <> '1'),
      'cascades', coalesce((
        SELECT json_agg(DISTINCT jsonb_build_array(fn.nspname, fc.relname))
        FROM pg_catalog.pg_constraint f
        JOIN pg_catalog.pg_class fc ON fc.oid = f.conrelid
        JOIN pg_catalog.pg_namespace fn ON fn.oid = fc.relnamespace
        WHERE f.confrelid = c.oid AND f.contype = 'f' AND (f.confdeltype IN ('c', 'n', 'd') OR f.confupdtype IN ('c', 'n', 'd'))),
        '[]'),
      'foreign_keys', coalesce((
        SELECT json_agg(json_build_object('name', f.conname, 'table', json_build_array(fn.nspname, fc.relname),
          'columns', (SELECT json_agg(a.attname ORDER BY k.place)
            FROM unnest(f.conkey) WITH ORDINALITY AS k(attnum, place)
            JOIN pg_catalog.pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.attnum),
          'referred', (SELECT json_agg(a.attname ORDER BY k.place)
            FROM unnest(f.confkey) WITH ORDINALITY AS k(attnum, place)
            JOIN pg_catalog.pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = k.attnum)))
        FROM pg_catalog.pg_constraint f
        JOIN pg_catalog.pg_class fc ON fc.oid = f.confrelid
        JOIN pg_catalog.pg_namespace fn ON fn.oid = fc.relnamespace
        WHERE f.conrelid = c.oid AND f.contype = 'f'), '[]'),
      'read_rules', pg_catalog.concat_ws(' ; ',
        CASE WHEN c.relkind IN ('v', 'm') THEN pg_catalog.pg_get_viewdef(c.oid) END,
        (SELECT pg_catalog.string_agg(pg_catalog.pg_get_expr(o.polqual, o.polrelid), ' ; ')
          FROM pg_catalog.pg_policy o WHERE o.polrelid = c.oid AND c.relrowsecurity)),
      -- What may change a row before it is stored: triggers BEFORE ... FOR EACH ROW, by TRIGGER_TYPE_* of pg_trigger.h.
      'row_triggers', coalesce((
        SELECT json_agg(json_build_object('function', p.proname, 'own', n.nspname <> 'pg_catalog',
          'insert', t.tgtype & 4 <> 0, 'update', t.tgtype & 16 <> 0))
        FROM pg_catalog.pg_trigger t
        JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
        JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
        WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgname NOT LIKE 'ringway\_%'
          AND t.tgtype & 3 = 3 AND t.tgtype & 20 <> 0), '[]'),
      'write_rules', (
        SELECT json_object_agg(e.kind, pg_catalog.concat_ws(' ; ',
          (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ; ', pg_catalog.pg_get_expr(o.polqual, o.polrelid),
              pg_catalog.pg_get_expr(o.polwithcheck, o.polrelid)), ' ; ')
            FROM pg_catalog.pg_policy o WHERE o.polrelid = c.oid AND c.relrowsecurity),
          (SELECT pg_catalog.string_agg(pg_catalog.pg_get_constraintdef(k.oid), ' ; ')
            FROM pg_catalog.pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'c' AND e.kind <> 'delete'),
          (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ; ', pg_catalog.pg_get_expr(i.indexprs, i.indrelid),
              pg_catalog.pg_get_expr(i.indpred, i.indrelid)), ' ; ')
            FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND e.kind <> 'delete'),
          (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(p.proname) || '() ; '
              || coalesce(pg_catalog.pg_get_expr(t.tgqual, t.tgrelid), ''), ' ; ')
            FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
            WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgname NOT LIKE 'ringway\_%'
              AND t.tgtype & e.bit <> 0),
          (SELECT pg_catalog.string_agg(
              pg_catalog.regexp_replace(pg_catalog.pg_get_ruledef(w.oid), '^CREATE RULE', 'DO'), ' ; ')
            FROM pg_catalog.pg_rewrite w WHERE w.ev_class = c.oid AND w.ev_type = e.rule)))
        -- TRIGGER_TYPE_* of pg_trigger.h and the event of pg_rewrite.
        FROM (VALUES ('insert', 4, '3'::"char"), ('update', 16, '2'), ('delete', 8, '4')) AS e (kind, bit, rule))))
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'ringway')
      AND n.nspname NOT LIKE 'pg\_toast%' AND n.nspname NOT LIKE 'pg\_temp\_%'
      AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')),
  'functions', (
    SELECT json_agg(json_build_array(f.proname, f.facts))
    FROM (
      SELECT p.proname, json_build_object(
          'volatility', max(CASE p.provolatile WHEN 'i' THEN 'i' WHEN 's' THEN 's' ELSE 'v' END),
          'aggregate', bool_or(p.prokind = 'a'),
          'set_returning', bool_or(p.proretset),
          'user_defined', bool_or(n.nspname <> 'pg_catalog')) AS facts
      FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
      WHERE n.nspname NOT IN ('ringway', 'information_schema')
      GROUP BY p.proname) f),
  'routines', (
    SELECT json_agg(json_build_object('name', p.proname,
        'language', CASE WHEN p.prokind = 'a' THEN 'sql' ELSE l.lanname END,
        'source', CASE WHEN p.prokind = 'a' THEN (
            -- An aggregate does what its functions do.
            SELECT pg_catalog.concat(g.aggtransfn, '() ', g.aggfinalfn, '() ', g.aggcombinefn, '()')
            FROM pg_catalog.pg_aggregate g WHERE g.aggfnoid = p.oid)
          ELSE coalesce(pg_catalog.pg_get_function_sqlbody(p.oid), p.prosrc) END,
        'signature', pg_catalog.concat('(', pg_catalog.pg_get_function_arguments(p.oid), ' ',
          pg_catalog.pg_get_function_result(p.oid), ')')))
    FROM pg_catalog.pg_proc p
    JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    JOIN pg_catalog.pg_language l ON l.oid = p.prolang
    WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'ringway') AND n.nspname NOT LIKE 'pg\_toast%'
      AND (l.lanname NOT IN ('internal', 'c') OR p.prokind = 'a')),
  -- What is run when a value becomes one of a type: CHECK constraints and defaults of domains; and what it is made of.
  'types', (
    SELECT json_agg(json_build_object('oid', t.oid::int8, 'name', t.typname,
      'is_row', coalesce(c.relkind <> 'c', false),
      'checks', pg_catalog.concat_ws(' ; ', t.typdefault, (
        SELECT pg_catalog.string_agg(pg_catalog.pg_get_constraintdef(o.oid), ' ; ')
        FROM pg_catalog.pg_constraint o WHERE o.contypid = t.oid AND o.contype = 'c')),
      'parts', (SELECT json_agg(m.part::int8) FROM (
        SELECT t.typbasetype WHERE t.typtype = 'd'
        UNION ALL SELECT t.typelem WHERE t.typelem <> 0
        UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a
          WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid) AS m (part))))
    FROM pg_catalog.pg_type t
    JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
    LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
    WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'ringway')
      AND n.nspname NOT LIKE 'pg\_toast%' AND n.nspname NOT LIKE 'pg\_temp\_%'),
  'casts', (
    SELECT json_agg(json_build_object('source', json_build_array(s.oid::int8, s.typname),
      'target', json_build_array(t.oid::int8, t.typname), 'call', pg_catalog.quote_ident(p.proname) || '()'))
    FROM pg_catalog.pg_cast c
    JOIN pg_catalog.pg_type s ON s.oid = c.castsource
    JOIN pg_catalog.pg_type t ON t.oid = c.casttarget
    JOIN pg_catalog.pg_proc p ON p.oid = c.castfunc
    JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    JOIN pg_catalog.pg_language l ON l.oid = p.prolang
    WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'ringway') AND l.lanname NOT IN ('internal', 'c')),
  'operators', (
    SELECT json_agg(json_build_array(o.oprname, p.proname))
    FROM pg_catalog.pg_operator o
    JOIN pg_catalog.pg_proc p ON p.oid = o.oprcode
    JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
    WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'ringway'))
)::text
