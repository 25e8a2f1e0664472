-- Which tasks does one policy solve and the other not?
-- $before text: a policy_id or run_id
-- $after text: another
-- $solved number = 0.5: a task counts as solved from this pass rate on
WITH rated AS (
  SELECT
    task_id,
    avg(passed::INT) FILTER (WHERE policy_id = $before OR run_id = $before) AS before,
    avg(passed::INT) FILTER (WHERE policy_id = $after OR run_id = $after) AS after
  FROM final_rollouts
  WHERE passed IS NOT NULL AND (policy_id IN ($before, $after) OR run_id IN ($before, $after))
  GROUP BY task_id
)
SELECT
  rated.task_id AS task_id,
  category,
  before,
  after,
  CASE WHEN after > before THEN 'gained' ELSE 'lost' END AS flip
FROM rated
LEFT JOIN tasks ON tasks.task_id = rated.task_id
WHERE (before >= $solved) <> (after >= $solved)
ORDER BY flip, after - before DESC, rated.task_id
