"""Sends many instances over many associations: chooses the next one, judges each answer, and keeps the account."""
