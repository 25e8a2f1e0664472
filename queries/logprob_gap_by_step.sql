-- How far are the trainer's logprobs from the engine's?
-- $run text = null: only this training run
-- Over sampled tokens: gap is trainer minus engine, kl the estimate exp(gap) - 1 - gap of KL(engine || trainer).
WITH pairs AS (
  SELECT
    training_samples.run_id AS run_id,
    training_samples.step AS step,
    unnest(trainer_logprobs)::DOUBLE - unnest(logprobs)::DOUBLE AS gap
  FROM training_samples
  JOIN rollouts ON rollouts.rollout_id = training_samples.rollout_id
  WHERE trained
    AND len(trainer_logprobs) = len(logprobs)
    AND ($run::VARCHAR IS NULL OR training_samples.run_id = $run)
)
SELECT
  run_id,
  step,
  count(*) AS tokens,
  avg(gap) AS mean_gap,
  avg(abs(gap)) AS mean_abs,
  max(abs(gap)) AS max_abs,
  avg(exp(gap) - 1 - gap) AS kl
FROM pairs
GROUP BY run_id, step
ORDER BY run_id, step
