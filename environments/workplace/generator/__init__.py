"""Tasks (tasks.py) and tables (tables.py) of our own for workplace, from a seed."""
