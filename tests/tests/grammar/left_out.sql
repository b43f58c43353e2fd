SELECT * FROM ROWS FROM (anything() AS (a int, b int), numbers(2)) AS t (a, b, c);
SELECT * FROM anything() AS (a int, b int);
SELECT * FROM people p, LATERAL XMLTABLE('/a' PASSING p.doc COLUMNS id int PATH '@id') AS x;
SELECT * FROM people LIMIT ALL OFFSET 2;
INSERT INTO words (word) VALUES ('a') ON CONFLICT (word text_pattern_ops) DO NOTHING;
INSERT INTO words (word) VALUES ('a') ON CONFLICT (lower(word) COLLATE "C" text_pattern_ops, part) DO NOTHING;
INSERT INTO words (word) VALUES ('a') ON CONFLICT ((word || 'x'), part int4_ops) DO UPDATE SET part = words.part + 1;
