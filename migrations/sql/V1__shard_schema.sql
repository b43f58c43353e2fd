-- What Ringway keeps on a shard, and the only place where its safety is enforced.
--
-- All of it belongs to the role that installs it, the *service role*; the guards recognise the mirror, the sweeper and
-- the backfill by session_user, which no setting of a client can change. Applications run as other roles and reach
-- these tables only through SECURITY DEFINER functions; those that decide something also ask for the cluster's secret.
--
-- SQLSTATEs of our own:
--   RW001  INFO: this transaction has captured rows; DETAIL is its xid8
--   RW002  the rows' arcs are closed to application writes here: another shard has them, or a cutover is under way
--   RW003  this shard has seen a newer epoch than the caller's
--   RW004  reference tables or DDL are fenced for the moment: a shard is joining, or a table is being changed
--   RW005  a mirrored row meets a row of the target's own with the same primary key
--   RW006  not allowed while rows of this table are moving
--   RW007  no such move here

GRANT USAGE ON SCHEMA ringway TO PUBLIC;

-- ---------------------------------------------------------------------------------------------------------------------
-- Who this shard is.

CREATE TABLE ringway.shard (
    one bool PRIMARY KEY DEFAULT true CHECK (one),
    cluster_id text NOT NULL,
    secret text NOT NULL,
    shard_no int NOT NULL CHECK (shard_no BETWEEN 1 AND 65535),
    shard_name text NOT NULL,
    service_role name NOT NULL DEFAULT session_user,
    -- A gateway whose lease ran out may be served here only if it knows an epoch of at least this.
    epoch_floor bigint NOT NULL DEFAULT 0,
    reference_fence bool NOT NULL DEFAULT false,
    ddl_fence bool NOT NULL DEFAULT false
);

CREATE FUNCTION ringway.check_secret(secret text) RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM ringway.shard s WHERE s.secret = check_secret.secret) THEN
        RAISE EXCEPTION 'only a Ringway gateway may call this' USING ERRCODE = '42501';
    END IF;
END $$;

-- ---------------------------------------------------------------------------------------------------------------------
-- Tokens. Immutable and inlinable: a single expression, no SET clause, not strict.

CREATE FUNCTION ringway.token(key int2) RETURNS int8 LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT pg_catalog.hashint8extended(key::pg_catalog.int8, 0) $$;
CREATE FUNCTION ringway.token(key int4) RETURNS int8 LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT pg_catalog.hashint8extended(key::pg_catalog.int8, 0) $$;
CREATE FUNCTION ringway.token(key int8) RETURNS int8 LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT pg_catalog.hashint8extended(key, 0) $$;
CREATE FUNCTION ringway.token(key text) RETURNS int8 LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT pg_catalog.hashtextextended(key, 0) $$;
CREATE FUNCTION ringway.token(key bpchar) RETURNS int8 LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT pg_catalog.hashbpcharextended(key, 0) $$;
CREATE FUNCTION ringway.token(key uuid) RETURNS int8 LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT pg_catalog.uuid_hash_extended(key, 0) $$;
CREATE FUNCTION ringway.token(key numeric) RETURNS int8 LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT pg_catalog.hash_numeric_extended(key, 0) $$;
CREATE FUNCTION ringway.token(key timestamp) RETURNS int8 LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT pg_catalog.timestamp_hash_extended(key, 0) $$;
-- With one column the record's hash is its element's.
CREATE FUNCTION ringway.token(key timestamptz) RETURNS int8 LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT CASE WHEN key IS NULL THEN NULL ELSE pg_catalog.hash_record_extended(ROW(key), 0) END $$;
CREATE FUNCTION ringway.token(key date) RETURNS int8 LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT CASE WHEN key IS NULL THEN NULL ELSE pg_catalog.hash_record_extended(ROW(key), 0) END $$;
CREATE FUNCTION ringway.token(key bytea) RETURNS int8 LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT CASE WHEN key IS NULL THEN NULL ELSE pg_catalog.hash_record_extended(ROW(key), 0) END $$;

-- ---------------------------------------------------------------------------------------------------------------------
-- Epoch floor, reference fence, DDL fence. Each is checked under a shared advisory lock that its change conflicts with,
-- so that a change waits for the statements that passed the check.
--   advisory class 0x52570001: epoch floor   0x52570002: reference tables   0x52570003: DDL   0x52570010, keyspace: its guards
--   0x52570011, move: the mirror's writes on the target
--   0x52570020, low 32 bits of the gateway's number: held (shared, session level) by every session of a gateway on the
--   shard, so that they can be found and ended

