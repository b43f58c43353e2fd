-- On every shard: the role that applications use. It must have the same password everywhere.
SET password_encryption = 'scram-sha-256';
CREATE ROLE app LOGIN PASSWORD 'app';
ALTER DATABASE app OWNER TO app;
GRANT ALL ON SCHEMA public TO app;
