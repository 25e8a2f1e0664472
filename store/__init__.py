"""Tables, schemas, the writer, snapshots, lineage and maintenance."""
