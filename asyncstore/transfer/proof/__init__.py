"""Proof that the peer has what was sent: it commits to keep it, or is asked for what it has."""
