"""The learner: one optimizer step a batch, in one process or in several. Needs torch and transformers only."""
