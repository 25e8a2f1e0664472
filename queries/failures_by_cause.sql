-- Why did rollouts not complete?
-- $run text = null: only this run
SELECT
  status,
  coalesce(error_type, stop_reason) AS cause,
  count(*) AS rollouts,
  any_value(error_message) AS example,
  any_value(rollout_id) AS example_id
FROM rollouts
WHERE status <> 'completed' AND ($run::VARCHAR IS NULL OR run_id = $run)
GROUP BY status, cause
ORDER BY rollouts DESC, status, cause
