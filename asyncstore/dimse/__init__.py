"""DIMSE messages (PS3.7) over bytes: command sets, messages, and the exchange of requests and responses; no I/O."""
