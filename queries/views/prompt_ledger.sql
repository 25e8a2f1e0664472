-- One row per prompt of a step of online training, with the state of its rollouts.
-- `round` is null for a prompt that was never issued, because its rollouts came from history or another run; from 1 on it replaced a prompt of equal rewards.
WITH noted AS (
  SELECT
    run_id,
    (payload ->> '$.issued.step')::INT AS step,
    (payload ->> '$.issued.round')::INT AS round,
    unnest(from_json(payload -> '$.issued.task_ids', '["VARCHAR"]')) AS task_id
  FROM run_events
  WHERE event = 'note' AND payload LIKE '%"issued"%'
),
issued AS (
  SELECT run_id, step, task_id, min(round) AS round
  FROM noted
  GROUP BY run_id, step, task_id
),
sampled AS (
  SELECT
    run_id,
    step,
    task_id,
    count(*) AS n_rollouts,
    count(*) FILTER (WHERE status IN ('completed', 'truncated')) AS n_finished
  FROM final_rollouts
  WHERE step IS NOT NULL
  GROUP BY run_id, step, task_id
),
planned AS (
  SELECT
    training_samples.run_id AS run_id,
    training_samples.step AS step,
    task_id,
    count(*) AS n_planned,
    count(*) FILTER (WHERE kept) AS n_kept,
    count(*) FILTER (WHERE trained) AS n_trained,
    mode(reason) AS reason
  FROM training_samples
  JOIN (SELECT rollout_id, task_id FROM rollouts) AS collected ON collected.rollout_id = training_samples.rollout_id
  GROUP BY ALL
)
SELECT
  run_id,
  step,
  task_id,
  round,
  coalesce(n_rollouts, n_planned, 0) AS n_rollouts,
  coalesce(n_finished, n_planned, 0) AS n_finished,
  coalesce(n_kept, 0) AS n_kept,
  coalesce(n_trained, 0) AS n_trained,
  CASE
    WHEN n_trained > 0 THEN 'trained'
    WHEN n_kept > 0 THEN 'planned'
    WHEN n_planned > 0 THEN 'dropped'
    WHEN n_finished > 0 THEN 'finished'
    ELSE 'issued'
  END AS state,
  reason
FROM issued
FULL JOIN sampled USING (run_id, step, task_id)
FULL JOIN planned USING (run_id, step, task_id)
