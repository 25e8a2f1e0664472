"""New weights from the learner to the engine, one file a way, and the proof that they arrived."""
