-- Row level security. `stream IN (SELECT ...)` is evaluated once a statement, and is itself subject to the policy of `stream`.
ALTER TABLE fleet.stream ENABLE ROW LEVEL SECURITY;
CREATE POLICY read ON fleet.stream FOR SELECT TO fleet_read USING (true);
CREATE POLICY ship ON fleet.stream FOR ALL TO fleet_ship USING (login = current_user) WITH CHECK (login = current_user);

ALTER TABLE fleet.live ENABLE ROW LEVEL SECURITY;
CREATE POLICY read ON fleet.live FOR SELECT TO fleet_read USING (true);
CREATE POLICY ship ON fleet.live FOR ALL TO fleet_ship
  USING (stream IN (SELECT stream FROM fleet.stream)) WITH CHECK (stream IN (SELECT stream FROM fleet.stream));

ALTER TABLE fleet.ended ENABLE ROW LEVEL SECURITY;
CREATE POLICY read ON fleet.ended FOR SELECT TO fleet_read USING (true);
CREATE POLICY ship ON fleet.ended FOR INSERT TO fleet_ship WITH CHECK (stream IN (SELECT stream FROM fleet.stream));

ALTER TABLE fleet.leak ENABLE ROW LEVEL SECURITY;
CREATE POLICY read ON fleet.leak FOR SELECT TO fleet_read USING (true);
CREATE POLICY ship_read ON fleet.leak FOR SELECT TO fleet_ship USING (stream IN (SELECT stream FROM fleet.stream));
CREATE POLICY ship_add ON fleet.leak FOR INSERT TO fleet_ship WITH CHECK (stream IN (SELECT stream FROM fleet.stream));
-- A leak whose outcome is final stays as it is.
CREATE POLICY ship_close ON fleet.leak FOR UPDATE TO fleet_ship
  USING (outcome IN ('survived', 'lost') AND stream IN (SELECT stream FROM fleet.stream))
  WITH CHECK (stream IN (SELECT stream FROM fleet.stream));

ALTER TABLE fleet.leak_day ENABLE ROW LEVEL SECURITY;
CREATE POLICY read ON fleet.leak_day FOR SELECT TO fleet_read USING (true);
CREATE POLICY ship ON fleet.leak_day FOR ALL TO fleet_ship
  USING (stream IN (SELECT stream FROM fleet.stream)) WITH CHECK (stream IN (SELECT stream FROM fleet.stream));

ALTER TABLE fleet.leak_top ENABLE ROW LEVEL SECURITY;
CREATE POLICY read ON fleet.leak_top FOR SELECT TO fleet_read USING (true);
CREATE POLICY ship ON fleet.leak_top FOR ALL TO fleet_ship
  USING (stream IN (SELECT stream FROM fleet.stream)) WITH CHECK (stream IN (SELECT stream FROM fleet.stream));

ALTER TABLE fleet.pass_day ENABLE ROW LEVEL SECURITY;
CREATE POLICY read ON fleet.pass_day FOR SELECT TO fleet_read USING (true);
CREATE POLICY ship ON fleet.pass_day FOR ALL TO fleet_ship
  USING (stream IN (SELECT stream FROM fleet.stream)) WITH CHECK (stream IN (SELECT stream FROM fleet.stream));
