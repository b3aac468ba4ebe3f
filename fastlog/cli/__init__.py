"""The commands behind `python -m fastlog`."""
