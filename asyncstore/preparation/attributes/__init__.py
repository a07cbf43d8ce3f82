"""Attributes that are set, erased or mapped on the way to the peer; the bytes of the others stay as they are."""
