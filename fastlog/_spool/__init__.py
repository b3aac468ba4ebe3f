"""Spool files. Nothing in this package is on the data path of a record."""
