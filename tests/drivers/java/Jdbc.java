// The PostgreSQL JDBC driver: server-side prepared statements, batches, cursors by fetch size, COPY, NOTIFY, cancel.

import java.io.ByteArrayOutputStream;
import java.io.StringReader;
import java.math.BigDecimal;
import java.net.URI;
import java.net.URLDecoder;
import java.nio.charset.StandardCharsets;
import java.sql.*;
import java.time.LocalDate;
import java.time.LocalDateTime;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

import org.postgresql.PGConnection;
import org.postgresql.copy.CopyManager;
import org.postgresql.util.PGobject;
import org.postgresql.util.PSQLException;

public class Jdbc {
    static final int SECONDS_MAX = 20;
    static String url;
    static String user;
    static String password;
    static Connection connection;

    interface Body {
        void run() throws Exception;
    }

    static void show(Object... values) {
        List<String> texts = new ArrayList<>();
        for (Object value : values) texts.add(text(value));
        System.out.println("  " + String.join(" | ", texts));
    }

    static String text(Object value) throws RuntimeException {
        if (value instanceof byte[]) return Arrays.toString((byte[]) value);
        if (value instanceof int[]) return Arrays.toString((int[]) value);
        if (value instanceof java.sql.Array) {
            try {
                return Arrays.deepToString((Object[]) ((java.sql.Array) value).getArray());
            } catch (SQLException error) {
                throw new RuntimeException(error);
            }
        }
        return String.valueOf(value);
    }

    static void step(String name, Body body) {
        System.out.println("== step " + name);
        try {
            body.run();
        } catch (Exception error) {
            // The next steps are still worth seeing.
            System.out.println("  RAISED " + error);
        }
    }

    static String said(PSQLException error) {
        var server = error.getServerErrorMessage();
        if (server == null) return error.getSQLState() + " " + error.getMessage();
        var detail = server.getDetail() == null ? "" : " (" + server.getDetail() + ")";
        return server.getSQLState() + " " + server.getMessage() + detail;
    }

    static PSQLException serverError(Exception error) throws Exception {
        for (Throwable cause = error; cause != null; cause = cause.getCause()) {
            if (cause instanceof PSQLException) return (PSQLException) cause;
        }
        throw error;
    }

    /** What the body does must fail; SQLSTATE, message and detail are compared. */
    static void fails(Body body) throws Exception {
        try {
            body.run();
        } catch (Exception error) {
            show("ERROR " + said(serverError(error)));
            return;
        }
        show("no error");
    }

    /** The gateway must refuse it with 0A000, detail and hint; PostgreSQL must do it. */
    static void refused(String name, Body body) throws Exception {
        System.out.println("== refused " + name);
        try {
            body.run();
        } catch (Exception error) {
            var server = serverError(error).getServerErrorMessage();
            var explained = server.getDetail() != null && server.getHint() != null ? "" : " WITHOUT DETAIL OR HINT";
            System.out.println("  " + server.getSQLState() + " " + server.getMessage() + explained);
            return;
        }
        System.out.println("  done");
    }

    static String[] statements(String name) throws Exception {
        // The source is run from its file.
        Path file = Path.of("").toAbsolutePath().resolve(name);
        StringBuilder text = new StringBuilder();
        for (String line : Files.readAllLines(file)) if (!line.startsWith("--")) text.append(line).append('\n');
        return Arrays.stream(text.toString().split(";\n")).map(String::trim).filter(s -> !s.isEmpty()).toArray(String[]::new);
    }

    static void result(ResultSet rows) throws SQLException {
        ResultSetMetaData meta = rows.getMetaData();
        List<String> columns = new ArrayList<>();
        for (int i = 1; i <= meta.getColumnCount(); i++) {
            columns.add(meta.getColumnLabel(i) + " " + meta.getColumnTypeName(i) + " " + meta.getPrecision(i) + "," + meta.getScale(i));
        }
        show(String.join(", ", columns));
        while (rows.next()) {
            Object[] values = new Object[meta.getColumnCount()];
            for (int i = 0; i < values.length; i++) values[i] = rows.getObject(i + 1);
            show(values);
        }
    }

