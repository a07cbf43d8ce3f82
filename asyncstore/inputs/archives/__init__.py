"""Instances in ZIP and TAR archives, read where they are: nothing is unpacked to disk."""
