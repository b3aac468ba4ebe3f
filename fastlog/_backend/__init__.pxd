"""The ring and its writer: header-only native code that needs neither Python nor the GIL."""
