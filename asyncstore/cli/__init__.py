"""The command line: one module per command; what it prints is a view of trace events, outcomes and the report."""
