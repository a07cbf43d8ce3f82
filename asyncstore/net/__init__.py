"""Associations over sockets: the transport, the requestor and the acceptor."""

import logging

# Without a handler Python prints warnings to stderr, but a library must not print. Every module that logs is in this
# package or imports it.
logging.getLogger("asyncstore").addHandler(logging.NullHandler())
