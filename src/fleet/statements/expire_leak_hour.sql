DELETE FROM fleet.leak_hour WHERE hour < $1