    static void query(String sql, Object... parameters) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            for (int i = 0; i < parameters.length; i++) statement.setObject(i + 1, parameters[i]);
            if (statement.execute()) {
                result(statement.getResultSet());
            } else {
                show("count " + statement.getUpdateCount());
            }
        }
    }

    static Object value(String sql) throws SQLException {
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(sql)) {
            rows.next();
            return rows.getObject(1);
        }
    }

    static Connection connect(String options) throws SQLException {
        return DriverManager.getConnection(url + options, user, password);
    }

    public static void main(String[] arguments) throws Exception {
        URI dsn = URI.create(arguments[0]);
        String[] login = dsn.getRawUserInfo().split(":", 2);
        user = login[0];
        password = login.length > 1 ? URLDecoder.decode(login[1], StandardCharsets.UTF_8) : "";
        // What it says of TLS has the same names here.
        String query = dsn.getRawQuery() == null ? "" : dsn.getRawQuery() + "&";
        url = "jdbc:postgresql://" + dsn.getHost() + ":" + dsn.getPort() + dsn.getPath() + "?" + query + "prepareThreshold=2&";
        connection = connect("ApplicationName=drivers");

        step("what the server says of itself", () -> {
            DatabaseMetaData meta = connection.getMetaData();
            show(meta.getDatabaseMajorVersion() >= 14, meta.getUserName(), connection.getCatalog(), connection.getSchema());
            show(value("SHOW application_name"), value("SHOW extra_float_digits"));
        });

        step("create", () -> {
            for (String statement : statements("schema.sql")) query(statement);
        });

        step("batches", () -> {
            try (PreparedStatement insert = connection.prepareStatement("INSERT INTO tenants VALUES (?, ?, ?::jsonb)")) {
                for (int i = 1; i <= 40; i++) {
                    insert.setLong(1, i);
                    insert.setString(2, "tenant " + i);
                    insert.setString(3, "{\"n\": " + i + "}");
                    insert.addBatch();
                }
                show(Arrays.stream(insert.executeBatch()).sum());
            }
            try (Statement statement = connection.createStatement()) {
                statement.addBatch("INSERT INTO kinds VALUES ('click', 'Click')");
                statement.addBatch("INSERT INTO kinds VALUES ('view', 'View')");
                statement.addBatch("UPDATE tenants SET name = upper(name) WHERE id IN (5, 6)");
                show(statement.executeBatch());
            }
            try (Connection rewriting = connect("reWriteBatchedInserts=true");
                 PreparedStatement insert = rewriting.prepareStatement("INSERT INTO events (tenant_id, id, whole) VALUES (?, ?, ?)")) {
                for (int i = 1; i <= 20; i++) {
                    insert.setLong(1, i);
                    insert.setLong(2, 100);
                    insert.setInt(3, i * i);
                    insert.addBatch();
                }
                show(insert.executeBatch().length);
                // Another connection may read before the last shard's part is committed; the next statement of this one waits for it.
                rewriting.createStatement().execute("SELECT 1");
            }
            show(value("SELECT count(*) FROM tenants"), value("SELECT sum(whole) FROM events"));
        });

        step("a batch that fails", () -> {
            connection.setAutoCommit(false);
            try (PreparedStatement insert = connection.prepareStatement("INSERT INTO tenants VALUES (?, 'x', NULL)")) {
                for (long id : new long[] {1000, 1001, 7, 1002}) {
                    insert.setLong(1, id);
                    insert.addBatch();
                }
                try {
                    insert.executeBatch();
                } catch (BatchUpdateException error) {
                    show(error.getSQLState(), error.getUpdateCounts());
                }
            }
            connection.rollback();
            connection.setAutoCommit(true);
            show(value("SELECT count(*) FROM tenants"));
        });

        step("all types", () -> {
            String sql = "INSERT INTO events (tenant_id, id, kind, small, whole, ratio, total, flag, raw, uid, tags, grid, payload, day, at, wall, took, feeling)"
                + " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?::interval, ?::mood)";
            try (PreparedStatement insert = connection.prepareStatement(sql)) {
                PGobject payload = new PGobject();
                payload.setType("jsonb");
                payload.setValue("{\"a\": [1, 2.5, null], \"ü\": \"€\"}");
                Object[] values = {
                    7L, 1L, "click", (short) -32768, 65536, 0.1, new BigDecimal("12345678901.50"), true, new byte[] {0, -1, 92, 39},
                    UUID.fromString("9b2d5a52-6f0a-4b0e-9a55-0f6f6e0f7a11"),
                    connection.createArrayOf("text", new String[] {"a", "b c", "quote\"d", "\\", null}),
                    connection.createArrayOf("int4", new Integer[][] {{1, 2}, {3, 4}}), payload, LocalDate.of(2024, 2, 29),
                    OffsetDateTime.of(2024, 2, 29, 12, 34, 56, 789012000, ZoneOffset.UTC), LocalDateTime.of(1999, 12, 31, 23, 59, 59),
                    "3 days 00:00:07.000009", "happy",
                };
                for (int i = 0; i < values.length; i++) insert.setObject(i + 1, values[i]);
                show(insert.executeUpdate());
            }
            query("INSERT INTO events (tenant_id, id) VALUES (8, 1)");
            // The third time is by a statement that the server keeps, with binary values.
            for (int i = 0; i < 4; i++) query("SELECT * FROM events WHERE tenant_id = ? ORDER BY id", 7L);
            query("SELECT * FROM events WHERE id = 1 ORDER BY tenant_id");
        });

        step("generated keys", () -> {
            try (PreparedStatement insert = connection.prepareStatement("INSERT INTO events (tenant_id, whole) VALUES (?, 1)", new String[] {"id", "whole"})) {
                insert.setLong(1, 9);
                insert.executeUpdate();
                try (ResultSet keys = insert.getGeneratedKeys()) {
                    keys.next();
                    show(keys.getLong(1) > 0, keys.getInt(2));
                }
            }
            query("DELETE FROM events WHERE tenant_id = 9 AND whole = 1");
        });

        step("prepared statements, by key and over all rows", () -> {
            try (PreparedStatement byKey = connection.prepareStatement("SELECT id, name FROM tenants WHERE id = ?");
                 PreparedStatement overAll = connection.prepareStatement("SELECT count(*), avg(whole), max(total) FROM events WHERE whole > ?")) {
                for (long id : new long[] {1, 7, 13, 25, 40, 99}) {
                    byKey.setLong(1, id);
                    result(byKey.executeQuery());
                    overAll.setInt(1, (int) id * 4);
                    result(overAll.executeQuery());
                }
                show(byKey.getParameterMetaData().getParameterTypeName(1), overAll.getMetaData().getColumnTypeName(2));
            }
        });

        step("reads over all rows", () -> {
            query("SELECT t.id % 3 AS class, count(*) AS n FROM tenants t JOIN events e ON e.tenant_id = t.id WHERE e.whole > ? GROUP BY 1 ORDER BY 1", 10);
            query("SELECT id, name FROM tenants ORDER BY id DESC LIMIT ? OFFSET ?", 5, 3);
            query("SELECT id FROM tenants WHERE id = ANY(?) ORDER BY id", connection.createArrayOf("int8", new Long[] {3L, 1L, 2L, 99L}));
        });

        step("fetch size: rows of one shard", () -> {
            connection.setAutoCommit(false);
            try (PreparedStatement statement = connection.prepareStatement("SELECT id, whole FROM events WHERE tenant_id = ? ORDER BY id")) {
                statement.setFetchSize(1);
                statement.setLong(1, 7);
                result(statement.executeQuery());
            }
            connection.commit();
            connection.setAutoCommit(true);
        });

        step("fetch size: rows of all shards", () -> {
            connection.setAutoCommit(false);
            try (Statement statement = connection.createStatement()) {
                statement.setFetchSize(7);
                try (ResultSet rows = statement.executeQuery("SELECT id FROM tenants ORDER BY id")) {
                    int count = 0;
                    while (rows.next()) {
                        count++;
                        if (count == 9) {
                            try (Statement other = connection.createStatement(); ResultSet more = other.executeQuery("SELECT name FROM tenants WHERE id = 5")) {
                                more.next();
                                show(rows.getLong(1), more.getString(1));
                            }
                        }
                    }
                    show(count);
                }
            }
            connection.commit();
            connection.setAutoCommit(true);
        });

        step("transactions and savepoints", () -> {
            connection.setAutoCommit(false);
            query("UPDATE tenants SET name = lower(name) WHERE id <= 10");
            Savepoint here = connection.setSavepoint("here");
            fails(() -> query("INSERT INTO tenants VALUES (?, 'again', NULL)", 7L));
            fails(() -> query("SELECT 1"));
            connection.rollback(here);
            query("DELETE FROM events");
            connection.rollback(here);
            connection.commit();
            show(value("SELECT count(*) FROM events"), value("SELECT name FROM tenants WHERE id = 5"));
            connection.rollback();
            connection.setTransactionIsolation(Connection.TRANSACTION_REPEATABLE_READ);
            connection.setReadOnly(true);
            fails(() -> query("UPDATE tenants SET name = 'no' WHERE id = 1"));
            connection.rollback();
            show(connection.getTransactionIsolation(), value("SELECT count(*) FROM tenants"));
            connection.rollback();
            connection.setReadOnly(false);
            connection.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
            connection.setAutoCommit(true);
        });

        step("autosave", () -> {
            try (Connection saving = connect("autosave=always")) {
                Connection before = connection;
                connection = saving;
                saving.setAutoCommit(false);
                query("UPDATE tenants SET name = 'saved' WHERE id = 1");
                fails(() -> query("INSERT INTO tenants VALUES (2, 'again', NULL)"));
                query("UPDATE tenants SET name = 'saved too' WHERE id = 2");
                saving.commit();
                query("SELECT name FROM tenants WHERE id IN (1, 2) ORDER BY id");
                saving.commit();
                connection = before;
            }
        });

        step("errors and recovery", () -> {
            for (String sql : new String[] {
                "INSERT INTO tenants VALUES (7, 'again', NULL)", "INSERT INTO tenants (id) VALUES (900)",
                "INSERT INTO events (tenant_id, id) VALUES (900, 1)", "INSERT INTO events (tenant_id, id, whole) VALUES (1, 900, 2000000)",
                "SELEC 1", "SELECT 1 FROM tenants WHERE", "SELECT nothing FROM tenants", "SELECT * FROM nowhere",
                "SELECT 1 / (id - 7) FROM tenants WHERE id = 7", "SELECT 'x'::int",
            }) {
                fails(() -> query(sql));
            }
            fails(() -> query("SELECT id FROM tenants WHERE id = ?", "seven"));
            show(value("SELECT count(*) FROM tenants"));
        });

        step("a schema that changes under prepared statements", () -> {
            query("INSERT INTO notes VALUES (1, 'one')");
            try (PreparedStatement statement = connection.prepareStatement("SELECT * FROM notes WHERE id = 1")) {
                for (int i = 0; i < 4; i++) result(statement.executeQuery());
                try (Connection other = connect("x=y"); Statement change = other.createStatement()) {
                    change.execute("ALTER TABLE notes ADD COLUMN more text DEFAULT 'm'");
                }
                fails(() -> result(statement.executeQuery()));
                result(statement.executeQuery());
            }
            query("ALTER TABLE notes DROP COLUMN more");
        });

        step("COPY in and out", () -> {
            CopyManager copy = connection.unwrap(PGConnection.class).getCopyAPI();
            StringBuilder lines = new StringBuilder();
            for (int i = 1; i <= 40; i++) lines.append(i + "\t500\t" + i + "\n");
            show(copy.copyIn("COPY events (tenant_id, id, whole) FROM STDIN", new StringReader(lines.toString())));
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            show(copy.copyOut("COPY tenants TO STDOUT (FORMAT csv)", out));
            String[] copied = out.toString(StandardCharsets.UTF_8).split("\n");
            Arrays.sort(copied);
            show(copied[0], copied[1]);
            fails(() -> copy.copyIn("COPY events (tenant_id, id) FROM STDIN", new StringReader("1\t600\n2\t100\n")));
            show(value("SELECT count(*) FROM events"));
        });

        step("notices, LISTEN and NOTIFY", () -> {
            try (Statement statement = connection.createStatement()) {
                statement.execute("DO $$ BEGIN RAISE WARNING 'w %', 1; END $$");
                show(statement.getWarnings().getSQLState(), statement.getWarnings().getMessage());
                statement.execute("LISTEN news");
            }
            try (Connection other = connect("x=y"); Statement statement = other.createStatement()) {
                statement.execute("SELECT pg_notify('news', 'hello ü')");
            }
            for (var notification : connection.unwrap(PGConnection.class).getNotifications(SECONDS_MAX * 1000)) {
                show(notification.getName(), notification.getParameter());
            }
            query("UNLISTEN *");
        });

        step("time-outs and cancel", () -> {
            query("SET statement_timeout = 150");
            fails(() -> query("SELECT pg_sleep(30) FROM tenants WHERE id = 7"));
            query("RESET statement_timeout");
            try (Connection other = connect("x=y"); Statement statement = other.createStatement()) {
                statement.setQueryTimeout(1);
                fails(() -> statement.executeQuery("SELECT pg_sleep(60) FROM tenants WHERE id = 7"));
            }
            // The driver asks once for each execution, and what comes before the statement's start cancels nothing: another execution then.
            String ended = "no error";
            for (int round = 0; ended.equals("no error") && round < SECONDS_MAX; round++) {
                try (Connection other = connect("x=y"); Statement statement = other.createStatement()) {
                    var sleeping = CompletableFuture.supplyAsync(() -> {
                        try {
                            statement.executeQuery("SELECT pg_sleep(1)");
                            return "no error";
                        } catch (SQLException error) {
                            return error.getSQLState();
                        }
                    });
                    while (!sleeping.isDone()) {
                        statement.cancel();
                        try {
                            sleeping.get(50, TimeUnit.MILLISECONDS);
                        } catch (java.util.concurrent.TimeoutException again) {
                            continue;
                        }
                    }
                    ended = sleeping.get();
                }
            }
            show(ended);
        });

        step("metadata", () -> {
            DatabaseMetaData meta = connection.getMetaData();
            for (ResultSet rows : List.of(meta.getTables(null, "public", "%", new String[] {"TABLE"}), meta.getPrimaryKeys(null, "public", "events"),
                                          meta.getImportedKeys(null, "public", "events"))) {
                int columns = Math.min(4, rows.getMetaData().getColumnCount());
                while (rows.next()) {
                    Object[] values = new Object[columns];
                    for (int i = 0; i < columns; i++) values[i] = rows.getObject(i + 1);
                    show(values);
                }
            }
            try (ResultSet rows = meta.getColumns(null, "public", "events", "%")) {
                while (rows.next()) show(rows.getString("COLUMN_NAME"), rows.getString("TYPE_NAME"), rows.getInt("NULLABLE"));
            }
        });

        step("a cursor of SQL over all shards", () -> {
            query("BEGIN");
            query("DECLARE wide SCROLL CURSOR FOR SELECT id FROM tenants ORDER BY id");
            query("FETCH 3 FROM wide");
            query("FETCH PRIOR FROM wide");
            query("ROLLBACK");
        });

        step("drop", () -> {
            for (String statement : statements("drop.sql")) query(statement);
        });
        connection.close();
        System.out.println("== end");
    }
}
