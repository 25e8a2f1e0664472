-- How often is each task solved, and how much do its rewards vary?
-- $run text = null: only this run
-- $environment text = null: only this environment
SELECT
  final_rollouts.task_id,
  any_value(final_rollouts.environment) AS environment,
  any_value(tasks.category) AS category,
  count(*) AS rollouts,
  count(*) FILTER (WHERE passed) AS passed,
  avg(passed::INT) AS pass_rate,
  avg(reward) AS mean_reward,
  stddev_pop(reward) AS std_reward
FROM final_rollouts
LEFT JOIN tasks ON tasks.task_id = final_rollouts.task_id
WHERE ($run::VARCHAR IS NULL OR final_rollouts.run_id = $run)
  AND ($environment::VARCHAR IS NULL OR final_rollouts.environment = $environment)
GROUP BY final_rollouts.task_id
ORDER BY pass_rate, rollouts DESC, final_rollouts.task_id
