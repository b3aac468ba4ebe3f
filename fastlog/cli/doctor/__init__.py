"""`fastlog doctor`: diagnose syslog logging on this machine."""
