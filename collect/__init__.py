"""The runner: a policy plays tasks, and every rollout becomes a row; re-scoring."""
