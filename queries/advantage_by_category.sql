-- Which categories does training push up or down?
-- $run text = null: only this training run
SELECT
  training_samples.run_id AS run_id,
  category,
  count(*) AS rollouts,
  count(*) FILTER (WHERE kept) AS kept,
  avg(training_samples.reward) AS mean_reward,
  avg(advantage) FILTER (WHERE kept) AS mean_advantage,
  avg(abs(advantage)) FILTER (WHERE kept) AS mean_size,
  count(*) FILTER (WHERE kept AND advantage > 0) AS pushed_up,
  count(*) FILTER (WHERE kept AND advantage < 0) AS pushed_down
FROM training_samples
JOIN rollouts ON rollouts.rollout_id = training_samples.rollout_id
LEFT JOIN tasks ON tasks.task_id = rollouts.task_id
WHERE $run::VARCHAR IS NULL OR training_samples.run_id = $run
GROUP BY training_samples.run_id, category
ORDER BY run_id, mean_size DESC NULLS LAST, category
