"""The ledger of one run at a time: a file of SQLite."""
