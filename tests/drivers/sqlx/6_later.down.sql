DROP INDEX events_by_whole;
ALTER TABLE tenants DROP COLUMN active;
