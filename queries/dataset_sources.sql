-- Which runs and policies made the rollouts of a dataset version?
-- $dataset text: name of the dataset
-- $version integer = null: its version; the latest if not given
WITH chosen AS (
  SELECT version, rows
  FROM datasets
  WHERE name = $dataset
    AND version = coalesce($version::INT, (SELECT max(version) FROM datasets WHERE name = $dataset))
),
refs AS (
  SELECT version, unnest(rows) AS ref
  FROM chosen
)
SELECT
  version,
  rollouts.run_id AS run_id,
  policy_id,
  ref.role AS role,
  count(*) AS refs,
  count(DISTINCT rollouts.task_id) AS tasks,
  avg(reward) AS mean_reward
FROM refs
JOIN rollouts ON rollouts.rollout_id = ref.rollout_id
GROUP BY ALL
ORDER BY refs DESC, run_id, policy_id, role
