SELECT id, print FROM fleet.live WHERE stream = $1
