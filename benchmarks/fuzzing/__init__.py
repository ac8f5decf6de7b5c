"""What `fuzz.py` is made of: how inputs are mutated, what reads each kind, and how a case is watched."""
