"""The ring and its writer: header-only native code that knows nothing of Python."""
