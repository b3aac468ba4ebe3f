"""The private syslog daemons that the demo and the benchmark start."""
