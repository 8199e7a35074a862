SELECT count(*) FROM pg_catalog.pg_auth_members AS m
JOIN pg_catalog.pg_roles AS of_group ON of_group.oid = m.roleid AND of_group.rolname = 'fleet_ship'
JOIN pg_catalog.pg_roles AS member ON member.oid = m.member AND member.rolname = $1
