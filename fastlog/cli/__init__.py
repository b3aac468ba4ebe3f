"""The commands behind `python -m fastlog`, and what they share."""
