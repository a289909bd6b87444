"""The embedded default: a generated preference task with a known quality, and a tiny model to align."""
