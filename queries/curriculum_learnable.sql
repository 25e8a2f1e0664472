-- Which tasks did the policy solve sometimes in its last steps?
-- $run text = null: only this run; all runs if not given
-- $step integer = null: the next step; steps before it count, all rollouts if not given
-- $steps integer = 10: number of steps before it
-- $low number = 0.1: lowest pass rate
-- $high number = 0.9: highest pass rate
-- $untried number = 0.5: weight of a task that was not tried in those steps; a task within the bounds has 1
WITH tried AS (
  SELECT task_id, avg(passed::INT) AS pass_rate
  FROM final_rollouts
  WHERE passed IS NOT NULL
    AND ($run::VARCHAR IS NULL OR run_id = $run)
    AND ($step::INT IS NULL OR (step < $step AND step >= $step::INT - $steps))
  GROUP BY task_id
)
SELECT tasks.task_id AS task_id, CASE WHEN pass_rate IS NULL THEN $untried::DOUBLE ELSE 1.0 END AS weight
FROM tasks
LEFT JOIN tried ON tried.task_id = tasks.task_id
WHERE pass_rate IS NULL OR pass_rate BETWEEN $low AND $high
ORDER BY task_id
