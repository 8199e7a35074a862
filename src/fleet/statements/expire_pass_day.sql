DELETE FROM fleet.pass_day WHERE day < $1
