"""The caller's thread: from a logging call to the engine."""
