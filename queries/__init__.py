"""Named SQL files, the views over a store, and the DuckDB session that runs them over any version."""
