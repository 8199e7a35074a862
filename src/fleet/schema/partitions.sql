-- Weeks from Monday (UTC) to Monday. The default partition takes rows of weeks that have none.
CREATE TABLE fleet.ended_default PARTITION OF fleet.ended DEFAULT;
CREATE INDEX ended_at ON fleet.ended USING brin (ended_at);
