ALTER TABLE tenants ADD COLUMN active boolean NOT NULL DEFAULT true;
CREATE INDEX events_by_whole ON events (whole);
UPDATE tenants SET active = false WHERE id % 2 = 0;
