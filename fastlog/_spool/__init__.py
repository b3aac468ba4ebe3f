"""Spool files. No record passes through here."""
