"""Several sender hosts on one record: an engine says who sends what, and the ledger in PostgreSQL what is true."""
