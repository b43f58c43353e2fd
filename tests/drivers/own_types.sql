-- Types of the application's own, and rows on all shards that have them.
CREATE TYPE pair AS (n integer, feeling mood, feelings mood[]);
CREATE DOMAIN moods AS mood[];
CREATE TABLE owned (id bigint PRIMARY KEY, feeling mood, feelings mood[], p pair, ps pair[], d moods);
SELECT create_distributed_table('owned', 'id');
