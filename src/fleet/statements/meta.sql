SELECT fleet, version, oldest_shipper, engine, keep_ms FROM fleet.meta WHERE one = 1
