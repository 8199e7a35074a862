UPDATE fleet.meta SET maintained_at = now() WHERE one = 1
