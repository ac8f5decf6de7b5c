"""What `many_sources.py` is made of: its corpora, its runs with their measurements, and their outcomes."""
