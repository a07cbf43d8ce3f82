"""Associations over sockets: the transport, the requestor, the acceptor, and what became of one instance."""

import logging

# Python prints warnings to stderr where nobody has set up logging; a library never prints. All that logs in the library
# is in here, or imports this.
logging.getLogger("asyncstore").addHandler(logging.NullHandler())
