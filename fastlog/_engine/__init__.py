"""What the engine in `_core.pyx` is made of, besides the ring and the writer."""
