"""Environment evaluation, BFCL, and the report."""
