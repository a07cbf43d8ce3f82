"""The ledger of many workers: a database of PostgreSQL."""
