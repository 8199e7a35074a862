SELECT create_distributed_table('fleet.leak_hour', 'stream', colocate_with => 'fleet.live');
