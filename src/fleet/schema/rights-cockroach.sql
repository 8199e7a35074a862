-- CockroachDB has no rights on columns: the policies limit the rows, and the statements of the shipper what changes in them.
GRANT USAGE ON SCHEMA fleet TO fleet_read, fleet_ship;
GRANT SELECT ON ALL TABLES IN SCHEMA fleet TO fleet_read;
GRANT SELECT ON fleet.meta TO fleet_ship;
GRANT SELECT, INSERT, UPDATE ON fleet.stream TO fleet_ship;
GRANT SELECT, INSERT, UPDATE, DELETE ON fleet.live TO fleet_ship;
GRANT INSERT ON fleet.ended TO fleet_ship;
GRANT SELECT, INSERT, UPDATE ON fleet.leak TO fleet_ship;
GRANT SELECT, INSERT, UPDATE, DELETE ON fleet.leak_day, fleet.leak_hour, fleet.leak_top, fleet.pass_day TO fleet_ship;
