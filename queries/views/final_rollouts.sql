-- The rows of the last attempt of each slot; statistics, groups and datasets use them. An attempt has a row per agent and branch.
-- A semi-join on three narrow columns, so that filters and projections still reach the wide table. Few slots have a second attempt,
-- so the rows that another attempt replaced are found from those alone.
SELECT *
FROM rollouts
WHERE rollout_id IN (
  SELECT arg_max(rollout_id, (coalesce(attempt, 0), rollout_id))
  FROM rollouts
  ANTI JOIN (
    SELECT slot_id, max(attempt) AS last_attempt FROM rollouts WHERE attempt > 0 GROUP BY slot_id
  ) AS retried ON rollouts.slot_id = retried.slot_id AND coalesce(rollouts.attempt, 0) < retried.last_attempt
  GROUP BY coalesce(rollouts.slot_id, rollout_id), agent, branch
)
