"""The record of what became of each instance: one interface, for a file of SQLite and a database of PostgreSQL."""
