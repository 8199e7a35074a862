-- Every table by stream: each batch touches one shard.
SELECT create_reference_table('fleet.meta');
SELECT create_reference_table('fleet.stream');
SELECT create_distributed_table('fleet.live', 'stream');
SELECT create_distributed_table('fleet.ended', 'stream', colocate_with => 'fleet.live');
SELECT create_distributed_table('fleet.leak', 'stream', colocate_with => 'fleet.live');
SELECT create_distributed_table('fleet.leak_day', 'stream', colocate_with => 'fleet.live');
SELECT create_distributed_table('fleet.leak_top', 'stream', colocate_with => 'fleet.live');
SELECT create_distributed_table('fleet.pass_day', 'stream', colocate_with => 'fleet.live');
