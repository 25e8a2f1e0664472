"""Named SQL files, the views over a house, and the DuckDB session that runs them over any version."""
