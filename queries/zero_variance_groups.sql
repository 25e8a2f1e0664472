-- Which groups have equal rewards, and so no advantage?
-- $run text = null: only this run
SELECT group_id, run_id, step, task_id, n_scored, mean_reward
FROM groups
WHERE zero_variance AND ($run::VARCHAR IS NULL OR run_id = $run)
ORDER BY run_id, step, task_id, group_id
