DELETE FROM fleet.leak_top WHERE day < $1
