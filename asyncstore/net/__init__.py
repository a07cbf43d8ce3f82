"""Associations over sockets: the transport, the requestor, the acceptor, and what became of one instance."""
