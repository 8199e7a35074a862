DELETE FROM fleet.leak_day WHERE day < $1
