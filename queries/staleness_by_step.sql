-- How old were the weights that sampled each step's rollouts?
-- $run text = null: only this training run
-- In optimizer steps; at a rollout's first token, and (oldest_last_token) at its last. Rollouts of other runs have no age.
SELECT
  training_samples.run_id AS run_id,
  training_samples.step AS step,
  count(*) AS rollouts,
  count(*) FILTER (WHERE rollouts.run_id <> training_samples.run_id) AS of_other_runs,
  avg(training_samples.policy_version - rollouts.policy_version) FILTER (WHERE rollouts.run_id = training_samples.run_id) AS mean_age,
  max(training_samples.policy_version - rollouts.policy_version) FILTER (WHERE rollouts.run_id = training_samples.run_id) AS oldest,
  max(training_samples.policy_version - rollouts.policy_version_last) FILTER (WHERE rollouts.run_id = training_samples.run_id) AS oldest_last_token
FROM training_samples
JOIN rollouts ON rollouts.rollout_id = training_samples.rollout_id
WHERE kept AND ($run::VARCHAR IS NULL OR training_samples.run_id = $run)
GROUP BY ALL
ORDER BY run_id, step
