"""What the performance figures come from; each file runs by itself and takes seconds."""
