-- How much does each task's verdict vary, over all runs?
-- $floor number = 0.02: least weight of a task that was tried
-- The weight is the variance of the verdict, pass rate times failure rate; a task that was never tried has the maximum, 0.25.
WITH tried AS (
  SELECT task_id, avg(passed::INT) AS pass_rate
  FROM final_rollouts
  WHERE passed IS NOT NULL
  GROUP BY task_id
)
SELECT tasks.task_id AS task_id, coalesce(greatest($floor, pass_rate * (1 - pass_rate)), 0.25)::DOUBLE AS weight
FROM tasks
LEFT JOIN tried ON tried.task_id = tasks.task_id
ORDER BY task_id
