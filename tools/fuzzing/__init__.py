"""Parts of tools/fuzz.py: what is decoded, how inputs are changed, how one is judged."""
