"""What `kept_keys.py` measures: candidates judged from kept keys, and read exactly."""
