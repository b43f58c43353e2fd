DROP TABLE events;
DROP TABLE tenants;
DROP TABLE kinds;
DROP TABLE notes;
DROP TABLE owned;
DROP DOMAIN moods;
DROP TYPE pair;
DROP TYPE mood;