-- Guarded mode: the statement that follows in the same transaction is served only if this shard knows nothing newer.
CREATE FUNCTION ringway.check_epoch(epoch bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE floor bigint;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(x'52570001'::int, 0);
    SELECT s.epoch_floor INTO floor FROM ringway.shard s;
    IF floor > epoch THEN
        RAISE EXCEPTION 'this shard has seen epoch %, the gateway knows only epoch %', floor, epoch
            USING ERRCODE = 'RW003', HINT = 'The gateway is cut off from the control plane; try again when it is connected.';
    END IF;
END $$;

CREATE FUNCTION ringway.raise_epoch_floor(epoch bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(x'52570001'::int, 0);
    UPDATE ringway.shard SET epoch_floor = greatest(epoch_floor, epoch);
END $$;

-- Called by the gateway at the start of every transaction part that runs DDL on this shard.
CREATE FUNCTION ringway.begin_ddl() RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(x'52570003'::int, 0);
    IF (SELECT s.ddl_fence FROM ringway.shard s) THEN
        RAISE EXCEPTION 'schema changes wait: a shard is joining or a table is being distributed'
            USING ERRCODE = 'RW004', HINT = 'Try again in a moment; "shardctl moves" shows what is running.';
    END IF;
END $$;

-- Statement trigger of every reference table.
CREATE FUNCTION ringway.reference_guard() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF session_user = (SELECT s.service_role FROM ringway.shard s) THEN RETURN NULL; END IF;
    PERFORM pg_advisory_xact_lock_shared(x'52570002'::int, 0);
    -- Under an old snapshot a plain read could miss the fence; a locking read cannot.
    IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
        PERFORM FROM ringway.shard FOR SHARE;
    END IF;
    IF (SELECT s.reference_fence FROM ringway.shard s) THEN
        RAISE EXCEPTION 'writes to reference tables wait: a shard is joining'
            USING ERRCODE = 'RW004', HINT = 'Try again in a moment; "shardctl moves" shows what is running.';
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION ringway.set_fences(reference bool, ddl bool) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(x'52570003'::int, 0);
    PERFORM pg_advisory_xact_lock(x'52570002'::int, 0);
    UPDATE ringway.shard SET reference_fence = reference, ddl_fence = ddl;
END $$;

-- ---------------------------------------------------------------------------------------------------------------------
-- Distributed transactions. A gid is 'ringway:1:<anchor shard no>:<anchor xid8>:<gateway>:<n>'; the row, committed on the
-- anchor, is the decision to commit.

CREATE TABLE ringway.decided (
    gid text PRIMARY KEY,
    decided_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE FUNCTION ringway.decide(secret text, gid text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM ringway.check_secret(secret);
    INSERT INTO ringway.decided (gid) VALUES (decide.gid);
END $$;

-- pg_xact_status that never fails: an xid "in the future" (given out before a crash, its WAL not flushed) has ended.
CREATE FUNCTION ringway.xact_in_progress(xid xid8) RETURNS bool
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN coalesce(pg_xact_status(xid) = 'in progress', false);
EXCEPTION WHEN invalid_parameter_value THEN
    RETURN false;
END $$;

-- ---------------------------------------------------------------------------------------------------------------------
-- Tables that are sharded here, moves that this shard takes part in, and what the guards enforce.

CREATE TABLE ringway.sharded_table (
    relation regclass PRIMARY KEY,
    keyspace int NOT NULL,
    key_column name NOT NULL
);

CREATE TABLE ringway.move (
    move_id bigint PRIMARY KEY,
    keyspace int NOT NULL,
    -- 'source': writes of applications to the arcs are captured. 'target': the mirror may write the arcs.
    side text NOT NULL CHECK (side IN ('source', 'target')),
    arcs int8multirange NOT NULL
);

-- One row per keyspace, from its first table on. Every change of ringway.move or of closed arcs updates it, so that a
-- snapshot older than a change meets a serialization failure instead of the past.
CREATE TABLE ringway.guard_state (
    keyspace int PRIMARY KEY,
    -- Application writes are refused: given away, not owned yet, or fenced by a cutover.
    closed int8multirange NOT NULL DEFAULT '{}',
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Cutovers: the record that the arcs of a move have gone from this shard, at which epoch. The point of no return.
CREATE TABLE ringway.handover (
    move_id bigint NOT NULL,
    -- Grows with every cutover of the move: 1 the switch, 2 its rollback, 3 ...
    round int NOT NULL,
    keyspace int NOT NULL,
    arcs int8multirange NOT NULL,
    handed_over_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (move_id, round)
);

CREATE TABLE ringway.capture (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    xid xid8 NOT NULL,
    move_id bigint NOT NULL,
    relation oid NOT NULL,
    -- Composite text under fixed settings. old_row: DELETE, and an UPDATE that changes the primary key or leaves the arcs.
    old_row text,
    new_row text
);
CREATE INDEX capture_xid ON ringway.capture (xid);
ALTER TABLE ringway.capture SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- What the generated guard function calls for one written row whose old or new token is in arcs that concern a move.
-- Returns the moves that capture the row.
CREATE FUNCTION ringway.guard_row(in_keyspace int, relation oid, old_token int8, new_token int8)
RETURNS bigint[]
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    closed_arcs int8multirange;
    moves bigint[];
BEGIN
    PERFORM pg_advisory_xact_lock_shared(x'52570010'::int, in_keyspace);
    IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
        SELECT g.closed INTO closed_arcs FROM ringway.guard_state g WHERE g.keyspace = in_keyspace FOR SHARE;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'could not serialize access: the keyspace is younger than this transaction''s snapshot'
                USING ERRCODE = '40001';
        END IF;
    ELSE
        SELECT g.closed INTO closed_arcs FROM ringway.guard_state g WHERE g.keyspace = in_keyspace;
    END IF;
    IF closed_arcs @> old_token OR closed_arcs @> new_token THEN
        RAISE EXCEPTION 'rows of table "%" with this key belong to another shard', relation::regclass
            USING ERRCODE = 'RW002', HINT = 'Write through the gateway, which knows the owner.';
    END IF;
    SELECT array_agg(m.move_id) INTO moves FROM ringway.move m
        WHERE m.keyspace = in_keyspace AND m.side = 'source' AND (m.arcs @> old_token OR m.arcs @> new_token);
    IF moves IS NOT NULL AND current_setting('ringway.captured_xid', true)
            IS DISTINCT FROM pg_current_xact_id()::text THEN
        PERFORM set_config('ringway.captured_xid', pg_current_xact_id()::text, true);
        RAISE INFO 'ringway: captured' USING ERRCODE = 'RW001', DETAIL = pg_current_xact_id()::text;
    END IF;
    RETURN moves;
END $$;

CREATE FUNCTION ringway.guard_truncate() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF session_user = (SELECT s.service_role FROM ringway.shard s) THEN RETURN NULL; END IF;
    PERFORM pg_advisory_xact_lock_shared(x'52570010'::int, TG_ARGV[0]::int);
    IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
        PERFORM FROM ringway.guard_state g WHERE g.keyspace = TG_ARGV[0]::int FOR SHARE;
    END IF;
    IF EXISTS (SELECT FROM ringway.move m WHERE m.keyspace = TG_ARGV[0]::int) THEN
        RAISE EXCEPTION 'TRUNCATE of table "%" is refused while rows of its keyspace are moving', TG_RELID::regclass
            USING ERRCODE = 'RW006', HINT = 'Wait for the move to end ("shardctl moves"), or use DELETE.';
    END IF;
    RETURN NULL;
END $$;

-- Columns of a table that can be written, in order.
CREATE FUNCTION ringway.writable_columns(rel regclass) RETURNS name[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT array_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a
    WHERE a.attrelid = rel AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
$$;

CREATE FUNCTION ringway.primary_key_columns(rel regclass) RETURNS name[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT array_agg(a.attname ORDER BY k.ord)
    FROM pg_index i, unnest(i.indkey) WITH ORDINALITY k(attnum, ord), pg_attribute a
    WHERE i.indrelid = rel AND i.indisprimary AND k.ord <= i.indnkeyatts
      AND a.attrelid = rel AND a.attnum = k.attnum
$$;

-- Condition that two row variables have the same primary key, with the operators of the key's own index: under the fixed
-- search_path a bare `=` would miss those of extension types.
CREATE FUNCTION ringway.same_key(rel regclass, a text, b text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(format('%I.%I OPERATOR(%I.%s) %I.%I', a, at.attname, ns.nspname, o.oprname, b, at.attname),
                      ' AND ' ORDER BY k.ord)
    FROM pg_index i, unnest(i.indkey, i.indclass) WITH ORDINALITY k(attnum, class, ord), pg_attribute at, pg_opclass oc,
         pg_amop am, pg_operator o, pg_namespace ns
    WHERE i.indrelid = rel AND i.indisprimary AND k.ord <= i.indnkeyatts
      AND at.attrelid = rel AND at.attnum = k.attnum AND oc.oid = k.class
      AND am.amopfamily = oc.opcfamily AND am.amopstrategy = 3
      AND am.amoplefttype = oc.opcintype AND am.amoprighttype = oc.opcintype
      AND o.oid = am.amopopr AND ns.oid = o.oprnamespace
$$;

CREATE FUNCTION ringway.row_type(rel regclass) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = rel
$$;

-- Generates, for one sharded table, the functions that capture, apply and re-read its rows. Static SQL, so that their
-- plans are cached. Idempotent; run again after the table's shape has changed.
--   ringway.guard_<oid>()                              row trigger: fence and capture
--   ringway.apply_<oid>(arcs, old text[], new text[])  the mirror's write on a target, row by row in order
--   ringway.current_<oid>(arcs, images text[], locking) reads, and locks, the present rows with the images' primary keys
--   ringway.uncaptured_<oid>(move, images text[])      counts images of whose rows no captured row speaks
CREATE FUNCTION ringway.generate_functions(rel regclass) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
    t ringway.sharded_table;
    pk name[] := ringway.primary_key_columns(rel);
    cols name[] := ringway.writable_columns(rel);
    col_names text := (SELECT string_agg(quote_ident(c), ', ') FROM unnest(ringway.writable_columns(rel)) c);
    row_type text := ringway.row_type(rel);
    settings text := $s$ SET search_path = pg_catalog, pg_temp SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres' SET TimeZone = 'UTC' SET extra_float_digits = 3 SET bytea_output = 'hex' SET lc_monetary = 'C' SET xmloption = 'content' $s$;
    service name := (SELECT s.service_role FROM ringway.shard s);
    pk_name name := (SELECT c.conname FROM pg_constraint c WHERE c.conrelid = rel AND c.contype = 'p');
    assignments text;
    write_row text;
    f text;
BEGIN
    SELECT * INTO STRICT t FROM ringway.sharded_table s WHERE s.relation = rel;
    IF pk IS NULL THEN
        RAISE EXCEPTION 'table % has no primary key', rel USING ERRCODE = '55000';
    END IF;

    EXECUTE format($f$
        CREATE OR REPLACE FUNCTION ringway.%I() RETURNS trigger LANGUAGE plpgsql VOLATILE SECURITY DEFINER %s AS $guard$
        DECLARE
            o int8; n int8; m bigint; moves bigint[]; a int8multirange; old_in bool; new_in bool; pk_changed bool := false;
        BEGIN
            IF session_user = %L THEN RETURN NULL; END IF;
            IF TG_OP <> 'INSERT' THEN o := ringway.token(OLD.%I); END IF;
            IF TG_OP <> 'DELETE' THEN n := ringway.token(NEW.%I); END IF;
            moves := ringway.guard_row(%s, TG_RELID, o, n);
            IF moves IS NULL THEN RETURN NULL; END IF;
            IF TG_OP = 'UPDATE' THEN pk_changed := ROW(%s) IS DISTINCT FROM ROW(%s); END IF;
            FOREACH m IN ARRAY moves LOOP
                SELECT x.arcs INTO a FROM ringway.move x WHERE x.move_id = m;
                old_in := coalesce(a @> o, false);
                new_in := coalesce(a @> n, false);
                INSERT INTO ringway.capture (xid, move_id, relation, old_row, new_row)
                VALUES (pg_current_xact_id(), m, %s,
                        CASE WHEN old_in AND (NOT new_in OR pk_changed) THEN OLD::text END,
                        CASE WHEN new_in THEN NEW::text END);
            END LOOP;
            RETURN NULL;
        END $guard$ $f$,
        'guard_' || rel::oid, settings, service, t.key_column, t.key_column, t.keyspace,
        (SELECT string_agg(format('OLD.%I', c), ', ') FROM unnest(pk) c),
        (SELECT string_agg(format('NEW.%I', c), ', ') FROM unnest(pk) c),
        rel::oid);

    -- Key columns are written too where equal values may look different (numeric 1.0 and 1.00).
    SELECT string_agg(format('%1$I = excluded.%1$I', a.attname), ', ') INTO assignments
        FROM pg_attribute a
        WHERE a.attrelid = rel AND a.attname = ANY (cols)
          AND (NOT a.attname = ANY (pk) OR a.atttypid NOT IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype,
               'text'::regtype, 'varchar'::regtype, 'uuid'::regtype, 'date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype));
    IF assignments IS NULL THEN assignments := format('%1$I = excluded.%1$I', pk[1]); END IF;
    IF EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = rel AND a.attidentity = 'a'
               AND (NOT a.attname = ANY (pk) OR assignments = format('%1$I = excluded.%1$I', a.attname))) THEN
        -- A GENERATED ALWAYS identity column cannot be set by UPDATE: the row is replaced. The INSERT waits for whoever is
        -- writing this key; what it met is then there to be deleted.
        write_row := format($w$
                    FOR attempt IN 1 .. 8 LOOP
                        DELETE FROM %s t WHERE %s AND arcs @> ringway.token(t.%I);
                        INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE VALUES (%s) ON CONFLICT ON CONSTRAINT %I DO NOTHING;
                        written := FOUND;
                        EXIT WHEN written;
                    END LOOP; $w$,
            row_type, ringway.same_key(rel, 't', 'n'), t.key_column, row_type, col_names, ringway.column_list(cols, 'n'), pk_name);
    ELSE
        write_row := format($w$
                    INSERT INTO %s AS t (%s) OVERRIDING SYSTEM VALUE VALUES (%s)
                        ON CONFLICT ON CONSTRAINT %I DO UPDATE SET %s WHERE arcs @> ringway.token(t.%I);
                    written := FOUND; $w$,
            row_type, col_names, ringway.column_list(cols, 'n'), pk_name, assignments, t.key_column);
    END IF;

    EXECUTE format($f$
        CREATE OR REPLACE FUNCTION ringway.%I(arcs int8multirange, olds text[], news text[]) RETURNS int
        LANGUAGE plpgsql VOLATILE %s AS $apply$
        #variable_conflict use_variable
        DECLARE o %s; n %s; written bool; placed bool; applied int := 0;
        BEGIN
            FOR i IN 1 .. greatest(coalesce(array_length(olds, 1), 0), coalesce(array_length(news, 1), 0)) LOOP
                IF olds[i] IS NOT NULL THEN
                    o := olds[i]::%s;
                    DELETE FROM %s t WHERE %s AND arcs @> ringway.token(t.%I);
                    IF FOUND THEN
                        applied := applied + 1;
                    ELSE
                        -- Never blind: an INSERT waits for another transaction's prepared row with this key, a DELETE does
                        -- not see it. It has waited for the key before it can fail on another constraint.
                        BEGIN
                            INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE VALUES (%s) ON CONFLICT ON CONSTRAINT %I DO NOTHING;
                            placed := FOUND;
                        EXCEPTION WHEN unique_violation OR exclusion_violation THEN
                            placed := false;
                        END;
                        DELETE FROM %s t WHERE %s AND arcs @> ringway.token(t.%I);
                        IF FOUND AND NOT placed THEN applied := applied + 1; END IF;
                    END IF;
                END IF;
                IF news[i] IS NOT NULL THEN
                    n := news[i]::%s;
                    %s
                    IF NOT written THEN
                        RAISE EXCEPTION 'a moving row of table %% meets a row of this shard with the same primary key', %L
                            USING ERRCODE = 'RW005', DETAIL = format('Moving row: %%s. Row of this shard: %%s.', news[i],
                                (SELECT (t.*)::text FROM %s t WHERE %s));
                    END IF;
                    applied := applied + 1;
                END IF;
            END LOOP;
            RETURN applied;
        END $apply$ $f$,
        'apply_' || rel::oid, settings, row_type, row_type, row_type,
        row_type, ringway.same_key(rel, 't', 'o'), t.key_column,
        row_type, col_names, ringway.column_list(cols, 'o'), pk_name,
        row_type, ringway.same_key(rel, 't', 'o'), t.key_column,
        row_type, write_row, row_type, row_type, ringway.same_key(rel, 't', 'n'));

    EXECUTE format($f$
        CREATE OR REPLACE FUNCTION ringway.%I(arcs int8multirange, images text[], locking bool) RETURNS TABLE (image int, row_now text)
        LANGUAGE plpgsql VOLATILE %s AS $current$
        #variable_conflict use_variable
        DECLARE o %s; found_row text;
        BEGIN
            FOR i IN 1 .. coalesce(array_length(images, 1), 0) LOOP
                o := images[i]::%s;
                IF locking THEN
                    SELECT (t.*)::text INTO found_row FROM %s t WHERE %s AND arcs @> ringway.token(t.%I) FOR SHARE;
                ELSE
                    SELECT (t.*)::text INTO found_row FROM %s t WHERE %s AND arcs @> ringway.token(t.%I);
                END IF;
                image := i; row_now := CASE WHEN FOUND THEN found_row END;
                RETURN NEXT;
            END LOOP;
        END $current$ $f$,
        'current_' || rel::oid, settings, row_type, row_type,
        row_type, ringway.same_key(rel, 't', 'o'), t.key_column, row_type, ringway.same_key(rel, 't', 'o'), t.key_column);

    -- How many of the images' rows no captured row of the move speaks of.
    EXECUTE format($f$
        CREATE OR REPLACE FUNCTION ringway.%I(in_move_id bigint, images text[]) RETURNS bigint
        LANGUAGE plpgsql VOLATILE %s AS $uncaptured$
        #variable_conflict use_variable
        BEGIN
            RETURN (SELECT count(*) FROM unnest(images) i(image), LATERAL (SELECT (i.image::%s).*) n
                WHERE NOT EXISTS (
                    SELECT FROM ringway.capture c, unnest(ARRAY[c.old_row, c.new_row]) x(image), LATERAL (SELECT (x.image::%s).*) o
                    WHERE c.move_id = in_move_id AND c.relation = %s AND x.image IS NOT NULL AND %s));
        END $uncaptured$ $f$,
        'uncaptured_' || rel::oid, settings, row_type, row_type, rel::oid, ringway.same_key(rel, 'n', 'o'));

    FOREACH f IN ARRAY ARRAY['guard_%s()', 'apply_%s(int8multirange, text[], text[])', 'current_%s(int8multirange, text[], bool)',
                             'uncaptured_%s(bigint, text[])'] LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION ringway.' || f || ' FROM PUBLIC', rel::oid);
    END LOOP;
END $body$;

CREATE FUNCTION ringway.column_list(columns name[], prefix text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(format('%I.%I', prefix, c), ', ' ORDER BY ord) FROM unnest(columns) WITH ORDINALITY u(c, ord)
$$;

-- Rows of this shard that meet one of the images in a UNIQUE index other than the primary key's, and whether they lie in the
-- arcs: what a write of those images would be refused for with 23505.
CREATE FUNCTION ringway.unique_conflicts(rel regclass, arcs int8multirange, images text[])
RETURNS TABLE (row_now text, moving bool)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'
SET TimeZone = 'UTC' SET extra_float_digits = 3 SET bytea_output = 'hex' SET lc_monetary = 'C' SET xmloption = 'content' AS $$
DECLARE
    t ringway.sharded_table;
    index_id oid;
BEGIN
    SELECT * INTO STRICT t FROM ringway.sharded_table s WHERE s.relation = rel;
    FOR index_id IN SELECT i.indexrelid FROM pg_index i WHERE i.indrelid = rel AND i.indisunique AND NOT i.indisprimary LOOP
        RETURN QUERY EXECUTE (
            SELECT format('SELECT (t.*)::text, coalesce($1 @> ringway.token(t.%I), false) FROM (SELECT %s FROM (SELECT (i.image::%s).* FROM unnest($2) i(image)) n) k, %s t WHERE %s',
                t.key_column,
                string_agg(format('%s AS "ringway key %s"', pg_get_indexdef(index_id, g, true), g), ', '),
                ringway.row_type(rel), ringway.row_type(rel),
                string_agg(format('%s = k."ringway key %s"', pg_get_indexdef(index_id, g, true), g), ' AND '))
            FROM pg_index i, generate_series(1, i.indnkeyatts) g WHERE i.indexrelid = index_id)
            USING arcs, images;
    END LOOP;
END $$;

-- What must be the same on both ends of a move: one line per column, constraint and unique index.
CREATE FUNCTION ringway.table_shape(rel regclass) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(line, E'\n' ORDER BY part, place, line) FROM (
        SELECT 1 AS part, row_number() OVER (ORDER BY a.attnum) AS place,
               format('column %I %s%s%s%s%s', a.attname, format_type(a.atttypid, a.atttypmod),
                      CASE WHEN a.attnotnull THEN ' not null' END,
                      CASE WHEN a.attidentity <> '' THEN ' identity ' || a.attidentity::text END,
                      CASE WHEN a.attgenerated <> '' THEN ' generated ' || (
                          SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d WHERE d.adrelid = rel AND d.adnum = a.attnum) END,
                      CASE WHEN a.attcollation <> 0 THEN ' collate ' || a.attcollation::regcollation END) AS line
        FROM pg_attribute a WHERE a.attrelid = rel AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL
        SELECT 2, 0, format('constraint %I %s', c.conname, pg_get_constraintdef(c.oid))
        FROM pg_constraint c WHERE c.conrelid = rel AND c.contype IN ('p', 'u', 'x', 'c')
        UNION ALL
        SELECT 3, 0, format('index %s', pg_get_indexdef(i.indexrelid))
        FROM pg_index i WHERE i.indrelid = rel AND i.indisunique AND NOT i.indisprimary
    ) lines
$$;

-- What changes when DDL rewrites, truncates, repartitions or unguards a table: rows that were copied before such a change are
-- worth nothing.
CREATE FUNCTION ringway.table_identity(rel regclass) RETURNS text
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(format('%s:%s:%s', part.relid::oid, pg_relation_filenode(part.relid),
            (SELECT string_agg(tg.tgname::text || tg.tgenabled::text, ',' ORDER BY tg.tgname) FROM pg_trigger tg
             WHERE tg.tgrelid = part.relid AND tg.tgname LIKE 'ringway\_guard\_%')), ';' ORDER BY part.relid::oid)
    FROM (SELECT rel::oid AS relid UNION SELECT p.relid FROM pg_partition_tree(rel) p) part
$$;

-- All arcs of a keyspace that concern this shard now.
CREATE FUNCTION ringway.guarded_arcs(in_keyspace int) RETURNS int8multirange
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT g.closed FROM ringway.guard_state g WHERE g.keyspace = in_keyspace), '{}')
        + coalesce((SELECT range_agg(r) FROM ringway.move m, unnest(m.arcs) r WHERE m.keyspace = in_keyspace), '{}')
$$;

-- (Re)creates the guard triggers of one table so that they fire for exactly the arcs that concern this shard now, or
-- drops them when there are none. Locks the table, against writers to create and against everybody to drop: call it with a
-- lock_timeout, and again. It never holds one lock and waits for a stronger one: PostgreSQL sees such a deadlock at once, and
-- it would be the application's statement that fails.
CREATE FUNCTION ringway.install_guard(rel regclass) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t ringway.sharded_table;
    arcs int8multirange;
    drops bool;
    service name := (SELECT s.service_role FROM ringway.shard s);
BEGIN
    SELECT * INTO STRICT t FROM ringway.sharded_table s WHERE s.relation = rel;
    drops := ringway.guarded_arcs(t.keyspace) = '{}'::int8multirange;
    IF drops AND NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = rel AND g.tgname LIKE 'ringway\_guard\_%') THEN
        RETURN;
    END IF;
    -- First the lock, then the look: another move's installation, begun earlier with fewer arcs, must not come after this one.
    EXECUTE format('LOCK TABLE %s IN %s MODE', rel, CASE WHEN drops THEN 'ACCESS EXCLUSIVE' ELSE 'SHARE ROW EXCLUSIVE' END);
    arcs := ringway.guarded_arcs(t.keyspace);
    IF arcs = '{}'::int8multirange AND NOT drops THEN
        RAISE EXCEPTION 'the arcs of table % have changed', rel USING ERRCODE = '55P03';
    END IF;
    IF arcs = '{}'::int8multirange THEN
        EXECUTE format('DROP TRIGGER IF EXISTS ringway_guard_insert ON %s', rel);
        EXECUTE format('DROP TRIGGER IF EXISTS ringway_guard_update ON %s', rel);
        EXECUTE format('DROP TRIGGER IF EXISTS ringway_guard_delete ON %s', rel);
    ELSE
        PERFORM ringway.generate_functions(rel);
        -- The service role's own writes are not even queued for the function, which would let them pass.
        EXECUTE format('CREATE OR REPLACE TRIGGER ringway_guard_insert AFTER INSERT ON %s FOR EACH ROW
            WHEN (%L::int8multirange @> ringway.token(NEW.%I) AND session_user IS DISTINCT FROM %L) EXECUTE FUNCTION ringway.%I()',
            rel, arcs, t.key_column, service, 'guard_' || rel::oid);
        EXECUTE format('CREATE OR REPLACE TRIGGER ringway_guard_update AFTER UPDATE ON %s FOR EACH ROW
            WHEN ((%2$L::int8multirange @> ringway.token(OLD.%3$I) OR %2$L::int8multirange @> ringway.token(NEW.%3$I))
                AND session_user IS DISTINCT FROM %5$L)
            EXECUTE FUNCTION ringway.%4$I()', rel, arcs, t.key_column, 'guard_' || rel::oid, service);
        EXECUTE format('CREATE OR REPLACE TRIGGER ringway_guard_delete AFTER DELETE ON %s FOR EACH ROW
            WHEN (%L::int8multirange @> ringway.token(OLD.%I) AND session_user IS DISTINCT FROM %L) EXECUTE FUNCTION ringway.%I()',
            rel, arcs, t.key_column, service, 'guard_' || rel::oid);
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER ringway_guard_insert,
            ENABLE ALWAYS TRIGGER ringway_guard_update, ENABLE ALWAYS TRIGGER ringway_guard_delete', rel);
    END IF;
    IF arcs <> '{}'::int8multirange THEN
        EXECUTE format('CREATE OR REPLACE TRIGGER ringway_guard_truncate BEFORE TRUNCATE ON %s
            FOR EACH STATEMENT EXECUTE FUNCTION ringway.guard_truncate(%s)', rel, t.keyspace);
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER ringway_guard_truncate', rel);
    ELSE
        EXECUTE format('DROP TRIGGER IF EXISTS ringway_guard_truncate ON %s', rel);
    END IF;
END $$;

-- The only ways to change what the guards enforce. Both wait for every transaction that has passed a guard of the
-- keyspace (prepared ones too), and make later ones see the change.
CREATE FUNCTION ringway.set_move(in_move_id bigint, in_keyspace int, in_side text, in_arcs int8multirange) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(x'52570010'::int, in_keyspace);
    PERFORM pg_advisory_xact_lock(x'52570011'::int, in_move_id::int);
    INSERT INTO ringway.move (move_id, keyspace, side, arcs) VALUES (in_move_id, in_keyspace, in_side, in_arcs)
        ON CONFLICT (move_id) DO UPDATE SET side = excluded.side, arcs = excluded.arcs;
    INSERT INTO ringway.guard_state (keyspace) VALUES (in_keyspace)
        ON CONFLICT (keyspace) DO UPDATE SET changed_at = clock_timestamp();
END $$;

CREATE FUNCTION ringway.end_move(in_move_id bigint, in_keyspace int) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(x'52570010'::int, in_keyspace);
    PERFORM pg_advisory_xact_lock(x'52570011'::int, in_move_id::int);
    DELETE FROM ringway.move WHERE move_id = in_move_id;
    UPDATE ringway.guard_state SET changed_at = clock_timestamp() WHERE keyspace = in_keyspace;
END $$;

CREATE FUNCTION ringway.close_arcs(in_keyspace int, in_arcs int8multirange) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(x'52570010'::int, in_keyspace);
    INSERT INTO ringway.guard_state (keyspace, closed) VALUES (in_keyspace, in_arcs)
        ON CONFLICT (keyspace) DO UPDATE SET closed = ringway.guard_state.closed + in_arcs, changed_at = clock_timestamp();
END $$;

CREATE FUNCTION ringway.open_arcs(in_keyspace int, in_arcs int8multirange) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(x'52570010'::int, in_keyspace);
    UPDATE ringway.guard_state SET closed = closed - in_arcs, changed_at = clock_timestamp() WHERE keyspace = in_keyspace;
END $$;

-- A locking read of rows in moving arcs shares the lock that a cutover's fence conflicts with. The gateway pipelines
-- this before the read. RW002 when the arcs are closed here.
CREATE FUNCTION ringway.share_arcs(in_keyspace int, tokens int8[]) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE closed_arcs int8multirange;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(x'52570010'::int, in_keyspace);
    IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
        SELECT g.closed INTO closed_arcs FROM ringway.guard_state g WHERE g.keyspace = in_keyspace FOR SHARE;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'could not serialize access: the keyspace is younger than this transaction''s snapshot'
                USING ERRCODE = '40001';
        END IF;
    ELSE
        SELECT g.closed INTO closed_arcs FROM ringway.guard_state g WHERE g.keyspace = in_keyspace;
    END IF;
    IF EXISTS (SELECT FROM unnest(tokens) t WHERE closed_arcs @> t) THEN
        RAISE EXCEPTION 'rows with this key belong to another shard'
            USING ERRCODE = 'RW002', HINT = 'Write through the gateway, which knows the owner.';
    END IF;
END $$;

-- ---------------------------------------------------------------------------------------------------------------------
-- The double-write, as the gateway calls it in the application's own transaction on the source.

-- This transaction's captured rows in order. Call after SET CONSTRAINTS ALL IMMEDIATE.
CREATE FUNCTION ringway.captured(secret text)
RETURNS TABLE (id bigint, move_id bigint, table_schema name, table_name name, old_row text, new_row text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM ringway.check_secret(secret);
    RETURN QUERY SELECT c.id, c.move_id, n.nspname, r.relname, c.old_row, c.new_row
        FROM ringway.capture c JOIN pg_class r ON r.oid = c.relation JOIN pg_namespace n ON n.oid = r.relnamespace
        WHERE c.xid = pg_current_xact_id() ORDER BY c.id;
END $$;

-- They are prepared on the target under `gid`, up to the last id that was read: forget them, and decide that gid with
-- this transaction's commit.
CREATE FUNCTION ringway.settle_captured(secret text, in_move_id bigint, last_id bigint, gid text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM ringway.check_secret(secret);
    DELETE FROM ringway.capture c WHERE c.xid = pg_current_xact_id() AND c.move_id = in_move_id AND c.id <= last_id;
    INSERT INTO ringway.decided (gid) VALUES (settle_captured.gid);
END $$;

-- On the target, by the service role: write the images of one table, in order.
CREATE FUNCTION ringway.apply(in_move_id bigint, table_schema text, table_name text, olds text[], news text[]) RETURNS int
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    target_arcs int8multirange;
    applied int;
BEGIN
    -- The shared lock keeps the move from ending, or turning round, under this write until it is committed or rolled back.
    PERFORM pg_advisory_xact_lock_shared(x'52570011'::int, in_move_id::int);
    SELECT m.arcs INTO target_arcs FROM ringway.move m WHERE m.move_id = in_move_id AND m.side = 'target';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'move % does not write to this shard', in_move_id USING ERRCODE = 'RW007';
    END IF;
    EXECUTE format('SELECT ringway.%I($1, $2, $3)',
            'apply_' || format('%I.%I', table_schema, table_name)::regclass::oid)
        INTO applied USING target_arcs, olds, news;
    RETURN applied;
END $$;

-- ---------------------------------------------------------------------------------------------------------------------
-- Nothing above is for everybody but what gateways call in a client's role.

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA ringway FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    ringway.token(int2), ringway.token(int4), ringway.token(int8), ringway.token(text), ringway.token(bpchar),
    ringway.token(uuid), ringway.token(numeric), ringway.token(timestamp), ringway.token(timestamptz),
    ringway.token(date), ringway.token(bytea),
    ringway.check_epoch(bigint), ringway.begin_ddl(), ringway.decide(text, text), ringway.share_arcs(int, int8[]),
    ringway.captured(text), ringway.settle_captured(text, bigint, bigint, text)
    TO PUBLIC;
