DROP TABLE events;
DROP TABLE tenants;
DROP TABLE kinds;
DROP TABLE notes;
DROP TYPE mood;
