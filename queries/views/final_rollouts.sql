-- The last attempt of each slot; statistics, groups and datasets use it.
-- A semi-join on three narrow columns, so that filters and projections still reach the wide table.
SELECT *
FROM rollouts
WHERE rollout_id IN (
  SELECT arg_max(rollout_id, (coalesce(attempt, 0), rollout_id))
  FROM rollouts
  GROUP BY coalesce(slot_id, rollout_id), agent, branch
)
