UPDATE fleet.stream SET login = '{login}' WHERE ledger = '{ledger}'
