"""`fastlog doctor`: what happens to a record on this machine."""
