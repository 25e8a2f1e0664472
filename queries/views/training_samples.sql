-- One row per rollout that a step planned to use or left out. `trained`: whether the step was taken;
-- if several incarnations took it, the last one counts.
WITH planned AS (
  SELECT run_id, step, policy_version, unnest(entries) AS entry
  FROM batch_plans
),
outcomes AS (
  SELECT run_id, step, rollout_id, trainer_logprobs, ratio_mean, clipped_share
  FROM training_outcomes
  QUALIFY row_number() OVER (PARTITION BY run_id, step, rollout_id ORDER BY incarnation DESC, use_index DESC) = 1
)
SELECT
  planned.run_id AS run_id,
  planned.step AS step,
  entry.rollout_id AS rollout_id,
  entry.group_id AS group_id,
  policy_version,
  entry.reward AS reward,
  entry.advantage AS advantage,
  entry.kept AS kept,
  entry.reason AS reason,
  entry.micro_batch AS micro_batch,
  outcomes.rollout_id IS NOT NULL AS trained,
  ratio_mean,
  clipped_share,
  trainer_logprobs
FROM planned
LEFT JOIN outcomes
  ON outcomes.run_id = planned.run_id AND outcomes.step = planned.step AND outcomes.rollout_id = entry.rollout_id
