"""The parts of the engine in `_core.pyx` other than the ring and the writer."""
